//! The counts that a job's hash keeps: starts, ends, stalls.

use std::collections::HashMap;

use super::keys;

/// How often a job was started, and how that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) started: u32,
    pub(super) finished: u32,
    pub(super) crashes: u32,
    pub(super) unseen: u32,
    /// BullMQ's count of stalls.
    pub(super) stalls: u32,
    /// BullMQ's count of starts.
    pub(super) leases: u32,
}

impl Counts {
    /// Reads the counts from a job's hash.
    pub(super) fn of(fields: &HashMap<String, String>) -> Self {
        let number = |name: &str| fields.get(name).and_then(|n| n.parse().ok()).unwrap_or(0u32);
        let (leases, unseen, stalls) = (number("ats"), number(keys::UNSEEN), number("stc"));
        Self {
            started: leases.saturating_sub(unseen),
            finished: number("atm"),
            crashes: stalls.saturating_sub(number(keys::STALLS_BEFORE)),
            unseen,
            stalls,
            leases,
        }
    }

    /// Takes off the count a stall of a lease that had started nothing: it was no crash, and its
    /// attempt number is given again.
    pub(super) fn forgive_a_stall(&mut self) {
        self.crashes = self.crashes.saturating_sub(1);
        self.started = self.started.saturating_sub(1);
        self.unseen += 1;
    }
}
