//! Decides how many leases a worker holds: one for each slot, and some ahead while attempts are
//! short. With leases ahead, no slot waits for the queue, and the worker writes in groups. It holds
//! nothing ahead for a slot whose attempt has been running for long. It gives back a lease that
//! waits ahead in vain, so that another worker can run the job.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How much work to hold ahead for each slot, measured by the average length of an attempt.
const AHEAD: Duration = Duration::from_millis(20);
/// The most leases ahead for each slot.
const MOST: usize = 32;
/// The weight of the newest attempt in the moving average, from 0 to 1.
const WEIGHT: f64 = 0.2;
/// The age at which a running attempt shows that its slot will not be free soon.
const LONG: Duration = Duration::from_millis(100);

/// The worker's pace: a moving average of how long attempts take, the times when the running ones
/// began, and the number of leases that are worth holding for them.
pub(super) struct Prefetch {
    slots: usize,
    average_us: AtomicU64,
    running: Mutex<Running>,
    leases: AtomicUsize,
    changed: Notify,
}

/// The beginnings of the attempts that have a slot now.
#[derive(Default)]
struct Running {
    began: BTreeMap<u64, Instant>,
    next: u64,
}

/// Counts one attempt as running until this is dropped.
pub(super) struct Began {
    prefetch: Arc<Prefetch>,
    number: u64,
}

impl Drop for Began {
    fn drop(&mut self) {
        self.prefetch.running().began.remove(&self.number);
    }
}

impl Prefetch {
    /// How long a lease may wait for a slot here while other workers may have one.
    pub(super) const PATIENCE: Duration = Duration::from_millis(500);

    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            // No length is known yet: begin without leases ahead.
            average_us: AtomicU64::new(u64::MAX),
            running: Mutex::default(),
            leases: AtomicUsize::new(slots),
            changed: Notify::new(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many leases to hold now.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    /// Whether leases are held ahead now.
    pub(super) fn is_ahead(&self) -> bool {
        self.leases() > self.slots
    }

    /// Notes that an attempt has a slot.
    pub(super) fn begin(self: &Arc<Self>) -> Began {
        let mut running = self.running();
        let number = running.next;
        running.next += 1;
        running.began.insert(number, Instant::now());
        drop(running);
        Began { prefetch: self.clone(), number }
    }

    /// Adds the length of an attempt to the average.
    pub(super) fn learn(&self, wall: Duration) {
        let new = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        // If two threads race, the average loses one sample.
        let old = self.average_us.load(Ordering::Relaxed);
        let next = if old == u64::MAX { new } else { (old as f64 * (1.0 - WEIGHT) + new as f64 * WEIGHT) as u64 };
        self.average_us.store(next, Ordering::Relaxed);
        if self.count() {
            self.changed.notify_one();
        }
    }

    /// Counts anew how many leases to hold. Returns whether the number has changed enough to matter.
    fn count(&self) -> bool {
        let average = self.average_us.load(Ordering::Relaxed).max(1);
        let ahead = usize::try_from(AHEAD.as_micros() / u128::from(average)).unwrap_or(MOST).min(MOST);
        let long = self.running().began.values().filter(|began| began.elapsed() >= LONG).count();
        let leases = self.slots + self.slots.saturating_sub(long) * ahead;
        let was = self.leases.load(Ordering::Relaxed);
        // A small swing is not worth a message to the queue. The change to or from no leases ahead always is.
        let changed = leases.abs_diff(was) > was / 4 || (leases == self.slots) != (was == self.slots);
        if changed {
            self.leases.store(leases, Ordering::Relaxed);
        }
        changed
    }

    /// Returns when [`Prefetch::leases`] has a new answer. While the worker holds leases ahead, the
    /// passing of time alone can change it.
    pub(super) async fn changed(&self) {
        loop {
            let look = async {
                match self.is_ahead() {
                    true => tokio::time::sleep(LONG).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => return,
                () = look => if self.count() {
                    return;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_held_ahead_only_while_attempts_are_short() {
        let prefetch = Prefetch::new(4);
        assert_eq!(prefetch.leases(), 4);
        prefetch.learn(Duration::from_millis(1));
        assert_eq!(prefetch.leases(), 4 * 21);
        prefetch.learn(Duration::from_secs(10));
        assert_eq!(prefetch.leases(), 4);
        assert!(!prefetch.is_ahead());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_ahead_for_slots_whose_attempts_run_for_long() {
        let prefetch = Arc::new(Prefetch::new(4));
        prefetch.learn(Duration::from_millis(1));
        prefetch.changed().await;
        let mut attempts: Vec<Began> = (0..3).map(|_| prefetch.begin()).collect();
        prefetch.changed().await;
        assert_eq!(prefetch.leases(), 4 + 20, "one slot goes on with short ones");
        attempts.push(prefetch.begin());
        prefetch.changed().await;
        assert!(!prefetch.is_ahead(), "the worker notices it before an attempt ends");
        drop(attempts);
        prefetch.learn(Duration::from_millis(1));
        assert_eq!(prefetch.leases(), 4 * 21);
    }
}
