//! The guard: a process that ends the jobs of a worker that died or was stopped.
//!
//! A worker that is killed with SIGKILL can't end its children, and would leave them to run beside
//! their own retries. So a small process of its own, the guard, waits for the worker's end and then
//! kills every process group in a table that the worker keeps in shared memory: a small cell per
//! running attempt, which the worker writes without waking the guard. The guard finds a process
//! that left its group by the attempt's number (see [`super::orphans`]), by the worker's id in its
//! environment, or by its cgroup.
//!
//! A worker that is stopped (SIGSTOP, a debugger) can't end its children either when it loses their
//! leases meanwhile. So a cell also holds the time until which its attempt may run, and the worker
//! keeps moving that on. The guard kills an attempt that is past it.
//!
//! The guard can be killed, too. The worker watches it, starts another on the same table, and starts no job until it
//! has.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use tokio::sync::watch;

use super::procfs::{self, TICK};
use super::table::{GuardTable, Noted, SharedPidTable};
use super::{cgroup, orphans, scratch, spawn, sys};
use crate::domain::WorkerId;
use crate::domain::validity::boot_ms;

/// The longest time between two looks of the guard at the table.
const LOOK: Duration = Duration::from_millis(500);

/// The worker's end of its guard process, which ends by itself soon after the worker.
#[derive(Debug)]
pub struct Guard {
    table: SharedPidTable,
    presence: Presence,
}

/// Whether there is a guard: without one, jobs would outlive a worker that is killed.
#[derive(Debug, Clone)]
pub struct Presence(watch::Receiver<bool>);

