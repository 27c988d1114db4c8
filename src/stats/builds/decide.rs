//! A look at a build: whether its first attempts differ from those of earlier builds by more than chance.
//!
//! | what | test | compared | share of alpha |
//! |---|---|---|---|
//! | failures | Fisher's exact test | all failures | 0.25 |
//! | an error | Fisher's exact test | failures with it, of each error that has come up three times | 0.25 |
//! | wall time, CPU time, memory | precedence test | values above a quantile of those before | 0.10 each |
//!
//! Each test asks one way: worse. All looks at all builds of a name together raise a false alarm with a chance of at most
//! [`ALPHA`]: comparison k may spend `ALPHA / (k (k + 1))`, which sum up to `ALPHA`, in equal parts at each of its looks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::chances::Table;
use super::order::{CELL, LOOKS};
use super::tally::{BuildTally, Cell};
use crate::domain::{Fingerprint, Timestamp};
use crate::stats::Histogram;
use crate::stats::shard::Counter;

/// The chance of any alarm for a name in all its history, without a change.
pub(super) const ALPHA: f64 = 0.05;
/// A build is compared with no fewer ended attempts.
pub(super) const FEWEST_BEFORE: i64 = 500;
/// An error that has come up less often is not looked at.
const FEWEST_ALIKE: i64 = 3;
/// The quantile of the values before above which new ones are counted.
const QUANTILE: f64 = 0.75;
const FAILURES_SHARE: f64 = 0.25;
const ERRORS_SHARE: f64 = 0.25;
const VALUES_SHARE: f64 = 0.1;
/// From this dispersion on inputs count as coming in batches.
const BATCHES: f64 = 1.5;
/// As much of a dispersion as is believed where it may be chance.
const MOST_BY_CHANCE: f64 = 1.4;
/// The chance below which what is left without the worst third of a build still counts as more than before.
const SPREAD: f64 = 0.05;
/// A dispersion is estimated from no fewer groups of attempts.
const FEWEST_GROUPS: usize = 6;

/// What became worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// More attempts fail.
    Failures,
    /// More attempts fail with one error.
    Error {
        /// The fingerprint of the error.
        fingerprint: Fingerprint,
    },
    /// Attempts run for longer.
    Duration,
    /// Attempts use more CPU time.
    Cpu,
    /// Attempts use more memory.
    Memory,
}

/// What a look at a build has found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alarm {
    /// What became worse.
    pub change: Change,
    /// When it was found.
    pub at: Timestamp,
    /// First attempts of this build that were looked at.
    pub n: i64,
    /// Those of them that failed so, or whose values lie above the threshold.
    pub hits: i64,
    /// First attempts of earlier builds that they were compared with.
    pub n_before: i64,
    /// Those of them that failed so, or whose values lie above the threshold.
    pub hits_before: i64,
    /// The median of this build's values: in microseconds, of memory in KiB. `None` of failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median: Option<u64>,
    /// The median before, in the same unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_before: Option<u64>,
    /// The chance of so much or more in this one test, without a change.
    pub chance: f64,
}

/// The attempts that a build is compared with.
#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    pub(super) tally: BuildTally,
    /// Their cells, by build.
    pub(super) groups: Vec<Groups>,
}

/// Attempts in the order of their starts, some to a cell.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    pub(super) cells: BTreeMap<u32, Cell>,
    pub(super) failed: BTreeMap<Fingerprint, Counter<u32>>,
}

/// The attempts of a build at a look.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) tally: BuildTally,
    /// How many run for longer than the threshold of the reference.
    pub(super) long: i64,
    /// Their cells.
    pub(super) groups: Groups,
}

impl Sample {
    /// Whether failures, or those with one error, are more than before also without the third of the attempts, started one
    /// after the other, that has most of them: one batch of bad inputs is no change of the build.
    fn is_spread(&self, of: Option<&Fingerprint>, before: Table, dispersion: f64) -> bool {
        if dispersion < BATCHES {
            return true;
        }
        let sums = Variation::sums_of_failures(&self.groups, of);
        let size = sums.len().div_ceil(3);
        let add = |cells: &[(f64, f64)]| cells.iter().fold((0.0, 0.0), |(n, sum), one| (n + one.0, sum + one.1));
        let all = add(&sums);
        let Some(worst) = sums.windows(size.max(1)).map(add).max_by(|a, b| a.1.total_cmp(&b.1)) else { return false };
        let rest = Table { n: (all.0 - worst.0) as i64, hits: (all.1 - worst.1) as i64, ..before };
        rest.fisher(dispersion) <= SPREAD
    }
}

