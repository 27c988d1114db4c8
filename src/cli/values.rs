//! Values of options as people write them, each checked where it is read; and the same values shown to people.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::complete;
use crate::domain::{Backoff, BackoffKind, Day, Deduplication, Timestamp};

/// Reads `90s`, `15m`, `1h 30m`, `500ms`. A number needs a unit, unless it is 0.
///
/// # Errors
/// A message for people.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::domain::notation::duration(text).map_err(|allowed| format!("{text:?} is not {allowed}"))
}

/// Reads `512M`, `1GiB`, `64k`, `1048576`: a whole number and a binary unit (K, M, G, T; `KiB`, `KB` and `K` are all
/// 1024 bytes, in any case, as `B` alone is one).
///
/// # Errors
/// A message for people.
pub fn parse_size(text: &str) -> Result<u64, String> {
    crate::domain::notation::size(text).map_err(|allowed| format!("{text:?} is not {allowed}"))
}

/// A variable for jobs: `KEY=VALUE`, or `KEY` to pass on the worker's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentSetting {
    /// The name of the variable.
    pub key: String,
    /// The value; `None` to pass on the worker's own.
    pub value: Option<String>,
}

impl FromStr for EnvironmentSetting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("{text:?} is not a variable such as KEY=VALUE or KEY"));
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

/// Reads `exp:1s`, `fixed:5s`, or with a jitter `exp:1s:0.5` (`:jitter` alone means 0.5).
pub(super) fn parse_backoff(text: &str) -> Result<Backoff, String> {
    let wrong = || format!("{text:?} is not a backoff such as exp:1s, fixed:5s or exp:1s:0.5");
    let mut parts = text.split(':');
    let kind = match parts.next() {
        Some("exp" | "exponential") => BackoffKind::Exponential,
        Some("fixed") => BackoffKind::Fixed,
        _ => return Err(wrong()),
    };
    let delay = parse_duration(parts.next().ok_or_else(wrong)?)?;
    let jitter = match parts.next() {
        None => 0.0,
        Some("jitter") => 0.5,
        Some(number) => number.parse().ok().filter(|j| (0.0..=1.0).contains(j)).ok_or_else(wrong)?,
    };
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(Backoff { kind, delay, max: None, jitter })
}

/// Reads `KEY` or `KEY:TTL`. What follows the last colon belongs to the key unless it is a duration.
pub(super) fn parse_dedup(text: &str) -> Result<Deduplication, String> {
    let (key, ttl) = match text.rsplit_once(':') {
        Some((key, ttl)) if !key.is_empty() => match humantime::parse_duration(ttl) {
            Ok(ttl) => (key, Some(ttl)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    };
    if key.is_empty() {
        return Err("a deduplication key must not be empty".to_owned());
    }
    Ok(Deduplication { key: key.to_owned(), ttl })
}

/// A moment, absolute or relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// This long before now.
    Ago(Duration),
    /// At this time.
    At(Timestamp),
}

impl Moment {
    /// The moment as a time, given the present.
    pub(super) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::Ago(ago) => now - ago,
            Moment::At(at) => at,
        }
    }

    /// The same for numbers that are kept by day: a relative moment means the beginning of its day (UTC).
    pub(super) fn resolve_day(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::Ago(ago) => (now - ago).day().start(),
            Moment::At(at) => at,
        }
    }
}

impl FromStr for Moment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Moment::Ago(ago));
        }
        Day::parse(text).map(Day::start).or_else(|_| Timestamp::parse(text)).map(Moment::At).map_err(|_| {
            format!("{text:?} is neither a duration such as 1h, a day such as 2026-11-24 nor a time such as 2026-11-24T08:00:00Z")
        })
    }
}

/// Filters of `jobber list` and `jobber failures`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct FilterArgs {
    /// Only jobs of this binary
    #[arg(long, value_name = "NAME", add = complete::names())]
    pub(super) name: Option<String>,
    /// Only jobs submitted since (failures: on that day or later): 1h, 7d, or 2026-11-24T08:00:00Z
    #[arg(long, value_name = "DURATION|RFC3339")]
    pub(super) since: Option<Moment>,
    /// Only jobs submitted before
    #[arg(long, value_name = "DURATION|RFC3339")]
    pub(super) until: Option<Moment>,
    /// Only what failed with an error of this category, by id or name (failures: or uncategorised, or pending)
    #[arg(long, value_name = "CATEGORY", add = complete::categories())]
    pub(super) category: Option<String>,
    /// Only what failed with the error whose fingerprint begins like this
    #[arg(long, value_name = "DIGITS", add = complete::fingerprints())]
    pub(super) fingerprint: Option<String>,
}

