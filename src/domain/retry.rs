//! What happens after an attempt: pure decisions, no clock, no dice of its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::outcome::{AttemptReport, Outcome, SpawnFailure};
use super::time::millis;

/// How the wait grows from attempt to attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackoffKind {
    /// Always the same.
    Fixed,
    /// Doubled after every attempt.
    Exponential,
}

/// The wait between two attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// How it grows.
    #[serde(rename = "type")]
    pub kind: BackoffKind,
    /// The first wait.
    #[serde(rename = "delay_ms", with = "millis")]
    #[schema(value_type = u64, maximum = 316_224_000_000u64)]
    pub delay: Duration,
    /// The longest wait; one day when absent.
    #[schema(value_type = Option<u64>, maximum = 316_224_000_000u64)]
    #[serde(default, rename = "max_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
    /// The part of the wait that is left to chance, 0 to 1: with 0.5, between half of it and all of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schema(minimum = 0, maximum = 1)]
    pub jitter: f64,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl Default for Backoff {
    fn default() -> Self {
        Self { kind: BackoffKind::Exponential, delay: Duration::from_secs(1), max: None, jitter: 0.0 }
    }
}

impl Backoff {
    /// The wait after the `finished`-th bad attempt (from 1). `dice` in 0..1 picks the point within the jitter.
    ///
    /// Exponential is `delay * 2^(finished - 1)`, as BullMQ has it.
    pub fn wait(&self, finished: u32, dice: f64) -> Duration {
        const DAY: Duration = Duration::from_secs(86_400);
        let longest = self.max.unwrap_or_else(|| DAY.max(self.delay));
        let full = match self.kind {
            BackoffKind::Fixed => self.delay,
            BackoffKind::Exponential => {
                let doublings = finished.saturating_sub(1).min(40);
                Duration::try_from_secs_f64(self.delay.as_secs_f64() * f64::from(doublings).exp2()).unwrap_or(longest)
            }
        };
        let kept = 1.0 - self.jitter.clamp(0.0, 1.0) * dice.clamp(0.0, 1.0);
        full.min(longest).mul_f64(kept)
    }
}

/// What the retry decision needs to know of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How many attempts may finish badly.
    pub attempts: u32,
    /// The wait between them.
    pub backoff: Backoff,
    /// Exit codes after which another attempt is pointless.
    pub no_retry_exit_codes: Vec<u8>,
}

/// What follows on failures of one category of errors, beyond what the job says.
#[derive(Debug, Clone, PartialEq)]
pub struct CategoryRule {
    /// Whether another attempt is worth it at all.
    pub retry: bool,
    /// The wait between attempts, in place of the job's.
    pub backoff: Option<Backoff>,
    /// The next attempt may run so many times as long,
    pub timeout_factor: f64,
    /// and use so many times as much memory.
    pub memory_factor: f64,
}

impl Default for CategoryRule {
    fn default() -> Self {
        Self { retry: true, backoff: None, timeout_factor: 1.0, memory_factor: 1.0 }
    }
}

impl CategoryRule {
    /// Whether it changes the limits of the next attempt.
    pub fn scales_limits(&self) -> bool {
        self.timeout_factor != 1.0 || self.memory_factor != 1.0
    }
}

/// How many times its usual limits an attempt gets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LimitScale {
    /// The factor of the timeout.
    pub timeout: f64,
    /// The factor of the memory limit.
    pub memory: f64,
}

impl Default for LimitScale {
    fn default() -> Self {
        Self { timeout: 1.0, memory: 1.0 }
    }
}

impl LimitScale {
    /// However often a job fails, it gets no more than so many times its limits.
    pub const MOST: f64 = 64.0;

    /// This and once more what the rule gives.
    pub fn by(self, rule: &CategoryRule) -> Self {
        let bounded = |factor: f64| factor.clamp(1.0 / Self::MOST, Self::MOST);
        Self { timeout: bounded(self.timeout * rule.timeout_factor), memory: bounded(self.memory * rule.memory_factor) }
    }
}

/// What a worker tells the queue about a lease it is done with.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The job has completed.
    Complete {
        /// What it gave back.
        result: Option<Value>,
    },
    /// The job has failed for good. Spends an attempt.
    Fail {
        /// Why, for people.
        error: String,
    },
    /// Another attempt, after a wait. Spends an attempt.
    Retry {
        /// The wait.
        after: Duration,
        /// Why this attempt failed, for people.
        error: String,
    },
    /// The job goes back untouched: no attempt is spent.
    Release,
    /// As [`Verdict::Release`], but no worker takes the job before this long has passed.
    PutOff {
        /// The wait.
        after: Duration,
    },
}

