//! Stops a process group: SIGTERM, a grace period, SIGKILL.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::exit::Stopped;
use super::order::StopReason;

/// The grace period of an attempt whose job another worker may run any moment.
const HASTE: Duration = Duration::from_millis(100);

/// Stops one process group, which lives as long as its leader has not been reaped.
#[derive(Debug)]
pub(super) struct Stopper {
    group: Pid,
    grace: Duration,
    stopped: Option<Stopped>,
    asked_at: Option<Instant>,
    kill_at: Option<Instant>,
    /// The signals that asked the group to end, and when each was sent first.
    sent: Vec<(i32, Instant)>,
}

impl Stopper {
    pub(super) fn new(group: Pid, grace: Duration) -> Self {
        Self { group, grace, stopped: None, asked_at: None, kill_at: None, sent: Vec::new() }
    }

    /// Asks the group to end. A group that lacks memory or has no grace period is killed at once.
    /// The first reason counts.
    pub(super) fn stop(&mut self, why: Stopped, leader: BorrowedFd<'_>, now: Instant) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(why);
        self.asked_at = Some(now);
        if why == Stopped::Memory || self.grace.is_zero() {
            self.kill(leader);
            return;
        }
        let hurried = why == Stopped::Asked(StopReason::Lapsed);
        self.kill_at = now.checked_add(if hurried { self.grace.min(HASTE) } else { self.grace });
        self.signal(leader, Signal::TERM);
        // A process that is stopped (SIGSTOP) hears SIGTERM only when it goes on.
        self.signal(leader, Signal::CONT);
    }

    /// Kills the group when its grace period is over.
    pub(super) fn tick(&mut self, leader: BorrowedFd<'_>, now: Instant) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill(leader);
        }
    }

    /// Kills the group now.
    pub(super) fn kill(&mut self, leader: BorrowedFd<'_>) {
        self.kill_at = None;
        self.signal(leader, Signal::KILL);
    }

    /// Sends the signal to the group, and to the leader in case it has left its own group. A
    /// process that is gone already needs no signal.
    fn signal(&mut self, leader: BorrowedFd<'_>, signal: Signal) {
        let number = signal.as_raw();
        if signal != Signal::CONT && self.sent.iter().all(|(sent, _)| *sent != number) {
            self.sent.push((number, Instant::now()));
        }
        let _ = rustix::process::kill_process_group(self.group, signal);
        let _ = rustix::process::pidfd_send_signal(leader, signal);
    }

    /// When [`Stopper::tick`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.kill_at
    }

    /// The signals that asked the group to end, in order, and when each was sent first.
    pub(super) fn sent(&self) -> &[(i32, Instant)] {
        &self.sent
    }

    /// Why Jobber stopped the group, and how long ago.
    pub(super) fn stopped(&self, now: Instant) -> (Option<Stopped>, Option<Duration>) {
        (self.stopped, self.asked_at.map(|at| now.duration_since(at)))
    }
}
