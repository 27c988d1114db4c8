//! Remembers which build each version of a binary is. A file is read once as long as it is the same, and an attempt that
//! runs a file which is still being read asks at its end.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::builds;
use crate::domain::{Build, Clock, FileBuild, JobName, Timestamp};

/// The metadata that tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    mode: u32,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How coarse the times of files are: a file may change twice within one step of the kernel's clock, and only the first
/// change would be seen.
const CLOCK_STEP: Duration = Duration::from_millis(20);
/// A file up to this size is read through while the first attempt that runs it is being started.
const QUICK: u64 = 64 << 10;
/// The end of an attempt waits for a file up to this size to be read, and for so long.
const SMALL: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(2);

impl Version {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            mode: meta.mode(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether both have the same contents, as far as metadata tells. A file that is renamed or replaced by another one
    /// keeps them.
    pub(super) fn is_same_content(&self, other: &Self) -> bool {
        let of = |version: &Self| (version.device, version.inode, version.bytes, version.modified);
        of(self) == of(other)
    }

    /// How long to wait until a further change of the file would be seen by its times.
    fn settles_in(&self) -> Duration {
        let settled = timestamp(self.changed) + CLOCK_STEP;
        // A server of files whose clock is ahead does not hold this one up.
        settled.since(Clock::system().now()).min(CLOCK_STEP)
    }

    fn modified_at(&self) -> Timestamp {
        timestamp(self.modified)
    }
}

fn timestamp((seconds, nanoseconds): (i64, i64)) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000))
}

/// What is known of the build of one version of a file.
#[derive(Debug)]
pub(super) struct VersionBuild {
    version: Version,
    /// `None` while the file is being read.
    told: Mutex<Option<Option<Build>>>,
    changed: Condvar,
}

impl VersionBuild {
    fn new(version: Version, told: Option<Option<Build>>) -> Arc<Self> {
        Arc::new(Self { version, told: Mutex::new(told), changed: Condvar::new() })
    }

    fn told(&self) -> MutexGuard<'_, Option<Option<Build>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, build: Option<Build>) {
        *self.told() = Some(build);
        self.changed.notify_all();
    }

    /// The build, if the file has been read.
    pub(super) fn now(&self) -> Option<FileBuild> {
        self.with_file(self.told().as_ref()?.as_ref()?)
    }

    /// The build, once a small file has been read; of a large one only if it has been.
    pub(super) fn at_end(&self) -> Option<FileBuild> {
        let told = self.told();
        let patience = if self.version.bytes <= SMALL { PATIENCE } else { Duration::ZERO };
        let waited = self.changed.wait_timeout_while(told, patience, |told| told.is_none());
        let (told, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.with_file(told.as_ref()?.as_ref()?)
    }

    fn with_file(&self, Build { bytes, digest }: &Build) -> Option<FileBuild> {
        Some(FileBuild { digest: digest.clone(), bytes: *bytes, modified_at: self.version.modified_at() })
    }
}

/// The builds of the files as of the last look at each.
#[derive(Debug, Default)]
pub(super) struct BuildCache {
    of: Mutex<HashMap<JobName, Arc<VersionBuild>>>,
}

