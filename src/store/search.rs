//! What no index has: conditions that are looked for job by job, and the bound on how many one page looks at.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JobSummary;
use crate::domain::{Outcome, OutcomeKind, QueueName, WorkerId};

/// What to look for in each job of a list. All given conditions must hold. A list with any of them reads the jobs one
/// by one, so each page looks at a bounded number of them ([`JobPage::scanned`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Search {
    /// Only jobs with this text, in lower case, in their id, their name, or the line of their error.
    pub text: Option<String>,
    /// Only jobs whose last attempt that has ended ended in one of these ways; no condition when empty.
    pub outcomes: Vec<OutcomeKind>,
    /// Only jobs whose last attempt exited with this code.
    pub exit_code: Option<u8>,
    /// Only jobs whose last attempt was ended by this signal.
    pub signal: Option<i32>,
    /// Only jobs whose last attempt was started by this worker.
    pub worker: Option<WorkerId>,
    /// Only jobs of this queue: `Some(None)` is the default one.
    pub queue: Option<Option<QueueName>>,
    /// Only jobs whose last attempt has ended and ran for longer than this, in milliseconds.
    pub longer_than_ms: Option<u64>,
    /// Only jobs whose last attempt has ended and ran for less than this, in milliseconds.
    pub shorter_than_ms: Option<u64>,
}

impl Search {
    /// Whether it has no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a job meets all conditions.
    pub fn finds(&self, job: &JobSummary) -> bool {
        let has = |text: &str| contains(job.id.as_str(), text) || contains(job.name.as_str(), text);
        let says = |text: &str| job.error.as_deref().is_some_and(|error| contains(error, text));
        let duration = job.duration_ms();
        self.text.as_deref().is_none_or(|text| has(text) || says(text))
            && (self.outcomes.is_empty() || job.outcome.is_some_and(|outcome| self.outcomes.contains(&outcome.kind())))
            && self.exit_code.is_none_or(|code| job.outcome == Some(Outcome::Exit { code: i32::from(code) }))
            && self.signal.is_none_or(|signal| job.outcome == Some(Outcome::Signal { signal }))
            && self.worker.as_ref().is_none_or(|worker| job.worker.as_ref() == Some(worker))
            && self.queue.as_ref().is_none_or(|queue| job.queue == *queue)
            && self.longer_than_ms.is_none_or(|ms| duration.is_some_and(|took| took > ms))
            && self.shorter_than_ms.is_none_or(|ms| duration.is_some_and(|took| took < ms))
    }

    /// Whether only the record can tell, because an older version wrote the job's line.
    pub(super) fn needs_record(&self, job: &JobSummary) -> bool {
        self.worker.is_some() && job.worker.is_none() && job.attempts > 0
    }
}

/// Whether `text` has `part`, which is in lower case. Most texts are ASCII, and are not copied.
fn contains(text: &str, part: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(part);
    }
    let (text, part) = (text.as_bytes(), part.as_bytes());
    let Some((first, rest)) = part.split_first() else { return true };
    text.iter().enumerate().any(|(at, byte)| {
        byte.to_ascii_lowercase() == *first
            && text.get(at + 1..at + part.len()).is_some_and(|end| end.eq_ignore_ascii_case(rest))
    })
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobPage {
    /// The jobs, the last submitted first.
    pub items: Vec<JobSummary>,
    /// Gets the next page; `None` on the last.
    pub next: Option<String>,
    /// How many jobs a search looked at, or a list by conditions that no one index has together. It may have ended before
    /// the page was full: then `next` goes on with it. `None` for a list that an index answers.
    pub scanned: Option<u64>,
}

/// How many jobs match a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct JobCount {
    /// How many were counted.
    pub count: u64,
    /// Whether there may be more: the count reached its limit, or the bound of what is looked at job by job.
    pub capped: bool,
}

/// How long the search of one page may take. It leaves room for the rest of a request that should take at most 20 ms.
const PAGE_TIME: Duration = Duration::from_millis(12);
/// How long the search of a count may take.
const COUNT_TIME: Duration = Duration::from_millis(150);
/// How many jobs a search looks at in any case, so that each page gets on, however busy the host is.
const AT_LEAST: u64 = 100;

/// The bound of one search.
#[derive(Debug)]
pub(super) struct ScanBound {
    until: Instant,
    scanned: u64,
}

impl ScanBound {
    /// The bound of a page, from now on.
    pub(super) fn of_page() -> Self {
        Self { until: Instant::now() + PAGE_TIME, scanned: 0 }
    }

    /// The bound of a count, from now on.
    pub(super) fn of_count() -> Self {
        Self { until: Instant::now() + COUNT_TIME, scanned: 0 }
    }

    /// Counts one more job as looked at.
    pub(super) fn count(&mut self) {
        self.scanned += 1;
    }

    /// Whether the search must end here. Looks at the clock now and then.
    pub(super) fn is_reached(&self) -> bool {
        self.scanned >= AT_LEAST && self.scanned.is_multiple_of(16) && Instant::now() >= self.until
    }

    /// How many jobs were looked at.
    pub(super) fn scanned(&self) -> u64 {
        self.scanned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_whatever_its_case() {
        for (text, part, found) in [
            ("Resize", "size", true),
            ("resize", "sizes", false),
            ("DISK full", "disk full", true),
            ("aab", "ab", true),
            ("Größe ÄNDERN", "ändern", true),
            ("a", "", true),
            ("", "a", false),
        ] {
            assert_eq!(contains(text, part), found, "{part:?} in {text:?}");
        }
    }
}
