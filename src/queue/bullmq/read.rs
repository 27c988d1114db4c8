//! Reads jobs, counts and lists from the queue.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use serde_json::Value;

use super::super::{QueueError, QueuedJob, StateCounts};
use super::connect::{BullClient, BullError};
use super::counts::Counts;
use super::{BullSettings, Inner, format, keys, watched};
use crate::domain::{AcceptedJob, Job, JobId, JobState, Page, PageRequest, Progress, Timestamp, WorkerId};

/// A job's hash, with its due time under a name of Jobber's.
pub(super) type Fields = HashMap<String, String>;
/// Where [`fields`] puts the score of a delayed job.
const DUE: &str = "jobber:due";
/// How many of a page's last ids stand in the cursor of a list: one of them is probably still there for the next page.
const ANCHORS: usize = 8;

/// The set of jobs that wait for their children, which ends the list of delayed ones; stands before their places in it.
const CHILDREN: &str = "waiting-children";

/// BullMQ's state as Jobber names it; `None` for a job that is not there.
fn state(state: bullmq::JobState) -> Option<JobState> {
    match state {
        // To Jobber, a parent that waits for its children is delayed.
        bullmq::JobState::WaitingChildren | bullmq::JobState::Delayed => Some(JobState::Delayed),
        bullmq::JobState::Waiting => Some(JobState::Waiting),
        bullmq::JobState::Prioritized => Some(JobState::Prioritized),
        bullmq::JobState::Active => Some(JobState::Active),
        bullmq::JobState::Completed => Some(JobState::Completed),
        bullmq::JobState::Failed => Some(JobState::Failed),
        bullmq::JobState::Unknown => None,
    }
}

/// The job's state and hash, if it is there. The state is read first: fields that come with an end
/// are there when the end is seen.
pub(super) async fn fields(
    inner: &Inner,
    redis: &BullClient,
    id: &JobId,
) -> Result<Option<(JobState, Fields)>, BullError> {
    let Some(state) = state(redis.queue.get_job_state(id.as_str()).await?) else { return Ok(None) };
    let fields = hashes(inner, redis, &[id.to_string()], None).await?.pop().unwrap_or_default();
    Ok((!fields.is_empty()).then_some((state, fields)))
}

/// The hashes of these jobs, whole or only the fields of these names.
async fn hashes(
    inner: &Inner,
    redis: &BullClient,
    ids: &[String],
    names: Option<&[&str]>,
) -> Result<Vec<Fields>, BullError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut ask = redis::pipe();
    for id in ids {
        match names {
            None => ask.cmd("HGETALL").arg(inner.keys.job(id)),
            Some(names) => ask.cmd("HMGET").arg(inner.keys.job(id)).arg(names),
        };
        ask.cmd("ZSCORE").arg(inner.keys.bull("delayed")).arg(id);
    }
    let answers: Vec<redis::Value> = redis.queue.connection().pipe(&ask).await?;
    let mut found = Vec::with_capacity(ids.len());
    let mut answers = answers.into_iter();
    while let (Some(hash), Some(score)) = (answers.next(), answers.next()) {
        let mut fields: Fields = match names {
            None => {
                let fields: HashMap<Vec<u8>, Vec<u8>> =
                    redis::from_redis_value(hash).map_err(redis::RedisError::from)?;
                fields.into_iter().map(|(name, value)| (text(&name), text(&value))).collect()
            }
            Some(names) => {
                let values: Vec<Option<Vec<u8>>> = redis::from_redis_value(hash).map_err(redis::RedisError::from)?;
                let values = names.iter().zip(values);
                values.filter_map(|(name, value)| Some(((*name).to_owned(), text(&value?)))).collect()
            }
        };
        let score: Option<f64> = redis::from_redis_value(score).map_err(redis::RedisError::from)?;
        // A member of the delayed set may be left over when the hash is gone.
        if let (Some(score), false) = (score, fields.is_empty()) {
            fields.extend([due(score)]);
        }
        found.push(fields);
    }
    Ok(found)
}

/// When a delayed job is due, as a field.
fn due(score: f64) -> (String, String) {
    (DUE.to_owned(), format!("{:.0}", (score / keys::SCORE_PER_MS).floor()))
}

