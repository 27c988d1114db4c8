//! The Couchbase double, held against the official SDK and, where the SDK hides it, against the protocol's bytes.

mod alone;
mod bytes;
mod documents;
mod faults;
mod management;
mod query;
mod search;
mod subdocument;

use std::sync::Arc;
use std::time::Duration;

use couchbase::authenticator::PasswordAuthenticator;
use couchbase::cluster::Cluster;
use couchbase::collection::Collection;
use couchbase::error::ErrorKind;
use couchbase::options::cluster_options::ClusterOptions;
use couchbase::retry::{RetryAction, RetryReason, RetryRequest, RetryStrategy};

use crate::harness::couchbase_double::CouchbaseDouble;
use crate::harness::{PATIENCE, eventually};

/// Shows every failure to the test instead of trying again.
#[derive(Debug)]
struct Never;

impl RetryStrategy for Never {
    fn retry_after(&self, _: &RetryRequest, _: &RetryReason) -> Option<RetryAction> {
        None
    }
}

/// What the SDK is given to connect.
fn options(double: &CouchbaseDouble) -> ClusterOptions {
    let who = PasswordAuthenticator::new(&double.options().user, &double.options().password);
    ClusterOptions::new(who.into())
}

/// The SDK, connected; it tries again as it does by default.
async fn connect(double: &CouchbaseDouble) -> Cluster {
    within(Cluster::connect(double.connection_string(), options(double))).await.unwrap()
}

/// Something of a cluster, and the cluster: once that is dropped, the SDK does nothing more.
struct Held<T> {
    _cluster: Cluster,
    held: T,
}

impl<T> std::ops::Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

/// The default collection, through an SDK that never tries again.
async fn collection(double: &CouchbaseDouble) -> Held<Collection> {
    let options = options(double).default_retry_strategy(Arc::new(Never));
    let cluster = within(Cluster::connect(double.connection_string(), options)).await.unwrap();
    let bucket = cluster.bucket(&double.options().bucket);
    within(bucket.wait_until_ready(None)).await.unwrap();
    Held { held: bucket.default_collection(), _cluster: cluster }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it answers")
}

/// A future that must not come to an end.
async fn never<T>(future: impl Future<Output = T>) {
    assert!(tokio::time::timeout(Duration::from_millis(300), future).await.is_err(), "it answered");
}

/// A future that must not come to an end, before `condition` holds nor shortly after.
async fn unanswered<T>(what: &str, future: impl Future<Output = T>, mut condition: impl FnMut() -> bool) {
    let mut future = std::pin::pin!(future);
    tokio::select! {
        _ = &mut future => panic!("it answered before: {what}"),
        () = eventually(what, async || condition().then_some(())) => {}
    }
    never(future).await;
}

fn kind<T: std::fmt::Debug>(result: Result<T, couchbase::error::Error>) -> ErrorKind {
    result.expect_err("it fails").kind().clone()
}

/// Whether a document is there. The SDK's own question fails where it could say no.
async fn exists(documents: &Collection, key: &str) -> bool {
    match within(documents.exists(key, None)).await {
        Ok(answer) => answer.exists(),
        Err(error) if *error.kind() == ErrorKind::DocumentNotFound => false,
        Err(error) => panic!("{error}"),
    }
}
