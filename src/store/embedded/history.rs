//! Answers readers.

use std::collections::BTreeSet;

use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::corrupt;
use crate::domain::{Fingerprint, JobBody, JobId, JobName, JobState, Page, Timestamp};
use crate::stats::StatShard;
use crate::store::{DayRange, JobFilter, JobRecord, JobSummary, NameSummary, StoreError, StoreErrorKind, codec};

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

/// A place in the list of jobs, newest first: everything before it comes after it in the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListCursor {
    submitted_at: i64,
    id: String,
}

impl ListCursor {
    const NEWEST: ListCursor = ListCursor { submitted_at: i64::MAX, id: String::new() };

    /// Reads a cursor that `Display` wrote.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let place = || {
            let (ms, hex) = text.split_once('-')?;
            // The parser of numbers would accept signs, too.
            if !hex.bytes().all(|b| b.is_ascii_hexdigit()) || !hex.len().is_multiple_of(2) {
                return None;
            }
            let id = hex
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect::<Option<Vec<u8>>>()?;
            Some(ListCursor { submitted_at: ms.parse().ok()?, id: String::from_utf8(id).ok()? })
        };
        place().ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Rejected,
                "the cursor is not one of this list; give back the `next_cursor` of the page before",
            )
        })
    }
}

impl std::fmt::Display for ListCursor {
    /// Milliseconds and the id in hexadecimal: safe in a URL, whatever the id.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-", self.submitted_at)?;
        self.id.bytes().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

pub(super) fn jobs(
    c: &Connection,
    filter: &JobFilter,
    start: Option<ListCursor>,
    limit: usize,
) -> Read<Page<JobSummary>> {
    // Asks for one more, to know whether there is another page.
    let wanted = limit + 1;
    let transaction = c.unchecked_transaction()?;
    let states: BTreeSet<JobState> = filter.states.iter().copied().collect();
    let mut found = Vec::new();
    // Reads one index range for each state or error, then merges them, because an index is in order
    // only within one range.
    if !filter.errors.is_empty() {
        for error in filter.errors.iter().collect::<BTreeSet<_>>() {
            read(c, failed_with(filter, *error, start.as_ref(), wanted), &mut found)?;
        }
    } else if states.is_empty() {
        read(c, listing(filter, None, start.as_ref(), wanted), &mut found)?;
    } else {
        for state in states {
            read(c, listing(filter, Some(state), start.as_ref(), wanted), &mut found)?;
        }
    }
    transaction.finish()?;
    found.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    // A job that failed with several of the errors was found several times.
    found.dedup_by(|a, b| a.0 == b.0);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(place, _)| place.to_string());
    let items = found.into_iter().map(|(place, summary)| {
        serde_json::from_slice(&summary).map_err(|e| corrupt(&format!("job {}", place.id), &e).caused_by(e))
    });
    Ok(items.collect::<Result<_, _>>().map(|items| Page { items, next }))
}

/// A query with its parameters.
type Query = (String, Vec<Value>);

/// The query for one page of jobs of one state, or of any.
fn listing(filter: &JobFilter, state: Option<JobState>, start: Option<&ListCursor>, wanted: usize) -> Query {
    let index = match (&filter.name, state) {
        (None, None) => "history_jobs_by_time",
        (None, Some(_)) => "history_jobs_by_state",
        (Some(_), None) => "history_jobs_by_name",
        (Some(_), Some(_)) => "history_jobs_by_both",
    };
    let mut values = span(filter, start);
    let mut sql = format!(
        "SELECT submitted_at, id, summary FROM history_jobs INDEXED BY {index}
         WHERE removed = 0 AND (submitted_at, id) < (?1, ?2) AND submitted_at >= ?3"
    );
    if let Some(name) = &filter.name {
        values.push(name.to_string().into());
        sql += &format!(" AND name = ?{}", values.len());
    }
    if let Some(state) = state {
        values.push(state.as_str().to_owned().into());
        sql += &format!(" AND state = ?{}", values.len());
    }
    values.push(i64::try_from(wanted).unwrap_or(i64::MAX).into());
    sql += &format!(" ORDER BY submitted_at DESC, id DESC LIMIT ?{}", values.len());
    (sql, values)
}

/// The query for one page of jobs that failed with an error. It reads one range of one index, and looks at each job
/// that it finds there for the other conditions.
fn failed_with(filter: &JobFilter, error: Fingerprint, start: Option<&ListCursor>, wanted: usize) -> Query {
    let mut values = span(filter, start);
    values.push(error.as_bytes().to_vec().into());
    let mut sql =
        "SELECT e.submitted_at, e.id, j.summary FROM history_job_errors e CROSS JOIN history_jobs j ON j.id = e.id
         WHERE e.fingerprint = ?4 AND (e.submitted_at, e.id) < (?1, ?2) AND e.submitted_at >= ?3 AND j.removed = 0"
            .to_owned();
    if let Some(name) = &filter.name {
        values.push(name.to_string().into());
        sql += &format!(" AND j.name = ?{}", values.len());
    }
    if !filter.states.is_empty() {
        let states = filter.states.iter().map(|state| {
            values.push(state.as_str().to_owned().into());
            format!("?{}", values.len())
        });
        let states = states.collect::<Vec<_>>().join(", ");
        sql += &format!(" AND j.state IN ({states})");
    }
    values.push(i64::try_from(wanted).unwrap_or(i64::MAX).into());
    sql += &format!(" ORDER BY e.submitted_at DESC, e.id DESC LIMIT ?{}", values.len());
    (sql, values)
}

