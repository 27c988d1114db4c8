//! The client of a Redis or Valkey server that a URL names: one server, Sentinel or Cluster, plain or over TLS.
//!
//! The queue of BullMQ has a client of its own, the one of BullMQ's crate. Both read the same URL
//! ([`RedisUrl`]), trust the same authorities ([`Authorities`]), and take an outage alike ([`outage`]).
//!
//! A [`Redis`] is one connection that looks after itself. It reconnects, after growing and jittered
//! waits, for as long as a clone of it lives. No command waits longer than [`COMMAND_TIMEOUT`] for
//! a server that is away. No error and no log line holds the password.

pub(crate) mod diagnose;
mod inspect;
pub(crate) mod outage;
mod tls;
mod url;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{
    ClusterDiscoveryPolicy, Config, ConnectionConfig, Options, PerformanceConfig, ReconnectPolicy, Server,
    ServerConfig, UnresponsiveConfig,
};
use fred::types::{Builder, ClusterHash, ConnectHandle, CustomCommand};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::domain::Secret;
pub use inspect::ServerInfo;
use outage::{FIRST_PAUSE, LONGEST_PAUSE, RedisOutage};
pub(crate) use tls::Authorities;
#[cfg(test)]
pub(crate) use url::tests as tests_of_urls;
pub use url::{NO_SENTINEL, RedisUrl, RedisUrlError};
pub(crate) use url::{RedisHost, RedisTopology};

/// How long a connection may take to come up, and the same again for its greeting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a command may take. It may wait as long again for a lost connection before that.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);
/// If a connection owes an answer for longer than this, the client gives it up for a new one.
const UNRESPONSIVE: Duration = Duration::from_secs(3);

/// Where a server is and how to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// The servers, the user and the password, and whether it is TLS.
    pub url: RedisUrl,
    /// Certificates of the authorities to trust, in PEM, instead of this system's. For TLS only.
    pub ca_file: Option<PathBuf>,
}

impl Default for RedisSettings {
    /// A server on this machine, on the usual port.
    fn default() -> Self {
        Self { url: RedisUrl::local(), ca_file: None }
    }
}

/// The kinds of error between which a caller decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisErrorKind {
    /// The server can't be reached or does not answer; another try may work.
    Unavailable,
    /// The settings don't fit the server: only a person can change that.
    Refused,
    /// The server has no memory or disk left for what was to be written.
    Full,
}

/// Why a server could not be used. Never holds a password.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RedisError {
    /// The kind, by which a caller decides what to do.
    pub kind: RedisErrorKind,
    message: String,
}

/// A connection that looks after itself. Clones share it, and the last one closes it.
#[derive(Clone)]
pub struct Redis {
    /// The client in use. [`keep_connected`] replaces it when its task has ended.
    client: watch::Receiver<Client>,
    setup: Arc<Setup>,
    _open: Arc<DropGuard>,
}

struct Setup {
    config: Config,
    /// The servers that the URL names.
    hosts: Vec<RedisHost>,
    tasks: TaskTracker,
    outage: RedisOutage,
}

