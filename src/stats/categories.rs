//! What fails, by category, and what it costs.
//!
//! ```text
//! failures     = attempts that failed with an error of the category
//! jobs         = jobs with at least one attempt that did; each once, however many did
//! completed    = those of them that completed in the end, of those that have ended
//! share of CPU = CPU time of those attempts over the CPU time of all attempts
//! trend        = failures by day of submission
//! ```
//! Aggregates count by error, and the categories are joined here. So every change of the categories
//! holds for the past too, and for jobs whose documents are gone. A job that met two categories
//! counts once in each of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::intervals::Rate;
use super::known::{ErrorNumber, KnownErrors, Label};
use super::shard::Counts;
use super::slim::{SlimShard, attempts_by_error};
use super::trend::Trend;
use crate::domain::{CategoryId, Day, Fingerprint, JobName, Timestamp};

/// One line of `stats categories`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CategoryLine {
    /// The id, `uncategorised` or `pending`.
    pub category: String,
    /// What people call it.
    pub name: String,
    /// Jobs that met it.
    pub jobs: i64,
    /// Jobs that have ended, and those of them that completed.
    pub completed: Rate,
    /// Attempts that failed with it.
    pub failures: i64,
    /// CPU seconds of those attempts.
    pub cpu_seconds: f64,
    /// The part of all CPU time that they took, 0 to 1.
    pub cpu_share: f64,
    /// When it was first seen, over all time.
    pub first_seen: Option<Timestamp>,
    /// When it was last seen, over all time.
    pub last_seen: Option<Timestamp>,
    /// Failures by the day on which their jobs were submitted.
    pub trend: Trend,
    /// What its most frequent errors say, most frequent first.
    pub examples: Vec<String>,
}

/// How many examples of a category are shown.
const EXAMPLES: usize = 3;

/// What aggregates say of each category, added up one aggregate at a time.
#[derive(Default)]
pub struct CategorySums {
    sums: BTreeMap<Label, Sums>,
    all_cpu_us: i64,
    has_examples: bool,
}

#[derive(Default)]
struct Sums {
    jobs: i64,
    ended: i64,
    completed: i64,
    failures: i64,
    cpu_us: i64,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    trend: BTreeMap<Day, i64>,
    /// Failures of each known error, for the examples.
    errors: HashMap<Fingerprint, i64>,
}

impl CategorySums {
    /// Sums that look at each error, too: when it was seen, and whether it is one of the most frequent, which are shown
    /// as examples.
    pub fn with_examples() -> Self {
        Self { has_examples: true, ..Self::default() }
    }

    /// Adds aggregates. `known` has all of their errors that are known.
    pub fn add(&mut self, shards: &[&SlimShard], known: &KnownErrors) {
        for shard in shards {
            let SlimShard { key, counts, .. } = shard;
            self.all_cpu_us += counts.cpu_us_succeeded + counts.cpu_us_failed;
            for (label, failed) in shard.failures_by_label(known) {
                let sum = self.sum(label);
                sum.failures += failed.attempts;
                sum.cpu_us += failed.cpu_us;
                *sum.trend.entry(key.day).or_insert(0) += failed.attempts;
            }
            for (label, jobs) in shard.jobs_by_label(known) {
                let sum = self.sum(label);
                sum.jobs += jobs.jobs;
                sum.completed += jobs.completed;
                sum.ended += jobs.completed + jobs.failed;
            }
        }
        if self.has_examples {
            self.add_errors(attempts_by_error(shards, known), known);
        }
    }

    /// Adds the failed attempts of each error.
    fn add_errors(&mut self, by_error: impl Iterator<Item = (ErrorNumber, i64)>, known: &KnownErrors) {
        let mut by_label = vec![Vec::new(); known.labels().len()];
        for (error, attempts) in by_error {
            if let Some(seen) = known.seen(error) {
                by_label[known.label_of(error)].push((known.fingerprint(error), attempts, seen));
            }
        }
        for (label, errors) in known.labels().iter().zip(by_label).filter(|(_, errors)| !errors.is_empty()) {
            let sum = self.sum(label);
            sum.first_seen = errors.iter().map(|(.., (first, _))| *first).chain(sum.first_seen).min();
            sum.last_seen = errors.iter().map(|(.., (_, last))| *last).chain(sum.last_seen).max();
            sum.errors.reserve(errors.len());
            errors.iter().for_each(|(error, attempts, _)| *sum.errors.entry(*error).or_insert(0) += attempts);
        }
    }

