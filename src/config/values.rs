//! Values as people write them: durations, sizes, lists of CPUs. Each reader says what is allowed.

use std::time::Duration;

use super::QueueUrl;
use crate::domain::JobOptions;
use crate::redis::{NO_SENTINEL, RedisUrl, RedisUrlError};

/// Reads `90s`, `15m`, `1h 30m`, `250ms`.
///
/// # Errors
/// What is allowed, for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    let allowed = || "a duration such as 250ms, 90s, 15m, 1h or 1d, at most ten years".to_owned();
    let value = humantime::parse_duration(text).map_err(|_| allowed())?;
    if value <= JobOptions::MAX_DURATION { Ok(value) } else { Err(allowed()) }
}

/// Reads `512M`, `1GiB`, `65536`: binary units, with or without `B` or `iB`.
///
/// # Errors
/// What is allowed, for people.
pub fn size(text: &str) -> Result<u64, String> {
    let allowed = || "a size such as 65536, 64KiB, 512M or 2GiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| allowed())?;
    let unit = text[digits..].to_ascii_lowercase();
    let letter = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(allowed()),
    };
    number.checked_mul(1 << letter).filter(|n| *n <= 1 << 50).ok_or_else(allowed)
}

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
pub(super) fn key_part(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') { Err("a text without ':'".to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("2gb"), Ok(2 << 30));
        for bad in ["", "-1", "1.5G", "1X", "ib", "99999999999999999999", "10iB", "9999T", "2 gb"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn cpu_lists_are_sorted_sets() {
        assert_eq!(cpus("8,0-2,1"), Ok(vec![0, 1, 2, 8]));
        for bad in ["", "3-1", "a", "1,,2", "0-99999999"] {
            assert!(cpus(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "-1s", "100000000d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
