//! The aggregate of one day and one job name: counters and histograms that add and subtract.
//!
//! A shard is always the sum of what its jobs contribute ([`crate::projector`] computes a job's contribution from its
//! record). An event changes a shard by the difference of its job's contribution after and before. So nothing is ever
//! counted twice, a job that is retried after it had failed moves from one counter to the other, and a rebuild from the
//! documents gives the same shard.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{Day, JobName, OutcomeKind, Timestamp};
use crate::events::Cursor;

/// Which shard: jobs of this name that were submitted on this day.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardKey {
    /// The UTC day of submission.
    pub day: Day,
    /// The binary.
    pub name: JobName,
}

/// One aggregate document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatShard {
    /// The document format.
    pub schema: u32,
    /// Which shard this is.
    pub key: ShardKey,
    /// The last event whose effect has been added: earlier ones are skipped.
    pub applied: Cursor,
    /// Until when the records of all its jobs are certain to be there; `None` while no end is in sight. From then on
    /// some may have expired: what they added stays, and a sum over those that are left no longer tells what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_until: Option<Timestamp>,
    /// The numbers.
    pub counts: Counts,
}

/// How far the clock of a store that removes records by itself may be ahead.
const CLOCKS_APART: Duration = Duration::from_secs(3600);

impl StatShard {
    /// The document format that this version writes.
    pub const SCHEMA: u32 = 1;

    /// An empty shard.
    pub fn new(key: ShardKey) -> Self {
        Self { schema: Self::SCHEMA, key, applied: Cursor::START, whole_until: None, counts: Counts::default() }
    }

    /// Notes that records may be gone from `until` on; true when that is news. An earlier moment stands.
    pub fn expire_from(&mut self, until: Timestamp) -> bool {
        let is_news = self.whole_until.is_none_or(|before| until < before);
        if is_news {
            self.whole_until = Some(until);
        }
        is_news
    }

    /// Whether the records of all its jobs are certain to be there.
    pub fn is_whole(&self, now: Timestamp) -> bool {
        self.whole_until.is_none_or(|until| now + CLOCKS_APART < until)
    }

    /// Adds the effect of the event at `at`, unless it has been added before.
    pub fn apply(&mut self, at: Cursor, effect: &Counts) {
        if at > self.applied {
            self.counts.add(effect);
            self.applied = at;
        }
    }
}

/// A counter by key. Keys that stand at 0 are left out, so that equal counts are equal documents.
pub type Counter<K> = BTreeMap<K, i64>;

/// Everything that is counted. Signed, so that the difference of two is one too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Jobs by the state they are in.
    pub waiting: i64,
    /// Jobs that run.
    pub active: i64,
    /// Jobs that have completed, by the number of attempts that they took.
    pub completed_by_attempts: Counter<u32>,
    /// Jobs that have failed, by the number of attempts that they took.
    pub failed_by_attempts: Counter<u32>,
    /// Attempts by outcome.
    pub outcomes: Counter<OutcomeKind>,
    /// Attempts by the most jobs that ran beside them on their host.
    pub attempts_by_beside: Counter<u32>,
    /// Attempts that succeeded, by the same.
    pub successes_by_beside: Counter<u32>,
    /// Ended jobs by the most jobs that ran beside any of their attempts.
    pub jobs_by_beside: Counter<u32>,
    /// Completed jobs by the same.
    pub completed_by_beside: Counter<u32>,
    /// CPU time of attempts that succeeded, in microseconds.
    pub cpu_us_succeeded: i64,
    /// CPU time of attempts that did not, in microseconds.
    pub cpu_us_failed: i64,
    /// Wall time of all attempts, in microseconds.
    pub wall_us: i64,
    /// From submission (or the moment a job was due) to its first start, in milliseconds.
    pub wait_ms: Histogram,
    /// Wall time of each attempt, in milliseconds.
    pub run_ms: Histogram,
    /// Peak resident set of each attempt, in KiB.
    pub peak_rss_kib: Histogram,
}

fn add_counter<K: Ord + Copy>(into: &mut Counter<K>, other: &Counter<K>, sign: i64) {
    for (key, n) in other {
        let slot = into.entry(*key).or_insert(0);
        *slot += sign * n;
        if *slot == 0 {
            into.remove(key);
        }
    }
}

impl Counts {
    /// Adds `other`.
    pub fn add(&mut self, other: &Counts) {
        self.combine(other, 1);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Counts) {
        self.combine(other, -1);
    }

