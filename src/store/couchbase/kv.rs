//! Reads, writes and changes single documents. Every operation has an end and is tried again while
//! that may help. It tells whether its wish was carried out, even when an answer got lost on the way.

use std::sync::Arc;
use std::time::Duration;

use couchbase::durability_level::DurabilityLevel;
use couchbase::error::{Error, ErrorKind};
use couchbase::mutation_state::MutationToken;
use couchbase::options::kv_options::{InsertOptions, MutateInOptions, RemoveOptions, ReplaceOptions};
use couchbase::results::kv_results::MutationResult;
use couchbase::subdoc::lookup_in_specs::LookupInSpec;
use couchbase::subdoc::mutate_in_specs::MutateInSpec;
use couchbase::transcoding::{DataType, encode_common_flags};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::documents::Room;
use super::durability::for_sdk;
use super::session::{Connector, Session};
use crate::metrics::Operation;
use crate::reconnect::ReconnectBackoff;
use crate::store::{StoreError, StoreErrorKind};

/// How long one try may take.
const TRY: Duration = Duration::from_millis(2500);
/// How long to go on trying.
const PATIENCE: Duration = Duration::from_secs(8);
/// How many operations run at the same time for one caller.
const AT_ONCE: usize = 64;

/// One try of an operation on one document.
static KEY_VALUE: Operation = Operation::new("couchbase", "key_value");

/// The durability that a write waits for.
type Level = Option<DurabilityLevel>;

/// A document with its version.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) body: Vec<u8>,
    pub(super) cas: u64,
}

/// The result of a write under a version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The document is written, and has this version.
    Done(u64),
    /// The document is not the version that the write was meant for.
    Moved,
}

/// The server's answer to a request, after all tries.
enum KvOutcome<T> {
    Yes(T),
    /// There is no such document, or no such path in it.
    Missing,
    /// The document has another version, or exists although it should not.
    Moved,
}

