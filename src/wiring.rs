//! From configuration to ports: the only room that names adapters.

mod artifacts;
mod queue;

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::task::TaskTracker;

use crate::artifacts::ArtifactStore;
use crate::config::{Config, EmbedderConfig, QueueUrl, StoreUrl};
use crate::domain::Clock;
use crate::events::embedded::EmbeddedLog;
use crate::events::redis::RedisLog;
use crate::events::{Cursor, EventSink, EventSource};
use crate::failures::cache::embedded::EmbeddedCache;
use crate::failures::cache::redis::RedisCache;
use crate::failures::embed::StaticModel;
use crate::failures::embed::openai::{Budget, OpenAi, OpenAiSettings};
use crate::failures::{Embedder, ErrorCache};
use crate::notices::Outbox;
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::{ChangeFeed, JobSource, Operator, Queue, QueueError, Scheduler};
use crate::redis::{Redis, ServerInfo};
use crate::sqlite::Sqlite;
use crate::store::couchbase::{CouchbaseSettings, CouchbaseStore};
use crate::store::embedded::EmbeddedStore;
use crate::store::{History, Projection, StoreErrorKind};
pub use artifacts::ask_artifacts;
use artifacts::open_artifacts;
use queue::{QueuePorts, log_name, open_queue, redis_settings};
pub use queue::{check_queue_names, forget_queue};

/// What a server may hold: the API and the projector.
pub struct ServerPorts {
    /// Submits and reads.
    pub queue: Arc<dyn Queue>,
    /// Changes what is queued.
    pub operator: Arc<dyn Operator>,
    /// Keeps schedules.
    pub scheduler: Arc<dyn Scheduler>,
    /// Sees what other programs do to the queue.
    pub change_feed: Arc<dyn ChangeFeed>,
    /// Writes events.
    pub sink: Arc<dyn EventSink>,
    /// Reads events.
    pub source: Arc<dyn EventSource>,
    /// Reads history.
    pub history: Arc<dyn History>,
    /// Writes history.
    pub projection: Arc<dyn Projection>,
    /// Names that history among all that could be folded from one log.
    pub history_name: String,
    /// Remembers what errors mean.
    pub cache: Arc<dyn ErrorCache>,
    /// Turns texts of errors into vectors.
    pub embedder: Arc<dyn Embedder>,
    /// Holds notices until they are delivered.
    pub outbox: Outbox,
    /// Keeps the files of jobs.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// The database of this machine, which every process has.
    pub database: Sqlite,
}

/// What a worker may hold: it takes jobs and tells what becomes of them. It has no store, and can't change what is queued.
pub struct WorkerPorts {
    /// Takes jobs.
    pub jobs: Arc<dyn JobSource>,
    /// Writes events.
    pub sink: Arc<dyn EventSink>,
    /// Remembers what errors mean.
    pub cache: Arc<dyn ErrorCache>,
    /// Turns texts of errors into vectors.
    pub embedder: Arc<dyn Embedder>,
    /// Keeps the files of jobs.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// Tells whether queue and event log answer.
    pub liveness: Liveness,
    /// The database of this machine, which every process has.
    pub database: Sqlite,
}

/// What work on all of history may hold, while no server folds it.
pub struct UpkeepPorts {
    /// Reads history.
    pub history: Arc<dyn History>,
    /// Writes history.
    pub projection: Arc<dyn Projection>,
    /// The event log that goes with it.
    pub source: Option<Arc<dyn EventSource>>,
}

/// What must answer for a process to count as alive. Held weakly, so that the ports close with the parts that use them.
#[derive(Clone)]
pub struct Liveness {
    queue: Weak<dyn Queue>,
    sink: Weak<dyn EventSink>,
}

impl Liveness {
    fn of(queue: &Arc<dyn Queue>, sink: &Arc<dyn EventSink>) -> Self {
        Self { queue: Arc::downgrade(queue), sink: Arc::downgrade(sink) }
    }

