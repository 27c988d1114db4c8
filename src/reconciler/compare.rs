//! Compares what history and the queue know of a job, and returns the events that history lacks. Pure.
//!
//! A worker of Jobber's writes to the log before it tells the queue. So the reconciler looks at the
//! queue first, then reads the end of the log, and waits until history is folded up to there. By
//! then history knows everything that such a worker did, and any difference is the work of another
//! program. Only the API writes some events after it has acted, so a difference that it may be
//! about to write is looked at twice.

use std::sync::Arc;

use crate::domain::outcome::cancelled_because;
use crate::domain::{AttemptNumber, AttemptReport, EventKind, FinalState, Job, JobState, Outcome, Timestamp, WorkerId};
use crate::queue::{QueueEntry, QueuedJob, ReportedEnd};
use crate::store::{AttemptRecord, JobRecord};

/// The worker of an attempt that another program made without giving its name.
const NAMELESS: &str = "another-program";
/// The error of a job that another program took out of the queue before its end.
const TAKEN_OUT: &str = "taken out of the queue by another program before it had ended";
/// The error of a job that the queue does not have, without telling why.
const GONE: &str = "gone from the queue without an end: it was emptied, or has lost its data";

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Finding {
    /// History has everything.
    Agrees,
    /// History lacks something, unless another part is just writing it.
    Doubt,
    /// History lacks these events.
    Lacks(Vec<EventKind>),
}

/// Compares what history knows with what the queue holds. `end` and `at` come from the queue's own
/// events. `again` says whether this is the second look at a doubt.
pub(super) fn compare(
    record: &JobRecord,
    held: &QueueEntry,
    end: Option<&ReportedEnd>,
    at: Timestamp,
    again: bool,
) -> Finding {
    let sure = |events: Vec<EventKind>| if again { Finding::Lacks(events) } else { Finding::Doubt };
    if record.removed {
        return Finding::Agrees;
    }
    let queued = match held {
        QueueEntry::Unreadable => return Finding::Agrees,
        QueueEntry::Job(queued) if queued.job.submitted_at == record.submitted_at => queued,
        // The queue has no job under this id, or another one by now.
        QueueEntry::Gone | QueueEntry::Job(_) if record.state.is_final() => return Finding::Agrees,
        QueueEntry::Gone | QueueEntry::Job(_) => {
            return match end {
                Some(ReportedEnd::Completed(result)) => Finding::Lacks(completed_and_gone(record, result.clone(), at)),
                Some(ReportedEnd::Failed(why)) => sure(failed_and_gone(record, why, at)),
                Some(ReportedEnd::Removed) => sure(vec![lost(record, TAKEN_OUT)]),
                None => sure(vec![lost(record, GONE)]),
            };
        }
    };
    let last = last_number(record);
    match (record.state.is_final(), queued.state.is_final()) {
        (true, true) if starts(queued) > last && queued.finished_at > record.finished_at => {
            sure(put_back(record).into_iter().chain(ended(record, queued, at)).collect())
        }
        (true, true) => Finding::Agrees,
        // The worker has recorded the end, and is about to tell the queue.
        (true, false) if queued.state == JobState::Active && last >= starts(queued) => Finding::Agrees,
        (true, false) => sure(put_back(record).into_iter().chain(running(record, queued, at)).collect()),
        (false, true) if queued.state == JobState::Completed => Finding::Lacks(ended(record, queued, at)),
        (false, true) => sure(ended(record, queued, at)),
        (false, false) => match running(record, queued, at) {
            events if events.is_empty() => Finding::Agrees,
            events => Finding::Lacks(events),
        },
    }
}

/// The job of a record, under the id that the queue knows.
pub(super) fn job_of(record: &JobRecord) -> Arc<Job> {
    let job = record.job();
    Arc::new(Job { id: record.own_id().unwrap_or_else(|| job.id.clone()), ..job })
}

fn last_number(record: &JobRecord) -> u32 {
    record.attempts.last().map_or(0, |attempt| attempt.number.0)
}

/// How often the queue saw the job started. Not every program counts starts.
fn starts(queued: &QueuedJob) -> u32 {
    queued.attempts_started.max(queued.attempts_finished)
}

/// The last attempt, if another program made it and it has no end yet.
fn open_elsewhere(record: &JobRecord) -> Option<&AttemptRecord> {
    record.attempts.last().filter(|attempt| attempt.report.is_none() && !attempt.worker.is_generated())
}

fn nameless() -> WorkerId {
    WorkerId::parse(NAMELESS).expect("a constant of plain letters")
}

/// The worker that runs or ran the job, if another program gave its name.
fn worker(queued: &QueuedJob) -> WorkerId {
    queued.worker.clone().filter(|worker| !worker.is_generated()).unwrap_or_else(nameless)
}

