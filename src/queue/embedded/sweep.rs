//! Sweeps the queue: gives back the jobs of workers that died or fell silent, makes delayed jobs ready, lets schedules
//! fire, and removes ended jobs and old keys.
//!
//! Every process sweeps. All writes are guarded, so it does not matter which process comes first. Each pass looks with
//! a reading connection and writes only if there is something to do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use tokio_util::sync::CancellationToken;

use super::super::{QueueError, QueueRetention};
use super::admin::{BATCH, remove_ended};
use super::expiry::{self, GONE, Now};
use super::process::Process;
use super::schema::{code, json};
use super::{Inner, kinds, output, schedules, workers};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{JobState, Timestamp};

/// Between two passes: a death is noticed within this time.
const EVERY: Duration = Duration::from_secs(1);
/// Jobs that are made ready in one transaction when they have come due.
const PROMOTED: usize = 1000;

const SWEEP: BackgroundLoop = BackgroundLoop::new("queue sweep", Period::Pause(EVERY))
    .warn("the queue can't be swept; trying again", "the queue is swept again");

/// Sweeps until `stop`. Finishes the write in hand, but not all that is due.
pub(super) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    let mut turns = SWEEP.start(&stop);
    while turns.run(async { Ok(pass(&inner, &stop).await.map(|()| NextRun::InTurn)?) }).await {}
}

/// One pass: everything that is due by now.
pub(super) async fn pass(inner: &Arc<Inner>, stop: &CancellationToken) -> Result<(), QueueError> {
    recover(inner).await?;
    while !stop.is_cancelled() && promote(inner).await? {}
    while !stop.is_cancelled() && schedules::fire(inner).await? {}
    for (state, retention) in
        [(JobState::Completed, &inner.settings.completed), (JobState::Failed, &inner.settings.failed)]
    {
        // In small writes, so that the others are not held up.
        while !stop.is_cancelled() && retain(inner, state, retention).await? {}
    }
    while !stop.is_cancelled() && forget_keys(inner).await? {}
    forget_kinds(inner).await?;
    while !stop.is_cancelled() && output::cut_ended(inner).await? {}
    Ok(())
}

