//! Jobs that wait for others and that BullMQ can't make wait: it can't put a job after one that is in the queue
//! already, or after one that has a parent in BullMQ's sense (it knows one at most).
//!
//! Such a job is *watched*: it is put in delayed, by longer than any delay, and promoted when all jobs that it comes
//! after have ended. To promote a job is BullMQ's own step and works once, so any process may look after a watched job,
//! and none has to survive.
//!
//! BullMQ may remove a job in the very step that ends it. So a worker of Jobber's looks before that step whether
//! watched jobs come after the job, and notes how it is about to end. BullMQ's own event stream tells of every other
//! end, for as long as it reaches back. The stream is asked first: a note may be of an end that never came, since the
//! lease was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::QueueError;
use super::connect::{BullClient, BullError};
use super::{Inner, format, group_window, keys};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{AcceptedJob, Job, JobId, Timestamp};

/// The fields of an entry of a stream, with their values.
type EventFields = HashMap<Vec<u8>, Vec<u8>>;

/// The wait between two checks of the watched jobs, if this process hears of no end.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Ends that this process hears of within this time cause one check.
const TOGETHER: Duration = Duration::from_millis(10);
/// How many jobs are read in one go.
const BATCH: usize = 500;
/// How many jobs are checked at the same time.
const AT_ONCE: usize = 16;
/// How many of the jobs before a watched one are asked about at the same time.
const PARENTS_AT_ONCE: usize = 100;
/// How long the check of one job may take, besides the usual patience.
const LONGEST_CHECK: Duration = Duration::from_secs(10);
/// A job on record that is not in the queue after this time will not come any more.
const ADDING: Duration = Duration::from_secs(60);

/// Wakes this process's task that checks the watched jobs, when a job has ended.
#[derive(Default)]
pub(super) struct Watch {
    /// Whether there are any watched jobs: most queues have none.
    any: AtomicBool,
    ended: Notify,
}

impl Watch {
    /// Has this process check the watched jobs soon, since a job has ended.
    pub(super) fn wake(&self) {
        if self.any.load(Ordering::Relaxed) {
            self.ended.notify_one();
        }
    }
}

/// Puts on record, before they are added, that these jobs are to be watched.
pub(super) async fn watch(inner: &Inner, redis: &BullClient, jobs: &[&Job]) -> Result<(), BullError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let now = inner.clock.now().as_millis();
    let mut record = redis::pipe();
    record.atomic();
    for job in jobs {
        record.cmd("ZADD").arg(inner.keys.watched()).arg(now).arg(job.id.as_str()).ignore();
        link(inner, &mut record, job);
    }
    inner.watch.any.store(true, Ordering::Relaxed);
    Ok(redis.queue.connection().pipe(&record).await?)
}

/// Strikes jobs that were not added off the record.
pub(super) async fn unwatch(inner: &Inner, redis: &BullClient, jobs: &[&Job]) -> Result<(), BullError> {
    for job in jobs {
        strike_off(inner, redis, job.id.as_str()).await?;
    }
    Ok(())
}

async fn strike_off(inner: &Inner, redis: &BullClient, id: &str) -> Result<(), BullError> {
    unlink(inner, redis, id).await?;
    let mut strike = redis::cmd("ZREM");
    strike.arg(inner.keys.watched()).arg(id);
    Ok(redis.queue.connection().cmd(&mut strike).await?)
}

/// A check that is dropped leaves its jobs watched, for the next check.
const PROMOTION: BackgroundLoop = BackgroundLoop::new("jobs with parents", Period::Pause(CHECK_INTERVAL))
    .debug("jobs that come after others can't be looked after; trying again", "they are looked after again")
    .drop_run();

