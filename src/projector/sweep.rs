//! Takes out of history what has expired: a little at a time, between two batches.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Timestamp;
use crate::logging::chain;
use crate::store::{Projection, Retention, StoreErrorKind, Term};

/// Records that one step removes at most: other writers wait no longer than this takes.
const STEP: usize = 200;
/// From one step to the next while there is more.
const PACE: Duration = Duration::from_millis(50);
/// From one look to the next when nothing was left: records expire in days.
const REST: Duration = Duration::from_secs(3600);
/// The same while history is behind the log by more than that.
const REST_BEHIND: Duration = Duration::from_secs(1);
/// From a failure to the next try.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// When to look next, and how much this round has removed.
pub(super) struct Sweep<'a> {
    projection: &'a dyn Projection,
    retention: Retention,
    due: Instant,
    removed: u64,
}

impl<'a> Sweep<'a> {
    /// A sweep that begins at once.
    pub(super) fn new(projection: &'a dyn Projection, retention: Retention) -> Self {
        Self { projection, retention, due: Instant::now(), removed: 0 }
    }

    /// When the next step is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Removes some of what has expired at the moment up to which history goes, `now` at the latest, if it is time. That it can't is told and tried again: history goes on
    /// meanwhile, and whoever has lost the term hears of it there.
    pub(super) async fn step(&mut self, term: &Term, until: Timestamp, now: Timestamp) {
        if Instant::now() < self.due {
            return;
        }
        let pause = match self.projection.expire(term, self.retention, until.min(now), STEP).await {
            Ok(removed) => {
                self.removed += removed;
                match removed < STEP as u64 {
                    true if now.since(until) > REST => REST_BEHIND,
                    true => REST,
                    false => PACE,
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
}
