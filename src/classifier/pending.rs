//! Errors that wait for the embedder, each once.

use std::collections::{HashSet, VecDeque};

use crate::domain::Fingerprint;
use crate::failures::codes::expand_codes;
use crate::failures::fingerprint::without_place;
use crate::store::Sighting;

/// An error without a vector of the current model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unknown {
    pub(super) fingerprint: Fingerprint,
    /// The text that is embedded: that of the error, with its codes in words and without the place of a crash.
    pub(super) text: String,
}

impl Unknown {
    pub(super) fn new(seen: &Sighting) -> Self {
        Self { fingerprint: seen.fingerprint, text: expand_codes(&without_place(&seen.text)).into_owned() }
    }
}

#[derive(Default)]
pub(super) struct Pending {
    waiting: VecDeque<Unknown>,
    held: HashSet<Fingerprint>,
    /// How often the size of the next batch is halved: once for each batch that failed, so that one
    /// text that can't be embedded does not hold up all others.
    halvings: u32,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn holds(&self, fingerprint: &Fingerprint) -> bool {
        self.held.contains(fingerprint)
    }

    pub(super) fn add(&mut self, unknown: Unknown) {
        if self.held.insert(unknown.fingerprint) {
            self.waiting.push_back(unknown);
        }
    }

    /// Takes the next errors out: at most `most`, and fewer after batches that failed.
    pub(super) fn next(&mut self, most: usize) -> Vec<Unknown> {
        let size = (most >> self.halvings.min(16)).max(1).min(self.waiting.len());
        let batch: Vec<_> = self.waiting.drain(..size).collect();
        batch.iter().for_each(|unknown| {
            self.held.remove(&unknown.fingerprint);
        });
        batch
    }

    /// Puts a batch that failed behind all others.
    pub(super) fn put_back(&mut self, batch: Vec<Unknown>) {
        self.halvings = if batch.len() > 1 { self.halvings + 1 } else { self.halvings };
        batch.into_iter().for_each(|unknown| self.add(unknown));
    }

    /// Notes that a batch has been embedded, so that the next ones may grow again.
    pub(super) fn has_passed(&mut self) {
        self.halvings = self.halvings.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_that_cannot_be_embedded_does_not_hold_up_the_others() {
        let mut pending = Pending::default();
        for n in 0..40 {
            let unknown = Unknown { fingerprint: Fingerprint::from_bytes([n; 32]), text: n.to_string() };
            pending.add(unknown.clone());
            pending.add(unknown);
        }
        assert_eq!(pending.len(), 40);
        let (mut embedded, mut tries) = (Vec::new(), 0);
        while embedded.len() < 39 && tries < 100 {
            tries += 1;
            let batch = pending.next(16);
            if batch.iter().any(|unknown| unknown.text == "7") {
                pending.put_back(batch);
            } else {
                embedded.extend(batch);
                pending.has_passed();
            }
        }
        assert_eq!((embedded.len(), pending.len()), (39, 1));
        assert!(tries < 30, "{tries}");
    }
}
