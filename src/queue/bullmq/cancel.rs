//! Stopping a job, wherever it is.
//!
//! The worker that holds a running job is told, and decides. The request is on record until the job
//! has ended, so it outlives any holder. This process ends a job that is not running: it takes the
//! job like a worker would, with a lock of its own, and fails it.

use super::super::{Cancellation, QueueError};
use super::admin::{self, Found};
use super::connect::{BullClient, BullError};
use super::signals::{self, Message};
use super::watched::{self, End};
use super::{Inner, group_window, keys};
use crate::domain::outcome::cancelled_because;
use crate::domain::{JobId, JobState};

/// How long the lock holds that fences the ending of a job, in milliseconds. If this process dies
/// in between, the job comes back to the queue afterwards, and the worker that takes it stops it.
const LOCK_MS: u64 = 5_000;
/// How often a job may move on while this process looks at it.
const TRIES: u32 = 20;

pub(super) async fn cancel(inner: &Inner, id: &JobId, reason: &str) -> Result<Cancellation, QueueError> {
    let redis = inner.link.get().await?;
    let Some(found) = admin::find(inner, &redis, id).await? else { return Ok(Cancellation::NotFound) };
    if found.state.is_final() {
        return Ok(Cancellation::AlreadyFinal(found.state));
    }
    // On record first, so that every worker that takes the job from now on is told.
    let Some(reason) = inner.link.call(record(inner, &redis, id, reason)).await? else {
        return Ok(Cancellation::NotFound);
    };
    let mut found = Some(found);
    for _ in 0..TRIES {
        let Some(Found { mut stored, job, .. }) = found else {
            // A later job with this id was not meant.
            inner.link.call(forget_unless_asked(inner, &redis, id)).await?;
            return Ok(Cancellation::NotFound);
        };
        if inner.link.call(fail_if_free(inner, &redis, &mut stored, &reason)).await? {
            inner.watch.wake();
            if let Some((group, limit)) = group_window::limit_of(&job) {
                group_window::left(inner, &redis, group, limit, id).await;
            }
            return Ok(Cancellation::Ended(job));
        }
        found = admin::find(inner, &redis, id).await?;
        match &found {
            Some(found) if found.state == JobState::Active => {
                let message = Message::Cancel { id: id.to_string(), reason: reason.clone() };
                inner.link.call(signals::publish(inner, &redis, &message)).await?;
                return Ok(Cancellation::Signalled(job));
            }
            // The job's holder heard of the request when it was put on record, and was faster than this look.
            Some(found) if found.stored.failed_reason() == cancelled_because(&reason) => {
                return Ok(Cancellation::Signalled(job));
            }
            Some(found) if found.state.is_final() => {
                inner.link.call(forget(inner, &redis, id)).await?;
                return Ok(Cancellation::AlreadyFinal(found.state));
            }
            Some(_) | None => {}
        }
    }
    // The job keeps moving between workers; the next one is told.
    Ok(found.map_or(Cancellation::NotFound, |found| Cancellation::Signalled(found.job)))
}

/// KEYS: the job, requests to stop. ARGV: the field of the job, its id, the reason. In one step, so
/// that the hash of a job that was removed meanwhile does not come back.
const RECORD: &str = "\
if redis.call('HEXISTS', KEYS[1], 'name') == 0 then return false end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3])
return redis.call('HGET', KEYS[1], ARGV[1])";

/// Puts the request on record. The first reason stays, and is answered. `None` when the job is
/// not there any more.
async fn record(inner: &Inner, redis: &BullClient, id: &JobId, reason: &str) -> Result<Option<String>, BullError> {
    let mut put = redis::cmd("EVAL");
    put.arg(RECORD).arg(2).arg(inner.keys.job(id.as_str())).arg(inner.keys.cancels());
    put.arg(keys::CANCEL).arg(id.as_str()).arg(reason);
    let Some(reason): Option<String> = redis.queue.connection().cmd(&mut put).await? else { return Ok(None) };
    // Before the look at the state: a worker that takes the job in between hears of it.
    let message = Message::Cancel { id: id.to_string(), reason: reason.clone() };
    signals::publish(inner, redis, &message).await?;
    Ok(Some(reason))
}