/// Checks the watched jobs until `stop`, and promotes those whose parents have ended.
pub(super) async fn promote_watched(inner: Arc<Inner>, stop: CancellationToken) {
    let Some(Some(redis)) = stop.run_until_cancelled(inner.link.wait()).await else { return };
    let ended = async || {
        inner.watch.ended.notified().await;
        tokio::time::sleep(TOGETHER).await;
    };
    let mut turns = PROMOTION.start(&stop);
    turns.wait_woken(ended()).await;
    let check = async || Ok(check_all(&inner, &redis).await.map(|()| NextRun::InTurn)?);
    while turns.run_woken(ended(), check()).await {}
}

/// Checks every watched job once, some of them at the same time, and each with patience of its own: a job that takes
/// long, because it comes after many, keeps no other from being checked.
async fn check_all(inner: &Inner, redis: &BullClient) -> Result<(), QueueError> {
    let began = inner.clock.now().as_millis();
    loop {
        let mut first = redis::cmd("ZRANGEBYSCORE");
        first.arg(inner.keys.watched()).arg("-inf").arg(format!("({began}"));
        first.arg("WITHSCORES").arg("LIMIT").arg(0).arg(BATCH);
        let first: Vec<(String, f64)> = inner.link.call(redis.queue.connection().cmd(&mut first)).await?;
        if first.is_empty() {
            // Those that were just looked at, if any, are still there.
            let mut count = redis::cmd("ZCARD");
            let count: u64 = inner.link.call(redis.queue.connection().cmd(count.arg(inner.keys.watched()))).await?;
            inner.watch.any.store(count > 0, Ordering::Relaxed);
            return Ok(());
        }
        inner.watch.any.store(true, Ordering::Relaxed);
        let is_last = first.len() < BATCH;
        let mut moved = false;
        for together in first.chunks(AT_ONCE) {
            let checks = together.iter().map(|(id, since)| check_one(inner, redis, id, *since));
            moved |= future::join_all(checks).await.contains(&true);
        }
        if is_last || !moved {
            return Ok(());
        }
    }
}

/// Checks a watched job, and puts it behind the others or strikes it off. Answers false when the job is just being
/// added.
async fn check_one(inner: &Inner, redis: &BullClient, id: &str, since: f64) -> bool {
    let since = Timestamp::from_millis(since as i64);
    let found = inner.link.call_longer(LONGEST_CHECK, check(inner, redis, id, since)).await;
    let moved = match found.as_ref().unwrap_or(&NextStep::Watch) {
        NextStep::Wait => return false,
        // Behind the others, so that all have their turn.
        NextStep::Watch => inner.link.call(move_to_end(inner, redis, id)).await,
        NextStep::StrikeOff => inner.link.call_longer(LONGEST_CHECK, strike_off(inner, redis, id)).await,
    };
    if let Err(error) = found.map(drop).and(moved) {
        tracing::debug!(job = id, %error, "a job that comes after others was not looked at to the end");
    }
    true
}

async fn move_to_end(inner: &Inner, redis: &BullClient, id: &str) -> Result<(), BullError> {
    let mut again = redis::cmd("ZADD");
    again.arg(inner.keys.watched()).arg("XX").arg(inner.clock.now().as_millis()).arg(id);
    Ok(redis.queue.connection().cmd(&mut again).await?)
}

/// What is to become of a watched job.
enum NextStep {
    /// It seems that a process is just adding it.
    Wait,
    /// It stays on the record of watched jobs.
    Watch,
    /// It was promoted, or there is nothing to promote any more.
    StrikeOff,
}