/// The first two parameters: the place before which to read. The third: the time since which.
fn span(filter: &JobFilter, start: Option<&ListCursor>) -> Vec<Value> {
    let until = filter.until.map(|t| ListCursor { submitted_at: t.as_millis(), id: String::new() });
    let before = [start.cloned(), until].into_iter().flatten().min().unwrap_or(ListCursor::NEWEST);
    let since = filter.since.map_or(i64::MIN, Timestamp::as_millis);
    vec![before.submitted_at.into(), before.id.into(), since.into()]
}

fn read(c: &Connection, (sql, values): Query, found: &mut Vec<(ListCursor, Vec<u8>)>) -> rusqlite::Result<()> {
    let mut select = c.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(&values))?;
    while let Some(row) = rows.next()? {
        found.push((ListCursor { submitted_at: row.get(0)?, id: row.get(1)? }, row.get(2)?));
    }
    Ok(())
}

/// The sums come from the shards (a few numbers for each name and day), the ids from indexes.
pub(super) fn job_names(c: &Connection) -> Read<Vec<NameSummary>> {
    let transaction = c.unchecked_transaction()?;
    let mut sums = c.prepare_cached(
        "SELECT name, sum(waiting), sum(active), sum(completed), sum(failed)
         FROM history_shards INDEXED BY history_shards_by_name GROUP BY name ORDER BY name",
    )?;
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
        let parts = (text.parse::<JobName>(), ids(&mut newest, &text)?, ids(&mut running, &text)?);
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

/// The ids that a query finds, and when the first of them was submitted.
fn ids(select: &mut rusqlite::Statement<'_>, name: &str) -> rusqlite::Result<Ids> {
    let limit = i64::try_from(NameSummary::RECENT).unwrap_or(i64::MAX);
    let mut rows = select.query((name, limit))?;
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

pub(super) fn shards(c: &Connection, days: DayRange, name: Option<&JobName>) -> Read<Vec<StatShard>> {
    let from = days.from.map_or(i64::MIN, |d| d.start().as_millis());
    let to = days.to.map_or(i64::MAX, |d| d.start().as_millis());
    let sql = match name {
        None => "SELECT document FROM history_shards WHERE day BETWEEN ?1 AND ?2 ORDER BY day, name",
        Some(_) => {
            "SELECT document FROM history_shards INDEXED BY history_shards_by_name
             WHERE day BETWEEN ?1 AND ?2 AND name = ?3 ORDER BY day"
        }
    };
    let mut select = c.prepare_cached(sql)?;
    let name = name.map(JobName::as_str);
    let values: Vec<&dyn ToSql> = match &name {
        None => vec![&from, &to],
        Some(name) => vec![&from, &to, name],
    };
    let mut rows = select.query(&*values)?;
    let mut shards = Vec::new();
    while let Some(row) = rows.next()? {
        match codec::shard(row.get_ref(0)?.as_blob()?) {
            Ok(shard) => shards.push(shard),
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(shards))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{Durability, Sqlite};
    use crate::store::embedded::EmbeddedStore;

    /// A page costs the same in a large table: no combination of filters sorts, or walks along rows that don't match.
    #[tokio::test]
    async fn every_list_reads_one_range_of_one_index() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedStore::open(db.clone()).await.unwrap();
        let name: JobName = "a".parse().unwrap();
        let time = Some(Timestamp::from_millis(5));
        for name in [None, Some(name)] {
            for state in [None, Some(JobState::Active)] {
                let filter = JobFilter { name: name.clone(), since: time, until: time, ..JobFilter::default() };
                let plan = plan(&db, listing(&filter, state, Some(&ListCursor::NEWEST), 10)).await;
                assert_eq!(plan.len(), 1, "{plan:?}");
                assert!(plan[0].starts_with("SEARCH") && plan[0].contains("submitted_at>?"), "{plan:?}");
                assert!(plan[0].contains("(submitted_at,id)<(?,?)"), "{plan:?}");
                assert_eq!(plan[0].contains("name=?"), name.is_some(), "{plan:?}");
                assert_eq!(plan[0].contains("state=?"), state.is_some(), "{plan:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_jobs_of_an_error_are_read_in_order_from_one_range() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedStore::open(db.clone()).await.unwrap();
        let states = vec![JobState::Failed, JobState::Completed];
        let filter = JobFilter { states, name: Some("a".parse().unwrap()), ..JobFilter::default() };
        let plan = plan(&db, failed_with(&filter, Fingerprint::OTHER, None, 10)).await;
        assert_eq!(plan.len(), 2, "nothing is sorted: {plan:?}");
        assert!(plan[0].starts_with("SEARCH e USING PRIMARY KEY (fingerprint=? AND submitted_at>?"), "{plan:?}");
        assert!(plan[0].contains("(submitted_at,id)<(?,?)"), "{plan:?}");
    }

    async fn plan(db: &Sqlite, (sql, values): Query) -> Vec<String> {
        db.read(move |c| {
            let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            plan.query_map(params_from_iter(values), |row| row.get("detail"))?.collect()
        })
        .await
        .unwrap()
    }

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = ListCursor { submitted_at: 17, id: "repeat:a:1".to_owned() };
        assert_eq!(ListCursor::parse(&place.to_string()).unwrap(), place);
    }
}
