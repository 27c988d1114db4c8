//! `jobber queue`: shows, pauses, resumes and cleans queues.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::values::{parse_duration, show_duration};
use super::view::{Column, Table, View, json_line};
use super::{CliError, Console, Exit, complete};
use crate::client::Client;
use crate::domain::{Fairness, JobState, QueueLimit, QueueName, StartRate};
use crate::queue::StateCounts;
use crate::wire::{Backlog, CleanBody, Cleaned, QueueView};

/// `jobber queue`.
#[derive(Debug, Clone, Subcommand)]
pub enum QueueCommand {
    /// List the queues
    Ls,
    /// How many jobs are in each state, in one queue or in all together
    Status(OneOrAll),
    /// Hand out no more jobs of a queue, or of any; running ones go on
    Pause(OneOrAll),
    /// Hand out jobs again
    Resume(OneOrAll),
    /// Bound how much of a queue may run, in all workers together
    Limit(LimitArgs),
    /// Take ended jobs out of a queue, or of all; their history stays
    Clean(CleanArgs),
}

/// `jobber queue limit`. What is given replaces what was set before.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("limit").required(true).multiple(true))]
pub struct LimitArgs {
    /// The queue
    #[arg(value_name = "QUEUE", value_parser = QueueName::parse, add = complete::queues())]
    name: QueueName,
    /// How many of its jobs run at once
    #[arg(long, value_name = "N", group = "limit", value_parser = clap::value_parser!(u32).range(1..=i64::from(QueueLimit::MOST)))]
    concurrency: Option<u32>,
    /// How many of its jobs start in a time, such as 100/1m
    #[arg(long, value_name = "JOBS/DURATION", group = "limit", value_parser = StartRate::parse)]
    rate: Option<StartRate>,
    /// Among whom its slots go in turn: group
    #[arg(long, value_name = "AMONG", group = "limit", value_parser = Fairness::parse)]
    fair: Option<Fairness>,
    /// No limit
    #[arg(long, group = "limit", conflicts_with_all = ["concurrency", "rate", "fair"])]
    none: bool,
}

/// One queue, or all of them.
#[derive(Debug, Clone, Args)]
pub struct OneOrAll {
    /// The queue [default: all together]
    #[arg(value_name = "QUEUE", value_parser = QueueName::parse, add = complete::queues())]
    name: Option<QueueName>,
}

/// `jobber queue clean`.
#[derive(Debug, Clone, Args)]
pub struct CleanArgs {
    /// The queue [default: all]
    #[arg(value_name = "QUEUE", value_parser = QueueName::parse, add = complete::queues())]
    name: Option<QueueName>,
    /// Which jobs
    #[arg(long, value_enum)]
    state: EndState,
    /// Only those that ended longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    older_than: Duration,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EndState {
    Completed,
    Failed,
}

impl View for StateCounts {
    fn table(&self, out: &mut Table) {
        out.field("queue", status(self));
        for (name, count) in [
            ("waiting", self.waiting),
            ("prioritized", self.prioritized),
            ("delayed", self.delayed),
            ("active", self.active),
            ("completed", self.completed),
            ("failed", self.failed),
        ] {
            out.field(name, count.to_string());
        }
    }
}

impl View for QueueView {
    fn table(&self, out: &mut Table) {
        out.field("name", self.name.to_string());
        self.counts.table(out);
        if let Some(concurrency) = self.limit.concurrency {
            out.field("at once", format!("{concurrency} at most"));
        }
        if let Some(rate) = self.limit.rate {
            out.field("starts", format!("{} in {} at most", rate.jobs, show_duration(rate.per)));
        }
        if let Some(Fairness::Group) = self.limit.fair {
            out.field("slots", "in turn among groups");
        }
        out.field("workers", self.workers.to_string());
        if let Some(backlog) = self.backlog {
            out.field("backlog", shown(&backlog));
        }
    }
}

/// The jobs that are ready, and how long they will take one core.
fn shown(backlog: &Backlog) -> String {
    let Backlog { jobs, core_seconds, unknown_jobs, unplaceable_jobs, sampled } = *backlog;
    let (Some(seconds), Some(unknown)) = (core_seconds, unknown_jobs) else {
        return format!("{jobs} ready; history does not tell how long they take");
    };
    // No more digits than an estimate has.
    let rounded = if seconds < 10.0 { (seconds * 100.0).round() / 100.0 } else { seconds.round() };
    let time = show_duration(Duration::try_from_secs_f64(rounded).unwrap_or(Duration::MAX));
    let mut text = format!("{jobs} ready, some {time} of one core");
    if unknown > 0 {
        text.push_str(&format!(", {unknown} of them of unknown length"));
    }
    if let Some(unplaceable) = unplaceable_jobs.filter(|jobs| *jobs > 0) {
        text.push_str(&format!(", {unplaceable} of them for no worker that serves it"));
    }
    if sampled < jobs {
        text.push_str(&format!(" (by the first {sampled})"));
    }
    text
}

