//! The bodies of `/api/v1/jobs`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::JobSelection;
use crate::domain::options::with_run_options;
use crate::domain::time::millis;
use crate::domain::{
    ArraySpec, Backoff, Deduplication, Fingerprint, GroupName, InputFile, Job, JobId, JobName, JobOptions, JobState,
    NewJob, Outcome, Progress, QueueName, RawJson, Timestamp, WorkerId, body,
};
use crate::stats::builds::Regression;
use crate::store::{AttemptRecord, JobSummary};

macro_rules! define_submit_job {
    ($({
        $field:ident: $type:ty, $help:literal,
        json: $json:literal $(as $with:literal)?,
        $($rest:tt)*
    })*) => {
        /// `POST /api/v1/jobs`: one job. What is absent is decided by the configuration.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "the fields are those of Job and JobOptions")]
        pub struct SubmitJob {
            pub name: String,
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub arguments: Vec<String>,
            #[serde(default, deserialize_with = "body::compact", skip_serializing_if = "Option::is_none")]
            pub data: Option<RawJson>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub id: Option<String>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub attempts: Option<u32>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub backoff: Option<Backoff>,
            #[schema(value_type = Option<u64>, maximum = 316_224_000_000u64)]
            #[serde(default, rename = "delay_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
            pub delay: Option<Duration>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub priority: Option<u32>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub queue: Option<QueueName>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub group: Option<GroupName>,
            #[schema(minimum = 1)]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub group_limit: Option<u32>,
            /// Makes an array of jobs, one for each index.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub array: Option<ArraySpec>,
            $(
                $(#[schema(value_type = Option<u64>)] #[serde(with = $with)])?
                #[serde(default, rename = $json, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub deduplication: Option<Deduplication>,
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub after: Vec<JobId>,
            /// What it finds in `$JOBBER_INPUT_DIR`: contents that were uploaded.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub inputs: Vec<InputFile>,
        }

        impl SubmitJob {
            /// Fills in what is absent from `defaults`; the result still wants checking ([`NewJob::accept`]). Leaves `array`
            /// aside: the result is one job.
            pub fn with_defaults(self, defaults: &JobOptions) -> NewJob {
                let mut options = JobOptions {
                    attempts: self.attempts.unwrap_or(defaults.attempts),
                    backoff: self.backoff.unwrap_or_else(|| defaults.backoff.clone()),
                    delay: self.delay.unwrap_or(defaults.delay),
                    priority: self.priority.unwrap_or(defaults.priority),
                    queue: self.queue.or_else(|| defaults.queue.clone()),
                    group: self.group,
                    group_limit: self.group_limit,
                    array_index: None,
                    $($field: self.$field,)*
                    deduplication: self.deduplication,
                    after: self.after,
                    inputs: self.inputs,
                };
                options.fill_run_options(defaults);
                NewJob { id: self.id, name: self.name, arguments: self.arguments, data: self.data, options }
            }

            /// Takes from `options` every run option of which this job says nothing.
            pub fn fill_run_options(&mut self, options: &JobOptions) {
                $(if self.$field.is_none() {
                    self.$field.clone_from(&options.$field);
                })*
            }
        }
    };
}
with_run_options!(define_submit_job);

/// The most jobs in one `POST /api/v1/jobs:bulk`.
pub const MOST_JOBS: usize = 10_000;

/// `POST /api/v1/jobs:bulk`: many jobs, all accepted or none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitJobs {
    /// 1 to 10,000 jobs.
    pub jobs: Vec<SubmitJob>,
}

/// The answer for one submitted job, or for an array: then `id` is that of its first job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    /// The job that stands for it.
    pub id: JobId,
    /// Always `queued`.
    pub status: String,
    /// Whether that job had been there before (same id, deduplication key or idempotency key); of an array, all its jobs.
    pub duplicate: bool,
    /// When it was submitted; absent when the queue has let go of it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<Timestamp>,
    /// All its jobs, if it is an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<SubmittedArray>,
}

impl Submitted {
    /// The id at which this job is found, even if its own stands for another job before or after it.
    pub fn address(&self) -> JobId {
        match self.submitted_at {
            // A generated id never comes again.
            Some(at) if uuid::Uuid::parse_str(self.id.as_str()).is_err() => self.id.come_again(at),
            _ => self.id.clone(),
        }
    }
}

/// What became of a submitted array. Its jobs have the ids `<base>-<index>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmittedArray {
    /// The group of its jobs.
    pub group: GroupName,
    /// How many jobs it has.
    pub count: u64,
    /// How many of them had been there before (same id or idempotency key).
    pub duplicates: u64,
    /// The id of the job of the first index.
    pub first_id: JobId,
    /// The id of the job of the last index.
    pub last_id: JobId,
}