    /// Asks the queue whether it can be written to; `None` when it was closed.
    pub async fn queue_answers(&self) -> Option<Result<(), QueueError>> {
        let queue = self.queue.upgrade()?;
        Some(queue.ping().await)
    }

    /// Returns when both have answered. That a queue answers with an error counts: it is away, this process is not, and to
    /// start it anew would not help. An empty append goes the way of every write: with the embedded adapters, through the
    /// one writing thread of the database.
    pub async fn answer(&self) {
        let _ = self.queue_answers().await;
        if let Some(sink) = self.sink.upgrade() {
            let _ = sink.append(&[]).await;
        }
    }
}

impl ServerPorts {
    /// What tells whether this server lives.
    pub fn liveness(&self) -> Liveness {
        Liveness::of(&self.queue, &self.sink)
    }
}

/// Errors that the embedded cache remembers at most.
const KNOWN_ERRORS: u32 = 100_000;
/// How long Redis remembers an error.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// How long work on all of history waits for indexes that are being made.
const INDEXING: Duration = Duration::from_secs(60);

/// The file of the embedded database.
pub fn database_file(config: &Config) -> PathBuf {
    config.data_dir.join("jobber.db")
}

/// The versions of the embedded database's tables that this Jobber knows, by adapter.
pub fn schema_versions() -> Vec<(&'static str, usize)> {
    vec![
        EmbeddedQueue::SCHEMA_VERSION,
        EmbeddedLog::SCHEMA_VERSION,
        EmbeddedStore::SCHEMA_VERSION,
        EmbeddedCache::SCHEMA_VERSION,
        Outbox::SCHEMA_VERSION,
    ]
}

/// Opens what a server needs. Background work of the adapters is spawned on `tasks` and ends with the ports.
///
/// # Errors
/// When the data directory can't be made, or the database or the store can't be used.
pub async fn open_server(config: &Config, clock: &Clock, tasks: &TaskTracker) -> anyhow::Result<ServerPorts> {
    Common::open(config, clock, tasks).await?.for_server(config, clock, tasks).await
}

/// Opens what a worker needs; likewise.
///
/// # Errors
/// When the data directory can't be made or the database can't be used.
pub async fn open_worker(config: &Config, clock: &Clock, tasks: &TaskTracker) -> anyhow::Result<WorkerPorts> {
    Ok(Common::open(config, clock, tasks).await?.for_worker())
}

/// Opens what a process needs that is both.
///
/// # Errors
/// Those of [`open_server`].
pub async fn open_both(
    config: &Config,
    clock: &Clock,
    tasks: &TaskTracker,
) -> anyhow::Result<(ServerPorts, WorkerPorts)> {
    let common = Common::open(config, clock, tasks).await?;
    let worker = common.for_worker();
    Ok((common.for_server(config, clock, tasks).await?, worker))
}

/// What servers and workers have in common.
struct Common {
    database: Sqlite,
    queue: QueuePorts,
    shared: Shared,
    embedder: Arc<dyn Embedder>,
    artifacts: Arc<dyn ArtifactStore>,
}

impl Common {
    async fn open(config: &Config, clock: &Clock, tasks: &TaskTracker) -> anyhow::Result<Self> {
        make_data_dir(&config.data_dir)?;
        let database = Sqlite::open(&database_file(config), config.durability)?;
        let shared = open_shared(config, &database, tasks).await?;
        let queue = open_queue(config, &database, shared.embedded.clone(), clock, tasks).await?;
        let embedder = open_embedder(&config.embedder, Some(&shared.cache), clock)?;
        Ok(Self { database, queue, shared, embedder, artifacts: open_artifacts(config)? })
    }

    fn for_worker(&self) -> WorkerPorts {
        WorkerPorts {
            jobs: self.queue.jobs.clone(),
            sink: self.shared.sink.clone(),
            cache: self.shared.cache.clone(),
            embedder: self.embedder.clone(),
            artifacts: self.artifacts.clone(),
            liveness: Liveness::of(&self.queue.queue, &self.shared.sink),
            database: self.database.clone(),
        }
    }

