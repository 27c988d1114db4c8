//! The changes that an operator makes, except stopping a job (see [`super::cancel`]).

use std::sync::Arc;

use bullmq::RetryOptions;

use super::super::{Change, CleanRequest, QueueError, QueueErrorKind};
use super::connect::{BullClient, BullError};
use super::counts::Counts;
use super::{Inner, group_window, keys, read, watched};
use crate::domain::{AcceptedJob, Job, JobId, JobState};

/// A job as an operator finds it.
pub(super) struct Found {
    pub(super) stored: bullmq::Job,
    pub(super) job: Arc<Job>,
    pub(super) state: JobState,
    pub(super) counts: Counts,
}

/// The job, if the queue knows it.
pub(super) async fn find(inner: &Inner, redis: &BullClient, id: &JobId) -> Result<Option<Found>, QueueError> {
    let Some((state, fields)) = inner.link.call(read::fields(inner, redis, id)).await? else { return Ok(None) };
    // Asked of the crate, because the job that it gives can act.
    let Some(stored) = inner.link.call(redis.queue.get_job(id.as_str())).await? else { return Ok(None) };
    let Ok(AcceptedJob { job, .. }) =
        super::format::read(&super::format::Stored::of_hash(id.as_str(), &fields), &inner.settings)
    else {
        return Ok(None);
    };
    Ok(Some(Found { stored, job, state, counts: Counts::of(&fields) }))
}

pub(super) async fn retry(inner: &Inner, id: &JobId) -> Result<Change, QueueError> {
    let redis = inner.link.get().await?;
    let Some(mut found) = find(inner, &redis, id).await? else { return Ok(Change::NotFound) };
    if found.state != JobState::Failed {
        return Ok(Change::WrongState(found.state));
    }
    let key = found.job.options.deduplication.as_ref().filter(|d| d.ttl.is_none()).map(|d| d.key.clone());
    if let Some(key) = &key
        && let Some(holder) = inner.link.call(take_key(inner, &redis, key, id)).await?
    {
        return Ok(Change::KeyTaken(holder));
    }
    let act = async {
        let key = inner.keys.job(id.as_str());
        let mut afresh = redis::pipe();
        afresh.atomic();
        afresh.cmd("HDEL").arg(&key).arg(keys::CANCEL).arg("defa").ignore();
        // Failed jobs that came before it do not bar it any more.
        afresh.cmd("DEL").arg(inner.keys.failed_before(id.as_str())).ignore();
        afresh.cmd("HDEL").arg(inner.keys.cancels()).arg(id.as_str()).ignore();
        let note = afresh.cmd("EVAL").arg(keys::SET_IF_THERE).arg(1).arg(&key);
        note.arg(keys::STALLS_BEFORE).arg(found.counts.stalls).ignore();
        redis.queue.connection().pipe::<()>(&afresh).await?;
        if group_window::limit_of(&found.job).is_some() {
            let is_parked = group_window::park_failed(inner, &redis, &found.job).await?;
            return if is_parked { Ok(()) } else { Err(bullmq::Error::JobNotFound(id.to_string()).into()) };
        }
        let budget = RetryOptions { reset_attempts_made: true, reset_attempts_started: false };
        Ok::<_, BullError>(found.stored.retry("failed", Some(budget)).await?)
    };
    let done = changed(inner, &redis, id, inner.link.call(act).await, &found.job, found.counts.started).await;
    if let (Some(key), Ok(Change::NotFound | Change::WrongState(JobState::Completed | JobState::Failed))) = (key, &done)
    {
        inner.link.call(redis.queue.remove_deduplication_key(&key, id.as_str())).await?;
    }
    done
}

