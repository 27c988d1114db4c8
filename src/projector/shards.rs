//! Computes what a job record contributes to its shard. Pure.
//!
//! A shard is the sum of the contributions of its jobs. An event changes it by the contribution of the event's job after
//! the event less the one before, so no event kind needs arithmetic of its own, and a rebuild is the plain sum. A job of a
//! named queue contributes the same to that queue's part of the shard.

use super::records::has_failed;
use crate::domain::retry::forbids_retry;
use crate::domain::{AttemptReport, Job, JobState, Outcome, Usage};
use crate::stats::{Counts, ErrorSetCounts, QueueParts, ShardKey};
use crate::store::{AttemptRecord, JobRecord, RetriedAfter};

/// The largest single amount that is counted (35 years in microseconds), so that sums of invented
/// amounts can't overflow.
const MOST: u64 = 1 << 50;

/// The shard in which a job is counted. It never changes, because the values that it is made of don't.
pub fn shard_key(record: &JobRecord) -> ShardKey {
    ShardKey { day: record.submitted_at.day(), name: record.name.clone() }
}

/// The same, of a job of which there may be no record.
pub(super) fn shard_key_of(job: &Job) -> ShardKey {
    ShardKey { day: job.submitted_at.day(), name: job.name.clone() }
}

/// What a job adds to its shard.
///
/// A job that was removed stays in the statistics with everything that it has done; only, it no
/// longer counts as waiting or running. Attempts without measured usage (never spawned, or lost
/// with their worker) count by their outcome. They count in nothing that is about processes: not in
/// CPU, wall time or memory, nor in the number of jobs beside them.
pub fn contribution(record: &JobRecord) -> Counts {
    let mut counts = Counts::default();
    let attempts = u32::try_from(record.attempts.len()).unwrap_or(u32::MAX);
    let mut most_beside = None;
    for (attempt, report) in record.attempts.iter().filter_map(|a| Some((a, a.report.as_ref()?))) {
        *counts.outcomes.entry(report.outcome.kind()).or_insert(0) += 1;
        if let Some(usage) = &report.usage {
            count_process(&mut counts, report, usage);
            count_reserved(&mut counts, report, usage, record.options.cores);
            most_beside = most_beside.max(Some(report.peak_beside));
        }
        count_error(&mut counts, attempt, report.usage.as_ref());
    }
    count_first(&mut counts, record);
    count_survival(&mut counts, record);
    count_errors(&mut counts, record);
    match record.state {
        JobState::Waiting | JobState::Delayed | JobState::Prioritized => counts.waiting = i64::from(!record.removed),
        JobState::Active => counts.active = i64::from(!record.removed),
        JobState::Completed => {
            counts.completed_by_attempts.insert(attempts, 1);
            counts.jobs_by_beside.extend(most_beside.map(|n| (n, 1)));
            counts.completed_by_beside.extend(most_beside.map(|n| (n, 1)));
        }
        JobState::Failed => {
            counts.failed_by_attempts.insert(attempts, 1);
            counts.jobs_by_beside.extend(most_beside.map(|n| (n, 1)));
        }
    }
    if let Some(first) = record.attempts.first() {
        let due = record.submitted_at + record.options.delay;
        let waited = first.started_at.since(due).as_millis();
        counts.wait_ms.record(u64::try_from(waited).unwrap_or(MOST).min(MOST));
    }
    if let Some(queue) = &record.options.queue {
        counts.by_queue = QueueParts::of_job(queue, record.queue_is_late, counts.clone());
    }
    counts
}

fn count_process(counts: &mut Counts, report: &AttemptReport, usage: &Usage) {
    let cpu = cpu_us(usage);
    *counts.attempts_by_beside.entry(report.peak_beside).or_insert(0) += 1;
    if report.outcome.is_success() {
        *counts.successes_by_beside.entry(report.peak_beside).or_insert(0) += 1;
        counts.cpu_us_succeeded += cpu;
    } else {
        counts.cpu_us_failed += cpu;
    }
    counts.wall_us += amount(usage.wall_us);
    counts.run_us.record(usage.wall_us.min(MOST));
    counts.peak_rss_kib.record(usage.peak_rss_bytes.min(MOST) / 1024);
}

