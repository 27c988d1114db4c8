//! The queue in a SQLite file that the processes of one machine share.
//!
//! Every transition is one guarded statement in one transaction; processes wake each other through [`Wake`] files
//! beside the database. A worker's leases hang on its claim (see [`schema`]): one task renews it, and the [`sweep`] of
//! any process takes the jobs of a claim back when it has expired or its process is gone.

mod admin;
mod cancel;
mod change_feed;
mod claim;
mod expiry;
mod kinds;
mod ledger;
mod limits;
mod output;
mod parents;
mod plan;
mod process;
mod queues;
mod read;
mod renew;
mod schedules;
mod schema;
mod settle;
mod submit;
mod sweep;
#[cfg(test)]
mod tests;
mod workers;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{
    Cancellation, Change, ClaimOptions, Claims, CleanRequest, Idempotency, JobSource, Operator, OutputChunk, Queue,
    QueueError, QueueErrorKind, QueueSettings, QueueStanding, QueuedJob, StateCounts, Submission, WorkerInfo,
};
use crate::domain::{AcceptedJob, Clock, Event, JobId, JobState, Page, PageRequest, QueueLimit, QueueName, WorkerId};
use crate::sqlite::{Appender, Sqlite, SqliteError};
use crate::wake::Wake;

/// The embedded queue: all ports.
pub struct EmbeddedQueue {
    inner: Arc<Inner>,
    stop_sweeping: CancellationToken,
    _stop_with_the_last_handle: DropGuard,
}

/// What the ports and the background tasks share.
struct Inner {
    db: Sqlite,
    settings: QueueSettings,
    /// The event log, if it lies in `db`.
    log: Option<Arc<dyn Appender<Event>>>,
    clock: Clock,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    /// This process, by which others see whether it lives.
    process: Option<process::Process>,
    /// Which boot of the machine this is, by which claims count the time.
    boot: Option<String>,
    suspicions: expiry::Suspicions,
    /// From how many kinds on it is worth to look for those that no job has.
    many_kinds: AtomicI64,
    wakes: Wakes,
}

/// The signals that processes send each other.
struct Wakes {
    /// There may be a job to take.
    jobs: Wake,
    /// A running job is to be stopped.
    control: Wake,
    /// There is output or progress, or a job has ended.
    output: Wake,
}

impl EmbeddedQueue {
    /// The name under which versions of its tables are kept, and the version that this Jobber brings them to.
    pub const SCHEMA_VERSION: (&str, usize) = (schema::ADAPTER, schema::STEPS.len());

    /// Opens the queue in `db`, makes or updates its tables, and starts its sweep on `tasks`. Wake-up files are kept in
    /// `data_dir`, which every process that shares `db` must give alike. Must be called within a tokio runtime. With the
    /// event log that lies in `db`, a job and the event of its submission are written in one transaction.
    ///
    /// The sweep ends with the last handle, or with [`EmbeddedQueue::stop`]; the tasks of a claim end when the claim
    /// has been closed or dropped and its last lease is settled or dropped.
    ///
    /// # Errors
    /// When the database can't be used, or the wake-up files can't be made or watched.
    pub async fn open(
        db: Sqlite,
        data_dir: &Path,
        settings: QueueSettings,
        log: Option<Arc<dyn Appender<Event>>>,
        clock: Clock,
        tasks: TaskTracker,
    ) -> Result<Arc<Self>, QueueError> {
        db.migrate(schema::ADAPTER, schema::STEPS).await?;
        let wake = |subject| {
            Wake::open(data_dir, subject).map_err(|e| {
                let message = format!(
                    "{}/{subject}.wake can't be watched; check that the folder may be written and that the user has \
                     inotify instances left (sysctl fs.inotify.max_user_instances)",
                    data_dir.display()
                );
                QueueError::new(QueueErrorKind::Unavailable, message).caused_by(e)
            })
        };
        let wakes = Wakes { jobs: wake("queue")?, control: wake("control")?, output: wake("output")? };
        let inner = Arc::new(Inner {
            db,
            settings,
            log,
            clock,
            tasks,
            runtime: tokio::runtime::Handle::current(),
            process: process::Process::this(),
            boot: process::boot_id(),
            suspicions: expiry::Suspicions::default(),
            many_kinds: AtomicI64::new(kinds::MANY),
            wakes,
        });
        let stop_sweeping = CancellationToken::new();
        inner.tasks.spawn(sweep::run(inner.clone(), stop_sweeping.clone()));
        let guard = stop_sweeping.clone().drop_guard();
        Ok(Arc::new(Self { inner, stop_sweeping, _stop_with_the_last_handle: guard }))
    }

