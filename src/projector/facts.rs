//! Finds out what an event has added to its job's record, for the counters of [`crate::metrics`].
//!
//! A fact is counted when it is committed, and once. An event that comes twice adds nothing to its record, so it is no
//! fact. On a store without transactions a commit may write records and then fail: when the same events are folded again,
//! those records have them already. So the facts of a commit that failed are kept until one covers them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{Event, EventKind, FinalState, Fingerprint, Job, JobState, Outcome, Timestamp};
use crate::events::Cursor;
use crate::metrics::{JobFact, JobFactKind, JobResult, METRICS, Source};
use crate::store::JobRecord;

/// Facts that are not known to be committed, by the place of their event.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The number of the last term under which facts were found.
    term: u64,
    /// An event has at most one fact of each kind.
    open: BTreeMap<(Cursor, u8), JobFact>,
}

impl Facts {
    /// Begins a term, at whose beginning history was folded through `position`. If no other projector has led since the
    /// last term of this one, the commit that led there was its own, although the answer got lost.
    pub(super) fn begin(&mut self, term: u64, position: Cursor) {
        let was_own = term == self.term + 1;
        self.term = term;
        self.take(position, was_own);
    }

    /// Counts all facts of events up to this place, which are committed.
    pub(super) fn committed(&mut self, through: Cursor) {
        self.take(through, true);
    }

    fn take(&mut self, through: Cursor, is_counted: bool) {
        while let Some(first) = self.open.first_entry().filter(|first| first.key().0 <= through) {
            let fact = first.remove();
            if is_counted {
                count(&fact);
            }
        }
    }

    fn note(&mut self, at: Cursor, job: &Arc<Job>, kind: JobFactKind) {
        let number = match kind {
            JobFactKind::Submitted(_) => 0,
            JobFactKind::Started { .. } => 1,
            JobFactKind::Lost(_) => 2,
            JobFactKind::Ended { .. } => 3,
            JobFactKind::Finished { .. } => 4,
            JobFactKind::PutBack => 5,
        };
        self.open.insert((at, number), JobFact { job: job.clone(), kind });
    }
}

fn count(fact: &JobFact) {
    METRICS.jobs.count(fact);
    if let JobFactKind::Ended { error: Some(error), .. } = &fact.kind {
        METRICS.failures.failed(*error);
    }
}

/// What matters of a record before an event is folded into it.
pub(super) struct Before {
    is_new: bool,
    was_final: bool,
    retries: u32,
    attempts: usize,
    ended: usize,
    /// Whether an end of the event's attempt was known or presumed.
    has_end: bool,
    /// Since when the next attempt could have been started.
    due: Option<Timestamp>,
}

impl Before {
    pub(super) fn of(record: &JobRecord, event: &Event) -> Self {
        let has_end = match &event.kind {
            EventKind::AttemptFinished { attempt, .. } => {
                record.attempts.iter().any(|a| a.number == *attempt && a.report.is_some())
            }
            _ => false,
        };
        Self {
            is_new: record.applied == Cursor::START,
            was_final: record.state.is_final(),
            retries: record.retries,
            attempts: record.attempts.len(),
            ended: ended(record),
            has_end,
            due: due(record),
        }
    }

    /// Notes what the event at `at` has added.
    pub(super) fn note(&self, at: Cursor, event: &Event, after: &JobRecord, facts: &mut Facts) {
        let mut note = |kind| facts.note(at, &event.job, kind);
        if self.is_new {
            note(JobFactKind::Submitted(source(event)));
        }
        let started = after.attempts.len().saturating_sub(self.attempts);
        if started > 0 {
            let wait = after.attempts.last().zip(self.due).map(|(last, due)| last.started_at.since(due));
            note(JobFactKind::Started { attempts: started, wait });
        }
        let mut newly_ended = ended(after).saturating_sub(self.ended);
        if let EventKind::AttemptFinished { attempt, report, next_at, .. } = &event.kind
            && !self.has_end
            && let Some(own) = after.attempts.iter().find(|a| a.number == *attempt)
        {
            newly_ended = newly_ended.saturating_sub(1);
            let error: Option<Fingerprint> = own.fingerprint;
            let (outcome, usage, is_retried) = (report.outcome, report.usage, next_at.is_some());
            note(JobFactKind::Ended { outcome, usage, error, is_retried });
        }
        if newly_ended > 0 {
            note(JobFactKind::Lost(newly_ended));
        }
        if after.state.is_final() && !self.was_final {
            let is_exhausted = is_exhausted(after);
            note(JobFactKind::Finished { result: result(after), attempts: after.attempts.len(), is_exhausted });
        }
        if after.retries > self.retries {
            note(JobFactKind::PutBack);
        }
    }
}

