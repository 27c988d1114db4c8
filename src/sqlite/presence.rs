//! Tells whether a path still leads to the same file as before.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file that a path led to when this value was made.
#[derive(Debug, Clone)]
pub struct Presence {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Presence {
    /// Remembers the file that is there now, if there is one.
    pub fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), file: identity(path) }
    }

    /// Whether the path leads to the same file, or, as it was then, to none. Costs one system call.
    pub fn is_there(&self) -> bool {
        identity(&self.path) == self.file
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs_err::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
