//! What a job record contributes to the history of its binary's builds: its first attempt. Pure.

use super::records::has_failed;
use crate::domain::{AttemptNumber, Event, EventKind};
use crate::stats::builds::{Fate, FirstAttempt};
use crate::store::{AttemptRecord, JobRecord};

/// The largest amount that is counted, as in aggregates.
const MOST: u64 = 1 << 50;

/// The first attempt of a job as its build's history counts it. `None` before it was started, when it told nothing of its
/// build (it was lost or cancelled, or no process ran), and when the build is not known.
pub fn first_attempt(record: &JobRecord) -> Option<FirstAttempt> {
    let first = first(record)?;
    let Some(report) = &first.report else {
        let place = first.build.as_ref()?;
        let fate = Fate::Running { since: first.started_at };
        return Some(FirstAttempt { build: place.digest.clone(), cell: Some(place.cell), fate });
    };
    let (build, usage) = (report.build.as_ref()?.digest.clone(), report.usage.as_ref()?);
    if !report.outcome.is_success() && !has_failed(&report.outcome) {
        return None;
    }
    // The file may have been replaced between the look at it and the start.
    let cell = first.build.as_ref().filter(|place| place.digest == build).map(|place| place.cell);
    let fate = Fate::Ended {
        error: first.fingerprint,
        run_us: usage.wall_us.min(MOST),
        cpu_us: usage.cpu_us().min(MOST),
        peak_kib: usage.peak_rss_bytes.min(MOST) / 1024,
    };
    Some(FirstAttempt { build, cell, fate })
}

/// The first attempt of a job, if history has it.
pub(super) fn first(record: &JobRecord) -> Option<&AttemptRecord> {
    record.attempts.first().filter(|attempt| attempt.number == AttemptNumber(1))
}

/// Whether the event starts the first attempt of its job, with a build, and the record does not have that start yet.
pub(super) fn starts_first(record: &JobRecord, event: &Event) -> bool {
    let EventKind::AttemptStarted { attempt: AttemptNumber(1), worker, build: Some(_), .. } = &event.kind else {
        return false;
    };
    first(record).is_none_or(|first| first.worker != *worker && first.report.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        AttemptReport, BuildDigest, Clock, FileBuild, Fingerprint, JobOptions, NewJob, Outcome, Timestamp, Usage,
        WorkerId,
    };
    use crate::stats::builds::BuildPlace;

    fn digest(n: u8) -> BuildDigest {
        BuildDigest::of_build_id(&[n; 4])
    }

    fn record(outcome: Option<Outcome>) -> JobRecord {
        let options = JobOptions::default();
        let job = NewJob { id: None, name: "a".into(), arguments: vec![], data: None, options };
        let mut record = JobRecord::new(&job.accept(Clock::manual(Timestamp::from_millis(0)).now()).unwrap().job);
        let at = Timestamp::from_millis(5);
        let report = outcome.map(|outcome| {
            let mut report = AttemptReport::bare(outcome, at, at, "no");
            report.usage = Some(Usage { wall_us: 30, user_us: 20, system_us: 5, peak_rss_bytes: 4096 });
            report.build = Some(FileBuild { digest: digest(1), bytes: 9, modified_at: at });
            report
        });
        record.attempts.push(AttemptRecord {
            number: AttemptNumber(1),
            worker: WorkerId::parse("w").unwrap(),
            host: String::new(),
            started_at: at,
            report,
            fingerprint: None,
            build: Some(BuildPlace { digest: digest(1), cell: 3 }),
        });
        record
    }

    #[test]
    fn the_first_attempt_counts_for_the_build_that_ran() {
        let of = |record: &JobRecord| first_attempt(record);
        let runs = of(&record(None)).unwrap();
        assert_eq!((runs.build, runs.cell), (digest(1), Some(3)));
        assert_eq!(runs.fate, Fate::Running { since: Timestamp::from_millis(5) });
        let mut ended = record(Some(Outcome::Timeout));
        ended.attempts[0].fingerprint = Some(Fingerprint::OTHER);
        let fate = Fate::Ended { error: Some(Fingerprint::OTHER), run_us: 30, cpu_us: 25, peak_kib: 4 };
        assert_eq!(of(&ended), Some(FirstAttempt { build: digest(1), cell: Some(3), fate }));
        // Another one ran than was there when it was announced.
        ended.attempts[0].build.as_mut().unwrap().digest = digest(2);
        assert_eq!(of(&ended), Some(FirstAttempt { build: digest(1), cell: None, fate }));
        ended.attempts[0].build = None;
        assert_eq!(of(&ended).unwrap().cell, None);
    }

    #[test]
    fn what_tells_nothing_of_a_build_does_not_count() {
        for outcome in [Outcome::Lost, Outcome::Cancelled] {
            assert_eq!(first_attempt(&record(Some(outcome))), None);
        }
        let mut later = record(Some(Outcome::Exit { code: 0 }));
        assert!(first_attempt(&later).is_some());
        later.attempts[0].number = AttemptNumber(2);
        assert_eq!(first_attempt(&later), None, "a retry");
        let mut unknown = record(Some(Outcome::Exit { code: 0 }));
        unknown.attempts[0].report.as_mut().unwrap().build = None;
        assert_eq!(first_attempt(&unknown), None);
    }
}
