//! How many leases to hold: as many as there are slots, and while attempts are very short as many again, so that a slot
//! never waits for the queue. A lease that is held without a slot for long is given back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Attempts shorter than this on average are worth holding leases ahead for.
const SHORT: Duration = Duration::from_millis(50);
/// The weight of the newest attempt in the average.
const WEIGHT: f64 = 0.2;

/// The worker's pace: a moving average of how long attempts take.
pub(super) struct Pace {
    slots: usize,
    average_us: AtomicU64,
    changed: Notify,
}

impl Pace {
    /// How long a lease may wait for a slot while other workers might have one.
    pub(super) const PATIENCE: Duration = Duration::from_millis(500);

    pub(super) fn new(slots: usize) -> Self {
        // Nothing is known yet: begin without leases ahead.
        Self { slots, average_us: AtomicU64::new(u64::MAX), changed: Notify::new() }
    }

    /// How many leases to hold now.
    pub(super) fn leases(&self) -> usize {
        if self.is_short() { self.slots * 2 } else { self.slots }
    }

    /// Learns how long an attempt took.
    pub(super) fn learn(&self, wall: Duration) {
        let was = self.is_short();
        let new = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        // A lost race loses one sample of an average.
        let old = self.average_us.load(Ordering::Relaxed);
        let next = if old == u64::MAX { new } else { (old as f64 * (1.0 - WEIGHT) + new as f64 * WEIGHT) as u64 };
        self.average_us.store(next, Ordering::Relaxed);
        if was != self.is_short() {
            self.changed.notify_one();
        }
    }

    /// Returns when [`Pace::leases`] answers differently.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn is_short(&self) -> bool {
        u128::from(self.average_us.load(Ordering::Relaxed)) < SHORT.as_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_held_ahead_only_while_attempts_are_short() {
        let pace = Pace::new(4);
        assert_eq!(pace.leases(), 4);
        pace.learn(Duration::from_millis(1));
        assert_eq!(pace.leases(), 8);
        pace.learn(Duration::from_secs(10));
        assert_eq!(pace.leases(), 4);
    }
}
