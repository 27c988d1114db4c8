//! Reads jobs and counts. Nothing here writes.

use std::collections::BinaryHeap;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};

use super::super::{QueueError, QueuedJob, StateCounts};
use super::schema::{SELECT_JOB, SELECT_STANDING, code, queued_job, to_json};
use super::{Inner, kinds, queues};
use crate::domain::{JobId, JobState, Page, PageRequest, QueueName};

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
            paused: c.prepare_cached("SELECT min(paused) FROM queue_names")?.query_row([], |row| row.get(0))?,
        };
        all.commit()?;
        Ok(counts)
    });
    Ok(counts.await?)
}

/// A column that a list is ordered by, and where [`SELECT_STANDING`] has it.
type Key = (&'static str, usize);
const SEQ: Key = ("j.seq", 0);
const DUE_AT: Key = ("j.due_at", 5);
const FINISHED_AT: Key = ("j.finished_at", 9);
const PRIORITY: Key = ("j.priority", 12);
const QUEUE: Key = ("j.queue", 15);

/// How a list is ordered: by these columns, all the same way. The rows of a list of ready jobs are looked up before.
struct Order {
    condition: &'static str,
    keys: &'static [Key],
    descending: bool,
}

fn order(state: JobState) -> Order {
    let ascending = |condition, keys| Order { condition, keys, descending: false };
    let ended = |condition| Order { condition, keys: &[FINISHED_AT, SEQ], descending: true };
    match state {
        JobState::Waiting | JobState::Prioritized => {
            ascending("j.seq IN (SELECT value FROM json_each(?))", &[QUEUE, PRIORITY, SEQ])
        }
        JobState::Delayed => ascending("j.state = 2", &[DUE_AT, SEQ]),
        JobState::Active => ascending("j.state = 3", &[SEQ]),
        JobState::Completed => ended("j.state >= 4 AND j.state = 4"),
        JobState::Failed => ended("j.state >= 4 AND j.state = 5"),
    }
}

/// The place of a row in its list, as a cursor: the state, and what the list is ordered by. None of it changes while the
/// job stays listed.
fn place(state: JobState, key: &[i64]) -> String {
    key.iter().fold(code(state).to_string(), |cursor, part| format!("{cursor}.{part}"))
}

/// What the list of this state is ordered by, at the place of this cursor.
fn read_cursor(state: JobState, parts: usize, cursor: &str) -> Option<Vec<i64>> {
    let (listed, key) = cursor.split_once('.')?;
    let key: Vec<i64> = key.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    (listed.parse() == Ok(code(state)) && key.len() == parts).then_some(key)
}

pub(super) async fn page(
    inner: &Inner,
    queue: Option<&QueueName>,
    state: JobState,
    request: PageRequest,
) -> Result<Page<QueuedJob>, QueueError> {
    let Order { condition, keys, descending } = order(state);
    let (start, comparison, direction) = if descending { (i64::MAX, "<", "DESC") } else { (i64::MIN, ">", "ASC") };
    let key = match &request.cursor {
        None => vec![start; keys.len()],
        Some(cursor) => {
            read_cursor(state, keys.len(), cursor).ok_or_else(|| QueueError::foreign_cursor(cursor, state))?
        }
    };
    let limit = request.limit.clamp(1, PageRequest::MAX);
    let one = queue.map(|queue| inner.named(queue));
    let page = inner.db.read(move |c| {
        // All of it at one moment, so that no job goes missing between two looks.
        let _moment = c.unchecked_transaction()?;
        let mut page = Page { items: Vec::new(), next: None };
        let of_queue = match &one {
            None => None,
            Some(name) => match queues::number(c, name.as_ref())? {
                None => return Ok(page),
                known => known,
            },
        };
        let and_queue = of_queue.map(|number| format!("AND j.queue = {number}")).unwrap_or_default();
        let list = |write: &dyn Fn(&str) -> String| keys.iter().map(|(column, _)| write(column)).collect::<Vec<_>>().join(", ");
        let (columns, places) = (list(&str::to_owned), list(&|_| "?".to_owned()));
        let order = list(&|column| format!("{column} {direction}"));
        let sql = format!(
            "{SELECT_STANDING} WHERE {condition} {and_queue} AND ({columns}) {comparison} ({places}) ORDER BY {order} LIMIT ?"
        );
        let mut select = c.prepare_cached(&sql)?;
        let limits = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let ready = match state {
            JobState::Waiting | JobState::Prioritized => Some(to_json(&ready(c, state, of_queue, &key, limit + 1)?)),
            _ => None,
        };
        let integers = key.iter().chain([&limits]).map(|part| Value::Integer(*part));
        let mut rows = select.query(rusqlite::params_from_iter(ready.map(Value::Text).into_iter().chain(integers)))?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            if page.items.len() == limit {
                page.next = last;
                break;
            }
            page.items.push(queued_job(row)?);
            let key: Vec<i64> = keys.iter().map(|(_, at)| row.get(*at)).collect::<rusqlite::Result<_>>()?;
            last = Some(place(state, &key));
        }
        Ok(page)
    });
    Ok(page.await?)
}

/// Selects ready jobs of a kind behind a place. In two parts, since SQLite does not look a pair up in an index when one of
/// the two is the number of the row.
pub(super) const READY_BEHIND: &str = "
    SELECT priority, seq FROM queue_jobs WHERE state <= 1 AND queue = ?1 AND kind = ?2 AND priority = ?3 AND seq > ?4
    UNION ALL SELECT priority, seq FROM queue_jobs WHERE state <= 1 AND queue = ?1 AND kind = ?2 AND priority > ?3
    ORDER BY priority, seq LIMIT ?5";

/// The numbers of the first ready jobs of a state behind a place in their list (queue, priority and number), at most
/// `most`. The index has them by their kinds, in which claims take them, so this merges the kinds of each queue: it
/// reads what it lists, and one more job of each kind.
fn ready(
    c: &Connection,
    state: JobState,
    queue: Option<i64>,
    place: &[i64],
    most: usize,
) -> rusqlite::Result<Vec<i64>> {
    let &[after_queue, after_priority, after_seq] = place else { return Ok(Vec::new()) };
    let queues: Vec<i64> = c
        .prepare_cached("SELECT id FROM queue_names WHERE id >= ?1 AND (?2 IS NULL OR id = ?2) ORDER BY id")?
        .query_map((after_queue, queue), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut select = c.prepare_cached(READY_BEHIND)?;
    let (lowest, highest) = if state == JobState::Waiting { (i64::MIN, 0) } else { (1, i64::MAX) };
    let mut found = Vec::new();
    for queue in queues {
        let left = most - found.len();
        let after = if queue == after_queue { (after_priority, after_seq) } else { (i64::MIN, i64::MIN) };
        let (priority, seq) = after.max((lowest, i64::MIN));
        let limit = i64::try_from(left).unwrap_or(i64::MAX);
        // The first of those that were read, the last of them on top.
        let mut first = BinaryHeap::new();
        for kind in kinds::ready(c, queue, usize::MAX)? {
            let mut rows = select.query((queue, kind, priority, seq, limit))?;
            while let Some(row) = rows.next()? {
                let place: (i64, i64) = (row.get(0)?, row.get(1)?);
                if place.0 > highest || (first.len() == left && first.peek().is_some_and(|last| *last < place)) {
                    break;
                }
                first.push(place);
                if first.len() > left {
                    first.pop();
                }
            }
        }
        found.extend(first.into_sorted_vec().into_iter().map(|(_, seq)| seq));
        if found.len() == most {
            break;
        }
    }
    Ok(found)
}
