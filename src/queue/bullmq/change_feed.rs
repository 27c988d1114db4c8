//! Reads what happens in the queue from BullMQ's own event stream: every program that uses BullMQ writes to it by the
//! very scripts that move a job.
//!
//! Jobber itself has done most of it, and history has that already. The events that are certainly
//! Jobber's are left out here: the moves of a job by a worker of Jobber's (known by its name in the
//! job's hash). History is compared with the rest.
//!
//! One process looks at the stream a few times a second: a blocking read would need a connection of
//! its own, and on a cluster one to the right node.

use std::collections::HashMap;

use async_trait::async_trait;
use redis::Value;

use super::super::QueueError;
use super::super::change_feed::{ChangeFeed, QueueChange, QueueChanges, QueueEntry, ReportedEnd};
use super::connect::{BullClient, BullError};
use super::{BullQueue, Inner, keys, read};
use crate::domain::{JobId, Timestamp, WorkerId};

/// How many events are read in one go.
const CHUNK: usize = 1000;
/// The place before all events.
const BEGINNING: &str = "0-0";

type Fields = HashMap<Vec<u8>, Vec<u8>>;

/// What the stream said of one job.
#[derive(Default)]
struct JobChange {
    end: Option<End>,
    /// The job was final, and is to run again.
    put_back: bool,
    at: i64,
}

enum End {
    Completed(Vec<u8>),
    Failed(Vec<u8>),
    Removed,
}

fn word<'f>(fields: &'f Fields, name: &str) -> &'f [u8] {
    fields.get(name.as_bytes()).map_or(&[], Vec::as_slice)
}

/// Takes one event in. Answers true when it says that jobs have gone without an event for each.
fn fold(changes: &mut HashMap<String, JobChange>, at: &str, fields: &Fields) -> bool {
    let event = word(fields, "event");
    if event == b"cleaned" {
        return true;
    }
    let prev = word(fields, "prev");
    let (end, put_back) = match event {
        b"completed" => (Some(End::Completed(word(fields, "returnvalue").to_vec())), false),
        b"failed" => (Some(End::Failed(word(fields, "failedReason").to_vec())), false),
        b"removed" => (Some(End::Removed), false),
        b"waiting" | b"delayed" => (None, matches!(prev, b"failed" | b"completed")),
        b"active" => (None, false),
        _ => return false,
    };
    let Ok(id) = std::str::from_utf8(word(fields, "jobId")) else { return false };
    let known = changes.entry(id.to_owned()).or_default();
    known.put_back |= put_back;
    known.at = at.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
    // A job that was taken out after its end has ended all the same.
    let ended_before = matches!(end, Some(End::Removed)) && known.end.is_some();
    if (end.is_some() && !ended_before) || put_back {
        known.end = end;
    }
    false
}

/// Whether another program may have done this to a job with these fields: its last worker, its starts, and those of
/// them that never reached a runner.
fn may_be_foreign(
    change: &JobChange,
    (worker, starts, unstarted): &(Option<String>, Option<u32>, Option<u32>),
) -> bool {
    let ours = worker.as_deref().is_some_and(|name| WorkerId::parse(name).is_ok_and(|id| id.is_generated()));
    // A worker without a name leaves the name of the worker before it.
    let is_first = starts.unwrap_or(0).saturating_sub(unstarted.unwrap_or(0)) <= 1;
    match &change.end {
        _ if change.put_back => true,
        Some(End::Failed(_) | End::Removed) => true,
        Some(End::Completed(_)) => !(ours && is_first),
        None => !ours && starts.is_some_and(|starts| starts > 0),
    }
}

async fn changes(inner: &Inner, redis: &BullClient, had_place: bool) -> Result<QueueChanges, BullError> {
    let (stream, connection) = (inner.keys.bull("events"), redis.queue.connection());
    let mut ask = redis::pipe();
    ask.cmd("GET").arg(inner.keys.feed_position());
    ask.cmd("EXISTS").arg(&stream);
    let (place, exists): (Option<String>, bool) = connection.pipe(&ask).await?;
    let mut range = redis::cmd("XRANGE");
    let from = place.as_ref().map_or("-".to_owned(), |place| format!("({place}"));
    range.arg(&stream).arg(from).arg("+").arg("COUNT").arg(CHUNK);
    let events: Vec<(String, Fields)> = connection.cmd(&mut range).await?;
    let mut found = QueueChanges { more: events.len() == CHUNK, ..QueueChanges::default() };
    // Jobber's own note is gone, or the stream is: then anything else may be gone too.
    let begins = place.as_deref() == Some(BEGINNING);
    found.has_gaps = (had_place && place.is_none()) || (!exists && place.is_some() && !begins);
    let mut changes = HashMap::new();
    for (at, fields) in &events {
        found.has_gaps |= fold(&mut changes, at, fields);
    }
    found.position = match events.last() {
        Some((at, _)) => Some(at.clone()),
        None => (!exists && !begins || place.is_none()).then(|| BEGINNING.to_owned()),
    };
    let changes: Vec<_> = changes.into_iter().collect();
    if changes.is_empty() {
        return Ok(found);
    }
    let mut ask = redis::pipe();
    for (id, _) in &changes {
        ask.cmd("HMGET").arg(inner.keys.job(id)).arg("pb").arg("ats").arg(keys::UNSTARTED);
    }
    let known: Vec<(Option<String>, Option<u32>, Option<u32>)> = connection.pipe(&ask).await?;
    let foreign = changes.into_iter().zip(known).filter(|((_, change), known)| may_be_foreign(change, known));
    found.all.extend(foreign.filter_map(|((id, change), _)| {
        let end = change.end.map(|end| match end {
            End::Completed(value) => ReportedEnd::Completed(read::result(&String::from_utf8_lossy(&value))),
            End::Failed(why) => ReportedEnd::Failed(String::from_utf8_lossy(&why).into_owned()),
            End::Removed => ReportedEnd::Removed,
        });
        // History can't know a job whose id is none that Jobber can hold.
        Some(QueueChange { id: JobId::parse(&id).ok()?, end, at: Timestamp::from_millis(change.at) })
    }));
    Ok(found)
}