/// Decides what follows on an attempt that has ended.
///
/// `finished_before` counts the attempts that spent the budget before this one; `dice` in 0..1 feeds the jitter.
/// A cancelled job and a job without a usable binary are never tried again; a lost attempt spends nothing.
pub fn decide(policy: &RetryPolicy, finished_before: u32, report: &AttemptReport, dice: f64) -> Verdict {
    match report.outcome {
        Outcome::Exit { code: 0 } => return Verdict::Complete { result: report.result.clone() },
        Outcome::Lost => return Verdict::Release,
        _ => {}
    }
    let error = report.error.clone().unwrap_or_else(|| report.outcome.to_string());
    let finished = finished_before.saturating_add(1);
    if !is_pointless(policy, &report.outcome) && finished < policy.attempts {
        Verdict::Retry { after: policy.backoff.wait(finished, dice), error }
    } else {
        Verdict::Fail { error }
    }
}

/// Whether another attempt could not end better than this one, whatever is left of the budget: the exit code is listed,
/// there is no usable binary, a caller cancelled the job, or the rule for the error's category forbids it.
pub fn is_pointless(policy: &RetryPolicy, outcome: &Outcome) -> bool {
    policy.attempts == 0 || forbids_retry(&policy.no_retry_exit_codes, outcome)
}

/// Whether an attempt that ended like this forbids another one, with these exit codes listed.
pub fn forbids_retry(no_retry_exit_codes: &[u8], outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Exit { code } => no_retry_exit_codes.iter().any(|c| i32::from(*c) == *code),
        Outcome::Signal { .. } | Outcome::Timeout | Outcome::Oom | Outcome::Lost => false,
        Outcome::SpawnError { reason } => *reason != SpawnFailure::System,
        Outcome::Cancelled => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use proptest::prelude::*;

    fn report(outcome: Outcome) -> AttemptReport {
        let t = Timestamp::from_millis(0);
        AttemptReport::bare(outcome, t, t, "why")
    }

    fn policy(attempts: u32) -> RetryPolicy {
        RetryPolicy { attempts, backoff: Backoff::default(), no_retry_exit_codes: vec![2] }
    }

    #[test]
    fn exponential_backoff_doubles_up_to_its_limit() {
        let backoff = Backoff { max: Some(Duration::from_secs(5)), ..Backoff::default() };
        let waits: Vec<_> = (1..=5).map(|n| backoff.wait(n, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn the_budget_is_spent_by_finishes() {
        let failed = report(Outcome::Exit { code: 1 });
        assert!(matches!(decide(&policy(3), 0, &failed, 0.0), Verdict::Retry { .. }));
        assert!(matches!(decide(&policy(3), 1, &failed, 0.0), Verdict::Retry { .. }));
        assert!(matches!(decide(&policy(3), 2, &failed, 0.0), Verdict::Fail { .. }));
    }

    #[test]
    fn what_cannot_get_better_is_not_retried() {
        for outcome in [
            Outcome::Exit { code: 2 },
            Outcome::Cancelled,
            Outcome::SpawnError { reason: SpawnFailure::NotFound },
            Outcome::SpawnError { reason: SpawnFailure::NotExecutable },
        ] {
            assert!(matches!(decide(&policy(3), 0, &report(outcome), 0.0), Verdict::Fail { .. }), "{outcome}");
        }
        assert_eq!(decide(&policy(3), 2, &report(Outcome::Lost), 0.0), Verdict::Release);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_past_its_limit_nor_below_its_jitter(
            ms in 0u64..10_000_000, max in 0u64..10_000_000, n in 0u32..2000, jitter in 0.0f64..=1.0, dice in 0.0f64..1.0,
        ) {
            let backoff = Backoff { kind: BackoffKind::Exponential, delay: Duration::from_millis(ms), max: Some(Duration::from_millis(max)), jitter };
            let wait = backoff.wait(n, dice);
            prop_assert!(wait <= Duration::from_millis(max));
            let full = Backoff { jitter: 0.0, ..backoff }.wait(n, dice);
            prop_assert!(wait.as_secs_f64() >= full.as_secs_f64() * (1.0 - jitter) - 1e-6);
        }
    }
}
