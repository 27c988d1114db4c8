//! `jobber binaries`: what jobs can be named after.

use clap::Args;

use super::values::show_size;
use super::view::{Column, Table, View, json_line, or_dash};
use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::wire::{BinaryListing, BinaryView, BuildView};

/// How many workers are named for each build.
const NAMED: usize = 3;

/// `jobber binaries`.
#[derive(Debug, Clone, Args)]
pub struct BinariesArgs {}

impl View for BinaryListing {
    fn table(&self, out: &mut Table) {
        let row = |item: &BinaryView| {
            let build = match &*item.builds {
                [] => None,
                [one] => Some(format!("{} ({})", one.build.digest.short(), show_size(one.build.bytes))),
                several => Some(format!("{} builds", several.len())),
            };
            vec![item.name.to_string(), item.workers.to_string(), or_dash(build), or_dash(item.trouble.clone())]
        };
        out.grid(
            &[
                Column::text("NAME").rank(0),
                Column::plain("WORKERS"),
                Column::plain("BUILD").rank(3),
                Column::text("TROUBLE").rank(2),
            ],
            self.items.iter().map(row),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

/// What is to be said of a binary of which workers have different builds.
fn differing(item: &BinaryView) -> Option<String> {
    if item.builds.len() < 2 {
        return None;
    }
    let show = |view: &BuildView| {
        let ids: Vec<_> = view.worker_ids.iter().take(NAMED).map(ToString::to_string).collect();
        let more = match view.workers.saturating_sub(ids.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{} on {}{more}", view.build.digest.short(), ids.join(", "))
    };
    let builds: Vec<_> = item.builds.iter().map(show).collect();
    Some(format!("{} builds of {}: {}", item.builds.len(), item.name, builds.join("; ")))
}

pub(super) async fn binaries(_: &BinariesArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let listing = client.binaries().await?;
    let is_complete = listing.complete;
    console.show(&listing)?;
    for text in listing.items.iter().filter_map(differing) {
        console.hint(&text);
    }
    if !is_complete {
        console.hint("there may be more: not every worker tells what it has, or none was heard of lately");
    }
    Ok(Exit::OK)
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::domain::{Build, BuildDigest};

    #[test]
    fn builds_that_differ_are_shown_and_told() {
        let build = |id: u8, workers: &[&str]| BuildView {
            build: Build { bytes: 48 << 10, digest: BuildDigest::of_build_id(&[id; 20]) },
            workers: workers.len(),
            worker_ids: workers.iter().map(|id| id.parse().unwrap()).collect(),
        };
        let item = |name: &str, builds: Vec<BuildView>| BinaryView {
            name: name.parse().unwrap(),
            workers: builds.iter().map(|view| view.workers).sum(),
            builds,
            trouble: None,
        };
        let resize = item("resize", vec![build(0xab, &["a", "b", "c", "d", "e"]), build(1, &["f"])]);
        let thumb = item("thumb", vec![build(2, &["a"])]);
        assert_eq!(differing(&thumb), None);
        assert_eq!(
            differing(&resize).unwrap(),
            "2 builds of resize: abababababab on a, b, c and 2 more; 010101010101 on f"
        );
        let listing = BinaryListing { items: vec![resize, thumb, item("old", vec![])], complete: true };
        insta::assert_snapshot!(rendered(&listing, Format::Table), @r"
        NAME    WORKERS  BUILD                    TROUBLE
        resize  6        2 builds                 -
        thumb   1        020202020202 (48.0 KiB)  -
        old     0        -                        -
        ");
    }
}
