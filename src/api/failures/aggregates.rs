//! Aggregates together with what is known of their errors.
//!
//! ```text
//! marks ──moved──> read these aggregates whole ──errors without a label──> look them up ──> add up
//!       ──same───> what is kept of them ─────────────────────────────────────────────────────^
//! ```
//! The aggregates of past days hardly ever change, nor do the labels of their errors. So what an answer has read is kept
//! for the next one, and [`Marks`] tell what of it still holds. Marks are read before that which they stand for, so that a
//! change in between is seen by the next answer at the latest. Of a store without marks, and of more than may be kept,
//! each answer reads everything, some aggregates at a time.

use std::collections::BTreeMap;

use tokio::sync::{Mutex, MutexGuard};

use super::{AT_ONCE, SpanJobs, SpanReader};
use crate::domain::Fingerprint;
use crate::stats::{ErrorFacts, ErrorNumber, KnownErrors, ShardKey, SlimShard, StatShard};
use crate::store::{Categories, DayRange, ErrorOutline, History, LabelMarks, Marks, StoreError};

/// How many aggregates are read at once.
const SHARDS_AT_ONCE: usize = 32;
/// The most memory that is kept, in bytes: that of some 1,500 aggregates with as many errors as one takes, each of its own,
/// or of 15,000 with a few.
const MOST_BYTES: usize = 64 << 20;
/// The most errors that one answer has in mind when nothing is kept: more than a day has that recur on the next one.
const MOST_IN_MIND: usize = 10_000;

/// Aggregates that were read, and what is known of their errors.
pub(in crate::api) struct KeptAggregates {
    kept: Mutex<Kept>,
    /// The most memory that they may take, in bytes.
    most_bytes: usize,
}

impl Default for KeptAggregates {
    fn default() -> Self {
        Self { kept: Mutex::default(), most_bytes: MOST_BYTES }
    }
}

#[derive(Default)]
struct Kept {
    marks: LabelMarks,
    shards: BTreeMap<ShardKey, (u64, SlimShard)>,
    known: KnownErrors,
    /// What the aggregates take of memory.
    bytes: usize,
    /// Whether they have turned out to take more than they may. They only grow.
    is_too_large: bool,
}

/// What an answer wants to know of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing, nor any count by error.
    Totals,
    /// Nothing but how often attempts failed with them.
    Counts,
    /// Their labels.
    Labels,
    /// When they were first and last seen, too.
    Times,
}

/// Aggregates, and what is known of their errors.
pub(super) struct Part<'p> {
    pub(super) shards: Vec<&'p SlimShard>,
    pub(super) known: &'p KnownErrors,
}

/// Reads the aggregates of a span.
pub(super) struct AggregateReader<'a> {
    history: &'a dyn History,
    categories: Categories,
    source: Source<'a>,
}

enum Source<'a> {
    /// All at once, from what is kept.
    Kept { kept: MutexGuard<'a, Kept>, keys: Vec<ShardKey>, is_given: bool },
    /// Some at a time, from the store.
    Store { shards: SpanReader<'a>, part: Vec<SlimShard>, known: KnownErrors, wanted: Wanted },
}

impl<'a> AggregateReader<'a> {
    /// Reads what has changed of the aggregates of these days and jobs. No other answer is given from what is kept until
    /// this is dropped.
    pub(super) async fn open(
        history: &'a dyn History,
        kept: &'a KeptAggregates,
        jobs: &'a SpanJobs,
        days: DayRange,
        wanted: Wanted,
    ) -> Result<AggregateReader<'a>, StoreError> {
        // Those of a queue are parts of aggregates, of which nothing is kept.
        if jobs.queue.is_none() {
            let KeptAggregates { kept, most_bytes } = kept;
            let mut kept = kept.lock().await;
            let marks = if kept.is_too_large { None } else { history.marks(days, jobs.name.as_ref()).await? };
            if let Some(marks) = marks {
                let categories = history.categories().await?;
                let is_all = jobs.name.is_none() && days == DayRange::default();
                if kept.read_moved(history, &marks, *most_bytes).await? {
                    kept.know(history, &categories, &marks, wanted, is_all).await?;
                    let keys = marks.shards.into_iter().map(|(key, _)| key).collect();
                    return Ok(Self { history, categories, source: Source::Kept { kept, keys, is_given: false } });
                }
            }
        }
        let categories = history.categories().await?;
        let shards = jobs.read(history, days).await?;
        let shards = if wanted == Wanted::Totals { shards.without_parts() } else { shards };
        let known = KnownErrors::default();
        Ok(Self { history, categories, source: Source::Store { shards, part: Vec::new(), known, wanted } })
    }

    /// The next aggregates; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Part<'_>>, StoreError> {
        match &mut self.source {
            Source::Kept { is_given: true, .. } => Ok(None),
            Source::Kept { kept, keys, is_given } => {
                *is_given = true;
                let shards = keys.iter().filter_map(|key| kept.shards.get(key)).map(|(_, shard)| shard).collect();
                Ok(Some(Part { shards, known: &kept.known }))
            }
            Source::Store { shards, part, known, wanted } => {
                let Some(read) = shards.next().await? else { return Ok(None) };
                if known.count() > MOST_IN_MIND {
                    *known = KnownErrors::default();
                }
                *part = read.into_iter().map(|shard| SlimShard::of(shard, known)).collect();
                let lacking = lacking(part.iter(), known, *wanted);
                look_up(self.history, &self.categories, known, lacking).await?;
                Ok(Some(Part { shards: part.iter().collect(), known }))
            }
        }
    }

    /// The store that is read.
    pub(super) fn history(&self) -> &'a dyn History {
        self.history
    }

    /// The categories by which errors are told apart.
    pub(super) fn categories(&self) -> &Categories {
        &self.categories
    }
}

