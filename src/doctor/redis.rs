//! Judges what a Redis server says of itself. A caller that can ask a server fills in
//! [`RedisFacts`]; this module itself talks to none.

use std::time::Duration;

use super::Finding;
use crate::domain::Timestamp;

/// The facts about a Redis (or Valkey) server that a caller has learnt from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisFacts {
    /// `redis_version` of `INFO`. Valkey gives the Redis version that it is compatible with.
    pub version: String,
    /// `maxmemory_policy` of `INFO`; `None` where the server does not say.
    pub policy: Option<String>,
    /// `aof_enabled` of `INFO`: whether each write is logged.
    pub append_only: Option<bool>,
    /// Whether snapshots are made (`CONFIG GET save` is not empty); `None` where the server does not say.
    pub snapshots: Option<bool>,
    /// The answer to `TIME`.
    pub time: Timestamp,
    /// This machine's clock just before it asked for the time.
    pub asked_at: Timestamp,
    /// This machine's clock when it had the answer.
    pub answered_at: Timestamp,
}

impl RedisFacts {
    /// Reads the answer to `INFO` (sections `server`, `memory` and `persistence` at least). `save` is the answer to
    /// `CONFIG GET save`, where the server gives one; `times` are when `TIME` was asked, its answer, and when that came.
    pub fn read(info: &str, save: Option<&str>, times: [Timestamp; 3]) -> Self {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let [asked_at, time, answered_at] = times;
        Self {
            version: field("redis_version").unwrap_or_default(),
            policy: field("maxmemory_policy"),
            append_only: field("aof_enabled").map(|value| value == "1"),
            snapshots: save.map(|save| !save.trim().is_empty()),
            time,
            asked_at,
            answered_at,
        }
    }
}

/// Judges the answer of a server, or the reason why there was none. `address` must not hold a password.
pub fn judge(address: &str, answer: Result<&RedisFacts, &str>) -> Vec<Finding> {
    match answer {
        Err(why) => vec![Finding::failed(
            "redis",
            format!("{address} does not answer: {why}"),
            "start it, or correct queue.url (REDIS_HOST, REDIS_PORT), its user and its password",
        )],
        Ok(facts) => vec![version(address, facts), eviction(facts), persistence(facts), clock(facts)],
    }
}

fn version(address: &str, facts: &RedisFacts) -> Finding {
    const LEAST: (u32, u32) = (6, 2);
    let mut numbers = facts.version.split('.').map(|n| n.parse::<u32>().ok());
    let found = (numbers.next().flatten(), numbers.next().flatten());
    match found {
        (Some(major), Some(minor)) if (major, minor) >= LEAST => {
            Finding::ok("redis", format!("{address} answers, version {}", facts.version))
        }
        (Some(_), Some(_)) => Finding::failed(
            "redis",
            format!("{address} has version {}", facts.version),
            "use Redis 6.2 or newer, or Valkey",
        ),
        _ => Finding::warning(
            "redis",
            format!("{address} answers, but does not tell its version"),
            "make sure that it is Redis 6.2 or newer, or Valkey",
        ),
    }
}

fn eviction(facts: &RedisFacts) -> Finding {
    const CHECK: &str = "redis eviction";
    const FIX: &str = "set maxmemory-policy noeviction in redis.conf, and CONFIG SET maxmemory-policy noeviction now";
    match facts.policy.as_deref() {
        Some("noeviction") => Finding::ok(CHECK, "noeviction"),
        Some(policy) => {
            Finding::failed(CHECK, format!("{policy}: when memory is short, Redis would throw jobs away"), FIX)
        }
        None => Finding::warning(CHECK, "the server does not tell its maxmemory-policy", FIX),
    }
}

