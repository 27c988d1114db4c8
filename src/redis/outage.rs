//! What both Redis clients do and say while a server is away.
//!
//! Each crate reconnects by itself once it has been connected. `fred` tells of it, so a [`super::Redis`] logs
//! every loss and return. The crate of BullMQ does not, so the queue logs only that it waits for its first connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{RedisError, RedisErrorKind, RedisUrl, diagnose};
use crate::reconnect::ReconnectBackoff;

/// The first wait between two tries to connect.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest wait between two tries to connect.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The waits between tries to connect to a server that is away.
pub(crate) fn waits() -> ReconnectBackoff {
    ReconnectBackoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// The servers of one URL, and whether the log has said that they are away.
#[derive(Debug)]
pub(crate) struct RedisOutage {
    place: String,
    /// There is one warning, however many connections there are.
    is_logged: AtomicBool,
}

impl RedisOutage {
    pub(crate) fn new(url: &RedisUrl) -> Self {
        Self { place: url.place(), is_logged: AtomicBool::new(false) }
    }

    /// The addresses of the servers, without user and password.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Logs a warning, the first time since the servers were there.
    pub(crate) fn log_away(&self, error: &RedisError) {
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "redis is away; trying on");
        }
    }

    /// Logs that the servers are back, if the log has said that they are away.
    pub(crate) fn log_back(&self) {
        if self.is_logged.swap(false, Ordering::Relaxed) {
            tracing::info!(redis = self.place, "redis is back");
        }
    }

    /// The error where the servers did not answer in time.
    pub(crate) fn no_answer(&self) -> RedisError {
        self.error(RedisErrorKind::Unavailable, "does not answer; check that it runs and that its URL names it")
    }

    /// The error of a client's error with this text, which is of the kind `otherwise` if its text says nothing else.
    pub(crate) fn failed(&self, text: &str, otherwise: RedisErrorKind) -> RedisError {
        let (kind, text) = diagnose::meaning(text, otherwise);
        RedisError { kind, message: format!("redis at {}: {text}", self.place) }
    }

    /// An error that says this of the servers.
    pub(super) fn error(&self, kind: RedisErrorKind, what: &str) -> RedisError {
        RedisError { kind, message: format!("redis at {} {what}", self.place) }
    }
}
