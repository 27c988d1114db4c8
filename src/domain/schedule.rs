//! Schedules: jobs that come by themselves, at the times of a cron expression or every so often. Pure: when the next one
//! is due follows from the timing and from the time.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cron::{self, CronTimes};
use super::time::millis;
use super::{AcceptedJob, InvalidJob, Job, JobBody, JobId, JobName, JobOptions, RawJson, ScheduleId, Timestamp};

/// When a schedule's jobs are due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// At the times of a cron expression.
    Cron {
        /// Five fields (minute, hour, day of the month, month, day of the week) or six (a second in front).
        expression: String,
        /// The time zone whose clocks are meant, by its IANA name.
        zone: String,
    },
    /// One job each interval.
    Every {
        /// The time between two jobs.
        #[serde(rename = "every_ms", with = "millis")]
        every: Duration,
    },
}

/// The zone of a cron expression that names none.
pub const UTC: &str = "UTC";

impl Timing {
    /// A clock may be off by so much, and be put right, without a schedule losing its place.
    const TRUSTED: Duration = Duration::from_secs(86_400);
    /// The shortest interval.
    pub const SHORTEST: Duration = Duration::from_secs(1);

    /// A cron expression that comes at some time, in a zone that exists; without a zone, in UTC.
    ///
    /// # Errors
    /// [`InvalidJob`] names the field, `cron` or `tz`.
    pub fn cron(expression: &str, zone: Option<&str>, now: Timestamp) -> Result<Self, InvalidJob> {
        let zone = zone.unwrap_or(UTC);
        if !cron::is_zone(zone) {
            return Err(InvalidJob::new("tz", cron::unknown_zone(zone)));
        }
        let expression = expression.trim();
        // What stands in front of fewer fields differs from one cron to another.
        let fields = expression.split_whitespace().count();
        if !expression.starts_with('@') && !(5..=6).contains(&fields) {
            let why = format!(
                "{expression:?} is not a cron expression such as \"30 4 * * mon-fri\": it has {fields} fields, not five, \
                 or six with seconds in front"
            );
            return Err(InvalidJob::new("cron", why));
        }
        let times = CronTimes::parse(expression, zone).map_err(|why| InvalidJob::new("cron", why))?;
        let timing = Self::Cron { expression: expression.to_owned(), zone: times.zone() };
        match timing.next(None, now) {
            Some(_) => Ok(timing),
            None => Err(InvalidJob::new("cron", format!("there is no time like {expression:?}"))),
        }
    }

    /// An interval.
    ///
    /// # Errors
    /// [`InvalidJob`] when it is too short or too long.
    pub fn every(every: Duration) -> Result<Self, InvalidJob> {
        if (Self::SHORTEST..=JobOptions::MAX_DURATION).contains(&every) {
            Ok(Self::Every { every })
        } else {
            Err(InvalidJob::new("every_ms", "must be at least 1000 (a second) and at most ten years"))
        }
    }

    /// The first time that is due after `now`, where `last` was the one before; `None` when none will come.
    ///
    /// An interval begins at once, and then keeps its beat: a time that was missed does not move those that follow. On
    /// a day when clocks are put forward, a fixed time that does not exist is due when the gap ends; when they are put
    /// back, it is due once, at its first coming. A repeating one (`*`, `*/5`) goes by real time (see [`CronTimes`]).
    pub fn next(&self, last: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron { expression, zone } => {
                // A clock that was put back does not bring the last time again.
                let after = last.map_or(now, |last| last.max(now));
                CronTimes::parse(expression, zone).ok()?.next_after(after)
            }
            Self::Every { every } => {
                let Some(last) = last else { return Some(now) };
                let every_ms = every.as_millis().max(1);
                let missed = now.since(last).as_millis() / every_ms;
                let steps = u64::try_from(missed + 1).unwrap_or(u64::MAX);
                let ahead = u64::try_from(every_ms).unwrap_or(u64::MAX).saturating_mul(steps);
                Some(last + Duration::from_millis(ahead))
            }
        }
    }

    /// The next time for a schedule that an operator resumes now: as [`Timing::next`], but a last time that lies far
    /// ahead is one of a clock that was wrong, and counts for nothing.
    pub fn next_anew(&self, last: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        self.next(last.filter(|last| last.since(now) <= Self::TRUSTED), now)
    }

    /// Whether `next` is later than this timing can mean: a clock was wrong when it was worked out.
    pub fn is_far_beyond(&self, next: Timestamp, now: Timestamp) -> bool {
        let latest = match self {
            Self::Cron { .. } => self.next(None, now),
            Self::Every { every } => Some(now + *every),
        };
        latest.is_some_and(|latest| next.since(latest) > Self::TRUSTED)
    }

    /// Why no job will come by this timing, with `next_at` for the next time; `None` when all is well.
    pub fn trouble(&self, next_at: Option<Timestamp>, now: Timestamp) -> Option<String> {
        if let Self::Cron { expression, zone } = self
            && let Err(why) = CronTimes::parse(expression, zone)
        {
            return Some(format!("{why}; no job comes until the schedule is put in place anew"));
        }
        let next = next_at.filter(|next| self.is_far_beyond(*next, now))?;
        Some(format!(
            "its next time, {next}, is far later than its timing says: a clock was wrong; resume it, or put it in place anew"
        ))
    }
}

