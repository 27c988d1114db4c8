//! Reads the URL of Redis servers: one grammar, from whose typed value both Redis clients are set up.

use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::domain::Secret;
use crate::domain::secret::has_bare_percent;

/// What the URL must be instead where the caller's client knows no Sentinel.
pub const NO_SENTINEL: &str = "redis:// with the server's own address: the library of the queue finds none by Sentinel";

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// Where Redis servers are and how to get in, as a URL says:
/// `redis://[user:password@]host[:port][/database]`. The scheme is `rediss` for TLS. A cluster is
/// `redis-cluster://`, with `?node=host:port` for more of its nodes. `redis-sentinel://` names Sentinels,
/// with `?sentinelServiceName=NAME`, and `sentinelUsername`, `sentinelPassword` and `node` if need be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub(crate) topology: RedisTopology,
    /// The servers that the URL names, in its order. There is at least one.
    pub(crate) hosts: Vec<RedisHost>,
    /// 0 in a cluster.
    pub(crate) database: u8,
    /// There is no user without a password.
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) uses_tls: bool,
}

/// How the servers of a URL belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RedisTopology {
    Single,
    Cluster,
    /// The hosts are Sentinels, which know the server of this service.
    Sentinel {
        service: String,
        user: Option<String>,
        password: Option<Secret>,
    },
}

/// The address of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisHost {
    /// A name or an address; one of IPv6 stands without brackets.
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// Why a text is no URL of Redis: what the URL must be instead. Never repeats the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    /// The scheme is another, or a host or port is missing or can't be.
    #[error(
        "redis://, rediss://, redis-cluster:// or rediss-cluster:// with a host, and a port from 1 to 65535 if any"
    )]
    Place,
    /// The host is a wildcard, to which the `redis` crate does not connect.
    #[error("redis://host:port with the address of one machine, such as 127.0.0.1: 0.0.0.0 and :: stand for all")]
    Wildcard,
    /// The user or the password has characters that end it too early, or that mean others.
    #[error(
        "redis://user:password@host:port, with / ? # @ : and % in the password written as %2F %3F %23 %40 %3A and %25"
    )]
    Unencoded,
    /// There is a user without a password.
    #[error("redis://user:password@host:port: it has a user but no password")]
    NoPassword,
    /// The path is no number of a database.
    #[error("redis://host:port/N, where N is the number of a database from 0 to 255")]
    Database,
    /// The path of a cluster's URL names a database.
    #[error("redis-cluster://host:port without a database: a cluster has only database 0")]
    ClusterDatabase,
    /// The Sentinels are not told which service is wanted.
    #[error("redis-sentinel://host:port?sentinelServiceName=NAME")]
    NoService,
    /// There is a fragment, by which some clients switch checks off.
    #[error("redis://host:port without a # and what follows it")]
    Fragment,
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(RedisUrlError::Place)?;
        let (kind, uses_tls) = match (scheme.strip_prefix("rediss"), scheme.strip_prefix("redis")) {
            (Some(kind), _) => (kind, true),
            (None, Some(kind)) => (kind, false),
            (None, None) => return Err(RedisUrlError::Place),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if rest[end..].contains('@') || has_bare_percent(rest) {
            return Err(RedisUrlError::Unencoded);
        }
        let url = Url::parse(text).map_err(|_| RedisUrlError::Place)?;
        let query = |key: &str| {
            url.query_pairs().find(|(k, _)| k == key).map(|(_, v)| v.into_owned()).filter(|v| !v.is_empty())
        };
        let default_port = if kind == "-sentinel" { DEFAULT_SENTINEL_PORT } else { DEFAULT_PORT };
        let mut hosts = vec![host(&url, default_port)?];
        if !kind.is_empty() {
            let others = url.query_pairs().filter(|(key, _)| key == "node");
            let others: Option<Vec<_>> = others.map(|(_, node)| other_node(&node, default_port)).collect();
            hosts.extend(others.ok_or(RedisUrlError::Place)?);
        }
        let topology = match kind {
            "" => RedisTopology::Single,
            "-cluster" => RedisTopology::Cluster,
            "-sentinel" => RedisTopology::Sentinel {
                service: query("sentinelServiceName").ok_or(RedisUrlError::NoService)?,
                user: query("sentinelUsername"),
                password: query("sentinelPassword").map(Secret::new),
            },
            _ => return Err(RedisUrlError::Place),
        };
        if url.fragment().is_some() {
            return Err(RedisUrlError::Fragment);
        }
        let database = match url.path().strip_prefix('/').unwrap_or_default() {
            "" => 0,
            number => number.parse().map_err(|_| RedisUrlError::Database)?,
        };
        if topology == RedisTopology::Cluster && database != 0 {
            return Err(RedisUrlError::ClusterDatabase);
        }
        let user = decoded(url.username())?;
        let password = decoded(url.password().unwrap_or_default())?.map(Secret::new);
        if user.is_some() && password.is_none() {
            return Err(RedisUrlError::NoPassword);
        }
        Ok(Self { topology, hosts, database, user, password, uses_tls })
    }
}

