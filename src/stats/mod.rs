//! Numbers about many jobs: pure arithmetic on aggregates, no I/O.

pub mod attempts;
pub mod backlog;
pub mod builds;
pub mod by_queue;
pub mod categories;
pub mod co_running;
pub mod concurrency;
#[cfg(test)]
mod dice;
pub mod errors;
pub mod intervals;
pub mod known;
pub mod shard;
pub mod sizing;
pub mod slim;
pub mod survival;
pub mod trend;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::JobName;

pub use attempts::AttemptsStats;
pub use by_queue::QueueParts;
pub use categories::{CategoryLine, CategorySums, CostLine, CostSums};
pub use co_running::{BesideLine, BesideStats};
pub use concurrency::{ConcurrencyLevelStats, ConcurrentJobsStats};
pub use errors::{ErrorSet, ErrorSetCounts, FailureCounts};
pub use intervals::{Difference, Rate};
pub use known::{ErrorFacts, ErrorNumber, KnownErrors, Label};
pub use shard::{Counts, Histogram, ShardKey, StatShard};
pub use sizing::{DurationLine, Quantiles, SizeLine};
pub use slim::{SlimShard, attempts_by_error};
pub use survival::{AttemptLine, Chance, WorthIt};
pub use trend::{DailyTrends, DayCount, Trend};

/// The `jobStats` of `GET /stats`: the original's three lists under its names, and what came after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStats {
    /// How likely a job is to have completed within so many attempts.
    pub per_attempts_stats: Vec<AttemptsStats>,
    /// Jobs that ran beside at least one other: always one element.
    pub per_concurrent_jobs_stats: Vec<ConcurrentJobsStats>,
    /// The same by the number of jobs beside.
    pub per_concurrency_level: Vec<ConcurrencyLevelStats>,
    /// By category of error: for each that was met, its name with its numbers.
    pub error_category_success_rate: Vec<BTreeMap<String, ErrorCategoryStats>>,
}

/// How jobs ended that met an error of a category, with the original's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorCategoryStats {
    /// Jobs that have ended.
    pub total_error_category_jobs: i64,
    /// Those of them that completed.
    pub completed_jobs: i64,
    /// Completed jobs as a part of ended jobs, 0 to 100, with two decimals.
    pub success_rate_percentage: f64,
}

impl JobStats {
    /// The statistics of these counts, with one line for each category.
    pub fn of(counts: &Counts, categories: Vec<CategoryLine>) -> Self {
        let category = |line: CategoryLine| {
            let stats = ErrorCategoryStats {
                total_error_category_jobs: line.completed.n,
                completed_jobs: line.completed.hits,
                success_rate_percentage: percentage(line.completed.hits, line.completed.n),
            };
            BTreeMap::from([(line.name, stats)])
        };
        Self {
            per_attempts_stats: attempts::per_attempts(counts),
            per_concurrent_jobs_stats: vec![concurrency::concurrent_jobs(counts)],
            per_concurrency_level: concurrency::per_concurrency_level(counts),
            error_category_success_rate: categories.into_iter().map(category).collect(),
        }
    }
}

/// The counts of each job name, added up one aggregate at a time: all but those by error and by queue.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NameSums(pub BTreeMap<JobName, Counts>);

impl NameSums {
    /// Adds an aggregate.
    pub fn add(&mut self, shard: StatShard) {
        self.0.entry(shard.key.name).or_default().add(&shard.counts.without_parts());
    }

    /// Adds an aggregate that is without counts by error and by queue.
    pub fn add_slim(&mut self, shard: &SlimShard) {
        self.0.entry(shard.key.name.clone()).or_default().add(&shard.counts);
    }
}

/// All these counts together.
pub fn total<'a>(counts: impl IntoIterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    counts.into_iter().for_each(|counts| sum.add(counts));
    sum
}

/// `part` of `whole` in percent, with two decimals; 0 when the whole is 0.
fn percentage(part: i64, whole: i64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 10_000.0).round() / 100.0 }
}
