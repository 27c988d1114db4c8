//! Removes expired records from history, a few at a time, between two batches, and gives their room back.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Timestamp;
use crate::logging::chain;
use crate::store::{Projection, Retention, StoreErrorKind, Term};

/// The most records that one step removes: other writers wait no longer than this takes.
const STEP: usize = 200;
/// The time from one step to the next while there is more to remove.
const PACE: Duration = Duration::from_millis(50);
/// The time to the next look when nothing was left. Records expire in days.
const REST: Duration = Duration::from_secs(3600);
/// The same while history is behind the log by more than [`REST`].
const REST_BEHIND: Duration = Duration::from_secs(1);
/// The time from a failure to the next try.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// The time of the next look, and the number of records that this round has removed.
pub(super) struct Sweep<'a> {
    projection: &'a dyn Projection,
    retention: Retention,
    due: Instant,
    removed: u64,
}

impl<'a> Sweep<'a> {
    /// Makes a sweep whose first step is due at once.
    pub(super) fn new(projection: &'a dyn Projection, retention: Retention) -> Self {
        Self { projection, retention, due: Instant::now(), removed: 0 }
    }

    /// When the next step is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Removes some records that had expired at the time up to which history goes, but at `now` at
    /// the latest, if a step is due. Logs a failure and tries again later, while folding goes on.
    /// If the projector has lost the term, it learns so from its commits.
    pub(super) async fn step(&mut self, term: &Term, until: Timestamp, now: Timestamp) {
        if Instant::now() < self.due {
            return;
        }
        let pause = match self.projection.expire(term, self.retention, until.min(now), STEP).await {
            Ok(removed) => {
                self.removed += removed;
                match removed < STEP as u64 {
                    false => PACE,
                    true if self.gives_room_back().await => PACE,
                    true if now.since(until) > REST => REST_BEHIND,
                    true => REST,
                }
            }
            Err(error) if error.kind == StoreErrorKind::Fenced => AFTER_FAILURE,
            Err(error) => {
                tracing::warn!(error = chain(&error), "what has expired can't be removed; trying again");
                AFTER_FAILURE
            }
        };
        self.due = Instant::now() + pause;
        if pause == REST && self.removed > 0 {
            tracing::info!(jobs = std::mem::take(&mut self.removed), "expired jobs were removed from history");
        }
    }

    /// Lets the store give room back, and answers whether there is more to give back.
    async fn gives_room_back(&self) -> bool {
        self.projection.give_room_back().await.unwrap_or_else(|error| {
            tracing::debug!(error = chain(&error), "the store gives no room back now");
            false
        })
    }
}
