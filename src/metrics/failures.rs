//! Counts failed attempts by the category of their error.
//!
//! The projector counts an attempt before the classifier knows what its error means. So the count of a new error waits
//! here until the classifier tells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::bounded::{Bounded, OTHER};
use crate::domain::Fingerprint;

/// Categories with series of their own.
const CATEGORIES: usize = 64;
/// Errors whose category is remembered, and errors that wait for theirs. Beyond, attempts count as `_other`.
const ERRORS: usize = 100_000;
/// The label of errors that are near to no category, as the API calls them.
const UNCATEGORISED: &str = "uncategorised";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCategory {
    category: Arc<str>,
}

/// What is known of an error.
enum Known {
    Category(Counter),
    /// So many attempts wait for its category.
    Not(u64),
}

/// What is counted of failures.
pub struct FailureMetrics {
    failures: Family<OfCategory, Counter>,
    categories: Bounded<Counter>,
    errors: Mutex<HashMap<Fingerprint, Known>>,
}

impl Default for FailureMetrics {
    fn default() -> Self {
        let (failures, errors) = (Family::default(), Mutex::default());
        Self { failures, categories: Bounded::new(CATEGORIES), errors }
    }
}

impl FailureMetrics {
    pub(super) fn register(&self, to: &mut Registry) {
        let help = "Failed attempts by the category of their error, once that is known";
        to.register("failures", help, self.failures.clone());
    }

    fn counter(&self, category: &str) -> Counter {
        let make = |category: &str| self.failures.get_or_create_owned(&OfCategory { category: category.into() });
        self.categories.get(category, make)
    }

    /// Counts an attempt that failed with this error.
    pub fn failed(&self, error: Fingerprint) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = errors.len() < ERRORS;
        match errors.get_mut(&error) {
            Some(Known::Category(counter)) => {
                counter.inc();
            }
            Some(Known::Not(attempts)) => *attempts += 1,
            // Errors of too many kinds have no category.
            None if error == Fingerprint::OTHER || !has_room => {
                self.counter(OTHER).inc();
            }
            None => {
                errors.insert(error, Known::Not(1));
            }
        }
    }

    /// Takes note of an error's category (`None` for none), and counts the attempts that have waited for it. Attempts
    /// that were counted before under another category stay there.
    pub fn classified(&self, error: Fingerprint, category: Option<&str>) {
        let counter = self.counter(category.unwrap_or(UNCATEGORISED));
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = errors.len() < ERRORS;
        match errors.get_mut(&error) {
            Some(known) => {
                if let Known::Not(attempts) = known {
                    counter.inc_by(*attempts);
                }
                *known = Known::Category(counter);
            }
            None if has_room => {
                errors.insert(error, Known::Category(counter));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_counts_once_its_category_is_known() {
        let metrics = FailureMetrics::default();
        let error = Fingerprint::from_bytes([1; 32]);
        metrics.failed(error);
        metrics.failed(error);
        assert_eq!(metrics.counter("disk-full").get(), 0);
        metrics.classified(error, Some("disk-full"));
        metrics.failed(error);
        metrics.classified(error, None);
        metrics.failed(error);
        metrics.failed(Fingerprint::OTHER);
        assert_eq!(["disk-full", UNCATEGORISED, OTHER].map(|category| metrics.counter(category).get()), [3, 1, 1]);
    }
}
