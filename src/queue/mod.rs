//! The ports of the queue. The API holds a [`Queue`], an [`Operator`] and a [`Scheduler`], a worker a [`JobSource`].
//!
//! A queue promises: a job that was accepted is never lost; it is handed to one worker at a time, under a lease that
//! must be renewed (adapters renew by themselves); a lease that lapses goes to another worker. So a job runs at least
//! once, and its history (the event log) tells which of its attempts ended how.

pub mod bullmq;
pub mod embedded;
pub mod lease;
mod outbox;
pub mod schedules;
pub mod witness;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::{
    AcceptedJob, Job, JobBody, JobId, JobName, JobState, Page, PageRequest, Progress, Stream, Timestamp, WorkerId,
};
pub use lease::{Claims, Lease, LeaseLoss, LeaseOps, ParentResults, Publisher};
pub use schedules::{ScheduleStanding, Scheduler};
pub use witness::{Deed, Deeds, Held, ToldEnd, Witness};

/// What a caller can decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueErrorKind {
    /// The queue can't be reached, or is too busy; another try may work.
    Unavailable,
    /// There is no room left (disk, memory, a cap).
    Full,
    /// An idempotency key came back with another request.
    KeyReused,
    /// What was asked for can't be: a cursor of another list, for instance.
    Rejected,
    /// What is stored can't be read.
    Corrupt,
}

/// Why the queue could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct QueueError {
    /// What a caller can decide on.
    pub kind: QueueErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl QueueError {
    /// An error of this kind; `message` names the thing and the fix.
    pub fn new(kind: QueueErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds what caused it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An idempotency key comes again with another request.
    fn key_reused(key: &str) -> Self {
        let message =
            format!("the idempotency key {key:?} was used for another request; take a new key for a new request");
        Self::new(QueueErrorKind::KeyReused, message)
    }

    /// Jobs in this state can't be cleaned.
    fn not_cleanable(state: JobState) -> Self {
        let message = format!("{state} jobs can't be cleaned; only completed and failed ones can");
        Self::new(QueueErrorKind::Rejected, message)
    }

    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, QueueErrorKind::Unavailable | QueueErrorKind::Full)
    }
}

/// A worker that missed so many heartbeats is not listed any more.
const MISSED_HEARTBEATS: u32 = 3;

/// How long ended jobs stay in the queue. Their history stays in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRetention {
    /// Not longer than this after their end, on Redis in whole seconds; `None` for no limit.
    pub age: Option<Duration>,
    /// Only so many, the last ended; `None` for no limit.
    pub count: Option<u64>,
}

impl QueueRetention {
    /// What holds for completed jobs unless it is set.
    pub fn of_completed() -> Self {
        Self { age: Some(Duration::from_secs(3600)), count: Some(1000) }
    }

    /// What holds for failed jobs unless it is set.
    pub fn of_failed() -> Self {
        Self { age: Some(Duration::from_secs(24 * 3600)), count: None }
    }
}

/// Makes a repeated submission harmless: the first answer is given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key, 1 to 256 characters.
    pub key: String,
    /// SHA-256 of the request, so that a reused key is noticed.
    pub request: [u8; 32],
    /// How long the key is remembered.
    pub ttl: Duration,
}

/// What became of one submitted job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The job that now stands for it.
    pub id: JobId,
    /// True when that job had been there before: same id, deduplication key or idempotency key.
    pub duplicate: bool,
    /// That job as the queue has it; `None` when it has let go of it.
    #[serde(skip)]
    pub job: Option<AcceptedJob>,
}

impl Submission {
    /// The answer for a job that is new.
    pub fn new(job: AcceptedJob) -> Self {
        Self { id: job.job.id.clone(), duplicate: false, job: Some(job) }
    }

    /// The answer for a job in whose place this one stands.
    pub fn duplicate(id: JobId, job: Option<AcceptedJob>) -> Self {
        Self { id, duplicate: true, job }
    }
}

