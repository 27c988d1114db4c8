//! `jobber notify`: looks at the notices that were given up, and tests the targets.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::values::show_duration;
use super::view::{Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash, row};
use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::wire::{ChooseNotices, ChosenNotices, NoticeTargetView, NoticeTested, NoticeView, TestedNotices};

/// `jobber notify`.
#[derive(Debug, Clone, Subcommand)]
pub enum NotifyCommand {
    /// List the notices that were given up, or those that wait
    #[command(alias = "ls")]
    List(ListArgs),
    /// List the targets, with how much waits for each
    Targets,
    /// Try dead letters again
    Retry(ChooseArgs),
    /// Forget dead letters
    Drop(ChooseArgs),
    /// Send a sample to a target or to all, and say what became of it
    Test(TestArgs),
}

/// `jobber notify list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Those that wait, in place of those that were given up
    #[arg(long)]
    waiting: bool,
    /// Only those of this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Chooses dead letters.
#[derive(Debug, Clone, Args)]
pub struct ChooseArgs {
    /// The notices
    #[arg(value_name = "ID", required_unless_present_any = ["target", "all"])]
    ids: Vec<String>,
    /// All dead letters of this target
    #[arg(long, value_name = "NAME", conflicts_with = "ids")]
    target: Option<String>,
    /// All dead letters
    #[arg(long, conflicts_with_all = ["ids", "target"])]
    all: bool,
}

/// `jobber notify test`.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// The target; all if absent
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Serialize)]
struct Letters {
    items: Vec<NoticeView>,
}

impl View for Letters {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::id("ID"),
                Column::text("TARGET"),
                Column::plain("EVENT").rank(2),
                Column::plain("AT").rank(3),
                Column::plain("TRIES").rank(5),
                Column::plain("NEXT").rank(4),
                Column::text("PROBLEM"),
                Column::text("NOTICE").rank(2),
            ],
            self.items.iter().map(|letter| {
                row![
                    letter.id.clone(),
                    letter.target.clone(),
                    letter.event.as_str(),
                    letter.at,
                    letter.tries.to_string(),
                    letter.next_at,
                    first_line(letter.problem.as_deref().unwrap_or("-"), LONGEST_CELL),
                    first_line(&letter.notice.text, LONGEST_CELL),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

#[derive(Serialize)]
struct Targets {
    items: Vec<NoticeTargetView>,
}

impl View for Targets {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::text("TARGET").rank(0),
                Column::text("TO").rank(2),
                Column::plain("ON").rank(3),
                Column::plain("WAITING"),
                Column::plain("OLDEST").rank(2),
                Column::plain("DEAD"),
            ],
            self.items.iter().map(|target| {
                let events: Vec<_> = target.on.iter().map(|event| event.as_str()).collect();
                row![
                    target.name.clone(),
                    if target.configured { target.to.clone() } else { "(not configured any more)".to_owned() },
                    or_dash(Some(events.join(",")).filter(|events| !events.is_empty())),
                    target.waiting.to_string(),
                    target.oldest_waiting,
                    target.dead.to_string(),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

impl View for TestedNotices {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::text("TARGET").rank(0),
                Column::plain("RESULT"),
                Column::plain("TOOK").rank(3),
                Column::text("DETAIL").rank(2),
            ],
            self.items.iter().map(|tested| {
                row![
                    tested.target.clone(),
                    tested.result.clone(),
                    show_duration(Duration::from_millis(tested.took_ms)),
                    first_line(&tested.detail, LONGEST_CELL),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

impl View for ChosenNotices {
    fn table(&self, out: &mut Table) {
        for id in &self.ids {
            out.field("done", id);
        }
    }
}

pub(super) async fn notify(command: &NotifyCommand, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match command {
        NotifyCommand::List(args) => list(args, client, console).await,
        NotifyCommand::Targets => {
            console.show(&Targets { items: client.notice_targets().await? })?;
            Ok(Exit::OK)
        }
        NotifyCommand::Retry(args) => act("retry", args, client, console).await,
        NotifyCommand::Drop(args) => act("drop", args, client, console).await,
        NotifyCommand::Test(args) => test(args, client, console).await,
    }
}

async fn list(args: &ListArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    /// How many the server gives at once.
    const PAGE: u32 = 1000;
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let left = args.limit - u32::try_from(items.len()).unwrap_or(args.limit);
        let asked = left.min(PAGE);
        let page = client.notices(args.waiting, args.target.as_deref(), asked, cursor.as_deref()).await?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() || items.len() >= args.limit as usize {
            break;
        }
    }
    if cursor.is_some() {
        console.note(&format!("there are more than {}: see --limit", args.limit));
    }
    console.show(&Letters { items })?;
    Ok(Exit::OK)
}

async fn act(verb: &str, args: &ChooseArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let chosen = ChooseNotices { ids: args.ids.clone(), target: args.target.clone(), all: args.all };
    let done = client.act_on_notices(verb, &chosen).await?;
    console.show(&done)?;
    for id in &done.skipped {
        console.note(&format!("{id}: no dead letter of a target that is configured"));
    }
    if args.ids.is_empty() && done.count == 0 {
        console.note("there are no such dead letters");
    }
    Ok(if done.skipped.is_empty() { Exit::OK } else { Exit::NOT_FOUND })
}

async fn test(args: &TestArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let tested = client.test_notices(args.name.as_deref()).await?;
    console.show(&tested)?;
    if tested.items.is_empty() {
        return Err(CliError::Missing("the server's configuration has no [[notify]]".to_owned()));
    }
    let is_delivered = |tested: &NoticeTested| tested.result == "delivered";
    Ok(if tested.items.iter().all(is_delivered) { Exit::OK } else { Exit::ERROR })
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::domain::Timestamp;
    use crate::notices::{Notice, NoticeEvent};

    #[test]
    fn letters_targets_and_tests_read_well() {
        let at = Timestamp::from_millis(1_795_507_200_123);
        let notice = Notice { id: "0f1e2d".to_owned(), ..Notice::sample(NoticeEvent::Completed, "ops", at) };
        let letter = NoticeView {
            id: notice.id.clone(),
            target: "ops".to_owned(),
            event: notice.event,
            state: "dead".to_owned(),
            at,
            since: at,
            next_at: None,
            dead_at: Some(at),
            tries: 3,
            problem: Some("refused: 404 Not Found".to_owned()),
            notice,
        };
        let table = rendered(&Letters { items: vec![letter] }, Format::Table);
        let [head, row] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
        assert!(head.starts_with("ID ") && head.contains("PROBLEM"), "{table}");
        assert!(row.starts_with("0f1e2d ") && row.contains("completed") && row.contains("refused: 404 Not Found"));
        let target = NoticeTargetView {
            name: "ops".to_owned(),
            to: "https://hooks.example/...".to_owned(),
            on: vec![NoticeEvent::Failed, NoticeEvent::Unhealthy],
            waiting: 2,
            oldest_waiting: Some(at),
            dead: 1,
            configured: true,
        };
        let table = rendered(&Targets { items: vec![target] }, Format::Table);
        assert!(table.contains("https://hooks.example/...") && table.contains("failed,unhealthy"), "{table}");
        let tested = NoticeTested {
            target: "ops".to_owned(),
            id: "0f1e2d".to_owned(),
            result: "refused".to_owned(),
            detail: "404 Not Found".to_owned(),
            took_ms: 12,
        };
        let table = rendered(&TestedNotices { items: vec![tested] }, Format::Table);
        assert!(table.contains("refused") && table.contains("404 Not Found"), "{table}");
    }
}
