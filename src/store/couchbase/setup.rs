//! Makes missing collections in the bucket, and says why it can't be used.

use couchbase::bucket::Bucket;
use couchbase::cluster::Cluster;
use couchbase::error::{Error, ErrorKind};
use tokio::time::{Duration, timeout};

use super::CouchbaseSettings;
use super::documents::{Layout, PROJECTOR, Room};
use super::probe::Facts;
use super::sdk_log_sniffer::Obstacle;
use crate::store::{StoreError, StoreErrorKind};

/// How long one request to the management or the query service may take.
const REQUEST: Duration = Duration::from_secs(4);

/// Makes missing collections, and returns the layout of this bucket.
///
/// A history that has begun in one layout goes on in it.
pub(super) async fn collections(
    settings: &CouchbaseSettings,
    bucket: &Bucket,
    facts: Option<Facts>,
) -> Result<Layout, StoreError> {
    let facts = match facts {
        Some(facts) => facts,
        None => listed(settings, bucket).await,
    };
    let missing: Vec<_> = Room::ALL.into_iter().filter(|room| !facts.present.contains(room)).collect();
    let is_begun = facts.present.contains(&Room::Aggregates) && is_led(settings, bucket, Layout::Collections).await;
    if !is_begun && is_led(settings, bucket, Layout::Flat).await {
        return Ok(Layout::Flat);
    }
    if !facts.knows_collections {
        tracing::info!("Couchbase knows no collections here: all documents go to the default one");
        return Ok(Layout::Flat);
    }
    if missing.is_empty() {
        return Ok(Layout::Collections);
    }
    let names = missing.iter().map(|room| room.name()).collect::<Vec<_>>().join(", ");
    let scope = &settings.scope;
    match make(settings, bucket, &missing).await {
        Ok(()) => {
            tracing::info!(scope, "made the collections {names} in Couchbase");
            Ok(Layout::Collections)
        }
        Err(e) if is_begun => Err(StoreError::new(
            StoreErrorKind::Unavailable,
            format!("the collections {names} are missing in scope {scope} and can't be made; make them"),
        )
        .caused_by(e)),
        Err(e) => {
            tracing::warn!(
                error = %e,
                "the collections {names} are missing in scope {scope} and this user may not make them (or the \
                 management service is not there): all documents go to the default collection, for good. To have \
                 collections, make them before the first job is run"
            );
            Ok(Layout::Flat)
        }
    }
}

/// Asks the management service which collections exist.
async fn listed(settings: &CouchbaseSettings, bucket: &Bucket) -> Facts {
    let scopes = match timeout(REQUEST, bucket.collections().get_all_scopes(None)).await {
        Ok(Ok(scopes)) => scopes,
        Ok(Err(e)) => {
            tracing::warn!(error = %e, "the collections can't be listed: they are taken to be there");
            return Facts { knows_collections: true, present: Room::ALL.to_vec() };
        }
        Err(_) => return Facts { knows_collections: true, present: Room::ALL.to_vec() },
    };
    let scope = scopes.iter().find(|scope| scope.name() == settings.scope);
    let is_there = |room: &Room| scope.is_some_and(|s| s.collections().iter().any(|c| c.name() == room.name()));
    Facts { knows_collections: true, present: Room::ALL.into_iter().filter(is_there).collect() }
}

/// Whether a projector has ever led in this layout.
async fn is_led(settings: &CouchbaseSettings, bucket: &Bucket, layout: Layout) -> bool {
    let prefix = &settings.key_prefix;
    let (collection, key) = match layout {
        Layout::Collections => {
            (bucket.scope(&settings.scope).collection(Room::Aggregates.name()), format!("{prefix}{PROJECTOR}"))
        }
        Layout::Flat => (bucket.default_collection(), format!("{prefix}jobber:aggregates:{PROJECTOR}")),
    };
    // Bounded, because the default collection may have been dropped, which looks like slowness.
    timeout(REQUEST / 2, collection.get(key, None)).await.is_ok_and(|found| found.is_ok())
}

async fn make(settings: &CouchbaseSettings, bucket: &Bucket, missing: &[Room]) -> Result<(), Refusal> {
    let manager = bucket.collections();
    if settings.scope != "_default" {
        tolerate(timeout(REQUEST, manager.create_scope(&settings.scope, None)).await)?;
    }
    for room in missing {
        tolerate(timeout(REQUEST, manager.create_collection(&settings.scope, room.name(), None, None)).await)?;
    }
    Ok(())
}

/// The reason why something could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Refused(#[from] Error),
    #[error("no answer")]
    Silence(#[from] tokio::time::error::Elapsed),
}

/// Accepts that it exists already: another process that starts at the same time may have made it.
fn tolerate(made: Result<Result<(), Error>, tokio::time::error::Elapsed>) -> Result<(), Refusal> {
    match made? {
        Err(e) if !matches!(e.kind(), ErrorKind::CollectionExists | ErrorKind::ScopeExists) => Err(e.into()),
        _ => Ok(()),
    }
}

/// The error to return when the SDK can't connect.
pub(super) fn barred(settings: &CouchbaseSettings, obstacle: Obstacle) -> StoreError {
    let CouchbaseSettings { connection, username, .. } = settings;
    let message = match obstacle {
        Obstacle::Untrusted(_) => {
            format!("the certificate of Couchbase at {connection} is not trusted; set store.tls_ca")
        }
        Obstacle::Refused(_) => {
            format!("Couchbase at {connection} refuses user {username:?} with this password; set store.url")
        }
    };
    StoreError::new(StoreErrorKind::Rejected, message).caused_by(obstacle)
}

/// Asks the management service whether the bucket exists. When the SDK opens one that does not,
/// that looks like slowness.
///
/// # Errors
/// `Rejected` when the service says that it does not exist. Without an answer, or one for this
/// user, the question stays open.
pub(super) async fn check_bucket(settings: &CouchbaseSettings, cluster: &Cluster) -> Result<(), StoreError> {
    let CouchbaseSettings { bucket, username, .. } = settings;
    match timeout(REQUEST, cluster.buckets().get_bucket(bucket, None)).await {
        Ok(Err(e)) if *e.kind() == ErrorKind::BucketNotFound => {
            let hint = "make it, or give the user a role on it, or set store.url";
            let message = format!("Couchbase has no bucket {bucket:?}, or user {username:?} may not use it; {hint}");
            Err(StoreError::new(StoreErrorKind::Rejected, message).caused_by(e))
        }
        _ => Ok(()),
    }
}

/// The error to return when a collection can't be used.
pub(super) fn unusable(settings: &CouchbaseSettings, error: &Error) -> StoreError {
    let CouchbaseSettings { username, bucket, scope, .. } = settings;
    let (kind, message) = match error.kind() {
        ErrorKind::AuthenticationFailure => (
            StoreErrorKind::Rejected,
            format!(
                "user {username:?} may not read and write bucket {bucket:?}, scope {scope}; give it data_reader and data_writer"
            ),
        ),
        _ => (StoreErrorKind::Unavailable, format!("bucket {bucket:?} can't be used")),
    };
    StoreError::new(kind, message).caused_by(error.clone())
}
