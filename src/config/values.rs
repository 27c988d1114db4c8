//! Values of settings as people write them, beside those of [`crate::domain::notation`]. Each reader says what is allowed.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::QueueUrl;
use crate::domain::QueueName;
use crate::redis::{NO_SENTINEL, RedisUrl, RedisUrlError};

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
    match text.parse() {
        _ if text == "embedded" => Ok(QueueUrl::Embedded),
        Ok(url) if RedisUrl::is_sentinel(&url) => Err(NO_SENTINEL.to_owned()),
        Ok(url) => Ok(QueueUrl::Redis(url)),
        Err(RedisUrlError::NoService) => Err(NO_SENTINEL.to_owned()),
        Err(error @ RedisUrlError::Place) => Err(format!("embedded, or {error}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks a part of a key in Redis.
/// Checks the name of a queue.
pub(super) fn queue_name(text: &str) -> Result<QueueName, String> {
    QueueName::parse(text).map_err(|_| QueueName::RULE.to_owned())
}

pub(super) fn key_part(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') { Err("a text without ':'".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') { Err("a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().map_err(|_| "an IP address and a port, such as 127.0.0.1:3000 or [::]:3000".to_owned())
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    one_of(
        text.to_ascii_lowercase().as_str(),
        &[
            ("true", true),
            ("1", true),
            ("yes", true),
            ("on", true),
            ("false", false),
            ("0", false),
            ("no", false),
            ("off", false),
        ],
        "true or false",
    )
}

pub(super) fn one_of<T: Clone>(text: &str, allowed: &[(&str, T)], names: &str) -> Result<T, String> {
    allowed.iter().find(|(name, _)| *name == text).map(|(_, value)| value.clone()).ok_or_else(|| names.to_owned())
}

pub(super) fn at_least<T: PartialOrd>(value: T, least: T, name: &str) -> Result<T, String> {
    if value >= least { Ok(value) } else { Err(format!("at least {name}")) }
}

pub(super) fn within<T: PartialOrd + std::fmt::Display>(value: T, least: T, most: T) -> Result<T, String> {
    if value >= least && value <= most { Ok(value) } else { Err(format!("{least} to {most}")) }
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
