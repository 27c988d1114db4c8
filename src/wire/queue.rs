//! The bodies of `/api/v1/queue`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::JobState;

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