/// How many attempts have ended, or are presumed to have been lost.
fn ended(record: &JobRecord) -> usize {
    record.attempts.iter().filter(|attempt| attempt.report.is_some()).count()
}

/// Since when the next attempt of a job that is to run could have been started. `None` when that is not known: after it
/// was put back, or when it had to wait for other jobs.
fn due(record: &JobRecord) -> Option<Timestamp> {
    if record.state.is_final() || record.state == JobState::Active {
        return None;
    }
    let Some(last) = record.attempts.last() else {
        return record.options.after.is_empty().then(|| record.submitted_at + record.options.delay);
    };
    let was_put_back = record.retried_after.is_some_and(|after| last.number.0 <= after.attempts());
    let ended_at = || last.report.as_ref().map(|report| report.ended_at);
    if was_put_back { None } else { record.due_at.or_else(ended_at) }
}

fn source(event: &Event) -> Source {
    let is_first_of_all = matches!(event.kind, EventKind::Submitted);
    // A worker may be faster than the server that tells of the submission; only of a foreign job it tells all itself.
    match (event.job.id.is_scheduled(), is_first_of_all) {
        (true, _) => Source::Schedule,
        (false, false) if event.body.is_some() || event.job.id.is_counted() => Source::Foreign,
        (false, _) => Source::Api,
    }
}

fn result(record: &JobRecord) -> JobResult {
    match record.outcome {
        Some(Outcome::Cancelled) => JobResult::Cancelled,
        _ if record.state == JobState::from(FinalState::Completed) => JobResult::Completed,
        _ => JobResult::Failed,
    }
}

