//! The routes of `/api/v1/schedules`.

use reqwest::Method;

use super::transport::encode;
use super::{Client, ClientError};
use crate::domain::ScheduleId;
use crate::wire::{Listing, PutSchedule, ScheduleActed, ScheduleView, Submitted};

impl Client {
    /// Adds a schedule, or replaces the one with the same id.
    ///
    /// # Errors
    /// `Rejected` when a field is wrong or there is no such binary.
    pub async fn put_schedule(&self, schedule: &PutSchedule) -> Result<ScheduleView, ClientError> {
        self.answer(self.api(Method::POST, "schedules").json(schedule)).await
    }

    /// Lists all schedules, the next due first.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, ClientError> {
        let listing: Listing<ScheduleView> = self.answer(self.api(Method::GET, "schedules")).await?;
        Ok(listing.items)
    }

    /// Gets one schedule.
    ///
    /// # Errors
    /// `NotFound` when there is no such schedule.
    pub async fn schedule(&self, id: &ScheduleId) -> Result<ScheduleView, ClientError> {
        self.answer(self.api(Method::GET, &path(id))).await
    }

    /// Removes a schedule.
    ///
    /// # Errors
    /// `NotFound` when there is no such schedule.
    pub async fn remove_schedule(&self, id: &ScheduleId) -> Result<ScheduleActed, ClientError> {
        self.answer(self.api(Method::DELETE, &path(id))).await
    }

    /// Submits one job of a schedule at once.
    ///
    /// # Errors
    /// `NotFound` when there is no such schedule.
    pub async fn trigger_schedule(&self, id: &ScheduleId) -> Result<Submitted, ClientError> {
        self.answer(self.api(Method::POST, &format!("{}:trigger", path(id)))).await
    }

    /// Pauses a schedule, so that it brings no jobs, or resumes it.
    ///
    /// # Errors
    /// `NotFound` when there is no such schedule.
    pub async fn pause_schedule(&self, id: &ScheduleId, paused: bool) -> Result<ScheduleActed, ClientError> {
        let verb = if paused { "pause" } else { "resume" };
        self.answer(self.api(Method::POST, &format!("{}:{verb}", path(id)))).await
    }
}

fn path(id: &ScheduleId) -> String {
    format!("schedules/{}", encode(id.as_str()))
}
