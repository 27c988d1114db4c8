//! Gives each attempt a cgroup (version 2) of its own, if this process may divide its cgroup.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::procfs;

/// The cgroup into which this process moves: the kernel lets a cgroup either hold processes or be divided.
const SUPERVISOR: &str = "jobber-supervisor";

/// The beginning of the names of attempts' cgroups; the worker's id follows.
const LEAF: &str = "jobber-";

/// The cgroup below which each attempt gets its own.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

/// The cgroup of one attempt. Dropping it kills the processes in it and removes it.
#[derive(Debug)]
pub(super) struct Leaf {
    path: PathBuf,
    /// The same directory, opened: the child gets into the cgroup through this descriptor.
    directory: OwnedFd,
}

impl Root {
    /// The cgroup of this process, divided; `None` where that is not possible (no version 2, memory not delegated,
    /// not writable, other processes in it).
    pub(super) fn detect() -> Option<Self> {
        Self::divide(&own_cgroup()?)
    }

    fn divide(own: &Path) -> Option<Self> {
        // This process was started below a worker that has divided its cgroup: the same place serves both.
        let base = if own.ends_with(SUPERVISOR) { own.parent()? } else { own };
        let has = |file: &str| {
            fs::read_to_string(base.join(file)).is_ok_and(|text| text.split_ascii_whitespace().any(|c| c == "memory"))
        };
        if !has("cgroup.controllers") {
            return None;
        }
        if !has("cgroup.subtree_control") {
            let supervisor = base.join(SUPERVISOR);
            let _ = fs::create_dir(&supervisor);
            let moved = own_processes(base);
            for pid in &moved {
                match fs::write(supervisor.join("cgroup.procs"), pid.to_string()) {
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    result => result.ok()?,
                }
            }
            if fs::write(base.join("cgroup.subtree_control"), "+memory").is_err() {
                for pid in &moved {
                    let _ = fs::write(base.join("cgroup.procs"), pid.to_string());
                }
                let _ = fs::remove_dir(&supervisor);
                return None;
            }
        }
        // Only a trial shows whether the cgroup may be divided.
        let trial = base.join(format!("jobber-trial-{}", std::process::id()));
        fs::create_dir(&trial).ok()?;
        let works = trial.join("memory.max").exists();
        let _ = fs::remove_dir(&trial);
        works.then(|| Self(base.to_owned()))
    }

    /// The directory of the cgroup below which each attempt gets its own.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a cgroup whose processes can be killed together. If there is a limit, the kernel
    /// holds the processes in it to `limit` bytes of memory: they can't swap instead, and memory
    /// files (`memfd`, `/dev/shm`) count.
    pub(super) fn leaf(&self, name: &str, limit: Option<u64>) -> io::Result<Leaf> {
        let path = self.0.join(format!("{LEAF}{name}"));
        fs::create_dir(&path)?;
        let directory = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let leaf = match directory {
            Ok(directory) => Leaf { path, directory },
            Err(error) => {
                let _ = fs::remove_dir(&path);
                return Err(error.into());
            }
        };
        if let Some(limit) = limit {
            leaf.set("memory.max", &limit.to_string())?;
            // Absent on hosts without swap.
            let _ = leaf.set("memory.swap.max", "0");
            let _ = leaf.set("memory.oom.group", "1");
        }
        Ok(leaf)
    }
}

impl Leaf {
    /// The opened directory of the cgroup, for making a process that runs in it from its first instruction.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.path.join(file), value)
    }

    /// Whether the kernel has killed a process of the cgroup for want of memory.
    pub(super) fn has_killed(&self) -> bool {
        let count =
            |text: &str| text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse::<u64>().ok();
        fs::read_to_string(self.path.join("memory.events")).ok().and_then(|text| count(&text)).is_some_and(|n| n > 0)
    }

    /// The most memory that the cgroup's processes used at once, in bytes.
    pub(super) fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.peak")).ok()?.trim().parse().ok()
    }

    /// Kills all processes of the cgroup.
    pub(super) fn kill(&self) {
        kill(&self.path);
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        kill(&self.path);
        remove(&self.path);
    }
}

/// The cgroups that a worker has left below `root`.
pub(super) fn leaves_of(root: &Path, worker: &[u8]) -> Vec<PathBuf> {
    let start = [LEAF.as_bytes(), worker, b"-"].concat();
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let is_its = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(&start);
    entries.flatten().filter(is_its).map(|entry| entry.path()).collect()
}

/// Kills all processes of a cgroup.
pub(super) fn kill(leaf: &Path) {
    let _ = fs::write(leaf.join("cgroup.kill"), "1");
}

/// Removes a cgroup whose processes have been killed.
pub(super) fn remove(leaf: &Path) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let deadline = Instant::now() + PATIENCE;
    // The kernel answers EBUSY until the last killed process is gone.
    while let Err(error) = fs::remove_dir(leaf) {
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            tracing::warn!(%error, "couldn't remove a job's cgroup");
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Finds this process and its children among the processes of a cgroup. One child is the guard
/// process, which was started before and would else stay in a cgroup that must hold no process.
fn own_processes(cgroup: &Path) -> Vec<i32> {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let all = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    procfs::parse_ids(&all).into_iter().filter(|pid| *pid == me || is_child(*pid)).collect()
}

/// Whether a process is a child of this one, by the kernel's word: `/proc` does not show the guard where it is mounted
/// with `hidepid` (`ProtectProc=` of the units), since no process may look into the guard.
fn is_child(pid: i32) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::waitid(WaitId::Pid(pid), options).is_ok())
}

