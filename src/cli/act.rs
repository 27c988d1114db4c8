//! `jobber cancel`, `retry`, `promote` and `remove`: one verb on each of the jobs named.

use clap::Args;
use serde::Serialize;

use super::view::{Table, View, json_line};
use super::{CliError, Console, Exit};
use crate::client::{Client, ClientError};
use crate::domain::JobId;
use crate::wire::Acted;

/// Jobs to do something with.
#[derive(Debug, Clone, Args)]
pub struct IdsArgs {
    /// The jobs
    #[arg(value_name = "ID", required = true, value_parser = JobId::parse)]
    ids: Vec<JobId>,
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

#[derive(Serialize)]
#[serde(transparent)]
struct Acts(Vec<Acted>);

impl View for Acts {
    fn table(&self, out: &mut Table) {
        out.grid(&["ID", "STATUS"], self.0.iter().map(|act| vec![act.id.to_string(), act.status.clone()]));
    }

    fn lines(&self) -> Vec<String> {
        self.0.iter().map(json_line).collect()
    }
}

pub(super) async fn cancel(args: &CancelArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    each(&args.ids, console, async |id| client.cancel(id, args.reason.as_deref()).await).await
}

pub(super) async fn retry(args: &IdsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    each(&args.ids, console, async |id| client.retry(id).await).await
}

pub(super) async fn promote(args: &IdsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    each(&args.ids, console, async |id| client.promote(id).await).await
}

pub(super) async fn remove(args: &IdsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    each(&args.ids, console, async |id| client.remove(id).await).await
}

/// Tries every job, whatever becomes of the others, and exits with the highest code. Stops only when there is no point
/// in going on: nobody answers, or the token is wrong.
async fn each(
    ids: &[JobId],
    console: &mut Console,
    act: impl AsyncFn(&JobId) -> Result<Acted, ClientError>,
) -> Result<Exit, CliError> {
    let mut done = Acts(Vec::new());
    let mut exit = Exit::OK;
    for id in ids {
        match act(id).await {
            Ok(acted) => done.0.push(acted),
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
    if !done.0.is_empty() {
        console.show(&done)?;
    }
    Ok(exit)
}
