//! Removes expired records, oldest first and some at a time, in one transaction with the shards' note of it.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};

use super::{builds, term};
use crate::domain::Timestamp;
use crate::store::{Retention, StoreError, StoreErrorKind, Term, codec};

/// Removes at most `limit` expired records, and returns how many.
pub(super) fn expire(
    c: &Connection,
    term: &Term,
    retention: Retention,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<Result<u64, StoreError>> {
    if !term::is_current(c, term)? {
        return Ok(Err(StoreError::new(StoreErrorKind::Fenced, "another projector has taken over")));
    }
    let Some(horizon) = retention.horizon(now) else { return Ok(Ok(0)) };
    let expired = find(c, horizon, limit)?;
    let shards: BTreeSet<(i64, &str)> =
        expired.iter().map(|(_, name, at)| (at.day().start().as_millis(), name.as_str())).collect();
    for (day, name) in shards {
        if let Err(error) = note(c, retention, day, name)? {
            return Ok(Err(error));
        }
        if let Some(until) = retention.whole_until(Timestamp::from_millis(day).day())
            && let Err(error) = builds::note_expiry(c, name, horizon, until)?
        {
            return Ok(Err(error));
        }
    }
    let mut delete = c.prepare_cached("DELETE FROM history_jobs WHERE id = ?1")?;
    let mut delete_body = c.prepare_cached("DELETE FROM history_bodies WHERE id = ?1")?;
    let mut delete_errors = c.prepare_cached("DELETE FROM history_job_errors WHERE id = ?1")?;
    for (id, ..) in &expired {
        delete.execute([id])?;
        delete_body.execute([id])?;
        delete_errors.execute([id])?;
    }
    Ok(Ok(expired.len() as u64))
}

/// The ids, names and times of submission of expired records.
fn find(c: &Connection, horizon: Timestamp, limit: usize) -> rusqlite::Result<Vec<(String, String, Timestamp)>> {
    c.prepare_cached(
        "SELECT id, name, submitted_at FROM history_jobs INDEXED BY history_jobs_by_end
         WHERE ended_at < ?1 ORDER BY ended_at LIMIT ?2",
    )?
    .query_map((horizon.as_millis(), i64::try_from(limit).unwrap_or(i64::MAX)), |row| {
        Ok((row.get(0)?, row.get(1)?, Timestamp::from_millis(row.get(2)?)))
    })?
    .collect()
}

/// Notes in the shard that some of its records are gone.
fn note(c: &Connection, retention: Retention, day: i64, name: &str) -> rusqlite::Result<Result<(), StoreError>> {
    let stored: Option<Vec<u8>> = c
        .prepare_cached("SELECT document FROM history_shards WHERE day = ?1 AND name = ?2")?
        .query_row((day, name), |row| row.get(0))
        .optional()?;
    let Some(stored) = stored else { return Ok(Ok(())) };
    let mut shard = match codec::shard(&stored) {
        Ok(shard) => shard,
        Err(error) => return Ok(Err(error)),
    };
    if retention.whole_until(shard.key.day).is_some_and(|until| shard.expire_from(until)) {
        c.prepare_cached(
            "UPDATE history_shards SET version = version + 1, document = ?3 WHERE day = ?1 AND name = ?2",
        )?
        .execute((day, name, codec::encode(&shard)))?;
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{Clock, JobOptions, JobState, NewJob};
    use crate::sqlite::{Durability, Sqlite};
    use crate::stats::{ShardKey, StatShard};
    use crate::store::embedded::{EmbeddedStore, schema};
    use crate::store::{Commit, History, JobRecord, Projection, Versioned};

    const DAY: Duration = Duration::from_secs(86_400);

    fn record(id: &str, state: JobState, finished: Option<i64>) -> JobRecord {
        let job = NewJob {
            id: Some(id.into()),
            name: "a".into(),
            arguments: vec![],
            data: None,
            options: JobOptions::default(),
        };
        let job = job.accept(Timestamp::from_millis(5)).unwrap().job;
        JobRecord { state, finished_at: finished.map(Timestamp::from_millis), ..JobRecord::new(&job) }
    }

    fn new<T>(document: T) -> Versioned<T> {
        Versioned { document, version: None }
    }

    #[tokio::test]
    async fn the_shard_of_what_goes_says_so_and_keeps_saying_it() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            EmbeddedStore::open(Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap()).await.unwrap();
        let clock = Clock::manual(Timestamp::from_millis(0));
        let term = store.lead("one", DAY, &clock).await.unwrap().unwrap();
        let ended = record("x", JobState::Failed, Some(9));
        let key = ShardKey { day: ended.submitted_at.day(), name: ended.name.clone() };
        let commit = Commit { shards: vec![new(StatShard::new(key))], jobs: vec![new(ended)], ..Commit::default() };
        store.commit(&term, commit).await.unwrap();
        let shard = async || store.shards(crate::store::DayRange::default(), None).await.unwrap().remove(0);

        let late = Timestamp::EPOCH + DAY * 30;
        store.expire(&term, Retention::new(Some(DAY * 40)), late, 10).await.unwrap();
        assert_eq!(shard().await.whole_until, None, "nothing had to go");
        store.expire(&term, Retention::new(Some(DAY * 20)), late, 10).await.unwrap();
        assert_eq!(shard().await.whole_until, Some(Timestamp::EPOCH + DAY * 21));
        store.expire(&term, Retention::new(Some(DAY * 25)), late, 10).await.unwrap();
        assert_eq!(shard().await.whole_until, Some(Timestamp::EPOCH + DAY * 21));
    }

    #[tokio::test]
    async fn records_of_older_tables_expire_too() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        db.migrate("history", &schema::STEPS[..1]).await.unwrap();
        let removed = JobRecord { removed: true, ..record("removed", JobState::Waiting, None) };
        for record in
            [record("ended", JobState::Failed, Some(86_400_123)), record("waits", JobState::Waiting, None), removed]
        {
            let (id, state, removed) = (record.id.to_string(), record.state.as_str(), record.removed);
            let document = codec::encode(&record);
            db.write(move |c| {
                c.execute(
                    "INSERT INTO history_jobs VALUES (?1, 'a', ?2, 5, ?3, 1, x'00', x'00', ?4)",
                    (&id, state, removed, &document),
                )
            })
            .await
            .unwrap();
        }
        EmbeddedStore::open(db.clone()).await.unwrap();
        let ends: Vec<(String, Option<i64>)> = db
            .read(|c| {
                let mut select = c.prepare("SELECT id, ended_at FROM history_jobs ORDER BY id")?;
                select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            })
            .await
            .unwrap();
        let expected = [("ended", Some(86_400_123)), ("removed", Some(5)), ("waits", None)];
        assert_eq!(ends, expected.map(|(id, end)| (id.to_owned(), end)));
    }
}
