//! `jobber stats`: shows statistics of attempts, concurrency, categories, cost, durations, builds and throughput.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::values::{Moment, limits, percent};
use super::view::{Cell, Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash, row, show_time};
use super::{CliError, Console, Exit, complete};
use crate::client::{Client, StatsQuery};
use crate::domain::{Clock, QueueName};
use crate::stats::intervals::FEWEST;
use crate::stats::{Chance, Difference, Quantiles, Rate};
use crate::wire::ThroughputReport;
use crate::wire::failures::{AttemptsReport, CategoriesReport, ConcurrencyReport, CostReport, DurationsReport};

/// `jobber stats`.
#[derive(Debug, Clone, Args)]
pub struct StatsArgs {
    #[command(subcommand)]
    what: What,
    /// Only jobs of this binary
    #[arg(long, global = true, value_name = "NAME", add = complete::names())]
    name: Option<String>,
    /// Only jobs of this queue
    #[arg(long, global = true, value_name = "QUEUE", value_parser = QueueName::parse, add = complete::queues())]
    queue: Option<QueueName>,
    /// Only jobs submitted on that day or later: 7d, or 2026-11-24T00:00:00Z
    #[arg(long, global = true, value_name = "DURATION|RFC3339")]
    since: Option<Moment>,
    /// Only jobs submitted before that day (UTC); statistics are by day, so a moment within one is refused
    #[arg(long, global = true, value_name = "DURATION|DAY")]
    until: Option<Moment>,
    /// Print comma-separated values
    #[arg(long, global = true)]
    csv: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// What another attempt is worth: the chance to complete after so many failures
    Attempts {
        /// Answer whether so many attempts are worth it
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        attempts: u32,
    },
    /// Whether jobs fare worse beside others
    Concurrency,
    /// What jobs fail of, and how they end
    Categories,
    /// What failed attempts take, and what jobs use of what they are given
    Cost,
    /// How long jobs wait and run
    Durations,
    /// How the builds of a binary fare, and which does worse than those before it
    Builds {
        /// The binary; without one, the builds of all binaries that do worse
        #[arg(value_name = "NAME", add = complete::names())]
        of: Option<String>,
    },
    /// What happened in each of the last minutes
    Throughput {
        /// How many minutes
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1440))]
        minutes: u32,
    },
}

pub(super) async fn stats(args: StatsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let now = Clock::system().now();
    let more = match &args.what {
        What::Attempts { attempts } => vec![("attempts", attempts.to_string())],
        What::Throughput { minutes } => vec![("minutes", minutes.to_string())],
        _ => Vec::new(),
    };
    if matches!(args.what, What::Throughput { .. })
        && (args.name.is_some() || args.queue.is_some() || args.since.is_some() || args.until.is_some())
    {
        return Err(CliError::Usage("throughput is of all jobs and ends now: give --minutes alone".to_owned()));
    }
    if let What::Builds { of } = args.what {
        if args.queue.is_some() || args.since.is_some() || args.until.is_some() || args.csv {
            return Err(CliError::Usage("builds are told of all jobs of a binary: give its name alone".to_owned()));
        }
        return super::builds::show(of.or(args.name).as_deref(), client, console).await;
    }
    let (since, until) = (args.since.map(|m| m.resolve(now)), args.until.map(|m| m.resolve_day(now)));
    let ask =
        Ask { query: StatsQuery { name: args.name, queue: args.queue, since, until, more }, csv: args.csv, client };
    match args.what {
        What::Attempts { .. } => ask.show::<AttemptsReport>("attempts", console).await,
        What::Concurrency => ask.show::<ConcurrencyReport>("concurrency", console).await,
        What::Categories => ask.show::<CategoriesReport>("categories", console).await,
        What::Cost => ask.show::<CostReport>("cost", console).await,
        What::Durations => ask.show::<DurationsReport>("durations", console).await,
        What::Throughput { .. } => ask.show::<ThroughputReport>("throughput", console).await,
        What::Builds { .. } => unreachable!("answered above"),
    }
}

struct Ask<'a> {
    query: StatsQuery,
    csv: bool,
    client: &'a Client,
}

impl Ask<'_> {
    async fn show<R: View + DeserializeOwned>(&self, what: &str, console: &mut Console) -> Result<Exit, CliError> {
        if self.csv {
            console.data(&self.client.stats_csv(what, &self.query).await?)?;
        } else {
            console.show(&self.client.stats::<R>(what, &self.query).await?)?;
        }
        Ok(Exit::OK)
    }
}

