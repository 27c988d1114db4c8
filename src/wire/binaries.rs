//! The body of `GET /api/v1/binaries`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{Build, JobName, WorkerId};

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
    /// Which builds of it workers have, that of the most workers first; absent where none tells. More than one: what a
    /// job does may depend on where it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<BuildView>,
    /// Why it can't be run, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A build of a binary, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildView {
    /// The build.
    #[serde(flatten)]
    pub build: Build,
    /// How many live workers have it.
    pub workers: usize,
    /// The first of them, by id, at most [`BuildView::MOST_WORKERS`].
    #[schema(max_items = 10)]
    pub worker_ids: Vec<WorkerId>,
}

impl BuildView {
    /// How many workers are named for a build at most.
    pub const MOST_WORKERS: usize = 10;
}
