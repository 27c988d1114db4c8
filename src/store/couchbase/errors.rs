//! Errors and categories: one document for each error, and one for all categories.
//!
//! Each half of an error's document is written under the document's version, and written again when that has
//! moved. The other writer is in the same process, or has lost its term and writes what this one would write.

use super::documents::{self, Room};
use super::kv::{Written, each};
use super::session::Connector;
use super::term;
use crate::domain::Fingerprint;
use crate::store::{Categories, ErrorRecord, Learned, Sighting, StoreError, StoreErrorKind, Term, Versioned, codec};

/// The key of the document with all categories.
const CATEGORIES: &str = "directory";
/// How often to write a document again after it has moved.
const TRIES: usize = 20;

pub(super) async fn errors(
    connector: &Connector,
    fingerprints: &[Fingerprint],
) -> Result<Vec<Option<ErrorRecord>>, StoreError> {
    each(fingerprints.iter().copied(), |fingerprint| async move {
        let found = connector.get(Room::Errors, &fingerprint.to_string()).await?;
        found.map(|found| codec::error(&found.body)).transpose()
    })
    .await
}

/// Changes an error's record under its version. `change` returns `None` to leave it as it is.
async fn change(
    connector: &Connector,
    fingerprint: Fingerprint,
    change: impl Fn(Option<ErrorRecord>) -> Option<ErrorRecord>,
) -> Result<(), StoreError> {
    let key = fingerprint.to_string();
    let prefix = &connector.settings().key_prefix;
    for _ in 0..TRIES {
        let found = connector.get(Room::Errors, &key).await?;
        let version = found.as_ref().map(|found| found.cas);
        let before = found.map(|found| codec::error(&found.body)).transpose()?;
        let Some(after) = change(before.clone()) else { return Ok(()) };
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        if connector.write(Room::Errors, &key, &documents::error_document(&after, prefix), version).await?
            != Written::Moved
        {
            return Ok(());
        }
    }
    Err(StoreError::new(StoreErrorKind::Conflict, format!("error {fingerprint} is written by others all the time")))
}

pub(super) async fn see(connector: &Connector, sightings: &[Sighting]) -> Result<(), StoreError> {
    let merged = |seen: &Sighting, before: Option<ErrorRecord>| match before {
        None => ErrorRecord::new(seen.clone()),
        Some(mut record) => {
            record.seen.merge(seen);
            record
        }
    };
    each(sightings, |seen| change(connector, seen.fingerprint, move |before| Some(merged(seen, before))))
        .await
        .map(drop)
}

pub(super) async fn learn(connector: &Connector, term: &Term, learned: &[Learned]) -> Result<(), StoreError> {
    term::check(connector, term).await?;
    let taught = |Learned { knowledge, .. }: &Learned, before: Option<ErrorRecord>| {
        let record = before?;
        let is_later = record.knowledge.as_ref().is_some_and(|known| known.revision > knowledge.revision);
        (!is_later).then(|| ErrorRecord { knowledge: Some(knowledge.clone()), ..record })
    };
    each(learned, |one| change(connector, one.fingerprint, move |before| taught(one, before))).await.map(drop)
}

pub(super) async fn categories(connector: &Connector) -> Result<Option<Versioned<Categories>>, StoreError> {
    let found = connector.get(Room::Categories, CATEGORIES).await?;
    found.map(|f| Ok(Versioned { document: codec::categories(&f.body)?, version: Some(f.cas) })).transpose()
}

/// Writes the categories under their version. Returns a name for what has moved, if it has.
pub(super) async fn write_categories(
    connector: &Connector,
    categories: &Versioned<Categories>,
) -> Result<Option<String>, StoreError> {
    let body = codec::encode(&categories.document);
    let written = connector.write(Room::Categories, CATEGORIES, &body, categories.version).await?;
    Ok((written == Written::Moved).then(|| "the set of categories".to_owned()))
}
