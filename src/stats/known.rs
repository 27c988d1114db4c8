//! What is known of the errors that aggregates name. Each error has a number, so that sums over many aggregates look
//! no fingerprint up.

use std::collections::{BTreeMap, HashMap};

use crate::domain::{CategoryId, Fingerprint, Timestamp, UNCATEGORISED};

/// The group under which an error is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// One of the categories that the store holds.
    Category(CategoryId),
    /// The error is near to no category.
    Uncategorised,
    /// The classifier has not worked the error out yet.
    Pending,
}

impl Label {
    /// The label as it stands in JSON.
    pub fn as_str(&self) -> &str {
        match self {
            Label::Category(id) => id.as_str(),
            Label::Uncategorised => UNCATEGORISED,
            Label::Pending => "pending",
        }
    }

    /// What people call it. `names` has what categories are called.
    pub fn name(&self, names: &BTreeMap<CategoryId, String>) -> String {
        match self {
            Label::Category(id) => names.get(id).cloned().unwrap_or_else(|| id.to_string()),
            other => other.as_str().to_owned(),
        }
    }
}

/// What is known of an error.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorFacts {
    /// The group under which it is counted.
    pub label: Label,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
}

/// The number of an error among those that are known.
pub type ErrorNumber = u32;

/// The places of these labels among those that are known.
const UNKNOWN_LABELS: [Label; 2] = [Label::Pending, Label::Uncategorised];
const PENDING: usize = 0;
const OTHER: usize = 1;

/// What is known of errors.
#[derive(Debug, Clone)]
pub struct KnownErrors {
    numbers: HashMap<Fingerprint, ErrorNumber>,
    errors: Vec<KnownError>,
    labels: Vec<Label>,
}

#[derive(Debug, Clone)]
struct KnownError {
    fingerprint: Fingerprint,
    /// The place of its label; `None` until it is looked up, and when it must be looked up again.
    label: Option<u32>,
    /// When it was first and last seen, if history knows it.
    seen: Option<(Timestamp, Timestamp)>,
    /// Whether it may have been seen again since.
    may_be_seen_again: bool,
}

impl Default for KnownErrors {
    fn default() -> Self {
        Self { numbers: HashMap::new(), errors: Vec::new(), labels: UNKNOWN_LABELS.to_vec() }
    }
}

impl KnownErrors {
    /// What one error takes of memory, in bytes.
    pub const BYTES: usize = size_of::<KnownError>() + 2 * size_of::<(Fingerprint, ErrorNumber)>();

    /// How many errors have a number.
    pub fn count(&self) -> usize {
        self.errors.len()
    }

    /// The number of an error, which it gets now if it has none.
    pub fn number(&mut self, fingerprint: Fingerprint) -> ErrorNumber {
        *self.numbers.entry(fingerprint).or_insert_with(|| {
            self.errors.push(KnownError { fingerprint, label: None, seen: None, may_be_seen_again: true });
            ErrorNumber::try_from(self.errors.len() - 1).expect("memory ends before numbers do")
        })
    }

    /// Notes what history knows of an error: `None` when it does not know it.
    pub fn learn(&mut self, fingerprint: Fingerprint, facts: Option<ErrorFacts>) {
        let number = self.number(fingerprint);
        let seen = facts.as_ref().map(|facts| (facts.first_seen, facts.last_seen));
        let label = match facts {
            Some(facts) => self.place(facts.label),
            None => Self::unless_known(&fingerprint),
        };
        let label = Some(u32::try_from(label).expect("there are few labels"));
        self.errors[number as usize] = KnownError { fingerprint, label, seen, may_be_seen_again: false };
    }

    fn place(&mut self, label: Label) -> usize {
        self.labels.iter().position(|known| *known == label).unwrap_or_else(|| {
            self.labels.push(label);
            self.labels.len() - 1
        })
    }

    fn unless_known(error: &Fingerprint) -> usize {
        if *error == Fingerprint::OTHER { OTHER } else { PENDING }
    }

    /// The group under which this error is counted.
    pub fn label(&self, error: &Fingerprint) -> &Label {
        let place = self.numbers.get(error).map_or_else(|| Self::unless_known(error), |number| self.label_of(*number));
        &self.labels[place]
    }

    /// The fingerprint of an error.
    pub fn fingerprint(&self, error: ErrorNumber) -> Fingerprint {
        self.errors[error as usize].fingerprint
    }

    /// When an error was first and last seen; `None` when history does not know it.
    pub fn seen(&self, error: ErrorNumber) -> Option<(Timestamp, Timestamp)> {
        self.errors[error as usize].seen
    }

    /// The labels by which errors are told apart.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The place of an error's label in [`KnownErrors::labels`].
    pub fn label_of(&self, error: ErrorNumber) -> usize {
        let error = &self.errors[error as usize];
        error.label.map_or_else(|| Self::unless_known(&error.fingerprint), |place| place as usize)
    }

    /// Whether an error must be looked up before its label can be told.
    pub fn lacks_label(&self, error: ErrorNumber) -> bool {
        self.errors[error as usize].label.is_none()
    }

    /// Whether an error must be looked up before it can be told when it was last seen.
    pub fn may_be_seen_again(&self, error: ErrorNumber) -> bool {
        self.errors[error as usize].may_be_seen_again
    }

    /// Notes that an error may have been seen again.
    pub fn seen_again(&mut self, error: ErrorNumber) {
        self.errors[error as usize].may_be_seen_again = true;
    }

    /// Forgets under which group errors are counted: all of them, or those alone that were pending.
    pub fn forget_labels(&mut self, only_pending: bool) {
        for error in &mut self.errors {
            error.label = error.label.filter(|place| only_pending && *place as usize != PENDING);
        }
        if !only_pending {
            self.labels.truncate(UNKNOWN_LABELS.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_must_be_looked_up_again() {
        let at = Timestamp::from_millis;
        let disk = Label::Category("disk".parse().unwrap());
        let f = |n| Fingerprint::from_bytes([n; 32]);
        let mut known = KnownErrors::default();
        let facts = ErrorFacts { label: disk.clone(), first_seen: at(1), last_seen: at(2) };
        known.learn(f(1), Some(facts));
        known.learn(f(2), None);
        known.learn(Fingerprint::OTHER, None);
        let numbers = [f(1), f(2), Fingerprint::OTHER].map(|error| known.number(error));
        let labels = |known: &KnownErrors| [f(1), f(2), Fingerprint::OTHER].map(|error| known.label(&error).clone());
        let lacking = |known: &KnownErrors| numbers.map(|number| known.lacks_label(number));
        assert_eq!(labels(&known), [disk.clone(), Label::Pending, Label::Uncategorised]);
        assert_eq!((known.count(), known.seen(numbers[0])), (3, Some((at(1), at(2)))));
        known.forget_labels(true);
        assert_eq!(lacking(&known), [false, true, false]);
        assert_eq!(known.label(&f(1)), &disk);
        known.forget_labels(false);
        assert_eq!(lacking(&known), [true; 3]);
        assert_eq!(labels(&known), [Label::Pending, Label::Pending, Label::Uncategorised]);
        known.seen_again(numbers[0]);
        assert!(known.may_be_seen_again(numbers[0]) && !known.may_be_seen_again(numbers[1]));
    }
}