impl Redis {
    /// Connects. What only a person can put right (user, password, database, TLS, the wrong kind of
    /// server) is an error at once. A server that is away is no error: `connect` returns within
    /// some two seconds and logs a warning, and a task on `tasks` goes on trying. So a process can
    /// start, say that it is not ready ([`Redis::ping`]), and become ready.
    ///
    /// # Errors
    /// `Refused`, with the fix.
    pub async fn connect(settings: &RedisSettings, tasks: &TaskTracker) -> Result<Self, RedisError> {
        let config = config(&settings.url, Authorities::of(settings)?.as_ref());
        let (hosts, outage) = (settings.url.hosts.clone(), RedisOutage::new(&settings.url));
        let setup = Arc::new(Setup { config, hosts, tasks: tasks.clone(), outage });
        let client = setup.client()?;
        let mut task = client.connect();
        let connected = async {
            tokio::select! {
                connected = client.wait_for_connect() => connected,
                ended = &mut task => match ended {
                    Ok(Err(error)) => Err(error),
                    _ => client.wait_for_connect().await,
                },
            }
        };
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT * 2, connected).await {
            Ok(connected) => connected.map_err(|error| setup.failed(&error)),
            Err(_) => Err(setup.outage.no_answer()),
        };
        let running = match connected {
            Ok(()) => Some((client, task)),
            Err(error) => {
                task.abort();
                if error.kind == RedisErrorKind::Refused {
                    return Err(error);
                }
                if let Some(why) = diagnose::wrong_scheme(&setup.hosts, setup.config.uses_tls()).await {
                    return Err(setup.outage.error(RedisErrorKind::Refused, why));
                }
                setup.outage.log_away(&error);
                None
            }
        };
        let is_connected = running.is_some();
        let redis = Self::kept(setup, running)?;
        if is_connected {
            redis.check_kind().await?;
        }
        Ok(redis)
    }

    /// Another connection to the same server, for commands that block theirs. It comes up in the background.
    ///
    /// # Errors
    /// `Refused`, if the settings would not have let the first connection come up either.
    pub fn another(&self) -> Result<Self, RedisError> {
        Self::kept(self.setup.clone(), None)
    }

    fn kept(setup: Arc<Setup>, running: Option<(Client, ConnectHandle)>) -> Result<Self, RedisError> {
        let closed = CancellationToken::new();
        let (first, task) = match running {
            Some((client, task)) => (client, Some(task)),
            None => (setup.client()?, None),
        };
        let (in_use, client) = watch::channel(first);
        setup.tasks.spawn(keep_connected(in_use, setup.clone(), task, closed.clone()));
        Ok(Self { client, setup, _open: Arc::new(closed.drop_guard()) })
    }

    /// Returns the client once it is connected. The client sends a command once: a command that was under
    /// way when the connection broke gets an error, never a repeat. A caller must not use the client
    /// without a connection, because it would hoard its commands for as long as the server is away.
    ///
    /// # Errors
    /// When there is no connection within [`COMMAND_TIMEOUT`].
    pub(crate) async fn client(&self) -> Result<Client, RedisError> {
        let client = self.client.borrow().clone();
        if client.is_connected() {
            return Ok(client);
        }
        match tokio::time::timeout(COMMAND_TIMEOUT, client.wait_for_connect()).await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => {
                // The client may have come up between the look and the wait, or a task may have replaced it.
                let now = self.client.borrow().clone();
                if now.is_connected() { Ok(now) } else { Err(self.setup.outage.no_answer()) }
            }
        }
    }

    /// The addresses of the servers, without user and password, as errors show them to people.
    pub fn place(&self) -> &str {
        self.setup.outage.place()
    }

    /// Sends a `PING` and waits for the answer.
    ///
    /// # Errors
    /// `Unavailable` within two times [`COMMAND_TIMEOUT`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        self.client().await?.ping(None).await.map_err(|e| self.failed(&e))
    }

    /// Makes the error of a command readable for people.
    pub(crate) fn failed(&self, error: &Error) -> RedisError {
        self.setup.failed(error)
    }

    /// Refuses a node of a cluster, which answers a plain client too, but only for some keys. It is
    /// better to say so at the start.
    async fn check_kind(&self) -> Result<(), RedisError> {
        let client = self.client().await?;
        if client.is_clustered() {
            return Ok(());
        }
        let info = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        match client.custom::<String, _>(info, vec!["cluster"]).await {
            Ok(info) if info.contains("cluster_enabled:1") => {
                let why = "is a node of a cluster; write redis-cluster:// in its URL";
                Err(self.setup.outage.error(RedisErrorKind::Refused, why))
            }
            // If the server does not let this user ask, Jobber can't help here.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Setup {
    fn client(&self) -> Result<Client, RedisError> {
        let mut policy = ReconnectPolicy::new_exponential(0, milliseconds(FIRST_PAUSE), milliseconds(LONGEST_PAUSE), 2);
        policy.set_jitter(50);
        let performance =
            PerformanceConfig { default_command_timeout: COMMAND_TIMEOUT, ..PerformanceConfig::default() };
        let connection = ConnectionConfig {
            connection_timeout: CONNECT_TIMEOUT,
            internal_command_timeout: CONNECT_TIMEOUT,
            max_command_attempts: 1,
            unresponsive: UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE), interval: UNRESPONSIVE / 6 },
            ..ConnectionConfig::default()
        };
        Builder::from_config(self.config.clone())
            .set_policy(policy)
            .set_performance_config(performance)
            .set_connection_config(connection)
            .build()
            .map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &Error) -> RedisError {
        self.outage.failed(error.details(), diagnose::kind(error))
    }
}

