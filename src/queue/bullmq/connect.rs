//! The connection: made in the background, remade by itself, and never waited for longer than the caller's patience.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bullmq::options::{RedisConnectionOptions, TlsCerts};
use bullmq::{FlowProducer, QueueOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{QueueError, QueueErrorKind};
use super::BullSettings;
use crate::reconnect::ReconnectBackoff;

/// The waits between two tries to connect: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// One try to connect; the crate tries on within it.
const ONE_TRY: Duration = Duration::from_secs(3);

/// Where the queue is: enough to connect once more.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) options: RedisConnectionOptions,
    pub(super) queue: String,
    pub(super) prefix: String,
    /// The nodes of a cluster that are known from the start, each as a server of its own.
    nodes: Vec<RedisConnectionOptions>,
}

/// The two clients of BullMQ's crate, over one connection.
pub(super) struct BullClient {
    pub(super) queue: bullmq::Queue,
    /// Adds many jobs in one transaction.
    pub(super) producer: FlowProducer,
}

/// The connection, or the wait for it.
pub(super) struct Link {
    target: Target,
    redis: watch::Receiver<Option<Arc<BullClient>>>,
    patience: Duration,
}

impl Target {
    /// Checks what can be checked without a server.
    pub(super) fn check(settings: &BullSettings) -> Result<Self, QueueError> {
        let rejected = |message: String| QueueError::new(QueueErrorKind::Rejected, message);
        for (what, text) in [("queue name", &settings.queue), ("queue prefix", &settings.prefix)] {
            if text.is_empty() || text.contains(':') {
                return Err(rejected(format!("the {what} {text:?} must not be empty and not contain ':'")));
            }
        }
        let tls = settings.url.starts_with("rediss");
        let nodes = nodes(&settings.url);
        if !nodes.is_empty() && ![&settings.prefix, &settings.queue].iter().any(|name| has_tag(name)) {
            return Err(rejected(format!(
                "on a cluster all keys of a queue must lie on one node: set queue.prefix to {{{}}}, with the braces",
                settings.prefix
            )));
        }
        let mut options = RedisConnectionOptions::new().url(settings.url.clone()).tls(tls).cluster_nodes(&nodes);
        if let Some(file) = &settings.tls_ca {
            let certificate = fs_err::read(file).map_err(|e| {
                rejected("the certificate of the Redis server's authority can't be read".to_owned()).caused_by(e)
            })?;
            options = options.tls_certs(TlsCerts { root_cert: Some(certificate), client_cert: None, client_key: None });
        }
        // The message of the error is not passed on: it may hold the password.
        redis::Client::open(nodes.first().unwrap_or(&settings.url).as_str()).map_err(|_| {
            rejected("the queue's URL can't be read; it is redis://[user:password@]host:port[/database]".to_owned())
        })?;
        let alone = |node: String| RedisConnectionOptions { cluster_nodes: Vec::new(), url: node, ..options.clone() };
        let nodes = nodes.into_iter().map(alone).collect();
        Ok(Self { options, queue: settings.queue.clone(), prefix: settings.prefix.clone(), nodes })
    }

    /// Makes both clients, by one connection.
    pub(super) async fn connect(&self) -> Result<BullClient, bullmq::Error> {
        let options = QueueOptions::new().connection(self.options.clone()).prefix(self.prefix.clone());
        let queue = bullmq::Queue::with_options(&self.queue, options).await?;
        let producer = FlowProducer::with_connection(queue.connection().clone(), Some(self.prefix.clone()))?;
        Ok(BullClient { queue, producer })
    }

    /// A client for a connection that listens. In a cluster every node passes on what is published
    /// at any. With a `turn` that counts on, the next call passes over a node that is away.
    pub(super) async fn listener(&self, redis: &BullClient, turn: usize) -> Result<redis::Client, BullError> {
        if let Some(client) = redis.queue.connection().try_client() {
            return Ok(client.clone());
        }
        let node = &self.nodes[turn % self.nodes.len()];
        Ok(bullmq::redis_connection::RedisConnection::new_managed_only(node).await?.client().clone())
    }

