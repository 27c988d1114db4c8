//! `jobber list`: lists jobs, page by page or all.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::values::{FilterArgs, parse_duration};
use super::view::{Table, View, first_line, json_line, or_dash, show_time};
use super::{CliError, Console, Exit, Format};
use crate::client::{Client, JobQuery};
use crate::domain::outcome::signal_number;
use crate::domain::{Clock, JobName, JobState, OutcomeKind, WorkerId};
use crate::store::JobCount;
use crate::wire::{JobListing, JobSelection, LARGEST_PAGE};

/// `jobber list`.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Only jobs in this state (repeatable, or with commas)
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<JobState>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only jobs with this text in id, name or error
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only jobs whose last attempt ended so: exit, signal, timeout, cancelled, oom, spawn_error or lost
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',')]
    outcome: Vec<OutcomeKind>,
    /// Only jobs whose last attempt exited with this code
    #[arg(long, value_name = "CODE")]
    exit_code: Option<u8>,
    /// Only jobs whose last attempt was ended by this signal: 11, SEGV or SIGSEGV
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal)]
    signal: Option<i32>,
    /// Only jobs whose last attempt was started by this worker
    #[arg(long, value_name = "ID")]
    worker: Option<WorkerId>,
    /// Only jobs whose last attempt ran for longer
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    longer_than: Option<Duration>,
    /// Only jobs whose last attempt ran for less
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    shorter_than: Option<Duration>,
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
}

#[derive(Serialize)]
struct JobList(JobListing);

impl View for JobList {
    fn table(&self, out: &mut Table) {
        out.grid(
            &["ID", "NAME", "STATE", "SUBMITTED", "ATTEMPTS", "OUTCOME", "ERROR"],
            self.0.items.iter().map(|job| {
                vec![
                    job.id.to_string(),
                    job.name.to_string(),
                    job.state.to_string(),
                    show_time(job.submitted_at),
                    job.attempts.to_string(),
                    or_dash(job.outcome.map(|o| o.to_string())),
                    first_line(job.error.as_deref().unwrap_or(""), 60),
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

fn parse_signal(text: &str) -> Result<i32, String> {
    signal_number(text).ok_or_else(|| format!("{text:?} is no signal"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn list(args: ListArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    const PAGE: u16 = 50;
    let now = Clock::system().now();
    let default = if args.all { LARGEST_PAGE } else { PAGE };
    let filter = args.filter;
    let mut query = JobQuery {
        selection: JobSelection {
            state: args.state,
            name: filter
                .name
                .map(|name| JobName::parse(&name))
                .transpose()
                .map_err(|e| CliError::Usage(e.to_string()))?,
            since: filter.since.map(|m| m.resolve(now)),
            until: filter.until.map(|m| m.resolve(now)),
            category: filter.category,
            fingerprint: filter.fingerprint,
            q: args.search,
            outcome: args.outcome,
            exit_code: args.exit_code,
            signal: args.signal,
            worker: args.worker,
            longer_than_ms: args.longer_than.map(millis),
            shorter_than_ms: args.shorter_than.map(millis),
        },
        limit: Some(usize::from(args.limit.unwrap_or(default))),
        cursor: args.cursor,
    };
    if args.count {
        console.show(&client.count_jobs(&query.selection).await?)?;
        return Ok(Exit::OK);
    }
    let wanted = usize::from(args.limit.unwrap_or(default));
    let mut list = client.jobs(&query).await?;
    // A search may find less than a page before it pauses.
    while !args.all && list.scanned.is_some() && list.items.len() < wanted && list.next_cursor.is_some() {
        query.limit = Some(wanted - list.items.len());
        query.cursor = list.next_cursor.take();
        let page = client.jobs(&query).await?;
        list.items.extend(page.items);
        list.next_cursor = page.next_cursor;
        list.scanned = list.scanned.zip(page.scanned).map(|(before, more)| before + more);
    }
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

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::domain::{Outcome, Timestamp};
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
