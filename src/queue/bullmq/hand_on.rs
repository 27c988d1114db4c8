//! Hands jobs on that this worker can't run. BullMQ gives a worker whatever comes next, so the worker puts such a job
//! off, for longer each time, and takes the next one. No attempt is spent.
//!
//! However many such jobs there are, a claim handles a bounded number of them a second: the other jobs wait no longer
//! for them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::Placing;

/// How long a job is put off the first time that another worker could run, and at most.
const ELSEWHERE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// The same for a job that this worker could run if its memory or resources were free: they may be soon.
const HERE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// The same for a job that no worker can run now.
const NOWHERE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// The least time between two jobs that come back to be looked at again.
const APART: Duration = Duration::from_millis(20);
/// The least time between two moments in which the worker lets others go first.
const YIELDS: Duration = Duration::from_secs(3);
/// The least time between two words about it in the log.
const TOLD: Duration = Duration::from_secs(60);

/// When the jobs that a claim handed on come back.
#[derive(Default)]
pub(super) struct HandOn(Mutex<State>);

#[derive(Default)]
struct State {
    /// From when on the next of them is put off: each takes up a stretch of the claim's time.
    next_at: Option<Instant>,
    yielded: Option<Instant>,
    told: Option<Instant>,
    /// How many were handed on since that was told last.
    untold: u64,
}

impl HandOn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long to put a job off that was handed on `round` times before. Jobs come back one after another.
    pub(super) fn pause(&self, placing: Placing, round: u32) -> Duration {
        let (first, most) = match placing {
            Placing::Nowhere => NOWHERE,
            Placing::Here => HERE,
            Placing::Elsewhere | Placing::Refused => ELSEWHERE,
        };
        let pause = first.saturating_mul(2u32.saturating_pow(round)).min(most);
        let mut state = self.state();
        let now = Instant::now();
        let from = state.next_at.map_or(now, |at| at.max(now));
        state.next_at = Some((from + APART).min(now + NOWHERE.1));
        from.duration_since(now) + pause
    }

    /// Whether the worker takes nothing for the moment in which the job comes back, so that one that can run it is first.
    pub(super) fn yields(&self, placing: Placing) -> bool {
        let mut state = self.state();
        let yields = placing == Placing::Elsewhere && state.yielded.is_none_or(|at| at.elapsed() >= YIELDS);
        if yields {
            state.yielded = Some(Instant::now());
        }
        yields
    }

    /// How many jobs were handed on since that was told last, when it is time to tell.
    pub(super) fn news(&self) -> Option<u64> {
        let mut state = self.state();
        state.untold += 1;
        if state.told.is_some_and(|at| at.elapsed() < TOLD) {
            return None;
        }
        state.told = Some(Instant::now());
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_jobs_come_back_one_after_another() {
        let alone = HandOn::default();
        let mut last = Duration::ZERO;
        for round in 0..20 {
            let pause = alone.pause(Placing::Elsewhere, round);
            assert!(pause >= last && pause <= ELSEWHERE.1 + APART, "{round}: {pause:?}");
            last = pause;
            tokio::time::advance(pause).await;
        }
        let many = HandOn::default();
        let pauses: Vec<_> = (0..1000).map(|_| many.pause(Placing::Elsewhere, 0)).collect();
        assert_eq!(pauses[0], ELSEWHERE.0);
        assert!(pauses.windows(2).all(|two| two[1] - two[0] == APART), "not more than fifty a second");
        assert!(pauses[999] < NOWHERE.1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_worker_lets_others_go_first_only_now_and_then() {
        let hand_on = HandOn::default();
        assert!(!hand_on.yields(Placing::Nowhere), "there are no others");
        assert!(hand_on.yields(Placing::Elsewhere));
        assert!(!hand_on.yields(Placing::Elsewhere));
        tokio::time::advance(YIELDS).await;
        assert!(hand_on.yields(Placing::Elsewhere));
        assert_eq!([hand_on.news(), hand_on.news()], [Some(1), None]);
        tokio::time::advance(TOLD).await;
        assert_eq!(hand_on.news(), Some(2));
    }
}