/// Whether a job failed because its attempts were spent: by itself, and not because another one was pointless.
fn is_exhausted(record: &JobRecord) -> bool {
    let has_failed_itself = !matches!(record.outcome, Some(Outcome::Cancelled | Outcome::Lost) | None);
    let last = record.attempts.last().and_then(|attempt| attempt.report.as_ref());
    record.state == JobState::Failed && has_failed_itself && last.is_some_and(|last| last.no_retry != Some(true))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{AttemptNumber, AttemptReport, JobId, JobName, JobOptions, WorkerId};
    use crate::projector::fold_job;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// Folds the events, each at the next place, and gives the kinds of facts in order.
    fn kinds(events: Vec<(i64, EventKind)>) -> Vec<JobFactKind> {
        let (id, name) = (JobId::parse("a").unwrap(), JobName::parse("n").unwrap());
        let options = JobOptions { delay: Duration::from_secs(1), ..JobOptions::default() };
        let job = Arc::new(Job { id, name, options, submitted_at: at(0), trace: None });
        let (mut record, mut facts) = (JobRecord::new(&job), Facts::default());
        for (minor, (ms, kind)) in (1..).zip(events) {
            let (event, place) = (Event::new(at(ms), job.clone(), kind), Cursor { major: 0, minor });
            let before = Before::of(&record, &event);
            fold_job(&mut record, place, &event);
            before.note(place, &event, &record, &mut facts);
        }
        facts.open.into_values().map(|fact| fact.kind).collect()
    }

    fn started(attempt: u32) -> EventKind {
        let worker = WorkerId::parse("w").unwrap();
        EventKind::AttemptStarted { attempt: AttemptNumber(attempt), worker, host: "h".to_owned(), build: None }
    }

    fn finished(attempt: u32, code: i32, ms: i64, next_at: Option<i64>) -> EventKind {
        let (worker, outcome) = (WorkerId::parse("w").unwrap(), Outcome::Exit { code });
        let report = Box::new(AttemptReport::bare(outcome, at(ms - 10), at(ms), "no luck"));
        EventKind::AttemptFinished { attempt: AttemptNumber(attempt), worker, report, next_at: next_at.map(at) }
    }

    fn ended(attempt: u32, code: i32) -> EventKind {
        let state = if code == 0 { FinalState::Completed } else { FinalState::Failed };
        let outcome = Outcome::Exit { code };
        EventKind::Finished { attempt: Some(AttemptNumber(attempt)), state, outcome, result: None, error: None }
    }

    fn wait(kind: &JobFactKind) -> Option<Option<u128>> {
        match kind {
            JobFactKind::Started { wait, .. } => Some(wait.map(|wait| wait.as_millis())),
            _ => None,
        }
    }

    #[test]
    fn each_attempt_and_each_end_is_a_fact_once_although_events_come_twice() {
        let life = [
            (0, EventKind::Submitted),
            (1250, started(1)),
            (1300, finished(1, 1, 1300, Some(2300))),
            (2310, started(2)),
            (2400, finished(2, 1, 2400, None)),
            (2400, ended(2, 1)),
            (9000, EventKind::Retried { attempts: 2 }),
            (9100, started(3)),
            (9200, finished(3, 0, 9200, None)),
            (9200, ended(3, 0)),
        ];
        let twice = life.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
        let kinds = kinds(twice);
        assert_eq!(kinds.iter().filter_map(wait).collect::<Vec<_>>(), [Some(250), Some(10), None]);
        let count = |is: fn(&JobFactKind) -> bool| kinds.iter().filter(|kind| is(kind)).count();
        assert_eq!(count(|kind| matches!(kind, JobFactKind::Submitted(Source::Api))), 1);
        assert_eq!(count(|kind| matches!(kind, JobFactKind::Ended { .. })), 3);
        assert_eq!(count(|kind| matches!(kind, JobFactKind::Ended { is_retried: true, .. })), 1);
        assert_eq!(count(|kind| matches!(kind, JobFactKind::Finished { is_exhausted: true, .. })), 1);
        assert_eq!(count(|kind| matches!(kind, JobFactKind::Finished { .. })), 2);
        assert_eq!(count(|kind| matches!(kind, JobFactKind::PutBack)), 1);
        assert_eq!(kinds.len(), 1 + 3 + 3 + 2 + 1);
    }

    #[test]
    fn an_attempt_that_is_presumed_lost_counts_once_even_if_its_worker_tells_of_its_end_later() {
        let kinds = kinds(vec![(1000, started(1)), (2000, started(2)), (2500, finished(1, 1, 1900, None))]);
        let ends = kinds.iter().filter(|kind| matches!(kind, JobFactKind::Ended { .. } | JobFactKind::Lost(_)));
        assert_eq!(ends.collect::<Vec<_>>(), [&JobFactKind::Lost(1)]);
    }

    #[test]
    fn facts_of_a_failed_commit_wait_for_the_next_and_go_with_another_projector() {
        let (id, name) = (JobId::parse("a").unwrap(), JobName::parse("n").unwrap());
        let job = Arc::new(Job { id, name, options: JobOptions::default(), submitted_at: at(0), trace: None });
        let place = |minor| Cursor { major: 0, minor };
        let mut facts = Facts::default();
        facts.begin(1, place(0));
        (1..=4).for_each(|minor| facts.note(place(minor), &job, JobFactKind::PutBack));
        facts.committed(place(1));
        assert_eq!(facts.open.len(), 3);
        facts.begin(7, place(2));
        assert_eq!(facts.open.keys().map(|(place, _)| place.minor).collect::<Vec<_>>(), [3, 4]);
        facts.note(place(3), &job, JobFactKind::PutBack);
        assert_eq!(facts.open.len(), 2, "the same event again replaces its fact");
        facts.committed(place(4));
        assert!(facts.open.is_empty());
    }
}
