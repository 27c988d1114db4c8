//! The changes that an operator makes, except stopping a job (see [`super::cancel`]): guarded transitions of single
//! jobs.

use rusqlite::Connection;

use super::super::{Change, CleanRequest, QueueError};
use super::schema::{code, standing};
use super::submit::holder_of;
use super::{Inner, queues};
use crate::domain::{JobId, JobState};

/// Jobs removed in one transaction, so that a large removal does not hold up the others.
pub(super) const BATCH: usize = 500;

/// Runs `change` on a job in a state that `allowed` accepts.
async fn change(
    inner: &Inner,
    id: JobId,
    allowed: fn(JobState) -> bool,
    change: &'static str,
) -> Result<Change, QueueError> {
    let done = inner.db.write(move |c| {
        let Some(found) = standing(c, &id)? else { return Ok(Change::NotFound) };
        if !allowed(found.state) {
            return Ok(Change::WrongState(found.state));
        }
        match c.prepare_cached(change)?.execute([found.seq])? {
            0 => Ok(Change::WrongState(found.state)),
            _ => Ok(Change::Done(found.job, found.attempts_started)),
        }
    });
    let done = done.await?;
    inner.has_moved(&done);
    Ok(done)
}

impl Inner {
    fn has_moved(&self, done: &Change) {
        if matches!(done, Change::Done(..)) {
            self.wakes.jobs.signal();
            self.wakes.output.signal();
        }
    }
}

pub(super) async fn retry(inner: &Inner, id: JobId) -> Result<Change, QueueError> {
    const BACK: &str = "
        UPDATE queue_jobs SET state = (priority > 0), attempts_finished = 0, crashes = 0, cancel_reason = NULL,
            finished_at = NULL, barred = NULL
        WHERE seq = ?1 AND state = 5";
    let clock = inner.clock.clone();
    let done = inner.db.write(move |c| {
        let Some(found) = standing(c, &id)? else { return Ok(Change::NotFound) };
        if found.state != JobState::Failed {
            return Ok(Change::WrongState(found.state));
        }
        // It takes its key again. A key with a time to live keeps submissions apart, and this is none.
        let key = found.job.options.deduplication.as_ref().filter(|d| d.ttl.is_none()).map(|d| &d.key);
        if let Some(key) = key
            && let Some(holder) = holder_of(c, key, clock.now())?
        {
            return Ok(Change::KeyTaken(holder));
        }
        c.prepare_cached(BACK)?.execute([found.seq])?;
        Ok(Change::Done(found.job, found.attempts_started))
    });
    let done = done.await?;
    inner.has_moved(&done);
    Ok(done)
}

pub(super) async fn promote(inner: &Inner, id: JobId) -> Result<Change, QueueError> {
    // Not one that waits for others.
    const READY: &str =
        "UPDATE queue_jobs SET state = (priority > 0), due_at = NULL WHERE seq = ?1 AND state = 2 AND waits = 0";
    change(inner, id, |state| state == JobState::Delayed, READY).await
}

pub(super) async fn remove(inner: &Inner, id: JobId) -> Result<Change, QueueError> {
    const GONE: &str = "DELETE FROM queue_jobs WHERE seq = ?1 AND state <> 3";
    change(inner, id, |state| state != JobState::Active, GONE).await
}

pub(super) async fn clean(inner: &Inner, request: CleanRequest) -> Result<u64, QueueError> {
    if !request.state.is_final() {
        return Err(QueueError::not_cleanable(request.state));
    }
    let until = (inner.clock.now() - request.older_than).as_millis();
    let one = request.queue.as_ref().map(|queue| inner.named(queue));
    let (mut removed, mut left) = (0, request.limit);
    while left > 0 {
        let batch = left.min(BATCH);
        let (state, one) = (request.state, one.clone());
        let remove = move |c: &Connection| {
            let queue = match &one {
                None => None,
                Some(name) => match queues::number(c, name.as_ref())? {
                    None => return Ok(0),
                    known => known,
                },
            };
            remove_ended(c, state, queue, (until, i64::MAX), batch)
        };
        let n = inner.db.write(remove).await?;
        removed += u64::try_from(n).unwrap_or(u64::MAX);
        left -= n;
        if n < batch {
            break;
        }
    }
    Ok(removed)
}

/// Removes the oldest jobs of a final state, of one queue or of all, up to a place in its list (end and seq), at most
/// `limit`; answers how many.
pub(super) fn remove_ended(
    c: &Connection,
    state: JobState,
    queue: Option<i64>,
    until: (i64, i64),
    limit: usize,
) -> rusqlite::Result<usize> {
    c.prepare_cached(
        "DELETE FROM queue_jobs WHERE seq IN (
            SELECT seq FROM queue_jobs WHERE state >= 4 AND state = ?1 AND (finished_at, seq) <= (?2, ?3)
                AND (?5 IS NULL OR queue = ?5)
            ORDER BY finished_at, seq LIMIT ?4)",
    )?
    .execute((code(state), until.0, until.1, i64::try_from(limit).unwrap_or(i64::MAX), queue))
}
