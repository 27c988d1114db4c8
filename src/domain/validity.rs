//! The time until which a lease holds, for the worker and the guard, which must act before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A moment that can be moved on; clones see the same one. It is counted on this machine's boot clock ([`boot_ms`]).
#[derive(Debug, Clone)]
pub struct Validity(Arc<AtomicU64>);

impl Validity {
    /// Valid for so long from now.
    pub fn lasting(time: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(boot_ms().saturating_add(ms(time)))))
    }

    /// Valid for so long after `since`, which [`boot_ms`] had told; never shorter than it was.
    pub fn extend(&self, since: u64, time: Duration) {
        self.0.fetch_max(since.saturating_add(ms(time)), Ordering::SeqCst);
    }

    /// The moment at which it ends, as [`boot_ms`] tells the time.
    pub fn until(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether that has passed.
    pub fn is_over(&self) -> bool {
        self.until() <= boot_ms()
    }

    /// The moment itself, for code that may do no more than read it: a child between its clone and its exec.
    pub fn moment(&self) -> &AtomicU64 {
        &self.0
    }
}

/// Milliseconds since this machine was booted. All its processes read the same clock; no correction of the time of day
/// moves it; it goes on while a process is stopped and, unlike the monotonic clock, while the machine is suspended.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
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
        let (now, validity) = (boot_ms(), Validity::lasting(Duration::ZERO));
        assert!(validity.is_over());
        let seen = validity.clone();
        validity.extend(now, Duration::from_secs(100));
        validity.extend(now, Duration::from_secs(50));
        assert_eq!(seen.until(), now + 100_000);
        assert!(!seen.is_over());
    }

    #[test]
    fn time_in_suspend_counts() {
        let uptime = fs_err::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // The kernel counts the uptime on its boot clock, suspended or not.
        let ahead = boot_ms() as f64 / 1000.0 - seconds;
        assert!((-0.1..60.0).contains(&ahead), "{ahead}");
    }
}