/// The job of a hash; `None` for one that Jobber can't run, and so can't express.
pub(super) fn job(settings: &BullSettings, id: &str, state: JobState, fields: &Fields) -> Option<QueuedJob> {
    let stored = bullmq::Job::from_redis_hash(id, fields).ok()?;
    let AcceptedJob { job, body } = format::read(&format::Stored::of_hash(id, fields), settings).ok()?;
    let counts = Counts::of(fields);
    let time = |ms: Option<u64>| ms.and_then(|ms| i64::try_from(ms).ok()).map(Timestamp::from_millis);
    let active = state == JobState::Active;
    let due_at = time(fields.get(DUE).and_then(|ms| ms.parse().ok()))
        .filter(|due| state == JobState::Delayed && due.since(job.submitted_at) < keys::FAR)
        .or_else(|| (state == JobState::Delayed && is_in_line(&job)).then(|| own_due_time(&job)).flatten());
    Some(QueuedJob {
        job,
        // A look at how a job stands does not read it.
        body: fields.contains_key("data").then_some(body),
        state,
        attempts_started: counts.started,
        attempts_finished: counts.finished,
        due_at,
        worker: stored.processed_by().filter(|_| active).and_then(|id| WorkerId::parse(id).ok()),
        progress: active.then(|| progress(fields.get("progress")?, counts.started)).flatten(),
        cancel_requested: fields.get(keys::CANCEL).cloned(),
        finished_at: time(stored.finished_on()).filter(|_| state.is_final()),
        result: (state == JobState::Completed).then(|| result(stored.returnvalue())).flatten(),
        waits_for: Vec::new(),
        error: Some(stored.failed_reason().to_owned()).filter(|e| !e.is_empty() && state != JobState::Completed),
    })
}

/// The progress that the job told in this attempt. A plain number is how other producers' workers say it.
fn progress(stored: &str, attempt: u32) -> Option<Progress> {
    let value: Value = serde_json::from_str(stored).ok()?;
    let percent = match &value {
        Value::Number(percent) => percent.as_f64().filter(|percent| *percent > 0.0)?,
        value => value.get("percent").or_else(|| value.get("progress"))?.as_f64()?,
    };
    let said_in = value.get("attempt").and_then(Value::as_u64);
    let text = value.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
    said_in.is_none_or(|n| n == u64::from(attempt)).then_some(Progress { percent, text })
}

/// The result of a completed job: wrapped, as the original's worker wrote it, or bare.
pub(super) fn result(stored: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(stored).ok()?;
    let inner = match value {
        Value::Object(mut object) if object.contains_key("success") => object.remove("result")?,
        value => value,
    };
    (!inner.is_null()).then_some(inner)
}

/// The jobs with these ids as they were submitted; `None` for those that are not there or can't be run here.
pub(super) async fn jobs(
    inner: &Inner,
    redis: &BullClient,
    ids: &[JobId],
) -> Result<Vec<Option<AcceptedJob>>, BullError> {
    let names: Vec<_> = ids.iter().map(JobId::to_string).collect();
    let found = hashes(inner, redis, &names, None).await?;
    let jobs = ids.iter().zip(found).map(|(id, fields)| {
        let stored = format::Stored::of_hash(id.as_str(), &fields);
        format::read(&stored, &inner.settings).ok().filter(|_| !fields.is_empty())
    });
    Ok(jobs.collect())
}

pub(super) async fn find(inner: &Inner, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
    let redis = inner.link.get().await?;
    let found = inner.link.call(try_join_all(ids.iter().map(|id| fields(inner, &redis, id)))).await?;
    let jobs = ids.iter().zip(found).map(|(id, found)| {
        let (state, fields) = found?;
        job(&inner.settings, id.as_str(), state, &fields)
    });
    let mut jobs: Vec<_> = jobs.collect();
    tell_whom_they_wait_for(inner, &redis, jobs.iter_mut().flatten()).await?;
    Ok(jobs)
}

/// The fields that [`job`] reads, but `data` and `returnvalue`.
const STANDING: [&str; 13] = [
    "name",
    "opts",
    "timestamp",
    "ats",
    "atm",
    "stc",
    keys::STALLS_BEFORE,
    keys::UNSTARTED,
    keys::CANCEL,
    "pb",
    "progress",
    "finishedOn",
    "failedReason",
];

