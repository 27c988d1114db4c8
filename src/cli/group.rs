//! `jobber group`: shows how far a group of jobs is, and what its jobs gave back.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::view::{Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash};
use super::{CliError, Console, Exit, Format};
use crate::client::Client;
use crate::domain::GroupName;
use crate::wire::{GroupResult, GroupView};

/// `jobber group`.
#[derive(Debug, Clone, Subcommand)]
pub enum GroupCommand {
    /// How many of its jobs are in each state
    Status(OneGroup),
    /// What its jobs gave back, in the order of their indices
    Results(OneGroup),
}

/// A group.
#[derive(Debug, Clone, Args)]
pub struct OneGroup {
    /// The group
    #[arg(value_name = "GROUP", value_parser = GroupName::parse)]
    group: GroupName,
}

impl View for GroupView {
    fn table(&self, out: &mut Table) {
        out.field("group", self.group.as_str());
        out.field("jobs", self.total.to_string());
        out.field("progress", format!("{:.1}%", self.progress));
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
        out.optional("submitted", self.submitted_at);
        out.optional("finished", self.finished_at.filter(|_| self.ended() == self.total));
        out.optional("incomplete", self.behind.then_some("history is behind: there may be more"));
    }
}

#[derive(Serialize)]
struct Results {
    items: Vec<GroupResult>,
}

impl View for Results {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::plain("INDEX").rank(1),
                Column::id("ID").rank(2),
                Column::state("STATE").rank(0),
                Column::plain("OUTCOME").rank(4),
                Column::text("RESULT").rank(1),
                Column::text("ERROR").rank(3),
            ],
            self.items.iter().map(|job| {
                vec![
                    or_dash(job.index.map(|index| index.to_string())),
                    job.id.to_string(),
                    job.state.to_string(),
                    or_dash(job.outcome.map(|outcome| outcome.to_string())),
                    or_dash(job.result.as_ref().map(|result| first_line(&result.to_string(), LONGEST_CELL))),
                    first_line(job.error.as_deref().unwrap_or(""), LONGEST_CELL),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn group(command: &GroupCommand, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match command {
        GroupCommand::Status(OneGroup { group }) => console.show(&client.group(group).await?)?,
        GroupCommand::Results(OneGroup { group }) => results(group, client, console).await?,
    }
    Ok(Exit::OK)
}

/// Prints the results. In `jsonl` each is printed when it comes, so that no more than a few are held in memory.
async fn results(group: &GroupName, client: &Client, console: &mut Console) -> Result<(), CliError> {
    let mut coming = client.group_results(group).await?;
    let mut results = Results { items: Vec::new() };
    while let Some(some) = coming.next().await? {
        results.items.extend(some);
        if console.format == Format::Jsonl {
            console.show(&results)?;
            results.items.clear();
        }
    }
    if console.format == Format::Jsonl { Ok(()) } else { console.show(&results) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{captured, rendered, text};
    use super::*;
    use crate::cli::Globals;
    use crate::client::fake::{self, FakeServer};
    use crate::domain::{JobState, Outcome, Timestamp};
    use crate::store::GroupTally;

    fn result(index: u32) -> GroupResult {
        GroupResult {
            index: Some(index),
            id: format!("sim-{index}").parse().unwrap(),
            name: "sim".parse().unwrap(),
            state: JobState::Completed,
            outcome: Some(Outcome::Exit { code: 0 }),
            result: Some(json!({"energy": 1.5})),
            error: None,
            attempts: 1,
            finished_at: Some(Timestamp::from_millis(1_795_507_200_123)),
        }
    }

    #[test]
    fn a_group_reads_well() {
        let view = GroupView { total: 3, completed: 1, waiting: 2, progress: 33.3, ..nothing() };
        insta::assert_snapshot!(rendered(&view, Format::Table), @r"
        group        sims
        jobs         3
        progress     33.3%
        waiting      2
        prioritized  0
        delayed      0
        active       0
        completed    1
        failed       0
        ");
        insta::assert_snapshot!(rendered(&Results { items: vec![result(0), result(10)] }, Format::Table), @r#"
        INDEX  ID      STATE      OUTCOME  RESULT          ERROR
        0      sim-0   completed  exit 0   {"energy":1.5}
        10     sim-10  completed  exit 0   {"energy":1.5}
        "#);
    }

    fn nothing() -> GroupView {
        GroupView::of("sims".parse().unwrap(), &GroupTally::default(), false)
    }

    #[tokio::test]
    async fn results_come_line_by_line() {
        let body: String = [0, 1].map(|index| json_line(&result(index)) + "\n").concat();
        let server = FakeServer::start(vec![fake::answer(200, "application/jsonl", &body)]).await;
        let (mut console, out, _) = captured(&Globals { output: Some(Format::Jsonl), ..Globals::default() });
        let command = GroupCommand::Results(OneGroup { group: "sims".parse().unwrap() });
        group(&command, &server.client(), &mut console).await.unwrap();
        assert_eq!(text(&out), body);
        assert!(server.requests()[0].starts_with("GET /api/v1/groups/sims/results "));
    }
}
