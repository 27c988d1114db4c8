//! `jobber failures` and `jobber similar`.

use clap::Args;

use super::values::FilterArgs;
use super::view::{Cell, Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash, row};
use super::{CliError, Console, Exit, complete};
use crate::client::{Client, StatsQuery};
use crate::domain::{Clock, QueueName};
use crate::stats::DayCount;
use crate::wire::failures::{FailureGroup, FailuresReport};

/// `jobber failures`.
#[derive(Debug, Clone, Args)]
pub struct FailuresArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only jobs of this queue
    #[arg(long, value_name = "QUEUE", value_parser = QueueName::parse, add = complete::queues())]
    queue: Option<QueueName>,
    /// How many at most [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: Option<u16>,
    /// Show how many of each there were on each of so many last days, the oldest first
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=90))]
    trend: Option<u16>,
    /// Show the errors that the newest build of each binary brought
    #[arg(long, conflicts_with_all = ["queue", "limit", "trend", "category", "fingerprint", "since", "until"])]
    new: bool,
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

const HEAD: [Column; 9] = [
    Column::plain("COUNT").rank(0),
    Column::text("CATEGORY").rank(2),
    Column::plain("NEAR").rank(7),
    Column::plain("FINGERPRINT").rank(0),
    Column::plain("FIRST SEEN").rank(6),
    Column::plain("LAST SEEN").rank(3),
    Column::text("NAMES").rank(4),
    Column::id("LAST JOB").rank(5),
    Column::text("ERROR").rank(1),
];

/// A character for each day: a dot for none, else a bar whose height is the day's part of the highest.
fn sparkline(days: &[DayCount]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = days.iter().map(|day| day.count).max().unwrap_or(0).max(1) as f64;
    let bar = |day: &DayCount| match day.count {
        n if n <= 0 => '·',
        n => BARS[((n as f64 / most * BARS.len() as f64).ceil() as usize).clamp(1, BARS.len()) - 1],
    };
    days.iter().map(bar).collect()
}

impl View for FailuresReport {
    fn table(&self, out: &mut Table) {
        let row = |group: &FailureGroup| {
            let names: Vec<_> = group.names.iter().map(ToString::to_string).collect();
            row![
                group.count.to_string(),
                group.category_name.clone(),
                or_dash(group.similarity.map(|similarity| format!("{similarity:.2}"))),
                group.fingerprint.short(),
                group.first_seen,
                group.last_seen,
                names.join(","),
                or_dash(group.samples.first().map(ToString::to_string)),
                first_line(&group.text, LONGEST_CELL),
            ]
        };
        if self.items.iter().all(|group| group.trend.is_none()) {
            out.grid(&HEAD, self.items.iter().map(row));
            return;
        }
        let with_trend = |group: &FailureGroup| {
            let mut row = row(group);
            row.insert(1, Cell::Text(sparkline(group.trend.as_deref().unwrap_or_default())));
            row
        };
        let head: &[Column] = &HEAD;
        let (count, others) = head.split_at(1);
        let head = [count, &[Column::plain("TREND").rank(2)], others].concat();
        out.grid(&head, self.items.iter().map(with_trend));
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn failures(args: FailuresArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    if args.new {
        console.show(&client.new_failures(args.filter.name.as_deref()).await?)?;
        return Ok(Exit::OK);
    }
    let now = Clock::system().now();
    let (filter, mut more) = (args.filter, Vec::new());
    more.extend(filter.category.map(|category| ("category", category)));
    more.extend(filter.fingerprint.map(|digits| ("fingerprint", digits)));
    more.extend(args.trend.map(|days| ("trend", days.to_string())));
    more.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    let (since, until) = (filter.since.map(|m| m.resolve(now)), filter.until.map(|m| m.resolve_day(now)));
    let report = client.failures(&StatsQuery { name: filter.name, queue: args.queue, since, until, more }).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Day;

    #[test]
    fn a_trend_is_a_bar_for_each_day() {
        let day = Day::parse("2026-11-24").unwrap();
        let counts = |counts: &[i64]| counts.iter().map(|count| DayCount { day, count: *count }).collect::<Vec<_>>();
        assert_eq!(sparkline(&counts(&[0, 1, 50, 100])), "·▁▄█");
        assert_eq!(sparkline(&counts(&[0, 0])), "··");
    }
}
