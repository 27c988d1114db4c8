//! The files that an attempt has left for being kept, in the directory that `JOBBER_OUTPUT_DIR` names.
//!
//! The job is not trusted: no link is followed, nothing but regular files is opened, and the look stops at bounds. When
//! it is taken nothing of the job runs any more, so what was found is what is opened later.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::scratch::{Scratch, WorkDir, open_directory};
use crate::domain::is_file_name;

/// The most directories below one another that are looked into.
const DEEPEST: usize = 32;
/// The most entries that are looked at.
const MOST_ENTRIES: usize = 100_000;

/// The scratch directory of an attempt that has ended, with the files that it left. Dropping it removes them: a work of
/// the file system, so not on a thread that must not block.
pub struct OutputDirectory {
    scratch: Arc<Scratch>,
    made: Option<WorkDir>,
}

/// A file that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Its path below the directory, with `/` between its parts.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What was left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundFiles {
    /// The files to keep, in order of name.
    pub files: Vec<OutputFile>,
    /// Those that are not to be kept: why, how many, and the name of the first.
    pub left_out: BTreeMap<String, (u64, String)>,
}

impl FoundFiles {
    /// Leaves a file out.
    pub fn leave_out(&mut self, name: &str, why: impl Into<String>) {
        self.left_out.entry(why.into()).or_insert_with(|| (0, name.to_owned())).0 += 1;
    }

    /// Which files were left out, for people. `None` when none was.
    pub fn note(&self) -> Option<String> {
        let parts = self.left_out.iter().map(|(why, (count, first))| match count {
            1 => format!("{first:?}: {why}"),
            more => format!("{more} files, the first {first:?}: {why}"),
        });
        let parts: Vec<String> = parts.collect();
        (!parts.is_empty()).then(|| format!("not kept: {}", parts.join("; ")))
    }
}

impl OutputDirectory {
    pub(super) fn new(scratch: Arc<Scratch>, made: WorkDir) -> Self {
        Self { scratch, made: Some(made) }
    }

    fn root(&self) -> io::Result<OwnedFd> {
        let output = self.made.as_ref().and_then(WorkDir::output);
        output.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the output directory is gone"))
    }

    /// Looks for the files: at most `most`, of at most `bytes` together. Blocks.
    pub fn look(&self, most: usize, bytes: u64) -> FoundFiles {
        let mut walk = Walk { found: FoundFiles::default(), entries: 0 };
        if let Ok(root) = self.root() {
            walk.enter(&root, "", 0);
        }
        let mut found = walk.found;
        found.files.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut count, mut room) = (0, bytes);
        for file in std::mem::take(&mut found.files) {
            if count == most {
                found.leave_out(&file.name, format!("more than {most} files (artifacts.max_files)"));
            } else if file.size > room {
                found.leave_out(&file.name, format!("more than {bytes} bytes in all (artifacts.max_bytes)"));
            } else {
                count += 1;
                room -= file.size;
                found.files.push(file);
            }
        }
        found
    }

    /// Opens one of the files. Blocks.
    ///
    /// # Errors
    /// When it is no regular file that can be read, at the end of a path without links.
    pub fn open(&self, name: &str) -> io::Result<File> {
        let mut directory = self.root()?;
        let (folders, last) = name.rsplit_once('/').map_or((None, name), |(folders, last)| (Some(folders), last));
        for folder in folders.into_iter().flat_map(|folders| folders.split('/')) {
            directory = open_directory(&directory, folder)?;
        }
        // Opening a pipe must not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&directory, last, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(file)
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            self.scratch.remove(made);
        }
    }
}

struct Walk {
    found: FoundFiles,
    entries: usize,
}

impl Walk {
    fn enter(&mut self, directory: &OwnedFd, path: &str, depth: usize) {
        let Ok(entries) = Dir::read_from(directory) else {
            return self.found.leave_out(path, "can't be read");
        };
        for entry in entries {
            let Ok(entry) = entry else { return self.found.leave_out(path, "can't be read") };
            let raw = entry.file_name();
            if raw == c"." || raw == c".." {
                continue;
            }
            let name = match path {
                "" => raw.to_string_lossy().into_owned(),
                path => format!("{path}/{}", raw.to_string_lossy()),
            };
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return self.found.leave_out(&name, format!("behind {MOST_ENTRIES} others"));
            }
            if raw.to_str().is_err() || !is_file_name(&name) {
                self.found.leave_out(&name, "names must be UTF-8 without control characters, and short");
                continue;
            }
            let Ok(stat) = rustix::fs::statat(directory, raw, AtFlags::SYMLINK_NOFOLLOW) else {
                self.found.leave_out(&name, "can't be read");
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    self.found.files.push(OutputFile { name, size: u64::try_from(stat.st_size).unwrap_or(0) });
                }
                FileType::Directory if depth == DEEPEST => {
                    self.found.leave_out(&name, format!("more than {DEEPEST} directories below one another"));
                }
                FileType::Directory => match open_directory(directory, raw) {
                    Ok(inner) => self.enter(&inner, &name, depth + 1),
                    Err(_) => self.found.leave_out(&name, "can't be read"),
                },
                _ => self.found.leave_out(&name, "only regular files are kept: no links, pipes and devices"),
            }
        }
    }
}
