//! What happened to a job: the lines of the event log, from which all history is folded.
//!
//! Every event carries the job's header, so that any of them can create its record: another program that submits jobs
//! writes no `submitted`. The job's body comes with `submitted`, or with the start of an attempt of a job that has none.
//! Each event is idempotent by its [`EventKey`]: a repeated one changes nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AcceptedJob, AttemptNumber, AttemptReport, BuildDigest, Job, JobBody, JobId, JobState, Outcome, Timestamp, WorkerId,
};

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The time of the event, by the clock of the process that wrote it.
    pub at: Timestamp,
    /// The header of the job to which it happened.
    pub job: Arc<Job>,
    /// What happened to it.
    pub kind: EventKind,
    /// What the job is given: with [`EventKind::Submitted`], and with the first events of a job that no server of Jobber's
    /// has submitted. `None` also where it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<JobBody>,
}

/// The state in which a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented at JobState")]
pub enum FinalState {
    Completed,
    Failed,
}

impl From<FinalState> for JobState {
    fn from(state: FinalState) -> JobState {
        match state {
            FinalState::Completed => JobState::Completed,
            FinalState::Failed => JobState::Failed,
        }
    }
}

/// The kinds of events of a job, in the order of its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// The queue took the job.
    Submitted,
    /// A worker is about to start its process: written before the spawn.
    AttemptStarted {
        /// Attempt number, counting from 1.
        attempt: AttemptNumber,
        /// The worker that runs it.
        worker: WorkerId,
        /// The worker's host.
        host: String,
        /// The build that the file is now, of a job's first attempt. The report says which one ran. `None` where the worker
        /// did not know it yet, and in what an older Jobber recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        build: Option<BuildDigest>,
    },
    /// Its process was not started after all: the lease was over, the job was cancelled, or the worker could not. There
    /// was no such attempt.
    AttemptWithdrawn {
        /// The attempt number that it would have had.
        attempt: AttemptNumber,
        /// The worker that had written of the start.
        worker: WorkerId,
    },
    /// The attempt has ended: written before the lease is settled.
    AttemptFinished {
        /// Attempt number, counting from 1.
        attempt: AttemptNumber,
        /// The worker that runs it.
        worker: WorkerId,
        /// Everything that is known of it.
        report: Box<AttemptReport>,
        /// When the next attempt is due; `None` when none follows.
        next_at: Option<Timestamp>,
    },
    /// The job has ended.
    Finished {
        /// The last attempt; `None` when it never started.
        attempt: Option<AttemptNumber>,
        /// Whether it completed or failed.
        state: FinalState,
        /// How its last attempt ended, or `Cancelled` or `Lost` without one.
        outcome: Outcome,
        /// The JSON value that the job gave back.
        result: Option<Value>,
        /// Why it failed; `None` when it completed.
        error: Option<String>,
    },
    /// A caller asked for the job to be stopped. The job ends when `finished` says so.
    Cancelled {
        /// The caller's reason.
        reason: String,
    },
    /// An operator put a failed job back into the queue.
    Retried {
        /// How many attempts had started by then.
        attempts: u32,
    },
    /// An operator took a job that was not running out of the queue and out of the lists.
    Removed,
}

/// What makes two events the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey {
    /// The job.
    pub job: JobId,
    /// The kind's name in JSON.
    pub kind: &'static str,
    /// The attempt, 0 where there is none.
    pub attempt: u32,
}

impl Event {
    /// An event without the job's body.
    pub fn new(at: Timestamp, job: Arc<Job>, kind: EventKind) -> Self {
        Self { at, job, kind, body: None }
    }

    /// The queue took the job.
    pub fn submitted(AcceptedJob { job, body }: AcceptedJob) -> Self {
        Self { at: job.submitted_at, job, kind: EventKind::Submitted, body: Some(body) }
    }

    /// What makes this event the same as another.
    pub fn key(&self) -> EventKey {
        let (kind, attempt) = match &self.kind {
            EventKind::Submitted => ("submitted", 0),
            EventKind::AttemptStarted { attempt, .. } => ("attempt_started", attempt.0),
            EventKind::AttemptWithdrawn { attempt, .. } => ("attempt_withdrawn", attempt.0),
            EventKind::AttemptFinished { attempt, .. } => ("attempt_finished", attempt.0),
            EventKind::Finished { attempt, .. } => ("finished", attempt.map_or(0, |a| a.0)),
            EventKind::Cancelled { .. } => ("cancelled", 0),
            EventKind::Retried { attempts } => ("retried", *attempts),
            EventKind::Removed => ("removed", 0),
        };
        EventKey { job: self.job.id.clone(), kind, attempt }
    }
}
