//! The port for jobs that come by themselves.

use std::sync::Arc;

use async_trait::async_trait;

use super::QueueError;
use crate::domain::{JobId, Schedule, ScheduleId, Timestamp};

/// A schedule as the queue sees it now.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleStanding {
    /// What was asked for.
    pub schedule: Arc<Schedule>,
    /// Whether it brings no jobs.
    pub paused: bool,
    /// When its next job is due; `None` while paused, or when none will come.
    pub next_at: Option<Timestamp>,
    /// When the job that it brought last was due.
    pub last_at: Option<Timestamp>,
    /// The job that it brought last.
    pub last_job: Option<JobId>,
}

/// Keeps schedules and submits their jobs: for each time one job, whose id names the schedule and the time, however
/// many processes look after it and whenever one of them dies.
///
/// While a schedule's last job waits to be started, no second one comes. Times that pass meanwhile, or while no process
/// ran, are made up for by one job. A job that runs holds nothing up.
#[async_trait]
pub trait Scheduler: Send + Sync + 'static {
    /// Puts a schedule in the place of the one with its id, if there is one; whether it is new. One whose timing is the
    /// same keeps its beat, and a paused one stays paused.
    async fn put_schedule(&self, schedule: Arc<Schedule>) -> Result<bool, QueueError>;

    /// All schedules, the next due first.
    async fn schedules(&self) -> Result<Vec<ScheduleStanding>, QueueError>;

    /// The schedule with this id.
    async fn find_schedule(&self, id: &ScheduleId) -> Result<Option<ScheduleStanding>, QueueError>;

    /// Takes a schedule out; false when it is not known. A job that it has brought already stays.
    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, QueueError>;

    /// Stops a schedule from bringing jobs, or lets it go on with the next time from now; false when it is not known.
    async fn pause_schedule(&self, id: &ScheduleId, paused: bool) -> Result<bool, QueueError>;
}

/// The order of [`Scheduler::schedules`].
pub(super) fn in_order(mut all: Vec<ScheduleStanding>) -> Vec<ScheduleStanding> {
    all.sort_by(|a, b| {
        let key = |s: &ScheduleStanding| (s.next_at.is_none(), s.next_at, s.schedule.id.clone());
        key(a).cmp(&key(b))
    });
    all
}
