//! Crash reports: from a thread that has stopped for a fatal signal to what is told of it.
//!
//! Two steps. While the thread stands still, [`capture()`] takes what is gone afterwards: the signal, the registers, what is
//! mapped, the frames of the stack, the names of threads; and it opens the files of the modules that the frames are of.
//! When the process was let go, [`symbolise()`] finds functions and lines in those files. Both end by their deadline with
//! what they have, and say what is lacking. The job chooses what is in its memory and in its files: what is read is
//! bounded, and a panic of a parser costs the report and nothing else.

mod capture;
mod debug_file;
mod debug_info;
mod elf;
mod frame;
mod guess;
mod maps;
mod modules;
mod names;
mod own;
mod source;
mod stopped;
mod symbolise;
mod tables;
#[cfg(test)]
mod tests;
mod walk;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::domain::Crash;

/// What was taken of a process while it stood still.
#[derive(Debug)]
pub(super) struct Capture {
    /// What is known already: all but the frames.
    crash: Crash,
    walk: walk::Walk,
    modules: Vec<modules::Module>,
}

impl Capture {
    /// The process that crashed.
    pub(super) fn process(&self) -> i32 {
        self.crash.process
    }
}

/// Takes what there is to know of a thread. The calling thread must be its tracer, and it must be in a ptrace stop, best in
/// that for the signal that is about to end it. `None` when it is gone.
pub(super) fn capture(thread: i32, deadline: Instant) -> Option<Capture> {
    let started = Instant::now();
    let mut capture = catch_unwind(|| capture::capture(thread, deadline)).unwrap_or_else(|_| {
        let (mut crash, _) = capture::head(thread)?;
        crash.lacks(PANICKED);
        Some(Capture { crash, walk: walk::Walk::default(), modules: Vec::new() })
    })?;
    capture.crash.took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Some(capture)
}

/// Finds the functions and lines of what was taken. The process may go on, or be gone.
pub(super) fn symbolise(capture: Capture, deadline: Instant) -> Crash {
    let mut crash = capture.crash.clone();
    let named = catch_unwind(AssertUnwindSafe(|| symbolise::frames(&capture, &mut crash, deadline)));
    if named.is_err() {
        crash = capture.crash;
        crash.lacks(PANICKED);
    }
    crash.fit();
    crash
}

const PANICKED: &str = "the program's memory or files are of a form that could not be read";