    async fn for_server(self, config: &Config, clock: &Clock, tasks: &TaskTracker) -> anyhow::Result<ServerPorts> {
        let Self { database, queue, shared, embedder, artifacts } = self;
        let QueuePorts { queue, operator, scheduler, change_feed, jobs: _ } = queue;
        let Shared { sink, source, cache, embedded, log } = shared;
        let dimension = Some(embedder.dimension());
        let (history, projection, history_name) =
            open_store(config, &database, dimension, Some(log), None, tasks).await?;
        match history.cursor().await {
            Ok(folded) => {
                check_cursor(config, folded)?;
                if let Some(log) = embedded {
                    log.continue_after(folded).await?;
                }
            }
            // A store that is away is waited for while jobs run.
            Err(e) if e.kind == StoreErrorKind::Unavailable => {
                if let Some(log) = embedded {
                    log.begin_apart(clock.now()).await?;
                }
            }
            Err(e) => return Err(e.into()),
        }
        Ok(ServerPorts {
            queue,
            operator,
            scheduler,
            change_feed,
            sink,
            source,
            history,
            projection,
            history_name,
            cache,
            embedder,
            outbox: Outbox::open(database.clone()).await?,
            artifacts,
            database,
        })
    }
}

/// Makes the data directory, for this user alone, unless it is there. One that others may enter is left as it is, since it
/// may hold more than Jobber's files (the database among them is private all the same), but warned of.
fn make_data_dir(dir: &Path) -> anyhow::Result<()> {
    let make = || {
        if let Some(parent) = dir.parent() {
            fs_err::create_dir_all(parent)?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => Err(e),
            _ => Ok(fs_err::metadata(dir)?.permissions().mode()),
        }
    };
    let mode = make().with_context(|| {
        format!("the data directory {} can't be made; choose another with --data-dir", dir.display())
    })?;
    if mode & 0o077 != 0 {
        let (dir, mode) = (dir.display(), mode & 0o7777);
        tracing::warn!("other users of this machine may enter the data directory (mode {mode:o}): chmod 700 {dir}");
    }
    Ok(())
}

/// The two sides of a store, and the name of what it holds. Where there is an index for vectors, it is made for those of
/// this `dimension`; where a store remembers which log it is folded from, it is this one. `patience` is how long to wait for
/// its other indexes.
async fn open_store(
    config: &Config,
    db: &Sqlite,
    dimension: Option<usize>,
    log: Option<String>,
    patience: Option<Duration>,
    tasks: &TaskTracker,
) -> anyhow::Result<(Arc<dyn History>, Arc<dyn Projection>, String)> {
    match &config.store.url {
        StoreUrl::Embedded => {
            let store = EmbeddedStore::open(db.clone()).await?;
            let name = store.name().await?;
            Ok((store.clone(), store, name))
        }
        StoreUrl::Couchbase(url) => {
            let settings = CouchbaseSettings {
                connection: url.connection(),
                username: url.username.clone(),
                password: url.password.clone(),
                bucket: url.bucket.clone(),
                scope: config.store.scope.clone(),
                key_prefix: config.store.key_prefix.clone(),
                ca_file: config.store.tls_ca.clone(),
                dimension,
                log,
                replaces_log: config.store.replaces_log.clone(),
                durability: config.store.couchbase_durability,
                num_replica: config.store.num_replica,
            };
            // Without the address: machines may know one cluster by several.
            let name = format!("couchbase {}/{}/{}", settings.bucket, settings.scope, settings.key_prefix);
            let store = CouchbaseStore::open(settings, tasks).await?;
            if let Some(patience) = patience
                && store.ping().await.is_ok()
            {
                // Without them the work fails, and says what is missing.
                let _ = tokio::time::timeout(patience, store.prepared()).await;
            }
            Ok((store.clone(), store, name))
        }
    }
}

