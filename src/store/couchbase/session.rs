//! Holds a connection to the bucket, and decides when to make a new one.
//!
//! The SDK (1.1.0) does some things by itself: it connects again to a server that comes back,
//! follows the cluster's map, and repeats what the server refused for the moment. This file exists
//! for the things that it does not do. It never gives up, so every wait here has an end. It waits
//! for ever when an operation was given up at the wrong moment (while it looked up the name of a
//! collection, or after a bucket could not be opened), so a session that answers no more is
//! replaced by a new one. And it has no way to close, because its tasks live on by themselves, so
//! each session gives them a runtime of their own and ends it with the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use couchbase::authenticator::PasswordAuthenticator;
use couchbase::cluster::Cluster;
use couchbase::collection::Collection;
use couchbase::error::ErrorKind;
use couchbase::options::cluster_options::{ClusterOptions, KvOptions, OrphanReporterOptions, TlsOptions};
use couchbase::retry::{RetryAction, RetryReason, RetryRequest, RetryStrategy};
use couchbase::scope::Scope;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::documents::{Layout, Room};
use super::durability::Demand;
use super::loss::StoreSightings;
use super::setup;
use super::{CouchbaseSettings, probe, sdk_log_sniffer};
use crate::reconnect::dice;
use crate::store::{StoreError, StoreErrorKind};

/// How long to connect may take.
const CONNECTING: Duration = Duration::from_secs(8);
/// How long other callers get the error of a failed connection without another try.
const REMEMBERED: Duration = Duration::from_millis(500);
/// After this many operations in a row without an answer, a session is worth replacing.
const SILENT: u32 = 3;

/// A key that no document has.
const NOTHING: &str = "jobber:nothing";

/// A connection to the bucket with its collections.
pub(super) struct Session {
    /// The runtime of the SDK's tasks. `Some` until the session is dropped.
    runtime: Option<Runtime>,
    /// Kept, because the objects made from it work only as long as it lives.
    _cluster: Cluster,
    pub(super) scope: Scope,
    collections: Vec<Collection>,
    pub(super) layout: Layout,
    key_prefix: String,
    /// How many operations in a row got no answer.
    unanswered: AtomicU32,
}

impl Session {
    /// The collection that holds a room's documents.
    pub(super) fn collection(&self, room: Room) -> &Collection {
        &self.collections[room as usize]
    }

    /// The key of a document on the server.
    pub(super) fn key(&self, room: Room, key: &str) -> String {
        let prefix = &self.key_prefix;
        let full = match self.layout {
            Layout::Collections => format!("{prefix}{key}"),
            Layout::Flat => format!("{prefix}jobber:{}:{key}", room.name()),
        };
        shortened(full, prefix)
    }

