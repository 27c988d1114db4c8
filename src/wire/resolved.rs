//! The body of `/api/v1/jobs:resolve`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{JobId, JobName, JobState, Timestamp};

/// Stands for the job that was submitted last.
pub const LAST: &str = "@last";
/// Stands for the job that failed last.
pub const LAST_FAILED: &str = "@last-failed";
/// The most candidates in one answer.
pub const MOST_CANDIDATES: usize = 20;

/// The jobs that a person may mean.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct ResolvedJobs {
    /// The jobs, at most 20, in order of id. One is meant; several are candidates; without one there is none.
    pub items: Vec<JobBrief>,
    /// Whether there are more.
    pub more: bool,
    /// Whether history is behind the event log: then there may be others.
    pub behind: bool,
}

/// What tells a job from others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobBrief {
    /// Its whole id.
    pub id: JobId,
    /// The binary that it runs.
    pub name: JobName,
    /// Its state.
    pub state: JobState,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it ended; null while it has not.
    pub finished_at: Option<Timestamp>,
}
