//! Errors and their categories: one document for each error, one for all categories.
//!
//! Both halves of an error's document are merged in under its version, and tried again when that has moved: the other
//! writer is the same process, or one that has lost its term and writes what this one would write.

use super::documents::{self, Room};
use super::history;
use super::kv::{Written, each};
use super::lease;
use super::query;
use super::session::Connector;
use crate::domain::{Fingerprint, Page};
use crate::store::{
    Categories, DayRange, ErrorRecord, JobFilter, JobSummary, Learned, Neighbour, Sighting, StoreError, StoreErrorKind,
    Term, Versioned, codec,
};

/// The document that holds the categories.
const CATEGORIES: &str = "directory";
/// How often a document is merged anew when it has moved.
const TRIES: usize = 20;
/// Jobs that are looked at for one step of a list by error.
const STEP: usize = 200;

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

/// Changes an error's record under its version; `change` answers `None` to leave it as it is.
async fn change(
    connector: &Connector,
    fingerprint: Fingerprint,
    change: impl Fn(Option<ErrorRecord>) -> Option<ErrorRecord>,
) -> Result<(), StoreError> {
    let key = fingerprint.to_string();
    for _ in 0..TRIES {
        let found = connector.get(Room::Errors, &key).await?;
        let version = found.as_ref().map(|found| found.cas);
        let before = found.map(|found| codec::error(&found.body)).transpose()?;
        let Some(after) = change(before.clone()) else { return Ok(()) };
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        if connector.write(Room::Errors, &key, &codec::encode(&after), version).await? != Written::Moved {
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
    lease::check(connector, term).await?;
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

/// Writes the categories under their version; what has moved, if it has.
pub(super) async fn write_categories(
    connector: &Connector,
    categories: &Versioned<Categories>,
) -> Result<Option<String>, StoreError> {
    let body = codec::encode(&categories.document);
    let written = connector.write(Room::Categories, CATEGORIES, &body, categories.version).await?;
    Ok((written == Written::Moved).then(|| "the set of categories".to_owned()))
}

/// Compares with every error that the aggregates name: exact, by key-value reads alone.
pub(super) async fn similar(
    connector: &Connector,
    vector: &[f32],
    model: &str,
    k: usize,
) -> Result<Vec<Neighbour>, StoreError> {
    let shards = history::shards(connector, DayRange::default(), None).await?;
    let all: std::collections::BTreeSet<_> = shards.iter().flat_map(|s| s.counts.failures.keys().copied()).collect();
    let records = errors(connector, &all.into_iter().collect::<Vec<_>>()).await?;
    let near = |record: ErrorRecord| {
        let known = record.knowledge.as_ref().filter(|known| known.model == model)?;
        let similarity =
            (known.vector.len() == vector.len()).then(|| known.vector.iter().zip(vector).map(|(a, b)| a * b).sum())?;
        Some(Neighbour { record, similarity })
    };
    let mut found: Vec<_> = records.into_iter().flatten().filter_map(near).collect();
    found.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    found.truncate(k);
    Ok(found)
}

/// One page of jobs that failed with one of the filter's errors. There is no index of them: the jobs that the other
/// conditions let through are looked at one after the other, by key.
pub(super) async fn jobs(
    connector: &Connector,
    filter: &JobFilter,
    start: Option<&str>,
    limit: usize,
) -> Result<Page<JobSummary>, StoreError> {
    let session = connector.session().await?;
    let mut start = start.map(str::to_owned);
    let mut items: Vec<JobSummary> = Vec::new();
    let mut next = None;
    loop {
        let places = query::places(&session, &connector.settings().key_prefix, filter, start.as_deref(), STEP + 1);
        let places = query::bounded(places, "the list of jobs").await?;
        let page: Vec<String> = places.iter().rev().take(STEP).cloned().collect();
        let records = each(page.clone(), |place| async move {
            let Some((_, id)) = documents::read_place(&place) else { return Ok(None) };
            history::job(connector, &id).await
        });
        for (place, record) in page.iter().zip(records.await?) {
            let is_wanted = |record: &crate::store::JobRecord| {
                !record.removed
                    && (filter.states.is_empty() || filter.states.contains(&record.state))
                    && record.errors().as_slice().iter().any(|error| filter.errors.contains(error))
            };
            let Some(record) = record.filter(is_wanted) else { continue };
            if items.len() == limit {
                return Ok(Page { items, next });
            }
            items.push(record.summary());
            next = Some(documents::to_cursor(place));
        }
        match page.last() {
            Some(last) if places.len() > STEP => start = Some(last.clone()),
            _ => return Ok(Page { items, next: None }),
        }
    }
}