async fn entry(inner: &Inner, redis: &BullClient, id: &JobId) -> Result<QueueEntry, BullError> {
    let Some((state, fields)) = read::fields(inner, redis, id).await? else {
        // The job is in no list, and yet there: this process can't say what it is.
        let mut exists = redis::cmd("EXISTS");
        let exists: bool = redis.queue.connection().cmd(exists.arg(inner.keys.job(id.as_str()))).await?;
        return Ok(if exists { QueueEntry::Unreadable } else { QueueEntry::Gone });
    };
    let job = read::job(&inner.settings, id.as_str(), state, &fields);
    Ok(job.map_or(QueueEntry::Unreadable, |job| QueueEntry::Job(Box::new(job))))
}

async fn are_open(inner: &Inner, redis: &BullClient, jobs: &[(JobId, Timestamp)]) -> Result<Vec<bool>, BullError> {
    let mut ask = redis::pipe();
    for (id, _) in jobs {
        ask.cmd("HMGET").arg(inner.keys.job(id.as_str())).arg("name").arg("finishedOn").arg("timestamp");
    }
    let found: Vec<(Value, Value, Option<String>)> = redis.queue.connection().pipe(&ask).await?;
    let open = jobs.iter().zip(found).map(|((_, submitted_at), (name, finished, timestamp))| {
        // A time that can't be read is left to a closer look elsewhere.
        let same = timestamp.and_then(|ms| ms.parse::<i64>().ok()).is_none_or(|ms| ms == submitted_at.as_millis());
        name != Value::Nil && finished == Value::Nil && same
    });
    Ok(open.collect())
}

#[async_trait]
impl ChangeFeed for BullQueue {
    async fn changes(&self) -> Result<QueueChanges, QueueError> {
        let inner = &self.inner;
        let redis = inner.link.get().await?;
        let had_place = inner.has_position.load(std::sync::atomic::Ordering::Relaxed);
        inner.link.call(changes(inner, &redis, had_place)).await
    }

    async fn acknowledge(&self, position: &str) -> Result<(), QueueError> {
        let inner = &self.inner;
        let redis = inner.link.get().await?;
        let mut set = redis::cmd("SET");
        set.arg(inner.keys.feed_position()).arg(position);
        inner.link.call(redis.queue.connection().cmd::<()>(&mut set)).await?;
        inner.has_position.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    async fn entries(&self, ids: &[JobId]) -> Result<Vec<QueueEntry>, QueueError> {
        let inner = &self.inner;
        let redis = inner.link.get().await?;
        let all = futures_util::future::try_join_all(ids.iter().map(|id| entry(inner, &redis, id)));
        inner.link.call(all).await
    }

    async fn are_open(&self, jobs: &[(JobId, Timestamp)]) -> Result<Vec<bool>, QueueError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let redis = self.inner.link.get().await?;
        self.inner.link.call(are_open(&self.inner, &redis, jobs)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(words: &[(&str, &str)]) -> Fields {
        words.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
    }

    fn change_of(events: &[&[(&str, &str)]]) -> JobChange {
        let mut all = HashMap::new();
        for words in events {
            fold(&mut all, "17-0", &event(words));
        }
        all.remove("7").unwrap()
    }

    #[test]
    fn only_what_our_own_workers_certainly_did_is_left_out() {
        let ours = Some("host-12-0123abcd".to_owned());
        let active: &[(&str, &str)] = &[("event", "active"), ("jobId", "7"), ("prev", "waiting")];
        let completed: &[(&str, &str)] = &[("event", "completed"), ("jobId", "7"), ("returnvalue", "1")];
        let failed: &[(&str, &str)] = &[("event", "failed"), ("jobId", "7"), ("failedReason", "x")];
        let again: &[(&str, &str)] = &[("event", "waiting"), ("jobId", "7"), ("prev", "failed")];
        let first = |worker: &Option<String>| (worker.clone(), Some(1), None);
        assert!(!may_be_foreign(&change_of(&[active, completed]), &first(&ours)));
        assert!(may_be_foreign(&change_of(&[active, completed]), &first(&Some("node".to_owned()))));
        assert!(may_be_foreign(&change_of(&[active]), &first(&None)));
        assert!(may_be_foreign(&change_of(&[completed]), &(ours.clone(), Some(2), None)), "a nameless one came after");
        assert!(
            !may_be_foreign(&change_of(&[completed]), &(ours.clone(), Some(2), Some(1))),
            "put back unstarted once"
        );
        assert!(may_be_foreign(&change_of(&[failed]), &first(&ours)), "its lease may have been taken for lost");
        assert!(may_be_foreign(&change_of(&[failed, again]), &first(&ours)));
        assert!(change_of(&[failed, again]).end.is_none(), "it has begun anew");
        assert!(may_be_foreign(&change_of(&[completed]), &(None, None, None)), "gone at once");
        let removed: &[(&str, &str)] = &[("event", "removed"), ("jobId", "7"), ("prev", "completed")];
        assert!(matches!(change_of(&[completed, removed]).end, Some(End::Completed(_))));
        assert!(matches!(change_of(&[removed]).end, Some(End::Removed)));
    }
}
