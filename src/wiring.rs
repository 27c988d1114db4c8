//! From configuration to ports: the only file that names adapters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::domain::Clock;
use crate::events::embedded::EmbeddedLog;
use crate::events::{EventSink, EventSource};
use crate::queue::embedded::{EmbeddedQueue, EmbeddedQueueSettings, Retention};
use crate::queue::{JobSource, Operator, Queue};
use crate::sqlite::Sqlite;
use crate::store::embedded::EmbeddedStore;
use crate::store::{History, Projection};

/// Every port, each with the adapter that the configuration picks. A role takes what it may hold.
pub struct Ports {
    /// For the API: submits and reads.
    pub queue: Arc<dyn Queue>,
    /// For the API: changes what is queued.
    pub operator: Arc<dyn Operator>,
    /// For a worker: takes jobs.
    pub jobs: Arc<dyn JobSource>,
    /// For a worker and the API: writes events.
    pub sink: Arc<dyn EventSink>,
    /// For the projector and those who watch: reads events.
    pub source: Arc<dyn EventSource>,
    /// For the API: reads history.
    pub history: Arc<dyn History>,
    /// For the projector: writes history.
    pub projection: Arc<dyn Projection>,
}

/// How much of a running job's output is kept for those who watch, as a multiple of what history keeps of a stream.
const WATCHED: usize = 4;
/// The file of the embedded database.
pub fn database_file(config: &Config) -> PathBuf {
    config.data_dir.join("jobber.db")
}

/// The versions of the embedded database's tables that this Jobber knows, by adapter.
pub fn schema_versions() -> Vec<(&'static str, usize)> {
    vec![EmbeddedQueue::SCHEMA_VERSION, EmbeddedLog::SCHEMA_VERSION, EmbeddedStore::SCHEMA_VERSION]
}

/// Opens what the configuration names. Background work of the adapters is spawned on `tasks` and ends with the ports.
///
/// # Errors
/// When the data directory can't be made or the database can't be used.
pub async fn open(config: &Config, clock: &Clock, tasks: &TaskTracker) -> anyhow::Result<Ports> {
    let dir: &Path = &config.data_dir;
    fs_err::create_dir_all(dir).context("the data directory can't be made; choose another with --data-dir")?;
    let db = Sqlite::open(&database_file(config), config.durability)?;
    let settings = EmbeddedQueueSettings {
        lease: config.queue.lease,
        completed: Retention { age: Some(config.queue.completed_age), count: config.queue.completed_count },
        failed: Retention { age: Some(config.queue.failed_age), count: config.queue.failed_count },
        heartbeat: crate::worker::HEARTBEAT,
        output_bytes: config.worker.output_bytes.saturating_mul(WATCHED),
        ..EmbeddedQueueSettings::default()
    };
    let queue = EmbeddedQueue::open(db.clone(), dir, settings, clock.clone(), tasks.clone()).await?;
    let log = EmbeddedLog::open(db.clone(), dir, config.events_cap, tasks.clone()).await?;
    let store = EmbeddedStore::open(db).await?;
    Ok(Ports {
        queue: queue.clone(),
        operator: queue.clone(),
        jobs: queue,
        sink: log.clone(),
        source: log,
        history: store.clone(),
        projection: store,
    })
}