impl Kept {
    /// Forgets what these marks outdate, and reads the aggregates that have changed. Answers false when they are too many
    /// to be kept.
    ///
    /// It may be given up while it waits for the store. So whatever was read is put in its place at once, and marks
    /// are noted when everything is forgotten that they outdate.
    async fn read_moved(
        &mut self,
        history: &dyn History,
        marks: &Marks,
        most_bytes: usize,
    ) -> Result<bool, StoreError> {
        if marks.labels.cleared != self.marks.cleared {
            *self = Self::default();
        }
        if marks.labels != self.marks {
            self.known.forget_labels(marks.labels.relabelled == self.marks.relabelled);
            self.marks = marks.labels;
        }
        let is_kept = |key: &ShardKey, version| self.shards.get(key).is_some_and(|(kept, _)| *kept == version);
        let moved = marks.shards.iter().filter(|(key, version)| !is_kept(key, *version));
        let moved: BTreeMap<_, _> = moved.cloned().collect();
        let keys: Vec<_> = moved.keys().cloned().collect();
        for part in keys.chunks(SHARDS_AT_ONCE) {
            for shard in history.shards_by_key(part).await? {
                if let Some(version) = moved.get(&shard.key) {
                    self.keep(shard, *version);
                }
            }
            if self.bytes + self.known.count() * KnownErrors::BYTES > most_bytes {
                *self = Self { is_too_large: true, ..Self::default() };
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks up what is wanted and not known of the errors of these aggregates.
    async fn know(
        &mut self,
        history: &dyn History,
        categories: &Categories,
        marks: &Marks,
        wanted: Wanted,
        is_all: bool,
    ) -> Result<(), StoreError> {
        let Self { shards, known, .. } = self;
        let asked = || marks.shards.iter().filter_map(|(key, _)| shards.get(key)).map(|(_, shard)| shard);
        // An error of some aggregates may have been seen again in one that is not among them.
        if wanted == Wanted::Times && !is_all {
            asked().flat_map(|shard| shard.errors()).for_each(|error| known.seen_again(error));
        }
        let lacking = lacking(asked(), known, wanted);
        look_up(history, categories, known, lacking).await
    }

    fn keep(&mut self, shard: StatShard, version: u64) {
        let shard = SlimShard::of(shard, &mut self.known);
        shard.errors().for_each(|error| self.known.seen_again(error));
        self.bytes += shard.bytes();
        if let Some((_, before)) = self.shards.insert(shard.key.clone(), (version, shard)) {
            self.bytes -= before.bytes();
        }
    }
}

/// The errors of these aggregates that must be looked up.
fn lacking<'s>(shards: impl Iterator<Item = &'s SlimShard>, known: &KnownErrors, wanted: Wanted) -> Vec<Fingerprint> {
    let is_lacking = |error: &ErrorNumber| match wanted {
        Wanted::Totals | Wanted::Counts => false,
        Wanted::Labels => known.lacks_label(*error),
        Wanted::Times => known.lacks_label(*error) || known.may_be_seen_again(*error),
    };
    let mut errors: Vec<_> = shards.flat_map(|shard| shard.errors()).filter(is_lacking).collect();
    errors.sort_unstable();
    errors.dedup();
    errors.into_iter().map(|error| known.fingerprint(error)).collect()
}

/// Looks errors up, some at a time.
pub(super) async fn look_up(
    history: &dyn History,
    categories: &Categories,
    known: &mut KnownErrors,
    errors: Vec<Fingerprint>,
) -> Result<(), StoreError> {
    for part in errors.chunks(AT_ONCE) {
        for (error, outline) in part.iter().zip(history.outlines(part).await?) {
            let facts = outline.map(|ErrorOutline { first_seen, last_seen, category }| {
                let label = categories.label_of(error, category.as_ref().map(Option::as_ref));
                ErrorFacts { label, first_seen, last_seen }
            });
            known.learn(*error, facts);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