/// Asks the configured Redis about itself: its address and its answers, or why there are none. `None` without one.
pub async fn ask_redis(config: &Config, clock: &Clock) -> Option<(String, Result<ServerInfo, String>)> {
    let settings = redis_settings(config)?;
    let redis = match Redis::connect(&settings, &TaskTracker::new()).await {
        Ok(redis) => redis,
        Err(error) => return Some(("queue.url".to_owned(), Err(error.to_string()))),
    };
    let info = redis.inspect(clock).await.map_err(|e| e.to_string());
    Some((redis.place().to_owned(), info))
}

/// Opens the store that the configuration names, and on request its log, but no queue.
///
/// # Errors
/// When the data directory can't be made, or one of them can't be used.
pub async fn open_for_upkeep(config: &Config, with_log: bool, tasks: &TaskTracker) -> anyhow::Result<UpkeepPorts> {
    make_data_dir(&config.data_dir)?;
    let db = Sqlite::open(&database_file(config), config.durability)?;
    let shared = if with_log { Some(open_shared(config, &db, tasks).await?) } else { None };
    let (source, log) = shared.map(|shared| (shared.source, shared.log)).unzip();
    let (history, projection, _) = open_store(config, &db, None, log, Some(INDEXING), tasks).await?;
    Ok(UpkeepPorts { history, projection, source })
}

/// Whether history that was folded up to here can go on from the log that the configuration names.
///
/// # Errors
/// When it was folded from a Redis log and would go on from the embedded one: the cursors of that are far below, and
/// everything in it would pass for folded.
pub fn check_cursor(config: &Config, folded: Cursor) -> anyhow::Result<()> {
    if matches!(config.queue.url, QueueUrl::Embedded) && folded.major > 0 {
        bail!(
            "this history was folded from a Redis log and can't go on from the embedded one in {}; \
             set queue.url to that Redis again, or choose another directory with --data-dir",
            config.data_dir.display()
        );
    }
    Ok(())
}

/// The two sides of the log, and what is known of errors.
struct Shared {
    sink: Arc<dyn EventSink>,
    source: Arc<dyn EventSource>,
    cache: Arc<dyn ErrorCache>,
    /// The log once more, if it is the embedded one.
    embedded: Option<Arc<EmbeddedLog>>,
    /// Names the log among all that could be folded into one history.
    log: String,
}

/// Log and cache lie where the queue lies, so that every worker of the queue reaches them.
async fn open_shared(config: &Config, db: &Sqlite, tasks: &TaskTracker) -> anyhow::Result<Shared> {
    match redis_settings(config) {
        None => {
            let log = EmbeddedLog::open(db.clone(), &config.data_dir, config.events_cap).await?;
            let cache = EmbeddedCache::open(db.clone(), KNOWN_ERRORS).await?;
            let name = log.name().await?;
            Ok(Shared { sink: log.clone(), source: log.clone(), cache, embedded: Some(log), log: name })
        }
        Some(settings) => {
            let redis = Redis::connect(&settings, tasks).await?;
            let queue = log_name(config);
            let cache = RedisCache::open(redis.clone(), &queue, REMEMBERED);
            let log = RedisLog::open(redis, &queue, config.events_cap, tasks)?;
            // Without the address, and the same after Redis has lost its data: its places only grow, with time.
            let name = format!("redis {queue}");
            Ok(Shared { sink: log.clone(), source: log, cache, embedded: None, log: name })
        }
    }
}

/// What finds out what an error means. The day's budget is counted in the cache; without one there is none.
///
/// # Errors
/// When the endpoint's address or key can't be used.
pub fn open_embedder(
    config: &EmbedderConfig,
    cache: Option<&Arc<dyn ErrorCache>>,
    clock: &Clock,
) -> anyhow::Result<Arc<dyn Embedder>> {
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
        timeout: endpoint.timeout,
        tries: 3,
        first_wait: Duration::from_millis(500),
    };
    let budget = cache.map(|cache| Budget::new(cache.clone(), endpoint.daily_budget));
    Ok(OpenAi::new(settings, budget, clock.clone())?)
}
