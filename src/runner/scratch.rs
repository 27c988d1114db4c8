//! Gives each attempt a fresh working directory, and removes it when the attempt has ended.
//!
//! A worker owns `<scratch_dir>/jobber-<worker id>/` and holds a lock (flock) on it while it lives.
//! A directory without a lock belongs to a worker that died: the next worker that starts removes
//! it, or the dead worker's guard. The lock tells more than a process id would: containers that
//! share the directory see each other's locks, not processes.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;

use super::sandbox::KeptRules;
use crate::domain::WorkerId;

const PREFIX: &str = "jobber-";
/// What stands behind the name of a working directory in that of its attempt's output directory, which lies beside it.
const OUTPUT: &str = ".output";
/// The same of an attempt's inputs.
const INPUT: &str = ".input";

/// A worker's own directory of scratch directories. If another program removes it, the worker makes it again.
#[derive(Debug)]
pub(super) struct Scratch {
    scratch_dir: PathBuf,
    worker: WorkerId,
    root: RwLock<Arc<Root>>,
    next: AtomicU64,
    /// Directories that their attempts have not touched: making and removing one takes longer than all else that
    /// Jobber does for a short attempt.
    spares: Mutex<Vec<WorkDir>>,
}

/// The worker's own directory, opened and locked.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// The opened directory, which holds the lock while it is open.
    directory: OwnedFd,
}

/// The working directory of one attempt.
#[derive(Debug)]
pub(super) struct WorkDir {
    root: Arc<Root>,
    name: CString,
    pub(super) path: PathBuf,
    made: Untouched,
    /// The output directory: for the files that are kept.
    pub(super) output_path: PathBuf,
    output_name: CString,
    output_made: Untouched,
    /// The rules of a sandbox that lets a job use it.
    pub(super) rules: Option<KeptRules>,
}

/// A directory that was just made, opened.
#[derive(Debug)]
struct Untouched {
    directory: OwnedFd,
    /// Its metadata then.
    made: Stat,
}

impl Untouched {
    fn open(at: impl AsFd, name: &CStr) -> rustix::io::Result<Self> {
        let directory = open_directory(at, name)?;
        Ok(Self { made: rustix::fs::fstat(&directory)?, directory })
    }

    /// Whether no job has changed anything in it. The time of the last change tells; since that can
    /// be as coarse as a clock tick, a look inside confirms it.
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

impl WorkDir {
    fn is_untouched(&self) -> bool {
        self.made.is_untouched() && self.output_made.is_untouched()
    }

    /// Removes it with all that is in it.
    fn remove(&self) -> rustix::io::Result<()> {
        let root = &self.root.directory;
        let remove = |name: &CStr| match rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(()),
            // A job has put something else in its place, such as a link.
            Err(Errno::NOTDIR) => rustix::fs::unlinkat(root, name, AtFlags::empty()),
            Err(_) => remove_tree(root, name),
        };
        remove(&self.name).and(remove(&self.output_name))
    }

    /// The directory in which the job has left files that are kept; `None` when it has left none. A job may have put
    /// another directory in its place, but no link.
    pub(super) fn output(&self) -> Option<OwnedFd> {
        if self.output_made.is_untouched() {
            return None;
        }
        open_directory(&self.root.directory, &*self.output_name).ok()
    }
}

impl Scratch {
    /// Makes `scratch_dir` and the worker's directory in it, and removes those of dead workers.
    pub(super) fn create(scratch_dir: &Path, worker: &WorkerId) -> io::Result<Self> {
        fs_err::create_dir_all(scratch_dir)?;
        let scratch_dir = fs_err::canonicalize(scratch_dir)?;
        sweep(&scratch_dir);
        let root = RwLock::new(Arc::new(Root::make(&scratch_dir, worker)?));
        Ok(Self { scratch_dir, worker: worker.clone(), root, next: AtomicU64::new(0), spares: Mutex::default() })
    }

    fn root(&self) -> Arc<Root> {
        self.root.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the worker's directory again if `lost` is not where it was. One that another
    /// thread made meanwhile stands.
    fn renew(&self, lost: &Arc<Root>) -> io::Result<()> {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&root, lost) && !is_still_there(&root.path, &root.directory) {
            tracing::warn!(path = %root.path.display(), "the scratch directory is gone; making another");
            fs_err::create_dir_all(&self.scratch_dir)?;
            *root = Arc::new(Root::make(&self.scratch_dir, &self.worker)?);
            self.spares().clear();
        }
        Ok(())
    }

