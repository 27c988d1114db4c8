//! How likely a job is to have completed within so many attempts.
//!
//! A job has ended when it has completed or failed. For every N from 1 to the most attempts that any ended job took:
//!
//! ```text
//! totalJobsUpTo         = ended jobs (the same for every N)
//! completedJobsUpTo     = jobs that completed with at most N attempts
//! successRatePercentage = 100 * completedJobsUpTo / totalJobsUpTo
//! ```
//! So the rate grows with N up to the rate of success of all jobs, and the step from N to N + 1 is
//! what one more attempt has won. Jobs that still wait or run are in none of the numbers, because
//! their ends are not known yet.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counts, percentage};

/// One line of `perAttemptsStats`, with the original's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptsStats {
    /// The number of attempts N, from 1.
    pub attempts_up_to: u32,
    /// Jobs that have ended.
    pub total_jobs_up_to: i64,
    /// Jobs that have completed with at most N attempts.
    pub completed_jobs_up_to: i64,
    /// Completed jobs as a part of ended jobs, 0 to 100, with two decimals.
    pub success_rate_percentage: f64,
}

/// One line for every N from 1 to the most attempts that any ended job took; none when no job has ended.
pub fn per_attempts(counts: &Counts) -> Vec<AttemptsStats> {
    let total = counts.completed() + counts.failed();
    if total == 0 {
        return Vec::new();
    }
    let by_attempts = [&counts.completed_by_attempts, &counts.failed_by_attempts];
    let most = by_attempts.iter().filter_map(|c| c.keys().next_back()).max().copied().unwrap_or(0);
    let mut completed = counts.completed_by_attempts.get(&0).copied().unwrap_or(0);
    (1..=most.max(1))
        .map(|n| {
            completed += counts.completed_by_attempts.get(&n).copied().unwrap_or(0);
            AttemptsStats {
                attempts_up_to: n,
                total_jobs_up_to: total,
                completed_jobs_up_to: completed,
                success_rate_percentage: percentage(completed, total),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_further_attempt_adds_what_it_has_won() {
        let counts = Counts {
            completed_by_attempts: [(1, 6), (3, 2)].into(),
            failed_by_attempts: [(0, 1), (3, 1), (4, 2)].into(),
            waiting: 5,
            active: 7,
            ..Counts::default()
        };
        let lines: Vec<_> = per_attempts(&counts)
            .iter()
            .map(|l| (l.attempts_up_to, l.completed_jobs_up_to, l.success_rate_percentage))
            .collect();
        assert_eq!(lines, [(1, 6, 50.0), (2, 6, 50.0), (3, 8, 66.67), (4, 8, 66.67)]);
        assert!(per_attempts(&counts).iter().all(|l| l.total_jobs_up_to == 12));
    }

    #[test]
    fn nothing_ended_gives_no_line() {
        assert_eq!(per_attempts(&Counts { waiting: 3, ..Counts::default() }), []);
    }

    #[test]
    fn jobs_that_never_started_have_ended_too() {
        let counts = Counts { failed_by_attempts: [(0, 4)].into(), ..Counts::default() };
        let lines = per_attempts(&counts);
        assert_eq!((lines.len(), lines[0].total_jobs_up_to, lines[0].success_rate_percentage), (1, 4, 0.0));
    }

    #[test]
    fn the_names_are_those_of_the_original() {
        let counts = Counts { completed_by_attempts: [(1, 1)].into(), ..Counts::default() };
        assert_eq!(
            serde_json::to_string(&per_attempts(&counts)).unwrap(),
            r#"[{"attemptsUpTo":1,"totalJobsUpTo":1,"completedJobsUpTo":1,"successRatePercentage":100.0}]"#
        );
    }
}
