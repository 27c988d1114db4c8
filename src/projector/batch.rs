//! Folds a batch of events and commits the result at once.
//!
//! The effects on shards are computed event by event, from the job's record before and after. On a
//! store without transactions a commit may stop half-way. A replay then repeats it, with the events
//! cut into batches at other places. That adds nothing twice, because shards are written first. As
//! long as a record is old, its effects can be computed again, and a shard that has them skips them
//! by its cursor. A record that is new has no effect any more, and its shard was written before it.
//!
//! Sightings of errors are written before shards, so that a shard never counts an unknown error. A
//! sighting merges to the same however often it is written.
//!
//! An id may come again for another job (see [`JobId::come_again`]); the time of submission tells
//! the two apart. The first job keeps the id. The events of another are folded under an id that is
//! made of both, and the first job's record notes it.
//!
//! A shard takes in a bounded number of sets of errors. If an attempt's error would make one more,
//! its record is marked with [`Fingerprint::OTHER`] instead. So a shard stays the sum of the
//! contributions of its records. For the same reason a record is marked whose queue came too late
//! for a part of its own.

use std::collections::hash_map::{Entry as Place, HashMap};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::builds;
use super::facts::{Before, Facts};
use super::records::{error_text, fold_job};
use super::shards::{contribution, shard_key};
use crate::domain::{Entry, Event, EventKind, Fingerprint, Job, JobBody, JobId, JobName, Timestamp};
use crate::events::Cursor;
use crate::notices::{Announcer, NewNotice};
use crate::sqlite::SqliteError;
use crate::stats::builds::BuildHistory;
use crate::stats::{Counts, ErrorSet, ShardKey, StatShard};
use crate::store::{
    Categories, Commit, JobRecord, Projection, Retention, Sighting, StoreError, StoreErrorKind, Term, Versioned,
};

/// What a batch has changed, besides jobs and aggregates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Folded {
    /// The place of the last entry; `None` when there was none.
    pub through: Option<Cursor>,
    /// The errors with which attempts failed.
    pub errors: Vec<Fingerprint>,
    /// Whether the categories were changed.
    pub categories: bool,
    /// Jobs of which something was folded, and whose bodies history still lacks.
    pub lacking: Vec<JobId>,
    /// Jobs whose bodies came.
    pub given: Vec<JobId>,
}

/// Folds entries, in order and without a gap after the store's position, and commits the result.
///
/// # Errors
/// Those of [`Projection::load`] and [`Projection::commit`]. The same events can be given again.
pub async fn fold_batch(
    projection: &dyn Projection,
    term: &Term,
    entries: &[(Cursor, Entry)],
    retention: Retention,
) -> Result<Folded, StoreError> {
    fold_and_note(projection, term, entries, retention, &mut Facts::default(), None).await.map_err(|e| match e {
        FoldError::Store(error) => error,
        FoldError::Notices(error) => StoreError::new(StoreErrorKind::Unavailable, error.to_string()),
    })
}

