//! The conditions by which a command chooses jobs.

use std::time::Duration;

use clap::Args;

use super::reference::beginning;
use super::values::{Moment, parse_duration};
use super::{CliError, complete};
use crate::client::Client;
use crate::domain::outcome::signal_number;
use crate::domain::{GroupName, JobName, JobState, OutcomeKind, QueueName, Timestamp, WorkerId};
use crate::wire::JobSelection;

/// Conditions on jobs. All that are given must hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Conditions")]
pub(super) struct SelectionArgs {
    /// Only jobs in this state (repeatable, or with commas)
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<JobState>,
    /// Only jobs of this binary
    #[arg(long, value_name = "NAME", value_parser = JobName::parse, add = complete::names())]
    name: Option<JobName>,
    /// Only jobs of this queue
    #[arg(long, value_name = "QUEUE", value_parser = QueueName::parse, add = complete::queues())]
    queue: Option<QueueName>,
    /// Only jobs of this group
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse)]
    group: Option<GroupName>,
    /// Only jobs submitted since: 1h, 7d, or 2026-11-24T08:00:00Z
    #[arg(long, value_name = "DURATION|RFC3339")]
    since: Option<Moment>,
    /// Only jobs submitted before
    #[arg(long, value_name = "DURATION|RFC3339")]
    until: Option<Moment>,
    /// Only jobs of which an attempt failed with an error of this category, by id or name
    #[arg(long, value_name = "CATEGORY", add = complete::categories())]
    category: Option<String>,
    /// Only jobs of which an attempt failed with the error whose fingerprint begins like this
    #[arg(long, value_name = "DIGITS", add = complete::fingerprints())]
    fingerprint: Option<String>,
    /// Only jobs with this text in their id, their name or their error
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only jobs whose last attempt ended so (repeatable, or with commas): exit, signal, timeout, cancelled,
    /// oom, spawn_error or lost
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',')]
    outcome: Vec<OutcomeKind>,
    /// Only jobs whose last attempt exited with this code
    #[arg(long, value_name = "CODE")]
    exit_code: Option<u8>,
    /// Only jobs whose last attempt was ended by this signal: 11, SEGV or SIGSEGV
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal)]
    signal: Option<i32>,
    /// Only jobs whose last attempt was started by this worker: its id, or the beginning of one of a worker that lives
    #[arg(long, value_name = "WORKER", value_parser = WorkerId::parse, add = complete::workers())]
    worker: Option<WorkerId>,
    /// Only jobs whose last attempt ran for longer
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    longer_than: Option<Duration>,
    /// Only jobs whose last attempt ran for less
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    shorter_than: Option<Duration>,
}

fn parse_signal(text: &str) -> Result<i32, String> {
    signal_number(text).ok_or_else(|| format!("{text:?} is no signal"))
}

impl SelectionArgs {
    /// Chooses only jobs in this state.
    pub(super) fn only(&mut self, state: JobState) {
        self.state = vec![state];
    }

    /// The conditions for the server, given the present. It is asked which worker is meant.
    pub(super) async fn resolve(&self, now: Timestamp, client: &Client) -> Result<JobSelection, CliError> {
        let mut conditions = self.conditions(now);
        if let Some(worker) = conditions.worker.as_ref().filter(|worker| !worker.is_generated()) {
            let known: Vec<String> = client.workers().await?.into_iter().map(|worker| worker.id.to_string()).collect();
            let meant = WorkerId::parse(beginning("worker", worker.as_str(), &known)?);
            conditions.worker = Some(meant.map_err(|e| CliError::Usage(e.to_string()))?);
        }
        Ok(conditions)
    }

    /// The conditions as they were given.
    pub(super) fn conditions(&self, now: Timestamp) -> JobSelection {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        JobSelection {
            state: self.state.clone(),
            name: self.name.clone(),
            queue: self.queue.clone(),
            group: self.group.clone(),
            since: self.since.map(|moment| moment.resolve(now)),
            until: self.until.map(|moment| moment.resolve(now)),
            category: self.category.clone(),
            fingerprint: self.fingerprint.clone(),
            q: self.search.clone(),
            outcome: self.outcome.clone(),
            exit_code: self.exit_code,
            signal: self.signal,
            worker: self.worker.clone(),
            longer_than_ms: self.longer_than.map(ms),
            shorter_than_ms: self.shorter_than.map(ms),
        }
    }
}
