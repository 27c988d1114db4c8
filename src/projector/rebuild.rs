//! Recomputes aggregates from the job records, since they are derived data.
//!
//! This does not work for a shard whose records may have expired ([`StatShard::is_whole`]): the
//! remaining records add up to less than before. Such a shard stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::recount_builds::CountedBuilds;
use super::shards::{contribution, shard_key};
use crate::domain::{BuildDigest, JobName, Timestamp};
use crate::stats::{Counts, ErrorSet, ShardKey, StatShard};
use crate::store::{Commit, Projection, StoreError, Term, Versioned};

/// How many documents are read or written in one go.
const STEP: usize = 500;

/// The result of [`rebuild`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// How many job records were added up.
    pub jobs: u64,
    /// How many shards differed from the sum of their records, and were replaced.
    pub shards: u64,
    /// How many shards stay as they are, because some of their records may have expired.
    pub expired: u64,
    /// How many builds differed from the sum of their records in the history of their name, and were counted anew.
    pub builds: u64,
}

/// The sums of all job records, by shard. Leaves out shards whose counts are all zero.
///
/// # Errors
/// Those of [`Projection::scan`].
pub async fn recount(projection: &dyn Projection) -> Result<BTreeMap<ShardKey, Counts>, StoreError> {
    Ok(add_up(projection, &BTreeSet::new(), |_| {}).await?.shards)
}

/// What all job records add up to.
#[derive(Default)]
struct Sums {
    jobs: u64,
    shards: BTreeMap<ShardKey, Counts>,
    builds: CountedBuilds,
}

/// Adds all job records up, and tells after each step how many it has read. `unlisted` as with [`rebuild_beyond`].
async fn add_up(
    projection: &dyn Projection,
    unlisted: &BTreeSet<ShardKey>,
    mut progress: impl FnMut(u64),
) -> Result<Sums, StoreError> {
    let Sums { mut jobs, mut shards, mut builds } = Sums::default();
    let mut after = None;
    loop {
        let records = projection.scan(after.as_ref(), STEP).await?;
        for record in &records {
            shards.entry(shard_key(record)).or_default().add(&contribution(record));
        }
        builds.count(projection, &records).await?;
        jobs += records.len() as u64;
        progress(jobs);
        match records.into_iter().next_back() {
            Some(last) => after = Some(last.id),
            None => break,
        }
    }
    shards.retain(|_, counts| !counts.is_zero());
    builds.load_rest(projection, unlisted.iter().map(|key| &key.name)).await?;
    Ok(Sums { jobs, shards, builds })
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// How many job records were added up.
    pub jobs: u64,
    /// The shards that differ from the sum of their records.
    pub differing: Vec<ShardKey>,
    /// How many shards can't be compared, because some of their records may have expired.
    pub expired: u64,
    /// The builds whose counts in the history of their name differ from the sum of their records.
    pub builds: Vec<(JobName, BuildDigest)>,
}

/// Compares the shards with the sums of the job records at `now`. While the projector is between
/// two commits, none differs.
///
/// # Errors
/// Those of [`Projection::scan`] and [`Projection::load`].
pub async fn compare(projection: &dyn Projection, now: Timestamp) -> Result<Compared, StoreError> {
    compare_telling(projection, now, |_| {}).await
}

/// The same. `progress` is told how many job records have been added up.
///
/// # Errors
/// Those of [`compare`].
pub async fn compare_telling(
    projection: &dyn Projection,
    now: Timestamp,
    progress: impl FnMut(u64),
) -> Result<Compared, StoreError> {
    let unlisted = BTreeSet::new();
    let Sums { jobs, shards: expected, builds } = add_up(projection, &unlisted, progress).await?;
    let (whole, expired) = stored(projection, &expected, &unlisted, now).await?;
    let differing = whole.into_iter().filter(|(key, shard)| differs(key, shard, &expected)).map(|(key, _)| key);
    Ok(Compared { jobs, differing: differing.collect(), expired, builds: builds.differing(now) })
}

/// Replaces every shard that differs from the sum of its job records. `term` must be the current
/// one, and held until the end, because no projector may write meanwhile.
///
/// # Errors
/// Those of [`Projection::scan`], [`Projection::load`] and [`Projection::commit`]. The caller may then call again.
pub async fn rebuild(projection: &dyn Projection, term: &Term, now: Timestamp) -> Result<Rebuilt, StoreError> {
    rebuild_telling(projection, term, now, |_| {}).await
}

/// The same. `progress` is told how many job records have been added up.
///
/// # Errors
/// Those of [`rebuild`].
pub async fn rebuild_telling(
    projection: &dyn Projection,
    term: &Term,
    now: Timestamp,
    progress: impl FnMut(u64),
) -> Result<Rebuilt, StoreError> {
    rebuild_beyond(projection, term, now, &BTreeSet::new(), progress).await
}

