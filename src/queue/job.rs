//! What callers tell the queue about jobs, and what the queue answers.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::QueueError;
use crate::domain::{AcceptedJob, Job, JobBody, JobId, JobState, Progress, QueueLimit, QueueName, Timestamp, WorkerId};

/// Makes a repeated submission harmless: the first answer is given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key, 1 to 256 characters.
    pub key: String,
    /// SHA-256 of the request, so that a reused key is noticed.
    pub request: [u8; 32],
    /// How long the key is remembered.
    pub ttl: Duration,
}

impl Idempotency {
    /// Compares this request with the one that is remembered under its key.
    ///
    /// # Errors
    /// `KeyReused` when they differ.
    pub(super) fn check(&self, remembered: &[u8]) -> Result<(), QueueError> {
        if remembered == self.request { Ok(()) } else { Err(QueueError::key_reused(&self.key)) }
    }
}

/// What became of one submitted job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The job that now stands for it.
    pub id: JobId,
    /// True when that job had been there before: same id, deduplication key or idempotency key.
    pub duplicate: bool,
    /// That job as the queue has it; `None` when it has let go of it.
    #[serde(skip)]
    pub job: Option<AcceptedJob>,
    /// Whether the event log was told of it in the transaction that made it. Otherwise the caller tells it.
    #[serde(skip)]
    pub announced: bool,
}

impl Submission {
    /// The answer for a job that is new.
    pub fn new(job: AcceptedJob) -> Self {
        Self { id: job.job.id.clone(), duplicate: false, job: Some(job), announced: false }
    }

    /// The answer for a job in whose place this one stands.
    pub fn duplicate(id: JobId, job: Option<AcceptedJob>) -> Self {
        Self { id, duplicate: true, job, announced: false }
    }
}

/// A job as the queue sees it now.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedJob {
    /// The header of the job.
    pub job: Arc<Job>,
    /// What it is given; `None` where it was not read ([`Queue::standing`], [`Queue::page`]).
    pub body: Option<JobBody>,
    /// Its state in the queue.
    pub state: JobState,
    /// How often it was started.
    pub attempts_started: u32,
    /// How many attempts spent its budget.
    pub attempts_finished: u32,
    /// When it is due, while `Delayed`.
    pub due_at: Option<Timestamp>,
    /// The worker that holds its lease, while `Active`.
    pub worker: Option<WorkerId>,
    /// How far it last said that it is, since it was last started.
    pub progress: Option<Progress>,
    /// The reason of the request to stop it, if there was one.
    pub cancel_requested: Option<String>,
    /// When it completed or failed.
    pub finished_at: Option<Timestamp>,
    /// What it gave back when it completed.
    pub result: Option<Value>,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// The jobs that must complete before it runs: then it is `Delayed` without a due time.
    pub waits_for: Vec<JobId>,
}

impl QueuedJob {
    /// Since when a worker could have taken it, while it waits for its first start.
    pub fn ready_since(&self) -> Timestamp {
        self.job.submitted_at + self.job.options.delay
    }
}

/// How many jobs are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "documented at JobState")]
pub struct StateCounts {
    pub waiting: u64,
    pub delayed: u64,
    pub prioritized: u64,
    pub active: u64,
    pub completed: u64,
    pub failed: u64,
    /// Whether the queue hands nothing out.
    pub paused: bool,
}

/// One of the queues, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStanding {
    /// Its name.
    pub name: QueueName,
    /// How many of its jobs are in each state, and whether it hands any out.
    pub counts: StateCounts,
    /// How much of it may run.
    pub limit: QueueLimit,
}

/// What cancelling a job did.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancellation {
    /// It had not been running and has now failed.
    Ended(Arc<Job>),
    /// It is running; its worker was told and will stop it.
    Signalled(Arc<Job>),
    /// It had ended before.
    AlreadyFinal(JobState),
    /// The queue does not know it.
    NotFound,
}

/// What putting a job back, moving it up or taking it out did.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Done. Carries the job and how many attempts had started.
    Done(Arc<Job>, u32),
    /// Not possible from this state.
    WrongState(JobState),
    /// Not while this other job holds its deduplication key.
    KeyTaken(JobId),
    /// The queue does not know it.
    NotFound,
}

/// Which ended jobs to take out of the queue (their history stays).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanRequest {
    /// Those of this queue; `None` for all.
    pub queue: Option<QueueName>,
    /// `Completed` or `Failed`.
    pub state: JobState,
    /// Ended longer ago than this.
    pub older_than: Duration,
    /// At most so many in one call.
    pub limit: usize,
}
