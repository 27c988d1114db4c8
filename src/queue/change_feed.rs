//! The port for what other programs do to the jobs of a queue: a worker, a tool or a script that is not Jobber's
//! completes, fails, puts back or removes them.

use async_trait::async_trait;
use serde_json::Value;

use super::{QueueError, QueuedJob};
use crate::domain::{JobId, Timestamp};

/// How a job ended, as the queue reports it.
#[derive(Debug, Clone, PartialEq)]
pub enum ReportedEnd {
    /// It completed, and gave this back.
    Completed(Option<Value>),
    /// It failed, for this reason.
    Failed(String),
    /// It was taken out.
    Removed,
}

/// A change of a job that another program may have made. Whether history lacks it shows when history is compared with
/// the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueChange {
    /// The job's id in the queue.
    pub id: JobId,
    /// How the job ended by it, if it did.
    pub end: Option<ReportedEnd>,
    /// When the queue made the change.
    pub at: Timestamp,
}

/// The changes since the position that was acknowledged last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueChanges {
    /// The jobs, each once.
    pub all: Vec<QueueChange>,
    /// What [`ChangeFeed::acknowledge`] takes; `None` when there is nothing to acknowledge.
    pub position: Option<String>,
    /// Whether the next call finds more without waiting.
    pub more: bool,
    /// Whether changes may be missing: the queue was emptied, or its events were.
    pub has_gaps: bool,
}

/// What the queue holds under an id.
#[derive(Debug, Clone, PartialEq)]
pub enum QueueEntry {
    /// The queue holds no job with this id.
    Gone,
    /// A job that can't be read here.
    Unreadable,
    /// The job as it stands.
    Job(Box<QueuedJob>),
}

/// Reports what happens in the queue, whichever program does it.
#[async_trait]
pub trait ChangeFeed: Send + Sync + 'static {
    /// The changes since the position that was acknowledged last, without those that Jobber certainly made. The same
    /// again until their position is acknowledged.
    async fn changes(&self) -> Result<QueueChanges, QueueError>;

    /// Notes, for all processes, up to where history holds the changes.
    async fn acknowledge(&self, position: &str) -> Result<(), QueueError>;

    /// What the queue holds under these ids, in the order of the ids.
    async fn entries(&self, ids: &[JobId]) -> Result<Vec<QueueEntry>, QueueError>;

    /// Whether each of these jobs, given by its id and its time of submission, is in the queue and has not ended. Reads
    /// no bodies, so it costs little however large the jobs are.
    async fn are_open(&self, jobs: &[(JobId, Timestamp)]) -> Result<Vec<bool>, QueueError>;
}
