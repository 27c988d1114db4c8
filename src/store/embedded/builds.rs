//! The histories of builds, a row for each job name.

use rusqlite::{Connection, OptionalExtension};

use super::{corrupt, versioned};
use crate::domain::{JobName, Timestamp};
use crate::stats::builds::BuildHistory;
use crate::store::{StoreError, Versioned, codec};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

/// A history as a row.
pub(super) struct BuildsRow {
    pub(super) name: String,
    version: Option<i64>,
    document: Vec<u8>,
}

pub(super) fn row(history: &Versioned<BuildHistory>) -> BuildsRow {
    BuildsRow {
        name: history.document.name.to_string(),
        version: history.version.map(u64::cast_signed),
        document: codec::encode(&history.document),
    }
}

/// Writes a history under its version. Returns false when that has moved.
pub(super) fn write(c: &Connection, row: &BuildsRow) -> rusqlite::Result<bool> {
    let BuildsRow { name, version, document } = row;
    let written = match version {
        None => c
            .prepare_cached("INSERT INTO history_builds VALUES (?1, 1, ?2) ON CONFLICT DO NOTHING")?
            .execute((name, document))?,
        Some(version) => c
            .prepare_cached(
                "UPDATE history_builds SET version = version + 1, document = ?2 WHERE name = ?1 AND version = ?3",
            )?
            .execute((name, document, version))?,
    };
    Ok(written == 1)
}

pub(super) fn load(c: &Connection, names: &[JobName]) -> Read<Vec<Option<Versioned<BuildHistory>>>> {
    let mut select = c.prepare_cached("SELECT version, document FROM history_builds WHERE name = ?1")?;
    let mut loaded = Vec::with_capacity(names.len());
    for name in names {
        let found = select.query_row([name.as_str()], |row| versioned(row, codec::builds)).optional()?;
        match found.transpose() {
            Ok(found) => loaded.push(found),
            Err(e) => return Ok(Err(corrupt(&format!("the builds of {name}"), &e).caused_by(e))),
        }
    }
    Ok(Ok(loaded))
}

pub(super) fn names(c: &Connection) -> Read<Vec<JobName>> {
    let mut select = c.prepare_cached("SELECT name FROM history_builds ORDER BY name")?;
    let mut rows = select.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        match JobName::parse(row.get_ref(0)?.as_str()?) {
            Ok(name) => names.push(name),
            Err(e) => return Ok(Err(corrupt("a job name", e))),
        }
    }
    Ok(Ok(names))
}

/// Notes in the history of a name's builds that records are gone from `until` on, of jobs that had ended by `ended_by`.
pub(super) fn note_expiry(c: &Connection, name: &str, ended_by: Timestamp, until: Timestamp) -> Read<()> {
    let stored: Option<Vec<u8>> = c
        .prepare_cached("SELECT document FROM history_builds WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    let Some(stored) = stored else { return Ok(Ok(())) };
    let mut history = match codec::builds(&stored) {
        Ok(history) => history,
        Err(error) => return Ok(Err(error)),
    };
    if history.expire_from(ended_by, until) {
        c.prepare_cached("UPDATE history_builds SET version = version + 1, document = ?2 WHERE name = ?1")?
            .execute((name, codec::encode(&history)))?;
    }
    Ok(Ok(()))
}
