//! `jobber stats builds` and `jobber failures --new`: what builds do.

use std::time::Duration;

use super::values::{limits, percent, show_duration, show_size};
use super::view::{Cell, Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash, row};
use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::stats::builds::{BuildFailure, BuildLine, BuildsReport, Ratio, Spread};
use crate::stats::{Difference, Rate};
use crate::wire::failures::{NewFailures, NewFailuresReport, RegressionsReport};

/// How many lines the table of failures has at most.
const MOST_FAILURES: usize = 20;

pub(super) async fn show(name: Option<&str>, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match name {
        Some(name) => console.show(&client.builds(name).await?)?,
        None => console.show(&client.regressions(None).await?)?,
    }
    Ok(Exit::OK)
}

impl View for BuildsReport {
    fn table(&self, out: &mut Table) {
        out.field("name", self.name.as_str());
        for regression in &self.regressions {
            out.field("regression", &regression.says);
        }
        out.optional("outlook", self.outlook.as_deref());
        out.optional("not kept", (self.forgotten > 0).then(|| format!("{} builds before these", self.forgotten)));
        if self.builds.is_empty() {
            return;
        }
        out.grid(
            &[
                Column::plain("BUILD").rank(0),
                Column::plain("FIRST SEEN").rank(6),
                Column::plain("LAST SEEN").rank(3),
                Column::plain("RUN").rank(4),
                Column::plain("SUCCESS").rank(1),
                Column::plain("WALL P50/P90").rank(2),
                Column::plain("CPU P50/P90").rank(5),
                Column::plain("MEMORY P50/P90").rank(4),
            ],
            self.builds.iter().map(row),
        );
        if self.builds.iter().any(|line| line.against.is_some()) {
            out.grid(
                &[
                    Column::plain("BUILD").rank(0),
                    Column::plain("AGAINST").rank(3),
                    Column::plain("SUCCESS").rank(1),
                    Column::plain("WALL P50").rank(2),
                    Column::plain("CPU P50").rank(5),
                    Column::plain("MEMORY P50").rank(4),
                ],
                self.builds.iter().filter_map(against),
            );
        }
        let failures = self.builds.iter().flat_map(|line| line.failures.iter().map(move |failure| (line, failure)));
        let rows: Vec<_> = failures.take(MOST_FAILURES).map(|(line, one)| failure(line.digest.short(), one)).collect();
        if !rows.is_empty() {
            out.grid(&FAILURE_HEAD, rows);
        }
    }
}

