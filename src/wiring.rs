//! From configuration to ports: the only file that names adapters.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::task::TaskTracker;

use crate::config::{Config, EmbedderConfig, QueueUrl};
use crate::domain::Clock;
use crate::events::embedded::EmbeddedLog;
use crate::events::redis::RedisLog;
use crate::events::{EventSink, EventSource};
use crate::failures::Embedder;
use crate::failures::embed::StaticModel;
use crate::failures::embed::openai::{OpenAi, OpenAiSettings};
use crate::queue::bullmq::{BullQueue, BullRetention, BullSettings};
use crate::queue::embedded::{EmbeddedQueue, EmbeddedQueueSettings, Retention};
use crate::queue::{JobSource, Operator, Queue, QueueError, Scheduler};
use crate::redis::{Redis, RedisSettings};
use crate::sqlite::Sqlite;
use crate::store::embedded::EmbeddedStore;
use crate::store::{History, Projection};

/// Every port, each with the adapter that the configuration picks. A role takes what it may hold.
pub struct Ports {
    /// For the API: submits and reads.
    pub queue: Arc<dyn Queue>,
    /// For the API: changes what is queued.
    pub operator: Arc<dyn Operator>,
    /// For the API: keeps schedules.
    pub scheduler: Arc<dyn Scheduler>,
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
    let (queue, operator, scheduler, jobs) = open_queue(config, &db, clock, tasks).await?;
    let (sink, source) = open_log(config, &db, tasks).await?;
    let store = EmbeddedStore::open(db).await?;
    // Cursors of the embedded log are far below those of a Redis stream: everything in it would pass for folded.
    if matches!(config.queue.url, QueueUrl::Embedded) && store.cursor().await?.major > 0 {
        bail!(
            "the history in {} was folded from a Redis log and can't go on from the embedded one; \
             set queue.url to that Redis again, or choose another directory with --data-dir",
            dir.display()
        );
    }
    Ok(Ports { queue, operator, scheduler, jobs, sink, source, history: store.clone(), projection: store })
}

/// The sides of a queue.
type QueuePorts = (Arc<dyn Queue>, Arc<dyn Operator>, Arc<dyn Scheduler>, Arc<dyn JobSource>);

async fn open_queue(
    config: &Config,
    db: &Sqlite,
    clock: &Clock,
    tasks: &TaskTracker,
) -> Result<QueuePorts, QueueError> {
    let wanted = &config.queue;
    match &wanted.url {
        QueueUrl::Embedded => {
            let settings = EmbeddedQueueSettings {
                lease: wanted.lease,
                completed: Retention { age: Some(wanted.completed_age), count: wanted.completed_count },
                failed: Retention { age: Some(wanted.failed_age), count: wanted.failed_count },
                heartbeat: crate::worker::HEARTBEAT,
                output_bytes: config.worker.output_bytes.saturating_mul(WATCHED),
            };
            let (clock, tasks) = (clock.clone(), tasks.clone());
            let queue = EmbeddedQueue::open(db.clone(), &config.data_dir, settings, clock, tasks).await?;
            Ok((queue.clone(), queue.clone(), queue.clone(), queue))
        }
        QueueUrl::Redis(url) => {
            let settings = BullSettings {
                url: url.reveal().to_owned(),
                tls_ca: wanted.tls_ca.clone(),
                queue: wanted.name.clone(),
                prefix: wanted.prefix.clone(),
                lease: wanted.lease,
                completed: BullRetention { age: Some(wanted.completed_age), count: wanted.completed_count },
                failed: BullRetention { age: Some(wanted.failed_age), count: wanted.failed_count },
                output_bytes: config.worker.output_bytes.saturating_mul(WATCHED),
                heartbeat: crate::worker::HEARTBEAT,
                defaults: config.defaults.clone(),
                jobs: config.jobs.clone(),
                ..BullSettings::default()
            };
            let queue = BullQueue::open(settings, clock.clone(), tasks.clone()).await?;
            Ok((queue.clone(), queue.clone(), queue.clone(), queue))
        }
    }
}

/// The log lies where the queue lies, so that every worker of the queue reaches it.
async fn open_log(
    config: &Config,
    db: &Sqlite,
    tasks: &TaskTracker,
) -> anyhow::Result<(Arc<dyn EventSink>, Arc<dyn EventSource>)> {
    match &config.queue.url {
        QueueUrl::Embedded => {
            let log = EmbeddedLog::open(db.clone(), &config.data_dir, config.events_cap, tasks.clone()).await?;
            Ok((log.clone(), log))
        }
        QueueUrl::Redis(url) => {
            let settings = RedisSettings { url: url.clone(), ca_file: config.queue.tls_ca.clone() };
            let redis = Redis::connect(&settings, tasks).await?;
            let queue = format!("{}:{}", config.queue.prefix, config.queue.name);
            let log = RedisLog::open(redis, &queue, config.events_cap, tasks)?;
            Ok((log.clone(), log))
        }
    }
}

/// What finds out what an error means.
///
/// # Errors
/// When the endpoint's address or key can't be used.
pub fn open_embedder(config: &EmbedderConfig, clock: &Clock) -> anyhow::Result<Arc<dyn Embedder>> {
    let endpoint = match config {
        EmbedderConfig::BuiltIn => return Ok(StaticModel::built_in()),
        EmbedderConfig::Endpoint(endpoint) => endpoint.clone(),
    };
    let known = OpenAiSettings::known_dimension(&endpoint.model);
    let settings = OpenAiSettings {
        dimension: endpoint.dimension.or(known).context("embedder.dimension must be set for this model")?,
        url: endpoint.url,
        model: endpoint.model,
        api_key: endpoint.api_key,
        batch: endpoint.batch,
        concurrency: endpoint.concurrency,
        daily_budget: Some(endpoint.daily_budget),
        timeout: endpoint.timeout,
        tries: 3,
        first_wait: Duration::from_millis(500),
    };
    Ok(OpenAi::new(settings, clock.clone())?)
}