/// The answer to `POST /api/v1/jobs:bulk`, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmittedJobs {
    /// One for each job.
    pub jobs: Vec<Submitted>,
}

/// The most jobs in one page of `GET /api/v1/jobs`.
pub const LARGEST_PAGE: u16 = 200;

/// `GET /api/v1/jobs`: a page of jobs, the last submitted first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobListing {
    /// The jobs.
    pub items: Vec<JobSummary>,
    /// Give it back as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
    /// How many jobs a search looked at for this page. It may stop before the page is full: `next_cursor` goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned: Option<u64>,
}

/// A list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Listing<T> {
    /// The items, in order.
    pub items: Vec<T>,
    /// Give it back as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// `GET /api/v1/jobs/{id}`: all that history and queue know of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Identifies it.
    pub id: JobId,
    /// The binary that it runs.
    pub name: JobName,
    /// The binary's arguments. Absent, as `data`, `result` and output, where a viewer is not shown them.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// What it gets on its standard input, as it came.
    pub data: Option<RawJson>,
    /// Its state.
    pub state: JobState,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// When its next attempt is due, while it is delayed.
    pub due_at: Option<Timestamp>,
    /// The time at which it ended; null while it is open.
    pub finished_at: Option<Timestamp>,
    /// How its last attempt ended, once the job has ended.
    pub outcome: Option<Outcome>,
    /// What it gave back.
    pub result: Option<Value>,
    /// Why it failed, or why its last attempt did.
    pub error: Option<String>,
    /// Who runs it now.
    pub worker: Option<WorkerId>,
    /// How far it says it is, while it runs.
    pub progress: Option<Progress>,
    /// Why a caller asked for it to be stopped.
    pub cancel_requested: Option<String>,
    /// How often an operator put it back after it had failed.
    pub retries: u32,
    /// The rules under which it runs.
    pub options: JobOptions,
    /// The jobs of `options.after` that have not completed yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<JobId>,
    /// Every start of it, in order.
    pub attempts: Vec<AttemptRecord>,
    /// The category of what failed attempts said: its id, `uncategorised` or `pending`. Only when one job is asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<Fingerprint, String>,
    /// What is known against the build that its last attempt ran, if that does worse than the builds before it. Only when one
    /// job is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regression: Option<Regression>,
    /// What this view lacks, and why: history or the queue could not be asked. `None` when both answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

impl JobView {
    /// A view of a job that nothing is known of but that it was accepted.
    pub fn of(job: &Job, state: JobState) -> Self {
        Self {
            id: job.id.clone(),
            name: job.name.clone(),
            arguments: Vec::new(),
            data: None,
            state,
            submitted_at: job.submitted_at,
            due_at: None,
            finished_at: None,
            outcome: None,
            result: None,
            error: None,
            worker: None,
            progress: None,
            cancel_requested: None,
            retries: 0,
            options: job.options.clone(),
            waits_for: Vec::new(),
            attempts: Vec::new(),
            categories: BTreeMap::new(),
            regression: None,
            incomplete: None,
        }
    }
}

/// `POST /api/v1/jobs/{id}:cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Why, for history.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The answer to a verb on a job: `:cancel`, `:retry`, `:promote`, `DELETE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acted {
    /// The job.
    pub id: JobId,
    /// What happened: `cancelled` (it had not started), `cancelling` (its worker was told), `retried`, `promoted`, `removed`.
    pub status: String,
}

/// `POST /api/v1/jobs:cancel`, `:retry`, `:promote`, `:remove`: which jobs to act on. They are chosen by `ids` or by
/// conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActOnJobs {
    /// These jobs, at most 10,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<JobId>,
    /// The jobs that meet all of these conditions.
    #[serde(flatten)]
    pub selection: JobSelection,
    /// At most so many in this batch, 1 to 10,000; 1,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The `next_cursor` of the batch before; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Says what would become of each job, and does nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for history; only of a cancellation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a batch of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ActedOnJobs {
    /// The jobs that were acted on, or would be.
    #[serde(alias = "retried")]
    pub done: Vec<JobId>,
    /// The jobs that were not or would not be, and why.
    pub skipped: BTreeMap<JobId, String>,
    /// Whether more jobs were chosen than this batch has.
    pub more: bool,
    /// Give it back as `cursor` for the next batch; null after the last.
    pub next_cursor: Option<String>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// `GET /api/v1/jobs/{id}/explain`: why the job stands where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The job.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// Why, one sentence each, the most important first.
    pub reasons: Vec<String>,
}
