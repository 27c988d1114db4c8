//! Jobs that can't be run here but by another worker: this one lacks the binary, and another one announces it. They go
//! back to the queue, for longer each time, instead of failing for good.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Worker;
use crate::domain::{AttemptReport, JobId, Outcome, SpawnFailure};
use crate::queue::Lease;

/// How long a job is left alone the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How many jobs are remembered; beyond that pauses begin anew.
const REMEMBERED: usize = 10_000;

/// Counts how often each job was put off here.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(Mutex<HashMap<JobId, u32>>);

impl Elsewhere {
    /// How long to put a job off whose attempt ended as `report` tells; `None` when that end is one: it was started, or no
    /// other worker could start it either.
    pub(super) async fn runs(&self, worker: &Worker, lease: &Lease, report: &AttemptReport) -> Option<Duration> {
        use SpawnFailure::{NotExecutable, NotFound};
        let Outcome::SpawnError { reason: NotFound | NotExecutable } = report.outcome else { return None };
        let job = lease.job();
        if worker.runner.can_run(&job.name) {
            // Not for want of the binary.
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
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !runs_there {
            rounds.remove(&job.id);
            return None;
        }
        if rounds.len() >= REMEMBERED {
            rounds.clear();
        }
        let round = rounds.entry(job.id.clone()).or_default();
        let pause = (PAUSES.0 * 2u32.saturating_pow(*round)).min(PAUSES.1);
        *round += 1;
        tracing::info!(job = %job.id, name = %job.name, ?pause, "another worker has this job's binary; leaving it to that one");
        Some(pause)
    }
}
