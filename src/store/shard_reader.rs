//! Reads aggregates some at a time, so that an answer about all of them takes no more memory than some of them.

use std::collections::BTreeSet;

use super::{DayRange, ErrorChoice, History, StoreError, WantedErrors};
use crate::domain::{Fingerprint, JobName};
use crate::stats::{ShardKey, StatShard};

/// How many aggregates are read at once. One with as many errors as it takes is some 100 KiB.
const AT_ONCE: usize = 32;

/// Reads the aggregates of some days, in order of day. Each is read whole, and a later one may know of later events.
pub struct ShardReader<'h> {
    history: &'h dyn History,
    keys: std::vec::IntoIter<ShardKey>,
    has_parts: bool,
}

impl<'h> ShardReader<'h> {
    /// Finds the aggregates of these days, of one name or all.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn open(
        history: &'h dyn History,
        days: DayRange,
        name: Option<&JobName>,
    ) -> Result<ShardReader<'h>, StoreError> {
        let keys = history.shard_keys_of(days, name).await?.into_iter();
        Ok(Self { history, keys, has_parts: true })
    }

    /// Leaves out the counts by error and by queue. That is far less to read.
    pub fn without_parts(self) -> Self {
        Self { has_parts: false, ..self }
    }

    /// The next aggregates; `None` after the last.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn next(&mut self) -> Result<Option<Vec<StatShard>>, StoreError> {
        let keys: Vec<_> = self.keys.by_ref().take(AT_ONCE).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        match self.has_parts {
            true => self.history.shards_by_key(&keys).await.map(Some),
            false => self.history.shards_without_parts(&keys).await.map(Some),
        }
    }

    /// Takes every aggregate, one at a time.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn each(mut self, mut take: impl FnMut(StatShard)) -> Result<(), StoreError> {
        while let Some(shards) = self.next().await? {
            shards.into_iter().for_each(&mut take);
        }
        Ok(())
    }
}

/// Every error that an aggregate of `history` names.
///
/// # Errors
/// When the store can't be read.
pub async fn all_errors(history: &dyn History) -> Result<BTreeSet<Fingerprint>, StoreError> {
    let mut errors = BTreeSet::new();
    let shards = ShardReader::open(history, DayRange::default(), None).await?;
    shards.each(|shard| errors.extend(shard.counts.failures.keys())).await?;
    Ok(errors)
}

/// Chooses from the errors that the aggregates name: for a store that has no list of errors.
pub(super) async fn choose_errors(history: &dyn History, wanted: &WantedErrors) -> Result<ErrorChoice, StoreError> {
    const AT_ONCE: usize = 500;
    let mut errors: Vec<_> = all_errors(history).await?.into_iter().filter(|error| wanted.has_digits(error)).collect();
    if let Some(label) = &wanted.label {
        let categories = history.categories().await?;
        let mut labelled = Vec::new();
        for part in errors.chunks(AT_ONCE) {
            for (error, outline) in part.iter().zip(history.outlines(part).await?) {
                let known = outline.as_ref().and_then(|outline| outline.category.as_ref());
                if categories.label_of(error, known.map(Option::as_ref)) == *label {
                    labelled.push(*error);
                }
            }
        }
        errors = labelled;
    }
    Ok(ErrorChoice::These(errors))
}
