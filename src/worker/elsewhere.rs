//! Jobs that turn out to be for another worker only when this one has taken them, as by a binary that is not for this
//! machine. This worker puts such jobs off, for longer each time, instead of failing them for good.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::domain::{Job, JobId};
use crate::queue::Placing;

/// How long a job is put off the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How many jobs this worker remembers. Beyond that it forgets all of them, and their pauses begin anew.
const REMEMBERED: usize = 10_000;
/// For how long this worker takes nothing before and after the moment when such a job is due again, so
/// that other workers are first. It does not step aside all the time, even when there are many such jobs.
const ASIDE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(120));
/// The least time between two such stretches.
const BETWEEN: Duration = Duration::from_secs(1);

/// The jobs that this worker has left to others.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How often each job was put off here.
    rounds: HashMap<JobId, u32>,
    /// From when and until when this worker takes nothing.
    aside: Option<(Instant, Instant)>,
}

impl Elsewhere {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to leave a job to another worker, or until one comes that can run it.
    pub(super) fn pause(&self, job: &Job, placing: Placing) -> Duration {
        let mut state = self.state();
        if state.rounds.len() >= REMEMBERED {
            state.rounds.clear();
        }
        let round = state.rounds.entry(job.id.clone()).or_default();
        let pause = (PAUSES.0 * 2u32.saturating_pow(*round)).min(PAUSES.1);
        *round += 1;
        let due = Instant::now() + pause;
        if placing == Placing::Elsewhere && state.aside.is_none_or(|(_, until)| until + BETWEEN < due) {
            state.aside = Some((due - ASIDE.0, due + ASIDE.1));
            self.changed.notify_one();
        }
        tracing::info!(job = %job.id, name = %job.name, ?pause, "this worker can't run the job; leaving it to others");
        pause
    }

    /// Whether this worker steps aside now, so that others are first.
    pub(super) fn is_aside(&self) -> bool {
        let now = Instant::now();
        self.state().aside.is_some_and(|(from, to)| (from..to).contains(&now))
    }

    /// Returns when [`Elsewhere::is_aside`] may answer differently.
    pub(super) async fn changed(&self) {
        let now = Instant::now();
        let next = self.state().aside.and_then(|(from, to)| [from, to].into_iter().find(|edge| *edge > now));
        match next {
            Some(edge) => tokio::select! {
                () = sleep_until(edge) => {}
                () = self.changed.notified() => {}
            },
            None => self.changed.notified().await,
        }
    }
}
