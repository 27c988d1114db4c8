//! Finds and ends the processes that outlive their attempt.
//!
//! A process that left its group (`setsid`) is not hit by signals to the group. So that it can be
//! found, this process is a "child subreaper": a process below it that loses its parent becomes a
//! child of its main thread, which spawns nothing itself. [`Orphans`] kills such a child unless it
//! belongs to a running attempt, and reaps it when it has ended: at the end of every attempt, and
//! now and then while some run.
//!
//! A number tells to which attempt a process belongs. Every process of an attempt has it from birth
//! and can't take it off: its limit of file locks (`RLIMIT_LOCKS`). Linux has counted no file locks
//! since 2.4, so that the limit limits nothing. But children inherit it, it can only be lowered
//! without a right that jobs do not have, and it can be read of every process: even of one that has
//! wiped its environment, forbids a look at it (`ssh-agent`), or runs as another user. Where the
//! limit could not be set, because one is in force already, the environment and the working directory
//! tell. Where those tell nothing, time does: a process is none of an attempt that began after it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::procfs::{self, Stat, TICK};
use super::usage;
use crate::domain::validity::boot_ms;

/// How long a sweep waits for processes that it killed: one in the middle of slow input or output
/// does not end at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Finds and ends orphans. There is one for the process, since the kernel gives orphans to the process.
#[derive(Debug)]
pub(super) struct Orphans {
    /// The children of the main thread; `None` where the kernel has no such file.
    children: Option<OwnedFd>,
    /// The path of that file.
    path: String,
    own: i32,
    /// Children that this process had before, by id and start: they are those of the program that
    /// it was before its exec.
    before: Vec<(i32, u64)>,
    next: AtomicU32,
    running: Mutex<BTreeMap<u64, Arc<AttemptMarks>>>,
    /// Only its holder reaps orphans, so that none of their ids can come to mean another process
    /// meanwhile. It holds the children that `/proc` does not show, with the time when they were
    /// first met, in milliseconds of the boot clock.
    reaping: Mutex<HashMap<i32, u64>>,
}

/// How the processes of one attempt are recognised without their number.
#[derive(Debug)]
struct AttemptMarks {
    /// The id of the process group; 0 until the process has been spawned.
    group: AtomicI32,
    /// Variables in their environment: `NAME=value`.
    variables: Vec<Vec<u8>>,
    scratch: PathBuf,
    /// When the attempt began, in milliseconds of the boot clock.
    began: u64,
}

impl AttemptMarks {
    fn recognises(&self, id: i32, stat: Option<&Stat>) -> bool {
        let group = self.group.load(Ordering::Relaxed);
        stat.is_some_and(|stat| group != 0 && stat.group == group)
            || procfs::environment_holds(id, &self.variables)
            || procfs::working_directory(id).is_some_and(|at| at.starts_with(&self.scratch))
    }
}

/// One attempt whose processes are left alone, until it has been swept.
#[derive(Debug)]
pub(super) struct Tracked {
    orphans: &'static Orphans,
    number: u64,
    known: Arc<AttemptMarks>,
}

/// Whether a limit of file locks is a number that this process gives to its attempts, whose numbers begin with `first`.
pub(super) fn is_one_of(first: u64, limit: u64) -> bool {
    limit >> 32 == first >> 32
}

/// The upper half of the numbers of this process's attempts, drawn at random: another process has another.
pub(super) fn first_number() -> u64 {
    static FIRST: OnceLock<u64> = OnceLock::new();
    // Without the highest bit, so that it can't mean "unlimited"; and always more locks than a
    // limit set on purpose would allow.
    *FIRST.get_or_init(|| ((RandomState::new().build_hasher().finish() >> 33) | 1 << 30) << 32)
}