fn persistence(facts: &RedisFacts) -> Finding {
    const CHECK: &str = "redis persistence";
    const FIX: &str = "set appendonly yes in redis.conf, and CONFIG SET appendonly yes now";
    match (facts.append_only, facts.snapshots) {
        (Some(true), _) => Finding::ok(CHECK, "append-only file"),
        (Some(false), Some(true)) => {
            Finding::warning(CHECK, "snapshots only: a crash of Redis loses the last minutes", FIX)
        }
        (Some(false), Some(false)) => Finding::warning(CHECK, "none: a restart of Redis loses every job", FIX),
        (Some(false), None) => Finding::warning(CHECK, "no append-only file", FIX),
        (None, _) => Finding::warning(CHECK, "the server does not tell", FIX),
    }
}

fn clock(facts: &RedisFacts) -> Finding {
    const CHECK: &str = "redis clock";
    const MOST: Duration = Duration::from_secs(1);
    // The server looked at its clock at some moment between question and answer.
    let (off, word) = if facts.time < facts.asked_at {
        (facts.asked_at.since(facts.time), "behind")
    } else {
        (facts.time.since(facts.answered_at), "ahead of")
    };
    if off > MOST {
        Finding::warning(
            CHECK,
            format!("{} ms {word} this machine's: delays and schedules are off by as much", off.as_millis()),
            "keep both set: timedatectl set-ntp true",
        )
    } else {
        Finding::ok(CHECK, "the same as this machine's")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_795_507_200_000 + ms)
    }

    fn facts() -> RedisFacts {
        let info = "# Server\r\nredis_version:7.2.4\r\n# Memory\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        RedisFacts::read(info, Some("3600 1 300 100"), [at(0), at(3), at(5)])
    }

    fn statuses(facts: &RedisFacts) -> Vec<Health> {
        judge("redis://a:6379", Ok(facts)).into_iter().map(|finding| finding.status).collect()
    }

    #[test]
    fn a_good_server_is_well() {
        let facts = facts();
        assert_eq!((facts.append_only, facts.snapshots), (Some(true), Some(true)));
        assert_eq!(statuses(&facts), [Health::Ok; 4]);
    }

    #[test]
    fn each_fact_is_judged_by_itself() {
        use Health::{Failed, Ok, Warning};
        let judged = |change: fn(&mut RedisFacts)| {
            let mut facts = facts();
            change(&mut facts);
            statuses(&facts)
        };
        assert_eq!(judged(|f| f.version = "6.0.16".into()), [Failed, Ok, Ok, Ok]);
        assert_eq!(judged(|f| f.version = "6.2.0".into()), [Ok, Ok, Ok, Ok]);
        assert_eq!(judged(|f| f.version = "255.255.255".into()), [Ok, Ok, Ok, Ok]);
        assert_eq!(judged(|f| f.version = String::new()), [Warning, Ok, Ok, Ok]);
        assert_eq!(judged(|f| f.policy = Some("allkeys-lru".into())), [Ok, Failed, Ok, Ok]);
        assert_eq!(judged(|f| f.policy = None), [Ok, Warning, Ok, Ok]);
        assert_eq!(judged(|f| f.append_only = Some(false)), [Ok, Ok, Warning, Ok]);
        assert_eq!(judged(|f| f.append_only = None), [Ok, Ok, Warning, Ok]);
        assert_eq!(judged(|f| f.time = at(-1500)), [Ok, Ok, Ok, Warning]);
        assert_eq!(judged(|f| f.time = at(1500)), [Ok, Ok, Ok, Warning]);
        assert_eq!(judged(|f| f.time = at(900)), [Ok, Ok, Ok, Ok]);
        assert_eq!(judged(|f| f.answered_at = at(60_000)), [Ok, Ok, Ok, Ok], "a slow answer is no skew");
    }

    #[test]
    fn silence_is_one_failure() {
        let findings = judge("redis://a:6379", Err("connection refused"));
        assert_eq!((findings.len(), findings[0].status), (1, Health::Failed));
        assert!(findings[0].found.contains("redis://a:6379") && findings[0].found.contains("refused"));
    }
}