    /// Tries to connect until a server answers.
    pub(super) async fn connect_at_last(&self) -> BullClient {
        let mut waits = ReconnectBackoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut said = false;
        loop {
            let error = match tokio::time::timeout(ONE_TRY, self.connect()).await {
                Ok(Ok(redis)) => return redis,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if !said {
                tracing::warn!(error, "the queue's Redis can't be reached; trying on");
                said = true;
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
    }
}

/// Whether a part of a key binds all keys with it to one node of a cluster.
fn has_tag(text: &str) -> bool {
    text.split_once('{').and_then(|(_, rest)| rest.split_once('}')).is_some_and(|(tag, _)| !tag.is_empty())
}

/// The URLs of the nodes that the URL of a cluster names; none for that of a single server.
fn nodes(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return Vec::new() };
    let Some(scheme) = scheme.strip_suffix("-cluster") else { return Vec::new() };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = place.trim_end_matches('/');
    let who = place.rsplit_once('@').map_or(String::new(), |(who, _)| format!("{who}@"));
    let others = query.split('&').filter_map(|part| part.strip_prefix("node="));
    let others = others.map(|node| format!("{scheme}://{who}{node}"));
    std::iter::once(format!("{scheme}://{place}")).chain(others).collect()
}

impl Link {
    /// Starts to connect in the background, and returns at once.
    pub(super) fn open(target: Target, patience: Duration, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let (connected, redis) = watch::channel(None);
        let connecting = target.clone();
        tasks.spawn(async move {
            tokio::select! {
                redis = connecting.connect_at_last() => {
                    connected.send_replace(Some(Arc::new(redis)));
                    // A receiver of a closed channel still reads the last value.
                }
                () = stop.cancelled() => {}
            }
        });
        Self { target, redis, patience }
    }

    /// The server and the queue that the link leads to.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The connection, once there is one.
    pub(super) async fn get(&self) -> Result<Arc<BullClient>, QueueError> {
        if let Some(redis) = &*self.redis.borrow() {
            return Ok(redis.clone());
        }
        let mut watching = self.redis.clone();
        let connected = tokio::time::timeout(self.patience, watching.wait_for(Option::is_some)).await;
        match connected {
            Ok(Ok(redis)) => redis.clone().ok_or_else(away),
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }

    /// The connection, however long it takes; `None` when the queue was closed before.
    pub(super) async fn wait(&self) -> Option<Arc<BullClient>> {
        let mut watching = self.redis.clone();
        watching.wait_for(Option::is_some).await.ok().and_then(|redis| redis.clone())
    }

    /// Waits for an answer for the usual patience.
    pub(super) async fn call<T, E: Into<BullError>>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, QueueError> {
        self.call_within(self.patience, answer).await
    }

    /// Waits with more patience, for an answer that takes long to compute.
    pub(super) async fn call_longer<T, E: Into<BullError>>(
        &self,
        more: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, QueueError> {
        self.call_within(self.patience.saturating_add(more), answer).await
    }

    async fn call_within<T, E: Into<BullError>>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, QueueError> {
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(e.into().into()),
            Err(_) => Err(away()),
        }
    }
}

fn away() -> QueueError {
    let message = "the queue's Redis does not answer; check that it runs and that queue.url names it";
    QueueError::new(QueueErrorKind::Unavailable, message)
}

/// An error of either of the two crates.
#[derive(Debug, thiserror::Error)]
pub(super) enum BullError {
    #[error(transparent)]
    Bull(#[from] bullmq::Error),
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

impl From<BullError> for QueueError {
    fn from(trouble: BullError) -> Self {
        let redis = match &trouble {
            BullError::Redis(e) | BullError::Bull(bullmq::Error::Redis(e)) => Some(e),
            BullError::Bull(_) => None,
        };
        let (kind, message) = match redis {
            Some(e) if e.code() == Some("OOM") => {
                (QueueErrorKind::Full, "the queue's Redis has no memory left; raise its maxmemory".to_owned())
            }
            Some(e) => (QueueErrorKind::Unavailable, format!("the queue's Redis can't be used: {e}")),
            None => (QueueErrorKind::Corrupt, format!("the queue in Redis is not as BullMQ leaves it: {trouble}")),
        };
        QueueError::new(kind, message).caused_by(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_cluster_names_its_nodes() {
        let named = nodes("rediss-cluster://ann:p%40ss@a:1?node=b:2&node=c:3");
        assert_eq!(named, ["rediss://ann:p%40ss@a:1", "rediss://ann:p%40ss@b:2", "rediss://ann:p%40ss@c:3"]);
        assert_eq!(nodes("redis-cluster://a:1/"), ["redis://a:1"]);
        assert_eq!(nodes("redis://a:1/3?node=b:2"), Vec::<String>::new());
    }

    #[test]
    fn a_tag_has_something_in_it() {
        assert!(has_tag("{bull}") && has_tag("a{b}c"));
        assert!(!has_tag("bull") && !has_tag("{}") && !has_tag("{bull"));
    }
}
