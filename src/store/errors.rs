//! The documents about errors and their categories, the same in every adapter.
//!
//! An error's document has two halves with one writer each. The projector merges sightings into the one,
//! and the classifier sets the other, the knowledge. An adapter writes one half without touching the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::{Category, CategoryChange, CategoryEvent, CategoryId, Fingerprint, JobId, JobName, Timestamp};
use crate::events::Cursor;
use crate::stats::Label;

/// Everything that history knows of an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// The number of the document's format.
    pub schema: u32,
    /// How and when the error was seen.
    #[serde(flatten)]
    pub seen: Sighting,
    /// Its vector and its category; `None` until the classifier has found them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knowledge: Option<Knowledge>,
}

impl ErrorRecord {
    /// The document format that this version writes.
    pub const SCHEMA: u32 = 1;

    /// The record of an error that was seen for the first time.
    pub fn new(seen: Sighting) -> Self {
        Self { schema: Self::SCHEMA, seen, knowledge: None }
    }
}

/// How and when an error was seen. Sightings merge to the same in any order, and however often one is merged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The fingerprint of the error.
    pub fingerprint: Fingerprint,
    /// The text of the error when it was first seen, at most [`Sighting::TEXT_BYTES`].
    pub text: String,
    /// Binaries that failed with it, the first [`Sighting::NAMES`] in order of name.
    pub names: BTreeSet<JobName>,
    /// When an attempt first failed with it.
    pub first_seen: Timestamp,
    /// When an attempt last failed with it.
    pub last_seen: Timestamp,
    /// The jobs that failed with it last, newest first, at most [`Sighting::SAMPLES`].
    pub samples: Vec<Sample>,
}

/// A job that failed with an error.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sample {
    /// When the attempt failed.
    pub at: Timestamp,
    /// The id of the job.
    pub job: JobId,
}

impl Sighting {
    /// The most bytes of a text that are kept.
    pub const TEXT_BYTES: usize = 2048;
    /// The most names that are kept.
    pub const NAMES: usize = 8;
    /// The most jobs that are kept.
    pub const SAMPLES: usize = 5;

    /// Makes the sighting of one failed attempt.
    pub fn new(fingerprint: Fingerprint, text: &str, at: Timestamp, name: &JobName, job: &JobId) -> Self {
        let text = text[..text.floor_char_boundary(Self::TEXT_BYTES)].to_owned();
        let samples = vec![Sample { at, job: job.clone() }];
        Self { fingerprint, text, names: [name.clone()].into(), first_seen: at, last_seen: at, samples }
    }

    /// Takes another sighting of the same error in.
    pub fn merge(&mut self, other: &Sighting) {
        debug_assert_eq!(self.fingerprint, other.fingerprint, "sightings of one error");
        if (other.first_seen, &other.text) < (self.first_seen, &self.text) {
            self.first_seen = other.first_seen;
            self.text.clone_from(&other.text);
        }
        self.last_seen = self.last_seen.max(other.last_seen);
        self.names.extend(other.names.iter().cloned());
        while self.names.len() > Self::NAMES {
            self.names.pop_last();
        }
        for sample in &other.samples {
            match self.samples.iter_mut().find(|s| s.job == sample.job) {
                Some(known) => known.at = known.at.max(sample.at),
                None => self.samples.push(sample.clone()),
            }
        }
        self.samples.sort_unstable_by(|a, b| b.cmp(a));
        self.samples.truncate(Self::SAMPLES);
    }
}

/// What the classifier has found out about an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Knowledge {
    /// The model that made the vector. Vectors of different models can't be compared.
    pub model: String,
    /// Its text as a vector of length 1.
    pub vector: Vec<f32>,
    /// Its category; `None` when it is near to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<CategoryId>,
    /// How near it is to the nearest category, -1 to 1.
    pub similarity: f32,
    /// The categories by which it was decided, see [`Categories::revision`].
    pub revision: Cursor,
}

/// The little of an error's record that statistics are made of.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorOutline {
    /// When an attempt first failed with it.
    pub first_seen: Timestamp,
    /// When an attempt last failed with it.
    pub last_seen: Timestamp,
    /// The category that the classifier has found for it: `Some(None)` when it is near to none, `None` until then.
    pub category: Option<Option<CategoryId>>,
}

impl From<ErrorRecord> for ErrorOutline {
    fn from(record: ErrorRecord) -> Self {
        let Sighting { first_seen, last_seen, .. } = record.seen;
        Self { first_seen, last_seen, category: record.knowledge.map(|known| known.category) }
    }
}

/// New knowledge of an error, to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// The fingerprint of the error.
    pub fingerprint: Fingerprint,
    /// What the classifier has found out about it.
    pub knowledge: Knowledge,
}

/// A known error near to a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    /// The record of the error.
    pub record: ErrorRecord,
    /// Its similarity to the vector, from -1 to 1.
    pub similarity: f32,
}

/// All categories of a team.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Categories {
    /// The number of the document's format.
    pub schema: u32,
    /// The last change that was folded in: earlier ones are skipped.
    pub revision: Cursor,
    /// How near an error must be to its nearest category; `None` leaves it to the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// The categories, in the order in which they were added.
    pub categories: Vec<Category>,
}

