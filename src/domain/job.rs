//! A job: what to run and under which rules. What is checked here is checked for every way in (HTTP, shell, Redis).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::retry::Backoff;
use super::time::millis;
use super::{JobBody, JobId, JobName, RawJson, Timestamp};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Ready, in the order of submission.
    Waiting,
    /// Not before a time, or not before other jobs have completed: submitted so, or between two attempts.
    Delayed,
    /// Ready, in the order of its priority, after all that is `Waiting`.
    Prioritized,
    /// A worker holds its lease.
    Active,
    /// Ended well. Final.
    Completed,
    /// Ended badly: out of attempts, not to be retried, or cancelled. Final until somebody retries it.
    Failed,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [JobState; 6] = [
        JobState::Waiting,
        JobState::Delayed,
        JobState::Prioritized,
        JobState::Active,
        JobState::Completed,
        JobState::Failed,
    ];

    /// The word that stands in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::Delayed => "delayed",
            JobState::Prioritized => "prioritized",
            JobState::Active => "active",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
        }
    }

    /// Whether the job has ended.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Completed | JobState::Failed)
    }

    /// Whether a worker may take it now.
    pub fn is_ready(self) -> bool {
        matches!(self, JobState::Waiting | JobState::Prioritized)
    }

    /// Whether a job may go from this state to `next`: the state machine of every queue.
    pub fn may_become(self, next: JobState) -> bool {
        use JobState::*;
        match self {
            // Taken, put off, or cancelled before any start.
            Waiting | Prioritized => matches!(next, Active | Failed),
            // Due or promoted, or cancelled.
            Delayed => matches!(next, Waiting | Prioritized | Failed),
            // Settled: done, failed, retried now or later, given back.
            Active => matches!(next, Completed | Failed | Waiting | Prioritized | Delayed),
            // Retried by somebody.
            Failed => matches!(next, Waiting | Prioritized),
            Completed => false,
        }
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for JobState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        JobState::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = JobState::ALL.iter().map(|s| s.as_str()).collect();
            format!("{text:?} is not a state; it is one of {}", all.join(", "))
        })
    }
}

/// While a key is taken, jobs submitted with it are answered with the one that took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deduplication {
    /// 1 to 256 characters.
    pub key: String,
    /// How long the key stays taken, in milliseconds; without it, until the job has ended.
    #[serde(default, rename = "ttl_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// The rules under which a job runs. What is `None` is decided by the worker's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobOptions {
    /// How many attempts may finish badly before the job has failed, 1 to [`JobOptions::MAX_ATTEMPTS`].
    pub attempts: u32,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// Not before this long after submission.
    #[serde(default, rename = "delay_ms", with = "millis", skip_serializing_if = "Duration::is_zero")]
    pub delay: Duration,
    /// 0: none, and first. 1 to [`JobOptions::MAX_PRIORITY`]: behind all without, 1 before 2.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// Stops an attempt that runs longer.
    #[serde(default, rename = "timeout_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    #[serde(default, rename = "grace_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
    /// CPU cores that it runs on, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Exit codes, 1 to 255, after which another attempt is pointless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_retry_exit_codes: Vec<u8>,
    /// Keeps equal jobs from piling up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deduplication: Option<Deduplication>,
    /// Not before these jobs have completed; when one of them fails, so does this one. A delay counts from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobId>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl JobOptions {
    /// The most attempts that can be asked for.
    pub const MAX_ATTEMPTS: u32 = 1000;
    /// The lowest priority (BullMQ's limit).
    pub const MAX_PRIORITY: u32 = 2_097_151;
    /// The most jobs that one can wait for.
    pub const MAX_AFTER: usize = 1000;
    /// The longest delay, timeout or time to live: ten years.
    pub const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 86_400);
}

impl Default for JobOptions {
    /// Three attempts with exponential backoff from one second, as the original had.
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Backoff::default(),
            delay: Duration::ZERO,
            priority: 0,
            timeout: None,
            grace: None,
            cores: None,
            memory_bytes: None,
            no_retry_exit_codes: Vec::new(),
            deduplication: None,
            after: Vec::new(),
        }
    }
}

/// A job that has been accepted: its header. Id, name and time of submission never change. What it is given is its
/// [`JobBody`], which travels beside it only to a reader that asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Identifies it for ever.
    pub id: JobId,
    /// The binary to run.
    pub name: JobName,
    /// The rules under which it runs.
    pub options: JobOptions,
    /// When it was accepted.
    pub submitted_at: Timestamp,
}

/// A job with what it is given.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedJob {
    /// Its header.
    pub job: Arc<Job>,
    /// Its arguments and data.
    pub body: JobBody,
}

/// A job to submit, not yet checked.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// An id of the caller's choice.
    pub id: Option<String>,
    /// The binary to run.
    pub name: String,
    /// The binary's arguments.
    pub arguments: Vec<String>,
    /// JSON for its standard input.
    pub data: Option<RawJson>,
    /// The rules, with defaults filled in.
    pub options: JobOptions,
}

/// Why a job can't be accepted: which field, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidJob {
    /// The field, as the caller wrote it, e.g. `arguments/3`.
    pub field: String,
    /// What is wrong with it and what is allowed.
    pub problem: String,
}

