//! What another attempt is worth: the chance of a job that has failed so many times to complete all the same.
//!
//! A job that has failed n times and is tried again has one of three things happen to it: it
//! completes, it fails in a way that ends it (its exit code says that another attempt is
//! pointless), or it fails and can be tried again. Jobs that still run or wait, were cancelled or
//! lost, and those that had no attempt left are *right-censored* after their last failure: how
//! another attempt would have ended is not known, so they count up to there and no further.
//!
//! When a user puts a job back after it had failed, only what came before counts: users put jobs
//! back after they have mended something.
//!
//! ```text
//! with c(n), h(n) = jobs that completed, or ended as hopeless, with exactly n failures
//! tried(n)     = c(n) + all jobs with more than n failures       jobs whose attempt after n failures has ended
//! next(n)      = c(n) / tried(n)                                 p, with its Wilson interval
//! ends(n)      = h(n+1) / tried(n)                               q
//! completes(n) = p + (1 - p - q) · completes(n+1)                0 where no job was tried any more
//! ```
//! `completes` is the cumulative incidence of Aalen and Johansen (1978, Scand. J. Stat. 5:141) in its discrete form, within
//! as many attempts as have been observed. The estimate is fair as long as jobs that stop after n failures would have fared
//! like those that went on. That fails where hard jobs are allowed fewer attempts than easy ones, so job names that allow
//! different numbers of attempts are estimated apart, and put together in the proportion of their jobs (standardised).
//! Where a name allows no more attempts, none completes by them.
//!
//! Its interval is the beta product one of Fay, Brittain and Proschan (2013, Biostatistics 14:723)
//! in its mid-p form (Fay and Brittain 2016, Stat. Med. 35:2726), carried over to a competing end:
//! at each stage the jobs tried are parts of a multinomial, whose posterior is a Dirichlet
//! distribution. For the lower limit one more job is taken to have ended as hopeless, for the upper
//! one to have completed. Mean and variance of the product follow stage by stage, each of the two
//! distributions is taken for the beta distribution with these, and the limits are quantiles of
//! their even mixture. A stage that few jobs have reached makes the interval wide, though the
//! estimate be 100 %.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use statrs::function::beta::beta_reg;

use super::intervals::{FEWEST, Rate};
use super::shard::{Counter, Counts};
use super::total;
use crate::domain::JobName;

/// An estimated chance, with an interval of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Chance {
    /// How many jobs it comes from.
    pub n: i64,
    /// How many of them have tried the attempt that the fewest have tried: the estimate is no better known than that one.
    #[serde(default)]
    pub rests_on: i64,
    /// The estimate, 0 to 1; `None` when it comes from fewer than [`FEWEST`] jobs.
    pub chance: Option<f64>,
    /// The lower limit of the interval; `None` when no job was tried.
    pub low: Option<f64>,
    /// The upper limit of the interval; `None` when no job was tried.
    pub high: Option<f64>,
}

/// One attempt: the line of `stats attempts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptLine {
    /// Attempt number, counting from 1; it follows on one failure less.
    pub attempt: u32,
    /// Jobs that have completed with fewer failures than this, of all that have ended. Attempts that were lost or cancelled
    /// are no failures and count for nothing, as everywhere in this report.
    pub completed_within: Rate,
    /// Jobs that completed at this attempt, of those that were tried.
    pub next: Rate,
    /// The chance to complete in the end when this attempt is still to come.
    pub completes: Chance,
    /// The chance to complete when this is the last attempt allowed, counted from the first.
    pub allowed: Chance,
    /// What this attempt wins when it is allowed: the part of all jobs that complete by it.
    pub wins: f64,
    /// Mean CPU seconds of this attempt, where it succeeded or failed.
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

/// The jobs that were tried after n failures, and how they ended.
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

/// Mean and variance of a distribution on 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    mean: f64,
    variance: f64,
}

/// A value, with the two distributions whose quantiles give its limits.
#[derive(Debug, Clone, Copy, Default)]
struct Estimate {
    value: f64,
    lower: Spread,
    upper: Spread,
}

