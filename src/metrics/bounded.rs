//! Keeps labels bounded: the first values get series of their own, all later ones share one.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

/// The label's value for all that came too late.
pub(super) const OTHER: &str = "_other";

/// What belongs to each value of a label. A value that has had a place keeps it for as long as the process runs.
pub(super) struct Bounded<T> {
    most: usize,
    known: RwLock<HashMap<Box<str>, T>>,
    other: OnceLock<T>,
}

impl<T: Clone> Bounded<T> {
    /// Gives at most `most` values a place of their own.
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: RwLock::default(), other: OnceLock::new() }
    }

    /// What belongs to `value`; `make` makes it, once, for the label that it gets. Allocates only for a new value.
    pub(super) fn get(&self, value: &str, make: impl FnOnce(&str) -> T) -> T {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(value) {
            return known.clone();
        }
        if let Some(other) = self.other.get() {
            return other.clone();
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(value) {
            return known.clone();
        }
        if known.len() < self.most {
            return known.entry(value.into()).or_insert(make(value)).clone();
        }
        drop(known);
        self.other.get_or_init(|| make(OTHER)).clone()
    }

    /// All places, in order, with the labels that they got.
    pub(super) fn all(&self) -> Vec<(Box<str>, T)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known.iter().map(|(value, place)| (value.clone(), place.clone())).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all.extend(self.other.get().map(|other| (OTHER.into(), other.clone())));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_come_too_late_share_a_place_and_the_others_keep_theirs() {
        let bounded = Bounded::new(2);
        let label = |value: &str| bounded.get(value, str::to_owned);
        assert_eq!(["a", "b", "c", "d", "a", "b"].map(label), ["a", "b", OTHER, OTHER, "a", "b"]);
        let all = bounded.all();
        assert_eq!(all.iter().map(|(label, _)| &**label).collect::<Vec<_>>(), ["a", "b", OTHER]);
    }
}
