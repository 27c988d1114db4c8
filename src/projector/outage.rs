//! Counts failures in a row: how long to wait after each, and when to log them.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;

use crate::logging::chain;
use crate::reconnect::ReconnectBackoff;

/// The failures since the last success.
pub(super) struct Outage {
    failures: u32,
    since: Option<Instant>,
    waits: ReconnectBackoff,
}

impl Outage {
    pub(super) fn new() -> Self {
        Self {
            failures: 0,
            since: None,
            waits: ReconnectBackoff::new(Duration::from_millis(100), Duration::from_secs(5)),
        }
    }

    /// Notes a failure, logs the first of a row, and returns how long to wait before the next try.
    pub(super) fn failed(&mut self, error: &dyn Error) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::error!(error = chain(error), "history stands still; trying again until it moves");
        } else {
            tracing::debug!(error = chain(error), failures = self.failures, "history still stands still");
        }
        self.failures = self.failures.saturating_add(1);
        self.waits.next_wait()
    }

    /// Notes a success, which ends the row of failures, and logs it if there were some.
    pub(super) fn passed(&mut self) {
        if let Some(since) = self.since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, failures = self.failures, "history moves again");
        }
        self.failures = 0;
        self.waits.reset();
    }
}