/// Ten characters, of which `part` (0 to 1) is filled.
fn bar(part: f64) -> String {
    let full = (part.clamp(0.0, 1.0) * 10.0).round() as usize;
    "█".repeat(full) + &"·".repeat(10 - full)
}

/// A bar and the rate. With too few attempts for a rate, only the two numbers.
fn rate(rate: &Rate) -> String {
    match rate.rate {
        Some(part) => format!("{} {:>7}", bar(part), percent(part)),
        None => format!("{} of {} (fewer than {FEWEST})", rate.hits, rate.n),
    }
}

fn chance(chance: &Chance) -> String {
    match chance.chance {
        Some(part) => {
            format!("{:>7} ({}, on {})", percent(part), limits(chance.low, chance.high), chance.rests_on)
        }
        None => format!("from {} (fewer than {FEWEST})", chance.n),
    }
}

fn seconds(value: Option<f64>) -> String {
    or_dash(value.map(|value| if value < 10.0 { format!("{value:.2} s") } else { format!("{value:.0} s") }))
}

fn difference(difference: Option<Difference>) -> String {
    match difference {
        Some(d) => format!("{:+.1} points ({:+.1} to {:+.1})", d.difference * 100.0, d.low * 100.0, d.high * 100.0),
        None => "too few to tell".to_owned(),
    }
}

fn quantiles(q: &Quantiles, unit: impl Fn(f64) -> String) -> [String; 3] {
    [q.p50, q.p90, q.p99].map(|value| or_dash(value.map(&unit)))
}

fn item_lines<T: Serialize>(items: &[T]) -> Vec<String> {
    items.iter().map(json_line).collect()
}

impl View for ThroughputReport {
    fn table(&self, out: &mut Table) {
        let most = self.items.iter().map(|item| item.counts.completed + item.counts.failed).max().unwrap_or(0);
        out.grid(
            &[
                Column::plain("MINUTE").rank(0),
                Column::plain("SUBMITTED").rank(1),
                Column::plain("STARTED").rank(4),
                Column::plain("COMPLETED").rank(2),
                Column::plain("FAILED").rank(1),
                Column::plain("ATTEMPTS FAILED").rank(5),
                Column::plain("ENDED").rank(3),
            ],
            self.items.iter().map(|item| {
                let n = item.counts;
                let part = if most == 0 { 0.0 } else { (n.completed + n.failed) as f64 / most as f64 };
                let mut row = row![item.at];
                let counts = [n.submitted, n.started, n.completed, n.failed, n.attempts_failed];
                row.extend(counts.map(|n| Cell::from(n.to_string())));
                row.push(bar(part).into());
                row
            }),
        );
        if self.items.first().is_some_and(|first| first.at < self.whole_since) {
            out.field("note", format!("counts are whole since {}", show_time(self.whole_since)));
        }
    }

    fn lines(&self) -> Vec<String> {
        item_lines(&self.items)
    }
}

impl View for AttemptsReport {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::plain("ATTEMPT").rank(0),
                Column::plain("TRIED").rank(0),
                Column::plain("COMPLETES NOW").rank(0),
                Column::plain("95 %").rank(4),
                Column::text("IN THE END").rank(2),
                Column::text("WITHIN").rank(6),
                Column::plain("WINS").rank(1),
                Column::plain("CPU").rank(5),
                Column::plain("CPU A WIN").rank(3),
                Column::plain("OPEN").rank(7),
            ],
            self.items.iter().map(|line| {
                vec![
                    line.attempt.to_string(),
                    line.next.n.to_string(),
                    rate(&line.next),
                    limits(line.next.low, line.next.high),
                    chance(&line.completes),
                    chance(&line.allowed),
                    percent(line.wins),
                    seconds(line.cpu_seconds),
                    seconds(line.cpu_seconds_a_win),
                    line.undecided.to_string(),
                ]
            }),
        );
        out.text(format!("Are {} attempts worth it?", self.worth.attempts), &self.worth.answer);
        if let Some(caveat) = &self.caveat {
            out.field("note", caveat);
        }
    }

    fn lines(&self) -> Vec<String> {
        item_lines(&self.items)
    }
}

