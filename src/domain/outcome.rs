//! How an attempt ended, and what it used. Every layer speaks of these seven outcomes and no others.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Crash, FileBuild, KeptFile, Timestamp, from_text, time::millis, to_text};

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The process ended by itself with this code, 0 to 255.
    Exit {
        /// The exit code.
        code: i32,
    },
    /// A signal that Jobber did not send ended it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It ran past its time limit and was stopped.
    Timeout,
    /// A caller cancelled the job.
    Cancelled,
    /// It ran past its memory limit, or the kernel killed it for want of memory.
    Oom,
    /// The process could not be started at all.
    SpawnError {
        /// What kept the worker from starting it.
        reason: SpawnFailure,
    },
    /// The worker ended, or gave the job back, before the attempt did.
    Lost,
}

/// Why a process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpawnFailure {
    /// There is no such binary in the jobs directory.
    NotFound,
    /// There is a file, but it may not be run: a directory, no run bit, a link out of the jobs directory, a wrong format.
    NotExecutable,
    /// The system refused: no process, memory, file descriptor or disk left. Another try may work.
    System,
}

/// The seven outcomes without what they carry: the key of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is documented at its twin in Outcome")]
pub enum OutcomeKind {
    Exit,
    Signal,
    Timeout,
    Cancelled,
    Oom,
    SpawnError,
    Lost,
}

impl Outcome {
    /// True for exit code 0 and nothing else.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Exit { code: 0 })
    }

    /// Which of the seven this is.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Outcome::Exit { .. } => OutcomeKind::Exit,
            Outcome::Signal { .. } => OutcomeKind::Signal,
            Outcome::Timeout => OutcomeKind::Timeout,
            Outcome::Cancelled => OutcomeKind::Cancelled,
            Outcome::Oom => OutcomeKind::Oom,
            Outcome::SpawnError { .. } => OutcomeKind::SpawnError,
            Outcome::Lost => OutcomeKind::Lost,
        }
    }
}

/// The name that people know a signal by, without `SIG`; `None` for a number that Linux does not name.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    usize::try_from(signal).ok()?.checked_sub(1).and_then(|i| NAMES.get(i)).copied()
}

/// The number of a signal that is given by number or by name, with `SIG` or without.
pub fn signal_number(text: &str) -> Option<i32> {
    let name = text.trim().to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = (1..=31).find(|signal| signal_name(*signal) == Some(name));
    named.or_else(|| text.trim().parse().ok())
}

impl OutcomeKind {
    /// All seven.
    pub const ALL: [OutcomeKind; 7] = [
        OutcomeKind::Exit,
        OutcomeKind::Signal,
        OutcomeKind::Timeout,
        OutcomeKind::Cancelled,
        OutcomeKind::Oom,
        OutcomeKind::SpawnError,
        OutcomeKind::Lost,
    ];

    /// The word that stands in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            OutcomeKind::Exit => "exit",
            OutcomeKind::Signal => "signal",
            OutcomeKind::Timeout => "timeout",
            OutcomeKind::Cancelled => "cancelled",
            OutcomeKind::Oom => "oom",
            OutcomeKind::SpawnError => "spawn_error",
            OutcomeKind::Lost => "lost",
        }
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for OutcomeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is no outcome: there are {words}")
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Outcome::Exit { code } => format!("exit {code}"),
            Outcome::Signal { signal } => match signal_name(*signal) {
                Some(name) => format!("signal {signal} (SIG{name})"),
                None => format!("signal {signal}"),
            },
            Outcome::Timeout => "timeout".to_owned(),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Oom => "oom".to_owned(),
            Outcome::SpawnError { reason: SpawnFailure::NotFound } => "spawn_error (no such binary)".to_owned(),
            Outcome::SpawnError { reason: SpawnFailure::NotExecutable } => "spawn_error (not executable)".to_owned(),
            Outcome::SpawnError { reason: SpawnFailure::System } => "spawn_error".to_owned(),
            Outcome::Lost => "lost".to_owned(),
        };
        f.pad(&text)
    }
}

/// The error of a job that was stopped on request, with the `reason` that was given; it may be empty.
pub fn cancelled_because(reason: &str) -> String {
    if reason.is_empty() { "cancelled".to_owned() } else { format!("cancelled: {reason}") }
}

/// What an attempt used, as the kernel counted it (`wait4`): the process and every descendant that it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// From spawn to exit, in microseconds.
    pub wall_us: u64,
    /// CPU time in user mode, in microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, in microseconds.
    pub system_us: u64,
    /// The largest resident set of any one process, in bytes.
    pub peak_rss_bytes: u64,
}

impl Usage {
    /// User and system time together, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        self.user_us + self.system_us
    }
}

/// Which stream of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// The end of a stream: what was kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Tail {
    /// The last bytes written, as text; U+FFFD stands for what is no UTF-8.
    pub text: String,
    /// The last bytes written, in base64, where `text` is not the whole truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Whether earlier bytes were dropped.
    pub truncated: bool,
    /// How many bytes the process wrote in all.
    pub total_bytes: u64,
}

impl Tail {
    /// The end of a stream of `total` bytes.
    pub fn of(end: &[u8], total: u64) -> Self {
        let (text, base64) = to_text(end);
        Self { text, base64, truncated: total > end.len() as u64, total_bytes: total }
    }