/// The set-up of `fred` for the servers of a URL.
fn config(url: &RedisUrl, authorities: Option<&Authorities>) -> Config {
    let mut hosts = url.hosts.iter().map(server);
    let server = match &url.topology {
        RedisTopology::Single => ServerConfig::Centralized { server: hosts.next().expect("a URL names a host") },
        RedisTopology::Cluster => {
            ServerConfig::Clustered { hosts: hosts.collect(), policy: ClusterDiscoveryPolicy::default() }
        }
        RedisTopology::Sentinel { service, user, password } => ServerConfig::Sentinel {
            hosts: hosts.collect(),
            service_name: service.clone(),
            username: user.clone(),
            password: password.as_ref().map(revealed),
        },
    };
    Config {
        fail_fast: true,
        server,
        username: url.user.clone(),
        password: url.password.as_ref().map(revealed),
        database: Some(url.database).filter(|number| *number > 0),
        tls: authorities.map(|authorities| authorities.client_config().into()),
        ..Config::default()
    }
}

/// An address of IPv6 stands in brackets for `fred`, but not in a certificate.
fn server(host: &RedisHost) -> Server {
    if host.name.contains(':') {
        Server::new_with_tls(format!("[{}]", host.name), host.port, Some(host.name.clone()))
    } else {
        Server::new(host.name.as_str(), host.port)
    }
}

fn revealed(secret: &Secret) -> String {
    secret.reveal().to_owned()
}

/// Options for a command that may take as long as `timeout`.
pub(crate) fn within(timeout: Duration) -> Options {
    Options { timeout: Some(timeout), ..Options::default() }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).expect("constants of seconds")
}

/// Keeps a client connected until `closed`, and logs when it loses or regains its server. A client
/// reconnects by itself as long as its task runs. The task ends when the first connection fails,
/// and on an error that the client holds for fatal; a server that restarts with repaired settings
/// causes such errors too. This function does not connect such a client again but replaces it. It
/// does the same with a client that says that it is connected and yet answers nothing. At the end it
/// drops the connection with all commands that wait for an answer.
async fn keep_connected(
    in_use: watch::Sender<Client>,
    setup: Arc<Setup>,
    mut running: Option<ConnectHandle>,
    closed: CancellationToken,
) {
    let mut waits = outage::waits();
    loop {
        let client = in_use.borrow().clone();
        let (mut errors, mut connects) = (client.error_rx(), client.reconnect_rx());
        let mut task = running.take().unwrap_or_else(|| client.connect());
        let silence = silent(&client);
        tokio::pin!(silence);
        loop {
            tokio::select! {
                () = closed.cancelled() => {
                    // Ending the task drops its sockets too.
                    task.abort();
                    return;
                }
                ended = &mut task => {
                    if let Ok(Err(error)) = ended {
                        setup.outage.log_away(&setup.failed(&error));
                    }
                    break;
                }
                () = &mut silence => {
                    let error = setup.outage.error(RedisErrorKind::Unavailable, "answers nothing on its connection");
                    setup.outage.log_away(&error);
                    task.abort();
                    break;
                }
                Ok((error, _)) = errors.recv() => setup.outage.log_away(&setup.failed(&error)),
                Ok(_) = connects.recv() => {
                    waits.reset();
                    setup.outage.log_back();
                }
            }
        }
        if closed.run_until_cancelled(tokio::time::sleep(waits.next_wait())).await.is_none() {
            return;
        }
        if let Ok(new) = setup.client() {
            in_use.send_replace(new);
        }
    }
}

/// Returns when a client that says that it is connected has answered nothing for some time.
async fn silent(client: &Client) {
    /// How many signs of life in a row may be missing.
    const PATIENCE: u32 = 2;
    let mut missed = 0;
    while missed < PATIENCE {
        tokio::time::sleep(COMMAND_TIMEOUT).await;
        // On a connection with blocking commands an answer takes as long as the command does: a second.
        let is_well =
            !client.is_connected() || client.with_options(&within(UNRESPONSIVE)).ping::<()>(None).await.is_ok();
        missed = if is_well { 0 } else { missed + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_set_up_as_the_url_says() {
        for (text, place, user, password, _) in url::tests::TAKEN {
            let url: RedisUrl = text.parse().unwrap();
            let config = config(&url, None);
            assert_eq!((config.username.as_deref(), config.password.as_deref()), (*user, *password), "{text}");
            let hosts: Vec<_> = config.server.hosts().iter().map(|s| format!("{}:{}", s.host, s.port)).collect();
            let database = config.database.map(|number| format!("/{number}")).unwrap_or_default();
            assert_eq!(format!("{}{database}", hosts.join(",")), *place, "{text}");
            assert_eq!(config.server.is_clustered(), text.contains("-cluster"), "{text}");
        }
        let url = "redis-sentinel://h:1/2?sentinelServiceName=main&node=g:2&sentinelPassword=x".parse().unwrap();
        let config = config(&url, None);
        assert_eq!((config.server.is_sentinel(), config.database), (true, Some(2)));
    }
}
