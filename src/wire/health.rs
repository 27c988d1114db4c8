//! The bodies of `/healthz`, `/readyz` and of what is said to a worker.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Component, ComponentStatus};
use crate::domain::WorkerId;

/// `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// The version of the server.
    pub version: String,
}

/// `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether the server accepts jobs.
    pub status: ReadyStatus,
    /// What it stands on.
    pub components: ReadyComponents,
    /// How far history is; absent when the event log does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryPlace>,
}

/// Whether a server accepts jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadyStatus {
    /// It does, and all is well.
    Ready,
    /// It does, and can't do everything.
    Degraded,
    /// It does not any more, because it is about to end.
    Stopping,
    /// It does not.
    Unavailable,
}

impl ReadyStatus {
    /// Whether a load balancer may send requests.
    pub fn takes_jobs(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

/// What a server stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadyComponents {
    /// The queue.
    pub queue: Component,
    /// History.
    pub store: Component,
    /// The event log.
    pub events: Component,
    /// The workers that can't start jobs; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<UnhealthyWorkers>,
}

/// Workers that can't start jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnhealthyWorkers {
    /// Always `degraded`.
    pub status: ComponentStatus,
    /// Each of them.
    pub unhealthy: Vec<UnhealthyWorker>,
}

/// A worker that can't start jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnhealthyWorker {
    /// The worker.
    pub id: WorkerId,
    /// Where it runs.
    pub host: String,
    /// Why it can't.
    pub error: String,
}

/// How far history has read the event log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryPlace {
    /// The place of the last event in the log.
    pub log: String,
    /// The place of the last event that history has; null when history does not answer.
    pub store: Option<String>,
    /// Whether these are the same.
    pub caught_up: bool,
    /// Events in the log.
    pub log_length: u64,
    /// Events that the log may hold.
    pub log_cap: u64,
    /// Events that could not be read and lie aside; null when that could not be asked.
    pub parked: Option<u64>,
}

/// The answer to `POST /api/v1/workers/{id}:drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Draining {
    /// The worker.
    pub id: WorkerId,
    /// Always `draining`.
    pub status: String,
}
