//! Fresh queues to run the cases on, one function for each adapter, and the sentences that the cases are written in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jobber::domain::{AcceptedJob, Clock, Job, JobId, JobOptions, JobState, NewJob, WorkerId};
use jobber::queue::bullmq::{BullQueues, BullSettings};
use jobber::queue::embedded::EmbeddedQueue;
use jobber::queue::{ClaimOptions, Claims, JobSource, Lease, Operator, Queue, QueueSettings, QueuedJob, Scheduler};
use jobber::redis::RedisSettings;
use jobber::sqlite::{Durability, Sqlite};
use tokio_util::task::TaskTracker;

use crate::harness::redis::Redis;

/// How long anything may take that must happen at some time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long is waited for what must not happen.
const QUIET: Duration = Duration::from_millis(300);

/// One process's view of the queue.
pub(super) struct Instance {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) operator: Arc<dyn Operator>,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) source: Arc<dyn JobSource>,
}

/// What an adapter gives the cases besides its ports. Its queue keeps at most [`Backing::OUTPUT`] bytes of output.
#[async_trait]
pub(super) trait Backing: Send + Sync {
    /// The same queue as another process would open it; ended jobs leave it at once, unless it is to keep them.
    async fn open(&self, keep: bool) -> Instance;

    /// Makes every lease that is out run out, as if its holder had hung.
    async fn lapse_leases(&self);
}

/// A fresh, empty queue.
pub(super) struct Fixture {
    backing: Box<dyn Backing>,
}

impl Fixture {
    /// Bytes of output that the queue keeps of one job; a quarter more for a while.
    pub(super) const OUTPUT: usize = 64 * 1024;

    pub(super) async fn instance(&self) -> Instance {
        self.backing.open(true).await
    }

    /// Jobs that end here leave the queue at once.
    pub(super) async fn instance_that_keeps_nothing(&self) -> Instance {
        self.backing.open(false).await
    }

    pub(super) async fn lapse_leases(&self) {
        self.backing.lapse_leases().await;
    }
}

struct Embedded {
    dir: tempfile::TempDir,
    tasks: TaskTracker,
}

#[async_trait]
impl Backing for Embedded {
    async fn open(&self, keep: bool) -> Instance {
        let db = Sqlite::open(&self.dir.path().join("jobber.db"), Durability::Process).unwrap();
        let mut settings = QueueSettings {
            // A loss is noticed after a third of it.
            lease: Duration::from_secs(6),
            output_bytes: Fixture::OUTPUT,
            ..QueueSettings::default()
        };
        if !keep {
            (settings.completed.count, settings.failed.count) = (Some(0), Some(0));
        }
        let queue = EmbeddedQueue::open(db, self.dir.path(), settings, None, Clock::system(), self.tasks.clone())
            .await
            .unwrap();
        Instance { queue: queue.clone(), operator: queue.clone(), scheduler: queue.clone(), source: queue }
    }

    async fn lapse_leases(&self) {
        let db = Sqlite::open(&self.dir.path().join("jobber.db"), Durability::Process).unwrap();
        db.write(|c| c.execute("UPDATE queue_claims SET expires_at = 0", [])).await.unwrap();
    }
}

/// The embedded queue.
pub(super) async fn embedded() -> Fixture {
    Fixture { backing: Box::new(Embedded { dir: tempfile::tempdir().unwrap(), tasks: TaskTracker::new() }) }
}

struct Bull {
    redis: Arc<Redis>,
    /// Tells this fixture's queues from those of the others on the same server.
    prefix: String,
    tasks: TaskTracker,
}

