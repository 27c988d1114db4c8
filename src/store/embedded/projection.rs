//! The projector's reads and writes.

use rusqlite::{Connection, OptionalExtension};

use super::builds::{self, BuildsRow};
use super::{corrupt, errors, term, versioned};
use crate::domain::{Fingerprint, JobBody, JobId, Timestamp};
use crate::events::Cursor;
use crate::stats::{ShardKey, StatShard};
use crate::store::{Commit, JobRecord, Loaded, Sighting, StoreError, StoreErrorKind, Term, Versioned, codec};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

/// A commit as rows, encoded before it reaches the writing thread, which all callers share.
pub(super) struct Rows {
    /// The version and the document.
    categories: Option<(Option<i64>, Vec<u8>)>,
    sightings: Vec<Sighting>,
    shards: Vec<ShardRow>,
    builds: Vec<BuildsRow>,
    bodies: Vec<(JobId, JobBody)>,
    jobs: Vec<JobRow>,
    cursor: Cursor,
}

struct ShardRow {
    day: i64,
    name: String,
    version: Option<i64>,
    waiting: i64,
    active: i64,
    completed: i64,
    failed: i64,
    document: Vec<u8>,
}

struct JobRow {
    id: String,
    name: String,
    state: &'static str,
    submitted_at: i64,
    removed: bool,
    version: Option<i64>,
    identity: [u8; 32],
    summary: Vec<u8>,
    document: Vec<u8>,
    ended_at: Option<i64>,
    group: Option<String>,
    group_order: Option<i64>,
    errors: Vec<Fingerprint>,
}

impl Rows {
    pub(super) fn encode(commit: Commit) -> Self {
        let categories = commit.categories.map(|c| (c.version.map(u64::cast_signed), codec::encode(&c.document)));
        Self {
            categories,
            sightings: commit.sightings,
            shards: commit.shards.iter().map(shard_row).collect(),
            builds: commit.builds.iter().map(builds::row).collect(),
            bodies: commit.bodies,
            jobs: commit.jobs.iter().map(job_row).collect(),
            cursor: commit.cursor,
        }
    }
}

fn shard_row(shard: &Versioned<StatShard>) -> ShardRow {
    let StatShard { key, counts, .. } = &shard.document;
    ShardRow {
        day: key.day.start().as_millis(),
        name: key.name.to_string(),
        version: shard.version.map(u64::cast_signed),
        waiting: counts.waiting,
        active: counts.active,
        completed: counts.completed(),
        failed: counts.failed(),
        document: codec::encode(&shard.document),
    }
}

fn job_row(job: &Versioned<JobRecord>) -> JobRow {
    let record = &job.document;
    JobRow {
        id: record.id.to_string(),
        name: record.name.to_string(),
        state: record.state.as_str(),
        submitted_at: record.submitted_at.as_millis(),
        removed: record.removed,
        version: job.version.map(u64::cast_signed),
        identity: record.identity(),
        summary: codec::encode(&record.summary()),
        document: codec::encode(record),
        ended_at: record.ended_at().map(|t| t.max(record.submitted_at).as_millis()),
        group: record.options.group.as_ref().map(ToString::to_string),
        group_order: record.group_order(),
        errors: record.errors().as_slice().to_vec(),
    }
}

/// What became of a commit.
pub(super) enum Committed {
    Done,
    Fenced,
    Conflict(String),
    Changed(String),
}

impl Committed {
    pub(super) fn into_result(self) -> Result<(), StoreError> {
        let (kind, message) = match self {
            Committed::Done => return Ok(()),
            Committed::Fenced => (StoreErrorKind::Fenced, "another projector has taken over".to_owned()),
            Committed::Conflict(what) => (StoreErrorKind::Conflict, format!("{what} was written by another process")),
            Committed::Changed(id) => {
                (StoreErrorKind::Rejected, format!("job {id} can't get another name, body or time of submission"))
            }
        };
        Err(StoreError::new(kind, message))
    }
}

pub(super) fn commit(c: &Connection, term: &Term, rows: &Rows) -> rusqlite::Result<Committed> {
    if !term::is_current(c, term)? {
        return Ok(Committed::Fenced);
    }
    // The transaction is shared with other callers, so a refused commit must leave no trace in it.
    c.prepare_cached("SAVEPOINT history")?.execute([])?;
    let done = write(c, rows)?;
    if !matches!(done, Committed::Done) {
        c.prepare_cached("ROLLBACK TO history")?.execute([])?;
    }
    c.prepare_cached("RELEASE history")?.execute([])?;
    Ok(done)
}

fn write(c: &Connection, rows: &Rows) -> rusqlite::Result<Committed> {
    if let Some((version, document)) = &rows.categories
        && !errors::write_categories(c, *version, document)?
    {
        return Ok(Committed::Conflict("the set of categories".to_owned()));
    }
    for sighting in &rows.sightings {
        errors::write_sighting(c, sighting)?;
    }
    for shard in &rows.shards {
        if !write_shard(c, shard)? {
            return Ok(Committed::Conflict(format!("the aggregate of {}", shard.name)));
        }
    }
    for row in &rows.builds {
        if !builds::write(c, row)? {
            return Ok(Committed::Conflict(format!("the history of the builds of {}", row.name)));
        }
    }
    let mut write_body = c.prepare_cached("INSERT INTO history_bodies VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    for (id, body) in &rows.bodies {
        write_body.execute((id.as_str(), body.as_str().as_bytes()))?;
    }
    for job in &rows.jobs {
        if !write_job(c, job)? {
            return if job.version.is_some() && stored_version(c, &job.id)? == job.version {
                Ok(Committed::Changed(job.id.clone()))
            } else {
                Ok(Committed::Conflict(format!("job {}", job.id)))
            };
        }
    }
    let before = stored_cursor(c)?.parse().unwrap_or(Cursor::START);
    if rows.cursor > before {
        c.prepare_cached("UPDATE history_head SET cursor = ?1")?.execute([rows.cursor.to_string()])?;
    }
    Ok(Committed::Done)
}

