//! The counts that a job's hash keeps: starts, ends, stalls, and since when starts are noted.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::QueueError;
use super::connect::BullClient;
use super::{Inner, keys};

/// How often a job was started, and how that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Attempts that were started.
    pub(super) started: u32,
    /// Attempts that spent the budget.
    pub(super) finished: u32,
    /// Attempts in a row that were lost with their workers.
    pub(super) crashes: u32,
    /// Leases that started nothing.
    pub(super) unstarted: u32,
    /// BullMQ's count of stalls.
    pub(super) stalls: u32,
    /// BullMQ's count of starts.
    pub(super) leases: u32,
}

impl Counts {
    /// Reads the counts from a job's hash.
    pub(super) fn of(fields: &HashMap<String, String>) -> Self {
        let number = |name: &str| fields.get(name).and_then(|n| n.parse().ok()).unwrap_or(0u32);
        let (leases, unstarted, stalls) = (number("ats"), number(keys::UNSTARTED), number("stc"));
        Self {
            started: leases.saturating_sub(unstarted),
            finished: number("atm"),
            crashes: stalls.saturating_sub(number(keys::STALLS_BEFORE)),
            unstarted,
            stalls,
            leases,
        }
    }

    /// Takes off the count a stall of a lease that had started nothing: it was no crash, and its
    /// attempt number is given again.
    pub(super) fn forgive_stall(&mut self) {
        self.crashes = self.crashes.saturating_sub(1);
        self.started = self.started.saturating_sub(1);
        self.unstarted += 1;
    }
}

/// The counts of a job that was just taken. Only a job that was started before needs a look at its hash.
pub(super) async fn of_taken(inner: &Inner, job: &bullmq::Job) -> Result<(Arc<BullClient>, Counts), QueueError> {
    let redis = inner.link.get().await?;
    if job.attempts_started() <= 1 {
        let finished = job.attempts_made();
        return Ok((redis, Counts { started: 1, finished, crashes: 0, unstarted: 0, stalls: 0, leases: 1 }));
    }
    let names = ["ats", "atm", "stc", keys::STALLS_BEFORE, keys::UNSTARTED, keys::SPAWNED, keys::STALLS_SEEN];
    let mut get = redis::cmd("HMGET");
    get.arg(inner.keys.job(job.id())).arg(&names);
    let values: Vec<Option<String>> = inner.link.call(redis.queue.connection().cmd(&mut get)).await?;
    let fields = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect();
    let mut counts = Counts::of(&fields);
    let number = |name: &str| fields.get(name).and_then(|n: &String| n.parse().ok()).unwrap_or(0u32);
    if counts.stalls > number(keys::STALLS_SEEN) {
        // The lease before this one was lost.
        let mut note = redis::cmd("EVAL");
        note.arg(keys::SET_IF_THERE).arg(1).arg(inner.keys.job(job.id())).arg(keys::STALLS_SEEN).arg(counts.stalls);
        let is_noted = fields.contains_key(keys::SPAWNED) || !is_of_older_version(inner, &redis, job).await?;
        if is_noted && number(keys::SPAWNED) + 1 != counts.leases {
            counts.forgive_stall();
            // Absolute numbers: another try after a lost answer does not count twice.
            note.arg(keys::UNSTARTED).arg(counts.unstarted);
            note.arg(keys::STALLS_BEFORE).arg(number(keys::STALLS_BEFORE) + 1);
        }
        inner.link.call(redis.queue.connection().cmd::<()>(&mut note)).await?;
    }
    Ok((redis, counts))
}

/// Notes that from now on workers note each start: before this process submits or takes its first job. Only the first
/// process of all changes anything.
pub(super) async fn note_starts(inner: &Inner, redis: &BullClient) -> Result<(), QueueError> {
    let note = async || {
        let mut set = redis::cmd("SET");
        set.arg(inner.keys.starts_noted_since()).arg(inner.opened_at.as_millis()).arg("NX");
        inner.link.call(redis.queue.connection().cmd::<()>(&mut set)).await
    };
    inner.starts_are_noted.get_or_try_init(note).await.copied()
}

/// Whether the job may have been started by a worker of version 0.1.0, which did not note its starts: then a lease that
/// was lost counts as one that had started something.
async fn is_of_older_version(inner: &Inner, redis: &BullClient, job: &bullmq::Job) -> Result<bool, QueueError> {
    let mut get = redis::cmd("GET");
    get.arg(inner.keys.starts_noted_since());
    let since: Option<u64> = inner.link.call(redis.queue.connection().cmd(&mut get)).await?;
    Ok(since.is_some_and(|since| job.timestamp() < since))
}
