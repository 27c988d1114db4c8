//! The error of all ports of the queue, and its sentences that both adapters say.

use crate::domain::{JobId, JobState};

/// The kinds of errors that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueErrorKind {
    /// The queue can't be reached, or is too busy; another try may work.
    Unavailable,
    /// There is no room left (disk, memory, a cap).
    Full,
    /// An idempotency key came back with another request.
    KeyReused,
    /// What was asked for can't be: a cursor of another list, for instance.
    Rejected,
    /// There can be no queue of this name.
    UnfitQueue,
    /// What is stored can't be read.
    Corrupt,
}

/// Why the queue could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct QueueError {
    /// What a caller can decide on.
    pub kind: QueueErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl QueueError {
    /// An error of this kind; `message` names the thing and the fix.
    pub fn new(kind: QueueErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds what caused it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An idempotency key comes again with another request.
    pub(super) fn key_reused(key: &str) -> Self {
        let message =
            format!("the idempotency key {key:?} was used for another request; take a new key for a new request");
        Self::new(QueueErrorKind::KeyReused, message)
    }

    /// Jobs in this state can't be cleaned.
    pub(super) fn not_cleanable(state: JobState) -> Self {
        let message = format!("{state} jobs can't be cleaned; only completed and failed ones can");
        Self::new(QueueErrorKind::Rejected, message)
    }

    /// What was asked for can't be kept: groups that take turns on Redis.
    pub(super) fn unfair() -> Self {
        let message = "groups can't take turns on Redis: BullMQ's open edition hands jobs out in the order of its list; give \
                       each group a queue of its own, which a worker serves by weight, or a limit (group_limit)";
        Self::new(QueueErrorKind::Rejected, message)
    }

    /// A cluster can't keep the keys of a queue of this name on one node.
    pub(super) fn untagged(queue: &str, prefix: &str) -> Self {
        let bare = |text: &str| text.replace(['{', '}'], "");
        let message = format!(
            "on a cluster all keys of a queue must lie on one node, and those of {queue:?} do not: name it {{{}}}, with the \
             braces (queue.name, worker.queues, --queue and the like), and each queue may be on another node; or set \
             queue.prefix to {{{}}} for all queues on one",
            bare(queue),
            bare(prefix),
        );
        Self::new(QueueErrorKind::UnfitQueue, message)
    }

    /// A list of jobs in this state did not give this cursor.
    pub(super) fn foreign_cursor(cursor: &str, state: JobState) -> Self {
        let message = format!("the cursor {cursor:?} is not one of the list of {state} jobs; start without a cursor");
        Self::new(QueueErrorKind::Rejected, message)
    }

    /// A job is to come after one that the queue does not know.
    pub(super) fn unknown_parent(id: &JobId) -> Self {
        let message = format!("there is no job {id} in the queue that another could come after");
        Self::new(QueueErrorKind::Rejected, message)
    }

    /// A job is to come after one of another queue, where each queue is on its own.
    pub(super) fn parent_elsewhere(id: &JobId) -> Self {
        let message = format!("job {id} is in another queue: on Redis a job can only come after jobs of its own queue");
        Self::new(QueueErrorKind::Rejected, message)
    }

    /// A job is to come after one that has failed.
    pub(super) fn failed_parent(id: &JobId) -> Self {
        let message = format!("job {id} has failed: nothing can come after it unless it is retried");
        Self::new(QueueErrorKind::Rejected, message)
    }

    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, QueueErrorKind::Unavailable | QueueErrorKind::Full)
    }
}
