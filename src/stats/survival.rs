//! What another attempt is worth: the chance of a job that has failed so many times to complete all the same.
//!
//! A job that has failed n times and is tried again has one of three things happen to it: it completes, it fails in a
//! way that ends it (its exit code says that another attempt is pointless), or it fails and can be tried again. Jobs that
//! still run or wait, were cancelled or lost, and those that had no attempt left are *right-censored* after their last
//! failure: nobody knows how another attempt would have ended, so they count up to there and no further.
//!
//! ```text
//! with c(n), h(n) = jobs that completed, or ended as hopeless, with exactly n failures
//! tried(n)     = c(n) + all jobs with more than n failures       jobs of which the attempt after n failures has ended
//! next(n)      = c(n) / tried(n)                                 p, with its Wilson interval
//! ends(n)      = h(n+1) / tried(n)                               q
//! completes(n) = p + (1 - p - q) · completes(n+1)                0 where nobody was tried any more
//! ```
//! `completes` is the cumulative incidence of Aalen and Johansen (1978, Scand. J. Stat. 5:141) in its discrete form, within
//! as many attempts as have been observed. Its variance is carried from n+1 to n by the delta method, p and 1 - p - q
//! being parts of one multinomial; its interval is Wilson's for the number of jobs that would give the same variance, as
//! Rothman (1978, J. Chronic Dis. 31:557) has it for survival curves. The estimate is fair as long as jobs that stop after
//! n failures would have fared like those that went on: jobs with few attempts allowed must not be the hopeless ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::intervals::{FEWEST, Rate, wilson};
use super::shard::{Counter, Counts};

/// An estimated chance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Chance {
    /// How many jobs it comes from.
    pub n: i64,
    /// 0 to 1; `None` when it comes from fewer than [`FEWEST`].
    pub chance: Option<f64>,
    /// From here; `None` when it comes from nothing
    pub low: Option<f64>,
    /// to here, with 95 %.
    pub high: Option<f64>,
}

/// One attempt: the line of `stats attempts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptLine {
    /// The how-manieth attempt; it follows on one failure less.
    pub attempt: u32,
    /// Jobs that have completed with at most as many attempts, of all that have ended: the original's "up to N attempts".
    pub completed_within: Rate,
    /// Jobs that completed at this attempt, of those that were tried.
    pub next: Rate,
    /// The chance to complete in the end when this attempt is still to come.
    pub completes: Chance,
    /// The chance to complete when this is the last attempt allowed, counted from the first.
    pub allowed: Chance,
    /// What this attempt wins when it is allowed: the part of all jobs that complete by it.
    pub wins: f64,
    /// Mean CPU seconds of this attempt.
    pub cpu_seconds: Option<f64>,
    /// CPU seconds that it costs for every job that completes by it; `None` when none did.
    pub cpu_seconds_a_win: Option<f64>,
    /// Jobs that stand before this attempt and may still take it, or never will (cancelled, lost).
    pub undecided: i64,
    /// Jobs that had no attempt left before this one.
    pub exhausted: i64,
    /// Jobs that ended as hopeless before this one.
    pub hopeless: i64,
}

/// What is known of the attempt after n failures.
struct Stage {
    tried: i64,
    completed: i64,
    ended: i64,
}

impl Stage {
    fn p(&self) -> f64 {
        part(self.completed, self.tried)
    }

    fn s(&self) -> f64 {
        1.0 - self.p() - part(self.ended, self.tried)
    }
}

fn part(hits: i64, n: i64) -> f64 {
    if n > 0 { hits as f64 / n as f64 } else { 0.0 }
}

/// A value with its variance.
type Estimate = (f64, f64);

fn stages(counts: &Counts) -> Vec<Stage> {
    let ends = [
        &counts.completed_by_failures,
        &counts.exhausted_by_failures,
        &counts.hopeless_by_failures,
        &counts.undecided_by_failures,
    ];
    let mut all: BTreeMap<u32, i64> = BTreeMap::new();
    for (failures, jobs) in ends.iter().flat_map(|counter| counter.iter()) {
        *all.entry(*failures).or_insert(0) += jobs;
    }
    let most = all.keys().next_back().copied().unwrap_or(0);
    let mut beyond = 0;
    let mut stages: Vec<Stage> = (0..=most)
        .rev()
        .map(|n| {
            let completed = get(&counts.completed_by_failures, n);
            let stage = Stage { tried: completed + beyond, completed, ended: get(&counts.hopeless_by_failures, n + 1) };
            beyond += get(&all, n);
            stage
        })
        .collect();
    stages.reverse();
    while stages.last().is_some_and(|stage| stage.tried == 0) {
        stages.pop();
    }
    stages
}

