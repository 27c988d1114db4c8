//! A job record in, what it contributes to its shard out.
//!
//! A shard is the sum of the contributions of its jobs. An event changes it by the contribution of the event's job after
//! the event less the one before, so no event kind needs arithmetic of its own, and a rebuild is the plain sum.

use crate::domain::{AttemptReport, JobState, Usage};
use crate::stats::{Counts, ShardKey};
use crate::store::JobRecord;

/// The largest single amount that is counted (35 years in microseconds): sums of amounts that somebody made up can't
/// overflow.
const MOST: u64 = 1 << 50;

/// The shard that a job is counted in. It never changes, as none of what it is made of does.
pub fn shard_key(record: &JobRecord) -> ShardKey {
    ShardKey { day: record.submitted_at.day(), name: record.name.clone() }
}

/// What a job adds to its shard.
///
/// A job that was removed stays in the statistics with everything that it has done; it only no longer counts as one that
/// waits or runs. Attempts without measured usage (never spawned, or lost with their worker) count by their outcome, and
/// in nothing that is about processes: not in CPU, wall time, memory, nor what ran beside them.
pub fn contribution(record: &JobRecord) -> Counts {
    let mut counts = Counts::default();
    let attempts = u32::try_from(record.attempts.len()).unwrap_or(u32::MAX);
    let mut most_beside = None;
    for report in record.attempts.iter().filter_map(|a| a.report.as_ref()) {
        *counts.outcomes.entry(report.outcome.kind()).or_insert(0) += 1;
        if let Some(usage) = &report.usage {
            count_process(&mut counts, report, usage);
            most_beside = most_beside.max(Some(report.peak_beside));
        }
    }
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
    counts
}

fn count_process(counts: &mut Counts, report: &AttemptReport, usage: &Usage) {
    let cpu = amount(usage.user_us.saturating_add(usage.system_us));
    *counts.attempts_by_beside.entry(report.peak_beside).or_insert(0) += 1;
    if report.outcome.is_success() {
        *counts.successes_by_beside.entry(report.peak_beside).or_insert(0) += 1;
        counts.cpu_us_succeeded += cpu;
    } else {
        counts.cpu_us_failed += cpu;
    }
    counts.wall_us += amount(usage.wall_us);
    counts.run_ms.record(usage.wall_us.min(MOST) / 1000);
    counts.peak_rss_kib.record(usage.peak_rss_bytes.min(MOST) / 1024);
}

fn amount(value: u64) -> i64 {
    value.min(MOST).cast_signed()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::domain::{AttemptNumber, JobOptions, NewJob, Outcome, OutcomeKind, Timestamp, WorkerId};
    use crate::store::AttemptRecord;

    fn record() -> JobRecord {
        let options = JobOptions { delay: Duration::from_secs(1), ..JobOptions::default() };
        let job = NewJob { id: None, name: "a".into(), arguments: vec![], data: None, options };
        JobRecord::new(&Arc::new(job.accept(Timestamp::from_millis(10_000)).unwrap()))
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
        assert_eq!((counts.run_ms.count(), counts.peak_rss_kib.quantile(0.5)), (2, Some(2)));
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
        assert!(counts.wall_us > 0 && counts.run_ms.quantile(1.0).is_some());
    }
}
