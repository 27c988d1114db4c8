//! The documents of the store, the same in every adapter.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::{
    AttemptNumber, AttemptReport, Fingerprint, GroupName, Job, JobBody, JobId, JobName, JobOptions, JobState, Outcome,
    QueueName, RawJson, Timestamp, WorkerId, first_line,
};
use crate::events::Cursor;
use crate::stats::ErrorSet;
use crate::stats::builds::BuildPlace;

/// Everything that history knows of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The document format: [`JobRecord::SCHEMA`], or 1 for a record that has the job's body within it.
    pub schema: u32,
    /// Identifies the job. Never changes, nor do the next four.
    pub id: JobId,
    /// The binary that it runs.
    pub name: JobName,
    /// In format 1, the binary's arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Vec<String>>,
    /// In format 1, what the binary gets on its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<RawJson>,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// The rules under which it runs.
    pub options: JobOptions,
    /// Its state after the last folded event.
    pub state: JobState,
    /// All its attempts, in order of number.
    pub attempts: Vec<AttemptRecord>,
    /// How its last attempt ended, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The result that it gave back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it failed, or why its last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it ended; `None` before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// When its next attempt is due, between two attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// The reason of a request to cancel it, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested: Option<String>,
    /// How often it was put back after it had failed.
    #[serde(default)]
    pub retries: u32,
    /// After how many attempts it was put back, and how it had ended first. `None` if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_after: Option<RetriedAfter>,
    /// Whether it was removed from the queue and the lists.
    #[serde(default)]
    pub removed: bool,
    /// Whether the log has its submission. Other events may have made the record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub announced: bool,
    /// Whether the store keeps the job's body beside the record ([`super::History::bodies`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_body: bool,
    /// When the last job was submitted that has this id too, and a record of its own (see [`JobId::come_again`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub come_again: Option<Timestamp>,
    /// The queue's id of the job, where history made `id` itself and `id` does not show it. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_as: Option<JobId>,
    /// Whether its queue came too late for a part of its own in the job's aggregate. Never changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queue_is_late: bool,
    /// The last event that has been folded in: earlier ones are skipped.
    pub applied: Cursor,
}

/// The point after which a job was put back. It is one field, as a store may bound how many fields
/// a change can write.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RetriedAfter {
    /// How many attempts had started when it was last put back. Older versions wrote only this.
    Attempts(u32),
    /// The same, together with its first end.
    Known {
        /// How many attempts had started when it was last put back. News of their end no longer moves the job.
        attempts: u32,
        /// How it had ended when it was first put back. Later attempts say nothing about the worth of retries.
        first: FirstEnd,
    },
}

impl RetriedAfter {
    /// How many attempts had started when the job was last put back.
    pub fn attempts(self) -> u32 {
        match self {
            RetriedAfter::Attempts(attempts) | RetriedAfter::Known { attempts, .. } => attempts,
        }
    }

    /// How the job had ended when it was first put back; `None` when an older version put it back.
    pub fn first_end(self) -> Option<FirstEnd> {
        match self {
            RetriedAfter::Attempts(_) => None,
            RetriedAfter::Known { first, .. } => Some(first),
        }
    }
}

/// The end of a job that was put back later.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FirstEnd {
    /// How many attempts had started by then.
    pub attempts: u32,
    /// How the last of them ended, or the job without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// Finds the queue's id of a job; see [`JobRecord::own_id`].
pub fn own_id(id: &JobId, queued_as: Option<&JobId>, submitted_at: Timestamp) -> Option<JobId> {
    match id.split_come_again() {
        _ if queued_as.is_some() => queued_as.cloned(),
        Some((own, _)) if own.come_again(submitted_at) == *id => Some(own),
        _ => (!id.is_shortened()).then(|| id.clone()),
    }
}

impl JobRecord {
    /// The document format that this version writes.
    pub const SCHEMA: u32 = 2;
    /// The last format that had the job's body within the record.
    pub(super) const WITHIN: u32 = 1;

    /// Makes the record of a job before any of its events is folded.
    pub fn new(job: &Job) -> Self {
        let state = if !job.options.delay.is_zero() || !job.options.after.is_empty() {
            JobState::Delayed
        } else if job.options.priority > 0 {
            JobState::Prioritized
        } else {
            JobState::Waiting
        };
        Self {
            schema: Self::SCHEMA,
            id: job.id.clone(),
            name: job.name.clone(),
            arguments: None,
            data: None,
            submitted_at: job.submitted_at,
            options: job.options.clone(),
            state,
            attempts: Vec::new(),
            outcome: None,
            result: None,
            error: None,
            finished_at: None,
            due_at: (!job.options.delay.is_zero()).then(|| job.submitted_at + job.options.delay),
            cancel_requested: None,
            retries: 0,
            retried_after: None,
            removed: false,
            announced: false,
            has_body: false,
            come_again: None,
            queued_as: None,
            queue_is_late: false,
            applied: Cursor::START,
        }
    }

    /// The queue's id of the job. History may keep the job under an id that it made itself
    /// ([`JobId::come_again`]). `None` when that id does not show it: an older version has
    /// shortened it and did not note the original.
    pub fn own_id(&self) -> Option<JobId> {
        own_id(&self.id, self.queued_as.as_ref(), self.submitted_at)
    }