    /// Notes that the server answered an operation, which ends a row of silent ones.
    pub(super) fn note_answer(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Notes that an operation got no answer.
    pub(super) fn note_silence(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= SILENT
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Shortens a long key. A server takes keys of at most 250 bytes, less with collections. `%` is in no job id.
fn shortened(key: String, prefix: &str) -> String {
    const LONGEST: usize = 240;
    if key.len() <= LONGEST {
        return key;
    }
    let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("{prefix}%{hex}")
}

/// Makes sessions, and holds the one in use.
pub(super) struct Connector {
    settings: CouchbaseSettings,
    /// What this process has seen of the bucket, over all sessions.
    pub(super) witness: StoreSightings,
    /// The durability that writes wait for.
    pub(super) durability: Demand,
    current: std::sync::RwLock<Option<Arc<Session>>>,
    /// The last failure to connect. The lock lets only one caller connect at a time.
    connecting: Mutex<Option<(Instant, StoreErrorKind, String)>>,
    /// Whether the process is past its start.
    is_started: AtomicBool,
}

impl Connector {
    pub(super) fn new(settings: CouchbaseSettings) -> Self {
        Self {
            durability: Demand::new(settings.durability),
            settings,
            witness: StoreSightings::default(),
            current: std::sync::RwLock::new(None),
            connecting: Mutex::new(None),
            is_started: AtomicBool::new(false),
        }
    }

    /// Notes that the bucket has been in use. From now on any trouble with it may pass.
    pub(super) fn started(&self) {
        self.is_started.store(true, Ordering::Relaxed);
    }

    pub(super) fn settings(&self) -> &CouchbaseSettings {
        &self.settings
    }

    fn usable(&self) -> Option<Arc<Session>> {
        let current = self.current.read().expect("no thread panics while it holds the lock");
        current.as_ref().filter(|session| !session.is_silent()).cloned()
    }

    /// Returns the session in use, or a new one when there is none or it has fallen silent.
    ///
    /// # Errors
    /// The reason why the bucket can't be used.
    pub(super) async fn session(&self) -> Result<Arc<Session>, StoreError> {
        if let Some(session) = self.usable() {
            return Ok(session);
        }
        let mut last_failure = self.connecting.lock().await;
        if let Some(session) = self.usable() {
            return Ok(session);
        }
        if let Some((at, kind, message)) = &*last_failure
            && at.elapsed() < REMEMBERED
        {
            return Err(StoreError::new(*kind, message.clone()));
        }
        match Box::pin(self.connect()).await {
            Ok(session) => {
                let session = Arc::new(session);
                *self.current.write().expect("no thread panics while it holds the lock") = Some(session.clone());
                *last_failure = None;
                Ok(session)
            }
            Err(mut e) => {
                if self.is_started.load(Ordering::Relaxed) {
                    e.kind = StoreErrorKind::Unavailable;
                }
                let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                *last_failure = Some((Instant::now(), e.kind, format!("{e}{cause}")));
                Err(e)
            }
        }
    }

    async fn connect(&self) -> Result<Session, StoreError> {
        let settings = &self.settings;
        // Without a file of authorities, only the SDK knows which ones are trusted.
        let can_probe = !settings.is_tls() || settings.ca_file.is_some();
        let facts = if can_probe { Some(probe::probe(settings).await?) } else { None };
        let options = options(settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("couchbase")
            .enable_all()
            .build()
            .map_err(|e| StoreError::new(StoreErrorKind::Unavailable, "no thread for Couchbase").caused_by(e))?;
        let opened = self.open(&runtime, options, facts).await;
        match opened {
            Ok((cluster, scope, collections, layout)) => Ok(Session {
                runtime: Some(runtime),
                _cluster: cluster,
                scope,
                collections,
                layout,
                key_prefix: settings.key_prefix.clone(),
                unanswered: AtomicU32::new(0),
            }),
            Err(e) => {
                runtime.shutdown_background();
                Err(e)
            }
        }
    }

    async fn open(
        &self,
        runtime: &Runtime,
        options: ClusterOptions,
        facts: Option<probe::Facts>,
    ) -> Result<(Cluster, Scope, Vec<Collection>, Layout), StoreError> {
        let (settings, last_message) = (self.settings.clone(), sdk_log_sniffer::LastMessage::default());
        let listening = last_message.clone();
        let opening = runtime.spawn(async move {
            let connecting = Cluster::connect(&settings.connection, options);
            let connected = sdk_log_sniffer::connect_or_obstacle(&listening, connecting)
                .await
                .map_err(|e| setup::barred(&settings, e))?;
            let cluster = connected.map_err(|e| {
                StoreError::new(StoreErrorKind::Rejected, format!("{} can't be used", settings.connection)).caused_by(e)
            })?;
            if facts.is_none() {
                setup::check_bucket(&settings, &cluster).await?;
            }
            let bucket = cluster.bucket(&settings.bucket);
            let layout = setup::collections(&settings, &bucket, facts).await?;
            let scope = bucket.scope(match layout {
                Layout::Collections => settings.scope.as_str(),
                Layout::Flat => "_default",
            });
            let collection = |room: Room| match layout {
                Layout::Collections => scope.collection(room.name()),
                Layout::Flat => scope.collection("_default"),
            };
            let collections: Vec<_> = Room::ALL.into_iter().map(collection).collect();
            // The first use of a collection looks up its number, which must not be interrupted.
            for collection in &collections {
                match collection.get(NOTHING, None).await {
                    Err(e) if *e.kind() != ErrorKind::DocumentNotFound => return Err(setup::unusable(&settings, &e)),
                    _ => {}
                }
            }
            Ok((cluster, scope, collections, layout))
        });
        match tokio::time::timeout(CONNECTING, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(e)) => Err(StoreError::new(StoreErrorKind::Unavailable, "Couchbase's client broke").caused_by(e)),
            Err(e) => {
                let CouchbaseSettings { connection, bucket, username, .. } = &self.settings;
                let last = last_message
                    .get()
                    .map(|said| format!("; the last that was heard of it: {said}"))
                    .unwrap_or_default();
                let message = format!(
                    "bucket {bucket:?} at {connection} could not be opened as {username:?} within {}s: it can't be \
                     reached, is not ready, or refuses the user or the certificates{last}",
                    CONNECTING.as_secs()
                );
                Err(StoreError::new(StoreErrorKind::Unavailable, message).caused_by(e))
            }
        }
    }
}

fn options(settings: &CouchbaseSettings) -> Result<ClusterOptions, StoreError> {
    let who = PasswordAuthenticator::new(&settings.username, settings.password.reveal());
    let mut options = ClusterOptions::new(who.into())
        .kv_options(KvOptions::new().connect_timeout(Duration::from_secs(5)))
        .orphan_reporter_options(OrphanReporterOptions::new().enabled(false))
        .default_retry_strategy(Arc::new(Patience));
    if let Some(file) = settings.ca_file.as_ref().filter(|_| settings.is_tls()) {
        options = options.tls_options(TlsOptions::new().add_ca_certificates(probe::certificates(file)?));
    }
    Ok(options)
}

/// Decides what the SDK repeats by itself, and how soon. It repeats what the server or the
/// connection refused for the moment, with waits that double and vary. It returns at once when a
/// wait would change nothing (a service or an index is missing). It never repeats an operation that
/// may have been done already: the caller, who knows what was meant, decides about that.
#[derive(Debug)]
struct Patience;

impl RetryStrategy for Patience {
    fn retry_after(&self, request: &RetryRequest, reason: &RetryReason) -> Option<RetryAction> {
        let hopeless = matches!(
            reason,
            RetryReason::ServiceNotAvailable
                | RetryReason::QueryIndexNotFound
                | RetryReason::HttpConnectFailed
                | RetryReason::HttpSendRequestFailed
        );
        let safe = request.is_idempotent() || reason.allows_non_idempotent_retry();
        let full = 0.002 * f64::from(1 << request.retry_attempts().min(8));
        (safe && !hopeless).then(|| RetryAction::new(Duration::from_secs_f64(full * (0.5 + 0.5 * dice()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_too_long_for_the_server_are_shortened_and_differ() {
        assert_eq!(shortened("p:a".to_owned(), "p:"), "p:a");
        let long = |c: char| shortened(format!("p:{}", c.to_string().repeat(256)), "p:");
        assert!(long('a').len() < 100 && long('a').starts_with("p:%"));
        assert_ne!(long('a'), long('b'));
    }
}