/// Notes which of the jobs before this one have ended. Lets this job go when all of them have, or
/// when one of them has failed.
async fn check(inner: &Inner, redis: &BullClient, id: &str, since: Timestamp) -> Result<NextStep, BullError> {
    use bullmq::JobState::Delayed;
    let Some(stored) = redis.queue.get_job(id).await? else {
        // Just being added, or taken out.
        let waits = inner.clock.now().since(since) < ADDING;
        return Ok(if waits { NextStep::Wait } else { NextStep::StrikeOff });
    };
    let Ok(AcceptedJob { job, .. }) = format::read(&format::Stored::of(&stored), &inner.settings) else {
        return Ok(NextStep::StrikeOff);
    };
    if redis.queue.get_job_state(id).await? != Delayed {
        return Ok(NextStep::StrikeOff);
    }
    let (processed, failed) = noted(inner, redis, id).await?;
    let (mut pending, mut barred) = (false, !failed.is_empty());
    let unknown = job.options.after.iter().filter(|before| {
        let key = inner.keys.job(before.as_str());
        !processed.contains_key(&key) && !failed.contains_key(&key)
    });
    let unknown: Vec<_> = unknown.collect();
    let mut found = Vec::with_capacity(unknown.len());
    for together in unknown.chunks(PARENTS_AT_ONCE) {
        // Side by side: the way to Redis and back is then paid for once.
        let ends = together.iter().map(|before| parent_state(inner, redis, before));
        found.extend(future::try_join_all(ends).await?);
    }
    let mut note = redis::pipe();
    for (key, end) in found {
        match end {
            ParentState::Open => pending = true,
            ParentState::Ended(End::Completed(value)) => {
                note.cmd("HSET").arg(inner.keys.processed(id)).arg(key).arg(value).ignore();
            }
            ParentState::Ended(End::Failed(why)) => {
                barred = true;
                note.cmd("HSET").arg(inner.keys.failed_before(id)).arg(key).arg(why).ignore();
            }
            ParentState::Removed => {}
        }
    }
    if !note.is_empty() {
        redis.queue.connection().pipe::<()>(&note).await?;
    }
    if pending && !barred {
        return Ok(NextStep::Watch);
    }
    if !barred && group_window::limit_of(&job).is_some() {
        group_window::park_delayed(inner, redis, &job, job.options.delay).await?;
        return Ok(NextStep::StrikeOff);
    }
    let promoted = if job.options.delay.is_zero() || barred {
        stored.promote().await
    } else {
        stored.change_delay(u64::try_from(job.options.delay.as_millis()).unwrap_or(u64::MAX)).await
    };
    match promoted {
        Ok(()) => Ok(NextStep::StrikeOff),
        Err(bullmq::Error::Redis(error)) => Err(error.into()),
        // Another process was first, or a program took the job out.
        Err(error) => {
            tracing::debug!(job = id, %error, "a job that came after others has moved on by itself");
            Ok(NextStep::StrikeOff)
        }
    }
}

/// What became of a job that a watched one comes after.
enum ParentState {
    Open,
    Ended(End),
    /// It was taken out before its end, and is not waited for any more.
    Removed,
}

/// The job's key, and what became of it.
async fn parent_state(inner: &Inner, redis: &BullClient, before: &JobId) -> Result<(String, ParentState), BullError> {
    use bullmq::JobState::{Completed, Failed, Unknown};
    let key = inner.keys.job(before.as_str());
    let field = match redis.queue.get_job_state(before.as_str()).await? {
        Completed => Some("returnvalue"),
        Failed => Some("failedReason"),
        Unknown => None,
        _ => return Ok((key, ParentState::Open)),
    };
    let word = match field {
        Some(field) => {
            let mut read = redis::cmd("HGET");
            let word: Option<Vec<u8>> = redis.queue.connection().cmd(read.arg(&key).arg(field)).await?;
            word.map(|word| String::from_utf8_lossy(&word).into_owned())
        }
        None => None,
    };
    let end = match (field, word) {
        (Some("returnvalue"), Some(value)) => Some(End::Completed(value)),
        (Some(_), Some(why)) => Some(End::Failed(why)),
        // It has left the queue, maybe just now.
        _ => end_of_removed(inner, redis, before.as_str()).await?,
    };
    Ok((key, end.map_or(ParentState::Removed, ParentState::Ended)))
}

