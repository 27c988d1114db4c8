//! Jobs that can't be run here but by another worker: this one lacks the binary, and another one announces it. They go
//! back to the queue, for longer each time, instead of failing for good.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Worker;
use crate::domain::JobId;
use crate::queue::Lease;

/// How long a job is left alone the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How many jobs are remembered; beyond that pauses begin anew.
const REMEMBERED: usize = 10_000;
/// Around the moment when such a job is due again this worker takes nothing, so that others are first: for so long before
/// it and after it, and not all the time when there are many.
const ASIDE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(120));
/// Between two such times.
const BETWEEN: Duration = Duration::from_secs(1);

/// What was left to other workers.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How often each job was put off here.
    rounds: HashMap<JobId, u32>,
    /// When this worker takes nothing: from, to.
    aside: Option<(Instant, Instant)>,
}

impl Elsewhere {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to leave the lease's job to another worker; `None` when this one has its binary, or no other has.
    pub(super) async fn leave(&self, worker: &Worker, lease: &Lease) -> Option<Duration> {
        let job = lease.job();
        if !worker.runner.lacks(&job.name) {
            return None;
        }
        let runs_there = match worker.source.peers().await {
            Ok(peers) => {
                peers.iter().any(|peer| peer.id != worker.settings.id && peer.has_binary(&job.name) == Some(true))
            }
            // Asked again when it comes again.
            Err(error) => {
                tracing::warn!(job = %job.id, %error, "can't tell whether another worker has a job's binary");
                true
            }
        };
        let mut state = self.state();
        if !runs_there {
            state.rounds.remove(&job.id);
            return None;
        }
        if state.rounds.len() >= REMEMBERED {
            state.rounds.clear();
        }
        let round = state.rounds.entry(job.id.clone()).or_default();
        let pause = (PAUSES.0 * 2u32.saturating_pow(*round)).min(PAUSES.1);
        *round += 1;
        let due = Instant::now() + pause;
        if state.aside.is_none_or(|(_, until)| until + BETWEEN < due) {
            state.aside = Some((due - ASIDE.0, due + ASIDE.1));
            self.changed.notify_one();
        }
        tracing::info!(job = %job.id, name = %job.name, ?pause, "another worker has this job's binary; leaving it to that one");
        Some(pause)
    }

    /// Whether others are to be first now.
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
