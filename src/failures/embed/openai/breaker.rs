//! Decides when not to ask: an endpoint that keeps failing is left alone for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::failures::EmbedError;

/// Failed requests in a row after which the endpoint is left alone.
const PATIENCE: u32 = 5;
/// For how long at first, and at most; it doubles while the endpoint goes on failing.
const FIRST_REST: Duration = Duration::from_secs(30);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// A circuit breaker, which all requests to the endpoint pass.
#[derive(Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    /// The time until which nothing is sent. When it has passed, one request may find out whether
    /// the endpoint is back. The others wait for as long again, so that a probe whose caller went
    /// away does not block them for ever.
    rests_until: Option<Instant>,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the next, so what a panicking thread left can be used.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whether a request may be sent now.
    pub(super) fn enter(&self) -> Result<(), EmbedError> {
        let mut state = self.state();
        let Some(until) = state.rests_until else { return Ok(()) };
        let now = Instant::now();
        if now < until {
            let after = until - now;
            let problem = format!("it failed {} times in a row and is left alone for a while", state.failures);
            return Err(EmbedError::Away { problem, after: Some(after) });
        }
        state.rests_until = Some(now + FIRST_REST);
        Ok(())
    }

    /// Notes that the endpoint answered a request as it should.
    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        (state.failures, state.rests_until) = (0, None);
    }

    /// Notes that a request failed for good. Answers for how long the endpoint is left alone now, if it is.
    pub(super) fn failed(&self) -> Option<Duration> {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let beyond = state.failures.checked_sub(PATIENCE)?;
        let rest = FIRST_REST.saturating_mul(1 << beyond.min(10)).min(LONGEST_REST);
        state.rests_until = Some(Instant::now() + rest);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_keeps_failing_is_left_alone_and_probed() {
        let breaker = Breaker::default();
        for _ in 1..PATIENCE {
            breaker.enter().unwrap();
            assert_eq!(breaker.failed(), None);
        }
        breaker.enter().unwrap();
        assert_eq!(breaker.failed(), Some(FIRST_REST));
        assert_eq!(breaker.enter().unwrap_err().retry_after(), Some(FIRST_REST));
        tokio::time::advance(FIRST_REST).await;
        breaker.enter().unwrap();
        assert!(breaker.enter().is_err(), "one probe at a time");
        assert_eq!(breaker.failed(), Some(FIRST_REST * 2));
        tokio::time::advance(FIRST_REST * 2).await;
        breaker.enter().unwrap();
        breaker.succeeded();
        breaker.enter().unwrap();
        breaker.enter().unwrap();
    }
}
