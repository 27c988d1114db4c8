//! How long jobs wait and run, and how much they use of their cores and memory.
//!
//! ```text
//! p50, p90, p99 = quantiles of the histograms: off by at most one part in eight
//! cores used    = CPU time over wall time of an attempt: the cores that it kept busy
//! utilisation   = CPU time of all attempts over (cores given · wall time)
//! suggestion    = cores: the 95 % quantile of cores used, rounded up;
//!                 memory: the 99 % quantile of the peak resident set and a fifth more, rounded up to 16 MiB
//! ```
//! Suggestions come from at least 20 attempts. An attempt that was killed at its limit shows its
//! limit and not its need, so where many were killed, the suggested memory is too little.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::shard::{Counts, Histogram};
use crate::domain::{JobName, OutcomeKind};

/// The fewest attempts that a suggestion is made from.
const ENOUGH: i64 = 20;

/// Quantiles of a duration, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quantiles {
    /// How many durations were measured.
    pub n: i64,
    /// The median: half are shorter.
    pub p50: Option<f64>,
    /// Nine of ten are shorter.
    pub p90: Option<f64>,
    /// Ninety-nine of a hundred are shorter.
    pub p99: Option<f64>,
}

impl Quantiles {
    fn of(histogram: &Histogram, unit: f64) -> Self {
        let at = |q| histogram.quantile(q).map(|value| value as f64 / unit);
        Self { n: histogram.count(), p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    }
}

/// One line of `stats durations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DurationLine {
    /// The binary that the jobs run.
    pub name: JobName,
    /// From the moment a job was due to its first start, in seconds.
    pub waiting: Quantiles,
    /// Wall time of an attempt, in seconds.
    pub running: Quantiles,
}

/// One line for each job name.
pub fn durations(names: &BTreeMap<JobName, Counts>) -> Vec<DurationLine> {
    let line = |(name, counts): (&JobName, &Counts)| DurationLine {
        name: name.clone(),
        waiting: Quantiles::of(&counts.wait_ms, 1000.0),
        running: Quantiles::of(&counts.run_us(), 1e6),
    };
    names.iter().map(line).collect()
}

/// What jobs of one name were given, and how much of it they used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SizeLine {
    /// The binary that the jobs run.
    pub name: JobName,
    /// Attempts that were measured.
    pub n: i64,
    /// The cores that most of them were given.
    pub cores: Option<u32>,
    /// The cores that they kept busy, in quantiles.
    pub cores_used: Quantiles,
    /// CPU time over cores given times wall time, 0 to 1.
    pub utilisation: Option<f64>,
    /// The number of cores that would do.
    pub suggested_cores: Option<u32>,
    /// The median of the memory limits of attempts that had one, in MiB.
    pub memory_limit_mib: Option<f64>,
    /// Peak resident sets, in MiB.
    pub memory_mib: Quantiles,
    /// Peak resident set over the limit, 0 to 1, of attempts that had a limit.
    pub memory_used: Quantiles,
    /// A memory limit that would do, in MiB.
    pub suggested_memory_mib: Option<u64>,
    /// Attempts that ran out of memory.
    pub out_of_memory: i64,
}

/// One line for each job name.
pub fn sizes(names: &BTreeMap<JobName, Counts>) -> Vec<SizeLine> {
    names.iter().filter(|(_, counts)| ran(counts) > 0).map(|(name, counts)| size(name, counts)).collect()
}

/// How many attempts were measured.
fn ran(counts: &Counts) -> i64 {
    counts.run_us.count() + counts.run_ms.count()
}

fn size(name: &JobName, counts: &Counts) -> SizeLine {
    let n = ran(counts);
    let most_given = counts.attempts_by_cores.iter().max_by_key(|(cores, n)| (**n, **cores)).map(|(cores, _)| *cores);
    let enough = |n: i64| n >= ENOUGH;
    let busy = counts.core_percent.quantile(0.95).filter(|_| enough(counts.core_percent.count()));
    let peak = counts.peak_rss_kib.quantile(0.99).filter(|_| enough(counts.peak_rss_kib.count()));
    SizeLine {
        name: name.clone(),
        n,
        cores: most_given,
        cores_used: Quantiles::of(&counts.core_percent, 100.0),
        utilisation: (counts.reserved_core_us > 0)
            .then(|| counts.reserved_cpu_us as f64 / counts.reserved_core_us as f64),
        // A bucket's middle may lie above a whole core that was just filled.
        suggested_cores: busy
            .map(|percent| u32::try_from(percent.saturating_sub(6).div_ceil(100).max(1)).unwrap_or(u32::MAX)),
        memory_limit_mib: counts.memory_limit_kib.quantile(0.5).map(|kib| kib as f64 / 1024.0),
        memory_mib: Quantiles::of(&counts.peak_rss_kib, 1024.0),
        memory_used: Quantiles::of(&counts.memory_percent, 100.0),
        suggested_memory_mib: peak.map(|kib| (kib * 6 / 5).div_ceil(16 * 1024) * 16),
        out_of_memory: counts.outcomes.get(&OutcomeKind::Oom).copied().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_keeps_one_of_four_cores_busy_is_told_so() {
        let mut counts = Counts::default();
        for i in 0..100 {
            counts.run_us.record(1_000_000 + 1000 * i);
            counts.wait_ms.record(i);
            counts.core_percent.record(98);
            counts.peak_rss_kib.record(100 * 1024);
        }
        counts.attempts_by_cores = [(4, 90), (1, 10)].into();
        (counts.reserved_core_us, counts.reserved_cpu_us) = (4_000_000, 1_000_000);
        let names = [("a".parse().unwrap(), counts)].into();
        let line = &sizes(&names)[0];
        assert_eq!((line.cores, line.utilisation, line.suggested_cores), (Some(4), Some(0.25), Some(1)));
        assert!(line.suggested_memory_mib.is_some_and(|mib| (112..=144).contains(&mib)), "{line:?}");
        let times = &durations(&names)[0];
        assert!((0.9..1.2).contains(&times.running.p99.unwrap()) && times.waiting.n == 100);
    }

    #[test]
    fn times_below_a_few_milliseconds_are_told_as_exactly_as_long_ones() {
        let mut counts = Counts::default();
        (0..99).for_each(|_| counts.run_us.record(1_900));
        let names = [("a".parse().unwrap(), counts)].into();
        let p50 = durations(&names)[0].running.p50.unwrap();
        assert!((p50 - 0.0019).abs() <= 0.0019 / 8.0, "{p50}");
    }

    #[test]
    fn what_an_older_version_counted_in_milliseconds_is_told_too() {
        let mut counts = Counts::default();
        (0..99).for_each(|_| counts.run_ms.record(2000));
        counts.run_us.record(5_000_000);
        let names = [("a".parse().unwrap(), counts)].into();
        let running = durations(&names)[0].running;
        assert_eq!(running.n, 100);
        assert!((running.p50.unwrap() - 2.0).abs() <= 0.25, "{running:?}");
    }

    #[test]
    fn few_attempts_suggest_nothing() {
        let mut counts = Counts::default();
        counts.run_us.record(5000);
        counts.core_percent.record(300);
        let names = [("a".parse().unwrap(), counts)].into();
        assert_eq!(sizes(&names)[0].suggested_cores, None);
    }
}
