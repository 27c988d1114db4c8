//! An attempt in, a fresh working directory out, gone again when the attempt has ended.
//!
//! A worker owns `<scratch_dir>/jobber-<worker id>/` and holds a lock (flock) on it while it lives. A directory without
//! a lock belongs to a worker that died, and is removed by the next one that starts, or by that worker's guard. The
//! lock tells more than a process id would: containers that share the directory see each other's locks, not processes.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;

use crate::domain::WorkerId;

const PREFIX: &str = "jobber-";

/// A worker's own directory of scratch directories.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Holds the lock.
    directory: OwnedFd,
    next: AtomicU64,
    /// Directories that their attempts have not touched: making and removing one takes longer than all else that
    /// Jobber does for a short attempt.
    spares: Mutex<Vec<WorkDir>>,
}

/// The working directory of one attempt.
#[derive(Debug)]
pub(super) struct WorkDir {
    name: CString,
    pub(super) path: PathBuf,
    directory: OwnedFd,
    /// As it was when it was made.
    made: Stat,
}

impl WorkDir {
    /// Whether nothing at all was done to it. The time of the last change tells; since that can be as coarse as a
    /// clock tick, a look inside confirms it.
    fn is_untouched(&self) -> bool {
        let same = |now: Stat| {
            (now.st_ctime, now.st_ctime_nsec, now.st_mode, now.st_nlink)
                == (self.made.st_ctime, self.made.st_ctime_nsec, self.made.st_mode, self.made.st_nlink)
        };
        if !rustix::fs::fstat(&self.directory).is_ok_and(same) {
            return false;
        }
        if rustix::fs::seek(&self.directory, SeekFrom::Start(0)).is_err() {
            return false;
        }
        let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 1024];
        let mut entries = RawDir::new(&self.directory, &mut buffer);
        while let Some(entry) = entries.next() {
            if !entry.is_ok_and(|entry| entry.file_name() == c"." || entry.file_name() == c"..") {
                return false;
            }
        }
        true
    }
}

