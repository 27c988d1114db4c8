//! How many jobs a claim may take now: as many as the worker wants, and none while it is closed or lets others go
//! first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{OnceLock, Weak};
use std::time::Duration;

use bullmq::Worker;
use tokio::sync::{Notify, watch};

use crate::domain::WorkerId;

/// For so long around the moment when a job that it put off is due again, a claim takes nothing, so
/// that other workers come first.
const YIELD: Duration = Duration::from_millis(150);

/// Whether, and how much, a claim may take now.
pub(super) struct ClaimLimiter {
    pub(super) worker_id: WorkerId,
    pub(super) concurrency: watch::Receiver<usize>,
    closed: AtomicBool,
    /// How many of the jobs that this claim put off are just due.
    yielding: AtomicUsize,
    pub(super) changed: Notify,
    pub(super) worker: OnceLock<Weak<Worker>>,
}

impl ClaimLimiter {
    /// A limiter of this worker's claim, which takes as many jobs as `concurrency` says.
    pub(super) fn new(worker_id: WorkerId, concurrency: watch::Receiver<usize>) -> Self {
        Self {
            worker_id,
            concurrency,
            closed: AtomicBool::new(false),
            yielding: AtomicUsize::new(0),
            changed: Notify::new(),
            worker: OnceLock::new(),
        }
    }

    /// How many jobs the claim may have at once now.
    pub(super) fn limit(&self) -> usize {
        let nothing = self.closed.load(Ordering::SeqCst) || self.yielding.load(Ordering::SeqCst) > 0;
        if nothing { 0 } else { *self.concurrency.borrow() }
    }

    /// Makes BullMQ's worker take as many as the limit says. Also called before each answer to it, so that a change is
    /// obeyed from the next job on.
    pub(super) fn apply(&self) {
        let Some(worker) = self.worker.get().and_then(Weak::upgrade) else { return };
        let limit = self.limit();
        if limit == 0 {
            // The crate has no concurrency of zero.
            if !worker.is_paused() {
                worker.pause();
            }
            return;
        }
        worker.set_concurrency(limit);
        if worker.is_paused() {
            worker.resume();
        }
    }

    /// Takes nothing more, if this is the claim of that worker.
    pub(super) fn drain(&self, worker: &str) {
        if self.worker_id.as_str() == worker {
            self.close();
        }
    }

    /// Lets other workers go first when a job that was put off comes due.
    pub(super) async fn yield_to_others(&self, due: Duration) {
        tokio::time::sleep(due.saturating_sub(YIELD / 3)).await;
        self.yielding.fetch_add(1, Ordering::SeqCst);
        self.apply();
        tokio::time::sleep(YIELD).await;
        self.yielding.fetch_sub(1, Ordering::SeqCst);
        self.apply();
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.apply();
        self.changed.notify_one();
    }
}
