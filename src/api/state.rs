//! The state that all handlers share: the API's ports, its settings, and the requests and tasks under way.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempt_means::AttemptMeans;
use super::body_room::BodyRoom;
use super::category_preview::CategoryPreview;
use super::failures::KeptAggregates;
use super::feed::Feed;
use super::problem::ApiError;
use super::snapshots::Overviews;
use super::throughput::Throughput;
use super::wrong_sign_ins::WrongSignIns;
use crate::artifacts::ArtifactStore;
use crate::domain::{Clock, JobName, JobOptions, QueueName};
use crate::events::{EventSink, EventSource, LogSpan};
use crate::metrics::{Exposition, ExpositionSettings};
use crate::notices::Notices;
use crate::queue::{Operator, Queue, QueueSettings, Scheduler};
use crate::store::History;
use crate::tls::Certificate;
use crate::traces::Traces;

/// The secret that clients must send. Only its digest is kept, so that it can't be printed, and it
/// is compared in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The key with which cookies are signed that stand for this token.
    pub(super) fn key(&self) -> &[u8] {
        &self.0
    }

    /// Whether `text` is the token.
    pub(super) fn is(&self, text: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(text).into();
        // Compares all bytes, so that the time it takes does not tell where the first difference is.
        given.iter().zip(self.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// The reason why a job's binary can't be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryProblem {
    /// Whether a file with this name exists, though Jobber can't run it.
    pub exists: bool,
    /// What is wrong, and what people can do about it.
    pub detail: String,
}

impl BinaryProblem {
    /// The problem as a code for clients.
    pub(super) fn code(&self) -> &'static str {
        if self.exists { "unusable_binary" } else { "unknown_binary" }
    }
}

/// Looks for the binary of a job name. The API calls it for each submission, so it must be quick.
pub type CheckBinary = Arc<dyn Fn(&JobName) -> Result<(), BinaryProblem> + Send + Sync>;

/// A file in the jobs directory that a job's name can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBinary {
    /// The name.
    pub name: JobName,
    /// Why it can't be run, and what people can do about it.
    pub trouble: Option<String>,
}

/// Lists the jobs directory. `None` when it can't be read, or holds too many files. May take long.
pub type ListBinaries = Arc<dyn Fn() -> Option<Vec<FoundBinary>> + Send + Sync>;

/// The settings of the API.
#[derive(Clone)]
pub struct ApiSettings {
    /// The token that clients must send as `Authorization: Bearer ...`. `None` admits every client.
    pub token: Option<Token>,
    /// The token of clients that may look and not act, if there is one.
    pub view_token: Option<Token>,
    /// Whether those clients are shown no data, arguments, results and output of jobs.
    pub view_hides_data: bool,
    /// How long a browser stays signed in.
    pub session_ttl: Duration,
    /// The certificate with which the server speaks HTTPS. `None` for HTTP without TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// The names by which clients may address a loopback listener, besides those of the loopback. Without port.
    pub allowed_hosts: Vec<String>,
    /// The largest request body, in bytes.
    pub body_limit: usize,
    /// How long the head of a request may take from its first byte to its last.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request, and how long a body may pause.
    pub idle_timeout: Duration,
    /// The most connections at the same time. Beyond that, a new one takes the place of the longest idle one.
    pub max_connections: usize,
    /// How long an `Idempotency-Key` is remembered.
    pub idempotency_ttl: Duration,
    /// The queue of jobs that name none.
    pub default_queue: QueueName,
    /// The options of a job that gives none itself.
    pub defaults: JobOptions,
    /// The options of single job names, in place of `defaults`.
    pub jobs: BTreeMap<JobName, JobOptions>,
    /// Finds out whether any worker could run a job. `None` where the API can't see the jobs directory.
    pub check_binary: Option<CheckBinary>,
    /// Lists what lies in the jobs directory. `None` where the API can't see it.
    pub list_binaries: Option<ListBinaries>,
    /// Finds the category of a text for a client that asks.
    pub category_preview: CategoryPreview,
    /// The directory from which the page's files are read, in place of those that are compiled in.
    pub ui_dir: Option<PathBuf>,
    /// The store of the files of jobs. `None` for none.
    pub artifacts: Option<Arc<dyn ArtifactStore>>,
    /// The largest input of a job that is taken, in bytes.
    pub max_input_bytes: u64,
    /// Makes the spans of requests that submit jobs.
    pub traces: Traces,
    /// Jobber's version, for `/healthz`.
    pub version: String,
    /// The metrics of this process.
    pub exposition: Arc<Exposition>,
    /// How many events stay in the log behind what has been folded.
    pub events_keep: u64,
    /// What is told to people and programs. `None` where nothing is.
    pub notices: Option<Arc<Notices>>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            token: None,
            view_token: None,
            view_hides_data: false,
            session_ttl: Duration::from_secs(12 * 3600),
            certificate: None,
            allowed_hosts: Vec::new(),
            body_limit: 8 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_connections: 1024,
            idempotency_ttl: Duration::from_secs(86_400),
            default_queue: QueueSettings::default().queue,
            defaults: JobOptions::default(),
            jobs: BTreeMap::new(),
            check_binary: None,
            list_binaries: None,
            category_preview: CategoryPreview::default(),
            ui_dir: None,
            artifacts: None,
            max_input_bytes: 1 << 30,
            traces: Traces::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exposition: Arc::new(Exposition::new(ExpositionSettings::default())),
            events_keep: 0,
            notices: None,
        }
    }
}

