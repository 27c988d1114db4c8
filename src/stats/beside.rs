//! Whether jobs fare worse beside others.
//!
//! ```text
//! level k      = ended jobs that ran beside at most k others at the same time, at any of their attempts
//! difference   = part that completed of those alone (k = 0) less the part of those beside others (Newcombe)
//! within names = the same within each job name, put together (Mantel-Haenszel)
//! ```
//! The second difference is the one to look at: when slow, failing jobs are also those that run in crowds, the first one
//! blames the crowd. Either is *observational*: nobody has thrown dice who runs beside whom, and what makes a machine busy
//! may make jobs fail too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::intervals::{Difference, Rate, Stratum, mantel_haenszel, newcombe};
use super::shard::{Counter, Counts};
use crate::domain::JobName;

/// Jobs by how many others ran beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BesideStats {
    /// By number, in order.
    pub levels: Vec<BesideLine>,
    /// Jobs that ran alone.
    pub alone: Rate,
    /// Jobs that ran beside others.
    pub beside: Rate,
    /// Alone less beside; `None` when either are too few.
    pub difference: Option<Difference>,
    /// The same within job names; `None` when no name has both.
    pub within_names: Option<Difference>,
    /// Job names that have both.
    pub names: usize,
    /// What the differences are not.
    pub note: String,
}

/// One line of `stats concurrency`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BesideLine {
    /// The most jobs that ran beside the job.
    pub jobs_beside: u32,
    /// Ended jobs with this number, and those of them that completed.
    pub completed: Rate,
    /// Attempts with this number, and those of them that succeeded.
    pub succeeded: Rate,
}

/// The statistics of these counts by job name.
pub fn beside(names: &BTreeMap<JobName, Counts>) -> BesideStats {
    let mut all = Counts::default();
    names.values().for_each(|counts| all.add(counts));
    let get = |counter: &Counter<u32>, key: u32| counter.get(&key).copied().unwrap_or(0);
    let levels = all.attempts_by_beside.iter().map(|(level, tried)| BesideLine {
        jobs_beside: *level,
        completed: Rate::of(get(&all.completed_by_beside, *level), get(&all.jobs_by_beside, *level)),
        succeeded: Rate::of(get(&all.successes_by_beside, *level), *tried),
    });
    let whole = groups(&all);
    let rate = |(hits, n)| Rate::of(hits, n);
    let (alone, beside) = (rate(whole.first), rate(whole.second));
    let strata: Vec<_> = names.values().map(groups).filter(|s| s.first.1 > 0 && s.second.1 > 0).collect();
    BesideStats {
        levels: levels.collect(),
        alone,
        beside,
        difference: newcombe(&alone, &beside),
        within_names: mantel_haenszel(&strata),
        names: strata.len(),
        note: "observational: jobs were not assigned at random, so a difference need not be an effect".to_owned(),
    }
}

/// Ended jobs alone and beside others: completed, all.
fn groups(counts: &Counts) -> Stratum {
    let sum = |counter: &Counter<u32>, alone: bool| {
        counter.iter().filter(|(level, _)| (**level == 0) == alone).map(|(_, n)| n).sum::<i64>()
    };
    let group = |alone| (sum(&counts.completed_by_beside, alone), sum(&counts.jobs_by_beside, alone));
    Stratum { first: group(true), second: group(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(jobs: &[(u32, i64, i64)]) -> Counts {
        let mut counts = Counts::default();
        for (level, completed, all) in jobs {
            counts.jobs_by_beside.insert(*level, *all);
            counts.completed_by_beside.insert(*level, *completed);
            counts.attempts_by_beside.insert(*level, *all);
            counts.successes_by_beside.insert(*level, *completed);
        }
        counts
    }

    #[test]
    fn a_mix_of_names_is_told_from_an_effect() {
        let name = |text: &str| text.parse::<JobName>().unwrap();
        let names = [
            (name("fragile"), counts(&[(0, 5, 10), (1, 30, 60), (2, 15, 30)])),
            (name("solid"), counts(&[(0, 90, 90), (1, 10, 10)])),
            (name("lonely"), counts(&[(0, 3, 3)])),
        ];
        let stats = beside(&names.into());
        let levels: Vec<_> = stats.levels.iter().map(|l| (l.jobs_beside, l.completed.hits, l.completed.n)).collect();
        assert_eq!(levels, [(0, 98, 103), (1, 40, 70), (2, 15, 30)]);
        assert!(stats.difference.unwrap().low > 0.25);
        let within = stats.within_names.unwrap();
        assert!(within.difference.abs() < 1e-9 && within.low < 0.0, "{within:?}");
        assert_eq!(stats.names, 2);
    }

    #[test]
    fn nothing_gives_no_difference() {
        let stats = beside(&BTreeMap::new());
        assert_eq!((stats.levels.len(), stats.difference, stats.within_names), (0, None, None));
    }
}