    fn sum(&mut self, label: &Label) -> &mut Sums {
        if !self.sums.contains_key(label) {
            self.sums.insert(label.clone(), Sums::default());
        }
        self.sums.get_mut(label).expect("inserted above")
    }

    /// The errors whose texts the lines show.
    pub fn examples(&self) -> Vec<Fingerprint> {
        self.sums.values().flat_map(Sums::most_frequent).collect()
    }

    /// One line for each category that was met, most failures first. `texts` has what the examples say.
    /// `names` says what categories are called.
    pub fn lines(
        &self,
        names: &BTreeMap<CategoryId, String>,
        texts: &BTreeMap<Fingerprint, String>,
    ) -> Vec<CategoryLine> {
        let line = |(label, sums): (&Label, _)| line(label, label.name(names), sums, self.all_cpu_us, texts);
        let mut lines: Vec<_> = self.sums.iter().map(line).collect();
        lines.sort_by(|a, b| b.failures.cmp(&a.failures).then_with(|| a.category.cmp(&b.category)));
        lines
    }
}

impl Sums {
    fn most_frequent(&self) -> Vec<Fingerprint> {
        let mut most: Vec<(Reverse<i64>, Fingerprint)> = Vec::with_capacity(EXAMPLES + 1);
        for (error, count) in &self.errors {
            let place = (Reverse(*count), *error);
            most.insert(most.partition_point(|other| *other < place), place);
            most.truncate(EXAMPLES);
        }
        most.into_iter().map(|(_, error)| error).collect()
    }
}

fn line(
    label: &Label,
    name: String,
    sums: &Sums,
    all_cpu_us: i64,
    texts: &BTreeMap<Fingerprint, String>,
) -> CategoryLine {
    CategoryLine {
        category: label.as_str().to_owned(),
        name,
        jobs: sums.jobs,
        completed: Rate::of(sums.completed, sums.ended),
        failures: sums.failures,
        cpu_seconds: sums.cpu_us as f64 / 1e6,
        cpu_share: if all_cpu_us > 0 { sums.cpu_us as f64 / all_cpu_us as f64 } else { 0.0 },
        first_seen: sums.first_seen,
        last_seen: sums.last_seen,
        examples: sums.most_frequent().iter().filter_map(|error| texts.get(error).cloned()).collect(),
        trend: Trend::Sparse(sums.trend.clone()),
    }
}

/// One line of `stats cost`: what failed attempts of one job name and category took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostLine {
    /// The binary whose jobs these were.
    pub name: JobName,
    /// The category's id, `uncategorised`, `pending`, or `none` for attempts that were lost or cancelled.
    pub category: String,
    /// Failed attempts; `None` on the line of attempts without an error.
    pub failures: Option<i64>,
    /// Their CPU time in seconds.
    pub cpu_seconds: f64,
    /// The part that they took of the CPU time of all attempts of the binary, 0 to 1.
    pub cpu_share: f64,
}

/// What failed attempts of each job name and category took, added up one aggregate at a time.
#[derive(Default)]
pub struct CostSums(BTreeMap<JobName, BTreeMap<String, (i64, i64)>>);

impl CostSums {
    /// Adds an aggregate. `known` has all of its errors that are known.
    pub fn add(&mut self, shard: &SlimShard, known: &KnownErrors) {
        let sums = self.0.entry(shard.key.name.clone()).or_default();
        for (label, failed) in shard.failures_by_label(known) {
            let (failures, cpu_us) = sums.entry(label.as_str().to_owned()).or_default();
            *failures += failed.attempts;
            *cpu_us += failed.cpu_us;
        }
    }

