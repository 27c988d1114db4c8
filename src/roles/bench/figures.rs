//! What was measured: each figure with its rounds, as a table, as JSON, and against a result that was kept.

use std::fmt::Write as _;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// Which way a figure is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    /// More is better: jobs per second.
    Higher,
    /// Less is better: time, memory.
    Lower,
}

/// One figure: what each round measured, and their median.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) better: Better,
    pub(super) median: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
    pub(super) rounds: Vec<f64>,
}

impl Figure {
    /// `rounds` must not be empty.
    pub(super) fn new(name: impl Into<String>, unit: &str, better: Better, rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            name: name.into(),
            unit: unit.to_owned(),
            better,
            median: quantile(&sorted, 0.5),
            lowest: sorted[0],
            highest: sorted[sorted.len() - 1],
            rounds,
        }
    }

    /// Whether all rounds lie on one side of all rounds of the other, and the medians more than a twentieth apart.
    fn has_moved_from(&self, before: &Self) -> bool {
        let is_apart = self.lowest > before.highest || self.highest < before.lowest;
        is_apart && (self.median - before.median).abs() > before.median.abs() / 20.0
    }
}

/// The value below which this part of `sorted` lies, which must not be empty.
pub(super) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted[at.min(sorted.len() - 1)]
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Workload {
    pub(super) queue: String,
    pub(super) store: String,
    pub(super) binary: String,
    pub(super) jobs: usize,
    pub(super) rounds: usize,
    pub(super) concurrency: Vec<u32>,
}

/// The result of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BenchReport {
    /// The version of this format: [`BenchReport::FORMAT`].
    format: u32,
    /// The Jobber that was measured.
    version: String,
    /// How many CPUs it might use.
    cpus: usize,
    workload: Workload,
    figures: Vec<Figure>,
}

impl BenchReport {
    /// The format that this version writes.
    const FORMAT: u32 = 1;

    pub(super) fn new(workload: Workload, figures: Vec<Figure>) -> Self {
        Self {
            format: Self::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            workload,
            figures,
        }
    }

    /// Reads a result that `jobber bench -o json` has printed.
    ///
    /// # Errors
    /// When it is none, or of a newer format.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let report: Self = serde_json::from_str(text).context("this is no result of `jobber bench -o json`")?;
        ensure!(report.format <= Self::FORMAT, "a newer Jobber has written this result (format {})", report.format);
        Ok(report)
    }

    /// The result as JSON, in one piece.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers can be written")
    }

    /// A line for each figure.
    pub(super) fn table(&self) -> String {
        let mut text = format!("{:<40} {:>12} {:>12} {:>12}  unit\n", "figure", "median", "lowest", "highest");
        for Figure { name, unit, median, lowest, highest, .. } in &self.figures {
            let _ = writeln!(
                text,
                "{name:<40} {:>12} {:>12} {:>12}  {unit}",
                short(*median),
                short(*lowest),
                short(*highest)
            );
        }
        text
    }

    /// A line for each figure that both have, and what moved.
    pub(super) fn against(&self, kept: &Self) -> String {
        let mut text = String::new();
        if kept.workload != self.workload || kept.cpus != self.cpus {
            text.push_str("The workloads differ; so may the figures:\n");
            for report in [kept, self] {
                let workload = serde_json::to_string(&report.workload).expect("texts and numbers can be written");
                let _ = writeln!(text, "  {} on {} CPUs: {workload}", report.version, report.cpus);
            }
        }
        let _ = writeln!(text, "{:<40} {:>12} {:>12} {:>8}", "figure", "kept", "now", "ratio");
        for now in &self.figures {
            let Some(before) = kept.figures.iter().find(|figure| figure.name == now.name && figure.unit == now.unit)
            else {
                continue;
            };
            let moved = match (now.has_moved_from(before), now.median > before.median, now.better) {
                (false, ..) => "",
                (true, true, Better::Higher) | (true, false, Better::Lower) => "  better",
                (true, false, Better::Higher) | (true, true, Better::Lower) => "  WORSE",
            };
            let ratio = now.median / before.median;
            let _ = writeln!(
                text,
                "{:<40} {:>12} {:>12} {ratio:>8.2}{moved}",
                now.name,
                short(before.median),
                short(now.median)
            );
        }
        text
    }
}

/// Four digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(figures: Vec<Figure>) -> BenchReport {
        let workload = Workload {
            queue: "embedded".to_owned(),
            store: "embedded".to_owned(),
            binary: "hello".to_owned(),
            jobs: 10,
            rounds: 3,
            concurrency: vec![2],
        };
        BenchReport { version: "0".to_owned(), cpus: 2, ..BenchReport::new(workload, figures) }
    }

    #[test]
    fn a_figure_has_moved_only_when_its_rounds_lie_apart() {
        let figure = |rounds: &[f64]| Figure::new("pipeline", "jobs/s", Better::Higher, rounds.to_vec());
        let kept = report(vec![figure(&[100.0, 110.0, 90.0]), Figure::new("gone", "ms", Better::Lower, vec![1.0])]);
        let line = |rounds: &[f64]| report(vec![figure(rounds)]).against(&kept).lines().last().unwrap().to_owned();
        assert!(line(&[50.0, 60.0, 55.0]).ends_with("0.55  WORSE"), "{}", line(&[50.0, 60.0, 55.0]));
        assert!(line(&[150.0, 160.0, 155.0]).ends_with("1.55  better"));
        assert!(line(&[89.0, 50.0, 95.0]).ends_with("0.89"), "they overlap");
        assert!(line(&[110.5, 111.0, 112.0]).ends_with("1.11  better"));
        let time = Figure::new("time", "ms", Better::Lower, vec![2.0]);
        let later = report(vec![Figure { rounds: vec![3.0], median: 3.0, lowest: 3.0, highest: 3.0, ..time.clone() }]);
        assert!(later.against(&report(vec![time])).ends_with("1.50  WORSE\n"));
    }

    #[test]
    fn a_result_is_read_as_it_was_written_and_a_newer_one_refused() {
        let kept = report(vec![Figure::new("pipeline", "jobs/s", Better::Higher, vec![3.0, 1.0, 2.0])]);
        assert_eq!((kept.figures[0].median, kept.figures[0].lowest, kept.figures[0].highest), (2.0, 1.0, 3.0));
        assert_eq!(BenchReport::parse(&kept.to_json()).unwrap(), kept);
        let newer = BenchReport { format: BenchReport::FORMAT + 1, ..kept };
        let refusal = format!("{:#}", BenchReport::parse(&newer.to_json()).unwrap_err());
        assert!(refusal.contains("a newer Jobber"), "{refusal}");
        assert!(BenchReport::parse("{}").is_err());
    }

    #[test]
    fn other_workloads_are_said() {
        let kept = report(Vec::new());
        assert!(!kept.against(&kept).contains("differ"));
        let other = BenchReport { cpus: 8, ..kept.clone() };
        assert!(other.against(&kept).starts_with("The workloads differ"));
    }
}
