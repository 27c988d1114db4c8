//! A worker that died in, none of its jobs left out.
//!
//! A worker that is killed with SIGKILL can't end its children, and would leave them to run beside their own retries.
//! So a small process of its own, the guard, waits for the worker's end and then kills every process group in a table
//! that the worker keeps in shared memory: a small cell per running attempt, written without waking anybody. What left
//! its group is found by the worker's id in its environment.
//!
//! A worker that is stopped (SIGSTOP, a debugger) can't end its children either when it loses their leases meanwhile. So a
//! cell also says until when its attempt may run, which the worker keeps moving on; the guard kills what is past it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{orphans, procfs, scratch, spawn, sys};
use crate::domain::validity::boot_ms;
use crate::domain::{Validity, WorkerId};

/// The table begins with the worker's id and its scratch directory; cells follow.
const HEADER: u64 = 8192;
/// The process group, and until when it may run (0: no limit), eight bytes each.
const CELL: u64 = 16;
/// How often the guard looks at the table at least.
const LOOK: Duration = Duration::from_millis(500);

/// The worker's end of its guard. The guard ends by itself, soon after the worker.
#[derive(Debug)]
pub struct Guard {
    table: Table,
    process: std::process::Child,
}

/// Where the worker notes what runs.
#[derive(Debug, Clone)]
pub(super) struct Table(Arc<File>);

impl Guard {
    /// Starts the guard of this process: this program again, with the hidden command `guard --parent PID`, which must
    /// call [`run_guard`]. `scratch_dir` is that of the runner's settings.
    ///
    /// # Errors
    /// When no process or memory is left, or the scratch directory's path is absurdly long.
    pub fn start(worker: &WorkerId, scratch_dir: &Path) -> io::Result<Guard> {
        sys::close_descriptors_on_exec();
        let table = Table::create(worker, scratch_dir)?;
        let process = spawn::spawn_guard(table.0.try_clone()?)?;
        Ok(Guard { table, process })
    }

    /// Whether the guard still runs; if not, jobs would outlive a worker that is killed.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    pub(super) fn table(&self) -> Table {
        self.table.clone()
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

impl Table {
    pub(super) fn create(worker: &WorkerId, scratch_dir: &Path) -> io::Result<Self> {
        // A relative path would mean another place to the guard.
        let scratch_dir = std::path::absolute(scratch_dir)?;
        let mut header = Vec::new();
        for part in [worker.as_str().as_bytes(), scratch_dir.as_os_str().as_bytes()] {
            header.extend(u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes());
            header.extend(part);
        }
        if header.len() as u64 > HEADER {
            return Err(io::Error::other("the path of the scratch directory is too long"));
        }
        let file = File::from(rustix::fs::memfd_create("jobber-guard", MemfdFlags::CLOEXEC)?);
        rustix::fs::ftruncate(&file, HEADER)?;
        write_all_at(&file, &header, 0)?;
        Ok(Self(Arc::new(file)))
    }

