//! The queue on Redis or Valkey, in BullMQ's own format: Node producers, workers and tools share the queue.
//!
//! The crate `bullmq-official` alone carries out BullMQ's state machine (its Lua scripts). Plain
//! keys and hash fields beside it (see [`keys`]) hold everything for which BullMQ has no word:
//! requests to stop, idempotency keys, the registry of workers, paused schedules, and the counts
//! that a job's own hash lacks.
//!
//! Each named queue is a queue of BullMQ's ([`BullQueue`]); [`BullQueues`] makes one adapter of them.

mod admin;
mod announced;
mod cancel;
mod change_feed;
mod claim;
mod connect;
mod counts;
mod foreign_jobs;
mod format;
mod group_window;
mod hand_on;
mod keys;
mod limiter;
mod limits;
mod merged;
mod options;
mod output;
mod parents;
mod put_back;
mod queue_names;
mod queues;
mod read;
mod recent_output;
mod renew;
mod repeat;
mod schedules;
mod settle;
mod shared_claim;
mod signals;
mod slots;
mod submit;
mod submit_routed;
mod submit_traced;
mod telemetry;
mod watched;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{
    Cancellation, Change, ClaimOptions, Claims, CleanRequest, Idempotency, JobSource, Operator, OutputChunk, Queue,
    QueueError, QueueSettings, QueueStanding, QueuedJob, StateCounts, Submission, WorkerInfo,
};
use crate::domain::{
    AcceptedJob, Clock, JobId, JobName, JobOptions, JobState, Page, PageRequest, QueueLimit, QueueName, Timestamp,
    WorkerId,
};
use crate::redis::RedisSettings;
use connect::Link;
use keys::Keys;
pub use queues::BullQueues;
use recent_output::RecentOutput;
use renew::Renewer;
use signals::Signals;

/// The sender of a lease's loss.
type Loss = Arc<tokio::sync::watch::Sender<Option<super::LeaseLoss>>>;

/// What can be set on a BullMQ queue.
#[derive(Debug, Clone, PartialEq)]
pub struct BullSettings {
    /// One server, or a cluster: BullMQ's crate finds no server by Sentinel.
    pub redis: RedisSettings,
    /// Which of the queues it is; `None` for the default one, which `common` names.
    pub named: Option<QueueName>,
    /// BullMQ's key prefix. On a cluster it or each queue's name must hold a hash tag, such as `{bull}`: in the names, each
    /// queue may be on a node of its own.
    pub prefix: String,
    /// What can be set on every queue.
    pub common: QueueSettings,
    /// How long a call may wait for Redis before it answers that the queue is unavailable.
    pub patience: Duration,
    /// How often a process looks whether a message of another process was lost: usually
    /// messages arrive at once.
    pub look_again: Duration,
    /// Time limits, cores, memory and the like of jobs that say nothing of them. A submitted job
    /// leaves out what it has in common with these, so that its data stays as plain as the
    /// original's; a reader fills it in again.
    pub defaults: JobOptions,
    /// The same for single job names.
    pub jobs: BTreeMap<JobName, JobOptions>,
}

impl BullSettings {
    /// The name of BullMQ's queue.
    fn queue(&self) -> &QueueName {
        self.named.as_ref().unwrap_or(&self.common.queue)
    }

    /// The rules for jobs of this name that say nothing.
    fn rules(&self, name: &JobName) -> &JobOptions {
        self.jobs.get(name).unwrap_or(&self.defaults)
    }
}

impl Default for BullSettings {
    fn default() -> Self {
        Self {
            redis: RedisSettings::default(),
            named: None,
            prefix: "bull".to_owned(),
            common: QueueSettings::default(),
            patience: Duration::from_millis(900),
            look_again: Duration::from_secs(2),
            defaults: JobOptions::default(),
            jobs: BTreeMap::new(),
        }
    }
}

/// One queue in Redis, which serves all ports of a queue.
pub struct BullQueue {
    inner: Arc<Inner>,
    _stop_with_the_last_handle: DropGuard,
}

/// What the ports and the background tasks share.
struct Inner {
    settings: BullSettings,
    keys: Keys,
    clock: Clock,
    tasks: TaskTracker,
    link: Link,
    signals: Signals,
    renewer: Renewer,
    watch: watched::Watch,
    /// Bytes of output that leases of this process have in Redis.
    spooled: Arc<AtomicUsize>,
    /// The pieces of output that followers in this process have just read.
    recent_output: RecentOutput,
    /// When this process opened the queue: before it accepted any job.
    opened_at: Timestamp,
    /// Whether Redis knows since when starts are noted.
    starts_are_noted: tokio::sync::OnceCell<()>,
    /// Whether this process has noted how far it has read BullMQ's event stream.
    has_position: AtomicBool,
}

impl BullQueue {
    /// Opens the queue. Redis need not be there yet: connecting goes on in the background, on `tasks`, and until it
    /// succeeds every call answers `Unavailable`. The background work ends with the last handle and the last lease.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Rejected` when the settings can't be meant: Sentinels in the URL, an unreadable certificate, a name with a colon.
    /// `UnfitQueue` on a cluster without a hash tag.
    pub async fn open(settings: BullSettings, clock: Clock, tasks: TaskTracker) -> Result<Arc<Self>, QueueError> {
        Self::start(settings, clock, tasks, Arc::default())
    }