/// A job as the queue sees it now.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedJob {
    /// The header of the job.
    pub job: Arc<Job>,
    /// What it is given; `None` where it was not read ([`Queue::standing`], [`Queue::page`]).
    pub body: Option<JobBody>,
    /// Where it stands.
    pub state: JobState,
    /// How often it was started.
    pub attempts_started: u32,
    /// How many attempts spent its budget.
    pub attempts_finished: u32,
    /// When it is due, while `Delayed`.
    pub due_at: Option<Timestamp>,
    /// Who holds its lease, while `Active`.
    pub worker: Option<WorkerId>,
    /// What it last said of itself since it was last started.
    pub progress: Option<Progress>,
    /// Why somebody asked for it to be stopped.
    pub cancel_requested: Option<String>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it gave back.
    pub result: Option<Value>,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// The jobs that must complete before it runs: then it is `Delayed` without a due time.
    pub waits_for: Vec<JobId>,
}

/// How many jobs are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at JobState")]
pub struct StateCounts {
    pub waiting: u64,
    pub delayed: u64,
    pub prioritized: u64,
    pub active: u64,
    pub completed: u64,
    pub failed: u64,
    /// Whether the queue hands nothing out.
    pub paused: bool,
}

/// A piece of a running job's output, for those who watch. Kept only while the job is in the queue, and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Which start of the job wrote it.
    pub attempt: u32,
    /// Which stream.
    pub stream: Stream,
    /// How many bytes of the stream came before it, lost ones included. `None` from a Jobber that did not count them: it
    /// follows on what there is.
    pub at: Option<u64>,
    /// What the job wrote.
    pub bytes: Vec<u8>,
}

impl OutputChunk {
    fn is_followed_by(&self, next: &Self) -> bool {
        (self.attempt, self.stream) == (next.attempt, next.stream)
            && self.at.is_some()
            && self.at.map(|at| at + self.bytes.len() as u64) == next.at
    }

    /// Takes off its first bytes.
    fn cut(&mut self, bytes: usize) {
        self.bytes.drain(..bytes);
        self.at = self.at.map(|at| at + bytes as u64);
    }
}

/// What cancelling a job did.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancellation {
    /// It had not been running and has now failed.
    Ended(Arc<Job>),
    /// It is running; its worker was told and will stop it.
    Signalled(Arc<Job>),
    /// It had ended before.
    AlreadyFinal(JobState),
    /// The queue does not know it.
    NotFound,
}

/// What putting a job back, moving it up or taking it out did.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Done. Carries the job and how many attempts had started.
    Done(Arc<Job>, u32),
    /// Not possible from this state.
    WrongState(JobState),
    /// Not while this other job holds its deduplication key.
    KeyTaken(JobId),
    /// The queue does not know it.
    NotFound,
}

/// Which ended jobs to take out of the queue (their history stays).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanRequest {
    /// `Completed` or `Failed`.
    pub state: JobState,
    /// Ended longer ago than this.
    pub older_than: Duration,
    /// At most so many in one call.
    pub limit: usize,
}

/// A worker as the others see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// This run of the worker.
    pub id: WorkerId,
    /// The machine's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Jobber's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// Jobs that it runs at most.
    pub slots: u32,
    /// Cores that it divides among them.
    pub cores: u32,
    /// Jobs that run now.
    pub running: u32,
    /// Whether it takes nothing new and will end.
    pub draining: bool,
    /// Why it can't start jobs, and so takes none for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// The names of the jobs that it can run; `None` when it does not tell, or has more than [`WorkerInfo::BINARIES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binaries: Option<Vec<JobName>>,
}

impl WorkerInfo {
    /// How many binaries a worker announces at most.
    pub const BINARIES: usize = 1000;

    /// Whether it takes jobs now.
    pub fn takes_jobs(&self) -> bool {
        !self.draining && self.unhealthy.is_none()
    }