pub(super) async fn standing(inner: &Inner, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
    let redis = inner.link.get().await?;
    inner.link.call(try_join_all(ids.iter().map(|id| standing_of(inner, &redis, id)))).await
}

async fn standing_of(inner: &Inner, redis: &BullClient, id: &JobId) -> Result<Option<QueuedJob>, BullError> {
    // The state first, as in [`fields`].
    let Some(state) = state(redis.queue.get_job_state(id.as_str()).await?) else { return Ok(None) };
    let fields = hashes(inner, redis, &[id.to_string()], Some(&STANDING)).await?.pop().unwrap_or_default();
    Ok(job(&inner.settings, id.as_str(), state, &fields))
}

pub(super) async fn counts(inner: &Inner) -> Result<StateCounts, QueueError> {
    let redis = inner.link.get().await?;
    let ask = async { Ok::<_, bullmq::Error>((redis.queue.get_job_counts().await?, redis.queue.is_paused().await?)) };
    let (counts, paused) = inner.link.call(ask).await?;
    Ok(StateCounts {
        // Older versions move what waits aside while the queue is paused.
        waiting: counts.waiting + counts.paused,
        delayed: counts.delayed + counts.waiting_children,
        prioritized: counts.prioritized,
        active: counts.active,
        completed: counts.completed,
        failed: counts.failed,
        paused,
    })
}

pub(super) async fn page(inner: &Inner, state: JobState, request: PageRequest) -> Result<Page<QueuedJob>, QueueError> {
    let redis = inner.link.get().await?;
    let after = match &request.cursor {
        Some(cursor) => {
            let behind = cursor.strip_prefix(state.as_str()).and_then(|rest| rest.strip_prefix('/'));
            Some(behind.ok_or_else(|| QueueError::foreign_cursor(cursor, state))?)
        }
        None => None,
    };
    let listed = async {
        let mut ids = match state {
            JobState::Waiting | JobState::Active => list(inner, &redis, state, after, request.limit + 1).await?,
            JobState::Delayed => delayed(inner, &redis, after, request.limit + 1).await?,
            JobState::Prioritized | JobState::Completed | JobState::Failed => {
                sorted(inner, &redis, state.as_str(), state.is_final(), after, request.limit + 1).await?
            }
        };
        let more = ids.len() > request.limit;
        ids.truncate(request.limit);
        let names: Vec<_> = ids.iter().map(|(id, _)| id.clone()).collect();
        Ok::<_, BullError>((hashes(inner, &redis, &names, Some(&STANDING)).await?, ids, more))
    };
    let (found, ids, more) = inner.link.call(listed).await?;
    let next = more.then(|| {
        let anchors: Vec<_> = ids.iter().rev().take(ANCHORS).map(|(_, place)| place.as_str()).collect();
        format!("{}/{}", state.as_str(), anchors.join("/"))
    });
    let items = ids.iter().zip(&found).filter_map(|((id, _), fields)| job(&inner.settings, id, state, fields));
    let mut items: Vec<_> = items.collect();
    // What a job waits for may stand in its data only.
    let waiting: Vec<_> = items.iter_mut().filter(|job| waits_for_others(job)).collect();
    let ids: Vec<_> = waiting.iter().map(|job| job.job.id.to_string()).collect();
    let whole = inner.link.call(hashes(inner, &redis, &ids, None)).await?;
    for (listed, (id, fields)) in waiting.into_iter().zip(ids.iter().zip(&whole)) {
        if let Some(found) = job(&inner.settings, id, state, fields) {
            *listed = QueuedJob { body: None, result: None, ..found };
        }
    }
    tell_whom_they_wait_for(inner, &redis, items.iter_mut()).await?;
    Ok(Page { items, next })
}

fn waits_for_others(job: &QueuedJob) -> bool {
    job.state == JobState::Delayed && job.due_at.is_none() && !is_in_line(&job.job)
}

/// Whether a job that is delayed without a time waits for its group's limit.
fn is_in_line(job: &Job) -> bool {
    job.options.group_limit.is_some() && job.options.after.is_empty()
}

/// When a job was to be ready by its own delay.
fn own_due_time(job: &Job) -> Option<Timestamp> {
    (!job.options.delay.is_zero()).then(|| job.submitted_at + job.options.delay)
}

