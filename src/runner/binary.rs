//! Finds the file that a job's name names: within the jobs directory, executable, whatever links there are.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Pid;

use super::build_cache::{BuildCache, Version, VersionBuild};
use crate::domain::{Build, JobName, SpawnFailure};

/// Why a name can't be run. The message names the file and the fix.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct BinaryError {
    /// How an attempt with this binary ends.
    pub failure: SpawnFailure,
    message: String,
}

impl BinaryError {
    fn new(failure: SpawnFailure, message: String) -> Self {
        Self { failure, message }
    }
}

/// Whether [`resolve`] finds the file. Of a file that is no link, as most are, nothing else is looked at.
///
/// # Errors
/// Those of [`resolve`].
pub fn check(jobs_dir: &Path, name: &JobName) -> Result<(), BinaryError> {
    let asked = jobs_dir.join(name.as_str());
    match fs_err::symlink_metadata(&asked) {
        Ok(meta) if meta.is_file() && is_executable(&asked, &meta) => Ok(()),
        _ => resolve(jobs_dir, name).map(drop),
    }
}

fn is_executable(path: &Path, meta: &Metadata) -> bool {
    meta.mode() & 0o111 != 0 && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Finds `<jobs_dir>/<name>`: a regular executable file, with symlinks followed as long as they stay in the directory.
/// Answers its canonical path.
///
/// # Errors
/// [`BinaryError`] with `NotFound`, `NotExecutable`, or `System` when the directory can't be read.
pub fn resolve(jobs_dir: &Path, name: &JobName) -> Result<PathBuf, BinaryError> {
    let asked = jobs_dir.join(name.as_str());
    let refused =
        |why: String| BinaryError::new(SpawnFailure::NotExecutable, format!("couldn't run job binary `{name}`: {why}"));
    let directory = fs_err::canonicalize(jobs_dir).map_err(|error| {
        let message = format!("couldn't open the jobs directory {}: {}", jobs_dir.display(), reason(&error));
        BinaryError::new(SpawnFailure::System, message)
    })?;
    let path = fs_err::canonicalize(&asked).map_err(|error| match error.kind() {
        // Not this file: the directory itself can't be entered.
        _ if let Err(why) = enter(jobs_dir) => BinaryError::new(SpawnFailure::System, why),
        std::io::ErrorKind::NotFound if asked.is_symlink() => {
            refused(format!("{} is a link to a file that does not exist", asked.display()))
        }
        std::io::ErrorKind::NotFound => BinaryError::new(
            SpawnFailure::NotFound,
            format!("no job binary `{name}` in {}; build or copy it there", jobs_dir.display()),
        ),
        _ => refused(reason(&error)),
    })?;
    if !path.starts_with(&directory) {
        return Err(refused(format!(
            "it is a link out of the jobs directory, to {}; copy the file instead",
            path.display()
        )));
    }
    let meta = fs_err::metadata(&path).map_err(|error| refused(reason(&error)))?;
    if meta.is_dir() {
        return Err(refused("it is a directory; the jobs directory holds one executable file per job".to_owned()));
    }
    if !meta.is_file() {
        return Err(refused("it is not a regular file".to_owned()));
    }
    if !is_executable(&path, &meta) {
        let mode = meta.mode() & 0o7777;
        return Err(refused(format!("not executable (mode {mode:o}); run chmod +x {}", asked.display())));
    }
    Ok(path)
}

/// The files of the jobs directory that a job's name can name, sorted, each with its canonical path or why it can't be
/// run. Directories are left out. `None` when the directory can't be read or holds more than `most` such files.
pub fn list(jobs_dir: &Path, most: usize) -> Option<Vec<(JobName, Result<PathBuf, BinaryError>)>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(jobs_dir).ok()? {
        let entry = entry.ok()?;
        let Some(name) = entry.file_name().to_str().and_then(|name| JobName::parse(name).ok()) else { continue };
        if entry.path().is_dir() {
            continue;
        }
        if found.len() == most {
            return None;
        }
        let resolved = resolve(jobs_dir, &name);
        found.push((name, resolved));
    }
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Some(found)
}

/// Fails with the reason when the jobs directory can't be entered. A directory that can be entered
/// need not be readable.
fn enter(jobs_dir: &Path) -> Result<(), String> {
    rustix::fs::stat(jobs_dir.join(".")).map(drop).map_err(|error| {
        format!("couldn't enter the jobs directory {}: {}", jobs_dir.display(), std::io::Error::from(error))
    })
}

/// The system's words, without the path that fs_err puts before them: Jobber's message names it already.
fn reason(error: &std::io::Error) -> String {
    let source = error.get_ref().and_then(|inner| inner.source());
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// A job's file, found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its canonical path.
    pub(super) path: Arc<Path>,
    /// What it was at that moment; `None` when it has gone since.
    pub(super) version: Option<Version>,
}