/// Whether a job is put off until others have ended.
pub(super) async fn is_watched(inner: &Inner, redis: &BullClient, job: &Job) -> Result<bool, BullError> {
    if job.options.after.is_empty() {
        return Ok(false);
    }
    let mut score = redis::cmd("ZSCORE");
    score.arg(inner.keys.bull("delayed")).arg(job.id.as_str());
    let score = redis.queue.connection().cmd::<Option<f64>>(&mut score).await?;
    let due = score.map(|score| Timestamp::from_millis((score / keys::SCORE_PER_MS) as i64));
    Ok(due.is_some_and(|due| due.since(job.submitted_at) >= keys::FAR))
}

type Hash = HashMap<String, String>;

/// The results of a job's children, or of the jobs before a watched one, and the reasons why others
/// of them failed: each by the key of the job.
pub(super) async fn noted(inner: &Inner, redis: &BullClient, id: &str) -> Result<(Hash, Hash), BullError> {
    let mut ask = redis::pipe();
    ask.cmd("HGETALL").arg(inner.keys.processed(id));
    ask.cmd("HGETALL").arg(inner.keys.failed_before(id));
    Ok(redis.queue.connection().pipe(&ask).await?)
}

/// The jobs that a job without a due time waits for.
pub(super) async fn waits_for(inner: &Inner, redis: &BullClient, job: &Job) -> Result<Vec<JobId>, BullError> {
    let mut members = redis::cmd("SMEMBERS");
    members.arg(inner.keys.dependencies(job.id.as_str()));
    let keys: Vec<String> = redis.queue.connection().cmd(&mut members).await?;
    if keys.is_empty() {
        // The job is watched: ends may not have been noted yet.
        use bullmq::JobState::{Completed, Unknown};
        let mut left = Vec::new();
        for id in &job.options.after {
            if !matches!(redis.queue.get_job_state(id.as_str()).await?, Completed | Unknown) {
                left.push(id.clone());
            }
        }
        return Ok(left);
    }
    let mut ids: Vec<_> =
        keys.iter().filter_map(|key| JobId::parse(inner.keys.id_of(key).unwrap_or(key)).ok()).collect();
    ids.sort();
    Ok(ids)
}

/// How many events are read in one go.
const CHUNK: usize = 1000;

/// How a job ended, in BullMQ's words.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// It completed with this return value, as JSON.
    Completed(String),
    /// It failed for this reason.
    Failed(String),
}

/// The beginning of members of the links that lead from a job to those after it.
fn to_children(id: &str) -> String {
    format!("after/{id}/")
}

/// The beginning of members of the links that lead from a watched job to those before it.
fn to_parents(id: &str) -> String {
    format!("before/{id}/")
}

/// Records what a watched job comes after.
fn link(inner: &Inner, record: &mut redis::Pipeline, job: &Job) {
    let id = job.id.as_str();
    for before in &job.options.after {
        let add = record.cmd("ZADD").arg(inner.keys.links());
        add.arg(0).arg(to_children(before.as_str()) + id);
        add.arg(0).arg(to_parents(id) + before.as_str()).ignore();
    }
}

/// Forgets the links of a job that is not watched any more, and the ends that were noted only for it.
async fn unlink(inner: &Inner, redis: &BullClient, id: &str) -> Result<(), BullError> {
    for before in linked(inner, redis, &to_parents(id), None).await? {
        let mut strike = redis::pipe();
        strike.atomic();
        strike
            .cmd("ZREM")
            .arg(inner.keys.links())
            .arg(to_children(&before) + id)
            .arg(to_parents(id) + &before)
            .ignore();
        redis.queue.connection().pipe::<()>(&strike).await?;
        if linked(inner, redis, &to_children(&before), Some(1)).await?.is_empty() {
            let mut forget = redis::cmd("HDEL");
            forget.arg(inner.keys.ends()).arg(before);
            redis.queue.connection().cmd::<()>(&mut forget).await?;
        }
    }
    Ok(())
}

