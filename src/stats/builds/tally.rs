//! What the first attempts of a build add up to. Everything here is a sum over attempts, so it can be counted anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{BuildDigest, Fingerprint, Timestamp};
use crate::stats::errors::combine;
use crate::stats::shard::Counter;
use crate::stats::{Histogram, Rate};

/// The first attempt of a job, as far as statistics of builds need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAttempt {
    /// The build that it runs, or ran.
    pub build: BuildDigest,
    /// Its cell: see [`super::BuildEntry`]. `None` when its build was not known when it was started.
    pub cell: Option<u32>,
    /// Whether it runs, or how it ended.
    pub fate: Fate,
}

/// Whether an attempt runs, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has not ended.
    Running {
        /// When it was started.
        since: Timestamp,
    },
    /// It succeeded or failed. One that was lost or cancelled tells nothing of its build.
    Ended {
        /// What it said when it failed; `None` when it succeeded.
        error: Option<Fingerprint>,
        /// Wall time, in microseconds.
        run_us: u64,
        /// CPU time, in microseconds.
        cpu_us: u64,
        /// Peak resident set, in KiB.
        peak_kib: u64,
    },
}

/// Sums over attempts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildTally {
    /// Attempts that run, by the second of their start.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub running: Counter<i64>,
    /// Attempts that succeeded.
    pub succeeded: i64,
    /// Attempts that failed, by what they said.
    #[serde(skip_serializing_if = "Counter::is_empty")]
    pub failures: Counter<Fingerprint>,
    /// Wall time of those that ended, in microseconds.
    pub run_us: Histogram,
    /// Their CPU time, in microseconds.
    pub cpu_us: Histogram,
    /// Their peak resident set, in KiB.
    pub peak_kib: Histogram,
}

impl BuildTally {
    /// Attempts that failed.
    pub fn failed(&self) -> i64 {
        self.failures.values().sum()
    }

    /// Attempts that succeeded or failed.
    pub fn ended(&self) -> i64 {
        self.succeeded + self.failed()
    }

    /// The part of the ended attempts that succeeded.
    pub fn success(&self) -> Rate {
        Rate::of(self.succeeded, self.ended())
    }

    /// Whether nothing is counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Adds `sign` times one attempt.
    pub(super) fn count(&mut self, fate: &Fate, sign: i64) {
        match *fate {
            Fate::Running { since } => add(&mut self.running, second(since), sign),
            Fate::Ended { error, run_us, cpu_us, peak_kib } => {
                match error {
                    Some(error) => add(&mut self.failures, error, sign),
                    None => self.succeeded += sign,
                }
                self.run_us.count_in(run_us, sign);
                self.cpu_us.count_in(cpu_us, sign);
                self.peak_kib.count_in(peak_kib, sign);
            }
        }
    }

    /// Adds the sums of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { running, succeeded, failures, run_us, cpu_us, peak_kib } = other;
        combine(&mut self.running, running, 1);
        self.succeeded += succeeded;
        combine(&mut self.failures, failures, 1);
        self.run_us.add(run_us);
        self.cpu_us.add(cpu_us);
        self.peak_kib.add(peak_kib);
    }

    /// How many run for longer than `than_us` at `now`, and how many for less: they may yet end sooner.
    pub(super) fn running_for(&self, than_us: u64, now: Timestamp) -> (i64, i64) {
        let is_longer = |began: i64| {
            // As if it had been started at the end of its second.
            let age = now.as_millis().saturating_sub((began + 1).saturating_mul(1000));
            u64::try_from(age).is_ok_and(|age| age.saturating_mul(1000) > than_us)
        };
        self.running.iter().fold(
            (0, 0),
            |(longer, shorter), (began, n)| {
                if is_longer(*began) { (longer + n, shorter) } else { (longer, shorter + n) }
            },
        )
    }
}

fn second(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1000)
}

/// Adds to a counter; a key that comes to 0 goes.
pub(super) fn add<K: Ord + Clone>(counter: &mut Counter<K>, key: K, by: i64) {
    combine(counter, &BTreeMap::from([(key, by)]), 1);
}

/// Some attempts that were started one after the other: how many ended, how many of them failed, and the sums of the
/// places of their values among the buckets of a histogram, which go by the logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cell(pub(super) [i64; 5]);

impl Cell {
    pub(super) const ENDED: usize = 0;
    pub(super) const FAILED: usize = 1;
    pub(super) const RUN: usize = 2;
    pub(super) const CPU: usize = 3;
    pub(super) const PEAK: usize = 4;

    pub(super) fn count(&mut self, fate: &Fate, sign: i64) {
        let Fate::Ended { error, run_us, cpu_us, peak_kib } = fate else { return };
        let place = |value: u64| i64::from(Histogram::bucket(value));
        let one = [1, i64::from(error.is_some()), place(*run_us), place(*cpu_us), place(*peak_kib)];
        self.0.iter_mut().zip(one).for_each(|(sum, one)| *sum += sign * one);
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; 5]
    }
}
