//! The bodies of `/api/v1/schedules`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SubmitJob;
use crate::domain::{JobId, ScheduleId, Template, Timestamp};

/// `POST /api/v1/schedules` and `PUT /api/v1/schedules/{id}`: jobs like `job`, at the times of `cron` or every
/// `every_ms`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutSchedule {
    /// Identifies it; the job's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A cron expression of five or six fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The time zone of `cron`; UTC when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// Milliseconds between two jobs, at least 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// What its jobs are like; without id, delay, deduplication and `after`.
    pub job: SubmitJob,
}

/// A schedule: `GET /api/v1/schedules/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    /// Identifies it.
    pub id: ScheduleId,
    /// Its cron expression, if it has one.
    pub cron: Option<String>,
    /// The time zone of `cron`.
    pub tz: Option<String>,
    /// Milliseconds between two jobs, if it has no cron expression.
    pub every_ms: Option<u64>,
    /// What its jobs are like.
    pub job: Template,
    /// Whether it brings no jobs.
    pub paused: bool,
    /// The next times, as things stand now: none while it is paused.
    pub next: Vec<Timestamp>,
    /// When the job that it brought last was due.
    pub last_at: Option<Timestamp>,
    /// That job.
    pub last_job: Option<JobId>,
    /// Why no job will come, though it is not paused; absent when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The answer to a verb on a schedule: `:pause`, `:resume`, `DELETE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleActed {
    /// The schedule.
    pub id: ScheduleId,
    /// What happened: `paused`, `resumed`, `removed`.
    pub status: String,
}
