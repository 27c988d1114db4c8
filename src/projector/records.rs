//! Folds one event into its job's record. Pure, and exhaustive over event kinds.
//!
//! Workers and the API write to the log independently, so events come late, twice, or never. The rules:
//!
//! - Any event can create the record; only the first one's job counts.
//! - Attempts are kept in order of number. Only the last may be open: when a later one shows up, or the job ends, those
//!   still open were lost with their workers. What a worker itself says of its attempt, however late, replaces that
//!   presumption; what it has said once stands.
//! - An attempt that has failed is marked with the fingerprint of what it said. One that was lost or cancelled has not.
//! - An attempt that was withdrawn by the worker that had announced it leaves no trace: its number is given again.
//! - Numbers have no holes. If an attempt before another is missing, its worker died too soon to report it, or was
//!   another program's. It is recorded as lost, too.
//! - Only news of the last attempt moves the job. Once a job has been put back, news of the attempts before that is old.

use crate::domain::{AttemptNumber, AttemptReport, Event, EventKind, JobState, Outcome, Timestamp, WorkerId};
use crate::events::Cursor;
use crate::failures::fingerprint;
use crate::store::{AttemptRecord, FirstEnd, JobRecord, RetriedAfter};

/// The error of an attempt that was closed without a report of its end.
const LOST: &str = "lost with its worker";
/// The error of an attempt that no worker reported at all.
const UNHEARD: &str = "lost: nothing was heard of this attempt";
/// How many unreported attempts in a row are recorded at most: the last of them. Jobs of another
/// system may come with any number.
const UNHEARD_AT_MOST: u32 = 100;

/// Folds the event at `at` into the record of its job; skips it when it has been folded before.
pub fn fold_job(record: &mut JobRecord, at: Cursor, event: &Event) {
    debug_assert_eq!(record.id, event.job.id, "an event belongs to the record of its own job");
    if at <= record.applied {
        return;
    }
    record.applied = at;
    match &event.kind {
        // The record was made from the event's job, so nothing else is left to do. Earlier events stand.
        EventKind::Submitted => record.announced = true,
        EventKind::AttemptStarted { attempt, worker, host, .. } => started(record, event.at, *attempt, worker, host),
        EventKind::AttemptWithdrawn { attempt, worker } => withdrawn(record, *attempt, worker),
        EventKind::AttemptFinished { attempt, worker, report, next_at } => {
            finished_attempt(record, event.at, *attempt, worker, report, *next_at);
        }
        EventKind::Finished { attempt, state, outcome, result, error } => {
            if ends(record, *attempt) {
                close_open(record, event.at);
                record.state = (*state).into();
                record.outcome = Some(*outcome);
                record.result = result.clone();
                record.error = error.clone();
                record.finished_at = Some(event.at);
                record.due_at = None;
            }
        }
        EventKind::Cancelled { reason } => {
            if !record.state.is_final() && record.cancel_requested.is_none() {
                record.cancel_requested = Some(reason.clone());
            }
        }
        EventKind::Retried { attempts } => retried(record, event.at, *attempts),
        EventKind::Removed => record.removed = true,
    }
}

fn started(record: &mut JobRecord, at: Timestamp, number: AttemptNumber, worker: &WorkerId, host: &str) {
    let i = match find(record, number) {
        // The end came first, and only the host was not known.
        Ok(i) if record.attempts[i].worker == *worker || is_reported(&record.attempts[i]) => {
            let attempt = &mut record.attempts[i];
            if attempt.worker == *worker && attempt.host.is_empty() {
                host.clone_into(&mut attempt.host);
            }
            return;
        }
        // The queue has given the number again: the worker that had it before started nothing.
        Ok(i) => {
            record.attempts.remove(i);
            i
        }
        Err(i) => i,
    };
    insert(record, i, new_attempt(number, worker, host, at), at);
}

/// Takes the last attempt back when its worker did not start it after all. An attempt stands if
/// another worker has started it, or if its end was reported. It also stands if a later attempt was
/// started, because then its number is spent.
fn withdrawn(record: &mut JobRecord, number: AttemptNumber, worker: &WorkerId) {
    let Ok(i) = find(record, number) else { return };
    let attempt = &record.attempts[i];
    if attempt.worker != *worker || is_reported(attempt) || i + 1 < record.attempts.len() {
        return;
    }
    record.attempts.remove(i);
    if record.state == JobState::Active {
        record.state = ready(record);
    }
}

fn finished_attempt(
    record: &mut JobRecord,
    at: Timestamp,
    number: AttemptNumber,
    worker: &WorkerId,
    report: &AttemptReport,
    next_at: Option<Timestamp>,
) {
    let i = match find(record, number) {
        Ok(i) if is_reported(&record.attempts[i]) => return,
        Ok(i) => {
            // The start under this number, if there was one, may have been another worker's.
            let attempt = &mut record.attempts[i];
            if attempt.worker != *worker {
                *attempt = new_attempt(number, worker, "", report.started_at);
            }
            i
        }
        Err(i) => {
            let attempt = new_attempt(number, worker, "", report.started_at);
            insert(record, i, attempt, at);
            i
        }
    };
    record.attempts[i].report = Some(report.clone());
    record.attempts[i].fingerprint = error_text(report).map(|text| fingerprint::of(&text));
    let is_last = i + 1 == record.attempts.len();
    if !is_last || is_old(record, number) || record.state.is_final() {
        return;
    }
    record.error = report.error.clone();
    record.due_at = next_at.filter(|due| *due > at);
    record.state = match next_at {
        Some(_) if record.due_at.is_some() => JobState::Delayed,
        Some(_) => ready(record),
        // The worker gave the job back without spending an attempt.
        None if report.outcome == Outcome::Lost => ready(record),
        // `finished` follows.
        None => JobState::Active,
    };
}

