//! A row of failures: how long to wait after each, and what to tell people about them.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{Backoff, BackoffKind};

/// Failures since the last success.
#[derive(Default)]
pub(super) struct Outage {
    failures: u32,
    since: Option<Instant>,
}

impl Outage {
    /// Notes a failure, logs the first of a row, and answers how long to wait before the next try.
    pub(super) fn failed(&mut self, error: &dyn Error) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::error!(error = chain(error), "history stands still; trying again until it moves");
        } else {
            tracing::debug!(error = chain(error), failures = self.failures, "history still stands still");
        }
        self.failures = self.failures.saturating_add(1);
        let backoff = Backoff {
            kind: BackoffKind::Exponential,
            delay: Duration::from_millis(100),
            max: Some(Duration::from_secs(5)),
            jitter: 0.5,
        };
        // The random half of a UUID serves as dice: projectors that failed together come back apart.
        let dice = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        backoff.wait(self.failures, dice)
    }

    /// Notes a success.
    pub(super) fn passed(&mut self) {
        if let Some(since) = self.since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, failures = self.failures, "history moves again");
        }
        self.failures = 0;
    }
}

/// An error with all its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
