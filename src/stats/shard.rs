//! The aggregate of one day and one job name: counters and histograms that add and subtract.
//!
//! A shard is always the sum of what its jobs contribute ([`crate::projector`] computes a job's contribution from its
//! record). An event changes a shard by the difference of its job's contribution after and before. So nothing is ever
//! counted twice, a job that is retried after it had failed moves from one counter to the other, and a rebuild from the
//! documents gives the same shard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::QueueParts;
use super::errors::{ErrorSet, ErrorSetCounts, FailureCounts, combine};
use crate::domain::{Day, Fingerprint, JobName, OutcomeKind, Timestamp};
use crate::events::Cursor;

/// Names a shard: it holds the jobs of this name that were submitted on this day.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardKey {
    /// The UTC day of submission.
    pub day: Day,
    /// The binary that the jobs run.
    pub name: JobName,
}

/// The aggregate of one day and one job name, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatShard {
    /// The version of the document format; see [`StatShard::SCHEMA`].
    pub schema: u32,
    /// Which shard this is.
    pub key: ShardKey,
    /// The last event whose effect has been added: earlier ones are skipped.
    pub applied: Cursor,
    /// The time until which the store certainly holds the records of all its jobs; `None` while no
    /// end is in sight. From then on some may have expired: what they added stays, and a sum over
    /// the remaining records no longer gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_until: Option<Timestamp>,
    /// The counters and histograms of its jobs.
    pub counts: Counts,
    /// The digests of the error sets that this shard has taken in. It only grows, so that folding
    /// an event again decides alike whether its set is taken in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub admitted: BTreeSet<u64>,
}

/// How far the clock of a store that removes records by itself may be ahead.
pub(super) const CLOCKS_APART: Duration = Duration::from_secs(3600);

impl StatShard {
    /// The most sets of errors that a shard takes in: it stays small whatever the jobs of a day print.
    pub const MOST_SETS: usize = 256;

    /// The document format that this version writes. Since 2 it counts first attempts by what ran
    /// when they started, running times in microseconds, budgets, and of a job that was put back
    /// only what came before. Since 3 it counts by queue, too.
    pub const SCHEMA: u32 = 3;

    /// Makes a shard without any counts.
    pub fn new(key: ShardKey) -> Self {
        let (applied, counts, admitted) = (Cursor::START, Counts::default(), BTreeSet::new());
        Self { schema: Self::SCHEMA, key, applied, whole_until: None, counts, admitted }
    }

    /// Whether jobs with this set of errors may be counted here. Takes the set in while there is room.
    pub fn admit(&mut self, set: &ErrorSet) -> bool {
        let number = set.digest();
        if self.admitted.len() < Self::MOST_SETS {
            self.admitted.insert(number);
        }
        self.admitted.contains(&number)
    }

    /// Notes that records may be gone from `until` on. Answers true when that is news. An earlier moment stands.
    pub fn expire_from(&mut self, until: Timestamp) -> bool {
        let is_news = self.whole_until.is_none_or(|before| until < before);
        if is_news {
            self.whole_until = Some(until);
        }
        is_news
    }

    /// Whether the store certainly holds the records of all its jobs.
    pub fn is_whole(&self, now: Timestamp) -> bool {
        self.whole_until.is_none_or(|until| now + CLOCKS_APART < until)
    }