fn put_back(record: &JobRecord) -> Vec<EventKind> {
    vec![EventKind::Retried { attempts: last_number(record) }]
}

/// The missing events of a job that has not ended: that another program runs it, or has run it and will again.
fn running(record: &JobRecord, queued: &QueuedJob, at: Timestamp) -> Vec<EventKind> {
    let is_ours = queued.worker.as_ref().is_some_and(WorkerId::is_generated);
    if queued.state == JobState::Active {
        let is_new = starts(queued) > last_number(record) && !is_ours;
        let attempt = AttemptNumber(starts(queued));
        let started = EventKind::AttemptStarted { attempt, worker: worker(queued), host: String::new(), build: None };
        return if is_new { vec![started] } else { Vec::new() };
    }
    let Some(open) = open_elsewhere(record) else { return Vec::new() };
    let outcome = if queued.error.is_some() { Outcome::Exit { code: 1 } } else { Outcome::Lost };
    let error = queued.error.clone().unwrap_or_else(|| "given back by another program".to_owned());
    let mut event = attempt_ended(open.number, open.worker.clone(), outcome, Some(error), open.started_at, at);
    if let EventKind::AttemptFinished { next_at, .. } = &mut event {
        *next_at = Some(queued.due_at.unwrap_or(at));
    }
    vec![event]
}

/// The missing events of a job that the queue holds as ended: the end of its last attempt, if
/// another program made it, and its own end.
fn ended(record: &JobRecord, queued: &QueuedJob, at: Timestamp) -> Vec<EventKind> {
    let at = queued.finished_at.unwrap_or(at);
    let (last, open) = (last_number(record), open_elsewhere(record));
    let completed = queued.state == JobState::Completed;
    // A job that has completed must have been started.
    let number = starts(queued).max(last).max(u32::from(completed));
    let elsewhere = number > last || open.is_some();
    let is_running_here = !elsewhere && record.attempts.last().is_some_and(|attempt| attempt.report.is_none());
    let cancelled = record
        .cancel_requested
        .as_ref()
        .is_some_and(|reason| queued.error.as_deref() == Some(cancelled_because(reason).as_str()));
    let outcome = match &queued.error {
        _ if completed => Outcome::Exit { code: 0 },
        _ if cancelled => Outcome::Cancelled,
        // The job's own worker went silent, and another program gave up on it.
        _ if is_running_here => Outcome::Lost,
        Some(error) if error.contains("stalled more than") => Outcome::Lost,
        _ => Outcome::Exit { code: 1 },
    };
    let error = (!completed).then(|| queued.error.clone().unwrap_or_default());
    let result = queued.result.clone().filter(|_| completed);
    let attempt = (number > 0).then_some(AttemptNumber(number));
    let mut events = Vec::new();
    if let (true, false, Some(number)) = (elsewhere, cancelled, attempt) {
        let who = open.map_or_else(|| worker(queued), |open| open.worker.clone());
        let started_at = open.map_or(at, |open| open.started_at);
        events.push(attempt_ended(number, who, outcome, error.clone(), started_at, at));
    }
    events.push(finished(attempt.filter(|_| !cancelled), outcome, result, error));
    events
}

/// The missing events of a job that another program has completed, and that left the queue with that.
fn completed_and_gone(record: &JobRecord, result: Option<serde_json::Value>, at: Timestamp) -> Vec<EventKind> {
    let (number, who, started_at) = attempt_elsewhere(record, at);
    let outcome = Outcome::Exit { code: 0 };
    vec![attempt_ended(number, who, outcome, None, started_at, at), finished(Some(number), outcome, result, None)]
}

/// The missing events of a job that another program has failed, and that left the queue with that.
fn failed_and_gone(record: &JobRecord, why: &str, at: Timestamp) -> Vec<EventKind> {
    let (number, who, started_at) = attempt_elsewhere(record, at);
    let outcome = Outcome::Exit { code: 1 };
    let why = Some(why.to_owned());
    vec![attempt_ended(number, who, outcome, why.clone(), started_at, at), finished(Some(number), outcome, None, why)]
}

/// The attempt in which another program must have ended the job.
fn attempt_elsewhere(record: &JobRecord, at: Timestamp) -> (AttemptNumber, WorkerId, Timestamp) {
    match open_elsewhere(record) {
        Some(open) => (open.number, open.worker.clone(), open.started_at),
        None => (AttemptNumber(last_number(record) + 1), nameless(), at),
    }
}

fn attempt_ended(
    attempt: AttemptNumber,
    worker: WorkerId,
    outcome: Outcome,
    error: Option<String>,
    started_at: Timestamp,
    ended_at: Timestamp,
) -> EventKind {
    let bare = AttemptReport::bare(outcome, started_at, ended_at, String::new());
    let report = Box::new(AttemptReport { error, ..bare });
    EventKind::AttemptFinished { attempt, worker, report, next_at: None }
}

