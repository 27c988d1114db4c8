//! Whether jobs fare worse beside others.
//!
//! ```text
//! alone        = first attempts of jobs that were started while nothing else ran on their host; part that succeeded
//! beside       = those that were started while others ran
//! difference   = alone less beside (Newcombe)
//! within names = the same within each job name, put together (stratified Newcombe)
//! level k      = ended jobs, and attempts, by the most jobs that ran beside them: a description, and no comparison
//! ```
//! The second difference is the one to look at: when slow, failing jobs are also those that run in crowds, the first one
//! blames the crowd. Only first attempts count, by what ran when they *started*: the most that ran beside a job over all
//! of its life grows with its length and with every retry, so among jobs that failed or ran long high levels are common
//! without any effect. Attempts that were cancelled or lost are left out: they tell nothing of their program.
//!
//! Either difference is *observational*: jobs were not assigned at random to the jobs beside them,
//! and what makes a machine busy may make jobs fail too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::intervals::{Difference, Rate, Stratum, newcombe, stratified};
use super::shard::{Counter, Counts};
use super::total;
use crate::domain::JobName;

/// Jobs by how many others ran beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BesideStats {
    /// By the most jobs that ran beside, in order: a description, in which long jobs and
    /// retried ones stand higher.
    pub levels: Vec<BesideLine>,
    /// First attempts that were started while nothing else ran.
    pub alone: Rate,
    /// First attempts that were started beside others.
    pub beside: Rate,
    /// Alone less beside; `None` when there are too few of either.
    pub difference: Option<Difference>,
    /// The same within job names; `None` when no name has both, or there are too few of either.
    pub within_names: Option<Difference>,
    /// Job names that have both.
    pub names: usize,
    /// First attempts that an older version recorded: what ran when they were started is not known, and they are left out.
    #[serde(default)]
    pub left_out: i64,
    /// A sentence that says what the differences do not show.
    pub note: String,
}

/// One line of `stats concurrency`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BesideLine {
    /// The most jobs that ran beside the job.
    pub jobs_beside: u32,
    /// Ended jobs with this number, and those of them that completed.
    pub completed: Rate,
    /// Attempts with this number, and those of them that succeeded.
    pub succeeded: Rate,
}

/// Makes the statistics of these counts, which are given by job name.
pub fn beside(names: &BTreeMap<JobName, Counts>) -> BesideStats {
    let all = total(names.values());
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
        within_names: stratified(&strata),
        names: strata.len(),
        left_out: all.first_attempts_unknown,
        note: note(all.first_attempts_unknown),
    }
}

fn note(left_out: i64) -> String {
    let mut note = "alone and beside are first attempts by what ran when they started; observational: jobs were not \
                    assigned at random, so a difference need not be an effect; the rows by level only describe"
        .to_owned();
    if left_out > 0 {
        note.push_str(&format!("; {left_out} first attempts of an older version are left out"));
    }
    note
}