async fn forget(inner: &Inner, redis: &BullClient, id: &JobId) -> Result<(), BullError> {
    let mut pipe = redis::pipe();
    pipe.cmd("HDEL").arg(inner.keys.cancels()).arg(id.as_str()).ignore();
    pipe.cmd("HDEL").arg(inner.keys.job(id.as_str())).arg(keys::CANCEL).ignore();
    Ok(redis.queue.connection().pipe::<()>(&pipe).await?)
}

/// KEYS: the job, requests to stop. ARGV: its id, how it ended. BullMQ counts every end as an
/// attempt, but this one ran nothing. The count is corrected only for the job that ended so: by now
/// it may have been put back, or its id may mean another job.
const ENDED: &str = "\
if redis.call('HGET', KEYS[1], 'failedReason') ~= ARGV[2] then return 0 end
redis.call('HINCRBY', KEYS[1], 'atm', -1)
redis.call('HDEL', KEYS[2], ARGV[1])
return 1";

/// Forgets a request whose job has gone. A request that was made for another job of this id stays.
async fn forget_unless_asked(inner: &Inner, redis: &BullClient, id: &JobId) -> Result<(), BullError> {
    const FORGET: &str = "\
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then redis.call('HDEL', KEYS[2], ARGV[2]) end";
    let mut ask = redis::cmd("EVAL");
    ask.arg(FORGET).arg(2).arg(inner.keys.job(id.as_str())).arg(inner.keys.cancels());
    Ok(redis.queue.connection().cmd::<()>(ask.arg(keys::CANCEL).arg(id.as_str())).await?)
}

/// Ends the job if no worker holds it. Answers whether it did.
async fn fail_if_free(
    inner: &Inner,
    redis: &BullClient,
    job: &mut bullmq::Job,
    reason: &str,
) -> Result<bool, BullError> {
    let id = job.id().to_owned();
    let mut take = redis::pipe();
    take.atomic();
    take.cmd("LREM").arg(inner.keys.bull("wait")).arg(1).arg(&id);
    take.cmd("LREM").arg(inner.keys.bull("paused")).arg(1).arg(&id);
    take.cmd("ZREM").arg(inner.keys.bull("prioritized")).arg(&id);
    take.cmd("ZREM").arg(inner.keys.bull("delayed")).arg(&id);
    take.cmd("ZREM").arg(inner.keys.bull("waiting-children")).arg(&id);
    // In the same transaction, so that the job is in some list at every moment.
    take.cmd("LPUSH").arg(inner.keys.bull("active")).arg(&id).ignore();
    // The token of a job that the crate's queue gives out is the empty text.
    take.cmd("SET").arg(inner.keys.lock(&id)).arg("").arg("NX").arg("PX").arg(LOCK_MS).ignore();
    let taken: Vec<u32> = redis.queue.connection().pipe(&take).await?;
    if taken.iter().sum::<u32>() == 0 {
        // A worker has the job: the entry just made is one too many. The lock, if it was free,
        // expires by itself; it may be a worker's by now, so it is not deleted.
        let mut undo = redis::cmd("LREM");
        undo.arg(inner.keys.bull("active")).arg(1).arg(&id);
        redis.queue.connection().cmd::<()>(&mut undo).await?;
        return Ok(false);
    }
    let end = cancelled_because(reason);
    watched::note_end(inner, redis, &id, &End::Failed(end.clone())).await?;
    job.move_to_failed(&end).await?;
    let mut ended = redis::cmd("EVAL");
    ended.arg(ENDED).arg(2).arg(inner.keys.job(&id)).arg(inner.keys.cancels()).arg(&id).arg(&end);
    redis.queue.connection().cmd::<()>(&mut ended).await?;
    Ok(true)
}