/// Which errors a list of jobs is asked about. Both conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WantedErrors {
    /// Only errors that are counted under this group.
    pub label: Option<Label>,
    /// Only errors whose fingerprint begins with these hexadecimal digits, in lower case.
    pub digits: Option<String>,
}

impl WantedErrors {
    /// Whether the fingerprint begins with the digits.
    pub fn has_digits(&self, error: &Fingerprint) -> bool {
        self.digits.as_ref().is_none_or(|digits| error.to_string().starts_with(digits))
    }
}

/// The errors that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorChoice {
    /// These, and no others.
    These(Vec<Fingerprint>),
    /// All errors of this group: more than a list is merged from.
    AllOf(Label),
}

impl Categories {
    /// The document format that this version writes.
    pub const SCHEMA: u32 = 1;
    /// The most categories that there can be; more are not folded in.
    pub const MOST: usize = 256;

    /// The group under which an error is counted; `record` is what history knows of it.
    pub fn label(&self, error: &Fingerprint, record: Option<&ErrorRecord>) -> Label {
        let knowledge = record.and_then(|record| record.knowledge.as_ref());
        self.label_of(error, knowledge.map(|known| known.category.as_ref()))
    }

    /// The same by the category that the classifier has found for the error: `Some(None)` when it is near to none.
    pub fn label_of(&self, error: &Fingerprint, known: Option<Option<&CategoryId>>) -> Label {
        match known {
            _ if *error == Fingerprint::OTHER => Label::Uncategorised,
            None => Label::Pending,
            // A category that was just removed no longer counts.
            Some(category) => match category.filter(|id| self.get(id).is_some()) {
                Some(id) => Label::Category(id.clone()),
                None => Label::Uncategorised,
            },
        }
    }

    /// The categories with which a team starts.
    pub fn seeded(categories: Vec<Category>) -> Self {
        Self { schema: Self::SCHEMA, revision: Cursor::START, threshold: None, categories }
    }

    /// What the categories are called, by their ids.
    pub fn names(&self) -> BTreeMap<CategoryId, String> {
        self.categories.iter().map(|category| (category.id.clone(), category.name.clone())).collect()
    }

    /// The category with this id.
    pub fn get(&self, id: &CategoryId) -> Option<&Category> {
        self.categories.iter().find(|category| category.id == *id)
    }

    /// Folds the change at `at`, and skips it when it has been folded before. To add a category
    /// whose id exists changes nothing, nor does a change of a category that does not exist. When
    /// two clients change the same category at once, the first in the log counts.
    pub fn fold(&mut self, at: Cursor, event: &CategoryEvent) {
        if at <= self.revision {
            return;
        }
        self.schema = Self::SCHEMA;
        self.revision = at;
        match &event.change {
            CategoryChange::Added { category } => {
                if self.get(&category.id).is_none() && self.categories.len() < Self::MOST {
                    self.categories.push(category.clone());
                }
            }
            CategoryChange::Edited { category } => {
                if let Some(known) = self.categories.iter_mut().find(|c| c.id == category.id) {
                    known.clone_from(category);
                }
            }
            CategoryChange::Removed { id } => self.categories.retain(|c| c.id != *id),
            CategoryChange::ThresholdSet { threshold } => self.threshold = *threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sighting() -> impl Strategy<Value = Sighting> {
        ("[ab]", 0i64..30, "[a-l]", "[a-z]").prop_map(|(text, at, name, job)| {
            let (at, name, job) = (Timestamp::from_millis(at), name.parse().unwrap(), JobId::parse(&job).unwrap());
            Sighting::new(Fingerprint::from_bytes([1; 32]), &text, at, &name, &job)
        })
    }

    fn merged<'a>(sightings: impl IntoIterator<Item = &'a Sighting>) -> Sighting {
        let mut all = sightings.into_iter();
        let mut sum = all.next().unwrap().clone();
        all.for_each(|s| sum.merge(s));
        sum
    }

    proptest! {
        #[test]
        fn sightings_merge_alike_in_any_order_and_however_often(
            all in prop::collection::vec(sighting(), 1..25),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let expected = merged(&all);
            let again: Vec<_> = order.iter().map(|i| all[i.index(all.len())].clone()).chain(all.iter().rev().cloned()).collect();
            prop_assert_eq!(&merged(&again), &expected);
            let (a, b) = all.split_at(cut.index(all.len()));
            if !a.is_empty() {
                prop_assert_eq!(&merged(&[merged(a), merged(b)]), &expected);
            }
            prop_assert!(expected.samples.len() <= Sighting::SAMPLES && expected.names.len() <= Sighting::NAMES);
            prop_assert_eq!(Some(expected.last_seen), expected.samples.first().map(|s| s.at));
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let at = Timestamp::from_millis(0);
        let long = "é".repeat(2000);
        let (name, job) = ("a".parse().unwrap(), JobId::parse("j").unwrap());
        let seen = Sighting::new(Fingerprint::OTHER, &format!("x{long}"), at, &name, &job);
        assert_eq!(seen.text.len(), Sighting::TEXT_BYTES - 1);
    }
}