impl Orphans {
    /// Makes this process the one to which orphans below it are given, and keeps reaping them from now on.
    pub(super) fn adopt() -> &'static Self {
        static ORPHANS: OnceLock<Orphans> = OnceLock::new();
        static KEPT: OnceLock<()> = OnceLock::new();
        let orphans = ORPHANS.get_or_init(Self::become_subreaper);
        KEPT.get_or_init(|| {
            let kept = std::thread::Builder::new().name("orphans".to_owned()).spawn(|| orphans.keep_reaping());
            if let Err(error) = kept {
                tracing::warn!(%error, "no thread to reap orphans; they are reaped when attempts end");
            }
        });
        orphans
    }

    fn become_subreaper() -> Self {
        let own = rustix::process::getpid();
        if let Err(error) = rustix::process::set_child_subreaper(Some(own)) {
            tracing::warn!(%error, "couldn't become a subreaper; processes that leave their group can outlive their job");
        }
        let own = own.as_raw_nonzero().get();
        let path = format!("/proc/self/task/{own}/children");
        let children = rustix::fs::openat(CWD, &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        let before = procfs::children_of_thread(&path).unwrap_or_default();
        let before = before.into_iter().filter_map(|id| Some((id, procfs::stat(id)?.started))).collect();
        let (next, running, reaping) = (AtomicU32::new(1), Mutex::default(), Mutex::default());
        Self { children, path, own, before, next, running, reaping }
    }

    /// Leaves the processes of this attempt alone from now on. To be called before its process is spawned.
    /// `variables` are those in its environment that no other attempt has, `scratch` is its directory.
    pub(super) fn track(&'static self, variables: Vec<Vec<u8>>, scratch: PathBuf) -> Tracked {
        let number = first_number() | u64::from(self.next.fetch_add(1, Ordering::Relaxed));
        let known = Arc::new(AttemptMarks { group: AtomicI32::new(0), variables, scratch, began: boot_ms() });
        lock(&self.running).insert(number, known.clone());
        Tracked { orphans: self, number, known }
    }

    /// The orphans that this process has been given, and other children of its main thread.
    fn children(&self) -> Vec<i32> {
        // There are hardly ever any children, and one call shows that.
        let mut glance = [0u8; 8];
        let any = |file: &OwnedFd| rustix::io::pread(file, &mut glance, 0).is_ok_and(|length| length > 0);
        if !self.children.as_ref().is_some_and(any) {
            return Vec::new();
        }
        procfs::children_of_thread(&self.path).unwrap_or_default()
    }

    /// Looks now and then, for ever: a job that runs for long may leave orphans by the thousand,
    /// and a process that did not end with its attempt is killed again.
    fn keep_reaping(&self) {
        const WHILE_SOME_RUN: Duration = Duration::from_millis(250);
        const ELSE: Duration = Duration::from_secs(1);
        const ROUNDS: usize = 10;
        loop {
            let idle = lock(&self.running).is_empty();
            std::thread::sleep(if idle { ELSE } else { WHILE_SOME_RUN });
            for _ in 0..ROUNDS {
                let killed = self.reap_and_kill(None);
                if killed.is_empty() {
                    break;
                }
                wait_for(&killed, Instant::now() + WHILE_SOME_RUN);
            }
        }
    }

    /// Looks once at all children: reaps the dead, and kills those that belong to no running
    /// attempt. `ended` is an attempt that has just ended. Answers descriptors of the killed.
    fn reap_and_kill(&self, ended: Option<&AttemptMarks>) -> Vec<OwnedFd> {
        let mut hidden = lock(&self.reaping);
        // The list is whole, since no other thread reaps meanwhile. It is read before the list of
        // running attempts: an attempt whose child is in it had begun by then.
        let children = self.children();
        if children.is_empty() {
            hidden.clear();
            return Vec::new();
        }
        if !hidden.is_empty() {
            hidden.retain(|id, _| children.contains(id));
        }
        let running: Vec<(u64, Arc<AttemptMarks>)> =
            lock(&self.running).iter().map(|(number, known)| (*number, known.clone())).collect();
        let mut victims = Vec::new();
        for id in children {
            let Some(pid) = Pid::from_raw(id) else { continue };
            let stat = procfs::stat(id);
            match stat {
                Some(stat) if stat.parent != self.own || self.before.contains(&(id, stat.started)) => continue,
                Some(stat) if stat.zombie => {
                    let _ = usage::reap(pid, false);
                    continue;
                }
                // `/proc` does not show it (`hidepid`): it is alive only if there is nothing to reap.
                None if !matches!(usage::reap(pid, false), Ok(None)) => continue,
                _ => {}
            }
            let started = stat.map_or_else(|| *hidden.entry(id).or_insert_with(boot_ms), |stat| stat.started);
            if self.must_end(id, stat.as_ref(), started, ended, &running) {
                victims.push((id, stat.map(|stat| stat.started)));
            }
        }
        kill_with_descendants(victims)
    }

    fn must_end(
        &self,
        id: i32,
        stat: Option<&Stat>,
        started: u64,
        ended: Option<&AttemptMarks>,
        running: &[(u64, Arc<AttemptMarks>)],
    ) -> bool {
        if running.is_empty() {
            return true;
        }
        let number = procfs::most_file_locks(id).filter(|limit| is_one_of(first_number(), *limit));
        if let Some(number) = number {
            return !running.iter().any(|(its, _)| *its == number);
        }
        if ended.is_some_and(|ended| ended.recognises(id, stat)) {
            return true;
        }
        !running.iter().any(|(_, known)| known.recognises(id, stat))
            && !running.iter().any(|(_, known)| known.began <= started + TICK)
    }
}

