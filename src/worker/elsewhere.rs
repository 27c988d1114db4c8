//! Jobs that only another worker can run: this worker lacks the binary, and another one announces
//! it. This worker puts such jobs off, for longer each time, instead of failing them for good.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Worker;
use crate::domain::JobId;
use crate::queue::Lease;

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

    /// How long to leave the lease's job to another worker. `None` when this worker has its binary,
    /// or no other worker has it.
    pub(super) async fn leave(&self, worker: &Worker, lease: &Lease) -> Option<Duration> {
        let job = lease.job();
        if !worker.runner.lacks(&job.name) {
            return None;
        }
        let runs_there = match worker.source.peers().await {
            Ok(peers) => {
                peers.iter().any(|peer| peer.id != worker.settings.id && peer.has_binary(&job.name) == Some(true))
            }
            // The worker asks again when the job comes back.
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