/// Why a batch could not be folded.
#[derive(Debug, thiserror::Error)]
pub(super) enum FoldError {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is to be announced could not be put into the outbox.
    #[error(transparent)]
    Notices(#[from] SqliteError),
}

/// As [`fold_batch`], and notes what the events have added to the records. `facts` are not committed when this fails.
/// What `announcer` announces is in its outbox before the commit, so that a kill between the two loses nothing: then the
/// events are folded again, and make the same notices.
pub(super) async fn fold_and_note(
    projection: &dyn Projection,
    term: &Term,
    entries: &[(Cursor, Entry)],
    retention: Retention,
    facts: &mut Facts,
    announcer: Option<&Announcer>,
) -> Result<Folded, FoldError> {
    let Some((last, _)) = entries.last() else { return Ok(Folded::default()) };
    let mut batch = Batch::load(projection, entries, retention).await?;
    let separated = batch.separate_reused_ids(projection, entries).await?;
    if let Some((entries, own_ids)) = &separated {
        let firsts = std::mem::replace(&mut batch, Batch::load(projection, entries, retention).await?);
        batch.tell_of_those_that_came_again(firsts, entries, own_ids);
    }
    for (at, entry) in separated.as_ref().map_or(entries, |(entries, _)| entries) {
        match entry {
            Entry::Job(event) => batch.fold(*at, event, facts, announcer),
            Entry::Categories(event) => {
                let none = || Versioned { document: Categories::default(), version: None };
                batch.categories.get_or_insert_with(none).document.fold(*at, event);
            }
        }
    }
    let folded = Folded {
        through: Some(*last),
        errors: batch.sightings.keys().copied().collect(),
        categories: batch.categories.is_some(),
        lacking: batch.lacking(),
        given: batch.bodies.keys().cloned().collect(),
    };
    if let Some(announcer) = announcer {
        announcer.put(std::mem::take(&mut batch.notices)).await?;
    }
    projection.commit(term, batch.into_commit(*last)).await?;
    Ok(folded)
}

struct Batch {
    jobs: Documents<JobId, FoldedJob>,
    shards: Documents<ShardKey, StatShard>,
    builds: Documents<JobName, BuildHistory>,
    sightings: BTreeMap<Fingerprint, Sighting>,
    bodies: BTreeMap<JobId, JobBody>,
    /// Read only when there is a change of them to fold.
    categories: Option<Versioned<Categories>>,
    retention: Retention,
    /// What is to be announced.
    notices: Vec<NewNotice>,
}

struct FoldedJob {
    record: JobRecord,
    /// The contribution of the record, as it is now, to its shard.
    contribution: Counts,
}

/// Documents by key, each with the version that was read and whether it has changed since. They keep
/// the order in which they first came up, so that a commit is written in the order of its events.
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
            Place::Occupied(place) => *place.get(),
            Place::Vacant(place) => {
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
        entries: &[(Cursor, Entry)],
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let mut first_events = HashMap::new();
        let mut ids = Vec::new();
        for event in entries.iter().filter_map(|(_, entry)| entry.job()) {
            if let Place::Vacant(place) = first_events.entry(&event.job.id) {
                place.insert(event);
                ids.push(event.job.id.clone());
            }
        }
        // The event names the shard of the record, unless one id was given to two different jobs.
        let keys = distinct(
            first_events
                .values()
                .map(|event| ShardKey { day: event.job.submitted_at.day(), name: event.job.name.clone() }),
        );
        let loaded = projection.load(&ids, &keys).await?;

        let has_changes = entries.iter().any(|(_, entry)| matches!(entry, Entry::Categories(_)));
        let categories = if has_changes { projection.load_categories().await? } else { None };

        let (jobs, shards, builds) = (Documents::new(), Documents::new(), Documents::new());
        let sightings = BTreeMap::new();
        let mut batch = Self {
            jobs,
            shards,
            builds,
            sightings,
            bodies: BTreeMap::new(),
            categories,
            retention,
            notices: Vec::new(),
        };
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
            batch.jobs.get_or_insert(id, || (FoldedJob { record, contribution }, version));
        }
        let names: BTreeSet<_> = batch.jobs.all.iter().map(|d| &d.value.record.name).cloned().collect();
        let names: Vec<_> = names.into_iter().collect();
        for (name, found) in names.iter().zip(projection.load_builds(&names).await?) {
            let (value, version) =
                found.map_or_else(|| (BuildHistory::new(name.clone()), None), |found| (found.document, found.version));
            batch.builds.get_or_insert(name.clone(), || (value, version));
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

    /// The entries, with an id of its own for each job whose id another job had before, and a map
    /// from those new ids to the old ones. `None` when there is no such job.
    async fn separate_reused_ids(
        &self,
        projection: &dyn Projection,
        entries: &[(Cursor, Entry)],
    ) -> Result<Option<(Vec<(Cursor, Entry)>, HashMap<JobId, JobId>)>, StoreError> {
        let orphans = self.orphans(projection, entries).await?;
        let has_come_again = |job: &Job| {
            let first = self.jobs.places.get(&job.id).map(|place| &self.jobs.all[*place].value.record);
            first.is_some_and(|first| first.submitted_at != job.submitted_at)
                || !orphans.is_empty() && orphans.contains(&job.id.come_again(job.submitted_at))
        };
        let jobs = entries.iter().filter_map(|(_, entry)| entry.job());
        if !jobs.into_iter().any(|event| has_come_again(&event.job)) {
            return Ok(None);
        }
        let mut own_ids = HashMap::new();
        let separated = entries.iter().cloned().map(|(at, mut entry)| {
            if let Entry::Job(event) = &mut entry
                && has_come_again(&event.job)
            {
                let id = event.job.id.come_again(event.job.submitted_at);
                own_ids.insert(id.clone(), event.job.id.clone());
                event.job = Arc::new(Job { id, ..(*event.job).clone() });
            }
            (at, entry)
        });
        let separated = separated.collect();
        Ok(Some((separated, own_ids)))
    }

    /// The ids made for jobs that came again and whose first job's record has expired since. Only
    /// events that are no beginning, of jobs without a record, can mean such a job.
    async fn orphans(
        &self,
        projection: &dyn Projection,
        entries: &[(Cursor, Entry)],
    ) -> Result<HashSet<JobId>, StoreError> {
        let mut begun = HashSet::new();
        let mut ids = HashSet::new();
        for event in entries.iter().filter_map(|(_, entry)| entry.job()) {
            let begins = match event.kind {
                EventKind::Submitted => true,
                EventKind::AttemptStarted { attempt, .. } => attempt.0 == 1,
                _ => false,
            };
            let is_new = self.jobs.places.get(&event.job.id).is_some_and(|p| self.jobs.all[*p].version.is_none());
            if is_new && begun.insert((&event.job.id, event.job.submitted_at)) && !begins {
                ids.insert(event.job.id.come_again(event.job.submitted_at));
            }
        }
        if ids.is_empty() {
            return Ok(ids);
        }
        let asked: Vec<_> = ids.into_iter().collect();
        let found = projection.load(&asked, &[]).await?.jobs;
        Ok(asked.into_iter().zip(found).filter_map(|(id, found)| found.map(|_| id)).collect())
    }

    /// Notes in the records of the first jobs, as they were loaded before, when the last job with
    /// their id was submitted. Notes in new records the queue's id, where their own does not show it.
    fn tell_of_those_that_came_again(
        &mut self,
        firsts: Batch,
        entries: &[(Cursor, Entry)],
        own_ids: &HashMap<JobId, JobId>,
    ) {
        for Document { value, .. } in self.jobs.all.iter_mut().filter(|new| new.version.is_none()) {
            let record = &mut value.record;
            if let Some(own) = own_ids.get(&record.id)
                && record.own_id().as_ref() != Some(own)
            {
                record.queued_as = Some(own.clone());
            }
        }
        let mut last = HashMap::new();
        for event in entries.iter().filter_map(|(_, entry)| entry.job()) {
            let at = event.job.submitted_at;
            if let Some(id) = own_ids.get(&event.job.id)
                && firsts.jobs.places.contains_key(id)
            {
                last.entry(id.clone()).and_modify(|last: &mut Timestamp| *last = at.max(*last)).or_insert(at);
            }
        }
        let mut all: HashMap<_, _> = firsts.jobs.all.into_iter().map(|d| (d.value.record.id.clone(), d)).collect();
        for (id, at) in last {
            let Some(Document { value, version, .. }) = all.remove(&id) else { continue };
            let first = self.jobs.get_or_insert(id, || (value, version));
            if first.value.record.come_again < Some(at) && first.value.record.submitted_at != at {
                first.value.record.come_again = Some(at);
                first.changed = true;
            }
        }
    }

    fn add_shard(&mut self, key: ShardKey, shard: Option<Versioned<StatShard>>) {
        let new = StatShard::new(key.clone());
        let (value, version) = shard.map_or((new, None), |s| (s.document, s.version));
        self.shards.get_or_insert(key, || (value, version));
    }

    fn fold(&mut self, at: Cursor, event: &Event, facts: &mut Facts, announcer: Option<&Announcer>) {
        let new = || (FoldedJob { record: JobRecord::new(&event.job), contribution: Counts::default() }, None);
        let job = self.jobs.get_or_insert(event.job.id.clone(), new);
        let is_old = at <= job.value.record.applied;
        if let Some(body) = &event.body
            && (job.value.record.lacks_body() || is_old && job.value.record.has_body)
        {
            // Once more where the event had been folded before: the store may have lost the body and kept the record.
            self.bodies.insert(event.job.id.clone(), body.clone());
        }
        if is_old {
            return;
        }
        let record = &mut job.value.record;
        record.has_body |= record.lacks_body() && event.body.is_some();
        let (errors, was_marked) = (record.errors(), mark(record, event).is_some());
        let (before, was_final) = (Before::of(record, event), record.state.is_final());
        let (first_before, starts_first) = (builds::first_attempt(record), builds::starts_first(record, event));
        let key = shard_key(record);
        let shard = self.shards.get_or_insert(key.clone(), || (StatShard::new(key), None));
        // Decided once, before the job is counted for the first time.
        if record.applied == Cursor::START
            && let Some(queue) = &record.options.queue
        {
            record.queue_is_late = !shard.value.counts.by_queue.has_room(queue);
        }
        fold_job(record, at, event);
        job.changed = true;
        if !was_marked && let Some(seen) = admit(record, &errors, &mut shard.value, event) {
            self.sightings.entry(seen.fingerprint).and_modify(|known| known.merge(&seen)).or_insert(seen);
        }
        let history = self.builds.get_or_insert(record.name.clone(), || (BuildHistory::new(record.name.clone()), None));
        let worse_before: Vec<_> =
            announcer.iter().flat_map(|_| history.value.worse()).map(|build| build.digest.clone()).collect();
        let mut is_placed = false;
        if starts_first && let EventKind::AttemptStarted { build: Some(build), .. } = &event.kind {
            let is_new = at > history.value.applied;
            let place = history.value.place(at, build, event.at);
            is_placed = is_new && place.is_some();
            if let Some(first) = record.attempts.first_mut().filter(|first| first.number.0 == 1) {
                first.build = place;
            }
        }
        let first_after = builds::first_attempt(record);
        if let Some(first) = builds::first(record) {
            let file = first.report.as_ref().and_then(|report| report.build.as_ref());
            let effect = (first_before.as_ref(), first_after.as_ref());
            history.changed |= history.value.apply(at, event.at, effect, first.started_at, file);
        } else {
            history.changed |= history.value.apply(at, event.at, (first_before.as_ref(), None), event.at, None);
        }
        // The record has the place that it was given, even if nothing is counted there now: a start may be told after its
        // job was put back.
        if is_placed {
            history.value.applied = history.value.applied.max(at);
            history.changed = true;
        }
        before.note(at, event, &job.value.record, facts);
        if let Some(announcer) = announcer {
            let record = &job.value.record;
            if record.state.is_final() && !was_final {
                self.notices.extend(announcer.of_ended_job(at, record));
            }
            let new = history.value.worse().filter(|build| !worse_before.contains(&build.digest));
            self.notices.extend(new.flat_map(|build| announcer.of_worse_build(&record.name, build, event.at)));
        }
        let after = contribution(&job.value.record);
        let has_effect = after != job.value.contribution;
        let contributed = std::mem::replace(&mut job.value.contribution, after);
        let expires = self.retention.expiry(&job.value.record).is_some();
        if !has_effect && !expires {
            return;
        }
        let whole_until = self.retention.whole_until(shard.value.key.day).filter(|_| expires);
        if has_effect && at > shard.value.applied {
            shard.value.apply(at, &contributed, &job.value.contribution);
            shard.changed = true;
        }
        // This is needed even when another process, which kept records longer, has added the effect before.
        // Shards are written before records, so a shard is always told before one of its records can expire.
        shard.changed |= whole_until.is_some_and(|until| shard.value.expire_from(until));
        history.changed |= whole_until.is_some_and(|until| history.value.expire_from(event.at, until));
    }

    fn lacking(&self) -> Vec<JobId> {
        let changed = self.jobs.all.iter().filter(|job| job.changed).map(|job| &job.value.record);
        changed.filter(|record| record.lacks_body() && !record.removed).map(|record| record.id.clone()).collect()
    }

    fn into_commit(self, cursor: Cursor) -> Commit {
        Commit {
            categories: self.categories,
            sightings: self.sightings.into_values().collect(),
            shards: self.shards.into_changed(|shard| shard),
            builds: self.builds.into_changed(|builds| builds),
            bodies: self.bodies.into_iter().collect(),
            jobs: self.jobs.into_changed(|folded| folded.record),
            cursor,
            retention: self.retention,
        }
    }
}

/// Looks at the error of the attempt that the event has just marked, and returns the sighting. When
/// the shard has no room for the job's present set of errors, the attempt is marked with `OTHER`.
/// `before` is the set before the event.
fn admit(record: &mut JobRecord, before: &ErrorSet, shard: &mut StatShard, event: &Event) -> Option<Sighting> {
    let EventKind::AttemptFinished { report, .. } = &event.kind else { return None };
    let after = record.errors();
    let has_room = after == *before || (after.as_slice().len() <= ErrorSet::MOST && shard.admit(&after));
    let marked = mark(record, event)?;
    let text = error_text(report)?;
    let (fingerprint, text) = if has_room { (*marked, &*text) } else { (Fingerprint::OTHER, Fingerprint::OTHER_TEXT) };
    *marked = fingerprint;
    Some(Sighting::new(fingerprint, text, report.ended_at, &record.name, &record.id))
}

/// The fingerprint of the attempt that the event ends, if it has one.
fn mark<'r>(record: &'r mut JobRecord, event: &Event) -> Option<&'r mut Fingerprint> {
    let EventKind::AttemptFinished { attempt, .. } = &event.kind else { return None };
    record.attempts.iter_mut().find(|a| a.number == *attempt)?.fingerprint.as_mut()
}

fn distinct(keys: impl Iterator<Item = ShardKey>) -> Vec<ShardKey> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
