//! Delays the answer to a wrong sign-in, so that guessing is slow.

use std::time::Duration;

use tokio::sync::Semaphore;

/// How many wrong sign-ins are answered in one [`DELAY`].
const AT_ONCE: usize = 4;
const DELAY: Duration = Duration::from_millis(500);
/// The longest that a wrong sign-in waits in all. After that it is answered at once, because a crowd of them must not
/// keep the connections of others.
const LONGEST: Duration = Duration::from_secs(5);

/// The wrong sign-ins that wait for their answer. A right one never waits: guessing locks no one out.
pub(super) struct WrongSignIns(Semaphore);

impl WrongSignIns {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }

    /// Returns when a wrong sign-in may be answered.
    pub(super) async fn delay(&self) {
        let in_turn = async {
            let _turn = self.0.acquire().await;
            tokio::time::sleep(DELAY).await;
        };
        // Whether the time is over or the turn was had, the answer is due.
        let _ = tokio::time::timeout(LONGEST, in_turn).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn guesses_take_turns_but_wait_no_longer_than_a_while() {
        let (wrong, start) = (WrongSignIns::new(), Instant::now());
        let guess = async || {
            wrong.delay().await;
            start.elapsed()
        };
        let ends = futures_util::future::join_all((0..100).map(|_| guess())).await;
        let within = |limit: Duration| ends.iter().filter(|end| **end <= limit + Duration::from_millis(2)).count();
        assert_eq!((within(DELAY / 2), within(DELAY), within(DELAY * 2)), (0, AT_ONCE, 2 * AT_ONCE));
        assert_eq!(within(LONGEST), 100);
    }
}
