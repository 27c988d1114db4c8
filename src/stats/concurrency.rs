//! How jobs fare that run beside others on their host.
//!
//! A job's number is the most jobs that ran beside any of its attempts, itself not counted. Jobs without
//! a measured process (cancelled before their start, lost with their worker) have none and are left out.
//!
//! ```text
//! totalConcurrentJobs   = ended jobs with a number of at least 1
//! completedJobs         = those of them that completed
//! successRatePercentage = 100 * completedJobs / totalConcurrentJobs
//! ```

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counts, percentage};

/// The one line of `perConcurrentJobsStats`, with the original's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConcurrentJobsStats {
    /// Ended jobs that ran beside at least one other.
    pub total_concurrent_jobs: i64,
    /// Those of them that completed.
    pub completed_jobs: i64,
    /// Completed jobs as a part of all these jobs, 0 to 100, with two decimals.
    pub success_rate_percentage: f64,
}

/// One line of `perConcurrencyLevel`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConcurrencyLevelStats {
    /// The most jobs that ran beside the job: 0 when it ran alone.
    pub jobs_beside: u32,
    /// Ended jobs with this number.
    pub total_jobs: i64,
    /// Those of them that completed.
    pub completed_jobs: i64,
    /// Completed jobs as a part of all these jobs, 0 to 100, with two decimals.
    pub success_rate_percentage: f64,
}

/// All jobs that ran beside at least one other.
pub fn concurrent_jobs(counts: &Counts) -> ConcurrentJobsStats {
    let total = counts.jobs_by_beside.range(1..).map(|(_, n)| n).sum();
    let completed = counts.completed_by_beside.range(1..).map(|(_, n)| n).sum();
    ConcurrentJobsStats {
        total_concurrent_jobs: total,
        completed_jobs: completed,
        success_rate_percentage: percentage(completed, total),
    }
}

/// One line for every number that occurs, in order.
pub fn per_concurrency_level(counts: &Counts) -> Vec<ConcurrencyLevelStats> {
    let line = |(level, total): (&u32, &i64)| {
        let completed = counts.completed_by_beside.get(level).copied().unwrap_or(0);
        ConcurrencyLevelStats {
            jobs_beside: *level,
            total_jobs: *total,
            completed_jobs: completed,
            success_rate_percentage: percentage(completed, *total),
        }
    };
    counts.jobs_by_beside.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_jobs_beside_others_are_concurrent() {
        let counts = Counts {
            jobs_by_beside: [(0, 10), (1, 4), (3, 4)].into(),
            completed_by_beside: [(0, 9), (1, 4), (3, 1)].into(),
            ..Counts::default()
        };
        assert_eq!(
            serde_json::to_string(&concurrent_jobs(&counts)).unwrap(),
            r#"{"totalConcurrentJobs":8,"completedJobs":5,"successRatePercentage":62.5}"#
        );
        let rates: Vec<_> =
            per_concurrency_level(&counts).iter().map(|l| (l.jobs_beside, l.success_rate_percentage)).collect();
        assert_eq!(rates, [(0, 90.0), (1, 100.0), (3, 25.0)]);
    }

    #[test]
    fn without_jobs_the_rate_is_zero() {
        assert_eq!(concurrent_jobs(&Counts::default()).success_rate_percentage, 0.0);
        assert_eq!(per_concurrency_level(&Counts::default()), []);
    }
}
