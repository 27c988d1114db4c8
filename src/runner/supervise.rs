//! Supervises a process that runs: reads its output, meets its deadlines, and reaps it.
//!
//! The end of the leader decides, not the end of its pipes: processes that outlive it are killed,
//! and pipes that a process still holds open are drained for a bounded time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::Pid;
use serde_json::Value;

use super::alarm::Alarm;
use super::capture::Capture;
use super::crash::Capture as CrashCapture;
use super::directives::{Directives, Found};
use super::exit::{Ending, Stopped};
use super::limits::{self, Limits, Restraint};
use super::order::{OutputSink, StopReason, StopSignal};
use super::orphans::Tracked;
use super::spawn::Spawned;
use super::stop::Stopper;
use super::table::SharedPidTable;
use super::tracer::Tracer;
use super::usage::{self, Counted, PeakMemory};
use crate::domain::validity::boot_ms;
use crate::domain::{Clock, Stream, Tail, Timestamp, Validity};

/// How long the supervisor first watches for the end of the process alone: most short jobs have ended
/// by then, so that it wakes once and not at each of their writes. The pipes hold the output meanwhile.
const FIRST_GLANCE: Duration = Duration::from_millis(2);
/// How often the watchdog adds up memory.
const WATCHDOG: Duration = Duration::from_millis(100);

/// The stack of the thread that does what needs no tracer, in bytes.
const IO_STACK: usize = 256 << 10;

/// How soon a sink that had no room is asked again.
const SINK: Duration = Duration::from_millis(5);

/// The limits of an attempt, and what its supervisor works with.
pub(super) struct Terms<'a> {
    pub(super) timeout: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) drain: Duration,
    pub(super) output_bytes: usize,
    pub(super) stop: &'a StopSignal,
    pub(super) sink: &'a Arc<dyn OutputSink>,
    pub(super) tracked: &'a Tracked,
    pub(super) limits: &'a Limits,
    pub(super) clock: &'a Clock,
    pub(super) lease_deadline: Option<LeaseDeadline<'a>>,
    /// Memory for reading from the pipes, of any size.
    pub(super) buffer: &'a mut [u8],
    /// Interrupts this thread while it waits as a tracer; there whenever the process is traced.
    pub(super) alarm: Option<&'a Alarm>,
}

/// The time until which the process may run, which the supervisor keeps up to date in the guard's table.
pub(super) struct LeaseDeadline<'a> {
    pub(super) table: &'a SharedPidTable,
    pub(super) cell: usize,
    pub(super) validity: &'a Validity,
}

impl LeaseDeadline<'_> {
    /// Notes the validity as it is now. Answers when to do so again.
    fn note(&self, now: Instant) -> Instant {
        const LONGEST: u64 = 1000;
        self.table.extend(self.cell, self.validity);
        let left = self.validity.until().saturating_sub(boot_ms());
        now + Duration::from_millis((left / 8).clamp(20, LONGEST))
    }
}

/// What the supervisor has observed of a process from its start to its end.
pub(super) struct Observed {
    pub(super) ending: Ending,
    pub(super) counted: Counted,
    pub(super) wall: Duration,
    pub(super) ended_at: Timestamp,
    pub(super) peak_rss: u64,
    pub(super) stopped: Option<Stopped>,
    pub(super) stopping: Option<Duration>,
    pub(super) pid: Pid,
    /// The signals that Jobber sent to stop it, and how long after its start.
    pub(super) signals: Vec<(i32, Duration)>,
    pub(super) stdout: Tail,
    pub(super) stderr: Tail,
    pub(super) result: Option<Value>,
    /// What was seen of a crash.
    pub(super) crash: Option<Box<CrashCapture>>,
}

/// Watches a process from its spawn until nothing of it is left.
pub(super) struct Supervisor<'a> {
    process: Spawned,
    restraint: &'a mut Restraint,
    terms: Terms<'a>,
    stopper: Stopper,
    timeout_at: Option<Instant>,
    stop_seen: bool,
    memory: PeakMemory,
    watchdog_at: Option<(Instant, u64)>,
    lease_check_at: Option<Instant>,
    captured: CapturedOutput,
}

