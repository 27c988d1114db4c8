//! The routes of `/api/v1/schedules`.

use reqwest::Method;

use super::transport::encode;
use super::{Client, ClientError};
use crate::domain::ScheduleId;
use crate::wire::{Listing, PutSchedule, ScheduleActed, ScheduleView, Submitted};

impl Client {
    /// Puts a schedule in place, or in the place of the one with its id.
    ///
    /// # Errors
    /// `Rejected` when a field is wrong or there is no such binary.
    pub async fn put_schedule(&self, schedule: &PutSchedule) -> Result<ScheduleView, ClientError> {
        self.answer(self.api(Method::POST, "schedules").json(schedule)).await
    }

    /// All schedules, the next due first.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, ClientError> {
        let listing: Listing<ScheduleView> = self.answer(self.api(Method::GET, "schedules")).await?;
        Ok(listing.items)
    }

    /// One schedule.
    ///
    /// # Errors
    /// `NotFound` when there is no such schedule.
    pub async fn schedule(&self, id: &ScheduleId) -> Result<ScheduleView, ClientError> {
        self.answer(self.api(Method::GET, &path(id))).await
    }

    /// Takes a schedule out.
    ///
    /// # Errors
    /// `NotFound` when there is no such schedule.
    pub async fn remove_schedule(&self, id: &ScheduleId) -> Result<ScheduleActed, ClientError> {
        self.answer(self.api(Method::DELETE, &path(id))).await
    }

    /// Submits one job of a schedule now.
    ///
    /// # Errors
    /// `NotFound` when there is no such schedule.
    pub async fn trigger_schedule(&self, id: &ScheduleId) -> Result<Submitted, ClientError> {
        self.answer(self.api(Method::POST, &format!("{}:trigger", path(id)))).await
    }

    /// Stops a schedule from bringing jobs, or lets it go on.
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
