//! The traits that every queue implements: one for the API's producers and readers, one for operators, one for workers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Cancellation, Change, Claims, CleanRequest, Idempotency, OutputChunk, QueueError, QueueStanding, QueuedJob,
    StateCounts, Submission, WorkerInfo,
};
use crate::domain::{
    AcceptedJob, Capacity, Free, JobId, JobState, Needs, Page, PageRequest, QueueLimit, QueueName, QueueOrder,
    QueueShare, WorkerId,
};

/// The side of producers and readers.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Accepts jobs in order, all or none, durably. One [`Submission`] each.
    ///
    /// A job that comes after others (`options.after`) is `Delayed` until all of them have completed. Those others come
    /// earlier in the call, or are in the queue already. When one of them fails, the job is handed out to be failed too
    /// ([`Lease::barred`]); one that is taken out of the queue before its end is not waited for any more.
    ///
    /// # Errors
    /// `KeyReused` when the idempotency key was used for another request; `Rejected` when a job can't come after
    /// another: that one is not known, has failed, or the queue can't keep what was asked for.
    async fn submit(
        &self,
        jobs: Vec<AcceptedJob>,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Submission>, QueueError>;

    /// The jobs with these ids, `None` for those that the queue does not (or no longer) know.
    async fn find(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError>;

    /// As [`Queue::find`], for callers that poll: without the jobs' bodies and results, and without the jobs that they
    /// wait for. Options that are kept within the body may be missing, too.
    async fn standing(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError>;

    /// The jobs in a state, as [`Queue::standing`] shows them: open ones in the order in which workers will take them,
    /// ended ones newest first. Of one queue, or of all of them: then those that are ready come queue by queue, and on
    /// Redis all others too.
    async fn page(
        &self,
        queue: Option<&QueueName>,
        state: JobState,
        page: PageRequest,
    ) -> Result<Page<QueuedJob>, QueueError>;

    /// How many are in each state, in all queues; `paused` when no queue hands anything out.
    async fn counts(&self) -> Result<StateCounts, QueueError>;

    /// The queues, by name: the default one, and those that had a job or were told something.
    async fn queues(&self) -> Result<Vec<QueueStanding>, QueueError>;

    /// Output of a job behind `after` (0 for the start), with the position to go on from; waits up to `wait` for some.
    /// Each call gives a bounded part: a client has read all when an answer is empty. All output of an attempt is there
    /// when its lease has been settled, and stays for some time more as long as a client reads it.
    async fn output(&self, id: &JobId, after: u64, wait: Duration) -> Result<(u64, Vec<OutputChunk>), QueueError>;

    /// Workers that were heard of lately.
    async fn workers(&self) -> Result<Vec<WorkerInfo>, QueueError>;

    /// Whether the queue can be written to: makes a small write that changes nothing. Answers within a second or so.
    async fn ping(&self) -> Result<(), QueueError>;
}

/// The side of operators, who change what is queued.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// Stops a job, durably. A job that is not running ends at once; the worker of a running job is told through its
    /// lease, in whichever process it runs.
    async fn cancel(&self, id: &JobId, reason: &str) -> Result<Cancellation, QueueError>;

    /// Puts a failed job back, with a fresh budget of attempts. It takes its deduplication key again, if that has no
    /// time to live, until it has ended; not possible while another job holds the key.
    async fn retry(&self, id: &JobId) -> Result<Change, QueueError>;

    /// Makes a delayed job ready now.
    async fn promote(&self, id: &JobId) -> Result<Change, QueueError>;

    /// Takes a job that is not running out of the queue.
    async fn remove(&self, id: &JobId) -> Result<Change, QueueError>;

    /// While a queue is paused nothing new is handed out of it; running jobs go on. `None` for all queues that there are.
    async fn set_paused(&self, queue: Option<&QueueName>, paused: bool) -> Result<(), QueueError>;

    /// Sets how much of a queue may run, in all workers together, in place of what was set before.
    async fn set_limit(&self, queue: &QueueName, limit: QueueLimit) -> Result<(), QueueError>;

    /// Takes ended jobs out of the queue, oldest first; answers how many.
    async fn clean(&self, request: CleanRequest) -> Result<u64, QueueError>;

    /// Asks a worker to take nothing new and end; false when it is not known.
    async fn drain_worker(&self, id: &WorkerId) -> Result<bool, QueueError>;
}

/// Whether a worker takes jobs with certain needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// It can run them.
    Here,
    /// Another worker may be able to run them: it leaves them to that one.
    Elsewhere,
    /// No worker can run them now: they wait until one comes.
    Nowhere,
    /// No worker can run them, and that is to be said: it takes them to end them.
    Refused,
}

/// What a worker can run, as its claim asks. Answers at once: the claim holds the queue up meanwhile.
pub trait Placement: std::fmt::Debug + Send + Sync + 'static {
    /// Whether it takes jobs of this queue with these needs.
    fn judge(&self, queue: &QueueName, needs: &Needs) -> Placing;

    /// What of its memory and resources is neither held nor waited for by jobs that it has taken.
    fn free(&self) -> Free;

    /// Whether a job that it has taken waits for memory or resources already.
    fn is_awaited(&self) -> bool;
}

/// A worker that has all binaries, of which nothing is held.
impl Placement for Capacity {
    fn judge(&self, _queue: &QueueName, needs: &Needs) -> Placing {
        if self.misfit(needs).is_none() { Placing::Here } else { Placing::Elsewhere }
    }

    fn free(&self) -> Free {
        Free { memory_bytes: self.memory_bytes, resources: self.resources.clone() }
    }

    fn is_awaited(&self) -> bool {
        false
    }
}

/// Which worker takes jobs, and within which limits.
#[derive(Debug, Clone)]
pub struct ClaimOptions {
    /// The worker that takes them.
    pub worker: WorkerId,
    /// The worker holds at most so many unsettled leases.
    pub concurrency: usize,
    /// Which jobs it can run.
    pub placement: Arc<dyn Placement>,
    /// The queues that it serves; none for the default one.
    pub queues: Vec<QueueShare>,
    /// In which order.
    pub order: QueueOrder,
}

impl ClaimOptions {
    /// A claim of the default queue alone, by a worker that can run all jobs that ask for no more cores.
    pub fn new(worker: WorkerId, concurrency: usize, max_cores: u32) -> Self {
        let placement = Arc::new(Capacity { cores: max_cores, ..Capacity::default() });
        Self { worker, concurrency, placement, queues: Vec::new(), order: QueueOrder::default() }
    }
}

/// The side of workers.
#[async_trait]
pub trait JobSource: Send + Sync + 'static {
    /// Starts taking jobs; they arrive through [`Claims::next`].
    async fn claim(&self, options: ClaimOptions) -> Result<Claims, QueueError>;

    /// Notes that this worker lives. Answers whether an operator asked it to drain.
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<bool, QueueError>;

    /// Takes a worker that ends in good order off the list.
    async fn farewell(&self, worker: &WorkerId) -> Result<(), QueueError>;

    /// The workers that were heard of lately: to count what runs beside a job on the same host.
    async fn peers(&self) -> Result<Vec<WorkerInfo>, QueueError>;
}
