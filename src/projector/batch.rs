//! A batch of events in, one commit out.
//!
//! Effects on shards are computed event by event from the job's record before and after. On a store without transactions
//! a commit may stop half-way; it is then repeated by replay, with the events cut into batches at other places. That adds
//! nothing twice, because shards are written first: as long as a record is old, its effects can be computed again, and a
//! shard that has them skips them by its cursor. A record that is new has no effect any more, and its shard had been
//! written before it.

use std::collections::hash_map::{Entry, HashMap};

use super::records::fold_job;
use super::shards::{contribution, shard_key};
use crate::domain::{Event, JobId};
use crate::events::Cursor;
use crate::stats::{Counts, ShardKey, StatShard};
use crate::store::{Commit, JobRecord, Projection, Retention, StoreError, Term, Versioned};

/// Folds events, in order and without a gap after the store's position, and commits the result; answers the cursor
/// of the last.
///
/// # Errors
/// Those of [`Projection::load`] and [`Projection::commit`]. The same events can be given again.
pub async fn fold_batch(
    projection: &dyn Projection,
    term: &Term,
    events: &[(Cursor, Event)],
    retention: Retention,
) -> Result<Option<Cursor>, StoreError> {
    let Some((last, _)) = events.last() else { return Ok(None) };
    let mut batch = Batch::load(projection, events, retention).await?;
    for (at, event) in events {
        batch.fold(*at, event);
    }
    projection.commit(term, batch.into_commit(*last)).await?;
    Ok(Some(*last))
}

struct Batch {
    jobs: Documents<JobId, Folded>,
    shards: Documents<ShardKey, StatShard>,
    retention: Retention,
}

struct Folded {
    record: JobRecord,
    /// What the record, as it stands, contributes to its shard.
    contribution: Counts,
}

/// Documents by key, with the version under which they were read and whether they have changed since; in the order in
/// which they first came up, so that a commit is written in the order of its events.
struct Documents<K, T> {
    places: HashMap<K, usize>,
    all: Vec<Document<T>>,
}

struct Document<T> {
    value: T,
    version: Option<u64>,
    changed: bool,
}

impl<K: Eq + std::hash::Hash, T> Documents<K, T> {
    fn new() -> Self {
        Self { places: HashMap::new(), all: Vec::new() }
    }

    fn get_or_insert(&mut self, key: K, new: impl FnOnce() -> (T, Option<u64>)) -> &mut Document<T> {
        let place = match self.places.entry(key) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                let (value, version) = new();
                self.all.push(Document { value, version, changed: false });
                *place.insert(self.all.len() - 1)
            }
        };
        &mut self.all[place]
    }

    fn into_changed<D>(self, document: impl Fn(T) -> D) -> Vec<Versioned<D>> {
        let changed = self.all.into_iter().filter(|d| d.changed);
        changed.map(|d| Versioned { document: document(d.value), version: d.version }).collect()
    }
}

impl Batch {
    async fn load(
        projection: &dyn Projection,
        events: &[(Cursor, Event)],
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let mut first_events = HashMap::new();
        let mut ids = Vec::new();
        for (_, event) in events {
            if let Entry::Vacant(place) = first_events.entry(&event.job.id) {
                place.insert(event);
                ids.push(event.job.id.clone());
            }
        }
        // The shard that an event points to is the record's, unless somebody gave an id to two different jobs.
        let keys = distinct(
            first_events
                .values()
                .map(|event| ShardKey { day: event.job.submitted_at.day(), name: event.job.name.clone() }),
        );
        let loaded = projection.load(&ids, &keys).await?;

        let mut batch = Self { jobs: Documents::new(), shards: Documents::new(), retention };
        for (key, shard) in keys.into_iter().zip(loaded.shards) {
            batch.add_shard(key, shard);
        }
        for (id, job) in ids.into_iter().zip(loaded.jobs) {
            let (record, version) = match job {
                Some(Versioned { document, version }) => (document, version),
                None => (JobRecord::new(&first_events[&id].job), None),
            };
            // A record that is not stored yet contributes nothing yet.
            let contribution = if version.is_some() { contribution(&record) } else { Counts::default() };
            batch.jobs.get_or_insert(id, || (Folded { record, contribution }, version));
        }
        let records = batch.jobs.all.iter().map(|d| shard_key(&d.value.record));
        let missing = distinct(records.filter(|key| !batch.shards.places.contains_key(key)));
        if !missing.is_empty() {
            let loaded = projection.load(&[], &missing).await?;
            for (key, shard) in missing.into_iter().zip(loaded.shards) {
                batch.add_shard(key, shard);
            }
        }
        Ok(batch)
    }

    fn add_shard(&mut self, key: ShardKey, shard: Option<Versioned<StatShard>>) {
        let new = StatShard::new(key.clone());
        let (value, version) = shard.map_or((new, None), |s| (s.document, s.version));
        self.shards.get_or_insert(key, || (value, version));
    }

    fn fold(&mut self, at: Cursor, event: &Event) {
        let new = || (Folded { record: JobRecord::new(&event.job), contribution: Counts::default() }, None);
        let job = self.jobs.get_or_insert(event.job.id.clone(), new);
        if at <= job.value.record.applied {
            return;
        }
        fold_job(&mut job.value.record, at, event);
        job.changed = true;
        let after = contribution(&job.value.record);
        let mut effect = after.clone();
        effect.subtract(&job.value.contribution);
        job.value.contribution = after;
        let expires = self.retention.expiry(&job.value.record).is_some();
        if effect.is_zero() && !expires {
            return;
        }
        let key = shard_key(&job.value.record);
        let whole_until = self.retention.whole_until(key.day).filter(|_| expires);
        let shard = self.shards.get_or_insert(key.clone(), || (StatShard::new(key), None));
        if !effect.is_zero() && at > shard.value.applied {
            shard.value.apply(at, &effect);
            shard.changed = true;
        }
        // Also when the effect has been added before, by a process that kept records longer: shards are written before
        // records, so a shard has always been told before a record can expire.
        shard.changed |= whole_until.is_some_and(|until| shard.value.expire_from(until));
    }

    fn into_commit(self, cursor: Cursor) -> Commit {
        Commit {
            shards: self.shards.into_changed(|shard| shard),
            jobs: self.jobs.into_changed(|folded| folded.record),
            cursor,
            retention: self.retention,
        }
    }
}

fn distinct(keys: impl Iterator<Item = ShardKey>) -> Vec<ShardKey> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