/// The cgroup below which a worker started like this process would hold its jobs to their
/// memory limits. Changes nothing.
///
/// # Errors
/// A sentence for people that says why there is none.
pub fn memory_cgroup() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
    let own = own_directory(&mounts, &own).ok_or("cgroup version 2 is not mounted")?;
    survey(&own)
}

fn survey(own: &Path) -> Result<PathBuf, String> {
    let base = if own.ends_with(SUPERVISOR) { own.parent().unwrap_or(own) } else { own };
    let controllers = fs::read_to_string(base.join("cgroup.controllers")).map_err(|e| e.to_string())?;
    if !controllers.split_ascii_whitespace().any(|c| c == "memory") {
        return Err(format!("{} is not given the memory controller", base.display()));
    }
    for file in ["cgroup.procs", "cgroup.subtree_control"] {
        if rustix::fs::access(base.join(file), rustix::fs::Access::WRITE_OK).is_err() {
            return Err(format!("{} is not delegated: {file} may not be written", base.display()));
        }
    }
    Ok(base.to_owned())
}

/// The directory of this process's version 2 cgroup; `None` where that can't be read or is not mounted.
pub(super) fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    own_directory(&mounts, &own)
}

/// The directory of this process's version 2 cgroup, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_directory(mounts: &str, own: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = left.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(mount_point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child that is no job")]
    fn children_are_told_from_others_and_stay_to_be_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = i32::try_from(child.id()).unwrap();
        assert!(is_child(id));
        assert!(!is_child(1) && !is_child(0));
        child.kill().unwrap();
        assert!(is_child(id), "it is not waited for yet");
        assert!(!child.wait().unwrap().success());
        assert!(!is_child(id));
    }

    #[test]
    fn the_own_cgroup_is_found_below_its_mount() {
        let mounts = "30 23 0:26 / /proc rw - proc proc rw\n\
                      31 23 0:27 /docker/x /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n";
        let at = |own| own_directory(mounts, own);
        assert_eq!(at("1:cpu:/y\n0::/docker/x/unit\n"), Some("/sys/fs/cgroup/unit".into()));
        assert_eq!(at("0::/docker/x"), Some("/sys/fs/cgroup".into()));
        assert_eq!(at("0::/elsewhere\n"), None);
        assert_eq!(at("4:memory:/docker/x\n"), None);
    }

    #[test]
    fn without_the_memory_controller_there_is_no_root() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Root::divide(dir.path()).is_none());
        fs::write(dir.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        assert!(Root::divide(dir.path()).is_none());
    }

    #[test]
    fn a_cgroup_that_can_not_be_divided_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "memory\n").unwrap();
        // A plain directory grows no memory.max.
        assert!(Root::divide(dir.path()).is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_survey_tells_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(survey(dir.path()).is_err());
        fs::write(dir.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        assert!(survey(dir.path()).unwrap_err().contains("memory controller"));
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert!(survey(dir.path()).unwrap_err().contains("not delegated: cgroup.procs"));
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        assert_eq!(survey(dir.path()).unwrap(), dir.path());
        assert_eq!(survey(&dir.path().join(SUPERVISOR)).unwrap(), dir.path());
    }

    #[test]
    fn only_own_processes_are_moved() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        fs::write(dir.path().join("cgroup.procs"), format!("1\n{me}\n")).unwrap();
        assert_eq!(own_processes(dir.path()), [i32::try_from(me).unwrap()]);
    }

    #[test]
    fn a_leaf_is_set_up_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = Root(dir.path().to_owned()).leaf("w-1", Some(64 << 20)).unwrap();
        let at = dir.path().join("jobber-w-1");
        assert_eq!(fs::read_to_string(at.join("memory.max")).unwrap(), "67108864");
        assert_eq!(fs::read_to_string(at.join("memory.oom.group")).unwrap(), "1");
        assert!(!leaf.has_killed());
        fs::write(at.join("memory.events"), "low 0\noom 1\noom_kill 1\noom_group_kill 1\n").unwrap();
        fs::write(at.join("memory.peak"), "12345\n").unwrap();
        assert!(leaf.has_killed());
        assert_eq!(leaf.peak(), Some(12_345));
        drop(leaf);
        assert_eq!(fs::read_to_string(at.join("cgroup.kill")).unwrap(), "1");
    }

    #[test]
    fn an_attempt_without_a_limit_has_a_leaf_that_ends_together() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = Root(dir.path().to_owned()).leaf("w-1-7", None).unwrap();
        let at = dir.path().join("jobber-w-1-7");
        assert!(at.is_dir() && !at.join("memory.max").exists());
        leaf.kill();
        assert_eq!(fs::read_to_string(at.join("cgroup.kill")).unwrap(), "1");
    }

    #[test]
    fn what_a_dead_worker_left_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["jobber-w-1-0", "jobber-w-1-17", "jobber-w-10-1", "jobber-w-2-1", SUPERVISOR] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut found = leaves_of(dir.path(), b"w-1");
        found.sort();
        assert_eq!(found, [dir.path().join("jobber-w-1-0"), dir.path().join("jobber-w-1-17")]);
        found.iter().for_each(|leaf| kill(leaf));
        assert!(found.iter().all(|leaf| leaf.join("cgroup.kill").exists()));
        assert!(leaves_of(Path::new("/nonexistent"), b"w-1").is_empty());
    }
}
