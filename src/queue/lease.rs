//! Leases: the right of a worker to run a job, and the stream of them that a claim gives.
//!
//! ```text
//!   claimed ──settle(verdict)──> settled          dropped unsettled ──> released, no attempt spent
//!      ├── conclude(events, verdict) ──> settled, and its events are in the log; or held as before
//!      │
//!      └── lost(): expired, cancelled, queue gone ──> the holder stops the process, then settles or drops
//! ```
//! An adapter renews its leases by itself, on its own task; the holder only listens to [`Lease::lost`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::OutputChunk;
use crate::domain::{AcceptedJob, AttemptNumber, Event, Job, JobBody, Progress, Validity, Verdict};

/// Why a holder must stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseLoss {
    /// It was not renewed in time, or another worker holds it: that worker may be running the job.
    Expired,
    /// An operator asked for the job to be stopped. The lease is still held and needs a verdict.
    Cancelled(String),
}

/// How long a lease of this length can be relied on. The rest is for the guard, which ends a process that its worker
/// can't end; the worker itself gives up earlier still.
pub(super) fn reliable(lease: Duration) -> Duration {
    lease * 11 / 12
}

/// What an adapter does for one lease. Each call is about that lease alone.
#[async_trait]
pub trait LeaseOps: Send + Sync {
    /// Publishes how far the job is; best effort, must not block.
    fn progress(&self, progress: &Progress);

    /// Publishes a piece of its output; best effort, bounded, must not block.
    fn output(&self, chunk: OutputChunk);

    /// Whether another piece can be published without losing one.
    fn has_room(&self) -> bool;

    /// Notes durably that the attempt is being started; tries until that is done. False when the lease was lost before.
    ///
    /// A lease that ends without this note started nothing: that is no crash, and its attempt number is given again.
    async fn started(&self) -> bool;

    /// Takes the note back: nothing was started after all. Carried out with the release that follows; must not block.
    fn withdrawn(&self);

    /// Carries the verdict out, once; what can't be carried out is left to the lease's expiry.
    async fn settle(&self, verdict: Verdict);

    /// Appends these events to the event log and carries the verdict out: both, or neither and false. An adapter can do so
    /// that keeps its jobs and the log in one database.
    async fn conclude(&self, _events: &[Event], _verdict: &Verdict) -> bool {
        false
    }

    /// Gives the job back without spending an attempt; must not block.
    fn release(&self);
}

/// A job that this worker holds.
pub struct Lease {
    job: AcceptedJob,
    is_announced: bool,
    attempt: AttemptNumber,
    attempts_finished: u32,
    crashes: u32,
    parents: ParentResults,
    loss: watch::Receiver<Option<LeaseLoss>>,
    validity: Option<Validity>,
    ops: Option<Arc<dyn LeaseOps>>,
}

/// What became of the jobs that a job has waited for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParentResults {
    /// Why the job must not run: one of them has failed, or there is nothing that could be run.
    pub barred: Option<String>,
    /// What those gave back that gave something back, by their ids.
    pub results: Map<String, Value>,
}

/// Why a job is failed that was not run: `parent`, which comes before it, failed for the reason `why`.
pub(super) fn not_run_because(parent: &str, why: &str) -> String {
    format!("not run, because job {parent}, which comes before it, failed: {why}")
}

/// Leases that may wait in the channel of a claim: more only slows a burst down.
pub(super) const CHANNEL: usize = 256;

impl Lease {
    /// For adapters: a lease just claimed. `attempt` counts this start, and those before it that were not given back
    /// unstarted. `crashes` counts the attempts since the last finished one that were started and lost with their
    /// workers. The sender of `loss` must live as long as the lease.
    pub fn new(
        job: AcceptedJob,
        attempt: AttemptNumber,
        attempts_finished: u32,
        crashes: u32,
        loss: watch::Receiver<Option<LeaseLoss>>,
        ops: Arc<dyn LeaseOps>,
    ) -> Self {
        Self {
            job,
            is_announced: true,
            attempt,
            attempts_finished,
            crashes,
            parents: ParentResults::default(),
            loss,
            validity: None,
            ops: Some(ops),
        }
    }

    /// For adapters: tells until when the holder may rely on the lease, renewals included. Somewhat before others may
    /// have it, so that the process can be ended in between.
    pub fn valid(mut self, validity: Validity) -> Self {
        self.validity = Some(validity);
        self
    }

    /// Until when the lease can be relied on, if its queue tells. Unlike [`Lease::lost`] it needs no task
    /// that runs: it also ends for a worker whose process is stopped.
    pub fn validity(&self) -> Option<&Validity> {
        self.validity.as_ref()
    }

    /// For adapters: adds what became of the jobs that this one has waited for.
    pub fn with_parents(mut self, parents: ParentResults) -> Self {
        self.parents = parents;
        self
    }

    /// Why the job must not be run but failed, if that is so: a job that it has waited for has failed, or no worker can
    /// run it.
    pub fn barred(&self) -> Option<&str> {
        self.parents.barred.as_deref()
    }