/// The output of the process: what is kept of it, and where it goes.
struct CapturedOutput {
    scanner: Directives,
    stdout: Capture,
    stderr: Capture,
    result: Option<Value>,
    sink: Arc<dyn OutputSink>,
}

/// Kills the group of a process that is not reaped yet.
struct KillUnlessForgotten(Pid);

impl Drop for KillUnlessForgotten {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.0, rustix::process::Signal::KILL);
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Source {
    End,
    Stop,
    Stdout,
    Stderr,
    Input,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(process: Spawned, restraint: &'a mut Restraint, mut terms: Terms<'a>) -> Self {
        let started = process.started;
        let captured = CapturedOutput {
            scanner: Directives::new(),
            stdout: Capture::new(terms.output_bytes),
            stderr: Capture::new(terms.output_bytes),
            result: None,
            sink: terms.sink.clone(),
        };
        terms.grace = terms.grace.min(crate::domain::JobOptions::MAX_DURATION);
        Self {
            stopper: Stopper::new(process.pid, terms.grace),
            timeout_at: terms.timeout.and_then(|timeout| started.checked_add(timeout)),
            stop_seen: false,
            memory: PeakMemory::new(started),
            watchdog_at: restraint.watched().map(|limit| (started + WATCHDOG / 10, limit)),
            lease_check_at: terms.lease_deadline.as_ref().map(|_| started),
            captured,
            process,
            restraint,
            terms,
        }
    }

    /// Returns when the process has ended, the processes that it left are gone, and its pipes are drained.
    pub(super) fn run(mut self) -> std::io::Result<Observed> {
        let mut tracer = self.process.tracer.take().zip(self.terms.alarm);
        match &mut tracer {
            Some((tracer, alarm)) => self.serve(tracer, alarm),
            None => {
                if !self.glance() {
                    while !self.wait_for_event(None) {}
                }
            }
        }
        let ended = Instant::now();
        let ended_at = self.terms.clock.now();
        let (stopped, stopping) = self.stopper.stopped(ended);
        let started = self.process.started;
        let signals = self.stopper.sent().iter().map(|(signal, at)| (*signal, at.duration_since(started))).collect();
        // The leader is not reaped yet, so the group's id can't have come to mean another one.
        let _ = rustix::process::kill_process_group(self.process.pid, rustix::process::Signal::KILL);
        self.restraint.kill_all();
        let (ending, counted) = usage::reap(self.process.pid, true)?
            .ok_or_else(|| std::io::Error::other("a process that has ended could not be reaped"))?;
        self.process.reaped = true;
        let traced = tracer.map(|(tracer, _)| tracer.finish()).unwrap_or_default();
        let floor = usage::own_max_rss();
        self.terms.tracked.sweep();
        self.drain(ended);
        let CapturedOutput { scanner, mut stdout, stderr, mut result, sink } = self.captured;
        scanner.finish(|found| note(&mut stdout, &mut result, &sink, found));
        sink.end();
        Ok(Observed {
            ending,
            counted,
            wall: ended.duration_since(started),
            ended_at,
            peak_rss: self.restraint.peak().unwrap_or_else(|| self.memory.finish(&counted, floor, traced.peak_rss)),
            stopped,
            stopping,
            pid: self.process.pid,
            signals,
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            result,
            crash: traced.crash,
        })
    }

    /// Supervises a traced process until it has ended. A tracer can wait for what it traces or for all else, not for both:
    /// so a job that lives longer than a glance gets another thread that does what needs no tracer.
    fn serve(&mut self, tracer: &mut Tracer, alarm: &Alarm) {
        if let Some(glance) = self.first_glance()
            && tracer.serve(alarm, Some(self.process.started + glance))
        {
            return;
        }
        let started = std::thread::scope(|scope| {
            let others = std::thread::Builder::new().name("attempt-io".to_owned()).stack_size(IO_STACK);
            let started = others.spawn_scoped(scope, || self.serve_all_else()).is_ok();
            if started {
                tracer.serve(alarm, None);
            }
            started
        });
        if !started {
            // The system has no thread left: do both in turn.
            loop {
                tracer.serve_waiting();
                if self.wait_for_event(Some(FIRST_GLANCE)) {
                    break;
                }
            }
        }
    }

    /// Does all that needs no tracer until the process has ended.
    fn serve_all_else(&mut self) {
        // If this panics nobody stops the process any more, and its tracer would wait for ever.
        let killer = KillUnlessForgotten(self.process.pid);
        while !self.wait_for_event(None) {}
        std::mem::forget(killer);
    }

    /// How long the supervisor may first watch for the end of the process alone; `None` if something else is to be done.
    fn first_glance(&self) -> Option<Duration> {
        let is_over = self.terms.lease_deadline.as_ref().is_some_and(|deadline| deadline.validity.is_over());
        let glance = self.terms.timeout.map_or(FIRST_GLANCE, |timeout| timeout.min(FIRST_GLANCE));
        (self.process.input.is_none() && !is_over).then_some(glance)
    }

    /// Waits a moment for the end alone. Answers true when the process has ended.
    fn glance(&mut self) -> bool {
        let Some(glance) = self.first_glance() else { return false };
        let glance = Timespec::try_from(glance);
        let mut fds =
            [PollFd::new(&self.process.pidfd, PollFlags::IN), PollFd::new(&self.terms.stop.0.event, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&glance.expect("two milliseconds fit")));
        fds[0].revents().contains(PollFlags::IN)
    }

    /// Waits for the next thing to do, `at_most` so long, and does it. Answers true when the process has ended.
    fn wait_for_event(&mut self, at_most: Option<Duration>) -> bool {
        let now = Instant::now();
        self.meet_deadlines(now);
        let mut left =
            self.next_deadline().map(|at| at.saturating_duration_since(now)).into_iter().chain(at_most).min();
        let speaks = self.process.stdout.is_some() || self.process.stderr.is_some();
        let held_up = speaks && !self.captured.sink.has_room();
        if held_up {
            left = Some(left.map_or(SINK, |left| left.min(SINK)));
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut sources = vec![Source::End];
        let mut fds = vec![PollFd::new(&self.process.pidfd, PollFlags::IN)];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if !self.stop_seen {
            add(Source::Stop, self.terms.stop.0.event.as_fd(), PollFlags::IN);
        }
        if let Some(stdout) = self.process.stdout.as_ref().filter(|_| !held_up) {
            add(Source::Stdout, stdout.as_fd(), PollFlags::IN);
        }
        if let Some(stderr) = self.process.stderr.as_ref().filter(|_| !held_up) {
            add(Source::Stderr, stderr.as_fd(), PollFlags::IN);
        }
        if let Some(feed) = &self.process.input {
            add(Source::Input, feed.pipe.as_fd(), PollFlags::OUT);
        }
        if poll(&mut fds, left.as_ref()).is_err() {
            // Interrupted: look again.
            return false;
        }
        let ready: Vec<(Source, PollFlags)> = sources
            .into_iter()
            .zip(&fds)
            .map(|(source, fd)| (source, fd.revents()))
            .filter(|(_, f)| !f.is_empty())
            .collect();
        drop(fds);
        let mut ended = false;
        for (source, flags) in ready {
            match source {
                Source::End => ended = true,
                Source::Stop => self.stop_seen = true,
                Source::Stdout => self.read(Stream::Stdout, flags),
                Source::Stderr => self.read(Stream::Stderr, flags),
                Source::Input => {
                    if self.process.input.as_mut().is_some_and(|feed| !feed.write()) {
                        self.process.input = None;
                    }
                }
            }
        }
        ended
    }

    fn meet_deadlines(&mut self, now: Instant) {
        let leader = self.process.pidfd.as_fd();
        if let Some(reason) = self.terms.stop.reason() {
            self.stopper.stop(Stopped::Asked(reason), leader, now);
        }
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = None;
            self.stopper.stop(Stopped::Timeout, leader, now);
        }
        if let Some((at, limit)) = self.watchdog_at
            && at <= now
        {
            if limits::is_above(limit, self.process.pid, self.terms.tracked) {
                self.stopper.stop(Stopped::Memory, leader, now);
            }
            self.watchdog_at = Some((now + WATCHDOG, limit));
        }
        if let Some(deadline) =
            self.terms.lease_deadline.as_ref().filter(|_| self.lease_check_at.is_some_and(|at| at <= now))
        {
            self.lease_check_at = Some(deadline.note(now));
            // Another worker may have the job: no process of it may go on, whether the guard has
            // seen to that or not.
            if deadline.validity.is_over() {
                self.stopper.stop(Stopped::Asked(StopReason::Lapsed), leader, now);
                self.stopper.kill(leader);
            }
        }
        if self.memory.tick(self.process.pid, now) {
            self.terms.limits.refresh(self.restraint);
        }
        let killing = self.stopper.deadline().is_some_and(|at| at <= now);
        self.stopper.tick(leader, now);
        if killing {
            self.restraint.kill_all();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let watchdog = self.watchdog_at.map(|(at, _)| at);
        let others = [self.timeout_at, self.stopper.deadline(), watchdog, self.lease_check_at];
        others.into_iter().flatten().chain([self.memory.deadline()]).min()
    }

    /// Reads once from a stream that `poll` found ready.
    fn read(&mut self, stream: Stream, flags: PollFlags) {
        let pipe = match stream {
            Stream::Stdout => &mut self.process.stdout,
            Stream::Stderr => &mut self.process.stderr,
        };
        let Some(open) = pipe else { return };
        if !flags.contains(PollFlags::IN) {
            // Hung up, and nothing left in it.
            *pipe = None;
            return;
        }
        match rustix::io::read(open, &mut *self.terms.buffer) {
            Ok(0) => *pipe = None,
            Ok(n) => {
                // With no writer left, less than was asked for is all there was.
                if flags.contains(PollFlags::HUP) && n < self.terms.buffer.len() {
                    *pipe = None;
                }
                self.captured.capture(stream, &self.terms.buffer[..n]);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => *pipe = None,
        }
    }

    /// Reads the rest of the output: to the ends of the pipes, or until the time for it is over.
    fn drain(&mut self, ended: Instant) {
        let deadline = ended + self.terms.drain.min(Duration::from_secs(3600));
        // After the deadline one last look reads what the pipes hold then: at most two pipes full.
        let mut last_look = false;
        while self.process.stdout.is_some() || self.process.stderr.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && std::mem::replace(&mut last_look, true) {
                return;
            }
            if !left.is_zero() && !self.captured.sink.has_room() {
                std::thread::sleep(SINK.min(left));
                continue;
            }
            let streams: Vec<(Stream, &OwnedFd)> =
                [(Stream::Stdout, &self.process.stdout), (Stream::Stderr, &self.process.stderr)]
                    .into_iter()
                    .filter_map(|(stream, pipe)| Some((stream, pipe.as_ref()?)))
                    .collect();
            let mut fds: Vec<PollFd<'_>> = streams.iter().map(|(_, pipe)| PollFd::new(*pipe, PollFlags::IN)).collect();
            let left = Timespec::try_from(left).expect("an hour fits");
            if poll(&mut fds, Some(&left)).is_err() {
                continue;
            }
            let ready: Vec<(Stream, PollFlags)> =
                streams.iter().zip(&fds).map(|((stream, _), fd)| (*stream, fd.revents())).collect();
            for (stream, flags) in ready {
                if !flags.is_empty() {
                    self.read(stream, flags);
                }
            }
        }
    }
}

impl CapturedOutput {
    fn capture(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Stderr => {
                self.stderr.push(bytes);
                self.sink.output(Stream::Stderr, bytes);
            }
            Stream::Stdout => {
                let CapturedOutput { scanner, stdout, result, sink, .. } = self;
                scanner.push(bytes, |found| note(stdout, result, sink, found));
            }
        }
    }
}

fn note(stdout: &mut Capture, result: &mut Option<Value>, sink: &Arc<dyn OutputSink>, found: Found<'_>) {
    match found {
        Found::Plain(bytes) => {
            stdout.push(bytes);
            sink.output(Stream::Stdout, bytes);
        }
        Found::Progress(progress) => sink.progress(progress),
        // The last one counts.
        Found::Result(value) => *result = Some(value),
    }
}
