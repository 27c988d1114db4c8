use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::{FinalState, Job, JobOptions, NewJob};

const EXIT_0: Outcome = Outcome::Exit { code: 0 };
const EXIT_1: Outcome = Outcome::Exit { code: 1 };

/// A job and its record, with a clock that moves on by a second with each event.
struct Life {
    job: Arc<Job>,
    record: JobRecord,
    seconds: i64,
}

impl Life {
    fn new(options: JobOptions) -> Self {
        let job = NewJob { id: None, name: "a".into(), arguments: vec![], data: None, options };
        let job = job.accept(Timestamp::from_millis(0)).unwrap().job;
        Self { record: JobRecord::new(&job), job, seconds: 0 }
    }

    fn plain() -> Self {
        Self::new(JobOptions::default())
    }

    fn after(mut self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        for kind in kinds {
            self.seconds += 1;
            let at = Timestamp::from_millis(self.seconds * 1000);
            let event = Event::new(at, self.job.clone(), kind);
            fold_job(&mut self.record, Cursor { major: 0, minor: self.seconds.unsigned_abs() }, &event);
        }
        self
    }

    fn numbers(&self) -> Vec<u32> {
        self.record.attempts.iter().map(|a| a.number.0).collect()
    }

    fn workers(&self) -> Vec<&str> {
        self.record.attempts.iter().map(|a| a.worker.as_str()).collect()
    }

    fn outcomes(&self) -> Vec<Option<Outcome>> {
        self.record.attempts.iter().map(|a| a.report.as_ref().map(|r| r.outcome)).collect()
    }
}

fn start(n: u32) -> EventKind {
    start_by(n, "w")
}

fn start_by(n: u32, worker: &str) -> EventKind {
    let worker = WorkerId::parse(worker).unwrap();
    EventKind::AttemptStarted { attempt: AttemptNumber(n), worker, host: "h".into(), build: None }
}

fn withdraw(n: u32, worker: &str) -> EventKind {
    EventKind::AttemptWithdrawn { attempt: AttemptNumber(n), worker: WorkerId::parse(worker).unwrap() }
}

fn finish(n: u32, outcome: Outcome, next_at: Option<i64>) -> EventKind {
    let t = Timestamp::from_millis(500);
    let mut report = AttemptReport::bare(outcome, t, t, format!("attempt {n}"));
    if outcome.is_success() {
        report.error = None;
    }
    EventKind::AttemptFinished {
        attempt: AttemptNumber(n),
        worker: WorkerId::parse("w").unwrap(),
        report: Box::new(report),
        next_at: next_at.map(|s| Timestamp::from_millis(s * 1000)),
    }
}

fn end(attempt: Option<u32>, state: FinalState, outcome: Outcome) -> EventKind {
    let error = (state == FinalState::Failed).then(|| "why".to_owned());
    EventKind::Finished { attempt: attempt.map(AttemptNumber), state, outcome, result: None, error }
}

fn completed(n: u32) -> [EventKind; 2] {
    [finish(n, EXIT_0, None), end(Some(n), FinalState::Completed, EXIT_0)]
}

fn failed(n: u32) -> [EventKind; 2] {
    [finish(n, EXIT_1, None), end(Some(n), FinalState::Failed, EXIT_1)]
}

#[test]
fn a_job_that_succeeds_at_its_second_attempt() {
    let life = Life::plain().after([EventKind::Submitted, start(1), finish(1, EXIT_1, Some(60))]);
    assert_eq!((life.record.state, life.record.due_at), (JobState::Delayed, Some(Timestamp::from_millis(60_000))));
    assert_eq!(life.record.error.as_deref(), Some("attempt 1"));
    let life = life.after([start(2)]);
    assert_eq!((life.record.state, life.record.due_at), (JobState::Active, None));
    let life = life.after(completed(2));
    assert_eq!(
        (life.record.state, life.record.outcome, &life.record.error),
        (JobState::Completed, Some(EXIT_0), &None)
    );
    assert_eq!(life.record.finished_at, Some(Timestamp::from_millis(6000)));
    assert_eq!(life.outcomes(), [Some(EXIT_1), Some(EXIT_0)]);
}

#[test]
fn an_attempt_lost_with_its_worker_is_closed_by_the_next() {
    let life = Life::plain().after([start(1), start(2)]);
    assert_eq!(life.outcomes(), [Some(Outcome::Lost), None]);
    let lost = life.record.attempts[0].report.as_ref().unwrap();
    assert_eq!((lost.ended_at, lost.error.as_deref()), (Timestamp::from_millis(2000), Some("lost with its worker")));
}

