//! The bodies about the files of jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{ContentDigest, KeptFile};

/// `GET /api/v1/jobs/{id}/files`: the files of a job, by attempt and name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct JobFiles {
    /// The files that are kept.
    pub items: Vec<JobFile>,
    /// Which files of an attempt are not kept, and why.
    pub notes: Vec<FilesNote>,
}

/// A file of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobFile {
    /// The attempt that left it.
    pub attempt: u32,
    /// The file.
    #[serde(flatten)]
    pub file: KeptFile,
    /// Where this server gives it: a path.
    pub url: String,
}

/// What is said of the files of an attempt that are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilesNote {
    /// The attempt that left them.
    pub attempt: u32,
    /// Which, and why.
    pub note: String,
}

/// `GET` and `PUT /api/v1/inputs/{sha256}`: a content that jobs can name as an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputView {
    /// What tells it from others.
    pub sha256: ContentDigest,
    /// Its size in bytes.
    pub size: u64,
}
