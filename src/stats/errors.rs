//! Counting by error: what failed attempts said, and which jobs met it.
//!
//! Aggregates count by fingerprint and never by category: categories change, their embeddings come
//! late, and retention takes away the documents from which the counts could be made again.
//! Statistics join the small table of fingerprints and categories when they are read.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::{Fingerprint, deserialize_text};

/// The distinct fingerprints of a job's failed attempts, sorted. Written with `+` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ErrorSet(Vec<Fingerprint>);

impl ErrorSet {
    /// A job with more distinct errors than this gets [`Fingerprint::OTHER`] for every further one.
    pub const MOST: usize = 8;

    /// Makes the set of these fingerprints, each once.
    pub fn new(fingerprints: impl IntoIterator<Item = Fingerprint>) -> Self {
        let mut all: Vec<_> = fingerprints.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }

    /// The fingerprints, in order.
    pub fn as_slice(&self) -> &[Fingerprint] {
        &self.0
    }

    /// Whether no attempt has failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number that stands for this set. If two sets had the same number, a shard would only
    /// admit both or neither.
    pub fn digest(&self) -> u64 {
        let mut digest = Sha256::new();
        self.0.iter().for_each(|f| digest.update(f.as_bytes()));
        let digest: [u8; 32] = digest.finalize().into();
        u64::from_le_bytes(*digest.first_chunk().expect("a digest is longer than a number"))
    }
}

impl fmt::Display for ErrorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fingerprint) in self.0.iter().enumerate() {
            write!(f, "{}{fingerprint}", if i > 0 { "+" } else { "" })?;
        }
        Ok(())
    }
}

impl Serialize for ErrorSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ErrorSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, |text| {
            let parts = text.split('+').filter(|part| !part.is_empty());
            parts.map(str::parse).collect::<Result<Vec<Fingerprint>, _>>().map(Self::new)
        })
    }
}

/// Failed attempts with one fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FailureCounts {
    /// How many attempts have failed with it.
    pub attempts: i64,
    /// Their CPU time, in microseconds.
    pub cpu_us: i64,
    /// Their wall time, in microseconds.
    pub wall_us: i64,
}

/// Jobs with one set of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ErrorSetCounts {
    /// How many jobs have met exactly these errors.
    pub jobs: i64,
    /// How many of them have completed in the end.
    pub completed: i64,
    /// How many of them have failed.
    pub failed: i64,
}

/// Numbers that can be added and subtracted.
pub(super) trait Amounts: Copy + Default + PartialEq {
    fn combine(&mut self, other: &Self, sign: i64);
}

impl Amounts for FailureCounts {
    fn combine(&mut self, other: &Self, sign: i64) {
        let Self { attempts, cpu_us, wall_us } = other;
        self.attempts += sign * attempts;
        self.cpu_us += sign * cpu_us;
        self.wall_us += sign * wall_us;
    }
}

impl Amounts for ErrorSetCounts {
    fn combine(&mut self, other: &Self, sign: i64) {
        let Self { jobs, completed, failed } = other;
        self.jobs += sign * jobs;
        self.completed += sign * completed;
        self.failed += sign * failed;
    }
}

impl Amounts for i64 {
    fn combine(&mut self, other: &Self, sign: i64) {
        *self += sign * other;
    }
}

/// Adds `sign` times `other` to `into`. Removes keys whose numbers all come to 0, so that equal
/// counts are equal documents.
pub(super) fn combine<K: Ord + Clone, V: Amounts>(into: &mut BTreeMap<K, V>, other: &BTreeMap<K, V>, sign: i64) {
    for (key, amounts) in other {
        let slot = into.entry(key.clone()).or_default();
        slot.combine(amounts, sign);
        if *slot == V::default() {
            into.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_form_and_reads_back() {
        let f = |n: u8| Fingerprint::from_bytes([n; 32]);
        let set = ErrorSet::new([f(3), f(1), f(3)]);
        assert_eq!(set.as_slice(), [f(1), f(3)]);
        assert_eq!((set.clone(), set.digest()), (ErrorSet::new([f(1), f(3)]), ErrorSet::new([f(1), f(3)]).digest()));
        let counts: BTreeMap<_, _> = [(set.clone(), 1), (ErrorSet::default(), 2)].into();
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(serde_json::from_str::<BTreeMap<ErrorSet, i32>>(&text).unwrap(), counts);
        assert!(serde_json::from_str::<ErrorSet>("\"xyz\"").is_err());
        assert_ne!(set.digest(), ErrorSet::new([f(1)]).digest());
    }
}
