//! Jobs of other programs that the crate reads as something else than what lies in Redis. Such a job's hash is read
//! once more, byte for byte.
//!
//! The crate can't name a job whose id is no text, so it could neither run nor fail the job, which would come again
//! each time its lease was over. This module fails it, once and for all, by plain commands: the same changes that
//! BullMQ's script makes.

use std::collections::HashMap;

use super::super::QueueError;
use super::connect::{BullClient, BullError};
use super::{Inner, format};

/// What lies in Redis of a job, where the crate may have read something else.
pub(super) struct RawHash {
    pub(super) fields: HashMap<String, String>,
    /// A field whose bytes are no text.
    pub(super) no_text: Option<&'static str>,
}

/// What lies in Redis of a job that was just taken; `None` when the crate has read it right.
pub(super) async fn read_again(inner: &Inner, stored: &bullmq::Job) -> Result<Option<RawHash>, QueueError> {
    const FIELDS: [&str; 4] = ["name", "data", "opts", "timestamp"];
    if !format::is_doubtful(stored) {
        return Ok(None);
    }
    let redis = inner.link.get().await?;
    let mut get = redis::cmd("HMGET");
    get.arg(inner.keys.job(stored.id())).arg(&FIELDS);
    let values: Vec<Option<Vec<u8>>> = inner.link.call(redis.queue.connection().cmd(&mut get)).await?;
    let mut hash = RawHash { fields: HashMap::new(), no_text: None };
    for (name, value) in FIELDS.into_iter().zip(values) {
        let Some(bytes) = value else { continue };
        if std::str::from_utf8(&bytes).is_err() {
            hash.no_text = Some(name);
        }
        hash.fields.insert(name.to_owned(), String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(Some(hash))
}

/// Refuses a job, just taken, whose id history can't hold. Answers the error by which the crate settles it.
pub(super) async fn refuse(inner: &Inner, shown: &str, why: String) -> bullmq::Error {
    tracing::warn!(job = shown, why, "a job was failed that history can't hold");
    if !shown.contains(char::REPLACEMENT_CHARACTER) {
        return bullmq::Error::Unrecoverable(why);
    }
    let failed = match inner.link.get().await {
        Ok(redis) => inner.link.call(fail(inner, &redis, shown, &why)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = failed {
        tracing::warn!(job = shown, %error, "a job whose id is no text was not failed; it comes again");
    }
    bullmq::Error::Delayed
}

/// Fails the job that was just taken, and which the crate shows under this id.
async fn fail(inner: &Inner, redis: &BullClient, shown: &str, why: &str) -> Result<(), BullError> {
    let connection = redis.queue.connection();
    let active = inner.keys.bull("active");
    let mut range = redis::cmd("LRANGE");
    let taken: Vec<Vec<u8>> = connection.cmd(range.arg(&active).arg(0).arg(-1)).await?;
    let with_no_text =
        taken.iter().filter(|id| std::str::from_utf8(id).is_err() && String::from_utf8_lossy(id) == shown);
    for id in with_no_text {
        let key = [inner.keys.bull("").as_bytes(), id].concat();
        let now = inner.clock.now().as_millis();
        let mut end = redis::pipe();
        end.atomic();
        end.cmd("LREM").arg(&active).arg(0).arg(id).ignore();
        end.cmd("SREM").arg(inner.keys.bull("stalled")).arg(id).ignore();
        end.cmd("DEL").arg([&key[..], b":lock"].concat()).ignore();
        end.cmd("HSET").arg(&key).arg("failedReason").arg(why).arg("finishedOn").arg(now).ignore();
        end.cmd("ZADD").arg(inner.keys.bull("failed")).arg(now).arg(id).ignore();
        let event = end.cmd("XADD").arg(inner.keys.bull("events")).arg("*").arg("event").arg("failed");
        event.arg("jobId").arg(id).arg("failedReason").arg(why).arg("prev").arg("active").ignore();
        connection.pipe::<()>(&end).await?;
    }
    Ok(())
}