fn get(counter: &Counter<u32>, key: u32) -> i64 {
    counter.get(&key).copied().unwrap_or(0)
}

/// The chance to complete at the first of these stages or a later one, with its variance.
fn completes(stages: &[Stage]) -> Estimate {
    stages.iter().rev().fold((0.0, 0.0), |(later, variance), stage| {
        if stage.tried == 0 {
            return (0.0, 0.0);
        }
        let (p, s, n) = (stage.p(), stage.s(), stage.tried as f64);
        let (of_p, of_s, of_both) = (p * (1.0 - p) / n, s * (1.0 - s) / n, -p * s / n);
        let spread = of_p + later * later * of_s + 2.0 * later * of_both + s * s * variance;
        (p + s * later, spread.max(0.0))
    })
}

fn chance((value, variance): Estimate, n: i64) -> Chance {
    // As many jobs as would give this variance; when there is none, those that there are.
    let jobs = if variance > 0.0 { (value * (1.0 - value) / variance).min(n as f64) } else { n as f64 };
    let limits = if n > 0 { wilson(value * jobs, jobs) } else { None };
    Chance { n, chance: (n >= FEWEST).then_some(value), low: limits.map(|l| l.0), high: limits.map(|l| l.1) }
}

/// One line for every attempt that any job took; none when no attempt has ended.
pub fn attempts(counts: &Counts) -> Vec<AttemptLine> {
    let stages = stages(counts);
    let ended = counts.completed() + counts.failed();
    let mut within = get(&counts.completed_by_attempts, 0);
    let mut before = 0.0;
    (0..stages.len())
        .map(|i| {
            let failures = u32::try_from(i).unwrap_or(u32::MAX);
            let stage = &stages[i];
            within += get(&counts.completed_by_attempts, failures + 1);
            let allowed = completes(&stages[..=i]);
            let wins = allowed.0 - before;
            before = allowed.0;
            let cpu = get(&counts.cpu_us_by_failures, failures) as f64 / 1e6;
            AttemptLine {
                attempt: failures + 1,
                completed_within: Rate::of(within, ended),
                next: Rate::of(stage.completed, stage.tried),
                completes: chance(completes(&stages[i..]), stage.tried),
                allowed: chance(allowed, stages[0].tried),
                wins,
                cpu_seconds: (stage.tried > 0).then(|| cpu / stage.tried as f64),
                cpu_seconds_a_win: (stage.completed > 0).then(|| cpu / stage.completed as f64),
                undecided: get(&counts.undecided_by_failures, failures),
                exhausted: get(&counts.exhausted_by_failures, failures),
                hopeless: get(&counts.hopeless_by_failures, failures),
            }
        })
        .collect()
}

/// Whether to allow so many attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// How many.
    pub attempts: u32,
    /// Jobs that were ever tried that often.
    pub n: i64,
    /// The part of all jobs that complete by the last of them.
    pub wins: Option<f64>,
    /// CPU seconds for each of those.
    pub cpu_seconds_a_win: Option<f64>,
    /// The answer in words.
    pub answer: String,
}