/// What the jobs of a schedule are like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// The binary to run.
    pub name: JobName,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// JSON for its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<RawJson>,
    /// The rules under which it runs: without delay, deduplication and other jobs to wait for.
    pub options: JobOptions,
}

impl Template {
    /// Takes a checked job for a pattern.
    ///
    /// # Errors
    /// [`InvalidJob`] when it says something that a schedule can't keep.
    pub fn of(AcceptedJob { job, body }: AcceptedJob) -> Result<Self, InvalidJob> {
        if !job.options.delay.is_zero() {
            return Err(InvalidJob::new("delay_ms", "has no place in a schedule, whose times say when"));
        }
        if job.options.deduplication.is_some() {
            let why = "has no place in a schedule: no second job of it comes while one waits to be started";
            return Err(InvalidJob::new("deduplication", why));
        }
        if !job.options.after.is_empty() {
            return Err(InvalidJob::new("after", "has no place in a schedule, whose times say when"));
        }
        let (arguments, data) = body.parts();
        Ok(Self { name: job.name.clone(), arguments, data, options: job.options.clone() })
    }

    /// A job like this.
    pub fn job(&self, id: JobId, now: Timestamp) -> AcceptedJob {
        let job = Job { id, name: self.name.clone(), options: self.options.clone(), submitted_at: now, trace: None };
        AcceptedJob { job: Arc::new(job), body: JobBody::new(self.arguments.clone(), self.data.as_ref()) }
    }
}

/// A schedule: which jobs come when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Identifies it.
    pub id: ScheduleId,
    /// When its jobs are due.
    pub timing: Timing,
    /// What they are like.
    pub job: Template,
}

