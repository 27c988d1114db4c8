//! The states of a job, and which may follow which: the state machine of every queue.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Ready, in the order of submission.
    Waiting,
    /// Not before a time, or not before other jobs have completed: submitted so, or between two attempts.
    Delayed,
    /// Ready, in the order of its priority, after all that is `Waiting`.
    Prioritized,
    /// A worker holds its lease.
    Active,
    /// The last attempt succeeded. Final.
    Completed,
    /// Ended badly: out of attempts, not to be retried, or cancelled. Final until an operator retries it.
    Failed,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [JobState; 6] = [
        JobState::Waiting,
        JobState::Delayed,
        JobState::Prioritized,
        JobState::Active,
        JobState::Completed,
        JobState::Failed,
    ];

    /// The word that stands in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::Delayed => "delayed",
            JobState::Prioritized => "prioritized",
            JobState::Active => "active",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
        }
    }

    /// Whether the job has ended.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Completed | JobState::Failed)
    }

    /// Whether a worker may take it now.
    pub fn is_ready(self) -> bool {
        matches!(self, JobState::Waiting | JobState::Prioritized)
    }

    /// Whether a job may go from this state to `next`: the state machine of every queue.
    pub fn may_become(self, next: JobState) -> bool {
        use JobState::*;
        match self {
            // Taken, put off, or cancelled before any start.
            Waiting | Prioritized => matches!(next, Active | Failed),
            // Due or promoted, or cancelled.
            Delayed => matches!(next, Waiting | Prioritized | Failed),
            // Settled: done, failed, retried now or later, given back.
            Active => matches!(next, Completed | Failed | Waiting | Prioritized | Delayed),
            // An operator retried it.
            Failed => matches!(next, Waiting | Prioritized),
            Completed => false,
        }
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for JobState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        JobState::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = JobState::ALL.iter().map(|s| s.as_str()).collect();
            format!("{text:?} is not a state; it is one of {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_are_left_only_by_a_retry() {
        for next in JobState::ALL {
            assert!(!JobState::Completed.may_become(next));
            assert_eq!(JobState::Failed.may_become(next), next.is_ready());
        }
    }
}