impl View for ConcurrencyReport {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::plain("BESIDE").rank(0),
                Column::plain("JOBS").rank(1),
                Column::plain("COMPLETED").rank(0),
                Column::plain("95 %").rank(3),
                Column::plain("ATTEMPTS").rank(4),
                Column::plain("SUCCEEDED").rank(2),
                Column::plain("95 %").rank(5),
            ],
            self.levels.iter().map(|line| {
                vec![
                    line.jobs_beside.to_string(),
                    line.completed.n.to_string(),
                    rate(&line.completed),
                    limits(line.completed.low, line.completed.high),
                    line.succeeded.n.to_string(),
                    rate(&line.succeeded),
                    limits(line.succeeded.low, line.succeeded.high),
                ]
            }),
        );
        out.field("alone", format!("{} of {} first attempts", rate(&self.alone), self.alone.n));
        out.field("beside others", format!("{} of {} first attempts", rate(&self.beside), self.beside.n));
        out.field("alone less beside", difference(self.difference));
        out.field("within job names", format!("{} (names with both: {})", difference(self.within_names), self.names));
        out.field("note", &self.note);
    }

    fn lines(&self) -> Vec<String> {
        item_lines(&self.levels)
    }
}

impl View for CategoriesReport {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::text("CATEGORY").rank(0),
                Column::plain("FAILURES").rank(0),
                Column::plain("JOBS").rank(3),
                Column::plain("COMPLETED IN THE END").rank(1),
                Column::plain("95 %").rank(6),
                Column::plain("CPU").rank(4),
                Column::plain("OF ALL").rank(5),
                Column::plain("LAST SEEN").rank(3),
                Column::text("EXAMPLE").rank(2),
            ],
            self.items.iter().map(|line| {
                row![
                    line.name.clone(),
                    line.failures.to_string(),
                    line.jobs.to_string(),
                    rate(&line.completed),
                    limits(line.completed.low, line.completed.high),
                    seconds(Some(line.cpu_seconds)),
                    percent(line.cpu_share),
                    line.last_seen,
                    first_line(line.examples.first().map_or("", String::as_str), LONGEST_CELL),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        item_lines(&self.items)
    }
}

impl View for CostReport {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::text("NAME").rank(0),
                Column::text("CATEGORY").rank(0),
                Column::plain("FAILURES").rank(2),
                Column::plain("CPU").rank(3),
                Column::plain("OF ITS CPU").rank(1),
            ],
            self.items.iter().map(|line| {
                vec![
                    line.name.to_string(),
                    line.category.clone(),
                    or_dash(line.failures.map(|n| n.to_string())),
                    seconds(Some(line.cpu_seconds)),
                    format!("{} {:>7}", bar(line.cpu_share), percent(line.cpu_share)),
                ]
            }),
        );
        out.grid(
            &[
                Column::text("NAME").rank(0),
                Column::plain("ATTEMPTS").rank(6),
                Column::plain("CORES").rank(1),
                Column::plain("USED P50").rank(2),
                Column::plain("P90").rank(8),
                Column::plain("UTILISED").rank(7),
                Column::plain("SUGGESTED").rank(1),
                Column::plain("MEMORY LIMIT").rank(2),
                Column::plain("USED P50").rank(3),
                Column::plain("P99").rank(9),
                Column::plain("SUGGESTED").rank(2),
                Column::plain("OOM").rank(4),
            ],
            self.sizes.iter().map(|line| {
                let mib = |mib: f64| format!("{mib:.0} MiB");
                let [cores_p50, cores_p90, _] = quantiles(&line.cores_used, |cores| format!("{cores:.1}"));
                let [memory_p50, _, memory_p99] = quantiles(&line.memory_mib, mib);
                vec![
                    line.name.to_string(),
                    line.n.to_string(),
                    or_dash(line.cores.map(|n| n.to_string())),
                    cores_p50,
                    cores_p90,
                    or_dash(line.utilisation.map(percent)),
                    or_dash(line.suggested_cores.map(|n| n.to_string())),
                    or_dash(line.memory_limit_mib.map(mib)),
                    memory_p50,
                    memory_p99,
                    or_dash(line.suggested_memory_mib.map(|n| format!("{n} MiB"))),
                    line.out_of_memory.to_string(),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        item_lines(&self.items).into_iter().chain(item_lines(&self.sizes)).collect()
    }
}

impl View for DurationsReport {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::text("NAME").rank(0),
                Column::plain("JOBS").rank(2),
                Column::plain("WAITING P50").rank(1),
                Column::plain("P90").rank(4),
                Column::plain("P99").rank(6),
                Column::plain("ATTEMPTS").rank(5),
                Column::plain("RUNNING P50").rank(0),
                Column::plain("P90").rank(1),
                Column::plain("P99").rank(3),
            ],
            self.items.iter().map(|line| {
                let time = |value: f64| seconds(Some(value));
                let mut row = vec![line.name.to_string(), line.waiting.n.to_string()];
                row.extend(quantiles(&line.waiting, time));
                row.push(line.running.n.to_string());
                row.extend(quantiles(&line.running, time));
                row
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        item_lines(&self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::stats::{
        CategorySums, CostSums, Counts, ErrorFacts, ErrorSet, ErrorSetCounts, FailureCounts, KnownErrors, Label,
        ShardKey, SlimShard, StatShard,
    };
    use crate::stats::{co_running, sizing, survival};

    fn counts() -> Counts {
        let f = crate::domain::Fingerprint::from_bytes([1; 32]);
        let mut counts = Counts {
            completed_by_failures: [(0, 60), (1, 20), (2, 2)].into(),
            exhausted_by_failures: [(3, 2)].into(),
            completed_by_attempts: [(1, 60), (2, 20), (3, 2)].into(),
            failed_by_attempts: [(3, 2)].into(),
            undecided_by_failures: [(1, 6)].into(),
            cpu_us_by_failures: [(0, 90_000_000), (1, 60_000_000), (2, 1_000_000)].into(),
            attempts_by_beside: [(0, 60), (1, 40), (2, 3)].into(),
            successes_by_beside: [(0, 55), (1, 20), (2, 1)].into(),
            open: 6,
            first_attempts_by_start: [(0, 50), (1, 30), (2, 4)].into(),
            first_successes_by_start: [(0, 49), (1, 25), (2, 2)].into(),
            jobs_by_beside: [(0, 50), (1, 30), (2, 4)].into(),
            completed_by_beside: [(0, 49), (1, 25), (2, 2)].into(),
            failures: [(f, FailureCounts { attempts: 30, cpu_us: 2_000_000, wall_us: 9 })].into(),
            jobs_by_errors: [(ErrorSet::new([f]), ErrorSetCounts { jobs: 30, completed: 22, failed: 2 })].into(),
            cpu_us_succeeded: 6_000_000,
            cpu_us_failed: 3_000_000,
            ..Counts::default()
        };
        (0..100).for_each(|i| {
            counts.run_us.record(1_000_000 + 40_000 * i);
            counts.wait_ms.record(i);
            counts.core_percent.record(95);
            counts.peak_rss_kib.record(200 * 1024);
        });
        counts.attempts_by_cores = [(4, 100)].into();
        (counts.reserved_core_us, counts.reserved_cpu_us) = (4_000_000, 950_000);
        counts
    }

    fn shard(known: &mut KnownErrors) -> SlimShard {
        let day = crate::domain::Day::parse("2026-11-24").unwrap();
        let key = ShardKey { day, name: "resize".parse().unwrap() };
        SlimShard::of(StatShard { counts: counts(), ..StatShard::new(key) }, known)
    }

    fn known() -> KnownErrors {
        let at = crate::domain::Timestamp::from_millis(1_795_507_200_000);
        let label = Label::Category("image-processing-error".parse().unwrap());
        let facts = ErrorFacts { label, first_seen: at, last_seen: at };
        let mut known = KnownErrors::default();
        known.learn(crate::domain::Fingerprint::from_bytes([1; 32]), Some(facts));
        known
    }

    #[test]
    fn minutes_read_well() {
        let report: ThroughputReport = serde_json::from_value(serde_json::json!({
            "step_ms": 60000, "whole_since": "2026-11-24T08:00:30Z", "items": [
                {"at": "2026-11-24T08:00:00Z", "submitted": 4, "started": 3, "completed": 1, "failed": 0, "attempts_failed": 2},
                {"at": "2026-11-24T08:01:00Z", "submitted": 0, "started": 1, "completed": 1, "failed": 1, "attempts_failed": 1},
            ],
        }))
        .unwrap();
        insta::assert_snapshot!(rendered(&report, Format::Table), @r"
        MINUTE                SUBMITTED  STARTED  COMPLETED  FAILED  ATTEMPTS FAILED  ENDED
        2026-11-24T08:00:00Z  4          3        1          0       2                █████·····
        2026-11-24T08:01:00Z  0          1        1          1       1                ██████████

        note  counts are whole since 2026-11-24T08:00:30Z
        ");
    }

    #[test]
    fn every_table_reads_well() {
        let names: std::collections::BTreeMap<_, _> = [("resize".parse().unwrap(), counts())].into();
        let items = survival::attempts(&names);
        let worth = survival::is_worth(&items, 2);
        let (mut categories, mut cost) = (CategorySums::with_examples(), CostSums::default());
        let mut known = known();
        let shard = shard(&mut known);
        categories.add(&[&shard], &known);
        cost.add(&shard, &known);
        let texts = [(crate::domain::Fingerprint::from_bytes([1; 32]), "bad pixel".to_owned())].into();
        let called = [("image-processing-error".parse().unwrap(), "Image processing error".to_owned())].into();
        let categories = categories.lines(&called, &texts);
        let all = [
            rendered(&AttemptsReport { items, worth, caveat: survival::caveat(&names) }, Format::Table),
            rendered(&co_running::beside(&names), Format::Table),
            rendered(&CategoriesReport { items: categories }, Format::Table),
            rendered(&CostReport { items: cost.lines(&names), sizes: sizing::sizes(&names) }, Format::Table),
            rendered(&DurationsReport { items: sizing::durations(&names) }, Format::Table),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        ATTEMPT  TRIED  COMPLETES NOW          95 %     IN THE END                WITHIN                    WINS    CPU     CPU A WIN  OPEN
        1        90     ███████···  66.7 %     56-76 %   97.2 % (90-100 %, on 4)   66.7 % (56-76 %, on 90)  66.7 %  1.00 s  1.50 s     0
        2        24     ████████··  83.3 %     64-93 %   91.7 % (74-99 %, on 4)    94.4 % (87-98 %, on 24)  27.8 %  2.50 s  3.00 s     6
        3        4      2 of 4 (fewer than 5)  15-85 %  from 4 (fewer than 5)      97.2 % (90-100 %, on 4)  2.8 %   0.25 s  0.50 s     0

        Are 2 attempts worth it?
          attempt 2 makes 27.8 % of all jobs complete that would not: of 24 jobs that were tried 2 times, 20 completed then (83.3 %, 95 % interval 64.1 % to 93.3 %); each cost 3.0 CPU seconds

        note  6 of 90 jobs have not ended yet, more than 5 %: the numbers favour jobs that end soon, and will change

        BESIDE  JOBS  COMPLETED              95 %      ATTEMPTS  SUCCEEDED              95 %
        0       50    ██████████  98.0 %     90-100 %  60        █████████·  91.7 %     82-96 %
        1       30    ████████··  83.3 %     66-93 %   40        █████·····  50.0 %     35-65 %
        2       4     2 of 4 (fewer than 5)  15-85 %   3         1 of 3 (fewer than 5)  6-79 %

        alone              ██████████  98.0 % of 50 first attempts
        beside others      ████████··  79.4 % of 34 first attempts
        alone less beside  +18.6 points (+5.3 to +34.9)
        within job names   +18.6 points (+5.3 to +34.9) (names with both: 1)
        note               alone and beside are first attempts by what ran when they started; observational: jobs were not assigned at random, so a difference need not be an effect; the rows by level only describe

        CATEGORY                FAILURES  JOBS  COMPLETED IN THE END  95 %     CPU     OF ALL  LAST SEEN             EXAMPLE
        Image processing error  30        30    █████████·  91.7 %    74-98 %  2.00 s  22.2 %  2026-11-24T08:00:00Z  bad pixel

        NAME    CATEGORY                FAILURES  CPU     OF ITS CPU
        resize  image-processing-error  30        2.00 s  ██········  22.2 %
        resize  none                    -         1.00 s  █·········  11.1 %

        NAME    ATTEMPTS  CORES  USED P50  P90  UTILISED  SUGGESTED  MEMORY LIMIT  USED P50  P99      SUGGESTED  OOM
        resize  100       4      0.9       0.9  23.8 %    1          -             200 MiB   200 MiB  240 MiB    0

        NAME    JOBS  WAITING P50  P90     P99     ATTEMPTS  RUNNING P50  P90     P99
        resize  100   0.05 s       0.09 s  0.10 s  100       3.01 s       4.46 s  4.98 s
        ");
    }
}