impl Schedule {
    /// The id of the job that is due at `due`: one for each time, however often it is made.
    pub fn job_id(&self, due: Timestamp) -> JobId {
        self.id.job_id(due)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn berlin(expression: &str) -> Timing {
        Timing::cron(expression, Some("Europe/Berlin"), at("2026-01-01T00:00:00Z")).unwrap()
    }

    fn times(timing: &Timing, from: &str, n: usize) -> Vec<String> {
        let mut now = at(from);
        let mut found = Vec::new();
        for _ in 0..n {
            now = timing.next(None, now).unwrap();
            found.push(now.to_string().replace(".000Z", "Z"));
        }
        found
    }

    #[test]
    fn a_time_that_clocks_skip_is_due_when_the_gap_ends() {
        // 2026-03-29: 02:00 becomes 03:00 in Berlin, at 01:00 UTC.
        let nightly = berlin("30 2 * * *");
        assert_eq!(
            times(&nightly, "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        let hourly = berlin("0 * * * *");
        assert_eq!(
            times(&hourly, "2026-03-29T00:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
            "an hour apart on the watch of somebody who waits"
        );
    }

    #[test]
    fn a_time_that_clocks_show_twice_is_due_once_and_a_repeating_one_goes_on() {
        // 2026-10-25: 03:00 becomes 02:00 in Berlin, at 01:00 UTC.
        let nightly = berlin("30 2 * * *");
        assert_eq!(times(&nightly, "2026-10-24T12:00:00Z", 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        let half_hourly = berlin("*/30 * * * *");
        assert_eq!(
            times(&half_hourly, "2026-10-25T00:00:00Z", 4),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"]
        );
    }

    #[test]
    fn five_and_six_fields_names_and_aliases_are_read() {
        let next = |expression: &str| {
            let timing = Timing::cron(expression, None, at("2026-11-24T08:00:00Z")).unwrap();
            times(&timing, "2026-11-24T08:00:00Z", 1).remove(0)
        };
        assert_eq!(next("30 4 * * mon-fri"), "2026-11-25T04:30:00Z");
        assert_eq!(next("*/20 * * * * *"), "2026-11-24T08:00:20Z");
        assert_eq!(next("0 0 L * *"), "2026-11-30T00:00:00Z");
        assert_eq!(next("@daily"), "2026-11-25T00:00:00Z");
    }

    #[test]
    fn what_is_wrong_with_a_timing_is_named() {
        let now = at("2026-11-24T08:00:00Z");
        let cron = |expression: &str, zone: Option<&str>| Timing::cron(expression, zone, now).unwrap_err();
        for bad in ["", "* * * *", "* * * * * * *", "60 * * * *", "0 25 * * *", "a b c d e", "0 0 30 2 *"] {
            assert_eq!(cron(bad, None).field, "cron", "{bad:?}");
        }
        let zone = cron("* * * * *", Some("Mars/Olympus"));
        assert_eq!((zone.field.as_str(), zone.problem.contains("Europe/Berlin")), ("tz", true));
        assert!(Timing::every(Duration::from_millis(999)).is_err());
        assert!(Timing::every(Duration::MAX).is_err());
    }

    #[test]
    fn a_clock_that_was_wrong_shows_and_its_times_are_forgotten() {
        let now = at("2026-11-24T08:00:00Z");
        let (minutely, ahead) = (berlin("* * * * *"), at("2036-11-24T08:01:00Z"));
        for timing in [minutely, Timing::every(Duration::from_secs(60)).unwrap()] {
            assert!(timing.is_far_beyond(ahead, now));
            assert!(timing.trouble(Some(ahead), now).unwrap().contains("2036"));
            let next = timing.next_anew(Some(ahead), now).unwrap();
            assert!(next.since(now) <= Duration::from_secs(60), "{next}");
            assert_eq!(timing.trouble(Some(next), now), None);
            // An hour that was put back is no reason to bring its times again.
            let an_hour = now + Duration::from_secs(3600);
            assert!(!timing.is_far_beyond(an_hour, now));
            assert!(timing.next_anew(Some(an_hour), now).unwrap() > an_hour);
        }
        let yearly = berlin("30 2 28 3 *");
        assert_eq!(yearly.trouble(Some(at("2027-03-28T01:00:00Z")), now), None);
        let odd = Timing::Cron { expression: "a b".to_owned(), zone: UTC.to_owned() };
        assert!(odd.trouble(None, now).unwrap().contains("not a cron expression"));
    }

    proptest! {
        #[test]
        fn an_interval_keeps_its_beat_and_is_never_late(last in 0i64..1_000_000, now in 0i64..9_000_000, every in 1000u64..90_000) {
            let timing = Timing::every(Duration::from_millis(every)).unwrap();
            let next = timing.next(Some(Timestamp::from_millis(last)), Timestamp::from_millis(now)).unwrap().as_millis();
            let every = i64::try_from(every).unwrap();
            prop_assert!(next > last && next > now, "nothing comes twice");
            prop_assert_eq!((next - last) % every, 0);
            prop_assert!(next - now.max(last) <= every);
        }

        #[test]
        fn a_clock_that_goes_back_brings_no_time_again(back in 0u64..100_000) {
            let timing = berlin("* * * * *");
            let last = at("2026-11-24T08:00:00Z");
            let next = timing.next(Some(last), last - Duration::from_secs(back)).unwrap();
            prop_assert_eq!(next, at("2026-11-24T08:01:00Z"));
        }
    }
}
