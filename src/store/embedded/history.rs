//! Answers readers.

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row};

use super::corrupt;
use crate::domain::{JobBody, JobId, JobName, Timestamp};
use crate::stats::{ShardKey, StatShard};
use crate::store::{DayRange, JobRecord, NameSummary, StoreError, codec};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

pub(super) fn job(
    c: &Connection,
    id: &JobId,
    decode: fn(&[u8]) -> Result<JobRecord, StoreError>,
) -> Read<Option<JobRecord>> {
    let record = c
        .prepare_cached("SELECT document FROM history_jobs WHERE id = ?1")?
        .query_row([id.as_str()], |row| Ok(decode(row.get_ref(0)?.as_blob()?)))
        .optional()?;
    Ok(record.transpose())
}

/// A range of the primary key: in order of id, whatever the number of jobs.
pub(super) fn ids_from(c: &Connection, prefix: &str, limit: usize) -> Read<Vec<JobId>> {
    let mut select = c.prepare_cached("SELECT id FROM history_jobs WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let ids = select.query_map((prefix, JobId::beyond_prefix(prefix), limit), |row| row.get::<_, String>(0))?;
    let ids = ids.map(|id| Ok(JobId::parse(&id?)));
    let ids: Result<Vec<_>, _> = ids.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().collect();
    Ok(ids.map_err(|e| corrupt("a job id", e)))
}

/// Bodies, beside their records or within them.
pub(super) fn bodies(c: &Connection, ids: &[JobId]) -> Read<Vec<Option<JobBody>>> {
    let mut beside = c.prepare_cached("SELECT body FROM history_bodies WHERE id = ?1")?;
    let mut bodies = Vec::with_capacity(ids.len());
    for id in ids {
        let body = beside.query_row([id.as_str()], |row| Ok(codec::body(row.get_ref(0)?.as_blob()?))).optional()?;
        let body = match body {
            Some(body) => body.map(Some),
            None => job(c, id, codec::job)?.map(|record| record.and_then(|record| record.body_within())),
        };
        match body {
            Ok(body) => bodies.push(body),
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(bodies))
}

/// The sums are kept by name, the ids come from indexes.
pub(super) fn job_names(c: &Connection) -> Read<Vec<NameSummary>> {
    let transaction = c.unchecked_transaction()?;
    let of_all = c.prepare_cached("SELECT count(*) FROM history_names")?.query_row([], |row| row.get::<_, i64>(0))?;
    let listed = NameSummary::listed(usize::try_from(of_all).unwrap_or(usize::MAX));
    let mut sums =
        c.prepare_cached("SELECT name, waiting, active, completed, failed FROM history_names ORDER BY name")?;
    let mut rows = sums.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        let count = |i: usize| row.get(i).map(|n: i64| u64::try_from(n).unwrap_or(0));
        let mut newest = c.prepare_cached(
            "SELECT submitted_at, id FROM history_jobs INDEXED BY history_jobs_by_name
             WHERE removed = 0 AND name = ?1 ORDER BY submitted_at DESC, id DESC LIMIT ?2",
        )?;
        let mut running = c.prepare_cached(
            "SELECT submitted_at, id FROM history_jobs INDEXED BY history_jobs_by_both
             WHERE removed = 0 AND name = ?1 AND state = 'active' ORDER BY submitted_at DESC, id DESC LIMIT ?2",
        )?;
        let parts = (text.parse::<JobName>(), ids(&mut newest, &text, listed)?, ids(&mut running, &text, listed)?);
        let (name, (latest, recent), (_, running)) = match parts {
            (Ok(name), Ok(newest), Ok(running)) => (name, newest, running),
            (Err(e), ..) | (_, Err(e), _) | (_, _, Err(e)) => return Ok(Err(corrupt("a job name or id", e))),
        };
        // A name whose jobs have all been removed is not in the lists any more.
        if let Some(latest) = latest {
            let (waiting, active, completed, failed) = (count(1)?, count(2)?, count(3)?, count(4)?);
            names.push(NameSummary { name, latest, waiting, active, completed, failed, recent, running });
        }
    }
    drop(rows);
    drop(sums);
    transaction.finish()?;
    Ok(Ok(names))
}

type Ids = Result<(Option<Timestamp>, Vec<JobId>), crate::domain::InvalidName>;

/// The ids that a query finds, at most so many, and when the first of them was submitted.
fn ids(select: &mut rusqlite::Statement<'_>, name: &str, most: usize) -> rusqlite::Result<Ids> {
    let mut rows = select.query((name, i64::try_from(most).unwrap_or(i64::MAX)))?;
    let (mut first, mut ids) = (None, Vec::new());
    while let Some(row) = rows.next()? {
        let submitted_at: i64 = row.get(0)?;
        first = first.or(Some(Timestamp::from_millis(submitted_at)));
        match JobId::parse(row.get_ref(1)?.as_str()?) {
            Ok(id) => ids.push(id),
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok((first, ids)))
}

/// The keys of the aggregates of these days, in order, from an index.
pub(super) fn shard_keys(c: &Connection, days: DayRange, name: Option<&JobName>) -> Read<Vec<ShardKey>> {
    shards_of(c, "day, name", days, name, |_, key| Ok(key))
}

/// What `read` makes of the aggregates of these days, in order. The columns begin with those of the key.
pub(super) fn shards_of<T>(
    c: &Connection,
    columns: &str,
    days: DayRange,
    name: Option<&JobName>,
    read: fn(&Row<'_>, ShardKey) -> rusqlite::Result<T>,
) -> Read<Vec<T>> {
    let from = days.from.map_or(i64::MIN, |d| d.start().as_millis());
    let to = days.to.map_or(i64::MAX, |d| d.start().as_millis());
    let rest = match name {
        None => "WHERE day BETWEEN ?1 AND ?2 ORDER BY day, name",
        Some(_) => "INDEXED BY history_shards_by_name WHERE day BETWEEN ?1 AND ?2 AND name = ?3 ORDER BY day",
    };
    let mut select = c.prepare_cached(&format!("SELECT {columns} FROM history_shards {rest}"))?;
    let name = name.map(JobName::as_str);
    let values: Vec<&dyn ToSql> = match &name {
        None => vec![&from, &to],
        Some(name) => vec![&from, &to, name],
    };
    let mut rows = select.query(&*values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match JobName::parse(row.get_ref(1)?.as_str()?) {
            Ok(name) => found.push(read(row, ShardKey { day: Timestamp::from_millis(row.get(0)?).day(), name })?),
            Err(e) => return Ok(Err(corrupt("a job name", e))),
        }
    }
    Ok(Ok(found))
}

pub(super) fn shards(
    c: &Connection,
    keys: &[ShardKey],
    decode: fn(&[u8]) -> Result<StatShard, StoreError>,
) -> Read<Vec<StatShard>> {
    let mut select = c.prepare_cached("SELECT document FROM history_shards WHERE day = ?1 AND name = ?2")?;
    let mut shards = Vec::with_capacity(keys.len());
    for ShardKey { day, name } in keys {
        let shard =
            select.query_row((day.start().as_millis(), name.as_str()), |row| Ok(decode(row.get_ref(0)?.as_blob()?)));
        match shard.optional()?.transpose() {
            Ok(shard) => shards.extend(shard),
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(shards))
}

#[cfg(test)]
mod tests {
    use crate::sqlite::{Durability, Sqlite};
    use crate::store::History;
    use crate::store::embedded::{EmbeddedStore, schema};

    /// The tables of this version's predecessor.
    const BEFORE: usize = 7;

    #[tokio::test]
    async fn the_sums_of_a_name_follow_its_aggregates_those_of_older_tables_too() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        db.migrate("history", &schema::STEPS[..BEFORE]).await.unwrap();
        let run = async |sql: &'static str| db.write(move |c| c.execute_batch(sql)).await.unwrap();
        run("INSERT INTO history_jobs VALUES ('x', 'a', 'waiting', 5, 0, 1, x'00', x'00', x'00', NULL, NULL, NULL);
             INSERT INTO history_shards VALUES (0, 'a', 1, 1, 0, 2, 3, x'00'), (86400000, 'a', 1, 0, 4, 5, 0, x'00'),
                 (0, 'b', 1, 9, 9, 9, 9, x'00');")
        .await;
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        let sums = async || {
            let names = store.job_names().await.unwrap();
            assert_eq!(names.len(), 1, "the other has no jobs any more");
            (names[0].waiting, names[0].active, names[0].completed, names[0].failed)
        };
        assert_eq!(sums().await, (1, 4, 7, 3));
        run("UPDATE history_shards SET waiting = 0, active = 1 WHERE day = 0 AND name = 'a';
             INSERT INTO history_shards VALUES (172800000, 'a', 1, 0, 0, 1, 1, x'00') ON CONFLICT DO NOTHING;
             INSERT INTO history_shards VALUES (172800000, 'a', 1, 5, 5, 5, 5, x'00') ON CONFLICT DO NOTHING;
             UPDATE history_shards SET document = x'01';")
        .await;
        assert_eq!(sums().await, (0, 5, 8, 4));
    }

    #[tokio::test]
    async fn a_name_beside_many_others_lists_fewer_of_its_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        const NUMBERS: &str =
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)";
        let names = async |count: i64| {
            db.write(move |c| {
                c.execute(
                    &format!(
                        "{NUMBERS} INSERT OR IGNORE INTO history_shards
                         SELECT 0, 'n' || n, 1, 0, 0, 30, 0, x'00' FROM numbers"
                    ),
                    [count],
                )
            })
            .await
            .unwrap();
        };
        db.write(|c| {
            let jobs = "INSERT INTO history_jobs
                        SELECT 'j' || n, 'n1', 'completed', n, 0, 1, x'00', x'00', x'00', n, NULL, NULL FROM numbers";
            c.execute(&format!("{NUMBERS} {jobs}"), [30])
        })
        .await
        .unwrap();
        for (count, listed) in [(1, 30), (50, 20), (500, 10)] {
            names(count).await;
            let found = store.job_names().await.unwrap();
            assert_eq!((found.len(), found[0].recent.len()), (1, listed), "beside {count} names");
            assert_eq!((found[0].recent[0].as_str(), found[0].completed), ("j30", 30));
        }
    }
}