impl Reference {
    /// The bucket above which running times count as long.
    pub(super) fn run_threshold(&self) -> u32 {
        self.tally.run_us.quantile_bucket(QUANTILE).unwrap_or_default()
    }

    /// How failures, or those with one error, vary along the reference.
    fn variation_of_failures(&self, of: Option<&Fingerprint>) -> Variation {
        let hits = of.map_or_else(|| self.tally.failed(), |error| self.tally.failures.get(error).copied().unwrap_or(0));
        let part = hits as f64 / self.tally.ended() as f64;
        Variation::of(&self.groups, |groups| Variation::sums_of_failures(groups, of), part, part * (1.0 - part))
    }

    /// How the places of values among the buckets vary along the reference.
    fn variation_of_values(&self, values: &Histogram, sum: usize) -> Variation {
        let (mean, variance) = values.spread();
        let sums = |groups: &Groups| {
            groups.cells.values().map(|cell| (cell.0[Cell::ENDED] as f64, cell.0[sum] as f64)).collect()
        };
        Variation::of(&self.groups, sums, mean, variance)
    }
}

/// How sums over attempts that were started one after the other vary.
#[derive(Debug)]
struct Variation {
    /// Of each build the attempts that ended, and the sum, of each cell in order.
    cells: Vec<Vec<(f64, f64)>>,
    /// How much more sums vary from group to group than those of independent attempts: at least 1.
    dispersion: f64,
}

impl Variation {
    /// Pearson's dispersion of sums over groups: (sum - n mean)² / (n variance), added up and divided by the degrees of
    /// freedom. Cells are put together to groups of two, four and so on as well, because a batch of inputs may be longer
    /// than a cell; the largest dispersion counts.
    fn of(groups: &[Groups], sums: impl Fn(&Groups) -> Vec<(f64, f64)>, mean: f64, variance: f64) -> Self {
        let cells: Vec<Vec<(f64, f64)>> = groups.iter().map(sums).collect();
        let mut variation = Self { cells, dispersion: 1.0 };
        if variance <= 0.0 {
            return variation;
        }
        let mut size = 1;
        loop {
            let sums = variation.windows(size, size).filter(|(n, _)| *n > 0.0);
            let squares: Vec<f64> = sums.map(|(n, sum)| (sum - n * mean).powi(2) / (n * variance)).collect();
            if squares.len() < FEWEST_GROUPS {
                return variation;
            }
            let freedom = (squares.len() - 1) as f64;
            let dispersion = squares.iter().sum::<f64>() / freedom;
            // Of independent attempts it is 1 give or take a standard deviation of √(2 / freedom).
            let is_chance = dispersion < 1.0 + 2.0 * (2.0 / freedom).sqrt();
            let sure = if is_chance { dispersion.min(MOST_BY_CHANCE) } else { dispersion * uncertainty(freedom) };
            variation.dispersion = variation.dispersion.max(sure);
            size *= 2;
        }
    }

    /// The attempts that ended, and those of them that failed, or failed with one error, of each cell.
    fn sums_of_failures(groups: &Groups, of: Option<&Fingerprint>) -> Vec<(f64, f64)> {
        let failed = of.map(|error| groups.failed.get(error));
        let hits = |index: &u32, cell: &Cell| match failed {
            None => cell.0[Cell::FAILED],
            Some(failed) => failed.and_then(|cells| cells.get(index)).copied().unwrap_or(0),
        };
        let sums = |(index, cell): (&u32, &Cell)| (cell.0[Cell::ENDED] as f64, hits(index, cell) as f64);
        groups.cells.iter().map(sums).collect()
    }

    /// The attempts that ended, and the sums, of so many cells in a row, `step` cells from one to the next.
    fn windows(&self, size: usize, step: usize) -> impl Iterator<Item = (f64, f64)> {
        let add = |cells: &[(f64, f64)]| cells.iter().fold((0.0, 0.0), |(n, sum), one| (n + one.0, sum + one.1));
        self.cells.iter().flat_map(move |cells| cells.windows(size).step_by(step)).map(add)
    }

    /// Whether a mean over `n` attempts is beyond that of every stretch of the reference that is as long, or a third of it.
    /// Where inputs come in batches, a dispersion does not tell how bad a bad batch is.
    fn is_unheard_of(&self, n: i64, mean: f64) -> bool {
        if self.dispersion < BATCHES {
            return true;
        }
        let longest = self.cells.iter().map(Vec::len).max().unwrap_or(0);
        let size = (u64::try_from(n).unwrap_or(0).div_ceil(CELL) as usize).min(longest / 3).max(1);
        let means = self.windows(size, 1).filter(|(n, _)| *n > 0.0).map(|(n, sum)| sum / n);
        means.fold(f64::MIN, f64::max) < mean
    }
}