impl Scratch {
    /// Makes `scratch_dir` and the worker's directory in it, and removes those of dead workers.
    pub(super) fn create(scratch_dir: &Path, worker: &WorkerId) -> io::Result<Self> {
        fs_err::create_dir_all(scratch_dir)?;
        let scratch_dir = fs_err::canonicalize(scratch_dir)?;
        sweep(&scratch_dir);
        let path = scratch_dir.join(format!("{PREFIX}{worker}"));
        // Between making and locking it, another worker's sweep may take it for a dead one's: then once more.
        loop {
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(named(error, "couldn't make the scratch directory", &path)),
            }
            let directory = match open_directory(CWD, &path) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(named(error, "couldn't open the scratch directory", &path)),
            };
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still_there(&path, &directory) => {
                    return Ok(Self { path, directory, next: AtomicU64::new(0), spares: Mutex::default() });
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => std::thread::yield_now(),
                Err(error) => return Err(named(error, "couldn't lock the scratch directory", &path)),
            }
        }
    }

    /// An empty directory that only this user may enter, and that no job has touched.
    pub(super) fn make(&self) -> io::Result<WorkDir> {
        if let Some(spare) = self.spares().pop() {
            return Ok(spare);
        }
        let name = format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed));
        let path = self.path.join(&name);
        let name = CString::new(name).expect("hex digits hold no NUL");
        rustix::fs::mkdirat(&self.directory, &name, Mode::RWXU)
            .map_err(|error| named(error, "couldn't make the scratch directory", &path))?;
        let opened = open_directory(&self.directory, &*name).and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        let (made, directory) = opened.map_err(|error| {
            let _ = rustix::fs::unlinkat(&self.directory, &name, AtFlags::REMOVEDIR);
            named(error, "couldn't open the scratch directory", &path)
        })?;
        Ok(WorkDir { name, path, directory, made })
    }

    fn spares(&self) -> MutexGuard<'_, Vec<WorkDir>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes it with all that is in it; one that was not touched serves the next attempt.
    pub(super) fn remove(&self, dir: WorkDir) {
        if dir.is_untouched() {
            self.spares().push(dir);
            return;
        }
        if rustix::fs::unlinkat(&self.directory, &dir.name, AtFlags::REMOVEDIR).is_err()
            && let Err(error) = remove_tree(&self.directory, &dir.name)
        {
            tracing::warn!(path = %dir.path.display(), %error, "couldn't remove a scratch directory; remove it by hand");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for spare in self.spares().drain(..) {
            let _ = rustix::fs::unlinkat(&self.directory, &spare.name, AtFlags::REMOVEDIR);
        }
        // Its attempts have removed theirs; what is left is removed by the next sweep.
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// Removes the directories of dead workers. What can't be removed is left for the next time.
pub(super) fn sweep(scratch_dir: &Path) {
    let Ok(parent) = open_directory(CWD, scratch_dir) else { return };
    let Ok(entries) = Dir::read_from(&parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Ok(directory) = open_directory(&parent, name) else { continue };
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = remove_tree(&parent, name)
        {
            tracing::warn!(path = %scratch_dir.display(), ?name, %error, "couldn't remove a dead worker's scratch directory");
        }
    }
}

fn named(error: Errno, what: &str, path: &Path) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

fn open_directory(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn is_still_there(path: &Path, directory: &OwnedFd) -> bool {
    let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    matches!((rustix::fs::stat(path), rustix::fs::fstat(directory)), (Ok(a), Ok(b)) if same(a, b))
}

/// Removes a directory below `root` with all that is in it, however deep and whatever its modes: a directory that is
/// not empty is first moved up to `root`, so that neither the stack nor the number of open files grows with the depth.
fn remove_tree(root: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    /// Something that still runs may add files while we remove them; this is not to go on for ever.
    const PASSES: usize = 64;
    let mut names = vec![name.to_owned()];
    let mut moved = 0u64;
    while let Some(name) = names.pop() {
        let mut passes = 0;
        loop {
            match rustix::fs::unlinkat(root, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => break,
                Err(Errno::NOTEMPTY | Errno::EXIST) if passes < PASSES => passes += 1,
                Err(error) => return Err(error),
            }
            // A job may have taken its own rights to the directory away. An error shows below.
            let _ = rustix::fs::chmodat(root, &name, Mode::RWXU, AtFlags::empty());
            let directory = match open_directory(root, &name) {
                Err(Errno::NOENT) => break,
                opened => opened?,
            };
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let inner = entry.file_name();
                if inner != c"." && inner != c".." {
                    empty_one(root, &directory, inner, &mut moved, &mut names)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes one entry of `directory`, or moves it up to `root` and notes its new name.
fn empty_one(
    root: &OwnedFd,
    directory: &OwnedFd,
    inner: &CStr,
    moved: &mut u64,
    names: &mut Vec<CString>,
) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, inner, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::unlinkat(directory, inner, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    // Moving a directory changes its `..`, for which it must be writable.
    let _ = rustix::fs::chmodat(directory, inner, Mode::RWXU, AtFlags::empty());
    let nanos = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec;
    let name = CString::new(format!("{PREFIX}trash-{}-{nanos}-{moved}", rustix::process::getpid().as_raw_nonzero()))
        .expect("digits hold no NUL");
    *moved += 1;
    rustix::fs::renameat(directory, inner, root, &name)?;
    names.push(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn worker(name: &str) -> WorkerId {
        WorkerId::parse(name).unwrap()
    }

    fn entries(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs_err::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn whatever_a_job_leaves_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path(), &worker("w")).unwrap();
        let work = scratch.make().unwrap();
        fs_err::create_dir_all(work.path.join("a/b/c")).unwrap();
        fs_err::write(work.path.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("/", work.path.join("a/root")).unwrap();
        for inner in ["a/b/c", "a/b", "a", ""] {
            fs_err::set_permissions(work.path.join(inner), std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        scratch.remove(work);
        assert!(entries(&scratch.path).is_empty());
        drop(scratch);
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn only_an_untouched_directory_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path(), &worker("w")).unwrap();
        let first = scratch.make().unwrap();
        let path = first.path.clone();
        scratch.remove(first);
        let again = scratch.make().unwrap();
        assert_eq!(again.path, path);
        fs_err::write(path.join("file"), "x").unwrap();
        scratch.remove(again);
        let fresh = scratch.make().unwrap();
        assert!(fresh.path != path && entries(&scratch.path).len() == 1);
        fs_err::set_permissions(&fresh.path, std::fs::Permissions::from_mode(0o777)).unwrap();
        scratch.remove(fresh);
        assert!(entries(&scratch.path).is_empty());
        scratch.remove(scratch.make().unwrap());
        drop(scratch);
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn a_tree_deeper_than_paths_can_be_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path(), &worker("w")).unwrap();
        let work = scratch.make().unwrap();
        let mut at = open_directory(CWD, &work.path).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            at = open_directory(&at, "deep").unwrap();
        }
        scratch.remove(work);
        assert!(entries(&scratch.path).is_empty());
    }

    #[test]
    fn only_the_directories_of_dead_workers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let alive = Scratch::create(dir.path(), &worker("alive")).unwrap();
        let work = alive.make().unwrap();
        fs_err::create_dir_all(dir.path().join("jobber-dead/1/deep/tree")).unwrap();
        fs_err::create_dir_all(dir.path().join("not-ours/1")).unwrap();
        let _new = Scratch::create(dir.path(), &worker("new")).unwrap();
        assert_eq!(entries(dir.path()), ["jobber-alive", "jobber-new", "not-ours"]);
        assert!(work.path.exists());
    }
}