/// First attempts alone, and first attempts beside others: how many succeeded, and how many there were.
fn groups(counts: &Counts) -> Stratum {
    let sum = |counter: &Counter<u32>, alone: bool| {
        counter.iter().filter(|(level, _)| (**level == 0) == alone).map(|(_, n)| (*n).max(0)).sum::<i64>()
    };
    let group = |alone| (sum(&counts.first_successes_by_start, alone), sum(&counts.first_attempts_by_start, alone));
    Stratum { first: group(true), second: group(false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::dice::Dice;

    fn counts(jobs: &[(u32, i64, i64)]) -> Counts {
        let mut counts = Counts::default();
        for (level, completed, all) in jobs {
            counts.jobs_by_beside.insert(*level, *all);
            counts.completed_by_beside.insert(*level, *completed);
            counts.attempts_by_beside.insert(*level, *all);
            counts.successes_by_beside.insert(*level, *completed);
            counts.first_attempts_by_start.insert(*level, *all);
            counts.first_successes_by_start.insert(*level, *completed);
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

    /// A host and what runs on it.
    struct World {
        /// For each job name: the chance to succeed, the mean length, and how often it is submitted.
        names: &'static [(f64, f64, f64)],
        /// How many times as long a failing attempt takes.
        failing_takes: f64,
        attempts: u32,
        /// What each attempt loses of its chance when it starts beside others.
        harm: f64,
    }

    /// Runs so many jobs through four slots, and counts them by name as the projector does.
    fn run(world: &World, jobs: usize, dice: &mut Dice) -> BTreeMap<JobName, Counts> {
        const SLOTS: usize = 4;
        let mut counts = vec![Counts::default(); world.names.len()];
        let whole: f64 = world.names.iter().map(|name| name.2).sum();
        let (mut now, mut running): (f64, Vec<f64>) = (0.0, Vec::new());
        // The waiting jobs: arrival or due time, name, attempts before, and the most that ran beside so far.
        let mut queue: Vec<(f64, usize, u32, u32)> = Vec::new();
        let mut arrival = 0.0;
        for _ in 0..jobs {
            arrival += dice.exponential(0.6);
            let mut pick = dice.roll() * whole;
            let name = world
                .names
                .iter()
                .position(|name| {
                    pick -= name.2;
                    pick < 0.0
                })
                .unwrap_or(0);
            queue.push((arrival, name, 0, 0));
        }
        while !queue.is_empty() {
            let next = (0..queue.len()).min_by(|a, b| queue[*a].0.total_cmp(&queue[*b].0)).expect("it is not empty");
            let (due, name, before, peak) = queue.swap_remove(next);
            now = due.max(now);
            running.retain(|end| *end > now);
            if running.len() >= SLOTS {
                now = running.iter().copied().fold(f64::INFINITY, f64::min);
                running.retain(|end| *end > now);
            }
            let beside = u32::try_from(running.len()).unwrap();
            let (chance, mean, _) = world.names[name];
            let succeeds = dice.roll() < chance - if beside > 0 { world.harm } else { 0.0 };
            let length = dice.exponential(mean) * if succeeds { 1.0 } else { world.failing_takes };
            running.push(now + length);
            let counts = &mut counts[name];
            if before == 0 {
                *counts.first_attempts_by_start.entry(beside).or_insert(0) += 1;
                *counts.first_successes_by_start.entry(beside).or_insert(0) += i64::from(succeeds);
            }
            let peak = peak.max(beside);
            if succeeds || before + 1 == world.attempts {
                *counts.jobs_by_beside.entry(peak).or_insert(0) += 1;
                *counts.completed_by_beside.entry(peak).or_insert(0) += i64::from(succeeds);
            } else {
                queue.push((now + length, name, before + 1, peak));
            }
        }
        let named = |(i, counts)| (format!("n{i}").parse().unwrap(), counts);
        counts.into_iter().enumerate().map(named).collect()
    }

    /// The part of many histories in which the interval within names lies wholly on one side of 0.
    fn alarms(world: &World) -> f64 {
        const RUNS: u32 = 300;
        let mut dice = Dice(20_261_128);
        let tells = |d: Difference| d.low > 0.0 || d.high < 0.0;
        let told = (0..RUNS).filter(|_| beside(&run(world, 600, &mut dice)).within_names.is_some_and(tells)).count();
        told as f64 / f64::from(RUNS)
    }

    const NAMES: &[(f64, f64, f64)] = &[(0.95, 0.5, 3.0), (0.6, 1.5, 1.0), (0.8, 1.0, 2.0)];

    #[test]
    fn without_an_effect_retries_and_long_failures_give_no_alarm() {
        let worlds = [
            World { names: NAMES, failing_takes: 1.0, attempts: 4, harm: 0.0 },
            World { names: NAMES, failing_takes: 10.0, attempts: 1, harm: 0.0 },
            World { names: NAMES, failing_takes: 10.0, attempts: 3, harm: 0.0 },
            World { names: &[(0.99, 0.3, 5.0), (0.97, 2.0, 1.0)], failing_takes: 3.0, attempts: 2, harm: 0.0 },
        ];
        for (i, world) in worlds.iter().enumerate() {
            let part = alarms(world);
            assert!(part <= 0.07, "world {i}: {part}");
        }
    }

    #[test]
    fn an_effect_of_ten_points_is_found() {
        let world = World { names: NAMES, failing_takes: 3.0, attempts: 3, harm: 0.1 };
        let mut dice = Dice(1);
        let found = beside(&run(&world, 6000, &mut dice)).within_names.unwrap();
        assert!(found.low > 0.0 && found.low <= 0.1 && 0.1 <= found.high, "{found:?}");
    }
}
