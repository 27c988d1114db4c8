//! `jobber failures` and `jobber similar`.

use clap::Args;

use super::values::FilterArgs;
use super::view::{Table, View, first_line, json_line, or_dash, show_time};
use super::{CliError, Console, Exit};
use crate::client::{Client, StatsQuery};
use crate::domain::Clock;
use crate::wire::failures::FailuresReport;

/// `jobber failures`.
#[derive(Debug, Clone, Args)]
pub struct FailuresArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// How many at most [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: Option<u16>,
}

/// `jobber similar`.
#[derive(Debug, Clone, Args)]
pub struct SimilarArgs {
    /// What an attempt might say
    #[arg(value_name = "TEXT")]
    text: String,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,
}

impl View for FailuresReport {
    fn table(&self, out: &mut Table) {
        out.grid(
            &["COUNT", "CATEGORY", "NEAR", "FINGERPRINT", "FIRST SEEN", "LAST SEEN", "NAMES", "LAST JOB", "ERROR"],
            self.items.iter().map(|group| {
                let names: Vec<_> = group.names.iter().map(ToString::to_string).collect();
                vec![
                    group.count.to_string(),
                    group.category_name.clone(),
                    or_dash(group.similarity.map(|similarity| format!("{similarity:.2}"))),
                    group.fingerprint.to_string().chars().take(12).collect(),
                    or_dash(group.first_seen.map(show_time)),
                    or_dash(group.last_seen.map(show_time)),
                    names.join(","),
                    or_dash(group.samples.first().map(ToString::to_string)),
                    first_line(&group.text, 60),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn failures(args: FailuresArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let now = Clock::system().now();
    let (filter, mut more) = (args.filter, Vec::new());
    more.extend(filter.category.map(|category| ("category", category)));
    more.extend(filter.fingerprint.map(|digits| ("fingerprint", digits)));
    more.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    let (since, until) = (filter.since.map(|m| m.resolve(now)), filter.until.map(|m| m.resolve_day(now)));
    let report = client.failures(&StatsQuery { name: filter.name, since, until, more }).await?;
    console.show(&report)?;
    if report.total > report.items.len() {
        console.hint(&format!("there are {} different errors: raise --limit", report.total));
    }
    Ok(Exit::OK)
}

pub(super) async fn similar(args: &SimilarArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    console.show(&client.similar(&args.text, args.limit).await?)?;
    Ok(Exit::OK)
}
