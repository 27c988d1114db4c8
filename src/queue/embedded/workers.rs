//! Keeps the list of workers by their heartbeats.

use std::sync::Arc;

use rusqlite::Connection;

use super::super::{QueueError, WorkerInfo};
use super::Inner;
use super::schema::{json, to_json};
use crate::domain::{Timestamp, WorkerId};

/// A worker that was last heard of before this time is not listed.
pub(super) fn horizon(inner: &Inner) -> Timestamp {
    inner.clock.now() - inner.settings.worker_timeout()
}

/// Notes which process a worker is, before it has sent a heartbeat.
pub(super) fn register(c: &Connection, inner: &Inner, worker: &str) -> rusqlite::Result<()> {
    c.prepare_cached("INSERT INTO queue_workers (id, last_seen, process) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute((worker, inner.clock.now().as_millis(), inner.process.as_ref().map(to_json)))?;
    Ok(())
}

/// Notes that a worker lives. Answers whether an operator asked it to drain.
pub(super) async fn heartbeat(inner: &Arc<Inner>, worker: WorkerInfo) -> Result<bool, QueueError> {
    let (id, info) = (worker.id.to_string(), to_json(&worker));
    let shared = inner.clone();
    let drain = inner.db.write(move |c| {
        c.prepare_cached(
            "INSERT INTO queue_workers (id, info, last_seen, process) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET info = excluded.info, last_seen = excluded.last_seen RETURNING drain",
        )?
        .query_row((&id, &info, shared.clock.now().as_millis(), shared.process.as_ref().map(to_json)), |r| r.get(0))
    });
    Ok(drain.await?)
}

/// Takes a worker off the list.
pub(super) async fn farewell(inner: &Inner, worker: &WorkerId) -> Result<(), QueueError> {
    let id = worker.to_string();
    inner.db.write(move |c| c.execute("DELETE FROM queue_workers WHERE id = ?1", [&id])).await?;
    Ok(())
}

/// The workers that were heard of lately, by id.
pub(super) async fn list(inner: &Inner) -> Result<Vec<WorkerInfo>, QueueError> {
    let since = horizon(inner).as_millis();
    let found = inner.db.read(move |c| {
        c.prepare_cached(
            "SELECT info, last_seen FROM queue_workers WHERE info IS NOT NULL AND last_seen >= ?1 ORDER BY id",
        )?
        .query_map([since], |row| {
            let info: WorkerInfo = json(row, 0)?;
            Ok(WorkerInfo { last_seen: Timestamp::from_millis(row.get(1)?), ..info })
        })?
        .collect()
    });
    Ok(found.await?)
}

/// Asks a worker to drain: from now on its claims are given nothing, and its next heartbeat tells it.
pub(super) async fn drain(inner: &Inner, worker: &WorkerId) -> Result<bool, QueueError> {
    let id = worker.to_string();
    let known =
        inner.db.write(move |c| c.execute("UPDATE queue_workers SET drain = 1 WHERE id = ?1", [&id])).await? > 0;
    inner.wakes.control.signal();
    Ok(known)
}
