//! Traces the processes of an attempt, to be told when one of them is about to die of a fatal signal.
//!
//! The thread that spawns is the tracer, and waits in waitid(2): what is traced stands at each of its signals, and at the
//! start of each thread, until the tracer lets it go on. Nothing else changes for the job: every signal is delivered as
//! it came, and its outcome, its exit code and the verdict of a sanitizer are the same with a tracer and without.
//!
//! The kernel lets a process ask for its tracer (`PTRACE_TRACEME`, see `launch`) even where it would not let this
//! process, which guards its memory, take hold of it. What asked so can't be left alone in a group stop (SIGSTOP and the
//! like; `PTRACE_LISTEN` is for what was seized), so the tracer looks now and then whether SIGCONT waits for it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::alarm::Alarm;
use super::crash::{self, Capture};
use super::procfs;
use super::ptrace::{self, Change, events, options};
use super::sanitizer;

/// So many stops for signals and starts of threads, and the attempt is let go: each costs it some 10 µs, so a job that
/// lives by timers would be slowed.
const MOST_STOPS: u32 = 4096;
/// So many crashes are looked at. A program whose children crash by the thousand is told enough.
const MOST_CRASHES: u32 = 16;
/// How often the tracer looks whether what stands in a group stop is to go on.
const GROUP_STOP: Duration = Duration::from_millis(20);
const SHORTEST_RING: Duration = Duration::from_micros(100);

/// Signals that a program dies of by a fault of its own, or to show where it is (SIGQUIT).
pub(super) const FATAL: [i32; 8] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGQUIT,
];

/// What of an attempt is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The process, with its threads.
    Process,
    /// Its descendants too: no debugger can be used within the job then.
    Tree,
}

/// Traces one attempt, from the exec of its program on. All calls are for the thread that spawned it.
pub(super) struct Tracer {
    leader: i32,
    scope: Scope,
    /// Of a crash, how long its process may be made to stand.
    patience: Duration,
    /// Threads that have had the stop with which the kernel lets what is newly traced begin.
    begun: HashSet<i32>,
    /// Threads that stand in a group stop.
    standing: Vec<i32>,
    stops: u32,
    /// Whether each thread is let go for good at its next stop.
    letting_go: bool,
    crashes: u32,
    crash: Option<Box<Capture>>,
    peak_rss: u64,
}

/// What a tracer has seen of an attempt.
#[derive(Default)]
pub(super) struct Traced {
    /// The crash that ended it, if one did.
    pub(super) crash: Option<Box<Capture>>,
    /// The most memory that its leader had resident, in bytes, as it was about to die of a signal; 0 when it was not.
    pub(super) peak_rss: u64,
}

impl Tracer {
    /// Takes up a process that has asked to be traced and is executing its program with its signals blocked. `None` when
    /// it was killed meanwhile.
    pub(super) fn begin(leader: Pid, scope: Scope, patience: Duration) -> Option<Self> {
        let leader = leader.as_raw_nonzero().get();
        loop {
            match ptrace::next_change_of(leader) {
                Ok(Some((_, Change::Stopped { .. }))) => break,
                Ok(Some((_, Change::Ended))) | Err(_) => return None,
                Ok(None) => {}
            }
        }
        let mut wanted = options::EXIT_KILL | options::TRACE_EXEC | options::TRACE_CLONE;
        if scope == Scope::Tree {
            wanted |= options::TRACE_FORK | options::TRACE_VFORK;
        }
        let mut tracer = Self {
            leader,
            scope,
            patience,
            begun: HashSet::from([leader]),
            standing: Vec::new(),
            stops: 0,
            letting_go: false,
            crashes: 0,
            crash: None,
            peak_rss: 0,
        };
        // These fail only if it was killed meanwhile, or a filter of system calls forbids them.
        tracer.letting_go = ptrace::set_options(leader, wanted).is_err();
        if let Err(error) = ptrace::unblock_signals(leader) {
            tracing::debug!(%error, "a traced process could not be given its signals");
        }
        tracer.go_on(leader, 0);
        Some(tracer)
    }

    /// Serves what stops until the leader has ended, which is left to be reaped, or until it is late. Answers whether the
    /// leader has ended.
    pub(super) fn serve(&mut self, alarm: &Alarm, late: Option<Instant>) -> bool {
        let until_late = late.map(|late| late.saturating_duration_since(Instant::now()).max(SHORTEST_RING));
        let mut rings = None;
        let ended = loop {
            let should_ring = until_late.or_else(|| (!self.standing.is_empty()).then_some(GROUP_STOP));
            if rings != should_ring {
                should_ring.map_or_else(|| alarm.silence(), |interval| alarm.ring_every(interval));
                rings = should_ring;
            }
            match ptrace::next_change(true) {
                Ok(Some(change)) if self.take(change) => break true,
                Ok(Some(_)) => {}
                Ok(None) => self.end_group_stop(),
                // Nothing is left to wait for.
                Err(_) => break true,
            }
            if late.is_some_and(|late| late <= Instant::now()) {
                break false;
            }
        };
        if rings.is_some() {
            alarm.silence();
        }
        ended
    }

    /// Serves what stands now.
    pub(super) fn serve_waiting(&mut self) {
        self.end_group_stop();
        while let Ok(Some(change)) = ptrace::next_change(false) {
            if self.take(change) {
                return;
            }
        }
    }

