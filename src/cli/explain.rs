//! `jobber explain`: shows why a job is in its state.

use clap::Args;

use super::view::{Table, View};
use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::domain::JobId;
use crate::wire::Explanation;

/// `jobber explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The job
    #[arg(value_name = "ID", value_parser = JobId::parse)]
    id: JobId,
}

impl View for Explanation {
    fn table(&self, out: &mut Table) {
        let reasons: String = self.reasons.iter().map(|reason| format!("- {reason}\n")).collect();
        out.text(format!("{} is {}", self.id, self.state), &reasons);
    }
}

pub(super) async fn explain(args: &ExplainArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let explanation = client.explain(&args.id).await?;
    console.show(&explanation)?;
    Ok(Exit::OK)
}