/// Takes the deduplication key again that the job held until it ended. Answers which other job
/// holds it, if one does.
async fn take_key(inner: &Inner, redis: &BullClient, key: &str, id: &JobId) -> Result<Option<JobId>, BullError> {
    let name = inner.keys.deduplication(key);
    loop {
        let mut take = redis::cmd("SET");
        take.arg(&name).arg(id.as_str()).arg("NX").arg("GET");
        let holder: Option<String> = redis.queue.connection().cmd(&mut take).await?;
        let Some(holder) = holder.filter(|holder| holder != id.as_str()) else { return Ok(None) };
        let mut there = redis::cmd("EXISTS");
        if redis.queue.connection().cmd::<bool>(there.arg(inner.keys.job(&holder))).await? {
            return Ok(JobId::parse(&holder).ok());
        }
        // The holder left the queue without giving the key back.
        redis.queue.remove_deduplication_key(key, &holder).await?;
    }
}

pub(super) async fn promote(inner: &Inner, id: &JobId) -> Result<Change, QueueError> {
    let redis = inner.link.get().await?;
    let Some(found) = find(inner, &redis, id).await? else { return Ok(Change::NotFound) };
    if found.state != JobState::Delayed {
        return Ok(Change::WrongState(found.state));
    }
    if inner.link.call(watched::is_watched(inner, &redis, &found.job)).await? {
        return Ok(Change::WrongState(found.state));
    }
    if let Some(enters_at) = inner.link.call(group_window::place_in_line(inner, &redis, &found.job)).await? {
        if enters_at <= inner.clock.now() {
            return Ok(Change::WrongState(found.state));
        }
        inner.link.call(group_window::end_delay(inner, &redis, &found.job)).await?;
        return Ok(Change::Done(found.job, found.counts.started));
    }
    let promoted = inner.link.call(found.stored.promote()).await;
    changed(inner, &redis, id, promoted, &found.job, found.counts.started).await
}

pub(super) async fn remove(inner: &Inner, id: &JobId) -> Result<Change, QueueError> {
    let redis = inner.link.get().await?;
    let Some(found) = find(inner, &redis, id).await? else { return Ok(Change::NotFound) };
    if found.state == JobState::Active {
        return Ok(Change::WrongState(found.state));
    }
    if inner.link.call(redis.queue.remove_without_children(id.as_str())).await? {
        if let Some((group, limit)) = group_window::limit_of(&found.job) {
            group_window::left(inner, &redis, group, limit, id).await;
        }
        Ok(Change::Done(found.job, found.counts.started))
    } else {
        // A worker has taken the job meanwhile, and holds its lock.
        Ok(Change::WrongState(JobState::Active))
    }
}

/// Reads a refusal by BullMQ: it means that the job had moved on meanwhile.
async fn changed(
    inner: &Inner,
    redis: &BullClient,
    id: &JobId,
    result: Result<(), QueueError>,
    job: &Arc<Job>,
    started: u32,
) -> Result<Change, QueueError> {
    match result {
        Ok(()) => Ok(Change::Done(job.clone(), started)),
        Err(error) if error.kind == QueueErrorKind::Corrupt => {
            Ok(find(inner, redis, id).await?.map_or(Change::NotFound, |now| Change::WrongState(now.state)))
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn set_paused(inner: &Inner, paused: bool) -> Result<(), QueueError> {
    let redis = inner.link.get().await?;
    let act = async { if paused { redis.queue.pause().await } else { redis.queue.resume().await } };
    inner.link.call(act).await
}

pub(super) async fn clean(inner: &Inner, request: CleanRequest) -> Result<u64, QueueError> {
    if !request.state.is_final() {
        return Err(QueueError::not_cleanable(request.state));
    }
    // To BullMQ, zero is no limit.
    let limit = u32::try_from(request.limit).unwrap_or(u32::MAX);
    if limit == 0 {
        return Ok(0);
    }
    let redis = inner.link.get().await?;
    let grace = u64::try_from(request.older_than.as_millis()).unwrap_or(u64::MAX);
    let removed = inner.link.call(redis.queue.clean(grace, limit, request.state.as_str())).await?;
    Ok(removed.len() as u64)
}
