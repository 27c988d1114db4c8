//! The bodies of `/api/v1/queue` and `/api/v1/queues`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{JobState, QueueLimit, QueueName};
use crate::queue::StateCounts;

/// `GET /api/v1/queues/{name}`: one of the queues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Its name.
    pub name: QueueName,
    /// Whether jobs that name no queue wait in it.
    pub is_default: bool,
    /// How many of its jobs are in each state, and whether it hands any out.
    #[serde(flatten)]
    pub counts: StateCounts,
    /// How much of it may run, in all workers together.
    #[serde(default)]
    pub limit: QueueLimit,
    /// How many workers serve it and take jobs now.
    pub workers: u64,
    /// What waits for them. Older servers do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
}

/// The jobs of a queue that a worker could take now, and what they will probably take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backlog {
    /// How many there are: waiting and prioritized ones.
    pub jobs: u64,
    /// For each its cores times the mean wall time of the attempts of its name on the last 7 days, in all; null while
    /// history can't be read. Jobs of `unknown_jobs` are not in it.
    pub core_seconds: Option<f64>,
    /// Jobs of names of which no attempt was measured on these days; null while history can't be read.
    pub unknown_jobs: Option<u64>,
    /// Jobs that no worker that serves the queue can run, as far as they tell; null where none serves it, and while history
    /// can't be read. Older servers do not tell.
    #[serde(default)]
    pub unplaceable_jobs: Option<u64>,
    /// How many jobs were looked at, those that come first: the others are taken to be like them.
    pub sampled: u64,
}

/// `POST /api/v1/queue:clean`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CleanBody {
    /// `completed` or `failed`.
    pub state: JobState,
    /// Ended longer ago than this.
    #[serde(default)]
    pub older_than_ms: u64,
    /// At most so many.
    #[serde(default = "thousand")]
    pub limit: usize,
}

fn thousand() -> usize {
    1000
}

/// The answer to `POST /api/v1/queue:clean`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cleaned {
    /// How many jobs were taken out of the queue.
    pub removed: u64,
}
