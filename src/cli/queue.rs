//! `jobber queue`: shows, pauses, resumes and cleans the queue.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::values::parse_duration;
use super::view::{Table, View};
use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::domain::JobState;
use crate::queue::StateCounts;
use crate::wire::{CleanBody, Cleaned};

/// `jobber queue`.
#[derive(Debug, Clone, Subcommand)]
pub enum QueueCommand {
    /// How many jobs are in each state
    Status,
    /// Hand out no more jobs; running ones go on
    Pause,
    /// Hand out jobs again
    Resume,
    /// Take ended jobs out of the queue; their history stays
    Clean(CleanArgs),
}

/// `jobber queue clean`.
#[derive(Debug, Clone, Args)]
pub struct CleanArgs {
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
        out.field("queue", if self.paused { "paused" } else { "running" });
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

impl View for Cleaned {
    fn table(&self, out: &mut Table) {
        out.field("removed", self.removed.to_string());
    }
}

pub(super) async fn queue(command: &QueueCommand, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match command {
        QueueCommand::Status => {}
        QueueCommand::Pause => client.set_paused(true).await?,
        QueueCommand::Resume => client.set_paused(false).await?,
        QueueCommand::Clean(args) => {
            let state = match args.state {
                EndState::Completed => JobState::Completed,
                EndState::Failed => JobState::Failed,
            };
            let older_than_ms = u64::try_from(args.older_than.as_millis()).unwrap_or(u64::MAX);
            let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
            console.show(&client.clean(&CleanBody { state, older_than_ms, limit }).await?)?;
            return Ok(Exit::OK);
        }
    }
    console.show(&client.counts().await?)?;
    Ok(Exit::OK)
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;

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
