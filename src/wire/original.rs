//! The bodies of the original program's routes, with its names.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{JobId, JobName, RawJson, Timestamp, body};
use crate::stats::JobStats;
use crate::store::NameSummary;

/// `POST /jobs`: both bodies that the original documents, `{name, data}` and `{jobName, arguments}`.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OriginalJob {
    /// The binary; `jobName` is the same.
    #[serde(alias = "jobName")]
    #[schema(min_length = 1)]
    pub name: String,
    /// Its arguments; `args` is the same.
    #[serde(default, alias = "args")]
    pub arguments: Vec<String>,
    /// What it gets on its standard input.
    #[serde(default, deserialize_with = "body::compact")]
    pub data: Option<RawJson>,
}

/// The answer to `POST /jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OriginalSubmitted {
    /// Always `Job added to the queue`.
    pub message: String,
    /// The job.
    pub job_id: JobId,
    /// Always `queued`.
    pub status: String,
}

/// `GET /jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OriginalJobs {
    /// One for each job name.
    pub jobs: Vec<OriginalGroup>,
}

/// The jobs of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OriginalGroup {
    /// The binary.
    pub job_name: JobName,
    /// When one of its jobs was last submitted.
    pub latest_invocation: Timestamp,
    /// Jobs that run.
    pub active_count: u64,
    /// Jobs that have failed.
    pub failed_count: u64,
    /// Jobs that have completed.
    pub completed_count: u64,
    /// The last submitted jobs, newest first, at most 1,000, fewer beside more than ten names.
    pub all_job_ids: Vec<JobId>,
    /// The running jobs, at most as many.
    pub active_jobs: Vec<JobId>,
    /// Jobs that wait, are delayed or prioritised.
    pub waiting_count: u64,
}

impl From<NameSummary> for OriginalGroup {
    fn from(name: NameSummary) -> Self {
        Self {
            job_name: name.name,
            latest_invocation: name.latest,
            active_count: name.active,
            failed_count: name.failed,
            completed_count: name.completed,
            all_job_ids: name.recent,
            active_jobs: name.running,
            waiting_count: name.waiting,
        }
    }
}

/// `GET /stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OriginalStats {
    /// The statistics.
    pub job_stats: JobStats,
}

/// An error of these routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OriginalError {
    /// The kind in words.
    pub message: String,
    /// What went wrong this time, and what to do.
    pub error: String,
}