#[derive(Serialize)]
struct Queues {
    items: Vec<QueueView>,
}

impl View for Queues {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::text("QUEUE").rank(0),
                Column::state("STATUS").rank(1),
                Column::plain("WAITING").rank(1),
                Column::plain("PRIORITIZED").rank(6),
                Column::plain("DELAYED").rank(5),
                Column::plain("ACTIVE").rank(1),
                Column::plain("COMPLETED").rank(4),
                Column::plain("FAILED").rank(2),
                Column::plain("WORKERS").rank(3),
            ],
            self.items.iter().map(|queue| {
                let counts = &queue.counts;
                let mut row = vec![queue.name.to_string(), status(counts).to_owned()];
                let numbers = [counts.waiting, counts.prioritized, counts.delayed, counts.active];
                let ended = [counts.completed, counts.failed, queue.workers];
                row.extend(numbers.into_iter().chain(ended).map(|n| n.to_string()));
                row
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

fn status(counts: &StateCounts) -> &'static str {
    if counts.paused { "paused" } else { "running" }
}

impl View for Cleaned {
    fn table(&self, out: &mut Table) {
        out.field("removed", self.removed.to_string());
    }
}

pub(super) async fn queue(command: &QueueCommand, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let name = match command {
        QueueCommand::Ls => {
            console.show(&Queues { items: client.queues().await? })?;
            return Ok(Exit::OK);
        }
        QueueCommand::Status(OneOrAll { name }) => name,
        QueueCommand::Pause(OneOrAll { name }) => {
            client.set_paused(name.as_ref(), true).await?;
            name
        }
        QueueCommand::Resume(OneOrAll { name }) => {
            client.set_paused(name.as_ref(), false).await?;
            name
        }
        QueueCommand::Limit(LimitArgs { name, concurrency, rate, fair, none: _ }) => {
            let limit = QueueLimit { concurrency: *concurrency, rate: *rate, fair: *fair };
            console.show(&client.limit_queue(name, &limit).await?)?;
            return Ok(Exit::OK);
        }
        QueueCommand::Clean(args) => {
            let state = match args.state {
                EndState::Completed => JobState::Completed,
                EndState::Failed => JobState::Failed,
            };
            let older_than_ms = u64::try_from(args.older_than.as_millis()).unwrap_or(u64::MAX);
            let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
            console.show(&client.clean(args.name.as_ref(), &CleanBody { state, older_than_ms, limit }).await?)?;
            return Ok(Exit::OK);
        }
    };
    match name {
        Some(name) => console.show(&client.queue(name).await?)?,
        None => console.show(&client.counts().await?)?,
    }
    Ok(Exit::OK)
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;

    #[test]
    fn a_backlog_reads_well() {
        let all =
            Backlog { jobs: 40, core_seconds: Some(90.4), unknown_jobs: Some(0), unplaceable_jobs: None, sampled: 40 };
        assert_eq!(shown(&all), "40 ready, some 1m 30s of one core");
        let part = Backlog {
            jobs: 50_000,
            core_seconds: Some(3600.0),
            unknown_jobs: Some(7),
            unplaceable_jobs: Some(2),
            sampled: 1000,
        };
        assert_eq!(
            shown(&part),
            "50000 ready, some 1h 0m of one core, 7 of them of unknown length, 2 of them for no worker that serves it (by the \
             first 1000)"
        );
        let away = Backlog { core_seconds: None, unknown_jobs: None, ..all };
        assert_eq!(shown(&away), "40 ready; history does not tell how long they take");
    }

    #[test]
    fn counts_read_well() {
        let counts = StateCounts { waiting: 12, active: 3, paused: true, ..StateCounts::default() };
        insta::assert_snapshot!(rendered(&counts, Format::Table), @r"
        queue        paused
        waiting      12
        prioritized  0
        delayed      0
        active       3
        completed    0
        failed       0
        ");
        insta::assert_snapshot!(rendered(&counts, Format::Jsonl), @r#"{"waiting":12,"delayed":0,"prioritized":0,"active":3,"completed":0,"failed":0,"paused":true}"#);
    }
}
