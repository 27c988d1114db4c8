//! When a schedule's next job is due, and how BullMQ is told so.
//!
//! The crate works the next time out by itself, from a pattern as croner reads it. croner does not
//! read all that cron-parser (BullMQ's own) reads, and finds other times where clocks are put
//! forward or back. So Jobber gives the crate a pattern in the writing that all read alike. Where
//! the crate's time would still differ from Jobber's ([`CronTimes`]), Jobber gives it a pattern of
//! that one moment. That stands there for as long as one call takes: Jobber puts the schedule's own
//! pattern on record before it, and the first process that comes by writes it back after it.

use std::collections::HashMap;

use bullmq::JobOptions;
use bullmq::job_scheduler::{JobSchedulerJson, RepeatOptions, next_cron_millis};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::connect::{BullClient, BullError};
use super::{Inner, keys};
use crate::domain::cron::CronTimes;
use crate::domain::{Timestamp, schedule};

/// A schedule's own pattern, while another stands in its place.
#[derive(Serialize, Deserialize)]
struct OwnPattern {
    pattern: String,
    tz: Option<String>,
    /// When its next job is due.
    due: i64,
}

/// The template of a schedule's jobs.
pub(super) struct JobTemplate<'p> {
    pub(super) name: &'p str,
    pub(super) data: Option<Value>,
    pub(super) options: Option<JobOptions>,
}

fn invalid(why: String) -> BullError {
    BullError::Bull(bullmq::Error::InvalidConfig(why))
}

fn millis(at: Timestamp) -> u64 {
    at.as_millis().unsigned_abs()
}

/// When a schedule is due next, and its timing as all programs read it.
fn next_by_jobber(repeat: &RepeatOptions, now: Timestamp) -> Result<(RepeatOptions, Timestamp), String> {
    let pattern = repeat.pattern.as_deref().unwrap_or_default();
    let times = CronTimes::parse(pattern, repeat.tz.as_deref().unwrap_or(schedule::UTC))?;
    let start = repeat.start_date.and_then(|ms| i64::try_from(ms).ok()).map(Timestamp::from_millis);
    let next = times.next_after(start.map_or(now, |start| start.max(now)));
    let due = next.ok_or_else(|| format!("there is no time like {pattern:?}"))?;
    // Without a zone BullMQ's workers take their own.
    let tz = repeat.tz.as_ref().map(|_| times.zone());
    Ok((RepeatOptions { pattern: Some(times.expression().to_owned()), tz, ..repeat.clone() }, due))
}

/// When the crate thinks that a schedule is due next; `None` where it can't read the timing.
fn next_by_crate(repeat: &RepeatOptions, now: Timestamp) -> Option<u64> {
    let pattern = repeat.pattern.as_deref().unwrap_or_default();
    next_cron_millis(pattern, millis(now), repeat.tz.as_deref(), repeat.start_date).ok().flatten()
}

/// Whether the crate would find this time, too.
fn agrees(repeat: &RepeatOptions, now: Timestamp, due: Timestamp) -> bool {
    next_by_crate(repeat, now) == Some(millis(due))
}

/// Whether the crate, left alone, makes the right job follow this one of a schedule.
pub(super) fn goes_on_by_itself(job: &bullmq::Job, now: Timestamp) -> bool {
    let Some(repeat) = &job.opts().repeat else { return false };
    if repeat.every.is_some() {
        return true;
    }
    let repeat = RepeatOptions {
        pattern: repeat.pattern.clone(),
        tz: repeat.tz.clone(),
        start_date: repeat.start_date,
        ..RepeatOptions::default()
    };
    next_by_jobber(&repeat, now).is_ok_and(|(_, due)| agrees(&repeat, now, due))
}

/// The timing of a stored schedule.
pub(super) fn of_stored(stored: &JobSchedulerJson) -> RepeatOptions {
    RepeatOptions {
        pattern: stored.pattern.clone(),
        every: stored.every,
        limit: stored.limit,
        immediately: None,
        offset: stored.offset,
        start_date: stored.start_date,
        end_date: stored.end_date,
        tz: stored.tz.clone(),
        count: Some(stored.iteration_count),
    }
}