    fn combine(&mut self, other: &Counts, sign: i64) {
        // Named one by one, without `..`: a new counter does not compile until it is combined here.
        let Counts {
            waiting,
            active,
            completed_by_attempts,
            failed_by_attempts,
            outcomes,
            attempts_by_beside,
            successes_by_beside,
            jobs_by_beside,
            completed_by_beside,
            cpu_us_succeeded,
            cpu_us_failed,
            wall_us,
            wait_ms,
            run_ms,
            peak_rss_kib,
        } = other;
        self.waiting += sign * waiting;
        self.active += sign * active;
        add_counter(&mut self.completed_by_attempts, completed_by_attempts, sign);
        add_counter(&mut self.failed_by_attempts, failed_by_attempts, sign);
        add_counter(&mut self.outcomes, outcomes, sign);
        add_counter(&mut self.attempts_by_beside, attempts_by_beside, sign);
        add_counter(&mut self.successes_by_beside, successes_by_beside, sign);
        add_counter(&mut self.jobs_by_beside, jobs_by_beside, sign);
        add_counter(&mut self.completed_by_beside, completed_by_beside, sign);
        self.cpu_us_succeeded += sign * cpu_us_succeeded;
        self.cpu_us_failed += sign * cpu_us_failed;
        self.wall_us += sign * wall_us;
        self.wait_ms.combine(wait_ms, sign);
        self.run_ms.combine(run_ms, sign);
        self.peak_rss_kib.combine(peak_rss_kib, sign);
    }

    /// Whether nothing is counted.
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }

    /// How many jobs have completed.
    pub fn completed(&self) -> i64 {
        self.completed_by_attempts.values().sum()
    }

    /// How many jobs have failed.
    pub fn failed(&self) -> i64 {
        self.failed_by_attempts.values().sum()
    }
}

/// A histogram of whole numbers in log-linear buckets: eight to every doubling, so that a quantile read from it is off
/// by at most one part in eight.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(Counter<u32>);

impl Histogram {
    /// The bucket of a value: values below 16 have one each; above, the top four bits of the value pick it.
    fn bucket(value: u64) -> u32 {
        if value < 16 {
            return u32::try_from(value).expect("below 16");
        }
        let shift = 60 - value.leading_zeros();
        let top = u32::try_from(value >> shift).expect("the top four bits, 8 to 15");
        shift * 8 + top
    }

    /// The least value of a bucket.
    fn floor(bucket: u32) -> u64 {
        if bucket < 16 {
            return u64::from(bucket);
        }
        let shift = bucket / 8 - 1;
        u64::from(bucket - shift * 8) << shift
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        *self.0.entry(Self::bucket(value)).or_insert(0) += 1;
    }

    /// How many values were counted.
    pub fn count(&self) -> i64 {
        self.0.values().sum()
    }

    /// The value below which a part `q` (0 to 1) of the counted values lie, within one bucket; `None` when empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = (q.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as i64;
        let mut seen = 0;
        self.0.iter().find_map(|(bucket, n)| {
            seen += n;
            (seen >= rank).then(|| (Self::floor(*bucket) + Self::floor(bucket + 1)) / 2)
        })
    }

    fn combine(&mut self, other: &Histogram, sign: i64) {
        add_counter(&mut self.0, &other.0, sign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_values(value in 0u64..u64::MAX / 2) {
            let bucket = Histogram::bucket(value);
            prop_assert!(Histogram::floor(bucket) <= value);
            prop_assert!(value < Histogram::floor(bucket + 1));
            prop_assert!(Histogram::floor(bucket + 1) - Histogram::floor(bucket) <= (value / 8).max(1));
        }

        #[test]
        fn what_is_added_can_be_taken_away(a in prop::collection::vec(0u64..1_000_000, 0..20), b in prop::collection::vec(0u64..1_000_000, 0..20)) {
            let counts = |values: &[u64]| {
                let mut counts = Counts::default();
                for v in values {
                    counts.run_ms.record(*v);
                    *counts.completed_by_attempts.entry((*v % 5) as u32).or_insert(0) += 1;
                }
                counts
            };
            let (a, b) = (counts(&a), counts(&b));
            let mut sum = a.clone();
            sum.add(&b);
            let mut other = b.clone();
            other.add(&a);
            prop_assert_eq!(&sum, &other);
            sum.subtract(&b);
            prop_assert_eq!(sum, a);
        }
    }

    #[test]
    fn quantiles_are_near() {
        let mut h = Histogram::default();
        (1..=1000).for_each(|v| h.record(v));
        let p50 = h.quantile(0.5).unwrap();
        assert!((440..=560).contains(&p50), "{p50}");
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
