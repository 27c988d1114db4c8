//! How many jobs a claim may take now: as many as the worker wants, and none while it is closed or lets others go first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{OnceLock, Weak};
use std::time::Duration;

use bullmq::Worker;
use tokio::sync::{Notify, watch};

use crate::domain::WorkerId;

/// For so long around the moment when a job that it put off is due again, a claim takes nothing, so
/// that other workers come first.
const ASIDE: Duration = Duration::from_millis(150);

/// Whether, and how much, a claim may take now.
pub(super) struct ClaimLimiter {
    pub(super) worker_id: WorkerId,
    pub(super) wanted: watch::Receiver<usize>,
    closed: AtomicBool,
    /// How many of the jobs that this claim put off are just due.
    aside: AtomicUsize,
    pub(super) changed: Notify,
    pub(super) worker: OnceLock<Weak<Worker>>,
}

impl ClaimLimiter {
    /// A limiter of this worker's claim, which wants as many jobs as `wanted` says.
    pub(super) fn new(worker_id: WorkerId, wanted: watch::Receiver<usize>) -> Self {
        Self {
            worker_id,
            wanted,
            closed: AtomicBool::new(false),
            aside: AtomicUsize::new(0),
            changed: Notify::new(),
            worker: OnceLock::new(),
        }
    }

    pub(super) fn wanted(&self) -> usize {
        let nothing = self.closed.load(Ordering::SeqCst) || self.aside.load(Ordering::SeqCst) > 0;
        if nothing { 0 } else { *self.wanted.borrow() }
    }

    /// Makes BullMQ's worker take as many as are wanted now. Also called before each answer to it, so that a change is
    /// obeyed from the next job on.
    pub(super) fn apply(&self) {
        let Some(worker) = self.worker.get().and_then(Weak::upgrade) else { return };
        let wanted = self.wanted();
        if wanted == 0 {
            // The crate has no concurrency of zero.
            if !worker.is_paused() {
                worker.pause();
            }
            return;
        }
        worker.set_concurrency(wanted);
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
    pub(super) async fn step_aside(&self, due: Duration) {
        tokio::time::sleep(due.saturating_sub(ASIDE / 3)).await;
        self.aside.fetch_add(1, Ordering::SeqCst);
        self.apply();
        tokio::time::sleep(ASIDE).await;
        self.aside.fetch_sub(1, Ordering::SeqCst);
        self.apply();
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.apply();
        self.changed.notify_one();
    }
}