/// Gives a schedule to BullMQ, with its next job.
pub(super) async fn upsert(
    inner: &Inner,
    redis: &BullClient,
    id: &str,
    repeat: RepeatOptions,
    template: JobTemplate<'_>,
) -> Result<(), BullError> {
    let JobTemplate { name, data, options } = template;
    let now = inner.clock.now();
    if repeat.pattern.is_none() {
        redis.queue.upsert_job_scheduler(id, repeat, Some(name), data, options).await?;
        return Ok(());
    }
    let (canonical, due) = next_by_jobber(&repeat, now).map_err(invalid)?;
    // The pattern as it was written, if the crate can read that.
    let repeat = if next_by_crate(&repeat, now).is_some() { repeat } else { canonical };
    if repeat.end_date.is_some_and(|end| millis(due) > end) {
        return Ok(());
    }
    if agrees(&repeat, now, due) {
        redis.queue.upsert_job_scheduler(id, repeat, Some(name), data, options).await?;
        return Ok(());
    }
    let own =
        OwnPattern { pattern: repeat.pattern.clone().unwrap_or_default(), tz: repeat.tz.clone(), due: due.as_millis() };
    let record = serde_json::to_string(&own).map_err(bullmq::Error::from)?;
    let mut keep = redis::cmd("HSET");
    redis.queue.connection().cmd::<()>(keep.arg(inner.keys.replaced_patterns()).arg(id).arg(record)).await?;
    let once = RepeatOptions { pattern: Some(moment(due)), tz: Some(schedule::UTC.to_owned()), ..repeat };
    let put = redis.queue.upsert_job_scheduler(id, once, Some(name), data, options).await;
    restore(inner, redis, id, &own).await?;
    Ok(put.map(drop)?)
}

/// A pattern of one moment, with its year.
fn moment(due: Timestamp) -> String {
    let text = due.to_string();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.trim_start_matches('0'));
    let mut number = || numbers.next().filter(|n| !n.is_empty()).unwrap_or("0").to_owned();
    let (year, month, day, hour, minute, second) = (number(), number(), number(), number(), number(), number());
    format!("{second} {minute} {hour} {day} {month} * {year}")
}

/// Writes a schedule's own pattern back.
async fn restore(inner: &Inner, redis: &BullClient, id: &str, own: &OwnPattern) -> Result<(), BullError> {
    /// A job that is due sooner may be taken any moment.
    const SOON: std::time::Duration = std::time::Duration::from_secs(2);
    let connection = redis.queue.connection();
    let schedule = inner.keys.bull(&format!("repeat:{id}"));
    let job = inner.keys.job(&format!("repeat:{id}:{}", own.due));
    let mut read = redis::cmd("HGET");
    let options: Option<String> = connection.cmd(read.arg(&job).arg("opts")).await?;
    let mut write = redis::pipe();
    write.atomic();
    let pattern = write.cmd("EVAL").arg(keys::SET_IF_THERE).arg(1).arg(&schedule).arg("pattern").arg(&own.pattern);
    match &own.tz {
        Some(tz) => pattern.arg("tz").arg(tz).ignore(),
        None => pattern.ignore().cmd("HDEL").arg(&schedule).arg("tz").ignore(),
    };
    // The worker that takes the job goes on from the pattern in its options.
    let options = options.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    if let Some(mut options) = options
        && Timestamp::from_millis(own.due).since(inner.clock.now()) > SOON
        && let Some(repeat) = options.get_mut("repeat").and_then(Value::as_object_mut)
    {
        repeat.insert("pattern".to_owned(), own.pattern.clone().into());
        match &own.tz {
            Some(tz) => repeat.insert("tz".to_owned(), tz.clone().into()),
            None => repeat.remove("tz"),
        };
        write.cmd("EVAL").arg(keys::SET_IF_THERE).arg(1).arg(&job).arg("opts").arg(options.to_string()).ignore();
    }
    write.cmd("HDEL").arg(inner.keys.replaced_patterns()).arg(id).ignore();
    Ok(connection.pipe(&write).await?)
}

/// Writes back the patterns that a process left undone when it died.
pub(super) async fn restore_all(inner: &Inner, redis: &BullClient) -> Result<(), BullError> {
    let mut all = redis::cmd("HGETALL");
    let all: HashMap<String, String> = redis.queue.connection().cmd(all.arg(inner.keys.replaced_patterns())).await?;
    for (id, text) in all {
        if let Ok(own) = serde_json::from_str::<OwnPattern>(&text) {
            restore(inner, redis, &id, &own).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn repeat(pattern: &str, tz: &str) -> RepeatOptions {
        RepeatOptions { pattern: Some(pattern.to_owned()), tz: Some(tz.to_owned()), ..RepeatOptions::default() }
    }

    #[test]
    fn a_pattern_of_one_moment_is_that_moment() {
        for due in ["2027-03-28T01:00:00Z", "2030-12-31T23:59:59Z", "2028-02-29T00:00:07Z"] {
            let (due, now) = (at(due), at("2026-11-24T08:00:00Z"));
            assert!(agrees(&repeat(&moment(due), "UTC"), now, due), "{}", moment(due));
        }
    }

    #[test]
    fn where_the_crate_finds_another_time_it_is_noticed() {
        let now = at("2027-03-27T12:00:00Z");
        let (canonical, due) = next_by_jobber(&repeat("30 2,14 28 3 *", "europe/berlin"), now).unwrap();
        assert_eq!((due, canonical.tz.as_deref()), (at("2027-03-28T01:00:00Z"), Some("Europe/Berlin")));
        assert!(!agrees(&canonical, now, due));
        let odd = repeat("0/3 * * * * *", "utc");
        let (canonical, due) = next_by_jobber(&odd, now).unwrap();
        assert!(agrees(&canonical, now, due) && !agrees(&odd, now, due));
    }
}
