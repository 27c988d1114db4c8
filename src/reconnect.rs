//! Waits between tries to reach something: doubling, bounded, with jitter so that many clients do not march in step.

use std::time::Duration;

/// The growing waits between tries to reach one server.
#[derive(Debug, Clone)]
pub struct ReconnectBackoff {
    next: Duration,
    most: Duration,
    first: Duration,
}

impl ReconnectBackoff {
    /// Starts at `first` and doubles up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { next: first.min(most), most, first }
    }

    /// The next wait: between half of it and all of it.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.most);
        full.mul_f64(0.5 + 0.5 * dice())
    }

    /// Starts over at the first wait, after a success.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.most);
    }
}

/// A random number in 0..1.
pub fn dice() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for full in [100, 200, 350, 350] {
            let wait = waits.next_wait();
            assert!(
                wait <= Duration::from_millis(full) && wait >= Duration::from_millis(full) / 2,
                "{wait:?} of {full}"
            );
        }
        waits.reset();
        assert!(waits.next_wait() <= Duration::from_millis(100));
        assert!((0..1000).map(|_| dice()).all(|d| (0.0..1.0).contains(&d)));
    }
}