    /// Tries to make a working directory, to write to it and to remove it. Makes the worker's
    /// directory again if it was lost.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.renew(&self.root())?;
        let made = self.make_new()?;
        let written = fs_err::write(made.path.join("probe"), [0u8; 4096]);
        self.remove(made);
        written
    }

    /// An empty directory that only this user may enter, and that no job has touched.
    pub(super) fn make(&self) -> io::Result<WorkDir> {
        while let Some(spare) = self.spares().pop() {
            // Another program that cleans up may have removed it.
            let is_there = |it: &Untouched| rustix::fs::fstat(&it.directory).is_ok_and(|now| now.st_nlink > 0);
            if is_there(&spare.made) && is_there(&spare.output_made) {
                return Ok(spare);
            }
        }
        self.make_new()
    }

    fn make_new(&self) -> io::Result<WorkDir> {
        let mut is_mended = false;
        loop {
            let root = self.root();
            let name = format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed));
            let path = root.path.join(&name);
            let output_name = format!("{name}{OUTPUT}");
            let name = CString::new(name).expect("hex digits hold no NUL");
            match rustix::fs::mkdirat(&root.directory, &name, Mode::RWXU) {
                Ok(()) => {}
                // A job, or a worker of the same name before this one, has left something there.
                Err(Errno::EXIST) => continue,
                Err(Errno::NOENT) if !is_mended => {
                    is_mended = true;
                    self.renew(&root)?;
                    continue;
                }
                Err(Errno::ACCESS) if !is_mended => {
                    is_mended = true;
                    // A job may have taken the rights to it away.
                    let _ = rustix::fs::fchmod(&root.directory, Mode::RWXU);
                    continue;
                }
                Err(error) => return Err(named(error, "couldn't make the scratch directory", &path)),
            }
            let output_path = root.path.join(&output_name);
            let output_name = CString::new(output_name).expect("digits and letters hold no NUL");
            let open = || {
                let made = Untouched::open(&root.directory, &name)?;
                // A worker of the same name before this one may have left one.
                while let Err(error) = rustix::fs::mkdirat(&root.directory, &output_name, Mode::RWXU) {
                    match error {
                        Errno::EXIST => remove_tree(&root.directory, &output_name)?,
                        error => return Err(error),
                    }
                }
                Ok((made, Untouched::open(&root.directory, &output_name)?))
            };
            let (made, output_made) = open().map_err(|error| {
                let _ = rustix::fs::unlinkat(&root.directory, &name, AtFlags::REMOVEDIR);
                named(error, "couldn't open the scratch directory", &path)
            })?;
            return Ok(WorkDir { root, name, path, made, output_path, output_name, output_made, rules: None });
        }
    }

    /// A directory for the inputs of one attempt.
    pub(super) fn make_input(&self) -> io::Result<PathBuf> {
        let root = self.root();
        let path = root.path.join(format!("{:x}{INPUT}", self.next.fetch_add(1, Ordering::Relaxed)));
        let made = rustix::fs::mkdir(&path, Mode::RWXU);
        made.map_err(|error| named(error, "couldn't make a directory for inputs", &path)).map(|()| path)
    }

    /// Removes it with all its files.
    pub(super) fn remove_input(&self, path: &Path) {
        let Some(name) = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok()) else { return };
        let root = self.root();
        if path.parent() == Some(&*root.path)
            && let Err(error) = remove_tree(&root.directory, &name)
        {
            tracing::warn!(path = %path.display(), %error, "couldn't remove a directory of inputs; remove it by hand");
        }
    }

    fn spares(&self) -> MutexGuard<'_, Vec<WorkDir>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a working directory with all its files. A directory that was not touched
    /// serves the next attempt.
    pub(super) fn remove(&self, dir: WorkDir) {
        if Arc::ptr_eq(&dir.root, &self.root()) && dir.is_untouched() {
            self.spares().push(dir);
            return;
        }
        if let Err(error) = dir.remove() {
            tracing::warn!(path = %dir.path.display(), %error, "couldn't remove a scratch directory; remove it by hand");
        }
    }
}