impl Tracked {
    /// The limit of file locks that every process of the attempt is to have.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Notes the attempt's process group, now that there is one.
    pub(super) fn spawned(&self, group: Pid) {
        self.known.group.store(group.as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// Those of the attempt's processes that have lost their parents.
    pub(super) fn orphans(&self) -> Vec<i32> {
        let group = self.known.group.load(Ordering::Relaxed);
        let is_its = |id: &i32| {
            procfs::stat(*id).is_some_and(|stat| stat.group == group)
                || procfs::most_file_locks(*id) == Some(self.number)
        };
        self.orphans.children().into_iter().filter(is_its).collect()
    }

    /// Kills and reaps the processes that the attempt left, after its leader has ended. Waits for
    /// their ends, but not for ever: the thread that keeps reaping tries again with the rest.
    pub(super) fn sweep(&self) {
        self.forget();
        let deadline = Instant::now() + PATIENCE;
        while !self.orphans.children().is_empty() {
            let killed = self.orphans.reap_and_kill(Some(&self.known));
            if killed.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(left = killed.len(), "processes of a job did not end when they were killed");
                return;
            }
            wait_for(&killed, deadline);
        }
    }

    fn forget(&self) {
        lock(&self.orphans.running).remove(&self.number);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Kills these processes, by id and start (`None`: a child that `/proc` does not show), and all their descendants.
fn kill_with_descendants(mut victims: Vec<(i32, Option<u64>)>) -> Vec<OwnedFd> {
    /// The next look finds more.
    const AT_ONCE: usize = 10_000;
    let mut next = 0;
    while next < victims.len() && victims.len() < AT_ONCE {
        let below = procfs::children(victims[next].0).into_iter();
        victims.extend(below.filter_map(|id| Some((id, Some(procfs::stat(id)?.started)))));
        next += 1;
    }
    let mut killed = Vec::new();
    for (id, started) in victims {
        let Some(pid) = Pid::from_raw(id) else { continue };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The descriptor holds the process now: check that the id still means the same one.
        if procfs::stat(id).map(|stat| stat.started) == started
            && rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
        {
            killed.push(pidfd);
        }
    }
    killed
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until all of these have ended, or until `deadline`.
pub(super) fn wait_for(processes: &[OwnedFd], deadline: Instant) {
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a few seconds fit");
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left));
    }
}
