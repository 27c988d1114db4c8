//! `jobber explain`: shows why a job is in its state.

use clap::Args;

use super::reference::{JobRef, Purpose, each_of, with_id};
use super::view::{Table, View};
use super::{CliError, Console, Exit, complete};
use crate::client::Client;
use crate::wire::Explanation;

/// `jobber explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The job: its id or the beginning of it, @last or @last-failed, several with commas
    #[arg(value_name = "ID", add = complete::jobs())]
    id: JobRef,
}

impl View for Explanation {
    fn table(&self, out: &mut Table) {
        let reasons: String = self.reasons.iter().map(|reason| format!("- {reason}\n")).collect();
        out.text(format!("{} is {}", self.id, self.state), &reasons);
    }
}

pub(super) async fn explain(args: &ExplainArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    for id in each_of(std::slice::from_ref(&args.id), client).await? {
        console.show(&with_id(&id, Purpose::Look, client, async |id| Ok(client.explain(id).await?)).await?)?;
    }
    Ok(Exit::OK)
}
