//! `jobber binaries`: what jobs can be named after.

use clap::Args;

use super::view::{Table, View, json_line, or_dash};
use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::wire::BinaryListing;

/// `jobber binaries`.
#[derive(Debug, Clone, Args)]
pub struct BinariesArgs {}

impl View for BinaryListing {
    fn table(&self, out: &mut Table) {
        let row = |item: &crate::wire::BinaryView| {
            vec![item.name.to_string(), item.workers.to_string(), or_dash(item.trouble.clone())]
        };
        out.grid(&["NAME", "WORKERS", "TROUBLE"], self.items.iter().map(row));
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn binaries(_: &BinariesArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let listing = client.binaries().await?;
    let is_complete = listing.complete;
    console.show(&listing)?;
    if !is_complete {
        console.hint("there may be more: not every worker tells what it has, or none was heard of lately");
    }
    Ok(Exit::OK)
}
