//! Errors and their categories.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::Deserialize;

use super::{corrupt, term};
use crate::domain::{Fingerprint, Timestamp};
use crate::events::Cursor;
use crate::store::{
    Categories, ErrorOutline, ErrorRecord, Knowledge, Learned, Neighbour, Sighting, StoreError, Term, Versioned, codec,
};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

/// The columns of an error, in the order in which [`record`] reads them.
const COLUMNS: &str = "seen, revision, category, similarity, model, vector";

pub(super) fn errors(c: &Connection, fingerprints: &[Fingerprint]) -> Read<Vec<Option<ErrorRecord>>> {
    select(c, COLUMNS, fingerprints, record)
}

pub(super) fn errors_without_vectors(c: &Connection, fingerprints: &[Fingerprint]) -> Read<Vec<Option<ErrorRecord>>> {
    select(c, "seen, revision, category, similarity, model, x''", fingerprints, record)
}

pub(super) fn outlines(c: &Connection, fingerprints: &[Fingerprint]) -> Read<Vec<Option<ErrorOutline>>> {
    select(c, "seen, category, model IS NOT NULL", fingerprints, outline)
}

fn select<T>(
    c: &Connection,
    columns: &str,
    fingerprints: &[Fingerprint],
    read: fn(&Row<'_>) -> Read<T>,
) -> Read<Vec<Option<T>>> {
    let transaction = c.unchecked_transaction()?;
    let mut select = c.prepare_cached(&format!("SELECT {columns} FROM history_errors WHERE fingerprint = ?1"))?;
    let mut records = Vec::with_capacity(fingerprints.len());
    for fingerprint in fingerprints {
        match select.query_row([fingerprint.as_bytes()], read).optional()?.transpose() {
            Ok(found) => records.push(found),
            Err(e) => return Ok(Err(e)),
        }
    }
    drop(select);
    transaction.finish()?;
    Ok(Ok(records))
}

fn record(row: &Row<'_>) -> Read<ErrorRecord> {
    let seen: Sighting = match serde_json::from_slice(row.get_ref(0)?.as_blob()?) {
        Ok(seen) => seen,
        Err(e) => return Ok(Err(corrupt("an error", &e).caused_by(e))),
    };
    let revision: Option<String> = row.get(1)?;
    let (category, similarity): (Option<String>, Option<f64>) = (row.get(2)?, row.get(3)?);
    let (model, vector): (Option<String>, Option<Vec<u8>>) = (row.get(4)?, row.get(5)?);
    let mut record = ErrorRecord::new(seen);
    if let (Some(revision), Some(similarity), Some(model), Some(vector)) = (revision, similarity, model, vector) {
        let category = match category.map(|id| id.parse()).transpose() {
            Ok(category) => category,
            Err(e) => return Ok(Err(corrupt("the category of an error", e))),
        };
        let revision = match revision.parse() {
            Ok(revision) => revision,
            Err(e) => return Ok(Err(corrupt("the revision of an error", e))),
        };
        let similarity = similarity as f32;
        record.knowledge =
            Some(Knowledge { model, vector: numbers(&vector).collect(), category, similarity, revision });
    }
    Ok(Ok(record))
}

/// Reads an outline. What else was seen of the error is passed over.
fn outline(row: &Row<'_>) -> Read<ErrorOutline> {
    #[derive(Deserialize)]
    struct Seen {
        first_seen: Timestamp,
        last_seen: Timestamp,
    }
    let Seen { first_seen, last_seen } = match serde_json::from_slice(row.get_ref(0)?.as_blob()?) {
        Ok(seen) => seen,
        Err(e) => return Ok(Err(corrupt("an error", &e).caused_by(e))),
    };
    let (category, is_known): (Option<String>, bool) = (row.get(1)?, row.get(2)?);
    match category.map(|id| id.parse()).transpose() {
        Ok(category) => Ok(Ok(ErrorOutline { first_seen, last_seen, category: is_known.then_some(category) })),
        Err(e) => Ok(Err(corrupt("the category of an error", e))),
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

/// Compares with every vector of the model. This is exact, and fast enough for as many different
/// errors as a team has.
pub(super) fn similar(c: &Connection, vector: &[f32], model: &str, k: usize) -> Read<Vec<Neighbour>> {
    let transaction = c.unchecked_transaction()?;
    let mut select = c.prepare_cached("SELECT rowid, vector FROM history_errors WHERE model = ?1")?;
    let mut rows = select.query([model])?;
    let mut nearest: BTreeSet<(Reverse<Similarity>, i64)> = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob()?;
        if bytes.len() == vector.len() * 4 {
            let similarity: f32 = numbers(bytes).zip(vector).map(|(a, b)| a * b).sum();
            nearest.insert((Reverse(Similarity(similarity)), row.get(0)?));
            if nearest.len() > k {
                nearest.pop_last();
            }
        }
    }
    drop(rows);
    drop(select);
    let mut select = c.prepare_cached(&format!("SELECT {COLUMNS} FROM history_errors WHERE rowid = ?1"))?;
    let mut found = Vec::with_capacity(nearest.len());
    for (Reverse(Similarity(similarity)), row) in nearest {
        match select.query_row([row], record)? {
            Ok(record) => found.push(Neighbour { record, similarity }),
            Err(e) => return Ok(Err(e)),
        }
    }
    drop(select);
    transaction.finish()?;
    Ok(Ok(found))
}

/// A similarity that can be sorted by.
#[derive(PartialEq)]
struct Similarity(f32);

impl Eq for Similarity {}

impl PartialOrd for Similarity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Similarity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Merges a sighting into the stored one. Replaces a stored one that can't be read any more.
pub(super) fn write_sighting(c: &Connection, seen: &Sighting) -> rusqlite::Result<()> {
    let before: Option<Vec<u8>> = c
        .prepare_cached("SELECT seen FROM history_errors WHERE fingerprint = ?1")?
        .query_row([seen.fingerprint.as_bytes()], |row| row.get(0))
        .optional()?;
    let mut merged = seen.clone();
    if let Some(before) = before.and_then(|bytes| serde_json::from_slice::<Sighting>(&bytes).ok()) {
        if before.fingerprint == seen.fingerprint {
            merged.merge(&before);
        }
        if merged == before {
            return Ok(());
        }
    }
    c.prepare_cached(
        "INSERT INTO history_errors (fingerprint, seen) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET seen = excluded.seen",
    )?
    .execute((seen.fingerprint.as_bytes(), codec::encode(&merged)))?;
    Ok(())
}

/// Sets the other half of errors' records. Returns false when the term has passed.
pub(super) fn learn(c: &Connection, term: &Term, learned: &[Learned]) -> rusqlite::Result<bool> {
    if !term::is_current(c, term)? {
        return Ok(false);
    }
    let mut known = c.prepare_cached("SELECT revision FROM history_errors WHERE fingerprint = ?1")?;
    let mut update = c.prepare_cached(
        "UPDATE history_errors SET revision = ?2, category = ?3, similarity = ?4, model = ?5, vector = ?6
         WHERE fingerprint = ?1",
    )?;
    for Learned { fingerprint, knowledge } in learned {
        let before: Option<Option<String>> = known.query_row([fingerprint.as_bytes()], |row| row.get(0)).optional()?;
        let Some(before) = before else { continue };
        if before.and_then(|text| text.parse::<Cursor>().ok()).is_some_and(|revision| revision > knowledge.revision) {
            continue;
        }
        let vector: Vec<u8> = knowledge.vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        update.execute((
            fingerprint.as_bytes(),
            knowledge.revision.to_string(),
            knowledge.category.as_ref().map(ToString::to_string),
            f64::from(knowledge.similarity),
            &knowledge.model,
            vector,
        ))?;
    }
    Ok(true)
}

pub(super) fn categories(c: &Connection) -> Read<Option<Versioned<Categories>>> {
    let found: Option<(i64, Vec<u8>)> = c
        .prepare_cached("SELECT version, document FROM history_categories")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let read = |(version, bytes): (i64, Vec<u8>)| {
        codec::categories(&bytes).map(|document| Versioned { document, version: Some(version.cast_unsigned()) })
    };
    Ok(found.map(read).transpose())
}

/// Writes the categories under their version. Returns false when that has moved.
pub(super) fn write_categories(c: &Connection, version: Option<i64>, document: &[u8]) -> rusqlite::Result<bool> {
    let written = match version {
        None => c
            .prepare_cached("INSERT INTO history_categories VALUES (1, 1, ?1) ON CONFLICT DO NOTHING")?
            .execute([document])?,
        Some(version) => c
            .prepare_cached("UPDATE history_categories SET version = version + 1, document = ?1 WHERE version = ?2")?
            .execute((document, version))?,
    };
    Ok(written == 1)
}
