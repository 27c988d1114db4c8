//! Numbers about many jobs: pure arithmetic on aggregates, no I/O.

pub mod attempts;
pub mod concurrency;
pub mod shard;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use attempts::AttemptsStats;
pub use concurrency::{ConcurrencyLevelStats, ConcurrentJobsStats};
pub use shard::{Counts, Histogram, ShardKey, StatShard};

/// The `jobStats` of `GET /stats`: the original's three lists under its names, and what came after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStats {
    /// How likely a job is to have completed within so many attempts.
    pub per_attempts_stats: Vec<AttemptsStats>,
    /// Jobs that ran beside at least one other: always one element.
    pub per_concurrent_jobs_stats: Vec<ConcurrentJobsStats>,
    /// The same by the number of jobs beside.
    pub per_concurrency_level: Vec<ConcurrencyLevelStats>,
    /// By category of error: empty while errors have no categories.
    pub error_category_success_rate: Vec<Value>,
}

impl JobStats {
    /// The statistics of these counts.
    pub fn of(counts: &Counts) -> Self {
        Self {
            per_attempts_stats: attempts::per_attempts(counts),
            per_concurrent_jobs_stats: vec![concurrency::concurrent_jobs(counts)],
            per_concurrency_level: concurrency::per_concurrency_level(counts),
            error_category_success_rate: Vec::new(),
        }
    }
}

/// The counts of all these shards together.
pub fn total<'a>(shards: impl IntoIterator<Item = &'a StatShard>) -> Counts {
    let mut sum = Counts::default();
    for shard in shards {
        sum.add(&shard.counts);
    }
    sum
}

/// `part` of `whole` in percent, with two decimals; 0 of nothing.
fn percentage(part: i64, whole: i64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 10_000.0).round() / 100.0 }
}