/// Counts the cores and the memory that the attempt was given, against what it used.
fn count_reserved(counts: &mut Counts, report: &AttemptReport, usage: &Usage, asked: Option<u32>) {
    let pinned = u32::try_from(report.cpus.len()).ok().filter(|n| *n > 0);
    if let Some(cores) = pinned.or(asked) {
        *counts.attempts_by_cores.entry(cores).or_insert(0) += 1;
        counts.reserved_core_us += amount(usage.wall_us.saturating_mul(cores.into()));
        counts.reserved_cpu_us += cpu_us(usage);
    }
    if let Some(percent) = (cpu_us(usage).unsigned_abs() * 100).checked_div(usage.wall_us) {
        counts.core_percent.record(percent);
    }
    if let Some(limit) = report.memory_limit_bytes.filter(|limit| *limit > 0) {
        counts.memory_limit_kib.record(limit.min(MOST) / 1024);
        counts.memory_percent.record(usage.peak_rss_bytes.min(MOST).saturating_mul(100) / limit);
    }
}

/// Counts the error of a failed attempt, and its cost.
fn count_error(counts: &mut Counts, attempt: &AttemptRecord, usage: Option<&Usage>) {
    if let Some(fingerprint) = attempt.fingerprint {
        let failed = counts.failures.entry(fingerprint).or_default();
        failed.attempts += 1;
        failed.cpu_us += usage.map_or(0, cpu_us);
        failed.wall_us += usage.map_or(0, |u| amount(u.wall_us));
    }
}

/// Counts the first attempt's success by how many jobs ran beside it at its start. Unlike the peak
/// over a job's life, that does not grow with the job's length or its attempts.
fn count_first(counts: &mut Counts, record: &JobRecord) {
    let first = record.attempts.first().and_then(|attempt| attempt.report.as_ref());
    let Some(report) = first.filter(|report| report.usage.is_some() && has_told(&report.outcome)) else { return };
    match report.beside_at_start {
        Some(beside) => {
            counts.first_attempts_by_start.insert(beside, 1);
            counts.first_successes_by_start.extend(report.outcome.is_success().then_some((beside, 1)));
        }
        None => counts.first_attempts_unknown = 1,
    }
}

/// Counts the job for the worth of retries, up to the moment when it was first put back.
///
/// A person puts a job back after mending something, so later attempts are another story.
fn count_survival(counts: &mut Counts, record: &JobRecord) {
    let Some((attempts, end)) = first_life(record) else {
        counts.first_end_unknown = 1;
        return;
    };
    let mut failures = 0;
    let mut last = None;
    for report in attempts.iter().filter_map(|a| a.report.as_ref()).filter(|report| has_told(&report.outcome)) {
        if let Some(usage) = &report.usage {
            *counts.cpu_us_by_failures.entry(failures).or_insert(0) += cpu_us(usage);
        }
        failures += u32::from(has_failed(&report.outcome));
        last = Some(report);
    }
    let counter = match end {
        LifeEnd::Completed => &mut counts.completed_by_failures,
        LifeEnd::Failed if is_hopeless(record, last, failures) => &mut counts.hopeless_by_failures,
        LifeEnd::Failed => &mut counts.exhausted_by_failures,
        LifeEnd::Stopped => {
            counts.stopped = 1;
            &mut counts.undecided_by_failures
        }
        LifeEnd::Open => {
            counts.open = i64::from(!record.removed);
            &mut counts.undecided_by_failures
        }
    };
    counter.insert(failures, 1);
    counts.jobs_by_budget.insert(record.options.attempts, 1);
}

enum LifeEnd {
    Completed,
    /// The job failed by itself.
    Failed,
    /// The job was cancelled or lost, so its own end is unknown.
    Stopped,
    Open,
}

