//! Jobs and records of attempts for the unit tests of several files.

use std::sync::Arc;

use crate::domain::{
    AttemptNumber, AttemptReport, Job, JobId, JobName, JobOptions, JobState, Outcome, Tail, Timestamp, WorkerId,
};
use crate::queue::{QueuedJob, WorkerInfo};
use crate::store::AttemptRecord;

pub(super) fn job(id: &str) -> Arc<Job> {
    Arc::new(Job {
        id: JobId::parse(id).unwrap(),
        name: JobName::parse("echo").unwrap(),
        options: JobOptions::default(),
        submitted_at: Timestamp::from_millis(0),
        trace: None,
    })
}

pub(super) fn queued(job: &Arc<Job>, state: JobState, attempts_started: u32) -> QueuedJob {
    QueuedJob {
        job: job.clone(),
        body: None,
        state,
        attempts_started,
        attempts_finished: 0,
        due_at: None,
        worker: None,
        progress: None,
        cancel_requested: None,
        finished_at: None,
        result: None,
        error: None,
        waits_for: vec![],
    }
}

/// A worker that tells no more than it must.
pub(super) fn worker() -> WorkerInfo {
    WorkerInfo::bare("w")
}

/// The record of an attempt that runs.
pub(super) fn attempt(number: u32) -> AttemptRecord {
    AttemptRecord {
        number: AttemptNumber(number),
        worker: WorkerId::parse("w").unwrap(),
        host: "h".to_owned(),
        started_at: Timestamp::from_millis(0),
        report: None,
        fingerprint: None,
        build: None,
    }
}

/// The record of an attempt that has ended well, with this text at the end of its stdout.
pub(super) fn ended_attempt(number: u32, stdout: &str) -> AttemptRecord {
    let t = Timestamp::from_millis(0);
    let mut report = AttemptReport::bare(Outcome::Exit { code: 0 }, t, t, "");
    report.error = None;
    report.stdout = Tail::of(stdout.as_bytes(), stdout.len() as u64);
    AttemptRecord { report: Some(report), ..attempt(number) }
}