    /// The header of its job, under the id that history has it under.
    pub fn job(&self) -> Job {
        Job {
            id: self.id.clone(),
            name: self.name.clone(),
            options: self.options.clone(),
            submitted_at: self.submitted_at,
            trace: None,
        }
    }

    /// Whether history still has to be told what the job is given.
    pub fn lacks_body(&self) -> bool {
        !self.has_body && self.schema > Self::WITHIN
    }

    /// The body of a record that has it within; `None` for one that has not.
    pub fn body_within(&self) -> Option<JobBody> {
        (self.schema <= Self::WITHIN)
            .then(|| JobBody::new(self.arguments.clone().unwrap_or_default(), self.data.as_ref()))
    }

    /// What its failed attempts said, each error once.
    pub fn errors(&self) -> ErrorSet {
        ErrorSet::new(self.attempts.iter().filter_map(|attempt| attempt.fingerprint))
    }

    /// When it ended for good, if it has. A job that was taken out of the queue before it ever
    /// ended has no end of its own, so it counts as ended at its submission.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match self.state {
            JobState::Completed | JobState::Failed => Some(self.finished_at.unwrap_or(self.submitted_at)),
            JobState::Waiting | JobState::Delayed | JobState::Prioritized => self.removed.then_some(self.submitted_at),
            JobState::Active => None,
        }
    }

    /// The record as one line of a list.
    pub fn summary(&self) -> JobSummary {
        let last = self.attempts.last();
        JobSummary {
            id: self.id.clone(),
            name: self.name.clone(),
            state: self.state,
            submitted_at: self.submitted_at,
            started_at: last.map(|a| a.started_at),
            finished_at: self.finished_at,
            attempts: u32::try_from(self.attempts.len()).unwrap_or(u32::MAX),
            outcome: self.outcome,
            error: self.error.as_ref().map(|e| first_line(e).chars().take(200).collect()),
            worker: last.map(|a| a.worker.clone()),
            ran_ms: last.and_then(|a| a.report.as_ref()).map(AttemptReport::wall_ms),
            queue: self.options.queue.clone(),
            group: self.options.group.clone(),
            array_index: self.options.array_index,
        }
    }

    /// Its place among the jobs of its group: the index in their array, -1 for a job of none. `None` without a group.
    pub(super) fn group_order(&self) -> Option<i64> {
        self.options.group.as_ref().map(|_| self.options.array_index.map_or(-1, i64::from))
    }
}

/// One start of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptRecord {
    /// Attempt number, counting from 1.
    pub number: AttemptNumber,
    /// The worker that started it.
    pub worker: WorkerId,
    /// The name of the worker's host. Empty when only the end is known.
    #[serde(default)]
    pub host: String,
    /// When the worker started it.
    pub started_at: Timestamp,
    /// How it ended; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<AttemptReport>,
    /// The fingerprint of its error, if it failed. An attempt that was lost or cancelled has not failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Of the first attempt: the build that was there when it was started, and its place among the first attempts of that
    /// build. `None` where its worker did not know the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildPlace>,
}

/// A job in one line of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobSummary {
    /// The id of the job.
    pub id: JobId,
    /// The binary that it runs.
    pub name: JobName,
    /// Its state as far as events were folded.
    pub state: JobState,
    /// When the queue accepted it.
    pub submitted_at: Timestamp,
    /// When its last attempt was started.
    pub started_at: Option<Timestamp>,
    /// When it ended; `None` before that.
    pub finished_at: Option<Timestamp>,
    /// How many attempts were started.
    pub attempts: u32,
    /// How its last attempt ended, once it has ended.
    pub outcome: Option<Outcome>,
    /// The first line of its error.
    pub error: Option<String>,
    /// The worker that started its last attempt. `None` before the first, and in lines that older versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// How long its last attempt ran, in milliseconds. `None` while it runs, and in lines that older versions wrote.
    #[serde(default, rename = "duration_ms", skip_serializing_if = "Option::is_none")]
    pub ran_ms: Option<u64>,
    /// The queue in which it was submitted; `None` for the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// The jobs to which it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Which job of an array it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_index: Option<u32>,
}

impl JobSummary {
    /// How long its last attempt ran, in milliseconds, as far as the line tells; `None` while it runs.
    pub fn duration_ms(&self) -> Option<u64> {
        let span = || u64::try_from(self.finished_at?.as_millis().saturating_sub(self.started_at?.as_millis())).ok();
        self.ran_ms.or_else(span)
    }
}

/// A job name in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NameSummary {
    /// The name of the binary.
    pub name: JobName,
    /// When one of its jobs was last submitted.
    pub latest: Timestamp,
    /// How many jobs wait, are delayed or prioritised.
    pub waiting: u64,
    /// How many jobs are running.
    pub active: u64,
    /// How many jobs have completed.
    pub completed: u64,
    /// How many jobs have failed.
    pub failed: u64,
    /// The last submitted jobs, newest first, at most [`NameSummary::listed`].
    pub recent: Vec<JobId>,
    /// The running jobs, at most [`NameSummary::listed`].
    pub running: Vec<JobId>,
}

impl NameSummary {
    /// How many ids a summary lists at most.
    pub const RECENT: usize = 1000;

    /// How many ids the summary of each of so many names lists at most: an equal share, so that the summaries of many
    /// names are hardly larger than that of one, however many jobs there are.
    pub fn listed(names: usize) -> usize {
        (Self::RECENT / names.max(1)).max(10)
    }
}
