//! What goes on: counts of events over time, and the overview.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{JobId, JobName, Timestamp};
use crate::queue::StateCounts;
use crate::stats::builds::Regression;

/// How many events of each kind a time has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct EventCounts {
    /// Jobs that were submitted.
    pub submitted: u64,
    /// Attempts that were started.
    pub started: u64,
    /// Jobs that completed.
    pub completed: u64,
    /// Jobs that failed for good.
    pub failed: u64,
    /// Attempts that failed. An attempt that was lost or cancelled has not failed.
    pub attempts_failed: u64,
}

/// `GET /api/v1/stats/throughput`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ThroughputReport {
    /// The time that one item counts, in milliseconds.
    pub step_ms: u64,
    /// The time since which the counts are whole; of earlier events the server may not know.
    pub whole_since: Timestamp,
    /// Every step, the oldest first, the running one last.
    pub items: Vec<ThroughputItem>,
}

/// The counts of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ThroughputItem {
    /// Its start.
    pub at: Timestamp,
    /// What happened in it.
    #[serde(flatten)]
    pub counts: EventCounts,
}

/// `GET /api/v1/overview`: what goes on now. What could not be asked is null, and `components` says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// When the server looked.
    pub at: Timestamp,
    /// The version of the server.
    pub version: String,
    /// How many jobs are in each state.
    pub queue: Option<StateCounts>,
    /// What happened in the last minute.
    pub rates: Option<Rates>,
    /// The ready job that workers will take first; null also when none is ready.
    pub oldest_waiting: Option<OldestWaiting>,
    /// The workers, together.
    pub workers: Option<WorkersTotal>,
    /// The categories with the most failed attempts, of jobs of today and yesterday (UTC): at most 5, most first.
    pub failing: Option<Vec<FailingCategory>>,
    /// Builds that do worse than those before them and were seen within the last week: at most 5, the newest first.
    #[serde(default)]
    pub regressions: Option<Vec<Regression>>,
    /// How far history is behind the event log.
    pub history: Option<HistoryLag>,
    /// Whether what the server stands on answers.
    pub components: Components,
}

/// What happened in a time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// The length of that time, in seconds.
    pub window_s: u64,
    /// What happened in it.
    #[serde(flatten)]
    pub counts: EventCounts,
}

/// The job that has been ready for longest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OldestWaiting {
    /// The job.
    pub id: JobId,
    /// Its binary.
    pub name: JobName,
    /// When it was submitted, or was due.
    pub since: Timestamp,
}

/// All workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct WorkersTotal {
    /// Workers.
    pub total: u64,
    /// Those that take jobs.
    pub taking: u64,
    /// Those that take nothing new and will end.
    pub draining: u64,
    /// Those that can't start jobs.
    pub unhealthy: u64,
    /// Jobs that they run at most.
    pub slots: u64,
    /// Jobs that they run now.
    pub running: u64,
    /// Cores that they divide among jobs.
    pub cores: u64,
    /// The cores of the slots that are in use.
    pub cores_busy: u64,
}

/// A category and how many attempts failed with an error of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailingCategory {
    /// The id, `uncategorised` or `pending`.
    pub category: String,
    /// What people call it.
    pub category_name: String,
    /// Failed attempts.
    pub count: i64,
}

/// How far history is behind the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryLag {
    /// Whether history has every event.
    pub caught_up: bool,
    /// Events in the log.
    pub log_length: u64,
    /// Events that the log may hold.
    pub log_cap: u64,
    /// Events that could not be read and lie aside; null when that could not be asked.
    pub parked: Option<u64>,
    /// The age of the oldest event that history lacks, in milliseconds: 0 when it has all, null when it is not known.
    pub lag_ms: Option<u64>,
}

/// What the server stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Components {
    /// The queue.
    pub queue: Component,
    /// History.
    pub store: Component,
    /// The event log.
    pub events: Component,
}

/// Whether one part answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Component {
    /// How it is.
    pub status: ComponentStatus,
    /// Why it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a part of the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComponentStatus {
    /// It works.
    Ok,
    /// It answers, and can't do everything.
    Degraded,
    /// It does not answer.
    Unavailable,
}

impl Component {
    /// One that works.
    pub const OK: Component = Component { status: ComponentStatus::Ok, error: None };

    /// One that has given this answer.
    pub fn of<T>(answer: &Result<T, String>) -> Self {
        match answer {
            Ok(_) => Self::OK,
            Err(error) => Self::ill(ComponentStatus::Unavailable, error),
        }
    }

    /// One that is not well.
    pub fn ill(status: ComponentStatus, error: impl Into<String>) -> Self {
        Self { status, error: Some(error.into()) }
    }
}
