//! Values of settings as people write them, beside those of [`crate::domain::notation`]. Each reader says what is allowed.

use super::QueueUrl;
use super::couchbase::has_bare_percent;
use crate::domain::Secret;

/// Reads `0-3,8`: CPU numbers, sorted, without repeats.
///
/// # Errors
/// What is allowed, for people.
pub fn cpus(text: &str) -> Result<Vec<u32>, String> {
    let allowed = || "CPU numbers such as 0-3,8".to_owned();
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: u32 = from.trim().parse().map_err(|_| allowed())?;
        let to: u32 = to.trim().parse().map_err(|_| allowed())?;
        if from > to || to >= 4096 {
            return Err(allowed());
        }
        all.extend(from..=to);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Checks the URL of the queue.
pub(super) fn queue_url(text: &str) -> Result<QueueUrl, String> {
    // Looks at the part behind the last colon, unless that is within the brackets of an IPv6 address.
    let is_port = |port: &str| port.ends_with(']') || port.parse().is_ok_and(|port: u16| port > 0);
    let has_good_port = |server: &str| {
        let host = server.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        !host.is_empty() && host.rsplit_once(':').is_none_or(|(_, port)| is_port(port))
    };
    // Finds a password that ends the host too early, or that would be decoded to another one.
    let is_unencoded = |server: &str| {
        let end = server.find(['/', '?', '#']).unwrap_or(server.len());
        server[end..].contains('@') || has_bare_percent(server)
    };
    match text.split_once("://") {
        None if text == "embedded" => Ok(QueueUrl::Embedded),
        Some((scheme, server)) if scheme.starts_with("redis") && is_unencoded(server) => Err(
            "redis://user:password@host:port, with / ? # @ : and % in the password written as %2F %3F %23 %40 %3A and %25"
                .to_owned(),
        ),
        Some(("redis" | "rediss" | "redis-cluster" | "rediss-cluster", server)) if has_good_port(server) => {
            Ok(QueueUrl::Redis(Secret::new(text)))
        }
        Some(("redis-sentinel" | "rediss-sentinel", _)) => {
            Err("redis:// with the server's own address: the library of the queue finds none by Sentinel".to_owned())
        }
        _ => Err(
            "embedded, or redis://, rediss://, redis-cluster:// or rediss-cluster:// with a host, and a port from 1 \
                  to 65535 if any"
                .to_owned(),
        ),
    }
}

/// Checks a part of a key in Redis.
pub(super) fn key_part(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') { Err("a text without ':'".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_sorted_sets() {
        assert_eq!(cpus("8,0-2,1"), Ok(vec![0, 1, 2, 8]));
        for bad in ["", "3-1", "a", "1,,2", "0-99999999"] {
            assert!(cpus(bad).is_err(), "{bad:?}");
        }
    }
}
