//! How much of a queue may run, in all workers together.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time::millis;
use super::{JobOptions, notation};

/// How much of a queue may run, in all workers together. No limit where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueLimit {
    /// How many of its jobs run at once, 1 to [`QueueLimit::MOST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub concurrency: Option<u32>,
    /// How many of its jobs start in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<StartRate>,
    /// Among whom its slots go in turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fair: Option<Fairness>,
}

/// Among whom slots go in turn, whoever submitted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fairness {
    /// Among groups: that with the fewest running jobs is next. Jobs without a group are one together.
    Group,
}

impl Fairness {
    /// Reads `group`.
    ///
    /// # Errors
    /// What is allowed, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "group" { Ok(Self::Group) } else { Err("the only word is group".to_owned()) }
    }
}

/// How many jobs start in a time, which begins with the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRate {
    /// How many, 1 to [`QueueLimit::MOST`].
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub jobs: u32,
    /// The time, 1 ms to ten years.
    #[schema(value_type = u64, minimum = 1, maximum = 316_224_000_000u64)]
    #[serde(rename = "per_ms", with = "millis")]
    pub per: Duration,
}

impl QueueLimit {
    /// The highest limit: a million jobs.
    pub const MOST: u32 = 1_000_000;

    /// Checks both limits.
    ///
    /// # Errors
    /// The field that is wrong, as a JSON pointer, and what it must be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let counts = 1..=Self::MOST;
        let count = || format!("must be 1 to {}", Self::MOST);
        if self.concurrency.is_some_and(|n| !counts.contains(&n)) {
            return Err(("/concurrency", count()));
        }
        match self.rate {
            Some(rate) if !counts.contains(&rate.jobs) => Err(("/rate/jobs", count())),
            Some(rate) if rate.per < Duration::from_millis(1) || rate.per > JobOptions::MAX_DURATION => {
                Err(("/rate/per_ms", "must be 1 ms to ten years".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl StartRate {
    /// Reads `100/1m`: a hundred jobs a minute.
    ///
    /// # Errors
    /// What is allowed, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = || format!("JOBS/DURATION, such as 100/1m, with 1 to {} jobs", QueueLimit::MOST);
        let (jobs, per) = text.split_once('/').ok_or_else(allowed)?;
        let rate = Self {
            jobs: notation::number(jobs).map_err(|_| allowed())?,
            per: notation::duration(per).map_err(|_| allowed())?,
        };
        let limit = QueueLimit { rate: Some(rate), ..QueueLimit::default() };
        limit.check().map(|()| rate).map_err(|_| allowed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!(StartRate::parse("100/1m"), Ok(StartRate { jobs: 100, per: Duration::from_secs(60) }));
        for bad in ["", "100", "0/1m", "100/", "100/0s", "-1/1s", "1000001/1s", "1/1"] {
            assert!(StartRate::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rate = |jobs, ms| Some(StartRate { jobs, per: Duration::from_millis(ms) });
        let wrong = |concurrency, rate| QueueLimit { concurrency, rate, fair: None }.check().unwrap_err().0;
        assert_eq!(wrong(Some(0), None), "/concurrency");
        assert_eq!(wrong(None, rate(0, 1)), "/rate/jobs");
        assert_eq!(wrong(Some(1), rate(1, 0)), "/rate/per_ms");
        assert!(QueueLimit { concurrency: Some(1), rate: rate(1, 1), fair: None }.check().is_ok());
    }
}
