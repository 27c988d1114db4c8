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
use super::keys::Keys;
use crate::domain::QueueName;
use crate::metrics::Operation;
use crate::redis::outage::{self, RedisOutage};
use crate::redis::{
    Authorities, NO_SENTINEL, RedisError, RedisErrorKind, RedisHost, RedisSettings, RedisTopology, RedisUrl, diagnose,
};

/// A call of the queue, which may be several commands.
static CALL: Operation = Operation::new("redis", "queue");
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
    outage: Arc<RedisOutage>,
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
        let (prefix, queue) = (settings.prefix.clone(), settings.queue().to_string());
        if prefix.is_empty() || prefix.contains(':') {
            return Err(rejected(format!("the queue prefix {prefix:?} must not be empty and not contain ':'")));
        }
        let RedisSettings { url, .. } = &settings.redis;
        settings.check_queue(settings.queue())?;
        if url.is_sentinel() {
            return Err(rejected(format!("the queue's URL must be {NO_SENTINEL}")));
        }
        let authorities = Authorities::of(&settings.redis).map_err(|error| rejected(error.to_string()))?;
        let (options, nodes) = options(url, authorities.as_ref());
        let outage = Arc::new(RedisOutage::new(url));
        Ok(Self { options, queue, prefix, nodes, outage })
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
        let mut waits = outage::waits();
        loop {
            let error = match tokio::time::timeout(ONE_TRY, self.connect()).await {
                Ok(Ok(redis)) => {
                    self.outage.log_back();
                    return redis;
                }
                Ok(Err(error)) => self.outage.failed(&BullError::Bull(error).text(), RedisErrorKind::Unavailable),
                Err(_) => self.outage.no_answer(),
            };
            self.outage.log_away(&error);
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    /// The error where Redis did not answer within the caller's patience.
    fn away(&self) -> QueueError {
        self.outage.no_answer().into()
    }
}

impl BullSettings {
    /// Whether there can be a queue of this name: on a cluster, BullMQ's scripts fail unless all keys of a queue lie on
    /// one node.
    ///
    /// # Errors
    /// `UnfitQueue` otherwise, with what to change.
    pub fn check_queue(&self, name: &QueueName) -> Result<(), QueueError> {
        let is_cluster = self.redis.url.topology == RedisTopology::Cluster;
        if is_cluster && !has_tag(&Keys::new(&self.prefix, name.as_str()).bull("")) {
            return Err(QueueError::untagged(name.as_str(), &self.prefix));
        }
        Ok(())
    }
}

/// Whether the beginning of keys binds all that begin so to one node of a cluster: by what is between its first brace and
/// the next closing one.
fn has_tag(text: &str) -> bool {
    text.split_once('{').and_then(|(_, rest)| rest.split_once('}')).is_some_and(|(tag, _)| !tag.is_empty())
}

/// The set-up of BullMQ's crate for the servers of a URL, and for each node of a cluster as a server of its own.
fn options(url: &RedisUrl, authorities: Option<&Authorities>) -> (RedisConnectionOptions, Vec<RedisConnectionOptions>) {
    let certificates = authorities.map(Authorities::pem);
    let server = |host: &RedisHost| {
        let mut options = RedisConnectionOptions::new().host(&host.name).port(host.port).tls(url.uses_tls);
        options.username.clone_from(&url.user);
        options.password = url.password.as_ref().map(|password| password.reveal().to_owned());
        options.db = Some(url.database).filter(|number| *number > 0);
        options.tls_certs =
            certificates.clone().map(|pem| TlsCerts { root_cert: Some(pem), client_cert: None, client_key: None });
        options
    };
    let servers: Vec<_> = url.hosts.iter().map(server).collect();
    let first = servers[0].clone();
    if url.topology != RedisTopology::Cluster {
        return (first, Vec::new());
    }
    let addresses: Vec<_> = servers.iter().map(RedisConnectionOptions::effective_url).collect();
    (first.cluster_nodes(addresses), servers)
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
            Ok(Ok(redis)) => redis.clone().ok_or_else(|| self.target.away()),
            Ok(Err(_)) | Err(_) => Err(self.target.away()),
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
        match CALL.time(tokio::time::timeout(patience, answer)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(e.into().into()),
            Err(_) => Err(self.target.away()),
        }
    }
}