    /// Opens a named queue in the same Redis, with the same settings and the same bound of output.
    fn open_beside(&self, name: &QueueName) -> Result<Arc<Self>, QueueError> {
        let Inner { settings, clock, tasks, spooled, .. } = &*self.inner;
        let settings = BullSettings { named: Some(name.clone()), ..settings.clone() };
        Self::start(settings, clock.clone(), tasks.clone(), spooled.clone())
    }

    fn start(
        settings: BullSettings,
        clock: Clock,
        tasks: TaskTracker,
        spooled: Arc<AtomicUsize>,
    ) -> Result<Arc<Self>, QueueError> {
        let stop = CancellationToken::new();
        let target = connect::Target::check(&settings)?;
        let keys = Keys::new(&settings.prefix, settings.queue().as_str());
        let link = Link::open(target.clone(), settings.patience, &tasks, stop.clone());
        let inner = Arc::new(Inner {
            renewer: Renewer::new(target, settings.common.lease),
            signals: Signals::new(),
            watch: watched::Watch::default(),
            spooled,
            recent_output: RecentOutput::new(settings.common.output_bytes),
            opened_at: clock.now(),
            starts_are_noted: tokio::sync::OnceCell::new(),
            has_position: AtomicBool::new(false),
            settings,
            keys,
            clock,
            link,
            tasks,
        });
        inner.tasks.spawn(signals::listen(inner.clone(), stop.clone()));
        inner.tasks.spawn(schedules::revive(inner.clone(), stop.clone()));
        inner.tasks.spawn(watched::promote_watched(inner.clone(), stop.clone()));
        inner.tasks.spawn(group_window::look_after(inner.clone(), stop.clone()));
        Ok(Arc::new(Self { inner, _stop_with_the_last_handle: stop.drop_guard() }))
    }
}

#[async_trait]
impl Queue for BullQueue {
    async fn submit(
        &self,
        jobs: Vec<AcceptedJob>,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Submission>, QueueError> {
        submit::submit(&self.inner, jobs, idempotency).await
    }

    async fn find(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
        read::find(&self.inner, ids).await
    }

    async fn standing(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
        read::standing(&self.inner, ids).await
    }

    async fn page(
        &self,
        queue: Option<&QueueName>,
        state: JobState,
        page: PageRequest,
    ) -> Result<Page<QueuedJob>, QueueError> {
        if queue.is_some_and(|queue| queue != self.inner.settings.queue()) {
            return Ok(Page { items: Vec::new(), next: None });
        }
        read::page(&self.inner, state, page).await
    }

    async fn counts(&self) -> Result<StateCounts, QueueError> {
        read::counts(&self.inner).await
    }

    async fn queues(&self) -> Result<Vec<QueueStanding>, QueueError> {
        let (counts, limit) = tokio::try_join!(read::counts(&self.inner), limits::of(&self.inner))?;
        Ok(vec![QueueStanding { name: self.inner.settings.queue().clone(), counts, limit }])
    }

    /// Does not wait on a job that has ended or is not known: nothing more will come.
    async fn output(&self, id: &JobId, after: u64, wait: Duration) -> Result<(u64, Vec<OutputChunk>), QueueError> {
        output::read(&self.inner, id, after, wait).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>, QueueError> {
        workers::list(&self.inner).await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        let redis = self.inner.link.get().await?;
        // A replica refuses this, and so does a server without memory, or one that can't save to its disk.
        let mut write = redis::cmd("SET");
        write.arg(self.inner.keys.probe()).arg(1).arg("EX").arg(60);
        self.inner.link.call(redis.queue.connection().cmd(&mut write)).await
    }
}

#[async_trait]
impl Operator for BullQueue {
    async fn cancel(&self, id: &JobId, reason: &str) -> Result<Cancellation, QueueError> {
        cancel::cancel(&self.inner, id, reason).await
    }

    async fn retry(&self, id: &JobId) -> Result<Change, QueueError> {
        admin::retry(&self.inner, id).await
    }

    async fn promote(&self, id: &JobId) -> Result<Change, QueueError> {
        admin::promote(&self.inner, id).await
    }

    async fn remove(&self, id: &JobId) -> Result<Change, QueueError> {
        admin::remove(&self.inner, id).await
    }

    async fn set_paused(&self, queue: Option<&QueueName>, paused: bool) -> Result<(), QueueError> {
        if queue.is_some_and(|queue| queue != self.inner.settings.queue()) {
            return Ok(());
        }
        admin::set_paused(&self.inner, paused).await
    }

    async fn set_limit(&self, _: &QueueName, limit: QueueLimit) -> Result<(), QueueError> {
        limits::set(&self.inner, limit).await
    }

    async fn clean(&self, request: CleanRequest) -> Result<u64, QueueError> {
        admin::clean(&self.inner, request).await
    }

    async fn drain_worker(&self, id: &WorkerId) -> Result<bool, QueueError> {
        workers::drain(&self.inner, id).await
    }
}

#[async_trait]
impl JobSource for BullQueue {
    async fn claim(&self, options: ClaimOptions) -> Result<Claims, QueueError> {
        Ok(claim::start(&self.inner, &self.inner, options, None))
    }

    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<bool, QueueError> {
        workers::heartbeat(&self.inner, worker).await
    }

    async fn farewell(&self, worker: &WorkerId) -> Result<(), QueueError> {
        workers::farewell(&self.inner, worker).await
    }

    async fn peers(&self) -> Result<Vec<WorkerInfo>, QueueError> {
        workers::list(&self.inner).await
    }
}