/// The meaning of an error.
enum KvErrorClass {
    Missing,
    Moved,
    /// The operation was not done; another try may do it.
    Again,
    /// The operation may have been done.
    Unknown,
    FatalConfig(StoreErrorKind, &'static str),
}

fn judge(error: &Error) -> KvErrorClass {
    match error.kind() {
        ErrorKind::DocumentNotFound | ErrorKind::PathNotFound => KvErrorClass::Missing,
        ErrorKind::CasMismatch | ErrorKind::DocumentExists => KvErrorClass::Moved,
        ErrorKind::TemporaryFailure
        | ErrorKind::DocumentLocked
        | ErrorKind::RateLimitedFailure
        | ErrorKind::DurabilityWriteInProgress
        | ErrorKind::DurableWriteRecommitInProgress => KvErrorClass::Again,
        ErrorKind::QuotaLimitedFailure => {
            KvErrorClass::FatalConfig(StoreErrorKind::Full, "the bucket's quota is used up")
        }
        ErrorKind::ValueTooLarge => KvErrorClass::FatalConfig(StoreErrorKind::Full, "a document is larger than 20 MiB"),
        ErrorKind::AuthenticationFailure => KvErrorClass::FatalConfig(
            StoreErrorKind::Unavailable,
            "the user may not do this; it needs data_reader and data_writer",
        ),
        ErrorKind::UnsupportedOperation => KvErrorClass::FatalConfig(
            StoreErrorKind::Unavailable,
            "the server does not know an operation that Jobber needs",
        ),
        ErrorKind::InvalidArgument(_)
        | ErrorKind::PathMismatch
        | ErrorKind::PathInvalid
        | ErrorKind::DocumentNotJSON => {
            KvErrorClass::FatalConfig(StoreErrorKind::Corrupt, "a document is not one of Jobber's")
        }
        _ => KvErrorClass::Unknown,
    }
}

impl Connector {
    /// Asks until there is an answer. Returns true with it when an earlier try may have been
    /// carried out although its answer was lost.
    async fn ask<T, F>(&self, operation: impl Fn(Arc<Session>, Level) -> F) -> Result<(KvOutcome<T>, bool), StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (began, mut waits) =
            (Instant::now(), ReconnectBackoff::new(Duration::from_millis(5), Duration::from_secs(1)));
        let mut doubtful = false;
        loop {
            let session = self.session().await?;
            let level = self.durability.now();
            // On the heap: the SDK's futures are large, and deep.
            let tried = KEY_VALUE.time(timeout(TRY, Box::pin(operation(session.clone(), for_sdk(level))))).await;
            let cause: Box<dyn std::error::Error + Send + Sync> = match tried {
                Ok(Ok(value)) => {
                    session.note_answer();
                    return Ok((KvOutcome::Yes(value), doubtful));
                }
                Ok(Err(error)) if self.durability.is_too_much(level, &error) => Box::new(error),
                Ok(Err(error)) => match judge(&error) {
                    KvErrorClass::Missing => return Ok((KvOutcome::Missing, doubtful)),
                    KvErrorClass::Moved => return Ok((KvOutcome::Moved, doubtful)),
                    KvErrorClass::FatalConfig(kind, why) => {
                        return Err(StoreError::new(kind, format!("Couchbase: {why}")).caused_by(error));
                    }
                    KvErrorClass::Again => Box::new(error),
                    KvErrorClass::Unknown => {
                        doubtful = true;
                        Box::new(error)
                    }
                },
                Err(elapsed) => {
                    session.note_silence();
                    doubtful = true;
                    Box::new(elapsed)
                }
            };
            if began.elapsed() > PATIENCE {
                return Err(StoreError::new(StoreErrorKind::Unavailable, "Couchbase does not answer").caused_by(cause));
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    /// Reads a document. `None` when it does not exist.
    pub(super) async fn get(&self, room: Room, key: &str) -> Result<Option<Found>, StoreError> {
        let get = |session: Arc<Session>, _| async move {
            let found = session.collection(room).get(session.key(room, key), None).await?;
            Ok(Found { body: found.content_as_raw().0.to_vec(), cas: found.cas() })
        };
        match self.ask(get).await?.0 {
            KvOutcome::Yes(found) => Ok(Some(found)),
            KvOutcome::Missing | KvOutcome::Moved => Ok(None),
        }
    }

    /// Reads one part of a document. `None` when the document or the part does not exist.
    pub(super) async fn part(&self, room: Room, key: &str, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let specs = [LookupInSpec::get(path, None)];
        let specs = &specs;
        let look = |session: Arc<Session>, _| async move {
            session.collection(room).lookup_in(session.key(room, key), specs, None).await?.content_as_raw(0)
        };
        match self.ask(look).await?.0 {
            KvOutcome::Yes(part) => Ok(Some(part.to_vec())),
            KvOutcome::Missing | KvOutcome::Moved => Ok(None),
        }
    }

    /// Writes a whole document in place of this version, or a new one without a version.
    pub(super) async fn write(
        &self,
        room: Room,
        key: &str,
        body: &[u8],
        version: Option<u64>,
    ) -> Result<Written, StoreError> {
        self.write_until(room, key, body, version, None).await
    }

    /// Like [`Connector::write`], but the server removes the document after `lifetime`. Without a
    /// lifetime the document stays for ever, even if its former version was to be removed.
    pub(super) async fn write_until(
        &self,
        room: Room,
        key: &str,
        body: &[u8],
        version: Option<u64>,
        lifetime: Option<Duration>,
    ) -> Result<Written, StoreError> {
        let flags = encode_common_flags(DataType::Json);
        let write = |session: Arc<Session>, level: Level| async move {
            let (collection, key) = (session.collection(room), session.key(room, key));
            let written = match version {
                None => {
                    let mut options = InsertOptions::new();
                    (options.expiry, options.durability_level) = (lifetime, level);
                    collection.insert_raw(key, body, flags, options).await?
                }
                Some(cas) => {
                    let mut options = ReplaceOptions::new().cas(cas);
                    (options.expiry, options.durability_level) = (lifetime, level);
                    collection.replace_raw(key, body, flags, options).await?
                }
            };
            Ok(self.noted(&written))
        };
        match self.ask(write).await? {
            (KvOutcome::Yes(cas), _) => Ok(Written::Done(cas)),
            (_, false) => Ok(Written::Moved),
            // An earlier try may have moved it.
            (_, true) => match self.written_by(room, key, |found| found == body).await? {
                // Once more: the answer that got lost said in which vbucket it was done.
                Written::Done(cas) => Box::pin(self.write_until(room, key, body, Some(cas), lifetime)).await,
                Written::Moved => Ok(Written::Moved),
            },
        }
    }

    /// Removes the document of this version. Another version stays.
    pub(super) async fn remove(&self, room: Room, key: &str, version: u64) -> Result<(), StoreError> {
        let remove = |session: Arc<Session>, level: Level| async move {
            let mut options = RemoveOptions::new().cas(version);
            options.durability_level = level;
            let removed = session.collection(room).remove(session.key(room, key), options).await?;
            self.noted(&removed);
            Ok(())
        };
        self.ask(remove).await.map(drop)
    }

    /// Has the server keep a document for so long from now; for ever without a time. One that is not there is left
    /// alone.
    pub(super) async fn set_lifetime(
        &self,
        room: Room,
        key: &str,
        lifetime: Option<Duration>,
    ) -> Result<(), StoreError> {
        let touch = |session: Arc<Session>, _| async move {
            let (collection, key) = (session.collection(room), session.key(room, key));
            collection.touch(key, lifetime.unwrap_or_default(), None).await.map(drop)
        };
        self.ask(touch).await.map(drop)
    }

    /// Changes some parts of the document of this version, waiting for no durability; `is_it` tells the changed
    /// document from others.
    pub(super) async fn change(
        &self,
        room: Room,
        key: &str,
        changes: &[(String, Value)],
        version: u64,
        lifetime: Option<Duration>,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<Written, StoreError> {
        let specs = changes.iter().map(|(path, value)| {
            let value = serde_json::to_vec(value).expect("a JSON value has only text keys");
            MutateInSpec::upsert_raw(path.clone(), value, None)
        });
        let specs: Vec<_> = specs.collect();
        let specs = &specs;
        let change = |session: Arc<Session>, _| async move {
            let mut options = MutateInOptions::new().cas(version);
            options.expiry = lifetime;
            let changed = session.collection(room).mutate_in(session.key(room, key), specs, options).await?;
            self.note_vbucket(changed.mutation_token());
            Ok(changed.cas())
        };
        match self.ask(change).await? {
            (KvOutcome::Yes(cas), _) => Ok(Written::Done(cas)),
            (_, false) => Ok(Written::Moved),
            (_, true) => match self.written_by(room, key, &is_it).await? {
                Written::Done(cas) => Box::pin(self.change(room, key, changes, cas, lifetime, is_it)).await,
                Written::Moved => Ok(Written::Moved),
            },
        }
    }

    /// The version that a write made. Also notes the vbucket's UUID.
    fn noted(&self, written: &MutationResult) -> u64 {
        self.note_vbucket(written.mutation_token());
        written.cas()
    }

    fn note_vbucket(&self, token: Option<&MutationToken>) {
        if let Some(token) = token {
            self.witness.wrote(token.partition_id(), token.partition_uuid());
        }
    }

    /// Checks whether the document on the server is the one that this write meant.
    async fn written_by(&self, room: Room, key: &str, is_it: impl Fn(&[u8]) -> bool) -> Result<Written, StoreError> {
        let found = self.get(room, key).await?.filter(|found| is_it(&found.body));
        Ok(found.map_or(Written::Moved, |found| Written::Done(found.cas)))
    }
}

/// Runs `one` for each item, many at a time. The results have the order of the items.
pub(super) fn each<I, T, F>(
    items: impl IntoIterator<Item = I>,
    one: impl FnMut(I) -> F,
) -> impl Future<Output = Result<Vec<T>, StoreError>>
where
    F: Future<Output = Result<T, StoreError>>,
{
    // Made before the first await, so that the future does not hold the closure.
    let futures: Vec<F> = items.into_iter().map(one).collect();
    async move { futures_util::stream::iter(futures).buffered(AT_ONCE).try_collect().await }
}
