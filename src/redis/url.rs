//! Turns Redis URLs into checked client settings.

use std::path::Path;

use fred::types::config::{Config, TlsConfig, TlsConnector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{RedisError, RedisErrorKind, RedisSettings};

const SCHEMES: [&str; 3] = ["redis", "redis-sentinel", "redis-cluster"];

fn wrong(message: String) -> RedisError {
    RedisError { kind: RedisErrorKind::Refused, message }
}

/// Checks the settings. An error says what is allowed and never repeats the URL, because it holds the password.
pub(super) fn read(settings: &RedisSettings) -> Result<Config, RedisError> {
    let url = settings.url.reveal();
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let (plain, tls) = match scheme.strip_prefix("rediss") {
        Some(rest) => (format!("redis{rest}"), true),
        None => (scheme.to_owned(), false),
    };
    if !SCHEMES.contains(&plain.as_str()) {
        return Err(wrong(format!(
            "the URL of redis begins with {scheme:?}; allowed are redis://, rediss:// (TLS), redis-sentinel://, \
             redis-cluster:// and the last two with rediss"
        )));
    }
    // Parsed as a plain URL, because Jobber chooses the certificates itself.
    let mut config = Config::from_url(&format!("{plain}{}", &url[scheme.len()..])).map_err(|error| {
        wrong(format!(
            "the URL of redis can't be read ({}); it looks like redis://user:password@host:6379/0, with special \
             characters of the password written as %XX",
            error.details()
        ))
    })?;
    if plain == "redis-cluster" && !matches!(database_in(url), "" | "0") {
        return Err(wrong("a redis cluster has only database 0; take the database out of its URL".to_owned()));
    }
    if config.username.is_some() && config.password.is_none() {
        return Err(wrong("the URL of redis has a user but no password; write redis://user:password@host".to_owned()));
    }
    config.fail_fast = true;
    match (tls, &settings.ca_file) {
        (true, Some(file)) => config.tls = Some(trusting(file)?),
        (true, None) => config.tls = Some(trusting_this_system()?),
        (false, Some(_)) => {
            return Err(wrong("redis has a file of authorities but no TLS; write rediss:// in its URL".to_owned()));
        }
        (false, None) => {}
    }
    Ok(config)
}

/// The path of the URL: what follows the first slash after the hosts. It names the database.
fn database_in(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    path.split(['?', '#']).next().unwrap_or_default()
}

/// The addresses of the servers, without user and password.
pub(super) fn place(config: &Config) -> String {
    let servers: Vec<_> = config.server.hosts().iter().map(|s| format!("{}:{}", s.host, s.port)).collect();
    let database = config.database.filter(|n| *n > 0).map(|n| format!("/{n}")).unwrap_or_default();
    format!("{}{database}", servers.join(","))
}

fn trusting(file: &Path) -> Result<TlsConfig, RedisError> {
    let unreadable =
        |why: String| wrong(format!("the authorities for redis in {} can't be read: {why}", file.display()));
    let pem = fs_err::read(file).map_err(|e| unreadable(e.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
        roots.add(certificate).map_err(|e| unreadable(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("there is no certificate in PEM".to_owned()));
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(config.into())
}

fn trusting_this_system() -> Result<TlsConfig, RedisError> {
    let connector = TlsConnector::default_rustls().map_err(|e| {
        wrong(format!(
            "this system's certificate authorities can't be read ({}); install ca-certificates, or name a file of \
             authorities for redis",
            e.details()
        ))
    })?;
    Ok(connector.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Secret;

    fn settings(url: &str) -> RedisSettings {
        RedisSettings { url: Secret::new(url), ca_file: None }
    }

    #[test]
    fn urls_name_servers_users_and_databases() {
        let config = read(&settings("redis://ann:p%40ss@example.org/3")).unwrap();
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("ann"), Some("p@ss")));
        assert_eq!(place(&config), "example.org:6379/3");
        assert_eq!(place(&read(&settings("redis://:x@h:1/0")).unwrap()), "h:1");
        let cluster = read(&settings("redis-cluster://:x@h:1?node=g:2")).unwrap();
        assert!(cluster.server.is_clustered());
        assert_eq!(place(&cluster), "g:2,h:1");
        let sentinel = read(&settings("redis-sentinel://h:1/2?sentinelServiceName=main&node=g:2")).unwrap();
        assert!(sentinel.server.is_sentinel());
        assert_eq!(sentinel.database, Some(2));
    }

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        for url in [
            "http://:hunter2@h",
            "hunter2",
            "redis://ann:hunter2@",
            "redis://:hunter2@h:x",
            "redis://:hunter2@h/x",
            "redis://:hunter2@h/300",
            "redis-cluster://:hunter2@h:1/2",
            "redis-sentinel://:hunter2@h:1",
            "redis://:hun/ter2@h",
            "redis://:hunter2@h:1/1/2",
        ] {
            let error = read(&settings(url)).unwrap_err();
            assert_eq!(error.kind, RedisErrorKind::Refused);
            assert!(!error.to_string().contains("ter2"), "{error}");
            assert!(error.to_string().contains("redis"), "{error}");
        }
        assert!(read(&settings("redis://ann@h")).unwrap_err().to_string().contains("no password"));
    }

    #[test]
    fn a_file_of_authorities_must_hold_some_and_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        let with = |url: &str| read(&RedisSettings { ca_file: Some(file.clone()), ..settings(url) }).unwrap_err();
        assert!(with("rediss://h").to_string().contains("ca.crt"));
        fs_err::write(&file, "nothing").unwrap();
        assert!(with("rediss://h").to_string().contains("no certificate"));
        assert!(with("redis://h").to_string().contains("rediss://"));
    }
}
