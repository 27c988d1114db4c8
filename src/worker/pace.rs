//! How many leases to hold: as many as there are slots, and while attempts are short some ahead, so that a slot never
//! waits for the queue and what is written is written in groups. A lease that is held ahead for long is given back.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How much work to hold ahead for each slot, by the average length of an attempt.
const AHEAD: Duration = Duration::from_millis(20);
/// Leases ahead for each slot at most.
const MOST: usize = 32;
/// The weight of the newest attempt in the average.
const WEIGHT: f64 = 0.2;

/// The worker's pace: a moving average of how long attempts take, and the leases that are worth holding for it.
pub(super) struct Pace {
    slots: usize,
    average_us: AtomicU64,
    leases: AtomicUsize,
    changed: Notify,
}

impl Pace {
    /// How long a lease may wait for a slot while other workers might have one.
    pub(super) const PATIENCE: Duration = Duration::from_millis(500);

    pub(super) fn new(slots: usize) -> Self {
        // Nothing is known yet: begin without leases ahead.
        Self { slots, average_us: AtomicU64::new(u64::MAX), leases: AtomicUsize::new(slots), changed: Notify::new() }
    }

    /// How many leases to hold now.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    /// Whether leases are held ahead now.
    pub(super) fn is_ahead(&self) -> bool {
        self.leases() > self.slots
    }

    /// Learns how long an attempt took.
    pub(super) fn learn(&self, wall: Duration) {
        let new = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        // A lost race loses one sample of an average.
        let old = self.average_us.load(Ordering::Relaxed);
        let next = if old == u64::MAX { new } else { (old as f64 * (1.0 - WEIGHT) + new as f64 * WEIGHT) as u64 };
        self.average_us.store(next, Ordering::Relaxed);
        let ahead = usize::try_from(AHEAD.as_micros() / u128::from(next.max(1))).unwrap_or(MOST).min(MOST);
        let leases = self.slots * (1 + ahead);
        let was = self.leases.load(Ordering::Relaxed);
        // Small swings of the average are not worth a word to the queue; the way back to none is.
        if leases.abs_diff(was) > was / 4 || (ahead == 0) != (was == self.slots) {
            self.leases.store(leases, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    /// Returns when [`Pace::leases`] answers differently.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
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
        assert_eq!(pace.leases(), 4 * 21);
        pace.learn(Duration::from_secs(10));
        assert_eq!(pace.leases(), 4);
        assert!(!pace.is_ahead());
    }
}
