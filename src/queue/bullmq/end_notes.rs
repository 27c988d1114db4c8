//! Notes how a job ended that others come after, in case it leaves the queue before a process looks.
//!
//! BullMQ may remove a job in the very step that ends it. So a worker of Jobber's looks before that
//! step whether watched jobs (see [`super::after`]) come after the job, and notes how it is about
//! to end. BullMQ's own event stream tells of every other end, for as long as it reaches back. The
//! stream is asked first: a note may be of an end that never came, since the lease was lost.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::connect::{BullClient, BullError};
use super::{Inner, keys};
use crate::domain::Job;

/// The fields of an entry of a stream, with their values.
type Fields = HashMap<Vec<u8>, Vec<u8>>;

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
fn followers(id: &str) -> String {
    format!("after/{id}/")
}

/// The beginning of members of the links that lead from a watched job to those before it.
fn followed(id: &str) -> String {
    format!("before/{id}/")
}

/// Records what a watched job comes after.
pub(super) fn link(inner: &Inner, record: &mut redis::Pipeline, job: &Job) {
    let id = job.id.as_str();
    for before in &job.options.after {
        let add = record.cmd("ZADD").arg(inner.keys.links());
        add.arg(0).arg(followers(before.as_str()) + id);
        add.arg(0).arg(followed(id) + before.as_str()).ignore();
    }
}

/// Forgets the links of a job that is not watched any more, and the ends that were noted only for it.
pub(super) async fn unlink(inner: &Inner, redis: &BullClient, id: &str) -> Result<(), BullError> {
    for before in linked(inner, redis, &followed(id), None).await? {
        let mut strike = redis::pipe();
        strike.atomic();
        strike.cmd("ZREM").arg(inner.keys.links()).arg(followers(&before) + id).arg(followed(id) + &before).ignore();
        redis.queue.connection().pipe::<()>(&strike).await?;
        if linked(inner, redis, &followers(&before), Some(1)).await?.is_empty() {
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
pub(super) async fn note(inner: &Inner, redis: &BullClient, id: &str, end: &End) -> Result<(), BullError> {
    let from = followers(id);
    let mut ask = redis::pipe();
    ask.cmd("ZRANGEBYLEX").arg(inner.keys.links()).arg(format!("[{from}")).arg(format!("({from}\u{7f}"));
    ask.arg("LIMIT").arg(0).arg(1);
    ask.cmd("HEXISTS").arg(inner.keys.requested()).arg(id);
    let (followers, requested): (Vec<String>, bool) = redis.queue.connection().pipe(&ask).await?;
    if followers.is_empty() && !requested {
        return Ok(());
    }
    let mut note = redis::pipe();
    if !followers.is_empty() {
        let text = serde_json::to_string(end).map_err(bullmq::Error::from)?;
        note.cmd("HSET").arg(inner.keys.ends()).arg(id).arg(text).ignore();
    }
    if requested {
        note.cmd("HSET").arg(inner.keys.requested()).arg(id).arg(keys::ENDED).ignore();
    }
    Ok(redis.queue.connection().pipe::<()>(&note).await?)
}

/// How a job ended that is not in the queue any more; `None` when it was taken out before its end.
pub(super) async fn of_one_that_left(inner: &Inner, redis: &BullClient, id: &str) -> Result<Option<End>, BullError> {
    let mut from = "+".to_owned();
    loop {
        let mut range = redis::cmd("XREVRANGE");
        range.arg(inner.keys.bull("events")).arg(&from).arg("-").arg("COUNT").arg(CHUNK);
        // Bytes: other programs write what they like.
        let events: Vec<(String, Fields)> = redis.queue.connection().cmd(&mut range).await?;
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