    /// Notes that a process group runs and until when it may, or with `None` that it has ended. Each caller has a cell of
    /// its own.
    pub(super) fn note(&self, cell: usize, group: Option<Pid>, validity: Option<&Validity>) {
        let value = group.map_or(0, |pid| i64::from(pid.as_raw_nonzero().get()));
        // Without memory for it, the guard still finds the process by its environment.
        let until = validity.map_or(0, Validity::until);
        let bytes = [value.to_le_bytes(), until.to_le_bytes()].concat();
        let _ = write_all_at(&self.0, &bytes, HEADER + CELL * cell as u64);
    }
}

impl Table {
    /// Where the process that will have this cell notes itself, its id and until when it may run, before it executes its
    /// program: the guard knows of it before there is anything to guard.
    pub(super) fn place(&self, cell: usize) -> (BorrowedFd<'_>, u64) {
        (self.0.as_fd(), HEADER + CELL * cell as u64)
    }
}

fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// What the guard reads from the table.
#[derive(Debug, PartialEq)]
struct Ward {
    worker: Vec<u8>,
    scratch_dir: PathBuf,
    /// Each with the moment until which it may run, 0 for no limit.
    groups: Vec<(Pid, u64)>,
}

impl Ward {
    fn read(table: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let mut chunk = [0u8; 4096];
        loop {
            match rustix::io::pread(table, &mut chunk, bytes.len() as u64)? {
                0 => break,
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
        Self::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the guard's table is malformed"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut header, cells) = bytes.split_at_checked(usize::try_from(HEADER).ok()?)?;
        let mut part = || {
            let (length, rest) = header.split_first_chunk::<4>()?;
            let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            header = rest;
            Some(text.to_vec())
        };
        let worker = part()?;
        let scratch_dir = PathBuf::from(std::ffi::OsString::from_vec(part()?));
        let (cells, _) = cells.as_chunks::<16>();
        // Never 1 or below: those would be everybody.
        let group = |cell: &[u8; 16]| {
            let ([group, until], _) = cell.as_chunks::<8>() else { return None };
            let id = i32::try_from(i64::from_le_bytes(*group)).ok().filter(|id| *id > 1)?;
            Some((Pid::from_raw(id)?, u64::from_le_bytes(*until)))
        };
        Some(Self { worker, scratch_dir, groups: cells.iter().filter_map(group).collect() })
    }
}

/// The guard itself: waits for the end of its parent `parent`, kills what is left of its jobs, removes its scratch
/// directories, and returns. For the main function of the hidden command, with its standard input as `table`.
///
/// # Errors
/// When the table can't be read or the parent not be watched.
pub fn run_guard(parent: u32, table: File) -> io::Result<()> {
    sys::ignore_requests_to_end();
    sys::close_descriptors_on_exec();
    let gone = || rustix::process::getppid().is_none_or(|now| now.as_raw_nonzero().get().unsigned_abs() != parent);
    let watched = i32::try_from(parent).ok().and_then(Pid::from_raw).filter(|_| !gone());
    let watched = watched.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
    match watched {
        // If the parent was replaced between the two looks, the descriptor may be that of a stranger.
        Some(Ok(pidfd)) if !gone() => guard(Some(&pidfd), &table),
        Some(Err(error)) if error != Errno::SRCH => Err(error.into()),
        _ => guard(None, &table),
    }
}

/// Waits for the end of `parent` (`None`: it has ended) and cleans up.
fn guard(parent: Option<&OwnedFd>, table: &File) -> io::Result<()> {
    if let Some(parent) = parent {
        let mut killed = Vec::new();
        loop {
            let pause = Timespec::try_from(end_lapsed(table, &mut killed)?).map_err(io::Error::other)?;
            match poll(&mut [PollFd::from_borrowed_fd(parent.as_fd(), PollFlags::IN)], Some(&pause)) {
                Ok(0) => {}
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let ward = Ward::read(table)?;
    for (group, _) in &ward.groups {
        let _ = rustix::process::kill_process_group(*group, Signal::KILL);
    }
    kill_marked(&ward.worker);
    scratch::sweep(&ward.scratch_dir);
    Ok(())
}

/// Kills what runs past the moment until which it may, once; answers how long to wait before the next look. The worker
/// reaps it when it goes on: until then the group's id can't have come to mean another one.
fn end_lapsed(table: &File, killed: &mut Vec<(Pid, u64)>) -> io::Result<Duration> {
    let (ward, now) = (Ward::read(table)?, boot_ms());
    killed.retain(|group| ward.groups.contains(group));
    let is_over = |until: u64| until != 0 && until <= now;
    let lapsed: Vec<_> = ward.groups.iter().filter(|g| is_over(g.1) && !killed.contains(g)).copied().collect();
    for (group, _) in &lapsed {
        let _ = rustix::process::kill_process_group(*group, Signal::KILL);
    }
    // With nothing left that may run, what had left its group goes too.
    if !lapsed.is_empty() && ward.groups.iter().all(|(_, until)| is_over(*until)) {
        kill_marked(&ward.worker);
    }
    killed.extend(lapsed);
    let next = ward.groups.iter().map(|(_, until)| *until).filter(|until| *until > now).min();
    Ok(next.map_or(LOOK, |next| Duration::from_millis(next - now).min(LOOK)))
}

/// Kills every process with the worker's id in its environment, until there is none: one may have forked in between.
fn kill_marked(worker: &[u8]) {
    /// Something that can't be killed (stuck in the kernel) is not waited for any longer.
    const PATIENCE: Duration = Duration::from_secs(20);
    let mark = [[b"JOBBER_WORKER=", worker].concat()];
    let own = rustix::process::getpid().as_raw_nonzero().get();
    /// A process that is just being executed shows no environment for a moment: none is left when several looks agree.
    const LOOKS: u32 = 3;
    const BETWEEN: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + PATIENCE;
    let mut clean = 0;
    while clean < LOOKS && Instant::now() < deadline {
        let mut killed = Vec::new();
        for id in procfs::all() {
            let Some(pid) = Pid::from_raw(id).filter(|_| id != own && id > 1) else { continue };
            if !procfs::environment_holds(id, &mark) {
                continue;
            }
            // Opened, then looked at again: now the id can't come to mean another process.
            if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                && procfs::environment_holds(id, &mark)
                && rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
            {
                killed.push(pidfd);
            }
        }
        if killed.is_empty() {
            clean += 1;
            std::thread::sleep(BETWEEN);
        } else {
            clean = 0;
            orphans::wait_for(&killed, Instant::now() + Duration::from_secs(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};

    fn pid(id: i32) -> Option<Pid> {
        Pid::from_raw(id)
    }

    #[test]
    fn the_table_holds_what_runs() {
        let table = Table::create(&WorkerId::parse("w-1").unwrap(), Path::new("/some/where")).unwrap();
        let validity = Validity::lasting(Duration::from_secs(5));
        table.note(3, pid(77), Some(&validity));
        table.note(0, pid(1), None);
        table.note(1, pid(88), Some(&validity));
        table.note(1, None, None);
        table.note(2, pid(99), None);
        let ward = Ward::read(&table.0).unwrap();
        let groups =
            [(99, 0), (77, validity.until())].into_iter().filter_map(|(id, until)| Some((pid(id)?, until))).collect();
        let expected = Ward { worker: b"w-1".to_vec(), scratch_dir: "/some/where".into(), groups };
        assert_eq!(ward, expected, "cleared cells, gaps and process 1 are left out");
        assert_eq!(Ward::parse(b"too short"), None);
        assert_eq!(Ward::parse(&[0xff; 9000]), None);
    }

    #[expect(clippy::disallowed_methods, reason = "plays the part of a worker and its jobs")]
    fn sleeper(worker: &str, group: bool) -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").env("JOBBER_WORKER", worker).stdout(Stdio::null());
        if group {
            command.process_group(0);
        }
        command.spawn().unwrap()
    }

    #[test]
    fn everything_of_a_dead_worker_is_killed_and_nothing_else() {
        let scratch_dir = tempfile::tempdir().unwrap();
        let worker = WorkerId::generate("guard-test");
        let table = Table::create(&worker, scratch_dir.path()).unwrap();
        fs_err::create_dir_all(scratch_dir.path().join(format!("jobber-{worker}/1/left"))).unwrap();
        let mut parent = sleeper("nobody", false);
        let mut in_table = sleeper("unmarked", true);
        let mut escaped = sleeper(worker.as_str(), false);
        let mut other = sleeper("another-worker", true);
        table.note(0, Some(Pid::from_child(&in_table)), None);
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&parent), PidfdFlags::empty()).unwrap();
        let guarding = std::thread::spawn(move || guard(Some(&pidfd), &table.0));
        assert!(in_table.try_wait().unwrap().is_none() && escaped.try_wait().unwrap().is_none());
        parent.kill().unwrap();
        assert_eq!(in_table.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(escaped.wait().unwrap().signal(), Some(libc::SIGKILL));
        guarding.join().unwrap().unwrap();
        assert!(other.try_wait().unwrap().is_none());
        assert_eq!(fs_err::read_dir(scratch_dir.path()).unwrap().count(), 0);
        other.kill().unwrap();
        other.wait().unwrap();
        parent.wait().unwrap();
    }

    #[test]
    fn what_runs_past_its_time_is_killed_and_nothing_else() {
        let worker = WorkerId::generate("guard-test");
        let table = Table::create(&worker, Path::new("/nonexistent")).unwrap();
        let mut parent = sleeper("nobody", false);
        let (mut lapsed, mut valid, mut escaped) =
            (sleeper("unmarked", true), sleeper("unmarked", true), sleeper(worker.as_str(), false));
        let long = Validity::lasting(Duration::from_secs(1000));
        table.note(0, Some(Pid::from_child(&lapsed)), Some(&Validity::lasting(Duration::from_millis(200))));
        table.note(1, Some(Pid::from_child(&valid)), Some(&long));
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&parent), PidfdFlags::empty()).unwrap();
        let watched = table.clone();
        let guarding = std::thread::spawn(move || guard(Some(&pidfd), &watched.0));
        assert_eq!(lapsed.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(valid.try_wait().unwrap().is_none() && escaped.try_wait().unwrap().is_none());
        table.note(0, None, None);
        table.note(1, Some(Pid::from_child(&valid)), Some(&Validity::lasting(Duration::ZERO)));
        assert_eq!(valid.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(escaped.wait().unwrap().signal(), Some(libc::SIGKILL), "nothing is left that may run");
        parent.kill().unwrap();
        parent.wait().unwrap();
        guarding.join().unwrap().unwrap();
    }

    #[test]
    fn a_guard_whose_worker_died_first_does_its_work_at_once() {
        let worker = WorkerId::generate("guard-test");
        let table = Table::create(&worker, Path::new("/nonexistent")).unwrap();
        let mut left = sleeper(worker.as_str(), true);
        guard(None, &table.0).unwrap();
        assert_eq!(left.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