#[async_trait]
impl Backing for Bull {
    async fn open(&self, keep: bool) -> Instance {
        let mut settings = BullSettings {
            redis: RedisSettings { url: self.redis.url().parse().unwrap(), ca_file: None },
            prefix: self.prefix.clone(),
            common: QueueSettings {
                // A loss is noticed after a third of it, and the job taken back within another two.
                lease: Duration::from_secs(6),
                output_bytes: Fixture::OUTPUT,
                ..QueueSettings::default()
            },
            // The machine may be busy with other tests.
            patience: PATIENCE,
            ..BullSettings::default()
        };
        if !keep {
            (settings.common.completed.count, settings.common.failed.count) = (Some(0), Some(0));
        }
        let queue = BullQueues::open(settings, Clock::system(), self.tasks.clone()).await.unwrap();
        Instance { queue: queue.clone(), operator: queue.clone(), scheduler: queue.clone(), source: queue }
    }

    async fn lapse_leases(&self) {
        let keys = self.redis.cli(&["--raw", "keys", &format!("{}:*:lock", self.prefix)]);
        for key in keys.lines().filter(|key| !key.is_empty()) {
            self.redis.cli(&["del", key]);
        }
    }
}

/// The queue on Redis.
pub(super) async fn bullmq() -> Fixture {
    let redis = tokio::task::spawn_blocking(Redis::shared).await.unwrap();
    let prefix = format!("q{}", uuid::Uuid::new_v4().simple());
    Fixture { backing: Box::new(Bull { redis, prefix, tasks: TaskTracker::new() }) }
}

/// A job with changed options.
pub(super) fn job_with(change: impl FnOnce(&mut JobOptions)) -> AcceptedJob {
    let mut options = JobOptions::default();
    change(&mut options);
    let new = NewJob { id: None, name: "dummy-job".to_owned(), arguments: vec![], data: None, options };
    new.accept(Clock::system().now()).unwrap()
}

/// A job like most.
pub(super) fn job() -> AcceptedJob {
    job_with(|_| {})
}

/// A job with a chosen id.
pub(super) fn job_named(id: &str) -> AcceptedJob {
    let AcceptedJob { job, body } = job();
    AcceptedJob { job: Arc::new(Job { id: JobId::custom(id).unwrap(), ..(*job).clone() }), body }
}

impl Instance {
    /// Submits one job; it must be new.
    pub(super) async fn submit(&self, job: AcceptedJob) -> JobId {
        let submitted = self.queue.submit(vec![job], None).await.unwrap();
        assert!(!submitted[0].duplicate, "{submitted:?}");
        submitted[0].id.clone()
    }

    /// Submits one job; answers the id that stands for it and whether it had been there before.
    pub(super) async fn resubmit(&self, job: AcceptedJob) -> (JobId, bool) {
        let submitted = self.queue.submit(vec![job], None).await.unwrap();
        (submitted[0].id.clone(), submitted[0].duplicate)
    }

    /// Starts to take jobs.
    pub(super) async fn claim(&self, concurrency: usize) -> Claims {
        let worker = WorkerId::generate("host");
        self.source.claim(ClaimOptions::new(worker, concurrency, 4)).await.unwrap()
    }

    pub(super) async fn find(&self, id: &JobId) -> Option<QueuedJob> {
        self.queue.find(std::slice::from_ref(id)).await.unwrap().pop().unwrap()
    }

    /// Waits until a job is in this state.
    pub(super) async fn until(&self, id: &JobId, state: JobState) -> QueuedJob {
        self.until_it(id, |job| job.state == state).await
    }

    /// Waits until this holds for a job.
    pub(super) async fn until_it(&self, id: &JobId, holds: impl Fn(&QueuedJob) -> bool) -> QueuedJob {
        let mut last = None;
        let wait = async {
            loop {
                last = self.find(id).await;
                if let Some(job) = &last
                    && holds(job)
                {
                    return job.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("still {last:?}"))
    }
}

/// What must happen at some time.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("should have happened long ago")
}

/// The next job that comes.
pub(super) async fn next(claims: &mut Claims) -> Lease {
    soon(claims.next()).await.expect("claiming goes on")
}

/// Nothing comes for a while.
pub(super) async fn nothing(claims: &mut Claims) {
    let lease = tokio::time::timeout(QUIET, claims.next()).await;
    assert!(lease.is_err(), "{lease:?} should not have come");
}
