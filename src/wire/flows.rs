//! The bodies of `/api/v1/flows`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SubmitJob;
use crate::domain::JobId;

/// `POST /api/v1/flows`: a job that runs when all of its children have completed, and so on down the tree.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowJob {
    /// The job; without deduplication.
    pub job: SubmitJob,
    /// The jobs that come before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub children: Vec<FlowJob>,
}

/// The answer to `POST /api/v1/flows`, in the shape of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmittedFlow {
    /// The job that stands for it.
    pub id: JobId,
    /// Always `queued`.
    pub status: String,
    /// Whether that job had been there before.
    pub duplicate: bool,
    /// The same for its children.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub children: Vec<SubmittedFlow>,
}
