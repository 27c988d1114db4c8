//! How long the records of ended jobs are kept.

use std::time::Duration;

use super::JobRecord;
use crate::domain::{Day, Timestamp};

/// How long the records of ended jobs are kept, counted from the end of the UTC day on which the
/// job ended. So all records of a day expire at one moment, and never before their shard says that
/// they may ([`Retention::whole_until`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention(Option<Duration>);

impl Retention {
    /// The retention under which no record expires.
    pub const FOREVER: Self = Self(None);

    /// Keeps records for `age`, or for ever when it is `None`.
    pub fn new(age: Option<Duration>) -> Self {
        Self(age)
    }

    /// When the record expires. `None` while its job has not ended.
    pub fn expiry(self, record: &JobRecord) -> Option<Timestamp> {
        // Clocks of machines differ: an end before the submission must not let it expire before its shard says so.
        self.whole_until(record.ended_at()?.max(record.submitted_at).day())
    }

    /// Until when the records of all jobs that were submitted on `day` are certain to be there.
    /// They ended on that day at the earliest.
    pub fn whole_until(self, day: Day) -> Option<Timestamp> {
        self.0.map(|age| day.next().start() + age)
    }

    /// Records of jobs that ended before this moment have expired.
    pub fn horizon(self, now: Timestamp) -> Option<Timestamp> {
        self.0.map(|age| (now - age).day().start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobOptions, JobState, NewJob};

    const DAY: Duration = Duration::from_secs(86_400);

    fn record(state: JobState, submitted: i64, finished: Option<i64>) -> JobRecord {
        let job = NewJob { id: None, name: "a".into(), arguments: vec![], data: None, options: JobOptions::default() };
        let job = job.accept(Timestamp::from_millis(submitted)).unwrap().job;
        JobRecord { state, finished_at: finished.map(Timestamp::from_millis), ..JobRecord::new(&job) }
    }

    #[test]
    fn a_record_expires_some_days_after_the_day_of_its_end() {
        let week = Retention::new(Some(DAY * 7));
        let ms = |t: Option<Timestamp>| t.map(Timestamp::as_millis);
        assert_eq!(ms(week.expiry(&record(JobState::Failed, 5, Some(86_400_000)))), Some(86_400_000 * 9));
        assert_eq!(ms(week.expiry(&record(JobState::Failed, 5, Some(86_399_999)))), Some(86_400_000 * 8));
        assert_eq!(ms(week.expiry(&record(JobState::Completed, 86_400_000, Some(5)))), Some(86_400_000 * 9));
        for state in [JobState::Waiting, JobState::Active, JobState::Delayed, JobState::Prioritized] {
            assert_eq!(week.expiry(&record(state, 5, None)), None, "{state}");
        }
        let removed = JobRecord { removed: true, ..record(JobState::Waiting, 5, None) };
        assert_eq!(ms(week.expiry(&removed)), Some(86_400_000 * 8));
        assert_eq!(Retention::FOREVER.expiry(&removed), None);
    }

    #[test]
    fn the_horizon_passes_a_record_when_it_expires() {
        let week = Retention::new(Some(DAY * 7));
        for ended in [0, 1, 86_399_999, 86_400_000, 86_400_001] {
            let record = record(JobState::Completed, 0, Some(ended));
            let expiry = week.expiry(&record).unwrap();
            let is_past = |now| record.ended_at().unwrap() < week.horizon(now).unwrap();
            assert!(is_past(expiry) && !is_past(expiry - Duration::from_millis(1)), "{ended}");
            assert!(week.whole_until(record.submitted_at.day()).unwrap() <= expiry);
        }
        assert_eq!(Retention::FOREVER.horizon(Timestamp::from_millis(1)), None);
    }
}