#[test]
fn an_attempt_that_was_withdrawn_leaves_no_trace() {
    let life = Life::plain().after([EventKind::Submitted, start(1), withdraw(1, "w")]);
    assert_eq!((life.record.state, life.outcomes()), (JobState::Waiting, vec![]));
    let life = life.after([start(1)]);
    assert_eq!((life.record.state, life.outcomes()), (JobState::Active, vec![None]));
    let life = life.after(completed(1));
    assert_eq!((life.record.state, life.outcomes()), (JobState::Completed, vec![Some(EXIT_0)]));
}

#[test]
fn a_number_that_is_given_again_is_that_of_who_starts() {
    let life = Life::plain().after([start_by(1, "dead"), start(1)]);
    assert_eq!((life.workers(), life.outcomes()), (vec!["w"], vec![None]), "the first one had started nothing");
    let life = life.after([withdraw(1, "dead")]);
    assert_eq!((life.workers(), life.outcomes()), (vec!["w"], vec![None]), "and says so late");
    let life = Life::plain().after([start(1), start_by(1, "slow-to-say-so")]).after(completed(1));
    assert_eq!((life.workers(), life.outcomes()), (vec!["w"], vec![Some(EXIT_0)]));
    let life = life.after([start_by(1, "slower")]);
    assert_eq!((life.record.state, life.workers()), (JobState::Completed, vec!["w"]));
}

#[test]
fn numbers_have_no_holes() {
    let life = Life::plain().after([start(2)]);
    assert_eq!((life.numbers(), life.outcomes()), (vec![1, 2], vec![Some(Outcome::Lost), None]));
    let life = life.after([finish(2, EXIT_1, Some(1)), start(4)]);
    assert_eq!(life.numbers(), [1, 2, 3, 4]);
    assert_eq!(life.outcomes(), [Some(Outcome::Lost), Some(EXIT_1), Some(Outcome::Lost), None]);
    assert_eq!(life.workers(), ["unknown", "w", "unknown", "w"]);
    let life = life.after([start_by(1, "late"), finish(3, EXIT_1, Some(1))]);
    assert_eq!(life.workers(), ["late", "w", "w", "w"]);
    assert_eq!(life.outcomes(), [Some(Outcome::Lost), Some(EXIT_1), Some(EXIT_1), None]);
    let life = Life::plain().after([start(5000)]);
    assert_eq!((life.numbers().len(), life.numbers()[0]), (101, 4900));
}

#[test]
fn a_withdrawal_that_comes_late_moves_nothing_else() {
    let life = Life::plain().after([start(1), start(2), withdraw(1, "w")]);
    assert_eq!((life.record.state, life.outcomes()), (JobState::Active, vec![Some(Outcome::Lost), None]));
    let life = life.after(completed(2)).after([withdraw(2, "w")]);
    assert_eq!(life.outcomes(), [Some(Outcome::Lost), Some(EXIT_0)], "what has ended was started");
    let life = Life::plain().after([start(1), withdraw(1, "another")]);
    assert_eq!((life.record.state, life.outcomes()), (JobState::Active, vec![None]), "it is another's to withdraw");
    let life = Life::plain().after([withdraw(1, "w")]);
    assert_eq!((life.record.state, life.outcomes()), (JobState::Waiting, vec![]));
}

#[test]
fn what_a_worker_says_late_replaces_the_presumption_and_moves_nothing() {
    let life = Life::plain().after([start(1), start(2)]).after(failed(1));
    assert_eq!((life.record.state, life.record.outcome, &life.record.error), (JobState::Active, None, &None));
    assert_eq!(life.outcomes(), [Some(EXIT_1), None]);
    let life = life.after([finish(1, Outcome::Timeout, None)]);
    assert_eq!(life.outcomes(), [Some(EXIT_1), None], "what was said once stands");
}

#[test]
fn a_job_that_ended_only_in_the_log_runs_again() {
    let life = Life::plain().after([start(1)]).after(completed(1)).after([start(2)]);
    let record = &life.record;
    assert_eq!((record.state, record.outcome, record.finished_at), (JobState::Active, None, None));
    assert_eq!(life.outcomes(), [Some(EXIT_0), None]);
}

#[test]
fn a_late_submission_or_start_moves_nothing() {
    let life = Life::plain().after([start(2)]).after(completed(2));
    let ended = life.record.clone();
    let life = life.after([EventKind::Submitted, start(1), start(2)]);
    assert_eq!(life.record.state, JobState::Completed);
    assert_eq!(life.record.finished_at, ended.finished_at);
    assert_eq!(life.outcomes(), [Some(Outcome::Lost), Some(EXIT_0)]);
}

