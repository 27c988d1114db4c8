//! `jobber rebuild`, `export` and `import`: their arguments and their answers. `main` gives them
//! the work itself, because it has the configuration and the store.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::view::{Table, View};
use super::{Console, Exit, complain, parse_duration};

/// `jobber rebuild`.
#[derive(Debug, Clone, Default, Args)]
pub struct RebuildArgs {
    /// Change nothing; exit with 1 when an aggregate is not what the jobs add up to
    #[arg(long)]
    pub check: bool,
    /// How it gets the right to write.
    #[command(flatten)]
    pub turn: TurnArgs,
}

/// `jobber export`.
#[derive(Debug, Clone, Default, Args)]
pub struct ExportArgs {
    /// Where to write to [default: stdout]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What it does with the event log.
    #[command(flatten)]
    pub log: LogArgs,
    /// How it gets the right to write.
    #[command(flatten)]
    pub turn: TurnArgs,
}

/// `jobber import`.
#[derive(Debug, Clone, Default, Args)]
pub struct ImportArgs {
    /// What to read [default: stdin]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What it does with the event log.
    #[command(flatten)]
    pub log: LogArgs,
    /// How it gets the right to write.
    #[command(flatten)]
    pub turn: TurnArgs,
}

/// Whether the event log is looked at.
#[derive(Debug, Clone, Default, Args)]
pub struct LogArgs {
    /// Leave the event log alone: when it is lost, or its server away for good
    #[arg(long)]
    pub skip_log: bool,
}

/// How to wait for one's turn.
#[derive(Debug, Clone, Default, Args)]
pub struct TurnArgs {
    /// How long to wait until no server folds history any more [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub wait: Option<Duration>,
}

impl TurnArgs {
    /// How long to wait for another process that folds history.
    pub fn patience(&self) -> Duration {
        self.wait.unwrap_or(Duration::from_secs(10))
    }
}

/// The result of a recount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recounted {
    /// How many jobs were added up.
    pub jobs: u64,
    /// Aggregates that were not what the jobs add up to.
    pub differing: u64,
    /// The aggregates that differ, by name and day. Empty unless they were only compared.
    pub names: Vec<String>,
    /// Whether the aggregates were replaced, not only compared.
    pub replaced: bool,
    /// How many aggregates stay as they are, because some of their jobs may have expired.
    pub expired: u64,
}

impl View for Recounted {
    fn table(&self, out: &mut Table) {
        out.field("jobs added up", self.jobs.to_string());
        out.field(
            if self.replaced { "aggregates replaced" } else { "aggregates that differ" },
            self.differing.to_string(),
        );
        out.field("left as they are, jobs of theirs have expired", self.expired.to_string());
        if !self.names.is_empty() {
            out.text("Differing:", &self.names.join("\n"));
        }
    }
}

/// The amounts that an export or import has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// How many jobs were moved.
    pub jobs: u64,
    /// How many errors of failed attempts were moved.
    pub errors: u64,
    /// How many aggregates were moved.
    pub aggregates: u64,
    /// How many jobs and aggregates were not there before. Only for an import.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<u64>,
    /// The place in the event log up to which the history goes.
    pub cursor: String,
}

impl View for Moved {
    fn table(&self, out: &mut Table) {
        out.field("jobs", self.jobs.to_string());
        out.field("errors", self.errors.to_string());
        out.field("aggregates", self.aggregates.to_string());
        out.optional("new", self.new.map(|n| n.to_string()));
        out.field("up to", &self.cursor);
    }
}

/// What is said to the person who waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Word<'a> {
    /// Something to know.
    Note(&'a str),
    /// How far the work is.
    Progress {
        /// How many jobs are done.
        jobs: u64,
        /// The part of all work, from 0 to 1, if that is known.
        part: Option<f64>,
        /// What was done to them.
        what: &'static str,
    },
}

impl Word<'_> {
    /// So many of about `all` jobs.
    pub fn jobs(jobs: u64, all: Option<u64>, what: &'static str) -> Self {
        Self::Progress { jobs, part: all.filter(|all| *all > 0).map(|all| jobs as f64 / all as f64), what }
    }
}

/// Prints it. On a terminal the progress is one line that is written anew, elsewhere a line now and then.
fn say(word: Word<'_>, console: &mut Console) {
    /// How many jobs pass between two lines.
    const SELDOM: u64 = 10_000;
    match word {
        Word::Note(text) => console.note(text),
        Word::Progress { jobs, part, what } if console.shows_progress() => {
            console.own_progress(part, &format!("{jobs} jobs {what}"));
        }
        Word::Progress { jobs, what, .. } if jobs > 0 && jobs.is_multiple_of(SELDOM) => {
            console.note(&format!("{jobs} jobs {what}"));
        }
        Word::Progress { .. } => {}
    }
}

/// Runs `work`, and shows its result.
pub async fn rebuild(
    mut console: Console,
    work: impl AsyncFnOnce(&mut dyn FnMut(Word<'_>)) -> anyhow::Result<Recounted>,
) -> ExitCode {
    let done = work(&mut |word: Word<'_>| say(word, &mut console)).await;
    console.clear_progress();
    finish(console, done, |done| if done.replaced || done.differing == 0 { Exit::OK } else { Exit::ERROR })
}

/// Runs `work`, an export or import, and shows its result. With `told_on_stderr`, stdout holds the data itself.
pub async fn transfer(
    mut console: Console,
    told_on_stderr: bool,
    work: impl AsyncFnOnce(&mut dyn FnMut(Word<'_>)) -> anyhow::Result<Moved>,
) -> ExitCode {
    let done = work(&mut |word: Word<'_>| say(word, &mut console)).await;
    console.clear_progress();
    match done {
        Ok(done) if told_on_stderr => {
            let Moved { jobs, errors, aggregates, cursor, .. } = done;
            console.note(&format!("{jobs} jobs, {errors} errors and {aggregates} aggregates, up to {cursor}"));
            Exit::OK.into()
        }
        done => finish(console, done, |_| Exit::OK),
    }
}

fn finish<V: View>(mut console: Console, done: anyhow::Result<V>, exit: impl FnOnce(&V) -> Exit) -> ExitCode {
    match done {
        Ok(done) => match console.show(&done) {
            Ok(()) => exit(&done).into(),
            Err(error) => {
                console.report(&error);
                Exit::of_error(&error).into()
            }
        },
        Err(error) => {
            complain(&error);
            Exit::ERROR.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;

    #[test]
    fn what_was_done_reads_well() {
        let differing = Recounted {
            jobs: 12,
            differing: 1,
            names: vec!["resize on 2026-11-24".to_owned()],
            replaced: false,
            expired: 3,
        };
        insta::assert_snapshot!(rendered(&differing, Format::Jsonl), @r#"{"jobs":12,"differing":1,"names":["resize on 2026-11-24"],"replaced":false,"expired":3}"#);
        let table = rendered(&differing, Format::Table);
        assert!(table.contains("aggregates that differ") && table.contains("resize on 2026-11-24"), "{table}");
        let moved = Moved { jobs: 1, errors: 0, aggregates: 2, new: None, cursor: "0-3".to_owned() };
        insta::assert_snapshot!(rendered(&moved, Format::Jsonl), @r#"{"jobs":1,"errors":0,"aggregates":2,"cursor":"0-3"}"#);
    }
}