/// An error of either of the two crates.
#[derive(Debug, thiserror::Error)]
pub(super) enum BullError {
    #[error(transparent)]
    Bull(#[from] bullmq::Error),
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

impl BullError {
    fn of_redis(&self) -> Option<&redis::RedisError> {
        match self {
            Self::Redis(error) | Self::Bull(bullmq::Error::Redis(error)) => Some(error),
            Self::Bull(_) => None,
        }
    }

    /// The server's own words, if it answered; else the crate's.
    fn text(&self) -> String {
        let answer = self.of_redis().and_then(|error| Some(format!("{} {}", error.code()?, error.detail()?)));
        answer.unwrap_or_else(|| self.to_string())
    }
}

impl From<BullError> for QueueError {
    fn from(trouble: BullError) -> Self {
        let (kind, message) = if trouble.of_redis().is_some() {
            let (kind, text) = diagnose::meaning(&trouble.text(), RedisErrorKind::Unavailable);
            (kind.into(), format!("the queue's Redis can't be used: {text}"))
        } else {
            (QueueErrorKind::Corrupt, format!("the queue in Redis is not as BullMQ leaves it: {trouble}"))
        };
        QueueError::new(kind, message).caused_by(trouble)
    }
}

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        Self::new(error.kind.into(), error.to_string())
    }
}

impl From<RedisErrorKind> for QueueErrorKind {
    /// What a person must change is `Unavailable` too: the caller can only try again, and it works once that is done.
    fn from(kind: RedisErrorKind) -> Self {
        match kind {
            RedisErrorKind::Unavailable | RedisErrorKind::Refused => Self::Unavailable,
            RedisErrorKind::Full => Self::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::tests_of_urls::TAKEN;

    #[test]
    fn the_client_is_set_up_as_the_url_says() {
        for (text, place, user, password, uses_tls) in TAKEN {
            let url: RedisUrl = text.parse().unwrap();
            let (options, nodes) = options(&url, None);
            let servers = if nodes.is_empty() { vec![options.effective_url()] } else { options.cluster_nodes.clone() };
            let opened: Vec<_> = servers.into_iter().map(|url| redis::Client::open(url).unwrap()).collect();
            let mut places = Vec::new();
            for client in &opened {
                let info = client.get_connection_info();
                assert_eq!((info.redis_settings().username(), info.redis_settings().password()), (*user, *password));
                assert_eq!(matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }), *uses_tls, "{text}");
                places.push(match info.addr() {
                    redis::ConnectionAddr::Tcp(name, port) | redis::ConnectionAddr::TcpTls { host: name, port, .. } => {
                        RedisHost { name: name.clone(), port: *port }.to_string()
                    }
                    other => panic!("{text}: {other}"),
                });
            }
            let database = opened[0].get_connection_info().redis_settings().db();
            let database = if database > 0 { format!("/{database}") } else { String::new() };
            assert_eq!(format!("{}{database}", places.join(",")), *place, "{text}");
            assert_eq!(options.is_cluster(), text.contains("-cluster"), "{text}");
        }
    }

    #[test]
    fn what_a_server_answers_is_read_as_the_other_client_reads_it() {
        for (code, detail, kind, hint) in [
            ("OOM", "command not allowed when used memory > 'maxmemory'.", QueueErrorKind::Full, "raise its maxmemory"),
            ("MISCONF", "Redis is configured to save RDB snapshots", QueueErrorKind::Full, "make room there"),
            ("NOAUTH", "Authentication required.", QueueErrorKind::Unavailable, "it wants a password"),
            ("ERR", "unknown command 'X', with args beginning with: 'hunter2'", QueueErrorKind::Unavailable, "'X'"),
        ] {
            let answer = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            let error = QueueError::from(BullError::Redis(answer));
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(hint) && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_tag_has_something_in_it() {
        assert!(has_tag("{bull}") && has_tag("a{b}c"));
        assert!(!has_tag("bull") && !has_tag("{}") && !has_tag("{bull"));
        assert!(!has_tag("{}:{main}:"), "the first pair of braces counts");
    }

    #[test]
    fn on_a_cluster_a_queue_has_a_tag_in_its_name_or_its_prefix() {
        let fits = |url: &str, prefix: &str, name: &str| {
            let redis = RedisSettings { url: url.parse().unwrap(), ca_file: None };
            let settings = BullSettings { redis, prefix: prefix.to_owned(), ..BullSettings::default() };
            settings.check_queue(&QueueName::parse(name).unwrap())
        };
        let cluster = "redis-cluster://a";
        for (prefix, name) in [("bull", "{encode}"), ("{bull}", "encode"), ("{bull}", "{encode}"), ("bull", "a{b}c")] {
            assert!(fits(cluster, prefix, name).is_ok(), "{prefix}:{name}");
        }
        for (prefix, name) in [("bull", "encode"), ("bull", "{}"), ("bull", "{encode"), ("{}", "{encode}")] {
            let error = fits(cluster, prefix, name).unwrap_err();
            assert_eq!(error.kind, QueueErrorKind::UnfitQueue, "{prefix}:{name}");
            assert!(fits("redis://a", prefix, name).is_ok());
        }
        let error = fits(cluster, "bull", "encode").unwrap_err().to_string();
        assert!(error.contains("name it {encode}") && error.contains("queue.prefix to {bull}"), "{error}");
    }
}
