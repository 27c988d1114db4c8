//! Counts failures in a row: how long to wait after each, and when to log them.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Level;

use crate::logging::chain;
use crate::reconnect::ReconnectBackoff;

/// What the log says of the failures of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutageWords {
    /// The level of the first failure of a row: `ERROR`, `WARN`, or `DEBUG` where another part warns of the same cause.
    pub level: Level,
    /// What does not work.
    pub failing: &'static str,
    /// What works again.
    pub again: &'static str,
}

impl OutageWords {
    /// Words for what passes by itself.
    pub const fn warn(failing: &'static str, again: &'static str) -> Self {
        Self { level: Level::WARN, failing, again }
    }

    /// Words for what an operator must act on.
    pub const fn error(failing: &'static str, again: &'static str) -> Self {
        Self { level: Level::ERROR, failing, again }
    }

    /// Words for what another part warns of already.
    pub const fn debug(failing: &'static str, again: &'static str) -> Self {
        Self { level: Level::DEBUG, failing, again }
    }
}

/// The failures of one part since its last success.
#[derive(Debug)]
pub struct Outage {
    part: &'static str,
    words: OutageWords,
    failures: u32,
    since: Option<Instant>,
    waits: ReconnectBackoff,
}

impl Outage {
    /// Starts without a failure.
    pub fn new(part: &'static str, words: OutageWords, waits: ReconnectBackoff) -> Self {
        Self { part, words, failures: 0, since: None, waits }
    }

    /// Notes a failure, logs the first of a row, and returns how long to wait before the next try.
    pub fn failed(&mut self, error: &dyn Error) -> Duration {
        let (part, error, failing) = (self.part, chain(error), self.words.failing);
        self.failures = self.failures.saturating_add(1);
        if self.since.is_some() {
            tracing::debug!(part, error, failures = self.failures, "{failing}");
        } else {
            self.since = Some(Instant::now());
            match self.words.level {
                Level::ERROR => tracing::error!(part, error, "{failing}"),
                Level::WARN => tracing::warn!(part, error, "{failing}"),
                _ => tracing::debug!(part, error, "{failing}"),
            }
        }
        self.waits.next_wait()
    }

    /// Notes a success. The waits start over, and the log says so after an outage.
    pub fn passed(&mut self) {
        if let Some(since) = self.since.take() {
            let (part, seconds, failures, again) =
                (self.part, since.elapsed().as_secs(), self.failures, self.words.again);
            match self.words.level {
                Level::ERROR | Level::WARN => tracing::info!(part, seconds, failures, "{again}"),
                _ => tracing::debug!(part, seconds, failures, "{again}"),
            }
        }
        self.failures = 0;
        self.waits.reset();
    }
}