    /// One line for each job name and category, most CPU time first. `names` has the other counts of the same aggregates.
    pub fn lines(mut self, names: &BTreeMap<JobName, Counts>) -> Vec<CostLine> {
        let mut lines = Vec::new();
        for (name, counts) in names {
            let sums = self.0.remove(name).unwrap_or_default();
            let all_us = counts.cpu_us_succeeded + counts.cpu_us_failed;
            let share = |us: i64| if all_us > 0 { us as f64 / all_us as f64 } else { 0.0 };
            let without = counts.cpu_us_failed - sums.values().map(|(_, us)| us).sum::<i64>();
            let line = |category, failures, us: i64| {
                let (name, cpu_seconds, cpu_share) = (name.clone(), us as f64 / 1e6, share(us));
                CostLine { name, category, failures, cpu_seconds, cpu_share }
            };
            lines.extend(sums.into_iter().map(|(category, (failures, us))| line(category, Some(failures), us)));
            if without > 0 {
                lines.push(line("none".to_owned(), None, without));
            }
        }
        lines.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{ErrorFacts, ErrorSet, ErrorSetCounts, FailureCounts, ShardKey, StatShard};

    fn f(n: u8) -> Fingerprint {
        Fingerprint::from_bytes([n; 32])
    }

    fn known() -> KnownErrors {
        let disk: CategoryId = "disk".parse().unwrap();
        let at = Timestamp::from_millis;
        let facts = |n: i64, label| ErrorFacts { label, first_seen: at(n), last_seen: at(n * 10) };
        let errors = [
            (f(1), facts(1, Label::Category(disk.clone()))),
            (f(2), facts(2, Label::Category(disk.clone()))),
            (f(3), facts(3, Label::Uncategorised)),
        ];
        let mut known = KnownErrors::default();
        errors.into_iter().for_each(|(error, facts)| known.learn(error, Some(facts)));
        known
    }

    fn shard(known: &mut KnownErrors) -> SlimShard {
        let key = ShardKey { day: Timestamp::from_millis(0).day(), name: "a".parse().unwrap() };
        let failed = |attempts, cpu_us| FailureCounts { attempts, cpu_us, wall_us: 0 };
        let jobs = |jobs, completed, failed| ErrorSetCounts { jobs, completed, failed };
        let counts = Counts {
            failures: [(f(1), failed(5, 100)), (f(2), failed(9, 200)), (f(3), failed(1, 50)), (f(4), failed(1, 0))]
                .into(),
            jobs_by_errors: [
                (ErrorSet::new([f(1)]), jobs(3, 1, 1)),
                (ErrorSet::new([f(1), f(2)]), jobs(2, 2, 0)),
                (ErrorSet::new([f(2), f(3)]), jobs(4, 0, 4)),
            ]
            .into(),
            cpu_us_succeeded: 600,
            cpu_us_failed: 400,
            ..Counts::default()
        };
        SlimShard::of(StatShard { counts, ..StatShard::new(key) }, known)
    }

    #[test]
    fn a_job_counts_once_in_each_category_that_it_met() {
        let mut known = known();
        let shard = shard(&mut known);
        let mut sums = CategorySums::with_examples();
        sums.add(&[&shard], &known);
        assert_eq!(sums.examples(), [f(2), f(1), f(3)]);
        let texts = (1..=3).map(|n| (f(n), format!("error {n}"))).collect();
        let names = [("disk".parse().unwrap(), "Disk full".to_owned())].into();
        let lines = sums.lines(&names, &texts);
        let disk = &lines[0];
        assert_eq!((disk.category.as_str(), disk.name.as_str()), ("disk", "Disk full"));
        assert_eq!((disk.jobs, disk.failures), (9, 14), "two of them met both of its errors");
        assert_eq!((disk.completed.hits, disk.completed.n), (3, 8), "one has not ended");
        assert!((disk.cpu_share - 0.3).abs() < 1e-12);
        assert_eq!(
            (disk.first_seen, disk.last_seen),
            (Some(Timestamp::from_millis(1)), Some(Timestamp::from_millis(20)))
        );
        assert_eq!(disk.examples, ["error 2", "error 1"]);
        let others: Vec<_> = lines[1..].iter().map(|l| (l.category.as_str(), l.jobs, l.failures)).collect();
        assert_eq!(others, [("pending", 0, 1), ("uncategorised", 4, 1)]);
    }

    #[test]
    fn what_no_error_explains_is_told_apart() {
        let mut known = known();
        let shard = shard(&mut known);
        let names = [("a".parse().unwrap(), shard.counts.clone())].into();
        let mut sums = CostSums::default();
        sums.add(&shard, &known);
        let lines: Vec<_> =
            sums.lines(&names).into_iter().map(|l| (l.category, l.failures, (l.cpu_share * 100.0).round())).collect();
        let line = |category: &str, failures, share| (category.to_owned(), failures, share);
        assert_eq!(
            lines,
            [
                line("disk", Some(14), 30.0),
                line("uncategorised", Some(1), 5.0),
                line("none", None, 5.0),
                line("pending", Some(1), 0.0)
            ]
        );
    }
}