impl InvalidJob {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl NewJob {
    /// Checks every field and makes the job, submitted at `now`.
    ///
    /// # Errors
    /// [`InvalidJob`] names the first field that is wrong.
    pub fn accept(self, now: Timestamp) -> Result<AcceptedJob, InvalidJob> {
        let name = JobName::parse(&self.name).map_err(|e| InvalidJob::new("name", e.to_string()))?;
        let id = match &self.id {
            Some(text) => JobId::custom(text).map_err(|e| InvalidJob::new("id", e.to_string()))?,
            None => JobId::generate(),
        };
        // Linux passes at most 128 KiB a string and, by default, 2 MiB in all to a new program.
        const ONE: usize = 128 * 1024 - 1;
        const ALL: usize = 1024 * 1024;
        for (i, argument) in self.arguments.iter().enumerate() {
            if argument.contains('\0') {
                return Err(InvalidJob::new(format!("arguments/{i}"), "must not contain a NUL byte"));
            }
            if argument.len() > ONE {
                return Err(InvalidJob::new(
                    format!("arguments/{i}"),
                    format!("must be at most {ONE} bytes; use data for more"),
                ));
            }
        }
        if self.arguments.iter().map(|a| a.len() + 9).sum::<usize>() > ALL {
            return Err(InvalidJob::new(
                "arguments",
                format!("must be at most {ALL} bytes together; use data for more"),
            ));
        }
        check_options(&self.options)?;
        check_after(&id, &self.options.after)?;
        let body = JobBody::new(self.arguments, self.data.as_ref());
        Ok(AcceptedJob { job: Arc::new(Job { id, name, options: self.options, submitted_at: now }), body })
    }
}

fn check_options(options: &JobOptions) -> Result<(), InvalidJob> {
    let range = |field: &str, ok: bool, allowed: String| if ok { Ok(()) } else { Err(InvalidJob::new(field, allowed)) };
    let short = |d: Duration| d <= JobOptions::MAX_DURATION;
    let ten_years = || "must be at most ten years".to_owned();
    range(
        "attempts",
        (1..=JobOptions::MAX_ATTEMPTS).contains(&options.attempts),
        format!("must be 1 to {}", JobOptions::MAX_ATTEMPTS),
    )?;
    range(
        "priority",
        options.priority <= JobOptions::MAX_PRIORITY,
        format!("must be 0 to {}", JobOptions::MAX_PRIORITY),
    )?;
    range("delay_ms", short(options.delay), ten_years())?;
    range("backoff/delay_ms", short(options.backoff.delay), ten_years())?;
    range("backoff/max_ms", options.backoff.max.is_none_or(short), ten_years())?;
    range("backoff/jitter", (0.0..=1.0).contains(&options.backoff.jitter), "must be 0 to 1".to_owned())?;
    range(
        "timeout_ms",
        options.timeout.is_none_or(|t| short(t) && !t.is_zero()),
        "must be at least 1 and at most ten years".to_owned(),
    )?;
    range("grace_ms", options.grace.is_none_or(short), ten_years())?;
    range("cores", options.cores.is_none_or(|n| (1..=65_536).contains(&n)), "must be 1 to 65536".to_owned())?;
    range(
        "memory_bytes",
        options.memory_bytes.is_none_or(|n| (1 << 20..=1 << 50).contains(&n)),
        "must be at least 1 MiB (1048576) and at most 1 PiB".to_owned(),
    )?;
    range("no_retry_exit_codes", !options.no_retry_exit_codes.contains(&0), "must be 1 to 255 each".to_owned())?;
    if let Some(deduplication) = &options.deduplication {
        range(
            "deduplication/key",
            (1..=256).contains(&deduplication.key.len()) && !deduplication.key.contains('\0'),
            "must be 1 to 256 bytes without NUL".to_owned(),
        )?;
        range(
            "deduplication/ttl_ms",
            deduplication.ttl.is_none_or(|t| short(t) && !t.is_zero()),
            "must be at least 1 and at most ten years".to_owned(),
        )?;
    }
    Ok(())
}

fn check_after(id: &JobId, after: &[JobId]) -> Result<(), InvalidJob> {
    if after.len() > JobOptions::MAX_AFTER {
        return Err(InvalidJob::new("after", format!("must be at most {} jobs", JobOptions::MAX_AFTER)));
    }
    let mut seen = std::collections::HashSet::new();
    for (i, other) in after.iter().enumerate() {
        if other == id {
            return Err(InvalidJob::new(format!("after/{i}"), "must be another job than this one"));
        }
        if !seen.insert(other) {
            return Err(InvalidJob::new(format!("after/{i}"), "is named twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewJob {
        NewJob { id: None, name: name.to_owned(), arguments: vec![], data: None, options: JobOptions::default() }
    }

    fn field(job: NewJob) -> String {
        job.accept(Timestamp::from_millis(0)).unwrap_err().field
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(field(new("../../bin/sh")), "name");
        assert_eq!(field(NewJob { id: Some("7".into()), ..new("a") }), "id");
        assert_eq!(field(NewJob { arguments: vec!["ok".into(), "a\0b".into()], ..new("a") }), "arguments/1");
        assert_eq!(field(NewJob { arguments: vec!["x".repeat(200_000)], ..new("a") }), "arguments/0");
        let with = |change: fn(&mut JobOptions)| {
            let mut job = new("a");
            change(&mut job.options);
            field(job)
        };
        assert_eq!(with(|o| o.attempts = 0), "attempts");
        assert_eq!(with(|o| o.priority = 3_000_000), "priority");
        assert_eq!(with(|o| o.cores = Some(0)), "cores");
        assert_eq!(with(|o| o.timeout = Some(Duration::ZERO)), "timeout_ms");
        assert_eq!(with(|o| o.delay = Duration::from_secs(u64::MAX)), "delay_ms");
        assert_eq!(with(|o| o.memory_bytes = Some(1)), "memory_bytes");
        assert_eq!(with(|o| o.no_retry_exit_codes = vec![0]), "no_retry_exit_codes");
    }

    #[test]
    fn final_states_are_left_only_by_a_retry() {
        for next in JobState::ALL {
            assert!(!JobState::Completed.may_become(next));
            assert_eq!(JobState::Failed.may_become(next), next.is_ready());
        }
    }
}
