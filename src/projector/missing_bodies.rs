//! Notices the jobs whose records still lack what they are given a while after their first event: their server ended, or
//! its write failed, between the queue's answer and its `submitted` event.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::Folded;
use crate::domain::JobId;

/// How long after the first event of a job its `submitted` event is waited for: a worker may be faster than the server.
const PATIENCE: Duration = Duration::from_secs(1);
/// Jobs that are waited for at a time. Beyond, nothing is noted: so many come only when a log is folded anew.
const WAITING: usize = 10_000;

/// The projector's end: the jobs that wait for their `submitted` event, since when.
pub struct MissingBodies {
    since: Mutex<HashMap<JobId, Instant>>,
    missed: mpsc::Sender<JobId>,
}

/// Both ends: the other gets the ids under which history has the jobs.
pub fn new_missing_bodies() -> (MissingBodies, mpsc::Receiver<JobId>) {
    let (missed, arriving) = mpsc::channel(WAITING);
    (MissingBodies { since: Mutex::default(), missed }, arriving)
}

impl MissingBodies {
    /// Takes note of a batch that was committed, and tells of the jobs that have waited long enough.
    pub(super) fn note(&self, folded: &Folded) {
        let now = Instant::now();
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &folded.given {
            since.remove(id);
        }
        for id in &folded.lacking {
            if since.len() < WAITING {
                since.entry(id.clone()).or_insert(now);
            }
        }
        since.retain(|id, since| {
            if now < *since + PATIENCE {
                return true;
            }
            // While the channel is full, the job waits once more.
            *since = now;
            matches!(self.missed.try_send(id.clone()), Err(mpsc::error::TrySendError::Full(_)))
        });
    }

    /// When the next job will have waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.values().min().map(|since| *since + PATIENCE)
    }
}