/// The same, and of these aggregates too, which the store may hold without listing them: it may have lost the list and not
/// them.
///
/// # Errors
/// Those of [`rebuild`].
pub(super) async fn rebuild_beyond(
    projection: &dyn Projection,
    term: &Term,
    now: Timestamp,
    unlisted: &BTreeSet<ShardKey>,
    progress: impl FnMut(u64),
) -> Result<Rebuilt, StoreError> {
    let position = projection.position().await?;
    let Sums { jobs, shards: expected, builds } = add_up(projection, unlisted, progress).await?;
    let (whole, expired) = stored(projection, &expected, unlisted, now).await?;
    let wrong: Vec<_> = whole.into_iter().filter(|(key, shard)| differs(key, shard, &expected)).collect();
    for part in wrong.chunks(STEP) {
        let shards = part.iter().map(|(key, shard)| Versioned {
            document: StatShard {
                schema: StatShard::SCHEMA,
                key: key.clone(),
                // A record may already have events after this place (from a commit that stopped half-way).
                // Those are in the sum and have no effect any more. Events that it lacks are still to be added.
                applied: position,
                whole_until: shard.as_ref().and_then(|s| s.document.whole_until),
                counts: expected.get(key).cloned().unwrap_or_default(),
                admitted: admitted(shard.as_ref().map(|s| &s.document), expected.get(key)),
            },
            version: shard.as_ref().and_then(|s| s.version),
        });
        let commit = Commit { shards: shards.collect(), cursor: position, ..Commit::default() };
        projection.commit(term, commit).await?;
    }
    let differing = builds.differing(now).len() as u64;
    for part in builds.into_corrected(now).chunks(STEP) {
        let commit = Commit { builds: part.to_vec(), cursor: position, ..Commit::default() };
        projection.commit(term, commit).await?;
    }
    Ok(Rebuilt { jobs, shards: wrong.len() as u64, expired, builds: differing })
}

/// The sets of errors that a shard has taken in stay in, together with those that it now counts.
fn admitted(shard: Option<&StatShard>, counts: Option<&Counts>) -> BTreeSet<u64> {
    let mut admitted = shard.map(|s| s.admitted.clone()).unwrap_or_default();
    admitted.extend(counts.iter().flat_map(|c| c.jobs_by_errors.keys()).map(ErrorSet::digest));
    admitted
}

/// Whether an older version has counted any shard that can be recounted.
///
/// # Errors
/// Those of [`Projection::shard_keys`] and [`Projection::load`].
pub(super) async fn is_counted_by_older(projection: &dyn Projection, now: Timestamp) -> Result<bool, StoreError> {
    for part in projection.shard_keys().await?.chunks(STEP) {
        let shards = projection.load(&[], part).await?.shards;
        let mut found = shards.into_iter().flatten().map(|shard| shard.document);
        if found.any(|shard| shard.schema < StatShard::SCHEMA && shard.is_whole(now)) {
            return Ok(true);
        }
    }
    Ok(false)
}

type Stored = Vec<(ShardKey, Option<Versioned<StatShard>>)>;

/// The stored shards of these keys and all other shards, as far as they are whole, and the number
/// of those that are not.
async fn stored(
    projection: &dyn Projection,
    expected: &BTreeMap<ShardKey, Counts>,
    unlisted: &BTreeSet<ShardKey>,
    now: Timestamp,
) -> Result<(Stored, u64), StoreError> {
    let mut keys = projection.shard_keys().await?;
    keys.extend(expected.keys().chain(unlisted).cloned());
    keys.sort_unstable();
    keys.dedup();
    let mut whole = Vec::with_capacity(keys.len());
    for part in keys.chunks(STEP) {
        let loaded = projection.load(&[], part).await?;
        let found = part.iter().cloned().zip(loaded.shards);
        whole.extend(found.filter(|(_, shard)| shard.as_ref().is_none_or(|s| s.document.is_whole(now))));
    }
    let expired = (keys.len() - whole.len()) as u64;
    Ok((whole, expired))
}

fn differs(key: &ShardKey, shard: &Option<Versioned<StatShard>>, expected: &BTreeMap<ShardKey, Counts>) -> bool {
    let zero = Counts::default();
    let counts = shard.as_ref().map_or(&zero, |s| &s.document.counts);
    let is_older = shard.as_ref().is_some_and(|s| s.document.schema < StatShard::SCHEMA);
    is_older || counts != expected.get(key).unwrap_or(&zero)
}