    /// Adds the effect of the event at `at`, unless it has been added before: what a job contributed before the event,
    /// and what it does after it.
    pub fn apply(&mut self, at: Cursor, before: &Counts, after: &Counts) {
        if at > self.applied {
            // In this order no counter falls to nothing on the way, to be made anew.
            self.counts.add(after);
            self.counts.subtract(before);
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
    /// Jobs that wait: in the queue, for a due time, or for their parents.
    pub waiting: i64,
    /// Jobs whose attempt runs now.
    pub active: i64,
    /// Jobs that have completed, by the number of attempts that they took.
    pub completed_by_attempts: Counter<u32>,
    /// Jobs that have failed, by the number of attempts that they took.
    pub failed_by_attempts: Counter<u32>,
    /// Attempts, by the kind of their outcome.
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
    /// Wall time of each attempt, in milliseconds: counted by older versions only.
    pub run_ms: Histogram,
    /// Wall time of each attempt, in microseconds.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub run_us: Histogram,
    /// Peak resident set of each attempt, in KiB.
    pub peak_rss_kib: Histogram,
    /// Failed attempts by what they said.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<Fingerprint, FailureCounts>,
    /// Jobs with failed attempts, each once, by the set of errors that these attempts met.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs_by_errors: BTreeMap<ErrorSet, ErrorSetCounts>,
    /// Jobs that have completed, by the number of their failed attempts (lost and cancelled ones
    /// have not failed). This counter and the next three take every job once. Of a job that was put
    /// back after it had failed, they count only what came before.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub completed_by_failures: Counter<u32>,
    /// Jobs that have failed because no attempt was left, by their failed attempts.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub exhausted_by_failures: Counter<u32>,
    /// Jobs that have failed in a way that made another attempt pointless, with attempts left or
    /// without, by their failed attempts.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub hopeless_by_failures: Counter<u32>,
    /// Jobs whose own end is unknown, by their failed attempts: not ended, cancelled, lost, removed.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub undecided_by_failures: Counter<u32>,
    /// Of the undecided jobs those that have ended: cancelled or lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub stopped: i64,
    /// Of the undecided jobs those that wait or run.
    #[serde(skip_serializing_if = "is_zero")]
    pub open: i64,
    /// Jobs that an older version put back more than once, so that their first end is not known:
    /// none of these counters has them.
    #[serde(skip_serializing_if = "is_zero")]
    pub first_end_unknown: i64,
    /// All jobs of these counters, by the number of attempts that they were allowed.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub jobs_by_budget: Counter<u32>,
    /// First attempts that succeeded or failed, by the number of jobs that ran beside them when they started.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub first_attempts_by_start: Counter<u32>,
    /// First attempts that succeeded, by the same.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub first_successes_by_start: Counter<u32>,
    /// First attempts whose number is not known, because an older version recorded them.
    #[serde(skip_serializing_if = "is_zero")]
    pub first_attempts_unknown: i64,
    /// CPU time of attempts that succeeded or failed by the failed attempts of their job before them, in microseconds.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub cpu_us_by_failures: Counter<u32>,
    /// Attempts by the cores that they were pinned to.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub attempts_by_cores: Counter<u32>,
    /// Cores times wall time of these attempts, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub reserved_core_us: i64,
    /// CPU time of these attempts, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub reserved_cpu_us: i64,
    /// CPU time over wall time of each attempt, in hundredths of a core.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub core_percent: Histogram,
    /// Memory limits of attempts that had one, in KiB.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub memory_limit_kib: Histogram,
    /// Peak resident set of these attempts, in hundredths of their limit.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub memory_percent: Histogram,
    /// What the jobs of each named queue have added to all of this.
    #[serde(skip_serializing_if = "QueueParts::is_empty")]
    pub by_queue: QueueParts,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

impl Counts {
    /// Adds the counts of `other` to these.
    pub fn add(&mut self, other: &Counts) {
        self.combine(other, 1);
    }

    /// Subtracts the counts of `other` from these.
    pub fn subtract(&mut self, other: &Counts) {
        self.combine(other, -1);
    }

    /// These without the counts by error and by queue, of which there may be many.
    pub fn without_parts(self) -> Self {
        let (failures, jobs_by_errors, by_queue) = Default::default();
        Self { failures, jobs_by_errors, by_queue, ..self }
    }

    pub(super) fn combine(&mut self, other: &Counts, sign: i64) {
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
            run_us,
            peak_rss_kib,
            failures,
            jobs_by_errors,
            completed_by_failures,
            exhausted_by_failures,
            hopeless_by_failures,
            undecided_by_failures,
            stopped,
            open,
            first_end_unknown,
            jobs_by_budget,
            first_attempts_by_start,
            first_successes_by_start,
            first_attempts_unknown,
            cpu_us_by_failures,
            attempts_by_cores,
            reserved_core_us,
            reserved_cpu_us,
            core_percent,
            memory_limit_kib,
            memory_percent,
            by_queue,
        } = other;
        self.waiting += sign * waiting;
        self.active += sign * active;
        combine(&mut self.completed_by_attempts, completed_by_attempts, sign);
        combine(&mut self.failed_by_attempts, failed_by_attempts, sign);
        combine(&mut self.outcomes, outcomes, sign);
        combine(&mut self.attempts_by_beside, attempts_by_beside, sign);
        combine(&mut self.successes_by_beside, successes_by_beside, sign);
        combine(&mut self.jobs_by_beside, jobs_by_beside, sign);
        combine(&mut self.completed_by_beside, completed_by_beside, sign);
        self.cpu_us_succeeded += sign * cpu_us_succeeded;
        self.cpu_us_failed += sign * cpu_us_failed;
        self.wall_us += sign * wall_us;
        self.wait_ms.combine(wait_ms, sign);
        self.run_ms.combine(run_ms, sign);
        self.run_us.combine(run_us, sign);
        self.peak_rss_kib.combine(peak_rss_kib, sign);
        combine(&mut self.failures, failures, sign);
        combine(&mut self.jobs_by_errors, jobs_by_errors, sign);
        combine(&mut self.completed_by_failures, completed_by_failures, sign);
        combine(&mut self.exhausted_by_failures, exhausted_by_failures, sign);
        combine(&mut self.hopeless_by_failures, hopeless_by_failures, sign);
        combine(&mut self.undecided_by_failures, undecided_by_failures, sign);
        self.stopped += sign * stopped;
        self.open += sign * open;
        self.first_end_unknown += sign * first_end_unknown;
        combine(&mut self.jobs_by_budget, jobs_by_budget, sign);
        combine(&mut self.first_attempts_by_start, first_attempts_by_start, sign);
        combine(&mut self.first_successes_by_start, first_successes_by_start, sign);
        self.first_attempts_unknown += sign * first_attempts_unknown;
        combine(&mut self.cpu_us_by_failures, cpu_us_by_failures, sign);
        combine(&mut self.attempts_by_cores, attempts_by_cores, sign);
        self.reserved_core_us += sign * reserved_core_us;
        self.reserved_cpu_us += sign * reserved_cpu_us;
        self.core_percent.combine(core_percent, sign);
        self.memory_limit_kib.combine(memory_limit_kib, sign);
        self.memory_percent.combine(memory_percent, sign);
        self.by_queue.combine(by_queue, sign);
    }

    /// Whether nothing is counted.
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }

    /// How many jobs have completed.
    pub fn completed(&self) -> i64 {
        self.completed_by_attempts.values().sum()
    }

    /// Wall time of each attempt, in microseconds, whichever version counted it.
    pub fn run_us(&self) -> Histogram {
        let mut all = self.run_us.clone();
        all.combine(&self.run_ms.scaled(1000), 1);
        all
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
    pub(super) fn bucket(value: u64) -> u32 {
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

    /// Counts a value in its bucket.
    pub fn record(&mut self, value: u64) {
        *self.0.entry(Self::bucket(value)).or_insert(0) += 1;
    }

    /// Counts a value `sign` times.
    pub(super) fn count_in(&mut self, value: u64, sign: i64) {
        combine(&mut self.0, &BTreeMap::from([(Self::bucket(value), sign)]), 1);
    }

    /// Adds the values of `other`.
    pub(super) fn add(&mut self, other: &Histogram) {
        self.combine(other, 1);
    }

    /// The least bucket such that at least a part `q` (0 to 1) of the values lie in it or below; `None` when empty.
    pub(super) fn quantile_bucket(&self, q: f64) -> Option<u32> {
        let rank = (q.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as i64;
        let mut seen = 0;
        self.0.iter().find_map(|(bucket, n)| {
            seen += n;
            (seen >= rank).then_some(*bucket)
        })
    }

    /// How many values lie in higher buckets.
    pub(super) fn above(&self, bucket: u32) -> i64 {
        self.0.range(bucket + 1..).map(|(_, n)| n).sum()
    }

    /// The least value that lies in a higher bucket.
    pub(super) fn end_of(bucket: u32) -> u64 {
        Self::floor(bucket + 1)
    }

    /// The mean and the variance of the buckets' numbers.
    pub(super) fn spread(&self) -> (f64, f64) {
        let n = self.count().max(1) as f64;
        let mean = self.0.iter().map(|(bucket, k)| f64::from(*bucket) * *k as f64).sum::<f64>() / n;
        let variance =
            self.0.iter().map(|(bucket, k)| (f64::from(*bucket) - mean).powi(2) * *k as f64).sum::<f64>() / n;
        (mean, variance)
    }

    /// The same values in a unit that is so many times smaller; each stands for its bucket's middle.
    fn scaled(&self, factor: u64) -> Self {
        let mut scaled = Self::default();
        for (bucket, n) in &self.0 {
            *scaled.0.entry(Self::bucket(Self::middle(*bucket).saturating_mul(factor))).or_insert(0) += n;
        }
        scaled
    }

    /// The value that stands for those of a bucket.
    fn middle(bucket: u32) -> u64 {
        (Self::floor(bucket) + Self::floor(bucket + 1)) / 2
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many values were counted.
    pub fn count(&self) -> i64 {
        self.0.values().sum()
    }

    /// The value below which a part `q` (0 to 1) of the counted values lie, within one bucket; `None` when empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        self.quantile_bucket(q).map(Self::middle)
    }

    fn combine(&mut self, other: &Histogram, sign: i64) {
        combine(&mut self.0, &other.0, sign);
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
                    counts.run_us.record(*v);
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
        let thousandfold = h.scaled(1000);
        assert_eq!(thousandfold.count(), h.count());
        assert!((440_000..=560_000).contains(&thousandfold.quantile(0.5).unwrap()));
    }
}