    /// Whether it has the binary of jobs of this name; `None` when it does not tell.
    pub fn has_binary(&self, name: &JobName) -> Option<bool> {
        Some(self.binaries.as_ref()?.contains(name))
    }
}

/// The producer's side: submits and reads.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Accepts jobs in order, all or none, durably. One [`Submission`] each.
    ///
    /// A job that comes after others (`options.after`) is `Delayed` until all of them have completed. Those others come
    /// earlier in the call, or are in the queue already. When one of them fails, the job is lent out to be failed too
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

    /// As [`Queue::find`], for callers that look again and again: without the jobs' bodies and results, and without the jobs
    /// that they wait for. Options that are kept within the body may be missing, too.
    async fn standing(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError>;

    /// The jobs in a state, as [`Queue::standing`] tells of them: those to come in the order in which they will be taken, ended ones newest first.
    async fn page(&self, state: JobState, page: PageRequest) -> Result<Page<QueuedJob>, QueueError>;

    /// How many are in each state.
    async fn counts(&self) -> Result<StateCounts, QueueError>;

    /// Output of a job behind `after` (0 for the start), with the position to go on from; waits up to `wait` for some.
    /// A bounded part of what there is: all has been read when an answer is empty. What an attempt said is there when
    /// its lease has been settled, and for some time more as long as somebody reads it.
    async fn output(&self, id: &JobId, after: u64, wait: Duration) -> Result<(u64, Vec<OutputChunk>), QueueError>;

    /// Workers that were heard of lately.
    async fn workers(&self) -> Result<Vec<WorkerInfo>, QueueError>;

    /// Whether the queue can be written to: makes a small write that changes nothing. Answers within a second or so.
    async fn ping(&self) -> Result<(), QueueError>;
}

/// The operator's side: changes what is queued.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// Durable: a job that is not running ends at once, a running one is told through its lease, wherever it runs.
    async fn cancel(&self, id: &JobId, reason: &str) -> Result<Cancellation, QueueError>;

    /// Puts a failed job back, with a fresh budget of attempts. It takes its deduplication key again, if that has no time
    /// to live, until it has ended; not possible while another job holds the key.
    async fn retry(&self, id: &JobId) -> Result<Change, QueueError>;

    /// Makes a delayed job ready now.
    async fn promote(&self, id: &JobId) -> Result<Change, QueueError>;

    /// Takes a job that is not running out of the queue.
    async fn remove(&self, id: &JobId) -> Result<Change, QueueError>;

    /// While paused nothing new is handed out; running jobs go on.
    async fn set_paused(&self, paused: bool) -> Result<(), QueueError>;

    /// Takes ended jobs out of the queue, oldest first; answers how many.
    async fn clean(&self, request: CleanRequest) -> Result<u64, QueueError>;

    /// Asks a worker to take nothing new and end; false when it is not known.
    async fn drain_worker(&self, id: &WorkerId) -> Result<bool, QueueError>;
}

/// Under which terms a worker takes jobs.
#[derive(Debug, Clone)]
pub struct ClaimOptions {
    /// Who takes them.
    pub worker: WorkerId,
    /// Never more than so many unsettled leases.
    pub concurrency: usize,
    /// Jobs that ask for more cores are left to others.
    pub max_cores: u32,
}

/// The worker's side.
#[async_trait]
pub trait JobSource: Send + Sync + 'static {
    /// Starts taking jobs; they arrive through [`Claims::next`].
    async fn claim(&self, options: ClaimOptions) -> Result<Claims, QueueError>;

    /// Tells the others that this worker lives; answers whether somebody asked it to drain.
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<bool, QueueError>;

    /// Tells the others that this worker has ended in good order.
    async fn farewell(&self, worker: &WorkerId) -> Result<(), QueueError>;

    /// The workers that were heard of lately: to count what runs beside a job on the same host.
    async fn peers(&self) -> Result<Vec<WorkerInfo>, QueueError>;
}