impl RedisUrl {
    /// A server on this machine: `redis://127.0.0.1:6379`.
    pub fn local() -> Self {
        Self {
            topology: RedisTopology::Single,
            hosts: vec![RedisHost { name: "127.0.0.1".to_owned(), port: DEFAULT_PORT }],
            database: 0,
            user: None,
            password: None,
            uses_tls: false,
        }
    }

    /// Whether the URL names Sentinels, not servers.
    pub fn is_sentinel(&self) -> bool {
        matches!(self.topology, RedisTopology::Sentinel { .. })
    }

    /// The addresses of the servers and the database, without user and password, as people are shown them.
    pub(crate) fn place(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        let database = if self.database > 0 { format!("/{}", self.database) } else { String::new() };
        format!("{}{database}", hosts.join(","))
    }
}

impl std::fmt::Display for RedisHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// The host of a URL.
fn host(url: &Url, default_port: u16) -> Result<RedisHost, RedisUrlError> {
    let name = match url.host().ok_or(RedisUrlError::Place)? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let port = url.port().unwrap_or(default_port);
    match name.as_str() {
        "0.0.0.0" | "::" => Err(RedisUrlError::Wildcard),
        name if name.is_empty() || port == 0 => Err(RedisUrlError::Place),
        _ => Ok(RedisHost { name, port }),
    }
}

/// Another node of a cluster, or another Sentinel: `host:port`.
fn other_node(text: &str, default_port: u16) -> Option<RedisHost> {
    let url = Url::parse(&format!("redis://{text}")).ok()?;
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.path().is_empty()
        && url.query().is_none()
        && url.fragment().is_none();
    host(&url, default_port).ok().filter(|_| is_bare)
}