impl Root {
    fn make(scratch_dir: &Path, worker: &WorkerId) -> io::Result<Self> {
        let path = scratch_dir.join(format!("{PREFIX}{worker}"));
        // Before it is locked, another worker's sweep may take it for a dead worker's and remove
        // it: then it is made once more.
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
                    return Ok(Self { path, directory });
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => std::thread::yield_now(),
                Err(error) => return Err(named(error, "couldn't lock the scratch directory", &path)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for spare in self.spares().drain(..) {
            let _ = spare.remove();
        }
        // The attempts have removed their own directories; the next sweep removes what remains.
        let _ = rustix::fs::rmdir(&self.root().path);
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

pub(super) fn open_directory(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn is_still_there(path: &Path, directory: &OwnedFd) -> bool {
    let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    matches!((rustix::fs::stat(path), rustix::fs::fstat(directory)), (Ok(a), Ok(b)) if same(a, b))
}

/// Removes a directory below `root` with all its files, however deep and whatever its modes: a
/// directory that is not empty is first moved up to `root`, so that neither the stack nor the
/// number of open files grows with the depth. An entry that can't be removed does not keep the
/// rest; the first such error is answered.
fn remove_tree(root: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    /// A process that still runs may add files while this function removes them, which must not
    /// go on for ever.
    const PASSES: usize = 64;
    let mut names = vec![name.to_owned()];
    let (mut moved, mut trouble) = (0u64, None);
    while let Some(name) = names.pop() {
        let mut passes = 0;
        loop {
            let error = match rustix::fs::unlinkat(root, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => break,
                Err(error) => error,
            };
            let is_full = matches!(error, Errno::NOTEMPTY | Errno::EXIST) && passes < PASSES;
            passes += 1;
            match is_full.then(|| empty(root, &name, &mut moved, &mut names)) {
                Some(Ok(())) => {}
                // Another pass would meet the same error.
                Some(Err(error)) => {
                    trouble = trouble.or(Some(error));
                    break;
                }
                None => {
                    trouble = trouble.or(Some(error));
                    break;
                }
            }
        }
    }
    trouble.map_or(Ok(()), Err)
}

/// Removes the entries of a directory below `root`, as far as they can be removed. Answers the first error.
fn empty(root: &OwnedFd, name: &CStr, moved: &mut u64, names: &mut Vec<CString>) -> rustix::io::Result<()> {
    // A job may have taken its own rights to the directory away. An error shows below.
    let _ = rustix::fs::chmodat(root, name, Mode::RWXU, AtFlags::empty());
    let directory = match open_directory(root, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut trouble = Ok(());
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let inner = entry.file_name();
        if inner != c"." && inner != c".." {
            trouble = trouble.and(empty_one(root, &directory, inner, moved, names));
        }
    }
    trouble
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
        assert!(entries(&scratch.root().path).is_empty());
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
        assert!(fresh.path != path && entries(&scratch.root().path).len() == 2);
        fs_err::set_permissions(&fresh.path, std::fs::Permissions::from_mode(0o777)).unwrap();
        scratch.remove(fresh);
        assert!(entries(&scratch.root().path).is_empty());
        scratch.remove(scratch.make().unwrap());
        drop(scratch);
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn files_in_the_output_directory_are_seen_whatever_the_job_did_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path(), &worker("w")).unwrap();
        let work = scratch.make().unwrap();
        assert!(work.output().is_none());
        fs_err::write(work.output_path.join("file"), "x").unwrap();
        assert!(work.output().is_some());
        fs_err::remove_dir_all(&work.output_path).unwrap();
        std::os::unix::fs::symlink("/", &work.output_path).unwrap();
        assert!(work.output().is_none(), "no link is followed");
        fs_err::remove_file(&work.output_path).unwrap();
        fs_err::create_dir(&work.output_path).unwrap();
        fs_err::write(work.output_path.join("file"), "x").unwrap();
        assert!(work.output().is_some());
        scratch.remove(work);
        assert!(entries(&scratch.root().path).is_empty());
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
        assert!(entries(&scratch.root().path).is_empty());
    }

    #[test]
    fn a_directory_that_is_removed_or_taken_over_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path(), &worker("w")).unwrap();
        scratch.remove(scratch.make().unwrap());
        // With a spare in it.
        fs_err::remove_dir_all(&scratch.root().path).unwrap();
        let work = scratch.make().unwrap();
        assert!(work.path.is_dir());
        fs_err::remove_dir_all(dir.path()).unwrap();
        scratch.remove(work);
        assert!(scratch.make().unwrap().path.is_dir());
        scratch.probe().unwrap();
        // Another has taken the next names.
        for taken in scratch.next.load(Ordering::Relaxed)..scratch.next.load(Ordering::Relaxed) + 3 {
            fs_err::create_dir(scratch.root().path.join(format!("{taken:x}"))).unwrap();
        }
        let (one, two) = (scratch.make().unwrap(), scratch.make().unwrap());
        assert_ne!(one.path, two.path);
        // The directory was moved away: the worker makes nothing in it any more.
        fs_err::rename(&scratch.root().path, dir.path().join("away")).unwrap();
        scratch.probe().unwrap();
        assert!(scratch.make().unwrap().path.starts_with(&scratch.root().path) && scratch.root().path.is_dir());
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