    /// Ends the sweep, for a shutdown in which other parts still hold the queue. All else goes on.
    pub fn stop(&self) {
        self.stop_sweeping.cancel();
    }
}

impl From<SqliteError> for QueueError {
    fn from(e: SqliteError) -> Self {
        let kind = match e {
            SqliteError::Unavailable { .. } => QueueErrorKind::Unavailable,
            SqliteError::Full { .. } => QueueErrorKind::Full,
            SqliteError::Corrupt { .. } | SqliteError::Panicked { .. } => QueueErrorKind::Corrupt,
        };
        QueueError::new(kind, e.to_string()).caused_by(e)
    }
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn submit(
        &self,
        jobs: Vec<AcceptedJob>,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Submission>, QueueError> {
        submit::submit(&self.inner, jobs, idempotency).await
    }

    async fn find(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
        read::find(&self.inner, ids.to_vec()).await
    }

    async fn standing(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
        read::standing(&self.inner, ids.to_vec()).await
    }

    async fn page(
        &self,
        queue: Option<&QueueName>,
        state: JobState,
        page: PageRequest,
    ) -> Result<Page<QueuedJob>, QueueError> {
        read::page(&self.inner, queue, state, page).await
    }

    async fn counts(&self) -> Result<StateCounts, QueueError> {
        read::counts(&self.inner).await
    }

    async fn queues(&self) -> Result<Vec<QueueStanding>, QueueError> {
        queues::list(&self.inner).await
    }

    /// Does not wait on a job that has ended or is not known: nothing more will come.
    async fn output(&self, id: &JobId, after: u64, wait: Duration) -> Result<(u64, Vec<OutputChunk>), QueueError> {
        output::read(&self.inner, id, after, wait).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>, QueueError> {
        workers::list(&self.inner).await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        /// Shorter than what other writes have: another process that holds the database is to be noticed.
        const PATIENCE: Duration = Duration::from_millis(800);
        // Changes nothing, but is written all the same.
        let probe = |c: &rusqlite::Connection| c.execute("UPDATE queue_switches SET paused = paused", []);
        self.inner.db.write_within(PATIENCE, probe).await?;
        Ok(())
    }
}

#[async_trait]
impl Operator for EmbeddedQueue {
    async fn cancel(&self, id: &JobId, reason: &str) -> Result<Cancellation, QueueError> {
        cancel::cancel(&self.inner, id.clone(), reason.to_owned()).await
    }

    async fn retry(&self, id: &JobId) -> Result<Change, QueueError> {
        admin::retry(&self.inner, id.clone()).await
    }

    async fn promote(&self, id: &JobId) -> Result<Change, QueueError> {
        admin::promote(&self.inner, id.clone()).await
    }

    async fn remove(&self, id: &JobId) -> Result<Change, QueueError> {
        admin::remove(&self.inner, id.clone()).await
    }

    async fn set_paused(&self, queue: Option<&QueueName>, paused: bool) -> Result<(), QueueError> {
        queues::set_paused(&self.inner, queue, paused).await
    }

    async fn set_limit(&self, queue: &QueueName, limit: QueueLimit) -> Result<(), QueueError> {
        queues::set_limit(&self.inner, queue, limit).await
    }

    async fn clean(&self, request: CleanRequest) -> Result<u64, QueueError> {
        admin::clean(&self.inner, request).await
    }

    async fn drain_worker(&self, id: &WorkerId) -> Result<bool, QueueError> {
        workers::drain(&self.inner, id).await
    }
}

#[async_trait]
impl JobSource for EmbeddedQueue {
    async fn claim(&self, options: ClaimOptions) -> Result<Claims, QueueError> {
        claim::start(&self.inner, options).await
    }

    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<bool, QueueError> {
        workers::heartbeat(&self.inner, worker.clone()).await
    }

    async fn farewell(&self, worker: &WorkerId) -> Result<(), QueueError> {
        workers::farewell(&self.inner, worker).await
    }

    async fn peers(&self) -> Result<Vec<WorkerInfo>, QueueError> {
        workers::list(&self.inner).await
    }
}
