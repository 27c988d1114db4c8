//! Workers, as they announce themselves to each other.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{JobName, Timestamp, WorkerId};

/// A worker as it announces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerInfo {
    /// This run of the worker.
    pub id: WorkerId,
    /// The machine's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Jobber's version.
    pub version: String,
    /// When its process started.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// Jobs that it runs at most.
    pub slots: u32,
    /// Cores that it divides among them.
    pub cores: u32,
    /// Jobs that run now.
    pub running: u32,
    /// Whether it takes nothing new and will end.
    pub draining: bool,
    /// Why it can't start jobs, and so takes none for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// The names of the jobs that it can run; `None` when it does not tell, or has more than [`WorkerInfo::BINARIES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binaries: Option<Vec<JobName>>,
}

impl WorkerInfo {
    /// How many binaries a worker announces at most.
    pub const BINARIES: usize = 1000;

    /// Whether it takes jobs now.
    pub fn takes_jobs(&self) -> bool {
        !self.draining && self.unhealthy.is_none()
    }

    /// Whether it has the binary of jobs of this name; `None` when it does not tell.
    pub fn has_binary(&self, name: &JobName) -> Option<bool> {
        Some(self.binaries.as_ref()?.contains(name))
    }
}