fn finished(
    attempt: Option<AttemptNumber>,
    outcome: Outcome,
    result: Option<serde_json::Value>,
    error: Option<String>,
) -> EventKind {
    let state = if outcome.is_success() { FinalState::Completed } else { FinalState::Failed };
    EventKind::Finished { attempt, state, outcome, result, error }
}

fn lost(record: &JobRecord, why: &str) -> EventKind {
    let last = record.attempts.last().map(|attempt| attempt.number);
    finished(last, Outcome::Lost, None, Some(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{Event, JobOptions, NewJob};
    use crate::events::Cursor;
    use crate::projector::fold_job;

    const OURS: &str = "host-1-0123abcd";

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn job() -> Arc<Job> {
        let new = NewJob {
            id: Some("j".into()),
            name: "a".into(),
            arguments: vec![],
            data: None,
            options: JobOptions::default(),
        };
        new.accept(at(1000)).unwrap().job
    }

    /// A record with these events folded into it, the first a second after submission.
    struct Folded {
        record: JobRecord,
        events: u64,
    }

    impl Folded {
        fn new(kinds: Vec<EventKind>) -> Self {
            let mut folded = Self { record: JobRecord::new(&job()), events: 0 };
            folded.fold(kinds);
            folded
        }

        fn fold(&mut self, kinds: Vec<EventKind>) {
            for kind in kinds {
                self.events += 1;
                let event = Event::new(at(1000 + 1000 * self.events.cast_signed()), job(), kind);
                fold_job(&mut self.record, Cursor { major: 0, minor: self.events }, &event);
            }
        }

        /// Compares, folds the missing events, and checks that none are missing then.
        fn reconciled(&mut self, held: &QueueEntry, end: Option<&ReportedEnd>) -> &JobRecord {
            let mut finding = compare(&self.record, held, end, at(50_000), false);
            if finding == Finding::Doubt {
                finding = compare(&self.record, held, end, at(50_000), true);
            }
            let Finding::Lacks(events) = finding else { panic!("{finding:?} of {:?}", self.record) };
            self.fold(events.clone());
            assert_eq!(compare(&self.record, held, end, at(50_000), true), Finding::Agrees, "{:?}", self.record);
            // Two processes may find the same.
            let (state, attempts) = (self.record.state, self.record.attempts.clone());
            self.fold(events);
            assert_eq!((self.record.state, &self.record.attempts), (state, &attempts));
            &self.record
        }
    }

    fn started(n: u32, worker: &str) -> EventKind {
        let worker = WorkerId::parse(worker).unwrap();
        EventKind::AttemptStarted { attempt: AttemptNumber(n), worker, host: "h".into(), build: None }
    }

    fn end_of(n: u32, worker: &str, code: i32) -> Vec<EventKind> {
        let outcome = Outcome::Exit { code };
        let worker = WorkerId::parse(worker).unwrap();
        let error = (code != 0).then(|| "x".to_owned());
        vec![
            attempt_ended(AttemptNumber(n), worker, outcome, error.clone(), at(1), at(2)),
            finished(Some(AttemptNumber(n)), outcome, None, error),
        ]
    }

    fn in_queue(state: JobState, starts: u32, worker: Option<&str>) -> QueueEntry {
        QueueEntry::Job(Box::new(QueuedJob {
            job: job(),
            body: None,
            state,
            attempts_started: starts,
            attempts_finished: u32::from(state.is_final()) * starts,
            due_at: None,
            worker: worker.map(|w| WorkerId::parse(w).unwrap()),
            progress: None,
            cancel_requested: None,
            finished_at: state.is_final().then(|| at(90_000)),
            result: (state == JobState::Completed).then(|| json!(7)),
            error: (state == JobState::Failed).then(|| "broken".to_owned()),
            waits_for: vec![],
        }))
    }

    #[test]
    fn what_our_own_workers_and_the_api_do_is_never_told_again() {
        use JobState::*;
        let mut ran = vec![started(1, OURS)];
        ran.extend(end_of(1, OURS, 0));
        let mut failed = vec![started(1, OURS)];
        failed.extend(end_of(1, OURS, 3));
        for (events, held) in [
            (vec![EventKind::Submitted], in_queue(Waiting, 0, None)),
            (vec![started(1, OURS)], in_queue(Active, 1, Some(OURS))),
            (vec![EventKind::Submitted], in_queue(Active, 1, Some(OURS))),
            (ran.clone(), in_queue(Active, 1, Some(OURS))),
            (ran.clone(), in_queue(Completed, 1, None)),
            (ran, QueueEntry::Gone),
            (failed.clone(), in_queue(Failed, 1, None)),
            (failed, QueueEntry::Gone),
            (vec![EventKind::Submitted], QueueEntry::Unreadable),
            (vec![EventKind::Removed], QueueEntry::Gone),
        ] {
            let record = Folded::new(events).record;
            assert_eq!(compare(&record, &held, None, at(9000), true), Finding::Agrees, "{record:?} {held:?}");
        }
        // The API removes and cancels first, and writes then.
        let open = Folded::new(vec![EventKind::Submitted]).record;
        assert_eq!(compare(&open, &QueueEntry::Gone, None, at(9), false), Finding::Doubt);
        assert_eq!(compare(&open, &in_queue(Failed, 0, None), None, at(9), false), Finding::Doubt);
    }

    #[test]
    fn an_end_elsewhere_is_an_end_with_its_attempt() {
        for (held, end) in [
            (in_queue(JobState::Completed, 1, None), None),
            (QueueEntry::Gone, Some(ReportedEnd::Completed(Some(json!(7))))),
        ] {
            for known in [vec![EventKind::Submitted], vec![started(1, "node")]] {
                let mut folded = Folded::new(known);
                let record = folded.reconciled(&held, end.as_ref());
                assert_eq!((record.state, record.outcome), (JobState::Completed, Some(Outcome::Exit { code: 0 })));
                assert_eq!((record.result.clone(), record.attempts.len()), (Some(json!(7)), 1), "{record:?}");
            }
        }
        let mut folded = Folded::new(vec![started(1, "node")]);
        let record = folded.reconciled(&in_queue(JobState::Failed, 1, None), None);
        assert_eq!((record.outcome, record.error.as_deref()), (Some(Outcome::Exit { code: 1 }), Some("broken")));
        assert_eq!(record.attempts[0].worker.as_str(), "node");
    }

    #[test]
    fn what_is_gone_without_an_end_is_lost() {
        for (known, end) in [
            (vec![EventKind::Submitted], None),
            (vec![EventKind::Submitted], Some(ReportedEnd::Removed)),
            (vec![started(1, OURS)], None),
        ] {
            let mut folded = Folded::new(known);
            let record = folded.reconciled(&QueueEntry::Gone, end.as_ref());
            assert_eq!((record.state, record.outcome), (JobState::Failed, Some(Outcome::Lost)));
        }
        // A worker that a Node.js worker took for dead.
        let mut folded = Folded::new(vec![started(1, OURS)]);
        let record = folded.reconciled(&in_queue(JobState::Failed, 1, None), None);
        assert_eq!((record.outcome, record.attempts.len()), (Some(Outcome::Lost), 1));
    }

    #[test]
    fn another_job_under_the_same_id_is_no_end_of_the_first() {
        let QueueEntry::Job(mut other) = in_queue(JobState::Completed, 1, None) else { unreachable!() };
        other.job = Arc::new(Job { submitted_at: at(2_000_000), ..(*job()).clone() });
        let mut folded = Folded::new(vec![EventKind::Submitted]);
        let record = folded.reconciled(&QueueEntry::Job(other), None);
        assert_eq!(record.outcome, Some(Outcome::Lost));
    }

    #[test]
    fn a_job_that_was_put_back_elsewhere_waits_or_has_run_again() {
        let mut failed = vec![started(1, OURS)];
        failed.extend(end_of(1, OURS, 3));
        let mut folded = Folded::new(failed.clone());
        assert_eq!(folded.reconciled(&in_queue(JobState::Waiting, 1, None), None).state, JobState::Waiting);
        let record = folded.reconciled(&in_queue(JobState::Active, 2, Some("node")), None);
        assert_eq!((record.state, record.retries), (JobState::Active, 1));
        let mut folded = Folded::new(failed);
        let record = folded.reconciled(&in_queue(JobState::Completed, 2, None), None);
        assert_eq!((record.state, record.attempts.len(), record.retries), (JobState::Completed, 2, 1));
    }

    #[test]
    fn an_attempt_elsewhere_shows_while_it_runs_and_when_it_is_tried_again() {
        let mut folded = Folded::new(vec![EventKind::Submitted]);
        let record = folded.reconciled(&in_queue(JobState::Active, 1, None), None);
        assert_eq!((record.state, record.attempts[0].worker.as_str()), (JobState::Active, NAMELESS));
        let QueueEntry::Job(mut delayed) = in_queue(JobState::Delayed, 1, None) else { unreachable!() };
        delayed.error = Some("not yet".to_owned());
        delayed.due_at = Some(at(60_000));
        let record = folded.reconciled(&QueueEntry::Job(delayed), None);
        assert_eq!((record.state, record.due_at), (JobState::Delayed, Some(at(60_000))));
        assert_eq!(record.error.as_deref(), Some("not yet"));
    }
}