impl Presence {
    /// Whether the guard process runs now.
    pub fn is_there(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the answer of [`Presence::is_there`] may have changed since this method last returned.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Guard {
    /// Starts the guard of this process: runs this program again, with arguments from which
    /// [`guarded_parent`] tells that it must call [`run_guard`]. When a guard dies, a thread starts another.
    /// `scratch_dir` is that of the runner's settings.
    ///
    /// # Errors
    /// When no process or memory is left, or the scratch directory's path is absurdly long.
    pub fn start(worker: &WorkerId, scratch_dir: &Path) -> io::Result<Guard> {
        sys::close_descriptors_on_exec();
        let table = SharedPidTable::create(worker, scratch_dir, orphans::first_number())?;
        let (runs, presence) = watch::channel(false);
        let (first, started) = mpsc::sync_channel(1);
        let kept = table.clone();
        // On a thread of its own, since the main thread's children are taken for orphans.
        std::thread::Builder::new()
            .name("guard-watch".to_owned())
            .spawn(move || keep_guard(kept.file(), &runs, first))?;
        started.recv().map_err(io::Error::other)??;
        Ok(Guard { table, presence: Presence(presence) })
    }

    /// Answers a receiver that tells whether the guard process runs.
    pub fn presence(&self) -> Presence {
        self.presence.clone()
    }

    pub(super) fn table(&self) -> SharedPidTable {
        self.table.clone()
    }
}

/// Keeps one guard alive as long as this process lives. Tells `first` how the first start went. If
/// that start failed, it returns and starts no other.
fn keep_guard(table: &File, runs: &watch::Sender<bool>, first: mpsc::SyncSender<io::Result<()>>) {
    let mut first = Some(first);
    let mut deaths = 0;
    loop {
        let lived = match table.try_clone().and_then(spawn::spawn_guard) {
            Ok(guard) => {
                let began = Instant::now();
                runs.send_replace(true);
                match first.take() {
                    Some(first) => drop(first.send(Ok(()))),
                    None => tracing::info!(pid = guard.id(), "another guard is there"),
                }
                let end = wait_for_end(Pid::from_child(&guard));
                runs.send_replace(false);
                tracing::error!(end, "the guard has died; no job is started until there is another");
                began.elapsed()
            }
            Err(error) => {
                if let Some(first) = first.take() {
                    drop(first.send(Err(error)));
                    return;
                }
                tracing::error!(%error, "no guard can be started, and so no job; trying again");
                Duration::ZERO
            }
        };
        deaths = if lived >= CALM { 0 } else { deaths + 1 };
        std::thread::sleep(wait_after(deaths));
    }
}

/// A guard that lived for this long did not die of what killed the one before.
const CALM: Duration = Duration::from_secs(10);

/// How long to wait before the start of the next guard when so many in a row died soon.
fn wait_after(deaths: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);
    match deaths {
        0 | 1 => Duration::ZERO,
        more => (FIRST * 2u32.saturating_pow((more - 2).min(10))).min(LONGEST),
    }
}

/// Waits for the end of a guard, reaps it, and says how it ended. Kills a guard that is stopped
/// (SIGSTOP), since it guards nothing.
fn wait_for_end(guard: Pid) -> String {
    loop {
        match rustix::process::waitpid(Some(guard), WaitOptions::UNTRACED) {
            Ok(Some((_, status))) if status.stopped() => {
                let _ = rustix::process::kill_process(guard, Signal::KILL);
            }
            Ok(Some((_, status))) => {
                return match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("exited with code {code}"),
                    (None, Some(signal)) => format!("killed by signal {signal}"),
                    (None, None) => "ended".to_owned(),
                };
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return format!("can't be waited for: {error}"),
        }
    }
}

/// The process id of the worker that this process must guard, if its arguments (with its own name
/// before them) say so. It is no command of the command line: to parse that takes memory which the
/// guard would keep.
pub fn guarded_parent(arguments: impl IntoIterator<Item = OsString>) -> Option<u32> {
    let mut arguments = arguments.into_iter().skip(1);
    if spawn::GUARD.iter().any(|word| arguments.next().is_none_or(|given| given != *word)) {
        return None;
    }
    let parent = arguments.next()?.to_str()?.parse().ok()?;
    arguments.next().is_none().then_some(parent)
}

/// Does the work of the guard process: waits for the end of its parent, the worker with the process
/// id `parent`, kills the processes that its jobs left, removes its scratch directories, and
/// returns. The main function of the guard calls this with its standard input as `table`. It may do
/// in `begun` what is to be done once the guard has begun to guard.
///
/// # Errors
/// When the table can't be read or the parent can't be watched.
pub fn run_guard(parent: u32, table: File, begun: impl FnOnce()) -> io::Result<()> {
    sys::ignore_requests_to_end();
    sys::close_descriptors_on_exec();
    let _ = rustix::thread::set_name(c"jobber-guard");
    let gone = || rustix::process::getppid().is_none_or(|now| now.as_raw_nonzero().get().unsigned_abs() != parent);
    let watched = i32::try_from(parent).ok().and_then(Pid::from_raw).filter(|_| !gone());
    let watched = watched.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
    match watched {
        // If the parent was replaced between the two looks, the descriptor may be that of another process.
        Some(Ok(pidfd)) if !gone() => guard(Some(&pidfd), &table, begun),
        Some(Err(error)) if error != Errno::SRCH => Err(error.into()),
        _ => guard(None, &table, begun),
    }
}

/// Waits for the end of `parent` (`None`: it has ended) and cleans up.
fn guard(parent: Option<&OwnedFd>, table: &File, begun: impl FnOnce()) -> io::Result<()> {
    if let Some(parent) = parent {
        let mut killed = Vec::new();
        end_lapsed(table, &mut killed)?;
        begun();
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
    let contents = GuardTable::read(table)?;
    contents.attempts.iter().for_each(kill_group);
    let leaves = contents.cgroup.as_deref().map(|root| cgroup::leaves_of(root, &contents.worker)).unwrap_or_default();
    leaves.iter().for_each(|leaf| cgroup::kill(leaf));
    kill_all_of(&contents);
    leaves.iter().for_each(|leaf| cgroup::remove(leaf));
    scratch::sweep(&contents.scratch_dir);
    Ok(())
}

/// Kills each attempt that runs past the time until which it may, once. Answers how long to wait
/// before the next look.
fn end_lapsed(table: &File, killed: &mut Vec<(Pid, u64)>) -> io::Result<Duration> {
    let (contents, now) = (GuardTable::read(table)?, boot_ms());
    killed.retain(|done| contents.attempts.iter().any(|noted| (noted.group, noted.until) == *done));
    let is_new = |noted: &&Noted| noted.is_over(now) && !killed.contains(&(noted.group, noted.until));
    let lapsed: Vec<Noted> = contents.attempts.iter().filter(is_new).copied().collect();
    if !lapsed.is_empty() {
        lapsed.iter().for_each(kill_group);
        // Processes that had left their group.
        let is_its = |limit: u64| limit != 0 && lapsed.iter().any(|noted| noted.number == limit);
        kill_each(|id| procfs::most_file_locks(id).is_some_and(is_its));
        if contents.attempts.iter().all(|noted| noted.is_over(now)) {
            kill_all_of(&contents);
        }
    }
    killed.extend(lapsed.iter().map(|noted| (noted.group, noted.until)));
    let next = contents.attempts.iter().map(|noted| noted.until).filter(|until| *until > now).min();
    Ok(next.map_or(LOOK, |next| Duration::from_millis(next - now).min(LOOK)))
}

/// Kills an attempt's process group, unless the kernel has given the group's id to another process,
/// which shows by its start time. If the leader is gone, the guard finds the processes that it left
/// by their other marks.
fn kill_group(noted: &Noted) {
    let is_it = match procfs::stat(noted.group.as_raw_nonzero().get()) {
        Some(stat) => stat.started + TICK >= noted.after && (noted.before == 0 || stat.started <= noted.before + TICK),
        // The process exists, but `/proc` does not show it (`hidepid`).
        None => rustix::process::pidfd_open(noted.group, PidfdFlags::empty()).is_ok(),
    };
    if is_it {
        let _ = rustix::process::kill_process_group(noted.group, Signal::KILL);
    }
}

/// Kills all that the worker's jobs have left.
fn kill_all_of(contents: &GuardTable) {
    let mark = [[b"JOBBER_WORKER=", &contents.worker[..]].concat()];
    kill_until_none(|id| {
        let limit = procfs::most_file_locks(id);
        limit.is_some_and(|limit| orphans::is_one_of(contents.first_number, limit))
            || procfs::environment_holds(id, &mark)
    });
}

/// Kills once every process for which `is_meant` holds. Answers descriptors of the killed.
fn kill_each(is_meant: impl Fn(i32) -> bool) -> Vec<OwnedFd> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut killed = Vec::new();
    for id in procfs::all() {
        let Some(pid) = Pid::from_raw(id).filter(|_| id != own && id > 1) else { continue };
        if !is_meant(id) {
            continue;
        }
        // Opened, then looked at again: now the id can't come to mean another process. A process
        // that has ended already is not counted as killed.
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            && is_meant(id)
            && procfs::stat(id).is_some_and(|stat| !stat.zombie)
            && rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
        {
            killed.push(pidfd);
        }
    }
    killed
}

/// Kills every process for which `is_meant` holds, until there is none: a process may have
/// forked between two looks.
fn kill_until_none(is_meant: impl Fn(i32) -> bool) {
    /// The guard waits no longer for a process that can't be killed (stuck in the kernel).
    const PATIENCE: Duration = Duration::from_secs(20);
    /// A process that is just being executed shows no environment for a moment: none is left when
    /// so many looks in a row find none.
    const LOOKS: u32 = 3;
    const BETWEEN: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + PATIENCE;
    let mut clean = 0;
    while clean < LOOKS && Instant::now() < deadline {
        let killed = kill_each(&is_meant);
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
    use crate::domain::Validity;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};

    /// What no attempt's number begins with: other tests of this process run attempts meanwhile.
    const NOBODYS: u64 = 5 << 32;

    /// Fills a cell as a worker and its child do together.
    fn note(table: &SharedPidTable, cell: usize, child: &Child, until: u64) {
        table.write(cell, 0, &[u64::from(child.id()), until, boot_ms() - 2000, boot_ms(), 0]);
    }

    #[test]
    fn waits_between_guards_that_die_grow_to_a_bound() {
        let waits: Vec<u128> = (1..12).map(|deaths| wait_after(deaths).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn only_the_guards_own_arguments_are_its() {
        let parent = |line: &str| guarded_parent(line.split(' ').map(OsString::from));
        assert_eq!(parent("/bin/jobber guard --parent 4711"), Some(4711));
        for other in [
            "",
            "jobber",
            "jobber guard",
            "jobber guard --parent",
            "jobber guard --parent x",
            "guard --parent 1",
            "jobber guard --parent 4711 more",
            "jobber guard --parent -1",
            "jobber dev --parent 4711",
        ] {
            assert_eq!(parent(other), None, "{other}");
        }
    }

    #[test]
    fn a_group_whose_id_means_another_process_by_now_is_left_alone() {
        let mut stranger = sleeper("nobody", true);
        let started = procfs::stat(i32::try_from(stranger.id()).unwrap()).unwrap().started;
        let group = Pid::from_child(&stranger);
        let noted = |after, before| Noted { group, until: 0, after, before, number: 0 };
        for (after, before) in [(started + 1000, started + 1001), (started + 1000, 0), (started - 1001, started - 1000)]
        {
            kill_group(&noted(after, before));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(stranger.try_wait().unwrap().is_none());
        for (after, before) in [(started, 0), (started, started + 5)] {
            kill_group(&noted(after, before));
        }
        assert_eq!(stranger.wait().unwrap().signal(), Some(libc::SIGKILL));
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
        let table = SharedPidTable::create(&worker, scratch_dir.path(), NOBODYS).unwrap();
        fs_err::create_dir_all(scratch_dir.path().join(format!("jobber-{worker}/1/left"))).unwrap();
        let mut parent = sleeper("nobody", false);
        let mut in_table = sleeper("unmarked", true);
        let mut escaped = sleeper(worker.as_str(), false);
        let mut other = sleeper("another-worker", true);
        note(&table, 0, &in_table, 0);
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&parent), PidfdFlags::empty()).unwrap();
        let guarding = std::thread::spawn(move || guard(Some(&pidfd), table.file(), || ()));
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
        let table = SharedPidTable::create(&worker, Path::new("/nonexistent"), NOBODYS).unwrap();
        let mut parent = sleeper("nobody", false);
        let (mut lapsed, mut valid, mut escaped) =
            (sleeper("unmarked", true), sleeper("unmarked", true), sleeper(worker.as_str(), false));
        let long = Validity::lasting(Duration::from_secs(1000));
        note(&table, 0, &lapsed, Validity::lasting(Duration::from_millis(200)).until());
        note(&table, 1, &valid, long.until());
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&parent), PidfdFlags::empty()).unwrap();
        let watched = table.clone();
        let guarding = std::thread::spawn(move || guard(Some(&pidfd), watched.file(), || ()));
        assert_eq!(lapsed.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(valid.try_wait().unwrap().is_none() && escaped.try_wait().unwrap().is_none());
        table.clear(0);
        table.extend(1, &Validity::lasting(Duration::ZERO));
        assert_eq!(valid.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(escaped.wait().unwrap().signal(), Some(libc::SIGKILL), "nothing is left that may run");
        parent.kill().unwrap();
        parent.wait().unwrap();
        guarding.join().unwrap().unwrap();
    }

    #[test]
    fn a_guard_whose_worker_died_first_does_its_work_at_once() {
        let worker = WorkerId::generate("guard-test");
        let table = SharedPidTable::create(&worker, Path::new("/nonexistent"), NOBODYS).unwrap();
        let mut left = sleeper(worker.as_str(), true);
        guard(None, table.file(), || ()).unwrap();
        assert_eq!(left.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
