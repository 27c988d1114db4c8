//! Counts the builds of every name anew from the job records, beside what the store has of them.
//!
//! The sums are counted anew. What was decided in the order of the log stays: which builds there are, where their cells
//! begin, what looks have found. Of a name whose history is lost the builds are made anew from what the records know.

use std::collections::BTreeMap;

use super::builds::{first, first_attempt};
use crate::domain::{BuildDigest, JobName, Timestamp};
use crate::stats::builds::BuildHistory;
use crate::store::{JobRecord, Projection, StoreError, Versioned};

/// The histories of builds, by name.
#[derive(Default)]
pub(super) struct CountedBuilds(BTreeMap<JobName, Counted>);

struct Counted {
    /// `None` when the store has none.
    stored: Option<Versioned<BuildHistory>>,
    counted: BuildHistory,
}

impl CountedBuilds {
    /// Adds these records.
    pub(super) async fn count(&mut self, projection: &dyn Projection, records: &[JobRecord]) -> Result<(), StoreError> {
        for record in records {
            let Some((attempt, first)) = first_attempt(record).zip(first(record)) else { continue };
            if !self.0.contains_key(&record.name) {
                self.load(projection, std::slice::from_ref(&record.name)).await?;
            }
            if let Some(Counted { stored, counted }) = self.0.get_mut(&record.name) {
                counted.recount(&attempt, first.started_at, stored.is_none());
            }
        }
        Ok(())
    }

    /// Loads the histories of which there are no records: those that the store lists, and of these names.
    pub(super) async fn load_rest(
        &mut self,
        projection: &dyn Projection,
        unlisted: impl Iterator<Item = &JobName>,
    ) -> Result<(), StoreError> {
        let mut names = projection.build_names().await?;
        names.extend(unlisted.cloned());
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !self.0.contains_key(name));
        self.load(projection, &names).await
    }

    async fn load(&mut self, projection: &dyn Projection, names: &[JobName]) -> Result<(), StoreError> {
        for (name, stored) in names.iter().zip(projection.load_builds(names).await?) {
            let empty = || BuildHistory::new(name.clone());
            let counted = stored.as_ref().map_or_else(empty, |stored| stored.document.emptied());
            self.0.insert(name.clone(), Counted { stored, counted });
        }
        Ok(())
    }

    /// The builds whose stored counts differ.
    pub(super) fn differing(&self, now: Timestamp) -> Vec<(JobName, BuildDigest)> {
        let of = |(name, one): (&JobName, &Counted)| -> Vec<(JobName, BuildDigest)> {
            one.differing(now).into_iter().map(|digest| (name.clone(), digest)).collect()
        };
        self.0.iter().flat_map(of).collect()
    }

    /// The histories that differ, with the counts as they should be.
    pub(super) fn into_corrected(self, now: Timestamp) -> Vec<Versioned<BuildHistory>> {
        let corrected = |one: Counted| {
            let differing = one.differing(now);
            match one.stored {
                _ if differing.is_empty() => None,
                None => Some(Versioned { document: one.counted, version: None }),
                Some(Versioned { mut document, version }) => {
                    document.take_counts(&one.counted, &differing);
                    Some(Versioned { document, version })
                }
            }
        };
        self.0.into_values().filter_map(corrected).collect()
    }
}

impl Counted {
    fn differing(&self, now: Timestamp) -> Vec<BuildDigest> {
        match &self.stored {
            Some(stored) => stored.document.differing(&self.counted, now).cloned().collect(),
            None => self.counted.builds.iter().map(|entry| entry.digest.clone()).collect(),
        }
    }
}