/// By how much a dispersion of so many degrees of freedom is multiplied because it is an estimate: the square of the ratio of
/// the t-distribution's quantile to the normal one at 0.9995, by the first terms of their expansion (Fisher 1925).
fn uncertainty(freedom: f64) -> f64 {
    const Z: f64 = 3.29;
    let (square, v) = (Z * Z, freedom);
    let ratio = 1.0 + (square + 1.0) / (4.0 * v) + (5.0 * square * square + 16.0 * square + 3.0) / (96.0 * v * v);
    ratio * ratio
}

/// What the one test of failures may spend at each look of a comparison.
fn alpha(comparison: u32) -> f64 {
    let k = f64::from(comparison);
    ALPHA / (k * (k + 1.0)) / LOOKS.len() as f64
}

/// How many failures among `n` first attempts would be named, as far as the test of all failures decides it.
pub(super) fn failures_to_alarm(reference: &Reference, comparison: u32, n: u64) -> Option<i64> {
    let n = i64::try_from(n).ok()?;
    let variation = reference.variation_of_failures(None);
    let (hits_before, n_before) = (reference.tally.failed(), reference.tally.ended());
    let limit = alpha(comparison) * FAILURES_SHARE;
    (1..=n).find(|hits| {
        let table = Table { hits: *hits, n, hits_before, n_before };
        table.fisher(variation.dispersion) <= limit && variation.is_unheard_of(n, *hits as f64 / n as f64)
    })
}

/// Looks at a build, the `comparison`-th of its name. Leaves out what an earlier look has found.
pub(super) fn look(
    sample: &Sample,
    reference: &Reference,
    comparison: u32,
    now: Timestamp,
    known: &[Alarm],
) -> Vec<Alarm> {
    let alpha = alpha(comparison);
    let (new, before) = (&sample.tally, &reference.tally);
    let n = new.ended() + sample.long;
    let mut found = Vec::new();
    let mut note = |change: Change, table: Table, medians: Option<(u64, u64)>, chance: f64, limit: f64| {
        if chance <= limit && known.iter().all(|alarm| alarm.change != change) {
            let Table { hits, n, hits_before, n_before } = table;
            let (median, median_before) = medians.unzip();
            found.push(Alarm { change, at: now, n, hits, n_before, hits_before, median, median_before, chance });
        }
    };
    let table = |hits: i64, hits_before: i64| Table { hits, n, hits_before, n_before: before.ended() };
    let of_failures = reference.variation_of_failures(None);
    let part = |hits: i64| hits as f64 / n.max(1) as f64;
    let all = table(new.failed(), before.failed());
    if of_failures.is_unheard_of(n, part(new.failed())) && sample.is_spread(None, all, of_failures.dispersion) {
        note(Change::Failures, all, None, all.fisher(of_failures.dispersion), alpha * FAILURES_SHARE);
    }
    let frequent: Vec<_> = new.failures.iter().filter(|(_, hits)| **hits >= FEWEST_ALIKE).collect();
    for (fingerprint, hits) in &frequent {
        let before = before.failures.get(fingerprint).copied().unwrap_or(0);
        let one = table(**hits, before);
        let variation = reference.variation_of_failures(Some(fingerprint));
        // Of an error that is new nothing tells how it varies; all errors together do.
        let dispersion = variation.dispersion.max(of_failures.dispersion);
        let limit = alpha * ERRORS_SHARE / frequent.len() as f64;
        if variation.is_unheard_of(n, part(**hits)) && sample.is_spread(Some(fingerprint), one, dispersion) {
            note(Change::Error { fingerprint: **fingerprint }, one, None, one.fisher(dispersion), limit);
        }
    }
    for (change, new, before, sum, long) in [
        (Change::Duration, &new.run_us, &before.run_us, Cell::RUN, sample.long),
        (Change::Cpu, &new.cpu_us, &before.cpu_us, Cell::CPU, 0),
        (Change::Memory, &new.peak_kib, &before.peak_kib, Cell::PEAK, 0),
    ] {
        let Some(threshold) = before.quantile_bucket(QUANTILE) else { continue };
        let hits = new.above(threshold) + long;
        let one = Table { hits, n, hits_before: before.above(threshold), n_before: before.count() };
        let variation = reference.variation_of_values(before, sum);
        if variation.is_unheard_of(n, new.spread().0) {
            let medians = new.quantile(0.5).zip(before.quantile(0.5));
            note(change, one, medians, one.precedence(variation.dispersion), alpha * VALUES_SHARE);
        }
    }
    found
}