    /// What the jobs that this one has waited for gave back, by their ids.
    pub fn results_before(&self) -> &Map<String, Value> {
        &self.parents.results
    }

    /// The header of the job.
    pub fn job(&self) -> &Arc<Job> {
        &self.job.job
    }

    /// What the job is given.
    pub fn body(&self) -> &JobBody {
        &self.job.body
    }

    /// For adapters: notes whether a server of Jobber's has submitted the job, and so tells history of it.
    pub fn announced(mut self, is_announced: bool) -> Self {
        self.is_announced = is_announced;
        self
    }

    /// Whether a server of Jobber's has submitted the job, and so tells history what it is given. Of any other job the
    /// worker's events must tell.
    pub fn is_announced(&self) -> bool {
        self.is_announced
    }

    /// The number of the attempt, counting from 1.
    pub fn attempt(&self) -> AttemptNumber {
        self.attempt
    }

    /// How many attempts have spent the job's budget before this one.
    pub fn attempts_finished(&self) -> u32 {
        self.attempts_finished
    }

    /// How many attempts in a row were lost with their workers: past a limit the job must not be run again.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// Returns when the holder must stop; pends while all is well.
    pub async fn lost(&self) -> LeaseLoss {
        let mut loss = self.loss.clone();
        let lost = loss.wait_for(Option::is_some).await.map(|l| l.clone());
        match lost {
            Ok(Some(loss)) => loss,
            // The adapter is gone, and with it the renewals.
            Ok(None) | Err(_) => LeaseLoss::Expired,
        }
    }

    /// Publishes output and progress of the job, for as long as the lease is held; may be given to another thread.
    pub fn publisher(&self) -> Publisher {
        Publisher(self.ops.as_ref().map(Arc::downgrade))
    }

    /// Takes back that the attempt was being started (see [`Publisher::started`]), before the job is given back.
    pub fn withdraw(&self) {
        if let Some(ops) = &self.ops {
            ops.withdrawn();
        }
    }

    /// Appends these events to the event log and hands the verdict to the queue, both at once.
    ///
    /// # Errors
    /// Where that can't be done now, the lease as it was: its events are to be recorded before it is settled.
    pub async fn conclude(mut self, events: &[Event], verdict: &Verdict) -> Result<(), Self> {
        match &self.ops {
            Some(ops) if ops.conclude(events, verdict).await => {
                self.ops = None;
                Ok(())
            }
            _ => Err(self),
        }
    }

    /// Hands the verdict to the queue. Best effort: the truth is in the event log, written before.
    pub async fn settle(mut self, verdict: Verdict) {
        if let Some(ops) = self.ops.take() {
            ops.settle(verdict).await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(ops) = self.ops.take() {
            ops.release();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("job", &self.job.job.id).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// Publishes output and progress of a leased job. Best effort; publishes nothing any more once the lease is gone.
#[derive(Clone)]
pub struct Publisher(Option<Weak<dyn LeaseOps>>);

impl Publisher {
    /// Notes durably that the attempt is being started: see [`LeaseOps::started`]. False when the lease is gone.
    pub async fn started(&self) -> bool {
        match self.0.as_ref().and_then(Weak::upgrade) {
            Some(ops) => ops.started().await,
            None => false,
        }
    }

    /// Publishes how far the job is.
    pub fn progress(&self, progress: &Progress) {
        if let Some(ops) = self.0.as_ref().and_then(Weak::upgrade) {
            ops.progress(progress);
        }
    }

    /// Whether another piece of output can be published without losing one. A caller that can wait a moment should.
    pub fn has_room(&self) -> bool {
        self.0.as_ref().and_then(Weak::upgrade).is_none_or(|ops| ops.has_room())
    }

    /// Publishes a piece of its output.
    pub fn output(&self, chunk: OutputChunk) {
        if let Some(ops) = self.0.as_ref().and_then(Weak::upgrade) {
            ops.output(chunk);
        }
    }
}

/// The stream of leases. Dropping it stops claiming; leases already out stay valid.
pub struct Claims {
    leases: mpsc::Receiver<Lease>,
    concurrency: watch::Sender<usize>,
    stop: CancellationToken,
}

impl Claims {
    /// For adapters: `leases` must be bounded, `concurrency` is read before each claim, and claiming ends with `stop`.
    pub fn new(leases: mpsc::Receiver<Lease>, concurrency: watch::Sender<usize>, stop: CancellationToken) -> Self {
        Self { leases, concurrency, stop }
    }

    /// The next job; `None` when claiming has ended.
    pub async fn next(&mut self) -> Option<Lease> {
        self.leases.recv().await
    }

    /// Changes how many unsettled leases there may be.
    pub fn set_concurrency(&self, leases: usize) {
        self.concurrency.send_replace(leases);
    }

    /// Stops claiming and gives back the leases that were not taken yet; leases already out stay valid.
    pub async fn close(mut self) {
        self.stop.cancel();
        self.leases.close();
        while self.leases.recv().await.is_some() {}
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
