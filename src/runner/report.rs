//! Makes the report of an attempt from what was observed of it.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use serde_json::Value;

use super::crash;
use super::exit::{self, MemoryEvidence};
use super::limits::{Limits, Restraint};
use super::supervise::Observed;
use crate::domain::outcome::signal_name;
use crate::domain::{AttemptReport, Crash, Outcome, SentSignal, Timestamp, Usage, last_lines};

use super::order::RunOrder;

/// How many bytes of an error file are read.
const ERROR_FILE: usize = 64 * 1024;
/// How long the names and lines of a stack may be looked up. The process has ended by then.
const SYMBOLS: Duration = Duration::from_secs(2);
/// How many bytes of the end of standard error stand for an error.
const LAST_WORDS: usize = 4096;

/// Puts the report together. `error_file` is where the job may have written why it failed.
pub(super) fn report(
    order: &RunOrder,
    started_at: Timestamp,
    cpus: Vec<u32>,
    observed: Observed,
    (limits, restraint): (&Limits, &Restraint),
    error_file: &Path,
) -> AttemptReport {
    let evidence = match observed.stopped {
        Some(_) => MemoryEvidence::default(),
        None => limits.evidence(restraint, observed.ending, observed.peak_rss, &observed.stderr),
    };
    let outcome = exit::outcome(observed.ending, observed.stopped, evidence, &order.no_retry_exit_codes);
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let usage = Usage {
        wall_us: micros(observed.wall),
        user_us: observed.counted.user_us,
        system_us: observed.counted.system_us,
        peak_rss_bytes: observed.peak_rss,
    };
    let success = outcome.is_success();
    // A child may crash, and the job do well without it.
    let crash = observed.crash.filter(|_| !success);
    let crash = crash.map(|capture| {
        let mut crash = crash::symbolise(*capture, Instant::now() + SYMBOLS);
        crash.of_child = crash.process != observed.pid.as_raw_nonzero().get();
        Box::new(crash)
    });
    let error = (!success).then(|| {
        let written = read_error_file(error_file);
        error_text(&outcome, order, crash.as_deref(), written.as_deref(), &observed.stderr.text)
    });
    let result =
        success.then(|| observed.result.unwrap_or_else(|| Value::String(observed.stdout.text.trim().to_owned())));
    AttemptReport {
        outcome,
        started_at,
        ended_at: observed.ended_at,
        usage: Some(usage),
        build: None,
        cpus,
        memory_limit_bytes: order.memory_bytes,
        peak_beside: 0,
        beside_at_start: None,
        no_retry: None,
        stdout: observed.stdout,
        stderr: observed.stderr,
        error,
        result,
        crash,
        stopping_ms: observed.stopping,
        files: Vec::new(),
        files_note: None,
        pid: Some(observed.pid.as_raw_nonzero().get().unsigned_abs()),
        signals: observed
            .signals
            .into_iter()
            .map(|(signal, after)| SentSignal { signal, at: started_at + after })
            .collect(),
    }
}

/// What the job wrote to its error file, unless that is blank. Only a regular file is read: a pipe
/// could block, and a link could lead elsewhere.
fn read_error_file(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
    if !kind.is_file() {
        return None;
    }
    let mut bytes = vec![0; ERROR_FILE];
    let mut length = 0;
    while length < bytes.len() {
        match rustix::io::read(&file, &mut bytes[length..]).ok()? {
            0 => break,
            n => length += n,
        }
    }
    let text = String::from_utf8_lossy(&bytes[..length]).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Says for people why the attempt failed. What the job itself said tells most; what only Jobber
/// knows stands before it.
fn error_text(
    outcome: &Outcome,
    order: &RunOrder,
    crash: Option<&Crash>,
    written: Option<&str>,
    stderr: &str,
) -> String {
    let words = written.unwrap_or_else(|| last_lines(stderr, LAST_WORDS));
    let own = match crash {
        Some(crash) if matches!(outcome, Outcome::Exit { .. } | Outcome::Signal { .. }) => crash.sentence(),
        _ => sentence(outcome, order),
    };
    match outcome {
        Outcome::Exit { .. } if !words.is_empty() && crash.is_none() => words.to_owned(),
        _ if words.is_empty() => own,
        _ => format!("{own}: {words}"),
    }
}

fn sentence(outcome: &Outcome, order: &RunOrder) -> String {
    match outcome {
        Outcome::Exit { code } => format!("exited with code {code} and wrote nothing to standard error"),
        Outcome::Signal { signal } => match signal_name(*signal) {
            Some(name) => format!("killed by signal {signal} (SIG{name})"),
            None => format!("killed by signal {signal}"),
        },
        Outcome::Timeout => match order.timeout {
            Some(timeout) => format!("timed out after {}", humantime::format_duration(timeout)),
            None => "timed out".to_owned(),
        },
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Oom => match order.memory_bytes {
            Some(limit) => format!("ran out of memory (limit {})", mebibytes(limit)),
            None => "ran out of memory: killed by the kernel".to_owned(),
        },
        Outcome::Lost => "stopped because its worker had to give it up".to_owned(),
        Outcome::SpawnError { .. } => "could not be started".to_owned(),
    }
}

fn mebibytes(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if bytes.is_multiple_of(MIB) { format!("{} MiB", bytes / MIB) } else { format!("{bytes} bytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(mebibytes(64 << 20), "64 MiB");
        assert_eq!(mebibytes(1_500_000), "1500000 bytes");
    }
}
