//! Reads jobs and counts. Nothing here writes.

use rusqlite::{OptionalExtension, Row};

use super::super::{QueueError, QueuedJob, StateCounts};
use super::Inner;
use super::schema::{SELECT_JOB, SELECT_STANDING, code, queued_job};
use crate::domain::{JobId, JobState, Page, PageRequest};

pub(super) async fn find(inner: &Inner, ids: Vec<JobId>) -> Result<Vec<Option<QueuedJob>>, QueueError> {
    let found = inner.db.read(move |c| {
        let mut select = c.prepare_cached(&format!("{SELECT_JOB} WHERE j.id = ?1"))?;
        ids.iter().map(|id| select.query_row([id.as_str()], queued_job).optional()).collect()
    });
    Ok(found.await?)
}

pub(super) async fn standing(inner: &Inner, ids: Vec<JobId>) -> Result<Vec<Option<QueuedJob>>, QueueError> {
    let found = inner.db.read(move |c| {
        let mut select = c.prepare_cached(&format!("{SELECT_STANDING} WHERE j.id = ?1"))?;
        ids.iter().map(|id| select.query_row([id.as_str()], queued_job).optional()).collect()
    });
    Ok(found.await?)
}

/// Counts entries of the partial indexes: some 60 ms for a million jobs, on a reading connection, and nothing is held
/// up. Kept counters would be read in no time, but every job would pay for them on the one thread that writes: four
/// more updates, and one more page in each commit.
pub(super) async fn counts(inner: &Inner) -> Result<StateCounts, QueueError> {
    let counts = inner.db.read(|c| {
        let count = |condition: &str| -> rusqlite::Result<u64> {
            let sql = format!("SELECT count(*) FROM queue_jobs WHERE {condition}");
            let n: i64 = c.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
            Ok(n.unsigned_abs())
        };
        // One transaction, so that a job in motion is counted once.
        let all = c.unchecked_transaction()?;
        let counts = StateCounts {
            waiting: count("state <= 1 AND priority = 0")?,
            prioritized: count("state <= 1 AND priority > 0")?,
            delayed: count("state = 2")?,
            active: count("state = 3")?,
            completed: count("state >= 4 AND state = 4")?,
            failed: count("state >= 4 AND state = 5")?,
            paused: c.prepare_cached("SELECT paused FROM queue_switches")?.query_row([], |row| row.get(0))?,
        };
        all.commit()?;
        Ok(counts)
    });
    Ok(counts.await?)
}

/// How a list is ordered: by `key`, then by `seq`, both the same way.
struct Order {
    condition: &'static str,
    key: &'static str,
    /// The column of [`SELECT_STANDING`] that holds the key.
    column: usize,
    descending: bool,
}

fn order(state: JobState) -> Order {
    const SEQ: usize = 0;
    const DUE_AT: usize = 5;
    const FINISHED_AT: usize = 9;
    const PRIORITY: usize = 12;
    let ascending = |condition, key, column| Order { condition, key, column, descending: false };
    match state {
        JobState::Waiting => ascending("j.state <= 1 AND j.priority = 0", "j.priority", PRIORITY),
        JobState::Prioritized => ascending("j.state <= 1 AND j.priority > 0", "j.priority", PRIORITY),
        JobState::Delayed => ascending("j.state = 2", "j.due_at", DUE_AT),
        JobState::Active => ascending("j.state = 3", "j.seq", SEQ),
        JobState::Completed => Order {
            condition: "j.state >= 4 AND j.state = 4",
            key: "j.finished_at",
            column: FINISHED_AT,
            descending: true,
        },
        JobState::Failed => Order {
            condition: "j.state >= 4 AND j.state = 5",
            key: "j.finished_at",
            column: FINISHED_AT,
            descending: true,
        },
    }
}

/// The place of a row in its list, as a cursor: state, key and seq, none of which changes while the job stays listed.
fn place(state: JobState, row: &Row<'_>, order: &Order) -> rusqlite::Result<String> {
    Ok(format!("{}.{}.{}", code(state), row.get::<_, i64>(order.column)?, row.get::<_, i64>(0)?))
}

fn read_cursor(state: JobState, cursor: &str) -> Option<(i64, i64)> {
    let mut parts = cursor.split('.').map(str::parse::<i64>);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (Ok(listed), Ok(key), Ok(seq), None) if listed == code(state) => Some((key, seq)),
        _ => None,
    }
}

pub(super) async fn page(inner: &Inner, state: JobState, request: PageRequest) -> Result<Page<QueuedJob>, QueueError> {
    let order = order(state);
    let (start, comparison, direction) =
        if order.descending { ((i64::MAX, i64::MAX), "<", "DESC") } else { ((i64::MIN, i64::MIN), ">", "ASC") };
    let (key, seq) = match &request.cursor {
        None => start,
        Some(cursor) => read_cursor(state, cursor).ok_or_else(|| QueueError::foreign_cursor(cursor, state))?,
    };
    let limit = request.limit.clamp(1, PageRequest::MAX);
    let page = inner.db.read(move |c| {
        let sql = format!(
            "{SELECT_STANDING} WHERE {} AND ({}, j.seq) {comparison} (?1, ?2) ORDER BY {} {direction}, j.seq {direction} LIMIT ?3",
            order.condition, order.key, order.key,
        );
        let mut select = c.prepare_cached(&sql)?;
        let mut rows = select.query((key, seq, i64::try_from(limit + 1).unwrap_or(i64::MAX)))?;
        let mut page = Page { items: Vec::new(), next: None };
        let mut last = None;
        while let Some(row) = rows.next()? {
            if page.items.len() == limit {
                page.next = last;
                break;
            }
            page.items.push(queued_job(row)?);
            last = Some(place(state, row, &order)?);
        }
        Ok(page)
    });
    Ok(page.await?)
}