    /// The last bytes written, as they were.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        from_text(&self.text, self.base64.as_deref())
    }
}

/// How far a job says it is (`::progress N [text]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Percent, 0 to 100.
    pub percent: f64,
    /// What it is doing; empty when it did not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// Everything that is known of an attempt when it has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptReport {
    /// The outcome of the attempt.
    pub outcome: Outcome,
    /// When its process was started (or should have been).
    pub started_at: Timestamp,
    /// When it had ended.
    pub ended_at: Timestamp,
    /// What it used; `None` when no process ever ran, or its worker was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The build that it ran; `None` when no process ever ran, when the file was replaced in the moment of the start or not
    /// read through by the end, and in what an older Jobber recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<FileBuild>,
    /// The CPUs that it was pinned to.
    #[serde(default)]
    pub cpus: Vec<u32>,
    /// The memory limit under which it ran, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// The most jobs that ran on the host at the same time, itself not counted: 0 when it ran alone.
    #[serde(default)]
    pub peak_beside: u32,
    /// Jobs that ran on the host when its process was started, itself not counted; `None` when no process was started,
    /// or an older Jobber recorded the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside_at_start: Option<u32>,
    /// Whether another attempt was pointless, as its worker decided: a listed exit code, no usable binary, or the rule
    /// for the category of its error. `None` in what an older Jobber recorded, and where no worker decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_retry: Option<bool>,
    /// What was kept of its standard output, without directive lines.
    #[serde(default)]
    pub stdout: Tail,
    /// What was kept of its standard error.
    #[serde(default)]
    pub stderr: Tail,
    /// Why it failed, for people: the job's own error file, else the end of stderr, else what Jobber knows. `None` on
    /// success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it gave back: its `::result`, else its trimmed stdout as a string. `None` on failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Where it crashed, if a fatal signal ended it, or a process that it had started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<Box<Crash>>,
    /// How long it was after SIGTERM until the end, when Jobber stopped it.
    #[schema(value_type = Option<u64>)]
    #[serde(default, with = "millis::option", skip_serializing_if = "Option::is_none")]
    pub stopping_ms: Option<std::time::Duration>,
    /// The files that it left and that are kept, in order of name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<KeptFile>,
    /// Which files that it left are not kept, and why. `None` when all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_note: Option<String>,
    /// The id of its process, for the attempt's span: known to its worker alone, and not recorded.
    #[serde(skip)]
    pub pid: Option<u32>,
    /// The signals that Jobber sent to stop it, in order; likewise.
    #[serde(skip)]
    pub signals: Vec<SentSignal>,
}

/// A signal that Jobber sent to the processes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentSignal {
    /// The signal's number.
    pub signal: i32,
    /// When Jobber sent it.
    pub at: Timestamp,
}

impl AttemptReport {
    /// A report of an attempt of which nothing but its end is known.
    pub fn bare(outcome: Outcome, started_at: Timestamp, ended_at: Timestamp, error: impl Into<String>) -> Self {
        Self {
            outcome,
            started_at,
            ended_at,
            usage: None,
            build: None,
            cpus: Vec::new(),
            memory_limit_bytes: None,
            peak_beside: 0,
            beside_at_start: None,
            no_retry: None,
            stdout: Tail::default(),
            stderr: Tail::default(),
            error: Some(error.into()),
            result: None,
            crash: None,
            stopping_ms: None,
            files: Vec::new(),
            files_note: None,
            pid: None,
            signals: Vec::new(),
        }
    }

    /// How long it ran, in whole milliseconds: as the kernel measured it, else from its start to its end.
    pub fn wall_ms(&self) -> u64 {
        let span = self.ended_at.as_millis().saturating_sub(self.started_at.as_millis());
        self.usage.map_or(u64::try_from(span).unwrap_or(0), |usage| usage.wall_us / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exit_zero_is_a_success() {
        assert!(Outcome::Exit { code: 0 }.is_success());
        for bad in [
            Outcome::Exit { code: 1 },
            Outcome::Signal { signal: 15 },
            Outcome::Timeout,
            Outcome::Cancelled,
            Outcome::Oom,
            Outcome::SpawnError { reason: SpawnFailure::System },
            Outcome::Lost,
        ] {
            assert!(!bad.is_success(), "{bad}");
        }
    }

    #[test]
    fn words_for_outcomes_and_signals_are_read_as_they_are_written() {
        for kind in OutcomeKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert!("Exit 1".parse::<OutcomeKind>().is_err());
        assert_eq!(
            [signal_number("SIGSEGV"), signal_number("kill"), signal_number("34")],
            [Some(11), Some(9), Some(34)]
        );
        assert_eq!(signal_number("SIGWHAT"), None);
    }

    #[test]
    fn outcomes_read_well() {
        assert_eq!(Outcome::Signal { signal: 11 }.to_string(), "signal 11 (SIGSEGV)");
        assert_eq!(Outcome::Signal { signal: 34 }.to_string(), "signal 34");
        assert_eq!(serde_json::to_string(&Outcome::Exit { code: 3 }).unwrap(), r#"{"kind":"exit","code":3}"#);
    }
}