/// Writes a shard under its version. Returns false when that has moved.
fn write_shard(c: &Connection, row: &ShardRow) -> rusqlite::Result<bool> {
    let ShardRow { day, name, version, waiting, active, completed, failed, document } = row;
    let written = match version {
        None => c
            .prepare_cached("INSERT INTO history_shards VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING")?
            .execute((day, name, waiting, active, completed, failed, document))?,
        Some(version) => c
            .prepare_cached(
                "UPDATE history_shards SET version = version + 1, waiting = ?3, active = ?4, completed = ?5,
                 failed = ?6, document = ?7 WHERE day = ?1 AND name = ?2 AND version = ?8",
            )?
            .execute((day, name, waiting, active, completed, failed, document, version))?,
    };
    Ok(written == 1)
}

/// Writes a job under its version and its identity. Returns false when either differs.
fn write_job(c: &Connection, row: &JobRow) -> rusqlite::Result<bool> {
    let JobRow { id, name, state, submitted_at, removed, version, identity, summary, document, .. } = row;
    let JobRow { ended_at, group, group_order, errors, .. } = row;
    let written = match version {
        None => c
            .prepare_cached(
                "INSERT INTO history_jobs VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT DO NOTHING",
            )?
            .execute((
                id,
                name,
                state,
                submitted_at,
                removed,
                identity,
                summary,
                document,
                ended_at,
                group,
                group_order,
            ))?,
        Some(version) => {
            // `removed` is in the condition of most indexes: where it is set, SQLite writes their entries anew. It is
            // hardly ever changed.
            let update = |set: &str, condition: &str| {
                c.prepare_cached(&format!(
                    "UPDATE history_jobs SET state = ?2, version = version + 1, summary = ?4, document = ?5,
                     ended_at = ?8{set} WHERE id = ?1 AND version = ?6 AND identity = ?7{condition}"
                ))?
                .execute((id, state, removed, summary, document, version, identity, ended_at))
            };
            match update("", " AND removed = ?3")? {
                0 => update(", removed = ?3", "")?,
                written => written,
            }
        }
    };
    if written == 1 {
        // An attempt keeps its fingerprint for ever, so there is none to take away.
        let mut insert = c.prepare_cached("INSERT OR IGNORE INTO history_job_errors VALUES (?1, ?2, ?3)")?;
        for fingerprint in errors {
            insert.execute((fingerprint.as_bytes(), submitted_at, id))?;
        }
    }
    Ok(written == 1)
}

fn stored_version(c: &Connection, id: &str) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached("SELECT version FROM history_jobs WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

fn stored_cursor(c: &Connection) -> rusqlite::Result<String> {
    c.prepare_cached("SELECT cursor FROM history_head")?.query_row([], |row| row.get(0))
}

pub(super) fn position(c: &Connection) -> Read<Cursor> {
    Ok(stored_cursor(c)?.parse().map_err(|e| corrupt("the cursor", e)))
}

pub(super) fn load(c: &Connection, jobs: &[JobId], shards: &[ShardKey]) -> Read<Loaded> {
    // One transaction, so that jobs and shards are of the same moment.
    let transaction = c.unchecked_transaction()?;
    let mut loaded = Loaded::default();
    let mut select = c.prepare_cached("SELECT version, document FROM history_jobs WHERE id = ?1")?;
    for id in jobs {
        let found = select.query_row([id.as_str()], |row| versioned(row, codec::job)).optional()?;
        match found.transpose() {
            Ok(found) => loaded.jobs.push(found),
            Err(e) => return Ok(Err(corrupt(&format!("job {id}"), &e).caused_by(e))),
        }
    }
    let mut select = c.prepare_cached("SELECT version, document FROM history_shards WHERE day = ?1 AND name = ?2")?;
    for key in shards {
        let place = (key.day.start().as_millis(), key.name.as_str());
        let found = select.query_row(place, |row| versioned(row, codec::shard)).optional()?;
        match found.transpose() {
            Ok(found) => loaded.shards.push(found),
            Err(e) => {
                return Ok(Err(corrupt(&format!("the aggregate of {} on {}", key.name, key.day), &e).caused_by(e)));
            }
        }
    }
    transaction.finish()?;
    Ok(Ok(loaded))
}

pub(super) fn scan(c: &Connection, after: Option<&JobId>, limit: usize) -> Read<Vec<JobRecord>> {
    let mut select = c.prepare_cached("SELECT document FROM history_jobs WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    // The empty text comes before every id, because ids are never empty.
    let after = after.map_or("", JobId::as_str);
    let mut rows = select.query((after, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        match codec::job(row.get_ref(0)?.as_blob()?) {
            Ok(record) => records.push(record),
            Err(e) => return Ok(Err(e)),
        }
    }
    Ok(Ok(records))
}

pub(super) fn shard_keys(c: &Connection) -> Read<Vec<ShardKey>> {
    let mut select = c.prepare_cached("SELECT day, name FROM history_shards ORDER BY day, name")?;
    let mut rows = select.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        match name.parse() {
            Ok(name) => keys.push(ShardKey { day: Timestamp::from_millis(row.get(0)?).day(), name }),
            Err(e) => return Ok(Err(corrupt("a job name", e))),
        }
    }
    Ok(Ok(keys))
}
