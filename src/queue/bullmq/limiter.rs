//! How many jobs a claim may take now: as many as the worker wants, and none while it is closed or lets others go
//! first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bullmq::Worker;
use tokio::sync::{Notify, watch};

use super::slots::SharedSlots;
use crate::domain::WorkerId;

/// For so long around the moment when a job that it put off is due again, a claim takes nothing, so
/// that other workers come first.
const YIELD: Duration = Duration::from_millis(150);

/// The claim's part of what its worker may hold.
pub(super) enum Share {
    /// All of it, or as many as this at most: the worker serves no other queue.
    All(Option<usize>),
    /// What is dealt to the queue of this number.
    Dealt(Arc<SharedSlots>, usize),
}

/// Whether, and how much, a claim may take now.
pub(super) struct ClaimLimiter {
    pub(super) worker_id: WorkerId,
    pub(super) concurrency: watch::Receiver<usize>,
    pub(super) share: Share,
    closed: AtomicBool,
    /// How many of the jobs that this claim put off are just due.
    yielding: AtomicUsize,
    pub(super) changed: Notify,
    pub(super) worker: OnceLock<Weak<Worker>>,
}

impl ClaimLimiter {
    /// A limiter of this worker's claim, which takes as many jobs as `concurrency` says.
    pub(super) fn new(worker_id: WorkerId, concurrency: watch::Receiver<usize>, share: Share) -> Self {
        Self {
            worker_id,
            concurrency,
            share,
            closed: AtomicBool::new(false),
            yielding: AtomicUsize::new(0),
            changed: Notify::new(),
            worker: OnceLock::new(),
        }
    }

    /// How many jobs the claim may have at once now.
    pub(super) fn limit(&self) -> usize {
        let concurrency = *self.concurrency.borrow();
        if !self.is_open() || concurrency == 0 {
            return 0;
        }
        match &self.share {
            Share::All(most) => most.unwrap_or(usize::MAX).min(concurrency),
            // BullMQ's worker looks at a queue by one fetch at least.
            Share::Dealt(slots, queue) => slots.fetches(*queue).max(1),
        }
    }

    /// Whether the claim takes jobs at all now.
    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst) && self.yielding.load(Ordering::SeqCst) == 0
    }

    /// Has the slots dealt anew, if the worker serves several queues.
    fn deal_again(&self) {
        if let Share::Dealt(slots, _) = &self.share {
            slots.changed.notify_one();
        }
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

    /// Wakes the fetches of BullMQ's worker that wait for room. The crate itself wakes them only if they wait already; a
    /// moment later they do.
    pub(super) fn wake_fetches(&self) {
        let (Some(worker), limit) = (self.worker.get().and_then(Weak::upgrade), self.limit()) else { return };
        if limit > 1 {
            worker.set_concurrency(limit - 1);
            worker.set_concurrency(limit);
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
        self.deal_again();
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.apply();
        self.changed.notify_one();
        self.deal_again();
    }
}
