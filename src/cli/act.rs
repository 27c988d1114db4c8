//! `jobber cancel`, `retry`, `promote` and `remove`: one verb on each of the jobs named.

use clap::Args;
use serde::Serialize;

use super::values::Moment;
use super::view::{Table, View, json_line};
use super::{CliError, Console, Exit};
use crate::client::{Client, ClientError};
use crate::domain::{Clock, JobId, JobName};
use crate::wire::Acted;
use crate::wire::failures::{RetriedFailed, RetryFailed};

/// Jobs to do something with.
#[derive(Debug, Clone, Args)]
pub struct IdsArgs {
    /// The jobs
    #[arg(value_name = "ID", required = true, value_parser = JobId::parse)]
    ids: Vec<JobId>,
}

/// `jobber retry`.
#[derive(Debug, Clone, Args)]
pub struct RetryArgs {
    /// The jobs
    #[arg(value_name = "ID", required_unless_present_any = ["category", "fingerprint"], value_parser = JobId::parse)]
    ids: Vec<JobId>,
    /// All failed jobs of which an attempt failed with an error of this category, by id or name
    #[arg(long, value_name = "CATEGORY", conflicts_with = "ids")]
    category: Option<String>,
    /// All failed jobs of which an attempt failed with the error whose fingerprint begins like this
    #[arg(long, value_name = "DIGITS", conflicts_with = "ids")]
    fingerprint: Option<String>,
    /// Of them, only jobs of this binary
    #[arg(long, value_name = "NAME", conflicts_with = "ids", value_parser = JobName::parse)]
    name: Option<JobName>,
    /// Of them, only jobs submitted since: 1h, or 2026-11-24T08:00:00Z
    #[arg(long, value_name = "DURATION|RFC3339", conflicts_with = "ids")]
    since: Option<Moment>,
    /// Of them, only jobs submitted before
    #[arg(long, value_name = "DURATION|RFC3339", conflicts_with = "ids")]
    until: Option<Moment>,
    /// Of them, at most so many [default: 1000]
    #[arg(long, value_name = "N", conflicts_with = "ids", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: Option<u16>,
    /// Only say which
    #[arg(long, conflicts_with = "ids")]
    dry_run: bool,
}

impl View for RetriedFailed {
    fn table(&self, out: &mut Table) {
        let status = if self.dry_run { "would be retried" } else { "retried" };
        let done = self.retried.iter().map(|id| vec![id.to_string(), status.to_owned()]);
        let skipped = self.skipped.iter().map(|(id, why)| vec![id.to_string(), format!("skipped: {why}")]);
        out.grid(&["ID", "STATUS"], done.chain(skipped));
    }
}

/// `jobber cancel`.
#[derive(Debug, Clone, Args)]
pub struct CancelArgs {
    /// The jobs
    #[arg(value_name = "ID", required = true, value_parser = JobId::parse)]
    ids: Vec<JobId>,
    /// Why, for their history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Default, Serialize)]
struct Acts {
    items: Vec<Acted>,
}

impl View for Acts {
    fn table(&self, out: &mut Table) {
        out.grid(&["ID", "STATUS"], self.items.iter().map(|act| vec![act.id.to_string(), act.status.clone()]));
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn cancel(args: &CancelArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    each(&args.ids, console, async |id| client.cancel(id, args.reason.as_deref()).await).await
}

pub(super) async fn retry(args: &RetryArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    if !args.ids.is_empty() {
        return each(&args.ids, console, async |id| client.retry(id).await).await;
    }
    let now = Clock::system().now();
    let body = RetryFailed {
        category: args.category.clone(),
        fingerprint: args.fingerprint.clone(),
        name: args.name.clone(),
        since: args.since.map(|m| m.resolve(now)),
        until: args.until.map(|m| m.resolve(now)),
        limit: args.limit.map(usize::from),
        dry_run: args.dry_run,
    };
    let done = client.retry_failed(&body).await?;
    console.show(&done)?;
    if done.more {
        console.hint("there are more: once more, or raise --limit");
    }
    Ok(if done.skipped.is_empty() { Exit::OK } else { Exit::CONFLICT })
}

pub(super) async fn promote(args: &IdsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    each(&args.ids, console, async |id| client.promote(id).await).await
}

pub(super) async fn remove(args: &IdsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    each(&args.ids, console, async |id| client.remove(id).await).await
}

/// Tries every job, whatever becomes of the others, and exits with the highest code. Stops only
/// when there is no point in going on: the server does not answer, or the token is wrong.
async fn each(
    ids: &[JobId],
    console: &mut Console,
    act: impl AsyncFn(&JobId) -> Result<Acted, ClientError>,
) -> Result<Exit, CliError> {
    let mut done = Acts::default();
    let mut exit = Exit::OK;
    for id in ids {
        match act(id).await {
            Ok(acted) => done.items.push(acted),
            Err(error) => {
                let error = CliError::Client(error);
                exit = exit.max(Exit::of_error(&error));
                console.report(&error);
                if [Exit::UNREACHABLE, Exit::AUTH].contains(&Exit::of_error(&error)) {
                    break;
                }
            }
        }
    }
    if !done.items.is_empty() {
        console.show(&done)?;
    }
    Ok(exit)
}