impl ApiSettings {
    /// A queue as a job's options have it: `None` for the default one, which is the same as none named.
    pub(super) fn named(&self, queue: QueueName) -> Option<QueueName> {
        Some(queue).filter(|queue| *queue != self.default_queue)
    }

    /// The options of a job of this name that gives none itself.
    pub(super) fn defaults_of(&self, name: &str) -> &JobOptions {
        JobName::parse(name).ok().and_then(|name| self.jobs.get(&name)).unwrap_or(&self.defaults)
    }
}

/// The ports that the API holds.
pub struct ApiPorts {
    /// Submits and reads jobs.
    pub queue: Arc<dyn Queue>,
    /// Changes queued jobs and the queue.
    pub operator: Arc<dyn Operator>,
    /// Keeps the schedules.
    pub scheduler: Arc<dyn Scheduler>,
    /// The event log, for writing.
    pub sink: Arc<dyn EventSink>,
    /// The event log, for reading.
    pub source: Arc<dyn EventSource>,
    /// History, for reading.
    pub history: Arc<dyn History>,
}

/// How long an answer of the event log about its room is trusted. To ask for every submission would
/// cost more than the submission.
const TRUSTED: Duration = Duration::from_millis(200);
/// How long a submission waits for that answer.
const LOG_PATIENCE: Duration = Duration::from_millis(800);

/// The state that all handlers share.
pub struct Api {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) operator: Arc<dyn Operator>,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) sink: Arc<dyn EventSink>,
    pub(super) source: Arc<dyn EventSource>,
    pub(super) history: Arc<dyn History>,
    pub(super) clock: Clock,
    pub(super) settings: ApiSettings,
    /// Tells requests that wait for a job what happens to it.
    pub(super) feed: Feed,
    /// Counts what the event log tells.
    pub(super) throughput: Throughput,
    /// How long attempts take, for those who ask what waits.
    pub(super) attempt_means: AttemptMeans,
    /// The overview, for those who watch it.
    pub(super) overviews: Overviews,
    /// The aggregates that statistics by error were made of.
    pub(super) kept_aggregates: KeptAggregates,
    /// Bounds the memory of the large bodies in flight.
    pub(super) body_room: BodyRoom,
    /// Cancelled when the process takes no more jobs, but still serves.
    pub(super) draining: CancellationToken,
    /// Cancelled when the server stops. Streams and long polls end then.
    pub(super) stopping: CancellationToken,
    /// Streams, and work that must not end with the connection of its request.
    pub(super) tasks: TaskTracker,
    /// When the last successful write to the queue was asked for.
    pub(super) queue_written: std::sync::Mutex<Option<Instant>>,
    /// Wrong sign-ins wait for their turn here.
    pub(super) wrong_sign_ins: WrongSignIns,
    log_room: Mutex<Option<LogRoom>>,
}

/// The event log's last answer about its room, and when it came.
type LogRoom = (Instant, Result<LogSpan, ApiError>);

impl Api {
    /// Makes an API over these ports. [`super::serve`] puts it on a listener.
    pub fn new(ports: ApiPorts, clock: Clock, settings: ApiSettings) -> Self {
        let ApiPorts { queue, operator, scheduler, sink, source, history } = ports;
        Self {
            queue,
            operator,
            scheduler,
            sink,
            source,
            history,
            clock,
            settings,
            feed: Feed::default(),
            throughput: Throughput::default(),
            attempt_means: AttemptMeans::default(),
            overviews: Overviews::default(),
            kept_aggregates: KeptAggregates::default(),
            body_room: BodyRoom::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            queue_written: std::sync::Mutex::default(),
            wrong_sign_ins: WrongSignIns::new(),
            log_room: Mutex::new(None),
        }
    }

    /// The same API, but it takes no more jobs once `draining` is cancelled. Everything else goes on.
    pub fn draining_on(self, draining: CancellationToken) -> Self {
        Self { draining, ..self }
    }

    /// Refuses submissions while the process drains, and when the event log has no room for this
    /// many: history would lose them.
    pub(super) async fn check_room(&self, jobs: usize) -> Result<(), ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::draining());
        }
        // One request asks, and the others wait for its answer. They share an error too.
        let mut known = self.log_room.lock().await;
        let (_, room) = match &mut *known {
            Some(known) if known.0.elapsed() < TRUSTED => known,
            known => {
                let room = self.ask_log_room().await;
                known.insert((Instant::now(), room))
            }
        };
        let span = room.as_mut().map_err(|e| e.clone())?;
        let wanted = span.length.saturating_add(u64::try_from(jobs).unwrap_or(u64::MAX));
        if wanted > span.cap {
            return Err(ApiError::log_full(span));
        }
        // The accepted jobs take their room before the next look.
        span.length = wanted;
        Ok(())
    }

    async fn ask_log_room(&self) -> Result<LogSpan, ApiError> {
        match tokio::time::timeout(LOG_PATIENCE, self.source.span()).await {
            Ok(span) => Ok(span?),
            Err(_) => Err(ApiError::log_silent()),
        }
    }

    /// Runs `work` to its end even if the client goes away, for steps that belong together.
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        use tracing::Instrument;
        self.tasks.spawn(work.in_current_span()).await.map_err(|e| ApiError::internal(e.to_string()))?
    }
}