/// Groups the job names that allow the same numbers of attempts. Each group has its stages,
/// one for each attempt.
fn groups(names: &BTreeMap<JobName, Counts>) -> Vec<Vec<Stage>> {
    let mut groups: BTreeMap<Vec<u32>, Counts> = BTreeMap::new();
    for counts in names.values() {
        let budgets = counts.jobs_by_budget.iter().filter(|(_, jobs)| **jobs > 0).map(|(budget, _)| *budget).collect();
        groups.entry(budgets).or_default().add(counts);
    }
    groups.values().map(stages).filter(|stages| !stages.is_empty()).collect()
}

/// The four ways in which a job can stand, each counted by failures.
fn ends(counts: &Counts) -> [&Counter<u32>; 4] {
    [
        &counts.completed_by_failures,
        &counts.exhausted_by_failures,
        &counts.hopeless_by_failures,
        &counts.undecided_by_failures,
    ]
}

fn sum(counter: &Counter<u32>) -> i64 {
    counter.values().map(|n| (*n).max(0)).sum()
}

fn stages(counts: &Counts) -> Vec<Stage> {
    let ends = ends(counts);
    let most = ends.iter().filter_map(|counter| counter.keys().next_back()).max().copied().unwrap_or(0);
    let mut beyond = 0;
    let mut stages: Vec<Stage> = (0..=most)
        .rev()
        .map(|n| {
            let completed = get(&counts.completed_by_failures, n);
            let stage = Stage { tried: completed + beyond, completed, ended: get(&counts.hopeless_by_failures, n + 1) };
            beyond += ends.iter().map(|counter| get(counter, n)).sum::<i64>();
            stage
        })
        .collect();
    stages.reverse();
    while stages.last().is_some_and(|stage| stage.tried == 0) {
        stages.pop();
    }
    stages
}

/// Never less than 0: in an aggregate that an older version began, a job may leave a counter
/// that it never entered.
fn get(counter: &Counter<u32>, key: u32) -> i64 {
    counter.get(&key).copied().unwrap_or(0).max(0)
}

/// The chance to complete at the first of these stages or a later one.
fn completes(stages: &[Stage]) -> Estimate {
    stages.iter().rev().fold(Estimate::default(), |later, stage| Estimate {
        value: stage.p() + stage.s() * later.value,
        lower: stage.before(later.lower, 0.0, 1.0),
        upper: stage.before(later.upper, 1.0, 0.0),
    })
}

impl Stage {
    /// The distribution of `p + s · later`, with p and s parts of a Dirichlet distribution by the jobs of this stage and so
    /// many more that completed, or ended as hopeless.
    fn before(&self, later: Spread, more_completed: f64, more_ended: f64) -> Spread {
        let (completed, ended) = (self.completed as f64 + more_completed, self.ended as f64 + more_ended);
        let goes_on = (self.tried - self.completed - self.ended).max(0) as f64;
        let all = completed + ended + goes_on;
        let mean = (completed + goes_on * later.mean) / all;
        // E[(p + s·l)²] from the second moments of a Dirichlet distribution, with l independent of p and s.
        let second = (completed * (completed + 1.0)
            + 2.0 * completed * goes_on * later.mean
            + goes_on * (goes_on + 1.0) * (later.variance + later.mean * later.mean))
            / (all * (all + 1.0));
        Spread { mean, variance: (second - mean * mean).max(0.0) }
    }
}

/// The chance from attempt `from` (0 for the first) on, up to but not with attempt `to`, and its bare value: of each group
/// apart, put together in the proportion of the jobs that have tried `from`.
fn standardised(groups: &[Vec<Stage>], from: usize, to: usize) -> (Chance, f64) {
    let of = || groups.iter().filter_map(|stages| stages.get(from..to.min(stages.len())).filter(|s| !s.is_empty()));
    let n: i64 = of().map(|stages| stages[0].tried).sum();
    let mut sum = Estimate::default();
    for stages in of() {
        let (weight, of_group) = (stages[0].tried as f64 / n as f64, completes(stages));
        sum.value += weight * of_group.value;
        for (all, one) in [(&mut sum.lower, of_group.lower), (&mut sum.upper, of_group.upper)] {
            all.mean += weight * one.mean;
            all.variance += weight * weight * one.variance;
        }
    }
    let tried = |i: usize| of().filter_map(|stages| stages.get(i)).map(|stage| stage.tried).sum::<i64>();
    let longest = of().map(<[Stage]>::len).max().unwrap_or(0);
    let limit = |q| (n > 0).then(|| sum.quantile(q));
    let chance = Chance {
        n,
        rests_on: (0..longest).map(tried).min().unwrap_or(0),
        chance: (n >= FEWEST).then_some(sum.value),
        low: limit(0.025).map(|low| low.min(sum.value)),
        high: limit(0.975).map(|high| high.max(sum.value)),
    };
    (chance, sum.value)
}

