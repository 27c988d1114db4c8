//! `jobber list`: lists jobs, page by page or all.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::console::CLEAR;
use super::selection::SelectionArgs;
use super::view::{Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash, render_table, row};
use super::{CliError, Console, Exit, Format};
use crate::client::{Client, JobQuery};
use crate::domain::Clock;
use crate::store::JobCount;
use crate::wire::{JobListing, LARGEST_PAGE};

/// From one look to the next.
const STEP: Duration = Duration::from_secs(1);

/// `jobber list`.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Only say how many there are
    #[arg(long, conflicts_with_all = ["limit", "cursor", "all"])]
    count: bool,
    /// How many at most, or to a page with --all [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(LARGEST_PAGE)))]
    limit: Option<u16>,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// All pages
    #[arg(long)]
    all: bool,
    /// Show them anew every second until Ctrl-C; into a pipe, whenever they change
    #[arg(long, conflicts_with_all = ["count", "cursor", "all"])]
    watch: bool,
    #[command(flatten)]
    selection: SelectionArgs,
}

#[derive(Serialize)]
struct JobList(JobListing);

impl View for JobList {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::id("ID"),
                Column::text("NAME").rank(1),
                Column::state("STATE").rank(0),
                Column::plain("SUBMITTED").rank(3),
                Column::plain("ATTEMPTS").rank(5),
                Column::plain("OUTCOME").rank(4),
                Column::text("ERROR").rank(2),
            ],
            self.0.items.iter().map(|job| {
                row![
                    job.id.to_string(),
                    job.name.to_string(),
                    job.state.to_string(),
                    job.submitted_at,
                    job.attempts.to_string(),
                    or_dash(job.outcome.map(|o| o.to_string())),
                    first_line(job.error.as_deref().unwrap_or(""), LONGEST_CELL),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.0.items.iter().map(json_line).collect()
    }
}

impl View for JobCount {
    fn table(&self, out: &mut Table) {
        out.field("jobs", format!("{}{}", self.count, if self.capped { "+" } else { "" }));
    }
}

pub(super) async fn list(args: ListArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    const PAGE: u16 = 50;
    let now = Clock::system().now();
    let default = if args.all { LARGEST_PAGE } else { PAGE };
    let mut query = JobQuery {
        selection: args.selection.resolve(now, client).await?,
        limit: Some(usize::from(args.limit.unwrap_or(default))),
        cursor: args.cursor,
    };
    if args.count {
        console.show(&client.count_jobs(&query.selection).await?)?;
        return Ok(Exit::OK);
    }
    if args.watch {
        return watch(&query, client, console).await;
    }
    let mut list = match args.all {
        true => client.jobs(&query).await?,
        false => page(&query, client).await?,
    };
    while args.all && list.next_cursor.is_some() {
        // In `jsonl` each page is printed at once, so no more than a page is held in memory.
        if console.format == Format::Jsonl {
            console.show(&JobList(JobListing {
                items: std::mem::take(&mut list.items),
                next_cursor: None,
                scanned: None,
            }))?;
        }
        query.cursor = list.next_cursor.take();
        let page = client.jobs(&query).await?;
        list.items.extend(page.items);
        list.next_cursor = page.next_cursor;
    }
    let more = list.next_cursor.clone();
    console.show(&JobList(list))?;
    if let Some(cursor) = more {
        console.hint(&format!("there are more: add --all, or --cursor {cursor}"));
    }
    Ok(Exit::OK)
}

/// One page as long as it is asked for. A search may find less than that before it pauses.
async fn page(query: &JobQuery, client: &Client) -> Result<JobListing, CliError> {
    let wanted = query.limit.unwrap_or(usize::from(LARGEST_PAGE));
    let mut list = client.jobs(query).await?;
    while list.scanned.is_some() && list.items.len() < wanted && list.next_cursor.is_some() {
        let (limit, cursor) = (Some(wanted - list.items.len()), list.next_cursor.take());
        let more = client.jobs(&JobQuery { limit, cursor, ..query.clone() }).await?;
        list.items.extend(more.items);
        list.next_cursor = more.next_cursor;
        list.scanned = list.scanned.zip(more.scanned).map(|(before, more)| before + more);
    }
    Ok(list)
}

/// Shows the page again and again, over the one before on a terminal.
async fn watch(query: &JobQuery, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let is_drawn = console.format == Format::Table && console.is_terminal();
    // A server that can't be reached at all ends the command; later it may be away for a while.
    let mut looked = Ok(page(query, client).await?);
    let mut shown = None;
    if is_drawn {
        console.data(CLEAR.as_bytes())?;
    }
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        match looked {
            Ok(list) if is_drawn => {
                let text = render_table(&JobList(list), &console.look());
                console.redraw(&text)?;
            }
            Ok(list) if shown.as_ref() != Some(&list) => {
                console.show(&JobList(list.clone()))?;
                shown = Some(list);
            }
            Ok(_) => {}
            Err(error) if is_drawn => console.redraw(&format!("{error}; asking again\n"))?,
            Err(error) => console.note(&format!("warning: {error}; asking again")),
        }
        tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => return Ok(Exit::OK),
            _ = ticks.tick() => {}
        }
        looked = page(query, client).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::domain::{JobState, Outcome, Timestamp};
    use crate::store::JobSummary;

    #[test]
    fn a_list_reads_well_in_every_format() {
        let job = |id: &str, state, outcome, error: Option<&str>| JobSummary {
            id: id.parse().unwrap(),
            name: "resize".parse().unwrap(),
            state,
            submitted_at: Timestamp::from_millis(1_795_507_200_123),
            started_at: None,
            finished_at: None,
            attempts: 3,
            outcome,
            error: error.map(str::to_owned),
            worker: None,
            ran_ms: None,
            queue: None,
            group: None,
            array_index: None,
        };
        let list = JobList(JobListing {
            items: vec![
                job("a", JobState::Failed, Some(Outcome::Signal { signal: 11 }), Some("it \u{1b}[31mbroke")),
                job("order-42", JobState::Waiting, None, None),
            ],
            next_cursor: Some("c".into()),
            scanned: None,
        });
        insta::assert_snapshot!(rendered(&list, Format::Table), @r"
        ID        NAME    STATE    SUBMITTED             ATTEMPTS  OUTCOME              ERROR
        a         resize  failed   2026-11-24T08:00:00Z  3         signal 11 (SIGSEGV)  it \x1b[31mbroke
        order-42  resize  waiting  2026-11-24T08:00:00Z  3         -
        ");
        insta::assert_snapshot!(rendered(&list, Format::Jsonl), @r#"
        {"id":"a","name":"resize","state":"failed","submitted_at":"2026-11-24T08:00:00.123Z","started_at":null,"finished_at":null,"attempts":3,"outcome":{"kind":"signal","signal":11},"error":"it \u001b[31mbroke"}
        {"id":"order-42","name":"resize","state":"waiting","submitted_at":"2026-11-24T08:00:00.123Z","started_at":null,"finished_at":null,"attempts":3,"outcome":null,"error":null}
        "#);
        insta::assert_snapshot!(rendered(&list, Format::Json), @r#"
        {
          "items": [
            {
              "id": "a",
              "name": "resize",
              "state": "failed",
              "submitted_at": "2026-11-24T08:00:00.123Z",
              "started_at": null,
              "finished_at": null,
              "attempts": 3,
              "outcome": {
                "kind": "signal",
                "signal": 11
              },
              "error": "it \u001b[31mbroke"
            },
            {
              "id": "order-42",
              "name": "resize",
              "state": "waiting",
              "submitted_at": "2026-11-24T08:00:00.123Z",
              "started_at": null,
              "finished_at": null,
              "attempts": 3,
              "outcome": null,
              "error": null
            }
          ],
          "next_cursor": "c"
        }
        "#);
    }
}