/// Delayed without a time is until others have ended: adds which.
async fn tell_whom_they_wait_for(
    inner: &Inner,
    redis: &BullClient,
    jobs: impl Iterator<Item = &mut QueuedJob>,
) -> Result<(), QueueError> {
    for job in jobs.filter(|job| waits_for_others(job)) {
        job.waits_for = inner.link.call(watched::waits_for(inner, redis, &job.job)).await?;
    }
    Ok(())
}

/// An id as text. An id that is no text finds no job, and so does not stand in the way of those beside it.
fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

/// Ids of a list, in the order in which they are taken, behind the last id of `after` that is still there.
async fn list(
    inner: &Inner,
    redis: &BullClient,
    state: JobState,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, String)>, BullError> {
    let key = inner.keys.bull(if state == JobState::Active { "active" } else { "wait" });
    let mut end: isize = -1;
    for anchor in after.into_iter().flat_map(|after| after.split('/')) {
        let mut ask = redis::cmd("LPOS");
        ask.arg(&key).arg(anchor).arg("RANK").arg(-1);
        if let Some(place) = redis.queue.connection().cmd::<Option<isize>>(&mut ask).await? {
            if place == 0 {
                return Ok(Vec::new());
            }
            end = place - 1;
            break;
        }
    }
    let limit = isize::try_from(limit).unwrap_or(isize::MAX);
    // Taken from the right end; a start before the list's is its start.
    let start = if end < 0 { -limit } else { (end - limit + 1).max(0) };
    let mut range = redis::cmd("LRANGE");
    range.arg(&key).arg(start).arg(end);
    let ids: Vec<Vec<u8>> = redis.queue.connection().cmd(&mut range).await?;
    Ok(ids.iter().rev().map(|id| text(id)).map(|id| (id.clone(), id)).collect())
}

/// Ids of delayed jobs behind `after`: those that are due at some time, then those that wait for their children.
async fn delayed(
    inner: &Inner,
    redis: &BullClient,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, String)>, BullError> {
    let behind = after.and_then(|after| after.strip_prefix(CHILDREN));
    let mut found = match behind {
        None => sorted(inner, redis, JobState::Delayed.as_str(), false, after, limit).await?,
        Some(_) => Vec::new(),
    };
    let left = limit - found.len();
    if left > 0 {
        let parents = sorted(inner, redis, CHILDREN, false, behind, left).await?;
        found.extend(parents.into_iter().map(|(id, place)| (id, format!("{CHILDREN}{place}"))));
    }
    Ok(found)
}

/// Ids of a sorted set behind `after`, which is a score and an id: the next due first, or the last ended first.
async fn sorted(
    inner: &Inner,
    redis: &BullClient,
    set: &str,
    newest_first: bool,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, String)>, BullError> {
    let key = inner.keys.bull(set);
    let after = after.and_then(|after| after.split('/').next()).and_then(|place| place.split_once('@'));
    let (command, far) = if newest_first { ("ZREVRANGEBYSCORE", "-inf") } else { ("ZRANGEBYSCORE", "+inf") };
    let near = match after {
        Some((score, _)) => score,
        None if newest_first => "+inf",
        None => "-inf",
    };
    let mut found = Vec::new();
    let mut offset = 0;
    while found.len() < limit {
        let mut range = redis::cmd(command);
        range.arg(&key).arg(near).arg(far).arg("WITHSCORES").arg("LIMIT").arg(offset).arg(limit);
        let chunk: Vec<(Vec<u8>, String)> = redis.queue.connection().cmd(&mut range).await?;
        let chunk: Vec<_> = chunk.into_iter().map(|(id, score)| (text(&id), score)).collect();
        let last = chunk.len() < limit;
        offset += chunk.len();
        found.extend(chunk.into_iter().filter(|(id, score)| match after {
            // Within one score, ids are in order.
            Some((at, passed)) if score == at => {
                if newest_first {
                    id.as_str() < passed
                } else {
                    id.as_str() > passed
                }
            }
            _ => true,
        }));
        if last {
            break;
        }
    }
    found.truncate(limit);
    Ok(found.into_iter().map(|(id, score)| (id.clone(), format!("{score}@{id}"))).collect())
}