/// Gives back the jobs of claims that have expired or whose process is gone: one crash more for each that was started.
async fn recover(inner: &Arc<Inner>) -> Result<(), QueueError> {
    let (now, horizon, here) = (Now::of(inner), workers::horizon(inner), inner.process.clone());
    let due = inner.db.read(move |c| {
        let dead = dead_workers(c, here.as_ref())?;
        let due = !dead.is_empty() || has_silent_workers(c, horizon)? || has_gone_claims(c, &now)?;
        Ok((due, dead, expiry::overdue(c, &now)?))
    });
    let (due, dead, overdue) = due.await?;
    let marks: Vec<_> = overdue.iter().filter_map(|(claim, mark)| Some((*claim, (*mark)?))).collect();
    let given_up = inner.suspicions.due(&marks, inner.settings.lease);
    if !due && given_up.is_empty() && marks.len() == overdue.len() {
        return Ok(());
    }
    let shared = inner.clone();
    let recovered = inner.db.write(move |c| {
        for worker in &dead {
            c.prepare_cached("UPDATE queue_claims SET expires_at = 0 WHERE worker = ?1")?.execute([worker])?;
            c.prepare_cached("DELETE FROM queue_workers WHERE id = ?1")?.execute([worker])?;
        }
        c.prepare_cached(&format!("DELETE FROM queue_workers AS w WHERE {SILENT}"))?.execute([horizon.as_millis()])?;
        for mark in &given_up {
            expiry::expire(c, *mark)?;
        }
        let (mut recovered, now) = (0, Now::of(&shared));
        let claims: Vec<i64> = c
            .prepare_cached(&format!("DELETE FROM queue_claims WHERE {GONE} RETURNING id"))?
            .query_map(now.gone(), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for claim in claims {
            recovered += c
                .prepare_cached(
                    "UPDATE queue_jobs SET state = (priority > 0), claim = NULL,
                        crashes = crashes + (spawned = attempts_started),
                        unstarted = unstarted + (spawned <> attempts_started)
                     WHERE claim = ?1 AND state = 3",
                )?
                .execute([claim])?;
        }
        Ok((recovered, expiry::suspect_overdue(c, &now)?))
    });
    let (recovered, marked) = recovered.await?;
    inner.suspicions.note(&marked);
    if recovered > 0 {
        tracing::warn!(recovered, "jobs of lost workers went back to the queue");
        inner.wakes.jobs.signal();
    }
    Ok(())
}

/// Removes the kinds that no job has any more, once there are many.
async fn forget_kinds(inner: &Arc<Inner>) -> Result<(), QueueError> {
    let many = inner.many_kinds.load(Ordering::Relaxed);
    let count = inner.db.read(|c| c.query_row("SELECT count(*) FROM queue_kinds", [], |row| row.get::<_, i64>(0)));
    if count.await? > many {
        let many = inner.db.write(move |c| kinds::forget(c, many)).await?;
        inner.many_kinds.store(many, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes a batch of delayed jobs ready that have come due; whether there may be more. Claims do the same in time; this
/// is for a queue that is paused or has no worker.
async fn promote(inner: &Inner) -> Result<bool, QueueError> {
    let now = inner.clock.now();
    if inner.db.read(next_due).await?.is_none_or(|due_at| due_at > now) {
        return Ok(false);
    }
    let promoted = inner.db.write(move |c| promote_due(c, now)).await?;
    if promoted > 0 {
        inner.wakes.jobs.signal();
        inner.wakes.output.signal();
    }
    Ok(promoted == PROMOTED)
}

/// Makes delayed jobs ready that have come due, the longest due first, at most [`PROMOTED`]; answers how many.
pub(super) fn promote_due(c: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    c.prepare_cached(
        "UPDATE queue_jobs SET state = (priority > 0), due_at = NULL WHERE seq IN (
            SELECT seq FROM queue_jobs WHERE state = 2 AND due_at <= ?1 ORDER BY due_at, seq LIMIT ?2)",
    )?
    .execute((now.as_millis(), i64::try_from(PROMOTED).expect("small")))
}

/// When the next delayed job is due.
pub(super) fn next_due(c: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    c.prepare_cached("SELECT due_at FROM queue_jobs WHERE state = 2 ORDER BY due_at, seq LIMIT 1")?
        .query_row([], |row| row.get(0).map(Timestamp::from_millis))
        .optional()
}

fn has_gone_claims(c: &Connection, now: &Now) -> rusqlite::Result<bool> {
    c.prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM queue_claims WHERE {GONE})"))?
        .query_row(now.gone(), |row| row.get(0))
}

/// Workers whose process is gone.
fn dead_workers(c: &Connection, here: Option<&Process>) -> rusqlite::Result<Vec<String>> {
    let Some(here) = here else { return Ok(Vec::new()) };
    let workers: Vec<(String, Process)> = c
        .prepare_cached("SELECT id, process FROM queue_workers WHERE process IS NOT NULL")?
        .query_map([], |row| Ok((row.get(0)?, json(row, 1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(workers.into_iter().filter(|(_, process)| process.is_gone(here)).map(|(id, _)| id).collect())
}

/// Holds for workers `w` that were not heard of for long and have no claim.
const SILENT: &str = "last_seen < ?1 AND NOT EXISTS (SELECT 1 FROM queue_claims WHERE worker = w.id)";

fn has_silent_workers(c: &Connection, horizon: Timestamp) -> rusqlite::Result<bool> {
    c.prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM queue_workers AS w WHERE {SILENT})"))?
        .query_row([horizon.as_millis()], |row| row.get(0))
}

/// Removes a batch of what a retention does not keep; whether there may be more.
async fn retain(inner: &Inner, state: JobState, retention: &QueueRetention) -> Result<bool, QueueError> {
    let by_age = retention.age.map(|age| (inner.clock.now() - age).as_millis());
    let by_count = retention.count.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let place = inner.db.read(move |c| {
        let oldest = c
            .prepare_cached(
                "SELECT finished_at FROM queue_jobs WHERE state >= 4 AND state = ?1 ORDER BY finished_at, seq LIMIT 1",
            )?
            .query_row([code(state)], |row| row.get::<_, i64>(0))
            .optional()?;
        let aged = by_age.filter(|until| oldest.is_some_and(|oldest| oldest <= *until)).map(|until| (until, i64::MAX));
        let surplus = match by_count {
            None => None,
            Some(count) => c
                .prepare_cached(
                    "SELECT finished_at, seq FROM queue_jobs WHERE state >= 4 AND state = ?1
                     ORDER BY finished_at DESC, seq DESC LIMIT 1 OFFSET ?2",
                )?
                .query_row((code(state), count), |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?,
        };
        Ok(aged.max(surplus))
    });
    let Some(place) = place.await? else { return Ok(false) };
    let removed = inner.db.write(move |c| remove_ended(c, state, None, place, BATCH)).await?;
    Ok(removed == BATCH)
}

/// Removes a batch of keys whose time is over; whether there may be more.
async fn forget_keys(inner: &Inner) -> Result<bool, QueueError> {
    let now = inner.clock.now().as_millis();
    let due: bool = inner
        .db
        .read(move |c| {
            c.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM queue_dedup WHERE expires_at <= ?1)
                     OR EXISTS (SELECT 1 FROM queue_idempotency WHERE expires_at <= ?1)",
            )?
            .query_row([now], |row| row.get(0))
        })
        .await?;
    if !due {
        return Ok(false);
    }
    let forgotten = inner.db.write(move |c| {
        let limit = i64::try_from(BATCH).expect("small");
        let keys = c
            .prepare_cached(
                "DELETE FROM queue_dedup WHERE key IN (SELECT key FROM queue_dedup WHERE expires_at <= ?1 LIMIT ?2)",
            )?
            .execute((now, limit))?;
        let requests = c
            .prepare_cached(
                "DELETE FROM queue_idempotency
                 WHERE key IN (SELECT key FROM queue_idempotency WHERE expires_at <= ?1 LIMIT ?2)",
            )?
            .execute((now, limit))?;
        Ok(keys.max(requests))
    });
    Ok(forgotten.await? == BATCH)
}