/// A part of 1 in percent.
pub(super) fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// The limits of an interval of parts of 1, in percent.
pub(super) fn limits(low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => format!("{:.0}-{:.0} %", low * 100.0, high * 100.0),
        _ => "-".to_owned(),
    }
}

/// A duration in a form that is easy to read: up to three digits, or the two largest units.
pub(super) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.001 {
        format!("{} us", duration.as_micros())
    } else if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round() as u64;
        let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
        match (days, hours) {
            (0, 0) => format!("{minutes}m {}s", whole % 60),
            (0, _) => format!("{hours}h {minutes}m"),
            _ => format!("{days}d {hours}h"),
        }
    }
}

/// A size in the largest binary unit that leaves at least 1 in front of it, with one digit behind the point.
pub(super) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_has_a_kind_a_delay_and_maybe_jitter() {
        let read = |text| parse_backoff(text).map(|b| (b.kind, b.delay.as_millis(), b.jitter));
        assert_eq!(read("exp:1s"), Ok((BackoffKind::Exponential, 1000, 0.0)));
        assert_eq!(read("fixed:5s"), Ok((BackoffKind::Fixed, 5000, 0.0)));
        assert_eq!(read("fixed:500ms:jitter"), Ok((BackoffKind::Fixed, 500, 0.5)));
        assert_eq!(read("exponential:2m:0.25"), Ok((BackoffKind::Exponential, 120_000, 0.25)));
        for bad in ["", "exp", "linear:1s", "exp:soon", "exp:1s:2", "exp:1s:NaN", "exp:1s:0.5:x", "exp:-1s"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_deduplication_key_may_hold_colons() {
        let read = |text| parse_dedup(text).map(|d| (d.key, d.ttl.map(|t| t.as_secs())));
        assert_eq!(read("k"), Ok(("k".into(), None)));
        assert_eq!(read("k:90s"), Ok(("k".into(), Some(90))));
        assert_eq!(read("user:7"), Ok(("user:7".into(), None)));
        assert_eq!(read("user:7:1h"), Ok(("user:7".into(), Some(3600))));
        assert!(read("").is_err());
    }

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        let now = Timestamp::parse("2026-11-24T08:00:00Z").unwrap();
        let read = |text: &str| text.parse::<Moment>().map(|m| m.resolve(now).to_string());
        assert_eq!(read("1h"), Ok("2026-11-24T07:00:00.000Z".into()));
        assert_eq!(read("2026-11-01T00:00:00+01:00"), Ok("2026-10-31T23:00:00.000Z".into()));
        assert_eq!(read("2026-11-24"), Ok("2026-11-24T00:00:00.000Z".into()));
        assert!(read("yesterday").is_err());
        let day = |text: &str| text.parse::<Moment>().map(|m| m.resolve_day(now).to_string());
        assert_eq!(day("1h"), Ok("2026-11-24T00:00:00.000Z".into()));
    }

    #[test]
    fn a_variable_has_a_name() {
        let read = |text: &str| text.parse::<EnvironmentSetting>().map(|e| (e.key, e.value));
        assert_eq!(read("A=b=c"), Ok(("A".into(), Some("b=c".into()))));
        assert_eq!(read("A="), Ok(("A".into(), Some(String::new()))));
        assert_eq!(read("HOME"), Ok(("HOME".into(), None)));
        assert!(read("=x").is_err());
        assert!(read("A B=x").is_err());
    }

    #[test]
    fn durations_are_shown_short() {
        for (millis, text) in [
            (0, "0 us"),
            (12, "12 ms"),
            (999, "999 ms"),
            (1234, "1.2 s"),
            (59_940, "59.9 s"),
            (61_000, "1m 1s"),
            (3_725_000, "1h 2m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
    }
    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("7B", 7),
            ("64k", 64 << 10),
            ("512M", 512 << 20),
            ("1GiB", 1 << 30),
            ("2gb", 2 << 30),
            ("3T", 3 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "M", "-1", "1.5G", "1 G", "1X", "1GG", "+1", "99999999999999999999", "999999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(5 << 30), "5.0 GiB");
    }
}
