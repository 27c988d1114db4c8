//! The port for what other programs do to the jobs of a queue: a worker, a tool or a script of somebody else's that
//! completes, fails, puts back or removes them.

use async_trait::async_trait;
use serde_json::Value;

use super::{QueueError, QueuedJob};
use crate::domain::{JobId, Timestamp};

/// How the queue tells that a job has left what was known of it.
#[derive(Debug, Clone, PartialEq)]
pub enum ToldEnd {
    /// It completed, and gave this back.
    Completed(Option<Value>),
    /// It failed, for this reason.
    Failed(String),
    /// It was taken out.
    Removed,
}

/// What was done to a job, maybe by another program. Which it was shows when history is compared with the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Deed {
    /// The job's id in the queue.
    pub id: JobId,
    /// How it ended thereby, if it did.
    pub end: Option<ToldEnd>,
    /// When.
    pub at: Timestamp,
}

/// What was done lately.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deeds {
    /// The jobs, each once.
    pub all: Vec<Deed>,
    /// What [`Witness::remember`] takes; `None` when there is nothing to remember.
    pub place: Option<String>,
    /// Whether more is there to be read at once.
    pub more: bool,
    /// Whether jobs may have gone without a word: the queue was emptied, or what it tells was.
    pub is_amiss: bool,
}

/// What the queue holds under an id.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// Nothing.
    Gone,
    /// A job that can't be read here.
    Unreadable,
    /// This job.
    Job(Box<QueuedJob>),
}

/// Sees what happens in the queue, whoever does it.
#[async_trait]
pub trait Witness: Send + Sync + 'static {
    /// What was done since the place that was remembered last, as far as it can have been another program's doing. The
    /// same again until that is remembered.
    async fn deeds(&self) -> Result<Deeds, QueueError>;

    /// Notes, for all processes, up to where history has been told.
    async fn remember(&self, place: &str) -> Result<(), QueueError>;

    /// What the queue holds under these ids, in the same order.
    async fn held(&self, ids: &[JobId]) -> Result<Vec<Held>, QueueError>;

    /// Whether each of these jobs, told by its id and its time of submission, is in the queue and has not ended. Costs
    /// little, however large the jobs are.
    async fn are_open(&self, jobs: &[(JobId, Timestamp)]) -> Result<Vec<bool>, QueueError>;
}
