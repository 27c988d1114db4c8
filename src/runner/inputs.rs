//! The directory with the inputs of an attempt, which `JOBBER_INPUT_DIR` names.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;

use super::scratch::Scratch;

/// Writes the inputs of a job into the directory that it is given.
pub type FetchInputs<'a> =
    Box<dyn FnOnce(PathBuf) -> LocalBoxFuture<'a, Result<(), Box<dyn std::error::Error + Send + Sync>>> + 'a>;

/// A directory for the inputs of one attempt. Dropping it removes it: a work of the file system.
pub struct InputDirectory {
    scratch: Arc<Scratch>,
    path: PathBuf,
}

impl std::fmt::Debug for InputDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("InputDirectory").field(&self.path).finish()
    }
}

impl InputDirectory {
    pub(super) fn make(scratch: Arc<Scratch>) -> io::Result<Self> {
        let path = scratch.make_input()?;
        Ok(Self { scratch, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the right to write to it, and to what is in it, away.
    ///
    /// # Errors
    /// When that fails.
    pub fn finish(&self) -> io::Result<()> {
        protect(&self.path)
    }
}

fn protect(directory: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => protect(&entry.path())?,
            false => fs_err::set_permissions(entry.path(), PermissionsExt::from_mode(0o444))?,
        }
    }
    fs_err::set_permissions(directory, PermissionsExt::from_mode(0o555))
}

impl Drop for InputDirectory {
    fn drop(&mut self) {
        self.scratch.remove_input(&self.path);
    }
}