impl Estimate {
    /// The quantile of the even mixture of the two distributions.
    fn quantile(&self, q: f64) -> f64 {
        // Halving so often leaves less than a float can tell.
        const HALVINGS: u32 = 60;
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if self.lower.below(middle) + self.upper.below(middle) < 2.0 * q {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }
}

impl Spread {
    /// The part of the beta distribution with this mean and variance that lies below `x`.
    fn below(&self, x: f64) -> f64 {
        let Spread { mean, variance } = *self;
        let trials = mean * (1.0 - mean) / variance - 1.0;
        // All in one point: nothing completed, or everything did.
        if variance <= f64::MIN_POSITIVE || !trials.is_finite() || trials <= 0.0 || mean <= 0.0 || mean >= 1.0 {
            return if x >= mean { 1.0 } else { 0.0 };
        }
        beta_reg(mean * trials, (1.0 - mean) * trials, x.clamp(0.0, 1.0))
    }
}

/// One line for every attempt that any job took; none when no attempt has ended.
pub fn attempts(names: &BTreeMap<JobName, Counts>) -> Vec<AttemptLine> {
    let groups = groups(names);
    let counts = total(names.values());
    let [completed, exhausted, hopeless, _] = ends(&counts).map(sum);
    let ended = completed + exhausted + hopeless + counts.stopped.max(0);
    let (mut within, mut before) = (0, 0.0);
    (0..groups.iter().map(Vec::len).max().unwrap_or(0))
        .map(|i| {
            let failures = u32::try_from(i).unwrap_or(u32::MAX);
            let of = |what: fn(&Stage) -> i64| groups.iter().filter_map(|s| s.get(i)).map(what).sum::<i64>();
            let (tried, completed) = (of(|stage| stage.tried), of(|stage| stage.completed));
            within += get(&counts.completed_by_failures, failures);
            let (allowed, value) = standardised(&groups, 0, i + 1);
            let wins = value - before;
            before = value;
            let cpu = get(&counts.cpu_us_by_failures, failures) as f64 / 1e6;
            AttemptLine {
                attempt: failures + 1,
                completed_within: Rate::of(within, ended),
                next: Rate::of(completed, tried),
                completes: standardised(&groups, i, usize::MAX).0,
                allowed,
                wins,
                cpu_seconds: (tried > 0).then(|| cpu / tried as f64),
                cpu_seconds_a_win: (completed > 0).then(|| cpu / completed as f64),
                undecided: get(&counts.undecided_by_failures, failures),
                exhausted: get(&counts.exhausted_by_failures, failures),
                hopeless: get(&counts.hopeless_by_failures, failures),
            }
        })
        .collect()
}

/// A sentence on the jobs that are missing from these numbers, for their reader; `None` when there
/// is nothing to say.
pub fn caveat(names: &BTreeMap<JobName, Counts>) -> Option<String> {
    /// When more than one job in so many has not ended yet, slow jobs are missing from the numbers.
    const MANY: i64 = 20;
    let counts = total(names.values());
    let all: i64 = ends(&counts).map(sum).iter().sum();
    let mut notes = Vec::new();
    if counts.open > 0 && counts.open * MANY > all {
        notes.push(format!(
            "{} of {all} jobs have not ended yet, more than 5 %: the numbers favour jobs that end soon, and will change",
            counts.open
        ));
    }
    if counts.first_end_unknown > 0 {
        notes.push(format!(
            "{} jobs are left out that an older version put back more than once",
            counts.first_end_unknown
        ));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// Whether to allow so many attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorthIt {
    /// The number of attempts that the question is about.
    pub attempts: u32,
    /// Jobs that were ever tried that often.
    pub n: i64,
    /// The part of all jobs that complete by the last of them.
    pub wins: Option<f64>,
    /// CPU seconds of this attempt for each job that completes by it.
    pub cpu_seconds_a_win: Option<f64>,
    /// The answer in words, for people.
    pub answer: String,
}

/// Says whether it is worth it to allow `attempts` attempts, rather than one less.
pub fn is_worth(lines: &[AttemptLine], attempts: u32) -> WorthIt {
    let line = lines.iter().find(|line| line.attempt == attempts);
    let n = line.map_or(0, |line| line.next.n);
    let none = |answer: String| WorthIt { attempts, n, wins: None, cpu_seconds_a_win: None, answer };
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
    WorthIt { attempts, n, wins: Some(line.wins), cpu_seconds_a_win: line.cpu_seconds_a_win, answer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::dice::Dice;

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

    fn named(all: &[(&str, Counts)]) -> BTreeMap<JobName, Counts> {
        all.iter().map(|(name, counts)| (name.parse().unwrap(), counts.clone())).collect()
    }

    fn lines(counts: Counts) -> Vec<AttemptLine> {
        attempts(&named(&[("a", counts)]))
    }

    #[test]
    fn the_curve_is_what_one_counts_by_hand() {
        let lines = lines(counts());
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
        assert_eq!(
            (lines[0].completes.rests_on, lines[0].allowed.rests_on),
            (10, 100),
            "the fewest that tried a stage"
        );
    }

    #[test]
    fn at_one_stage_the_limits_are_those_of_mid_p() {
        // The mid-p limits of x of n solve P(X > x) + P(X = x)/2 = 0.025 and the mirror of it (Lancaster 1961, J. Am. Stat.
        // Assoc. 56:223). Solved with scipy's binom.
        for (x, n, low, high) in [(3, 10, 0.08260, 0.61992), (9, 10, 0.59652, 0.99500), (0, 20, 0.0, 0.13911)] {
            let counts = Counts {
                completed_by_failures: [(0, x)].into(),
                exhausted_by_failures: [(1, n - x)].into(),
                ..Counts::default()
            };
            let chance = lines(counts)[0].completes;
            let near = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-5;
            assert!(near(chance.low, low) && near(chance.high, high), "{x} of {n}: {chance:?}");
        }
    }

    #[test]
    fn one_job_at_a_stage_makes_no_certainty() {
        // Of a hundred jobs one was retried, and completed.
        let counts = Counts { completed_by_failures: [(0, 99), (1, 1)].into(), ..Counts::default() };
        let lines = lines(counts);
        let (first, second) = (lines[0].completes, lines[1].completes);
        assert_eq!((first.chance, first.rests_on), (Some(1.0), 1));
        assert!((0.93..0.975).contains(&first.low.unwrap()) && first.high == Some(1.0), "{first:?}");
        assert_eq!((second.chance, second.n), (None, 1));
        assert!(second.low.unwrap() < 0.1, "{second:?}");
    }

    #[test]
    fn a_job_that_was_put_back_or_had_no_other_try_tells_nothing_of_more_tries() {
        // Five of ten are hopeless, all at their only attempt: not one in two would complete by another.
        let counts = Counts {
            completed_by_failures: [(0, 5)].into(),
            hopeless_by_failures: [(1, 5)].into(),
            jobs_by_budget: [(1, 10)].into(),
            ..Counts::default()
        };
        let lines = lines(counts);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].completes.chance, Some(0.5));
        assert_eq!(is_worth(&lines, 2).answer, "unknown: no job has been tried 2 times");
    }

    #[test]
    fn names_that_allow_different_numbers_of_attempts_are_estimated_apart() {
        // Hard jobs have one attempt, easy ones three. Pooled, the hard ones would seem to be cut off on their way to
        // completing as the easy ones do: 0.5 and 0.5 · 0.8, 90 %.
        let hard = Counts {
            completed_by_failures: [(0, 10)].into(),
            exhausted_by_failures: [(1, 90)].into(),
            jobs_by_budget: [(1, 100)].into(),
            ..Counts::default()
        };
        let easy = Counts {
            completed_by_failures: [(0, 90), (1, 8)].into(),
            exhausted_by_failures: [(2, 2)].into(),
            jobs_by_budget: [(2, 100)].into(),
            ..Counts::default()
        };
        let lines = attempts(&named(&[("hard", hard), ("easy", easy)]));
        let chances = |line: &AttemptLine| (line.completes.chance.unwrap(), line.allowed.chance.unwrap());
        let near = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 1e-12 && (a.1 - b.1).abs() < 1e-12;
        assert!(near(chances(&lines[0]), ((0.1 + 0.98) / 2.0, 0.5)), "{lines:?}");
        assert!(near(chances(&lines[1]), (0.8, (0.1 + 0.98) / 2.0)), "{lines:?}");
        assert_eq!((lines[0].completes.rests_on, lines[0].next.n), (10, 200));
    }

    #[test]
    fn completed_within_counts_as_allowed_does() {
        // Nothing is censored: the part that completed within n failures is the chance to complete with n allowed.
        let counts = Counts {
            completed_by_failures: [(0, 50), (1, 20), (2, 10)].into(),
            exhausted_by_failures: [(3, 20)].into(),
            // Lost attempts made more of the same jobs' starts.
            completed_by_attempts: [(1, 40), (4, 40)].into(),
            failed_by_attempts: [(5, 20)].into(),
            ..Counts::default()
        };
        for line in lines(counts) {
            assert!((line.completed_within.rate.unwrap() - line.allowed.chance.unwrap()).abs() < 1e-12, "{line:?}");
        }
    }

    #[test]
    fn many_open_jobs_are_told_of() {
        let counts = |open| Counts {
            completed_by_failures: [(0, 95)].into(),
            undecided_by_failures: [(0, open)].into(),
            open,
            ..Counts::default()
        };
        assert_eq!(caveat(&named(&[("a", counts(5))])), None);
        let told = caveat(&named(&[("a", counts(6))])).unwrap();
        assert!(told.starts_with("6 of 101 jobs have not ended yet"), "{told}");
    }

    #[test]
    fn without_censoring_the_estimate_is_the_plain_part() {
        let counts = Counts {
            completed_by_failures: [(0, 50), (1, 20), (4, 10)].into(),
            exhausted_by_failures: [(5, 20)].into(),
            ..Counts::default()
        };
        let lines = lines(counts);
        assert!((lines[0].completes.chance.unwrap() - 0.8).abs() < 1e-12);
        assert!((lines[2].completes.chance.unwrap() - 10.0 / 30.0).abs() < 1e-12, "given two failures");
    }

    #[test]
    fn nothing_ended_gives_no_line() {
        assert_eq!(lines(Counts { undecided_by_failures: [(0, 3)].into(), ..Counts::default() }), []);
        assert!(is_worth(&[], 5).answer.starts_with("unknown"));
    }

    #[test]
    fn the_answer_says_what_it_rests_on() {
        let lines = lines(counts());
        insta::assert_snapshot!(is_worth(&lines, 2).answer, @"attempt 2 makes 24.0 % of all jobs complete that would not: of 30 jobs that were tried 2 times, 20 completed then (66.7 %, 95 % interval 48.8 % to 80.8 %); each cost 3.0 CPU seconds");
        assert_eq!(is_worth(&lines, 5).answer, "unknown: no job has been tried 5 times");
    }

    /// Jobs of one name: how many there are, the chances to complete by attempt, the chance to end as
    /// hopeless, the budgets that the jobs get, one each, and the chance to be cut off before an attempt.
    struct Name(usize, &'static [f64], f64, &'static [u32], f64);

    impl Name {
        fn live(&self, dice: &mut Dice) -> Counts {
            let Name(jobs, p, q, budgets, cut) = self;
            let mut counts = Counts::default();
            for _ in 0..*jobs {
                let budget = budgets[(dice.roll() * budgets.len() as f64) as usize];
                *counts.jobs_by_budget.entry(budget).or_insert(0) += 1;
                let mut failures = 0u32;
                let counter = loop {
                    if failures == budget {
                        break &mut counts.exhausted_by_failures;
                    }
                    if dice.roll() < *cut {
                        break &mut counts.undecided_by_failures;
                    }
                    let (roll, p) = (dice.roll(), p[failures as usize]);
                    if roll < p {
                        break &mut counts.completed_by_failures;
                    }
                    failures += 1;
                    if roll < p + q {
                        break &mut counts.hopeless_by_failures;
                    }
                };
                *counter.entry(failures).or_insert(0) += 1;
            }
            counts
        }

        /// The chance to complete within so many attempts.
        fn truth(&self, attempts: usize) -> f64 {
            self.1[..attempts.min(self.1.len())].iter().rev().fold(0.0, |later, p| p + (1.0 - p - self.2) * later)
        }
    }

    /// The part of the intervals for all attempts that holds the truth, over many histories of these names.
    fn coverage(names: &[Name]) -> f64 {
        const RUNS: u32 = 600;
        let mut dice = Dice(20_261_128);
        let (mut held, mut runs) = (0, 0);
        for _ in 0..RUNS {
            let histories: Vec<_> = names.iter().map(|name| name.live(&mut dice)).collect();
            let all =
                histories.iter().enumerate().map(|(i, counts)| (format!("n{i}").parse().unwrap(), counts.clone()));
            let Some(first) = attempts(&all.collect()).first().map(|line| line.completes) else { continue };
            // Of each name within as many attempts as it has shown, in the proportion of its jobs.
            let tried = |counts: &Counts| stages(counts).first().map_or(0, |stage| stage.tried) as f64;
            let whole: f64 = histories.iter().map(tried).sum();
            let part = |(name, counts): (&Name, &Counts)| tried(counts) / whole * name.truth(stages(counts).len());
            let truth: f64 = names.iter().zip(&histories).map(part).sum();
            held += u32::from(first.low.unwrap() <= truth + 1e-12 && truth <= first.high.unwrap() + 1e-12);
            runs += 1;
        }
        f64::from(held) / f64::from(runs)
    }

    #[test]
    fn ninety_three_of_a_hundred_intervals_hold_the_truth_whatever_the_budgets() {
        let histories: &[&[Name]] = &[
            &[Name(150, &[0.5, 0.3, 0.2, 0.1], 0.05, &[4], 0.1)],
            &[Name(150, &[0.5, 0.3, 0.2, 0.1], 0.05, &[1, 2, 3, 4], 0.1)],
            &[Name(40, &[0.5, 0.3, 0.2, 0.1, 0.1], 0.05, &[1, 2, 5], 0.1)],
            &[Name(100, &[0.99, 0.9, 0.9, 0.9, 0.9], 0.0, &[1, 2, 5], 0.0)],
            &[Name(300, &[0.98, 0.3, 0.3], 0.0, &[1, 1, 1, 3], 0.0)],
            &[Name(60, &[0.05, 0.03, 0.02, 0.02], 0.02, &[1, 2, 3, 4], 0.1)],
            &[Name(30, &[0.02, 0.02], 0.5, &[1, 2], 0.0)],
            &[Name(12, &[0.5, 0.5, 0.5], 0.1, &[1, 3], 0.1)],
            &[Name(5, &[0.5, 0.5], 0.0, &[1, 2], 0.0)],
            &[Name(100, &[0.1], 0.0, &[1], 0.0), Name(100, &[0.9, 0.8, 0.5], 0.0, &[3], 0.05)],
            &[
                Name(8, &[0.3], 0.0, &[1], 0.0),
                Name(60, &[0.95, 0.9], 0.01, &[2], 0.0),
                Name(20, &[0.6; 5], 0.1, &[5], 0.1),
            ],
        ];
        for (i, names) in histories.iter().enumerate() {
            let covered = coverage(names);
            assert!(covered >= 0.93, "history {i}: {covered}");
        }
    }
}
