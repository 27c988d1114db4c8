//! The bodies of `/api/v1/groups`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::{GroupName, JobId, JobName, JobState, Outcome, Timestamp};
use crate::store::{GroupTally, JobRecord};

/// `GET /api/v1/groups/{group}`: how far the jobs of a group are. Jobs that were removed don't count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// The group.
    pub group: GroupName,
    /// How many jobs it has.
    pub total: u64,
    /// How many are ready.
    pub waiting: u64,
    /// How many wait for a time, for other jobs or for their group's limit.
    pub delayed: u64,
    /// How many are ready and have a priority.
    pub prioritized: u64,
    /// How many run.
    pub active: u64,
    /// How many have completed.
    pub completed: u64,
    /// How many have failed.
    pub failed: u64,
    /// How many of its jobs have ended, in percent.
    pub progress: f64,
    /// When the first of them was submitted.
    pub submitted_at: Option<Timestamp>,
    /// When the last of those that have ended did.
    pub finished_at: Option<Timestamp>,
    /// Whether more had happened to jobs than history knew: then some of this may be of the past.
    pub behind: bool,
}

impl GroupView {
    /// The view of what history has counted.
    pub fn of(group: GroupName, tally: &GroupTally, behind: bool) -> Self {
        let (completed, failed) = (tally.count(JobState::Completed), tally.count(JobState::Failed));
        let total = tally.total();
        // Tenths are enough, and it is 100 only when all have ended.
        let tenths = ((completed + failed) * 1000).checked_div(total).unwrap_or(0);
        Self {
            group,
            total,
            waiting: tally.count(JobState::Waiting),
            delayed: tally.count(JobState::Delayed),
            prioritized: tally.count(JobState::Prioritized),
            active: tally.count(JobState::Active),
            completed,
            failed,
            progress: u32::try_from(tenths).map_or(0.0, f64::from) / 10.0,
            submitted_at: tally.submitted_at,
            finished_at: tally.finished_at,
            behind,
        }
    }

    /// How many of its jobs have ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed
    }
}

/// A line of `GET /api/v1/groups/{group}/results`: one job of the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupResult {
    /// Which job of its array it is; null if of none.
    pub index: Option<u32>,
    /// The job.
    pub id: JobId,
    /// The binary that it runs.
    pub name: JobName,
    /// Its state.
    pub state: JobState,
    /// How its last attempt ended, once it has ended.
    pub outcome: Option<Outcome>,
    /// What it gave back. Absent where a viewer is not shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it failed, or why its last attempt did.
    pub error: Option<String>,
    /// How many attempts were started.
    pub attempts: u64,
    /// When it ended; null before that.
    pub finished_at: Option<Timestamp>,
}

impl From<JobRecord> for GroupResult {
    fn from(record: JobRecord) -> Self {
        Self {
            index: record.options.array_index,
            attempts: record.attempts.len() as u64,
            id: record.id,
            name: record.name,
            state: record.state,
            outcome: record.outcome,
            result: record.result,
            error: record.error,
            finished_at: record.finished_at,
        }
    }
}

/// What jobs have in common that are submitted with this idempotency key, and name nothing themselves: the beginning of
/// an array's ids, and the group. A repeated request has it again.
pub fn name_of_key(key: &str) -> String {
    Sha256::digest(key).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
