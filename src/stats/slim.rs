//! An aggregate with numbers in place of fingerprints: a tenth of its size, and quick to add up by label.

use super::errors::ErrorSetCounts;
use super::known::{ErrorNumber, KnownErrors, Label};
use super::shard::{Counts, ShardKey, StatShard};

/// What statistics by error are made of.
#[derive(Debug, Clone)]
pub struct SlimShard {
    /// Which aggregate this is.
    pub key: ShardKey,
    /// All counts but those by error and by queue.
    pub counts: Counts,
    failures: Box<[ErrorFailures]>,
    /// The errors of each set, one set after the other.
    members: Box<[ErrorNumber]>,
    /// How many members each set has, and the jobs that met exactly these.
    sets: Box<[(u32, ErrorSetCounts)]>,
}

/// Failed attempts with one error.
#[derive(Debug, Clone, Copy)]
struct ErrorFailures {
    error: ErrorNumber,
    attempts: i64,
    cpu_us: i64,
}

/// Failed attempts with errors of one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LabelFailures {
    /// How many attempts have failed.
    pub attempts: i64,
    /// Their CPU time, in microseconds.
    pub cpu_us: i64,
}

impl SlimShard {
    /// Takes of an aggregate what statistics by error are made of. Its errors get numbers in `known`.
    pub fn of(shard: StatShard, known: &mut KnownErrors) -> Self {
        let StatShard { key, mut counts, .. } = shard;
        let failures = std::mem::take(&mut counts.failures).into_iter().map(|(error, failed)| ErrorFailures {
            error: known.number(error),
            attempts: failed.attempts,
            cpu_us: failed.cpu_us,
        });
        let failures = failures.collect();
        let (mut members, mut sets) = (Vec::new(), Vec::with_capacity(counts.jobs_by_errors.len()));
        for (errors, jobs) in std::mem::take(&mut counts.jobs_by_errors) {
            let before = members.len();
            members.extend(errors.as_slice().iter().map(|error| known.number(*error)));
            sets.push((u32::try_from(members.len() - before).expect("a set has few errors"), jobs));
        }
        let counts = counts.without_parts();
        Self { key, counts, failures, members: members.into(), sets: sets.into() }
    }

    /// What it takes of memory, in bytes, by a rough count.
    pub fn bytes(&self) -> usize {
        const COUNTERS: usize = 3 << 10;
        size_of::<Self>()
            + COUNTERS
            + size_of_val(&*self.failures)
            + size_of_val(&*self.members)
            + size_of_val(&*self.sets)
    }

    /// Each error with the attempts that failed with it.
    pub fn failures(&self) -> impl Iterator<Item = (ErrorNumber, i64)> {
        self.failures.iter().map(|failed| (failed.error, failed.attempts))
    }

    /// Every error that the aggregate names.
    pub fn errors(&self) -> impl Iterator<Item = ErrorNumber> {
        self.failures.iter().map(|failed| failed.error).chain(self.members.iter().copied())
    }

    /// Failed attempts by the label of their error.
    pub fn failures_by_label<'k>(
        &self,
        known: &'k KnownErrors,
    ) -> impl Iterator<Item = (&'k Label, LabelFailures)> + use<'k> {
        let mut sums = vec![None; known.labels().len()];
        for failed in &self.failures {
            let sum: &mut LabelFailures = sums[known.label_of(failed.error)].get_or_insert_default();
            sum.attempts += failed.attempts;
            sum.cpu_us += failed.cpu_us;
        }
        known.labels().iter().zip(sums).filter_map(|(label, sum)| Some((label, sum?)))
    }

    /// Jobs by the label of the errors that they met. A job that met several labels counts once in each of them.
    pub fn jobs_by_label<'k>(
        &self,
        known: &'k KnownErrors,
    ) -> impl Iterator<Item = (&'k Label, ErrorSetCounts)> + use<'k> {
        let mut sums = vec![None; known.labels().len()];
        let mut rest = &*self.members;
        let mut met = Vec::new();
        for (count, jobs) in &self.sets {
            let (errors, others) = rest.split_at(*count as usize);
            rest = others;
            met.clear();
            met.extend(errors.iter().map(|error| known.label_of(*error)));
            met.sort_unstable();
            met.dedup();
            for label in &met {
                let sum: &mut ErrorSetCounts = sums[*label].get_or_insert_default();
                sum.jobs += jobs.jobs;
                sum.completed += jobs.completed;
                sum.failed += jobs.failed;
            }
        }
        known.labels().iter().zip(sums).filter_map(|(label, sum)| Some((label, sum?)))
    }
}

/// How often attempts failed with each error of these aggregates.
pub fn attempts_by_error(
    shards: &[&SlimShard],
    known: &KnownErrors,
) -> impl Iterator<Item = (ErrorNumber, i64)> + use<> {
    let mut sums = vec![None; known.count()];
    for (error, attempts) in shards.iter().flat_map(|shard| shard.failures()) {
        *sums[error as usize].get_or_insert(0) += attempts;
    }
    (0..).zip(sums).filter_map(|(error, sum)| Some((error, sum?)))
}
