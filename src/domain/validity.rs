//! Until when something holds, for whoever must act before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A moment that can be moved on; clones see the same one. It is counted on this machine's monotonic clock, which all its
/// processes read alike, and which goes on while one of them is stopped.
#[derive(Debug, Clone)]
pub struct Validity(Arc<AtomicU64>);

impl Validity {
    /// Valid for so long from now.
    pub fn lasting(time: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(monotonic_ms().saturating_add(ms(time)))))
    }

    /// Valid for so long after `since`, which [`monotonic_ms`] had told; never shorter than it was.
    pub fn extend(&self, since: u64, time: Duration) {
        self.0.fetch_max(since.saturating_add(ms(time)), Ordering::SeqCst);
    }

    /// The moment at which it ends, as [`monotonic_ms`] tells the time.
    pub fn until(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether that has passed.
    pub fn is_over(&self) -> bool {
        self.until() <= monotonic_ms()
    }
}

/// Milliseconds on this machine's monotonic clock.
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_on_only() {
        let (now, validity) = (monotonic_ms(), Validity::lasting(Duration::ZERO));
        assert!(validity.is_over());
        let seen = validity.clone();
        validity.extend(now, Duration::from_secs(100));
        validity.extend(now, Duration::from_secs(50));
        assert_eq!(seen.until(), now + 100_000);
        assert!(!seen.is_over());
    }
}