/// [`resolve`], remembered as long as the file is the same: then it costs one system call.
#[derive(Debug)]
pub(super) struct Binaries {
    jobs_dir: PathBuf,
    known: Mutex<HashMap<JobName, (Version, Arc<Path>)>>,
    builds: BuildCache,
    /// Files that this machine could not execute.
    broken: Mutex<HashMap<JobName, Version>>,
}

impl Binaries {
    pub(super) fn new(jobs_dir: PathBuf) -> Self {
        Self { jobs_dir, known: Mutex::default(), builds: BuildCache::default(), broken: Mutex::default() }
    }

    /// Whether the jobs directory is there and can be entered.
    pub(super) fn probe(&self) -> Result<(), String> {
        enter(&self.jobs_dir)
    }

    /// The names of all jobs that can be run, sorted; `None` when the directory can't be read or
    /// holds more than `most`.
    pub(super) fn names(&self, most: usize) -> Option<Vec<JobName>> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(&self.jobs_dir).ok()? {
            let Some(name) = entry.ok()?.file_name().to_str().and_then(|name| JobName::parse(name).ok()) else {
                continue;
            };
            if !self.is_broken(&name) && self.resolve(&name).is_ok() {
                if names.len() == most {
                    return None;
                }
                names.push(name);
            }
        }
        names.sort_unstable();
        Some(names)
    }

    /// Which builds these jobs' binaries are, those left out whose build can't be told. Reads a file once as long as it is
    /// the same, which may take long; ends with what it has when `goes_on` says no.
    pub(super) fn builds(&self, names: &[JobName], goes_on: &dyn Fn() -> bool) -> BTreeMap<JobName, Build> {
        self.builds.retain(names);
        let mut found = BTreeMap::new();
        for name in names {
            let Ok(Found { path, version: Some(version) }) = self.find(name) else { continue };
            let Some(build) = self.builds.read(name, version, &path, goes_on) else { break };
            found.extend(build.map(|build| (name.clone(), build)));
        }
        found
    }

    /// The build that the file of this name is now, if that is known or found out at once.
    pub(super) fn build_now(&self, name: &JobName) -> Option<Arc<VersionBuild>> {
        let Found { path, version } = self.find(name).ok()?;
        self.builds.of(name, version?, &path)
    }

    /// The build that a process runs which was just spawned from this file. `None` when the file may have been replaced
    /// between the look at it and the spawn.
    pub(super) fn executed(
        &self,
        name: &JobName,
        Found { path, version }: &Found,
        pid: Pid,
    ) -> Option<Arc<VersionBuild>> {
        let version = (*version)?;
        let is_same = fs_err::metadata(path).is_ok_and(|meta| Version::of(&meta) == version);
        // A file that was replaced since is still what the process runs. (Of a script that is its interpreter.)
        let is_run = || {
            let exe = fs_err::metadata(format!("/proc/{}/exe", pid.as_raw_nonzero()));
            exe.is_ok_and(|meta| Version::of(&meta).is_same_content(&version))
        };
        if is_same || is_run() { self.builds.of(name, version, path) } else { None }
    }

    /// Notes that the kernel could not execute the file, though it looked executable. The name
    /// counts as missing until the file has changed.
    pub(super) fn note_broken(&self, name: &JobName) {
        if let Some(version) = self.version(name) {
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), version);
        }
    }

    /// Whether no file of this name can be run, as far as this runner knows. False when the jobs
    /// directory can't be used.
    pub(super) fn lacks(&self, name: &JobName) -> bool {
        self.is_broken(name) || self.resolve(name).is_err_and(|error| error.failure != SpawnFailure::System)
    }

    /// Whether there is something of this name that can't be executed here.
    pub(super) fn has_unusable(&self, name: &JobName) -> bool {
        self.is_broken(name) || self.resolve(name).is_err_and(|error| error.failure == SpawnFailure::NotExecutable)
    }

    fn is_broken(&self, name: &JobName) -> bool {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get(name).is_some_and(|version| Some(*version) == self.version(name))
    }

    /// Answers the remembered path while the file is the same, else does as [`resolve`].
    pub(super) fn resolve(&self, name: &JobName) -> Result<Arc<Path>, BinaryError> {
        self.find(name).map(|found| found.path)
    }

    /// As [`Binaries::resolve`], with the version of the file at that moment.
    pub(super) fn find(&self, name: &JobName) -> Result<Found, BinaryError> {
        let version = self.version(name);
        if let Some(version) = version
            && let Some((known, path)) = self.lock().get(name)
            && *known == version
        {
            return Ok(Found { path: path.clone(), version: Some(version) });
        }
        let path: Arc<Path> = resolve(&self.jobs_dir, name)?.into();
        if let Some(version) = version {
            // The version was read first: if the file changed since, the next look sees another one.
            self.lock().insert(name.clone(), (version, path.clone()));
        }
        Ok(Found { path, version })
    }

    /// Forgets the remembered path of a job, because no file is there any more.
    pub(super) fn forget(&self, name: &JobName) {
        self.lock().remove(name);
    }

    fn version(&self, name: &JobName) -> Option<Version> {
        fs_err::metadata(self.jobs_dir.join(name.as_str())).ok().as_ref().map(Version::of)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobName, (Version, Arc<Path>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn put(path: &Path, mode: u32) {
        fs_err::write(path, "#!/bin/sh\n").unwrap();
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn name(text: &str) -> JobName {
        JobName::parse(text).unwrap()
    }

    #[test]
    fn only_an_executable_file_within_the_directory_is_run() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("jobs");
        fs_err::create_dir_all(dir.join("folder")).unwrap();
        put(&dir.join("good"), 0o755);
        put(&dir.join("plain"), 0o644);
        put(&root.path().join("outside"), 0o755);
        put(&root.path().join("jobs-too"), 0o755);
        symlink("good", dir.join("alias")).unwrap();
        symlink("../outside", dir.join("escape")).unwrap();
        symlink("../jobs-too", dir.join("sibling")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();

        let good = fs_err::canonicalize(dir.join("good")).unwrap();
        for who in ["good", "alias"] {
            assert_eq!(resolve(&dir, &name(who)).unwrap(), good);
            check(&dir, &name(who)).unwrap();
        }
        let expect = |who: &str, failure: SpawnFailure, words: &str| {
            let error = resolve(&dir, &name(who)).unwrap_err();
            assert_eq!(error.failure, failure, "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(check(&dir, &name(who)).unwrap_err().to_string(), error.to_string());
        };
        expect("missing", SpawnFailure::NotFound, "no job binary `missing`");
        expect("plain", SpawnFailure::NotExecutable, "not executable (mode 644); run chmod +x");
        expect("folder", SpawnFailure::NotExecutable, "is a directory");
        expect("escape", SpawnFailure::NotExecutable, "link out of the jobs directory");
        expect("sibling", SpawnFailure::NotExecutable, "link out of the jobs directory");
        expect("dangling", SpawnFailure::NotExecutable, "does not exist");
        expect("loop", SpawnFailure::NotExecutable, "symbolic links");
        assert_eq!(resolve(&root.path().join("none"), &name("good")).unwrap_err().failure, SpawnFailure::System);
        let listed = list(&dir, 7).unwrap();
        let listed: Vec<_> = listed.iter().map(|(name, found)| (name.as_str(), found.is_ok())).collect();
        let broken = ["dangling", "escape", "loop", "plain", "sibling"].map(|name| (name, false));
        let mut expected = [&[("alias", true), ("good", true)][..], &broken[..]].concat();
        expected.sort_unstable();
        assert_eq!(listed, expected, "without the folder");
        assert!(list(&dir, 6).is_none() && list(&root.path().join("none"), 6).is_none());
    }

    #[test]
    fn a_build_is_read_once_and_again_when_the_file_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        put(&a, 0o755);
        put(&b, 0o755);
        let binaries = Binaries::new(root.path().to_owned());
        let names = [name("a"), name("b"), name("none")];
        let looks = std::cell::Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            true
        };
        let first = binaries.builds(&names, &look);
        assert_eq!(first.keys().collect::<Vec<_>>(), [&names[0], &names[1]]);
        assert_eq!(first[&names[0]], first[&names[1]], "they are alike");
        looks.set(0);
        assert_eq!(binaries.builds(&names, &look), first);
        assert_eq!(looks.get(), 0, "nothing was read");
        fs_err::write(&a, "#!/bin/sh\necho changed\n").unwrap();
        let second = binaries.builds(&names, &look);
        assert!(second[&names[0]] != first[&names[0]] && second[&names[1]] == first[&names[1]]);
        fs_err::write(&a, "#!/bin/sh\n").unwrap();
        let cut_off = binaries.builds(&names, &|| false);
        assert!(cut_off.is_empty(), "it ended before the first");
        assert_eq!(binaries.builds(&names, &look), first);
    }

    #[test]
    fn a_remembered_binary_is_noticed_when_it_changes() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("jobs");
        fs_err::create_dir_all(&dir).unwrap();
        put(&dir.join("a"), 0o755);
        put(&root.path().join("outside"), 0o755);
        let binaries = Binaries::new(dir.clone());
        for _ in 0..2 {
            binaries.resolve(&name("a")).unwrap();
        }
        fs_err::set_permissions(dir.join("a"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(binaries.resolve(&name("a")).unwrap_err().failure, SpawnFailure::NotExecutable);
        fs_err::remove_file(dir.join("a")).unwrap();
        assert_eq!(binaries.resolve(&name("a")).unwrap_err().failure, SpawnFailure::NotFound);
        symlink("../outside", dir.join("a")).unwrap();
        assert_eq!(binaries.resolve(&name("a")).unwrap_err().failure, SpawnFailure::NotExecutable);
    }
}
