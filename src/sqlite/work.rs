//! Counts the work that SQLite does for the writes of a file: unlike a time, it does not change with what else runs.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Add, Sub};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::trace::{StmtRef, TraceEvent, TraceEventCodes};
use rusqlite::{Connection, StatementStatus};

/// What statements have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// How often one ran.
    pub(crate) runs: u64,
    /// Instructions of SQLite's virtual machine.
    pub(crate) steps: u64,
    /// Rows that were passed without an index.
    pub(crate) scanned: u64,
    /// Nanoseconds.
    pub(crate) nanos: u64,
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            steps: self.steps + other.steps,
            scanned: self.scanned + other.scanned,
            nanos: self.nanos + other.nanos,
        }
    }
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            runs: self.runs - other.runs,
            steps: self.steps - other.steps,
            scanned: self.scanned - other.scanned,
            nanos: self.nanos - other.nanos,
        }
    }
}

/// What the statements of a connection have done, by their text.
#[derive(Clone, Default)]
pub(crate) struct WorkCounter(Arc<Mutex<HashMap<String, Counted>>>);

#[derive(Default)]
struct Counted {
    work: Work,
    /// SQLite's own counts, which begin anew when the text is prepared again.
    runs: i32,
    steps: i32,
    scanned: i32,
}

impl WorkCounter {
    /// Counts from now on what this connection does.
    pub(super) fn watch(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let counter = self.clone();
        let note = move |event: TraceEvent<'_>| {
            if let TraceEvent::Profile(statement, time) = event {
                counter.note(&statement, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
        };
        connection.trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(note))
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<String, Counted>> {
        self.0.lock().expect("nothing panics while it counts")
    }

    fn note(&self, statement: &StmtRef<'_>, nanos: u64) {
        let mut all = self.counted();
        let counted = all.entry(statement.sql().into_owned()).or_default();
        let runs = statement.get_status(StatementStatus::Run);
        let steps = statement.get_status(StatementStatus::VmStep);
        let scanned = statement.get_status(StatementStatus::FullscanStep);
        if runs <= counted.runs {
            (counted.steps, counted.scanned) = (0, 0);
        }
        let more = |now: i32, before: i32| u64::from(now.saturating_sub(before).unsigned_abs());
        let work = Work { runs: 1, steps: more(steps, counted.steps), scanned: more(scanned, counted.scanned), nanos };
        *counted = Counted { work: counted.work + work, runs, steps, scanned };
    }

    /// How often this statement ran.
    pub(crate) fn runs(&self, sql: &str) -> u64 {
        self.counted().get(sql).map_or(0, |counted| counted.work.runs)
    }

    /// All work so far.
    pub(crate) fn total(&self) -> Work {
        self.counted().values().fold(Work::default(), |sum, counted| sum + counted.work)
    }
}

/// A line for each statement, the one that took longest first.
impl fmt::Display for WorkCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.counted();
        let mut lines: Vec<_> = all.iter().map(|(sql, counted)| (counted.work, sql)).collect();
        lines.sort_by_key(|(work, _)| std::cmp::Reverse(work.nanos));
        for (Work { runs, steps, scanned, nanos }, sql) in lines {
            let sql: String = sql.split_ascii_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect();
            writeln!(f, "{:9} us {runs:8} runs {steps:10} steps {scanned:8} scanned  {sql}", nanos / 1000)?;
        }
        Ok(())
    }
}