    /// What was seen. To be called when the leader has been reaped and its group killed: reaps what else of the attempt
    /// this thread traced.
    pub(super) fn finish(self) -> Traced {
        // Another thread or process begins with a stop of the one that started it.
        if self.stops > 0 {
            reap_the_rest();
        }
        Traced { crash: self.crash, peak_rss: self.peak_rss }
    }

    /// Answers whether it was the end of the leader.
    fn take(&mut self, (tid, change): (i32, Change)) -> bool {
        match change {
            Change::Ended if tid == self.leader => return true,
            Change::Ended => {
                self.begun.remove(&tid);
                self.standing.retain(|standing| *standing != tid);
                ptrace::reap(tid);
            }
            Change::Stopped { signal, event: 0 } => self.at_signal(tid, signal),
            Change::Stopped { event: events::EXEC, .. } => self.at_exec(tid),
            Change::Stopped { event, .. } => {
                if matches!(event, events::CLONE | events::FORK | events::VFORK) {
                    self.count_stop();
                }
                self.go_on(tid, 0);
            }
        }
        false
    }

    fn at_exec(&mut self, tid: i32) {
        // The threads of the program before are gone, whichever of them this was.
        if self.scope == Scope::Process {
            self.begun.clear();
        }
        self.begun.insert(tid);
        if sanitizer::forbids_tracing(format!("/proc/{tid}/exe")) {
            self.begun.remove(&tid);
            let _ = ptrace::detach(tid, 0);
        } else {
            self.go_on(tid, 0);
        }
    }

    fn at_signal(&mut self, tid: i32, signal: i32) {
        if !self.begun.contains(&tid) && signal == libc::SIGSTOP {
            if self.scope == Scope::Process && !ptrace::is_thread_of(self.leader, tid) {
                // A process that was made by a clone of an unusual kind.
                let _ = ptrace::detach(tid, 0);
            } else {
                self.begun.insert(tid);
                self.go_on(tid, 0);
            }
            return;
        }
        let stops = matches!(signal, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
        if stops && ptrace::is_group_stop(tid) {
            self.standing.push(tid);
            return;
        }
        if FATAL.contains(&signal) && self.crashes < MOST_CRASHES && kills(tid, signal) {
            self.crashes += 1;
            self.look_at(tid);
        } else {
            self.count_stop();
        }
        self.go_on(tid, signal);
    }

    /// Takes down where a thread is about to die.
    fn look_at(&mut self, tid: i32) {
        if ptrace::is_thread_of(self.leader, tid) {
            self.peak_rss = procfs::peak_rss(tid).unwrap_or(0);
        }
        let Some(capture) = crash::capture(tid, Instant::now() + self.patience) else { return };
        // Of several crashes the leader's counts: it ends the attempt. Else the last is nearest to the end.
        let leads = |capture: &Capture| capture.process() == self.leader;
        if leads(&capture) || !self.crash.as_deref().is_some_and(leads) {
            self.crash = Some(Box::new(capture));
        }
    }

    fn count_stop(&mut self) {
        self.stops += 1;
        if self.stops == MOST_STOPS {
            tracing::debug!(
                leader = self.leader,
                "a job is traced no more: it takes very many signals or starts many threads"
            );
            self.letting_go = true;
        }
    }

    /// A thread that is gone meanwhile was killed, and its end is told.
    fn go_on(&mut self, tid: i32, signal: i32) {
        let _ = if self.letting_go { ptrace::detach(tid, signal) } else { ptrace::resume(tid, signal) };
    }

    /// Lets what stands in a group stop go on, if its process was told to (SIGCONT).
    fn end_group_stop(&mut self) {
        let go_on: Vec<i32> = self.standing.extract_if(.., |tid| procfs::has_pending(*tid, libc::SIGCONT)).collect();
        for tid in go_on {
            self.go_on(tid, 0);
        }
    }
}

/// Reaps whatever this thread traces and has no more use for, as far as that has ended.
pub(super) fn reap_the_rest() {
    while let Ok(Some((tid, change))) = ptrace::next_change(false) {
        match change {
            Change::Ended => ptrace::reap(tid),
            Change::Stopped { signal, event } => {
                let _ = ptrace::detach(tid, if event == 0 { signal } else { 0 });
            }
        }
    }
}

/// Reaps the leader of a group that has been killed, and all else that this thread traced.
pub(super) fn reap_killed(leader: Pid) {
    let leader = leader.as_raw_nonzero().get();
    loop {
        match ptrace::next_change(true) {
            Ok(Some((tid, Change::Ended))) => {
                ptrace::reap(tid);
                if tid == leader {
                    return reap_the_rest();
                }
            }
            Ok(Some((tid, Change::Stopped { .. }))) => {
                let _ = ptrace::detach(tid, libc::SIGKILL);
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// Whether a thread dies of a signal that is about to be delivered: it has no handler for it and does not ignore it.
/// (What the kernel forces on a thread is neither blocked nor ignored any more by then.)
fn kills(tid: i32, signal: i32) -> bool {
    procfs::dispositions(tid).is_none_or(|(ignored, caught)| {
        let bit = 1u64 << (signal - 1);
        (ignored | caught) & bit == 0
    })
}