/// Is it worth it to allow `attempts` attempts, rather than one less?
pub fn is_worth(lines: &[AttemptLine], attempts: u32) -> Verdict {
    let line = lines.iter().find(|line| line.attempt == attempts);
    let n = line.map_or(0, |line| line.next.n);
    let none = |answer: String| Verdict { attempts, n, wins: None, cpu_seconds_a_win: None, answer };
    let Some(line) = line else {
        return none(format!("unknown: no job has been tried {attempts} times"));
    };
    let (Some(rate), Some(low), Some(high)) = (line.next.rate, line.next.low, line.next.high) else {
        return none(format!(
            "unknown: only {n} jobs have been tried {attempts} times, of which {} completed",
            line.next.hits
        ));
    };
    let percent = |x: f64| format!("{:.1} %", x * 100.0);
    let tried = format!(
        "of {n} jobs that were tried {attempts} times, {} completed then ({}, 95 % interval {} to {})",
        line.next.hits,
        percent(rate),
        percent(low),
        percent(high)
    );
    let answer = match line.cpu_seconds_a_win {
        None => format!("hardly: {tried}"),
        Some(cost) => format!(
            "attempt {attempts} makes {} of all jobs complete that would not: {tried}; each cost {cost:.1} CPU seconds",
            percent(line.wins)
        ),
    };
    Verdict { attempts, n, wins: Some(line.wins), cpu_seconds_a_win: line.cpu_seconds_a_win, answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Counts {
        Counts {
            completed_by_failures: [(0, 60), (1, 20), (2, 5)].into(),
            exhausted_by_failures: [(3, 5)].into(),
            hopeless_by_failures: [(1, 4)].into(),
            undecided_by_failures: [(0, 7), (1, 6)].into(),
            completed_by_attempts: [(1, 60), (2, 20), (3, 5)].into(),
            failed_by_attempts: [(1, 4), (3, 5)].into(),
            cpu_us_by_failures: [(0, 100_000_000), (1, 60_000_000)].into(),
            ..Counts::default()
        }
    }

    #[test]
    fn the_curve_is_what_one_counts_by_hand() {
        let lines = attempts(&counts());
        let tried: Vec<_> = lines.iter().map(|l| (l.next.hits, l.next.n)).collect();
        // After no failure: all but the 7 that never ended an attempt; after one: those that went on.
        assert_eq!(tried, [(60, 100), (20, 30), (5, 10)]);
        let (p2, p1) = (0.5, 20.0 / 30.0);
        let after_one: f64 = p1 + (1.0 - p1) * p2;
        let all: f64 = 0.6 + (1.0 - 0.6 - 0.04) * after_one;
        assert!((lines[2].completes.chance.unwrap() - p2).abs() < 1e-12);
        assert!((lines[1].completes.chance.unwrap() - after_one).abs() < 1e-12);
        assert!((lines[0].completes.chance.unwrap() - all).abs() < 1e-12);
        assert!((lines[2].allowed.chance.unwrap() - all).abs() < 1e-12, "all attempts that there are");
        assert!((lines.iter().map(|l| l.wins).sum::<f64>() - all).abs() < 1e-12);
        assert_eq!((lines[1].cpu_seconds, lines[1].cpu_seconds_a_win), (Some(2.0), Some(3.0)));
        assert_eq!((lines[1].undecided, lines[1].hopeless, lines[2].exhausted), (6, 4, 0));
    }

    #[test]
    fn without_censoring_it_is_the_plain_part() {
        let counts = Counts {
            completed_by_failures: [(0, 50), (1, 20), (4, 10)].into(),
            exhausted_by_failures: [(5, 20)].into(),
            ..Counts::default()
        };
        let lines = attempts(&counts);
        assert!((lines[0].completes.chance.unwrap() - 0.8).abs() < 1e-12);
        let plain = Rate::of(80, 100);
        assert!((lines[0].completes.low.unwrap() - plain.low.unwrap()).abs() < 1e-9);
        assert!((lines[0].completes.high.unwrap() - plain.high.unwrap()).abs() < 1e-9);
        assert!((lines[2].completes.chance.unwrap() - 10.0 / 30.0).abs() < 1e-12, "given two failures");
    }

    #[test]
    fn nothing_ended_gives_no_line() {
        assert_eq!(attempts(&Counts { undecided_by_failures: [(0, 3)].into(), ..Counts::default() }), []);
        assert!(is_worth(&[], 5).answer.starts_with("unknown"));
    }

    #[test]
    fn the_answer_says_what_it_rests_on() {
        let lines = attempts(&counts());
        insta::assert_snapshot!(is_worth(&lines, 2).answer, @"attempt 2 makes 24.0 % of all jobs complete that would not: of 30 jobs that were tried 2 times, 20 completed then (66.7 %, 95 % interval 48.8 % to 80.8 %); each cost 3.0 CPU seconds");
        assert_eq!(is_worth(&lines, 5).answer, "unknown: no job has been tried 5 times");
    }

    /// Jobs with a known chance at every attempt, some of them cut off at random: the interval holds the truth.
    #[test]
    fn ninety_five_of_a_hundred_intervals_hold_the_truth_despite_censoring() {
        let (p, q, most) = ([0.5, 0.3, 0.2, 0.1], 0.05, 4);
        let truth = p.iter().rev().fold(0.0, |later, p| p + (1.0 - p - q) * later);
        let mut state = 7u64;
        let mut roll = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let runs = 2000;
        let mut held = 0;
        for _ in 0..runs {
            let mut counts = Counts::default();
            for _ in 0..150 {
                let mut failures = 0u32;
                let counter = loop {
                    if failures == most {
                        break &mut counts.exhausted_by_failures;
                    }
                    if roll() < 0.1 {
                        break &mut counts.undecided_by_failures;
                    }
                    let dice = roll();
                    let p = p[failures as usize];
                    if dice < p {
                        break &mut counts.completed_by_failures;
                    }
                    failures += 1;
                    if dice < p + q {
                        break &mut counts.hopeless_by_failures;
                    }
                };
                *counter.entry(failures).or_insert(0) += 1;
            }
            let first = attempts(&counts)[0].completes;
            held += u32::from(first.low.unwrap() <= truth && truth <= first.high.unwrap());
        }
        let covered = f64::from(held) / f64::from(runs);
        assert!((0.93..=0.97).contains(&covered), "{covered}");
    }
}
