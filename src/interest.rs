//! Tells a background loop whether its work is asked for, so that it does none that is not, and wakes it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// When some work was last asked for. None has been at first.
#[derive(Default)]
pub struct Interest {
    asked_at: Mutex<Option<Instant>>,
    wake_up: Notify,
}

impl Interest {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the work is asked for now.
    pub fn note(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// Whether the work was asked for within this time.
    pub fn is_within(&self, time: Duration) -> bool {
        self.lock().is_some_and(|at| at.elapsed() < time)
    }

    /// Wakes the loop, or lets its next wait end at once.
    pub fn wake(&self) {
        self.wake_up.notify_one();
    }

    /// Returns when the loop is woken.
    pub async fn woken(&self) {
        self.wake_up.notified().await;
    }
}