impl View for RegressionsReport {
    fn table(&self, out: &mut Table) {
        let rows =
            self.items.iter().map(|one| row![one.name.to_string(), one.build.short(), one.last_seen, one.says.clone()]);
        out.grid(
            &[
                Column::text("NAME").rank(1),
                Column::plain("BUILD").rank(0),
                Column::plain("LAST SEEN").rank(3),
                Column::text("WHAT").rank(2),
            ],
            rows,
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

impl View for NewFailuresReport {
    fn table(&self, out: &mut Table) {
        let row = |(of, one): (&NewFailures, &BuildFailure)| {
            let mut row = failure(of.build.short(), one);
            row.remove(2);
            row.insert(0, of.name.as_str().into());
            row.insert(2, of.first_seen.into());
            row[3] = format!("{} of {}", one.attempts, of.attempts).into();
            row
        };
        let rows = self.items.iter().flat_map(|of| of.failures.iter().map(move |one| (of, one)));
        out.grid(
            &[
                Column::text("NAME").rank(2),
                Column::plain("BUILD").rank(1),
                Column::plain("FIRST SEEN").rank(4),
                Column::plain("COUNT").rank(3),
                Column::plain("FINGERPRINT").rank(0),
                Column::text("ERROR").rank(1),
            ],
            rows.map(row),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

const FAILURE_HEAD: [Column; 5] = [
    Column::plain("BUILD").rank(2),
    Column::plain("COUNT").rank(1),
    Column::plain("NEW").rank(3),
    Column::plain("FINGERPRINT").rank(0),
    Column::text("ERROR").rank(1),
];

fn failure(build: &str, failure: &BuildFailure) -> Vec<Cell> {
    row![
        build,
        failure.attempts.to_string(),
        if failure.is_new { "new" } else { "-" },
        failure.fingerprint.short(),
        or_dash(failure.text.as_deref().map(|text| first_line(text, LONGEST_CELL))),
    ]
}

fn row(line: &BuildLine) -> Vec<Cell> {
    let micros = |spread: Spread| {
        let show = |us: u64| show_duration(Duration::from_micros(us));
        format!("{} / {}", show(spread.p50), show(spread.p90))
    };
    let memory = |spread: Spread| format!("{} / {}", show_size(spread.p50 * 1024), show_size(spread.p90 * 1024));
    row![
        line.digest.short(),
        line.first_seen,
        line.last_seen,
        line.success.n.to_string(),
        rate(&line.success),
        or_dash(line.run_us.map(micros)),
        or_dash(line.cpu_us.map(micros)),
        or_dash(line.peak_kib.map(memory)),
    ]
}

fn against(line: &BuildLine) -> Option<Vec<String>> {
    let against = line.against.as_ref()?;
    Some(vec![
        line.digest.short().to_owned(),
        against.digest.short().to_owned(),
        or_dash(against.success.as_ref().map(points)),
        or_dash(against.run.as_ref().map(change)),
        or_dash(against.cpu.as_ref().map(change)),
        or_dash(against.peak.as_ref().map(change)),
    ])
}

/// A rate with its interval.
fn rate(rate: &Rate) -> String {
    match rate.rate {
        Some(part) => format!("{} ({})", percent(part), limits(rate.low, rate.high)),
        None => format!("{} of {}", rate.hits, rate.n),
    }
}

/// A difference of rates, in points of percent.
fn points(Difference { difference, low, high }: &Difference) -> String {
    format!("{:+.1} points ({:+.1} to {:+.1})", difference * 100.0, low * 100.0, high * 100.0)
}

/// By how many percent a median is larger.
fn change(Ratio { ratio, low, high }: &Ratio) -> String {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    format!("{:+.0} % ({:+.0} to {:+.0} %)", percent(*ratio), percent(*low), percent(*high))
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::domain::{BuildDigest, Fingerprint, Timestamp};
    use crate::stats::builds::Compared;

    fn line(n: u8, against: Option<u8>) -> BuildLine {
        let digest = |n: u8| BuildDigest::of_build_id(&[n; 6]);
        let spread = |p50| Some(Spread { p50, p90: 2 * p50 });
        let ratio = Some(Ratio { ratio: 1.38, low: 1.2, high: 1.51 });
        BuildLine {
            digest: digest(n),
            bytes: None,
            modified_at: None,
            first_seen: Timestamp::from_millis(0),
            last_seen: Timestamp::from_millis(60_000),
            running: 0,
            success: Rate::of(84, 90),
            failures: vec![BuildFailure {
                fingerprint: Fingerprint::from_bytes([n; 32]),
                text: Some("bad pixel".to_owned()),
                attempts: 6,
                is_new: against.is_some(),
            }],
            run_us: spread(1_500_000),
            cpu_us: spread(1_000_000),
            peak_kib: spread(2048),
            against: against.map(|n| Compared {
                digest: digest(n),
                success: Some(Difference { difference: -0.066, low: -0.13, high: -0.03 }),
                run: ratio,
                cpu: ratio,
                peak: None,
            }),
        }
    }

    #[test]
    fn builds_are_told_against_the_one_before() {
        let report = BuildsReport {
            name: "resize".parse().unwrap(),
            builds: vec![line(0x3f, Some(0x2a)), line(0x2a, None)],
            forgotten: 0,
            regressions: vec![],
            outlook: Some("build 3f3f3f3f3f3f is looked at next with 125 of them".to_owned()),
        };
        insta::assert_snapshot!(rendered(&report, Format::Table), @r"
        name     resize
        outlook  build 3f3f3f3f3f3f is looked at next with 125 of them

        BUILD         FIRST SEEN            LAST SEEN             RUN  SUCCESS           WALL P50/P90   CPU P50/P90    MEMORY P50/P90
        3f3f3f3f3f3f  1970-01-01T00:00:00Z  1970-01-01T00:01:00Z  90   93.3 % (86-97 %)  1.5 s / 3.0 s  1.0 s / 2.0 s  2.0 MiB / 4.0 MiB
        2a2a2a2a2a2a  1970-01-01T00:00:00Z  1970-01-01T00:01:00Z  90   93.3 % (86-97 %)  1.5 s / 3.0 s  1.0 s / 2.0 s  2.0 MiB / 4.0 MiB

        BUILD         AGAINST       SUCCESS                      WALL P50              CPU P50               MEMORY P50
        3f3f3f3f3f3f  2a2a2a2a2a2a  -6.6 points (-13.0 to -3.0)  +38 % (+20 to +51 %)  +38 % (+20 to +51 %)  -

        BUILD         COUNT  NEW  FINGERPRINT   ERROR
        3f3f3f3f3f3f  6      new  3f3f3f3f3f3f  bad pixel
        2a2a2a2a2a2a  6      -    2a2a2a2a2a2a  bad pixel
        ");
        let new = NewFailuresReport {
            items: vec![NewFailures {
                name: "resize".parse().unwrap(),
                build: BuildDigest::of_build_id(&[0x3f; 6]),
                first_seen: Timestamp::from_millis(0),
                attempts: 90,
                failures: line(0x3f, Some(0x2a)).failures,
            }],
        };
        insta::assert_snapshot!(rendered(&new, Format::Table), @r"
        NAME    BUILD         FIRST SEEN            COUNT    FINGERPRINT   ERROR
        resize  3f3f3f3f3f3f  1970-01-01T00:00:00Z  6 of 90  3f3f3f3f3f3f  bad pixel
        ");
    }
}
