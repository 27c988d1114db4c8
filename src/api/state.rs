//! What every handler shares: the ports that the API may hold, its settings, and what is going on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::BodyRoom;
use super::category_preview::CategoryPreview;
use super::feed::Feed;
use super::problem::ApiError;
use crate::domain::{Clock, JobName, JobOptions};
use crate::events::{EventSink, EventSource, LogSpan};
use crate::queue::{Operator, Queue, Scheduler};
use crate::store::History;

/// What callers must prove to know. Keeps a digest only, so that it can't be printed, and is compared in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// Whether `text` is the token.
    pub(super) fn is(&self, text: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(text).into();
        // No early end: how long it takes tells nothing about where the first difference is.
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

/// Why a job's binary can't be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryProblem {
    /// Whether there is a file of this name, though not one that can be run.
    pub exists: bool,
    /// What is wrong and what to do, for people.
    pub detail: String,
}

impl BinaryProblem {
    /// The problem in one word.
    pub(super) fn code(&self) -> &'static str {
        if self.exists { "unusable_binary" } else { "unknown_binary" }
    }
}

/// Looks for the binary of a job name. Called for each submission: must be quick.
pub type CheckBinary = Arc<dyn Fn(&JobName) -> Result<(), BinaryProblem> + Send + Sync>;

/// How the API behaves.
#[derive(Clone)]
pub struct ApiSettings {
    /// What callers must send as `Authorization: Bearer ...`; `None` lets everybody in.
    pub token: Option<Token>,
    /// Hosts besides those of the loopback by which a loopback listener may be addressed, without port.
    pub allowed_hosts: Vec<String>,
    /// The largest request body, in bytes.
    pub body_limit: usize,
    /// How long the head of a request may take from its first byte to its last.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request, and a body without its next byte.
    pub idle_timeout: Duration,
    /// Connections at the same time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long an `Idempotency-Key` is remembered.
    pub idempotency_ttl: Duration,
    /// The options of a job that does not say otherwise.
    pub defaults: JobOptions,
    /// The same for single job names, in place of `defaults`.
    pub jobs: BTreeMap<JobName, JobOptions>,
    /// Refuses jobs that nobody could run; `None` where the API can't see the jobs directory.
    pub check_binary: Option<CheckBinary>,
    /// Works out where texts belong, for those who ask.
    pub category_preview: CategoryPreview,
    /// Jobber's version, for `/healthz`.
    pub version: String,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            token: None,
            allowed_hosts: Vec::new(),
            body_limit: 8 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_connections: 1024,
            idempotency_ttl: Duration::from_secs(86_400),
            defaults: JobOptions::default(),
            jobs: BTreeMap::new(),
            check_binary: None,
            category_preview: CategoryPreview::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl ApiSettings {
    /// The options of jobs of this name that do not say otherwise.
    pub(super) fn defaults_of(&self, name: &str) -> &JobOptions {
        JobName::parse(name).ok().and_then(|name| self.jobs.get(&name)).unwrap_or(&self.defaults)
    }
}

/// The ports that the API holds.
pub struct ApiPorts {
    /// Submits and reads.
    pub queue: Arc<dyn Queue>,
    /// Changes what is queued.
    pub operator: Arc<dyn Operator>,
    /// Keeps schedules.
    pub scheduler: Arc<dyn Scheduler>,
    /// Writes events.
    pub sink: Arc<dyn EventSink>,
    /// Reads events.
    pub source: Arc<dyn EventSource>,
    /// Reads history.
    pub history: Arc<dyn History>,
}

/// How long the event log's word on its room is trusted: to ask for every submission would cost more than the submission.
const TRUSTED: Duration = Duration::from_millis(200);
/// How long submissions wait for that word.
const LOG_PATIENCE: Duration = Duration::from_millis(800);

/// Everything that handlers need. Made once, then shared.
pub struct Api {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) operator: Arc<dyn Operator>,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) sink: Arc<dyn EventSink>,
    pub(super) source: Arc<dyn EventSource>,
    pub(super) history: Arc<dyn History>,
    pub(super) clock: Clock,
    pub(super) settings: ApiSettings,
    /// Tells those who wait for a job what happens to it.
    pub(super) feed: Feed,
    /// Bounds the large bodies in flight.
    pub(super) body_room: BodyRoom,
    /// Cancelled when the process takes no jobs any more, but still serves.
    pub(super) draining: CancellationToken,
    /// Cancelled when the server stops: streams and long polls end.
    pub(super) stopping: CancellationToken,
    /// Work that must not end with the connection that asked for it, and streams.
    pub(super) tasks: TaskTracker,
    /// When the queue was last asked for a write that it made.
    pub(super) queue_written: std::sync::Mutex<Option<Instant>>,
    log_room: Mutex<Option<LogRoom>>,
}

/// What the event log last said of its room, and when.
type LogRoom = (Instant, Result<LogSpan, ApiError>);

impl Api {
    /// An API over these ports; [`super::serve`] puts it on a listener.
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
            body_room: BodyRoom::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            queue_written: std::sync::Mutex::default(),
            log_room: Mutex::new(None),
        }
    }

    /// The same API, which takes no jobs any more once `draining` is cancelled; everything else goes on.
    pub fn draining_on(self, draining: CancellationToken) -> Self {
        Self { draining, ..self }
    }

    /// Refuses submissions while the process drains, and when the event log has no room for so many: history would lose
    /// them.
    pub(super) async fn check_room(&self, jobs: usize) -> Result<(), ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::draining());
        }
        // One asks, the others wait for the answer; a failure is an answer to all of them.
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
        // What is let in now takes its room before the next look.
        span.length = wanted;
        Ok(())
    }

    async fn ask_log_room(&self) -> Result<LogSpan, ApiError> {
        match tokio::time::timeout(LOG_PATIENCE, self.source.span()).await {
            Ok(span) => Ok(span?),
            Err(_) => Err(ApiError::log_silent()),
        }
    }

    /// Runs `work` to its end even if the client goes away: for steps that belong together.
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        use tracing::Instrument;
        self.tasks.spawn(work.in_current_span()).await.map_err(|e| ApiError::internal(e.to_string()))?
    }
}