fn new_attempt(number: AttemptNumber, worker: &WorkerId, host: &str, started_at: Timestamp) -> AttemptRecord {
    let (worker, host) = (worker.clone(), host.to_owned());
    AttemptRecord { number, worker, host, started_at, report: None, fingerprint: None, build: None }
}

/// The error text of an attempt, if it failed.
pub(super) fn error_text(report: &AttemptReport) -> Option<String> {
    has_failed(&report.outcome)
        .then(|| fingerprint::canonical_text(&report.outcome, report.error.as_deref(), report.crash.as_deref()))
}

/// Whether an attempt with this outcome has failed. An attempt that was cancelled or lost with its worker has not.
pub(super) fn has_failed(outcome: &Outcome) -> bool {
    !outcome.is_success() && !matches!(outcome, Outcome::Lost | Outcome::Cancelled)
}

fn retried(record: &mut JobRecord, at: Timestamp, attempts: u32) {
    let has_started_since = record.attempts.last().is_some_and(|a| a.number.0 > attempts);
    let is_repeated =
        !record.state.is_final() && record.retried_after.is_some_and(|after| attempts <= after.attempts());
    if has_started_since || is_repeated {
        return;
    }
    close_open(record, at);
    let first = match record.retried_after {
        None => Some(FirstEnd { attempts, outcome: record.outcome }),
        // An older Jobber kept only the last put-back. So the first end of a job that it put back is unknown.
        Some(before) => before.first_end(),
    };
    record.retries = record.retries.saturating_add(1);
    record.retried_after = Some(match first {
        Some(first) => RetriedAfter::Known { attempts, first },
        None => RetriedAfter::Attempts(attempts),
    });
    record.state = ready(record);
    record.due_at = None;
    record.cancel_requested = None;
    clear_end(record);
}

/// Whether a `finished` event for this attempt (or for none) ends the job. It does not when the job
/// has ended, was put back since, or runs again. An attempt later than any known one ends it again.
fn ends(record: &JobRecord, attempt: Option<AttemptNumber>) -> bool {
    let last = record.attempts.last().map(|a| a.number);
    match attempt {
        None => !record.state.is_final(),
        Some(n) if is_old(record, n) => false,
        Some(n) => Some(n) > last || (Some(n) == last && !record.state.is_final()),
    }
}

/// The index of the attempt, or the index at which it belongs.
fn find(record: &JobRecord, number: AttemptNumber) -> Result<usize, usize> {
    record.attempts.binary_search_by_key(&number, |a| a.number)
}

/// Adds an attempt at its place. A last attempt makes the job active, whatever its state: a job that
/// had ended runs again when its end was logged but its worker died before it could tell the queue.
fn insert(record: &mut JobRecord, i: usize, attempt: AttemptRecord, at: Timestamp) {
    if i < record.attempts.len() || is_old(record, attempt.number) {
        // A later attempt has started, or the job was put back since, so this one can't be running any more.
        record.attempts.insert(i, attempt);
        close(&mut record.attempts[i], at);
        return;
    }
    close_open(record, at);
    let before = record
        .attempts
        .last()
        .map_or(0, |last| last.number.0)
        .max(attempt.number.0.saturating_sub(UNHEARD_AT_MOST + 1));
    for missing in before + 1..attempt.number.0 {
        let mut unheard = new_attempt(AttemptNumber(missing), &WorkerId::unknown(), "", attempt.started_at);
        unheard.report = Some(AttemptReport::bare(Outcome::Lost, attempt.started_at, attempt.started_at, UNHEARD));
        record.attempts.push(unheard);
    }
    record.attempts.push(attempt);
    if record.state.is_final() {
        clear_end(record);
    }
    record.state = JobState::Active;
    record.due_at = None;
}

/// Whether the job was put back after this attempt.
fn is_old(record: &JobRecord, number: AttemptNumber) -> bool {
    record.retried_after.is_some_and(|after| number.0 <= after.attempts())
}

fn close_open(record: &mut JobRecord, at: Timestamp) {
    record.attempts.iter_mut().for_each(|attempt| close(attempt, at));
}

fn close(attempt: &mut AttemptRecord, at: Timestamp) {
    if attempt.report.is_none() {
        attempt.report = Some(AttemptReport::bare(Outcome::Lost, attempt.started_at, at, LOST));
    }
}

/// Whether its worker reported the end. A report that was made here is a presumption.
fn is_reported(attempt: &AttemptRecord) -> bool {
    let is_presumed = |report: &AttemptReport| {
        report.outcome == Outcome::Lost
            && report.usage.is_none()
            && matches!(report.error.as_deref(), Some(LOST | UNHEARD))
    };
    attempt.report.as_ref().is_some_and(|report| !is_presumed(report))
}

fn clear_end(record: &mut JobRecord) {
    record.outcome = None;
    record.result = None;
    record.error = None;
    record.finished_at = None;
}

/// The state of a job that a worker may claim now.
fn ready(record: &JobRecord) -> JobState {
    if record.options.priority > 0 { JobState::Prioritized } else { JobState::Waiting }
}

#[cfg(test)]
mod tests;