fn decoded(text: &str) -> Result<Option<String>, RedisUrlError> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| RedisUrlError::Unencoded)?;
    Ok(Some(decoded.into_owned()).filter(|text| !text.is_empty()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::RedisUrlError::{
        ClusterDatabase, Database, Fragment, NoPassword, NoService, Place, Unencoded, Wildcard,
    };
    use super::*;

    /// URLs that both clients take: the addresses, the database, user and password, and whether it is TLS.
    pub(crate) type Taken = (&'static str, &'static str, Option<&'static str>, Option<&'static str>, bool);
    pub(crate) const TAKEN: &[Taken] = &[
        ("redis://h", "h:6379", None, None, false),
        ("redis://h/", "h:6379", None, None, false),
        ("redis://127.0.0.1:7000/0", "127.0.0.1:7000", None, None, false),
        ("redis://ann:p%40ss@example.org/3", "example.org:6379/3", Some("ann"), Some("p@ss"), false),
        ("redis://a%3An:%2F%3F%23%25@h/255", "h:6379/255", Some("a:n"), Some("/?#%"), false),
        ("redis://:x@h:1/0", "h:1", None, Some("x"), false),
        ("redis://me:pa@ss:word@h", "h:6379", Some("me"), Some("pa@ss:word"), false),
        ("redis://:@h", "h:6379", None, None, false),
        ("redis://[::1]:7000", "[::1]:7000", None, None, false),
        ("rediss://:%C3%A9@[2001:DB8::1]/1", "[2001:db8::1]:6379/1", None, Some("é"), true),
        ("rediss://h", "h:6379", None, None, true),
        ("redis://a:1/3?node=b:2", "a:1/3", None, None, false),
        ("redis-cluster://a:1/", "a:1", None, None, false),
        ("redis-cluster://:x@a/0?node=b:2&node=[::1]:3", "a:6379,b:2,[::1]:3", None, Some("x"), false),
        ("rediss-cluster://ann:p%40ss@a:1?node=b:2&node=c", "a:1,b:2,c:6379", Some("ann"), Some("p@ss"), true),
    ];

    #[test]
    fn urls_name_servers_users_and_databases() {
        for (text, place, user, password, uses_tls) in TAKEN {
            let url: RedisUrl = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.place(), *place, "{text}");
            assert_eq!((url.user.as_deref(), url.password.as_ref().map(Secret::reveal)), (*user, *password), "{text}");
            assert_eq!(url.uses_tls, *uses_tls, "{text}");
            assert_eq!(url.topology == RedisTopology::Cluster, text.contains("-cluster"), "{text}");
        }
    }

    #[test]
    fn a_sentinel_has_a_service_and_its_own_password() {
        let text = "redis-sentinel://:x@h/2?sentinelServiceName=main&node=g:2&sentinelPassword=p%26w";
        let url: RedisUrl = text.parse().unwrap();
        assert_eq!((url.place().as_str(), url.is_sentinel()), ("h:26379,g:2/2", true));
        let RedisTopology::Sentinel { service, user, password } = url.topology else { panic!("{text}") };
        assert_eq!((service.as_str(), user, password), ("main", None, Some(Secret::new("p&w"))));
    }

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        for (text, why) in [
            ("http://:hunter2@h", Place),
            ("valkey://:hunter2@h", Place),
            ("unix:///hunter2.sock", Place),
            ("redis+unix:///hunter2.sock", Place),
            ("redis-proxy://:hunter2@h", Place),
            ("hunter2", Place),
            ("redis:hunter2", Place),
            ("redis://", Place),
            ("redis://:6379", Place),
            ("redis://ann:hunter2@", Place),
            ("redis://ann:hunter2@:bad", Place),
            ("redis://:hunter2@h:x", Place),
            ("redis://:hunter2@h:0", Place),
            ("redis://:hunter2@h:65536", Place),
            ("redis://:hunter2@::1:6379", Place),
            ("redis://:hunter2@[::1", Place),
            ("redis://:hunter2@0.0.0.0", Wildcard),
            ("redis://:hunter2@[::]", Wildcard),
            ("redis-cluster://:hunter2@h?node=g:x", Place),
            ("redis-cluster://:hunter2@h?node=g:1/2", Place),
            ("redis-cluster://:hunter2@h?node=", Place),
            ("redis://:hun/ter2@h", Unencoded),
            ("redis://:hun?ter2@h", Unencoded),
            ("redis://:hun#ter2@h", Unencoded),
            ("redis://:hun%ter2@h", Unencoded),
            ("redis://:hunter2%FF@h", Unencoded),
            ("redis://hunter2@h", NoPassword),
            ("redis://hunter2:@h", NoPassword),
            ("redis://:hunter2@h/x", Database),
            ("redis://:hunter2@h/-1", Database),
            ("redis://:hunter2@h/300", Database),
            ("redis://:hunter2@h:1/1/2", Database),
            ("redis-cluster://:hunter2@h:1/2", ClusterDatabase),
            ("redis-sentinel://:hunter2@h:1", NoService),
            ("rediss-sentinel://:hunter2@h:1?sentinelServiceName=", NoService),
            ("rediss://:hunter2@h#insecure", Fragment),
        ] {
            let error = text.parse::<RedisUrl>().expect_err(text);
            assert_eq!(error, why, "{text}");
            assert!(!error.to_string().contains("ter2") && error.to_string().contains("redis"), "{error}");
        }
    }

    #[test]
    fn a_url_that_is_printed_for_debugging_holds_no_password() {
        let text = "redis-sentinel://ann:hunter2@h?sentinelServiceName=main&sentinelPassword=hunter2";
        let shown = format!("{:?}", text.parse::<RedisUrl>().unwrap());
        assert!(shown.contains("main") && !shown.contains("hunter2"), "{shown}");
    }
}