/// The attempts of a job until it was first put back, and how it had ended by then. `None` when an
/// older version, which kept only the last put-back, put it back more than once.
fn first_life(record: &JobRecord) -> Option<(&[AttemptRecord], LifeEnd)> {
    let of = |outcome: Option<Outcome>| match outcome {
        Some(Outcome::Cancelled | Outcome::Lost) | None => LifeEnd::Stopped,
        Some(_) => LifeEnd::Failed,
    };
    let until = |number: u32| &record.attempts[..record.attempts.partition_point(|a| a.number.0 <= number)];
    match (record.retries, record.retried_after) {
        (_, Some(RetriedAfter::Known { first, .. })) => Some((until(first.attempts), of(first.outcome))),
        (0, _) => {
            let end = match record.state {
                JobState::Completed => LifeEnd::Completed,
                JobState::Failed => of(record.outcome),
                JobState::Waiting | JobState::Delayed | JobState::Prioritized | JobState::Active => LifeEnd::Open,
            };
            Some((&record.attempts, end))
        }
        (1, Some(RetriedAfter::Attempts(number))) => {
            let attempts = until(number);
            let last = attempts.last().and_then(|attempt| attempt.report.as_ref());
            Some((attempts, of(last.map(|report| report.outcome))))
        }
        _ => None,
    }
}

/// Whether a job that has failed by itself did so because another attempt was pointless. Its worker says so
/// in the report. For reports of an older version, the job's own options and the rest of its budget decide.
fn is_hopeless(record: &JobRecord, last: Option<&AttemptReport>, failures: u32) -> bool {
    let Some(last) = last else { return true };
    last.no_retry.unwrap_or_else(|| {
        forbids_retry(record.options.no_retry_exit_codes.as_deref().unwrap_or_default(), &last.outcome)
            || failures < record.options.attempts
    })
}

/// Whether an attempt with this outcome tells how the program fares: it succeeded or failed.
fn has_told(outcome: &Outcome) -> bool {
    outcome.is_success() || has_failed(outcome)
}

/// Counts the errors of the job's failed attempts, and how the job has ended for now.
fn count_errors(counts: &mut Counts, record: &JobRecord) {
    let errors = record.errors();
    if !errors.is_empty() {
        let is_in = |state| i64::from(record.state == state);
        let (completed, failed) = (is_in(JobState::Completed), is_in(JobState::Failed));
        counts.jobs_by_errors.insert(errors, ErrorSetCounts { jobs: 1, completed, failed });
    }
}

fn cpu_us(usage: &Usage) -> i64 {
    amount(usage.user_us.saturating_add(usage.system_us))
}