impl BuildCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobName, Arc<VersionBuild>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The build of this version of a job's file. Of an unknown one the build id is read at once, or all of a short file;
    /// another thread reads a longer one through. `None` when the file at this path is another one by now.
    pub(super) fn of(&self, name: &JobName, version: Version, path: &Path) -> Option<Arc<VersionBuild>> {
        if let Some(known) = self.lock().get(name).filter(|known| known.version == version) {
            return Some(known.clone());
        }
        let file = File::open(path).ok().filter(|file| {
            // What is read is the version that was looked at, even if it is replaced meanwhile.
            file.metadata().is_ok_and(|meta| Version::of(&meta).is_same_content(&version))
        })?;
        let build = VersionBuild::new(version, None);
        let wait = version.settles_in();
        let quick = wait.is_zero().then(|| builds::identify_quickly(&file, QUICK)).flatten();
        match quick {
            Some(quick) => build.tell(Some(quick)),
            None => {
                let reads = build.clone();
                let read = move || {
                    std::thread::sleep(wait);
                    reads.tell(read_unchanged(&file, &version));
                };
                // Without a thread the next attempt tries again.
                std::thread::Builder::new().name("build".to_owned()).spawn(read).ok()?;
            }
        }
        self.lock().insert(name.clone(), build.clone());
        Some(build)
    }

    /// The same, read through on this thread, for as long as `goes_on` says yes. `None` when it said no.
    pub(super) fn read(
        &self,
        name: &JobName,
        version: Version,
        path: &Path,
        goes_on: &dyn Fn() -> bool,
    ) -> Option<Option<Build>> {
        let known = self.lock().get(name).filter(|known| known.version == version).cloned();
        if let Some(told) = known.and_then(|known| known.told().clone()) {
            return Some(told);
        }
        if !goes_on() {
            return None;
        }
        std::thread::sleep(version.settles_in());
        let build = builds::identify(path, goes_on);
        // One that was not read to its end is read again.
        if goes_on() {
            let is_same = fs_err::metadata(path).is_ok_and(|meta| Version::of(&meta) == version);
            if is_same {
                self.lock().insert(name.clone(), VersionBuild::new(version, Some(build.clone())));
            }
        }
        Some(build)
    }

    /// Forgets the builds of all other names.
    pub(super) fn retain(&self, names: &[JobName]) {
        self.lock().retain(|name, _| names.contains(name));
    }
}

/// The build of a file whose contents were the same before and after they were read.
fn read_unchanged(file: &File, version: &Version) -> Option<Build> {
    let build = builds::identify_open(file, &|| true)?;
    file.metadata().is_ok_and(|meta| Version::of(&meta).is_same_content(version)).then_some(build)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(path: &Path) -> Version {
        Version::of(&fs_err::metadata(path).unwrap())
    }

    fn old(path: &Path) -> Version {
        std::thread::sleep(CLOCK_STEP * 2);
        version(path)
    }

    #[test]
    fn a_version_is_read_once_and_a_replaced_file_is_not_told_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, name) = (dir.path().join("a"), JobName::parse("a").unwrap());
        fs_err::write(&path, "one").unwrap();
        let (cache, first) = (BuildCache::default(), old(&path));
        let build = cache.of(&name, first, &path).unwrap();
        let told = build.now().expect("a short file is read at once");
        assert_eq!((told.bytes, told.modified_at), (3, first.modified_at()));
        assert!(Arc::ptr_eq(&build, &cache.of(&name, first, &path).unwrap()));
        fs_err::write(dir.path().join("new"), "two").unwrap();
        fs_err::rename(dir.path().join("new"), &path).unwrap();
        assert!(cache.of(&name, first, &path).is_some_and(|build| build.now() == Some(told.clone())), "still known");
        let second = old(&path);
        let other = cache.of(&name, second, &path).unwrap().now().unwrap();
        assert_ne!(other.digest, told.digest);
        assert!(cache.of(&name, first, &path).is_none(), "the file of the first version is gone");
    }

    #[test]
    fn a_file_that_has_just_changed_is_read_when_a_further_change_would_show() {
        let dir = tempfile::tempdir().unwrap();
        let (path, name) = (dir.path().join("a"), JobName::parse("a").unwrap());
        fs_err::write(&path, "one").unwrap();
        let cache = BuildCache::default();
        let build = cache.of(&name, version(&path), &path).unwrap();
        fs_err::remove_file(&path).unwrap();
        assert_eq!(build.at_end().unwrap().bytes, 3, "it is read although it is gone from the directory");
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_has_no_build() {
        let dir = tempfile::tempdir().unwrap();
        let (path, name) = (dir.path().join("a"), JobName::parse("a").unwrap());
        fs_err::write(&path, "one").unwrap();
        let build = BuildCache::default().of(&name, version(&path), &path).unwrap();
        fs_err::write(&path, "other").unwrap();
        assert_eq!(build.at_end(), None);
    }

    #[test]
    fn the_end_of_an_attempt_does_not_wait_for_a_large_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        File::create(&path).unwrap().set_len(SMALL + 1).unwrap();
        let unread = VersionBuild::new(version(&path), None);
        assert_eq!(unread.at_end(), None);
    }
}
