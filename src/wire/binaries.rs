//! The body of `GET /api/v1/binaries`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::JobName;

/// `GET /api/v1/binaries`: what jobs can be named after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BinaryListing {
    /// By name.
    pub items: Vec<BinaryView>,
    /// Whether no other binary can be run: every worker tells what it has, and so does the server if it is to look.
    pub complete: bool,
}

/// A binary of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BinaryView {
    /// The name that jobs give.
    pub name: JobName,
    /// How many live workers announce that they can run it.
    pub workers: usize,
    /// Why it can't be run, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}