fn amount(value: u64) -> i64 {
    value.min(MOST).cast_signed()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{AttemptNumber, Fingerprint, JobOptions, NewJob, Outcome, OutcomeKind, Timestamp, WorkerId};
    use crate::stats::shard::Counter;
    use crate::stats::{ErrorSet, FailureCounts};
    use crate::store::{AttemptRecord, FirstEnd};

    fn record() -> JobRecord {
        let options = JobOptions { delay: Duration::from_secs(1), ..JobOptions::default() };
        let job = NewJob { id: None, name: "a".into(), arguments: vec![], data: None, options };
        JobRecord::new(&job.accept(Timestamp::from_millis(10_000)).unwrap().job)
    }

    fn attempt(number: u32, outcome: Outcome, beside: Option<u32>) -> AttemptRecord {
        let (start, end) = (Timestamp::from_millis(11_007), Timestamp::from_millis(12_000));
        let mut report = AttemptReport::bare(outcome, start, end, "");
        report.peak_beside = beside.unwrap_or(0);
        report.usage = beside.map(|_| Usage { wall_us: 3000, user_us: 20, system_us: 5, peak_rss_bytes: 2048 });
        AttemptRecord {
            number: AttemptNumber(number),
            worker: WorkerId::parse("w").unwrap(),
            host: "h".into(),
            started_at: start,
            report: Some(report),
            fingerprint: has_failed(&outcome).then(|| Fingerprint::from_bytes([7; 32])),
            build: None,
        }
    }

    #[test]
    fn an_ended_job_is_counted_once_in_everything() {
        let mut record = record();
        record.state = JobState::Completed;
        record.attempts = vec![
            attempt(1, Outcome::Lost, None),
            attempt(2, Outcome::Timeout, Some(3)),
            attempt(3, Outcome::Exit { code: 0 }, Some(1)),
        ];
        let counts = contribution(&record);
        assert_eq!(counts.completed_by_attempts, [(3, 1)].into());
        assert_eq!(counts.outcomes, [(OutcomeKind::Exit, 1), (OutcomeKind::Timeout, 1), (OutcomeKind::Lost, 1)].into());
        assert_eq!(counts.attempts_by_beside, [(1, 1), (3, 1)].into());
        assert_eq!(counts.successes_by_beside, [(1, 1)].into());
        assert_eq!((&counts.jobs_by_beside, &counts.completed_by_beside), (&[(3, 1)].into(), &[(3, 1)].into()));
        assert_eq!((counts.cpu_us_succeeded, counts.cpu_us_failed, counts.wall_us), (25, 25, 6000));
        assert_eq!(counts.wait_ms.quantile(0.5), Some(7));
        assert_eq!((counts.run_us.count(), counts.peak_rss_kib.quantile(0.5)), (2, Some(2)));
        let error = Fingerprint::from_bytes([7; 32]);
        assert_eq!(counts.failures, [(error, FailureCounts { attempts: 1, cpu_us: 25, wall_us: 3000 })].into());
        let once = ErrorSetCounts { jobs: 1, completed: 1, failed: 0 };
        assert_eq!(counts.jobs_by_errors, [(ErrorSet::new([error]), once)].into());
        assert_eq!(counts.completed_by_failures, [(1, 1)].into(), "a lost attempt has not failed");
        assert_eq!(counts.cpu_us_by_failures, [(0, 25), (1, 25)].into());
    }

    #[test]
    fn a_failed_job_was_out_of_attempts_or_hopeless_or_stopped() {
        let mut record = record();
        record.state = JobState::Failed;
        record.outcome = Some(Outcome::Timeout);
        record.attempts = (1..=3).map(|n| attempt(n, Outcome::Timeout, None)).collect();
        assert_eq!(contribution(&record).exhausted_by_failures, [(3, 1)].into());
        record.options.attempts = 4;
        assert_eq!(contribution(&record).hopeless_by_failures, [(3, 1)].into(), "one was left");
        record.options.attempts = 3;
        record.outcome = Some(Outcome::Cancelled);
        let counts = contribution(&record);
        assert_eq!((counts.undecided_by_failures, counts.stopped, counts.open), ([(3, 1)].into(), 1, 0));
        record.state = JobState::Delayed;
        let counts = contribution(&record);
        assert_eq!((counts.undecided_by_failures, counts.stopped, counts.open), ([(3, 1)].into(), 0, 1));
    }

    #[test]
    fn a_pointless_attempt_is_hopeless_on_the_last_attempt_too() {
        let mut record = record();
        record.options.attempts = 1;
        record.state = JobState::Failed;
        record.outcome = Some(Outcome::Exit { code: 65 });
        record.attempts = vec![attempt(1, Outcome::Exit { code: 65 }, Some(0))];
        let say = |record: &mut JobRecord, no_retry| {
            record.attempts[0].report.as_mut().unwrap().no_retry = no_retry;
            let counts = contribution(record);
            (counts.hopeless_by_failures.len(), counts.exhausted_by_failures.len())
        };
        assert_eq!(say(&mut record, Some(true)), (1, 0), "its worker has said so");
        assert_eq!(say(&mut record, Some(false)), (0, 1));
        assert_eq!(say(&mut record, None), (0, 1), "an older version did not say");
        record.options.no_retry_exit_codes = Some(vec![65]);
        assert_eq!(say(&mut record, None), (1, 0), "but the job itself does");
    }

    #[test]
    fn what_comes_after_a_job_was_put_back_tells_nothing_of_retries() {
        let mut record = record();
        record.options.attempts = 1;
        record.state = JobState::Completed;
        record.retries = 2;
        record.attempts = vec![
            attempt(1, Outcome::Exit { code: 65 }, Some(0)),
            attempt(2, Outcome::Timeout, Some(0)),
            attempt(3, Outcome::Exit { code: 0 }, Some(0)),
        ];
        record.attempts[0].report.as_mut().unwrap().no_retry = Some(true);
        let first = FirstEnd { attempts: 1, outcome: Some(Outcome::Exit { code: 65 }) };
        record.retried_after = Some(RetriedAfter::Known { attempts: 2, first });
        let counts = contribution(&record);
        assert_eq!((counts.hopeless_by_failures, counts.completed_by_failures.len()), ([(1, 1)].into(), 0));
        assert_eq!(counts.cpu_us_by_failures, [(0, 25)].into());
        assert_eq!(counts.completed_by_attempts, [(3, 1)].into(), "the original's numbers stay");
        // An older version kept the last put-back only.
        record.retried_after = Some(RetriedAfter::Attempts(2));
        let counts = contribution(&record);
        assert_eq!((counts.first_end_unknown, counts.hopeless_by_failures.len()), (1, 0));
        record.retries = 1;
        assert_eq!(contribution(&record).exhausted_by_failures, [(2, 1)].into(), "the last was the first");
    }

    #[test]
    fn first_attempts_are_counted_by_what_ran_when_they_started() {
        let of = |outcome, at_start| {
            let mut record = record();
            record.attempts = vec![attempt(1, outcome, Some(7)), attempt(2, Outcome::Exit { code: 0 }, Some(7))];
            record.attempts[0].report.as_mut().unwrap().beside_at_start = at_start;
            let counts = contribution(&record);
            (counts.first_attempts_by_start, counts.first_successes_by_start, counts.first_attempts_unknown)
        };
        let none = || Counter::new();
        assert_eq!(of(Outcome::Timeout, Some(2)), ([(2, 1)].into(), none(), 0));
        assert_eq!(of(Outcome::Exit { code: 0 }, Some(0)), ([(0, 1)].into(), [(0, 1)].into(), 0));
        assert_eq!(of(Outcome::Cancelled, Some(2)), (none(), none(), 0), "a cancelled attempt is no failure");
        assert_eq!(of(Outcome::Lost, Some(2)), (none(), none(), 0), "nor here");
        assert_eq!(of(Outcome::Timeout, None), (none(), none(), 1), "an older version recorded it");
    }

    #[test]
    fn cpu_time_of_attempts_that_were_stopped_is_in_no_mean() {
        let mut record = record();
        record.attempts = vec![attempt(1, Outcome::Cancelled, Some(0)), attempt(2, Outcome::Timeout, Some(0))];
        assert_eq!(contribution(&record).cpu_us_by_failures, [(0, 25)].into());
    }

    #[test]
    fn what_was_reserved_is_compared_with_what_was_used() {
        let mut record = record();
        let mut attempt = attempt(1, Outcome::Exit { code: 0 }, Some(0));
        let report = attempt.report.as_mut().unwrap();
        report.cpus = vec![2, 3];
        report.memory_limit_bytes = Some(8192);
        report.usage = Some(Usage { wall_us: 1000, user_us: 700, system_us: 50, peak_rss_bytes: 2048 });
        record.attempts = vec![attempt];
        let counts = contribution(&record);
        assert_eq!((counts.reserved_core_us, counts.reserved_cpu_us), (2000, 750));
        assert_eq!(counts.attempts_by_cores, [(2, 1)].into());
        let median = |h: &crate::stats::Histogram| h.quantile(0.5);
        assert_eq!((median(&counts.memory_limit_kib), median(&counts.memory_percent)), (Some(8), Some(25)));
        assert!(median(&counts.core_percent).is_some_and(|p| (70..80).contains(&p)));
    }

    #[test]
    fn a_removed_job_no_longer_waits_but_its_past_stays() {
        let mut record = record();
        assert_eq!(contribution(&record).waiting, 1);
        record.attempts = vec![attempt(1, Outcome::Timeout, Some(0))];
        record.removed = true;
        let counts = contribution(&record);
        assert_eq!((counts.waiting, counts.outcomes.len()), (0, 1));
        record.state = JobState::Failed;
        assert_eq!(contribution(&record).failed(), 1);
    }

    #[test]
    fn made_up_amounts_do_not_overflow() {
        let mut record = record();
        let mut attempt = attempt(1, Outcome::Timeout, Some(u32::MAX));
        let huge = Usage { wall_us: u64::MAX, user_us: u64::MAX, system_us: u64::MAX, peak_rss_bytes: u64::MAX };
        attempt.report.as_mut().unwrap().usage = Some(huge);
        record.attempts = vec![attempt; 1000];
        let counts = contribution(&record);
        assert!(counts.wall_us > 0 && counts.run_us.quantile(1.0).is_some());
    }
}