#[test]
fn a_job_given_back_waits_in_its_own_queue() {
    let life = Life::plain().after([start(1), finish(1, Outcome::Lost, None)]);
    assert_eq!(life.record.state, JobState::Waiting);
    let life = Life::new(JobOptions { priority: 3, ..JobOptions::default() });
    let life = life.after([start(1), finish(1, EXIT_1, Some(0))]);
    assert_eq!((life.record.state, life.record.due_at), (JobState::Prioritized, None));
}

#[test]
fn an_end_without_a_start_makes_the_attempt() {
    let life = Life::plain().after(completed(1));
    assert_eq!(life.record.state, JobState::Completed);
    assert_eq!(life.record.attempts[0].started_at, Timestamp::from_millis(500));
    let life = life.after([start(1)]);
    assert_eq!((life.record.state, &*life.record.attempts[0].host), (JobState::Completed, "h"));
}

#[test]
fn a_cancelled_job_keeps_the_first_reason_until_it_is_put_back() {
    let cancel = |reason: &str| EventKind::Cancelled { reason: reason.into() };
    let life = Life::new(JobOptions { delay: Duration::from_secs(9), ..JobOptions::default() });
    let life = life.after([cancel("one"), cancel("two"), end(None, FinalState::Failed, Outcome::Cancelled)]);
    assert_eq!((life.record.state, life.record.due_at), (JobState::Failed, None));
    assert_eq!(life.record.cancel_requested.as_deref(), Some("one"));
    let life = life.after([cancel("late"), EventKind::Retried { attempts: 0 }]);
    let record = &life.record;
    assert_eq!((record.state, record.retries, &record.cancel_requested), (JobState::Waiting, 1, &None));
    assert_eq!((record.outcome, &record.error, record.finished_at), (None, &None, None));
}

#[test]
fn a_retry_counts_once_and_old_ends_no_longer_count() {
    let again = || EventKind::Retried { attempts: 1 };
    let life = Life::plain().after([start(1)]).after(failed(1)).after([again(), again()]).after(failed(1));
    assert_eq!((life.record.state, life.record.retries), (JobState::Waiting, 1));
    let life = life.after([start(2), again()]);
    assert_eq!((life.record.state, life.record.retries), (JobState::Active, 1));
    let life = life.after(failed(2)).after([EventKind::Retried { attempts: 2 }]);
    assert_eq!((life.record.state, life.record.retries), (JobState::Waiting, 2));
    let after = life.record.retried_after.unwrap();
    let first = FirstEnd { attempts: 1, outcome: Some(Outcome::Exit { code: 1 }) };
    assert_eq!((after.attempts(), after.first_end()), (2, Some(first)), "its first end is kept");
}

#[test]
fn of_a_job_that_an_older_version_put_back_the_first_end_is_not_known() {
    let mut life = Life::plain().after([start(1)]).after(failed(1)).after([EventKind::Retried { attempts: 1 }]);
    life.record.retried_after = Some(RetriedAfter::Attempts(1));
    let life = life.after([start(2)]).after(failed(2)).after([EventKind::Retried { attempts: 2 }]);
    assert_eq!(life.record.retried_after, Some(RetriedAfter::Attempts(2)));
}

#[test]
fn a_start_from_before_a_retry_is_closed_at_once() {
    let life = Life::plain().after([EventKind::Retried { attempts: 4 }, start(1)]);
    assert_eq!((life.record.state, life.outcomes()), (JobState::Waiting, vec![Some(Outcome::Lost)]));
}

#[test]
fn a_job_that_ends_leaves_no_attempt_open() {
    let life = Life::plain().after([start(1), end(None, FinalState::Failed, Outcome::Lost)]);
    assert_eq!(life.outcomes(), [Some(Outcome::Lost)]);
}

#[test]
fn a_removed_job_keeps_everything() {
    let life = Life::plain().after(completed(1)).after([EventKind::Removed]);
    assert_eq!((life.record.removed, life.record.state), (true, JobState::Completed));
}

#[test]
fn an_event_is_folded_once() {
    let life = Life::plain().after([start(1)]);
    let mut again = life.record.clone();
    let kind = end(Some(1), FinalState::Failed, EXIT_1);
    fold_job(&mut again, life.record.applied, &Event::new(Timestamp::from_millis(9), life.job.clone(), kind));
    assert_eq!(again, life.record);
}
