//! A group of jobs as one: how many of it are in each state.

use crate::domain::{JobState, Timestamp};

/// How far the jobs of a group are; jobs that were removed don't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupTally {
    counts: [u64; JobState::ALL.len()],
    /// When the first of them was submitted; `None` of a group without jobs.
    pub submitted_at: Option<Timestamp>,
    /// When the last of those that have ended did.
    pub finished_at: Option<Timestamp>,
}

impl GroupTally {
    /// How many jobs are in this state.
    pub fn count(&self, state: JobState) -> u64 {
        self.counts[place(state)]
    }

    /// How many jobs the group has.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds jobs of one state: how many, when the first was submitted and when the last has ended.
    pub(super) fn add(&mut self, state: JobState, count: u64, first: Option<Timestamp>, last: Option<Timestamp>) {
        self.counts[place(state)] += count;
        self.submitted_at = [self.submitted_at, first].into_iter().flatten().min();
        self.finished_at = self.finished_at.max(last);
    }
}

fn place(state: JobState) -> usize {
    JobState::ALL.iter().position(|known| *known == state).expect("every state is one of all")
}