/// The ids behind this beginning of a link.
async fn linked(inner: &Inner, redis: &BullClient, from: &str, limit: Option<usize>) -> Result<Vec<String>, BullError> {
    let mut range = redis::cmd("ZRANGEBYLEX");
    // No id holds a byte that is greater.
    range.arg(inner.keys.links()).arg(format!("[{from}")).arg(format!("({from}\u{7f}"));
    if let Some(limit) = limit {
        range.arg("LIMIT").arg(0).arg(limit);
    }
    let members: Vec<String> = redis.queue.connection().cmd(&mut range).await?;
    Ok(members.iter().filter_map(|member| member.strip_prefix(from)).map(str::to_owned).collect())
}

/// Notes how a job is about to end, if watched jobs come after it. If the job is of a request that
/// was not answered yet, notes that it ends: a repeat of the request must not run it anew.
pub(super) async fn note_end(inner: &Inner, redis: &BullClient, id: &str, end: &End) -> Result<(), BullError> {
    let from = to_children(id);
    let mut ask = redis::pipe();
    ask.cmd("ZRANGEBYLEX").arg(inner.keys.links()).arg(format!("[{from}")).arg(format!("({from}\u{7f}"));
    ask.arg("LIMIT").arg(0).arg(1);
    ask.cmd("HEXISTS").arg(inner.keys.requested()).arg(id);
    let (children, requested): (Vec<String>, bool) = redis.queue.connection().pipe(&ask).await?;
    if children.is_empty() && !requested {
        return Ok(());
    }
    let mut note = redis::pipe();
    if !children.is_empty() {
        let text = serde_json::to_string(end).map_err(bullmq::Error::from)?;
        note.cmd("HSET").arg(inner.keys.ends()).arg(id).arg(text).ignore();
    }
    if requested {
        note.cmd("HSET").arg(inner.keys.requested()).arg(id).arg(keys::ENDED).ignore();
    }
    Ok(redis.queue.connection().pipe::<()>(&note).await?)
}

/// How a job ended that is not in the queue any more; `None` when it was taken out before its end.
async fn end_of_removed(inner: &Inner, redis: &BullClient, id: &str) -> Result<Option<End>, BullError> {
    let mut from = "+".to_owned();
    loop {
        let mut range = redis::cmd("XREVRANGE");
        range.arg(inner.keys.bull("events")).arg(&from).arg("-").arg("COUNT").arg(CHUNK);
        // Bytes: other programs write what they like.
        let events: Vec<(String, EventFields)> = redis.queue.connection().cmd(&mut range).await?;
        let of_it = |event: &HashMap<Vec<u8>, Vec<u8>>| event.get(&b"jobId"[..]).is_some_and(|of| of == id.as_bytes());
        for (_, event) in events.iter().filter(|(_, event)| of_it(event)) {
            let word = |field: &str| {
                event
                    .get(field.as_bytes())
                    .map_or_else(|| "null".into(), |word| String::from_utf8_lossy(word).into_owned())
            };
            match event.get(&b"event"[..]).map(Vec::as_slice) {
                Some(b"completed") => return Ok(Some(End::Completed(word("returnvalue")))),
                Some(b"failed") => return Ok(Some(End::Failed(word("failedReason")))),
                Some(b"added" | b"waiting" | b"delayed" | b"waiting-children" | b"active" | b"stalled") => {
                    return Ok(None);
                }
                // Some of the other events come after the end.
                Some(_) | None => {}
            }
        }
        let Some((last, _)) = events.last().filter(|_| events.len() == CHUNK) else { break };
        from = format!("({last}");
    }
    let mut read = redis::cmd("HGET");
    let noted: Option<String> = redis.queue.connection().cmd(read.arg(inner.keys.ends()).arg(id)).await?;
    Ok(noted.map(|text| serde_json::from_str(&text)).transpose().map_err(bullmq::Error::from)?)
}
