//! Accepts jobs: checks them, hands them to the queue, and records their submission.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::body::{Json, Object};
use super::inputs;
use super::problem::ApiError;
use super::query;
use super::state::{Api, BinaryProblem};
use super::traced::{self, RequestContext};
use crate::domain::{AcceptedJob, Event, Job, JobName};
use crate::queue::{Idempotency, QueueError, QueueErrorKind, Submission};
use crate::store::{JobRecord, StoreError};
use crate::wire::{FieldProblem, MOST_JOBS, SubmitJob, Submitted, SubmittedJobs};

/// The most wrong fields that one answer lists.
const LISTED: usize = 20;

/// [`crate::wire::SubmitJobs`], each job an object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bulk {
    jobs: Vec<Object<SubmitJob>>,
}

/// Submits one job, and answers.
///
/// # Errors
/// 422 when a field is wrong.
pub(super) async fn one(
    api: &Arc<Api>,
    job: SubmitJob,
    idempotency: Option<Idempotency>,
    trace: &RequestContext,
) -> Result<Response, ApiError> {
    let jobs = check(api, vec![job], |_| String::new()).await?;
    let submission = submit(api, jobs, idempotency, trace, false).await?.remove(0);
    Ok(accepted(submitted(submission)))
}

/// The answer for a job, or for the first of an array.
pub(super) fn accepted(submitted: Submitted) -> Response {
    let location = format!("/api/v1/jobs/{}", submitted.id);
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(submitted)).into_response()
}

/// `POST /api/v1/jobs:bulk`.
pub(super) async fn many(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    trace: RequestContext,
    body: Json<Bulk>,
) -> Result<Response, ApiError> {
    let idempotency = idempotency(&api, &headers, "bulk", &body.bytes)?;
    let count = body.value.jobs.len();
    if !(1..=MOST_JOBS).contains(&count) {
        let detail = format!("must hold 1 to {MOST_JOBS} jobs, not {count}");
        return Err(ApiError::invalid_fields("invalid_body", vec![FieldProblem { pointer: "/jobs".into(), detail }]));
    }
    let jobs =
        check(&api, body.value.jobs.into_iter().map(|Object(job)| job).collect(), |i| format!("/jobs/{i}")).await?;
    let jobs = submit(&api, jobs, idempotency, &trace, true).await?.into_iter().map(submitted).collect();
    Ok((StatusCode::ACCEPTED, axum::Json(SubmittedJobs { jobs })).into_response())
}

pub(super) fn submitted(submission: Submission) -> Submitted {
    let Submission { id, duplicate, job, .. } = submission;
    Submitted {
        id,
        status: "queued".to_owned(),
        duplicate,
        submitted_at: job.map(|job| job.job.submitted_at),
        array: None,
    }
}

/// Fills in defaults and checks every job; `place` gives the JSON pointer of the job with this number.
///
/// # Errors
/// 422 with all that is wrong.
pub(super) async fn check(
    api: &Api,
    jobs: Vec<SubmitJob>,
    place: impl Fn(usize) -> String,
) -> Result<Vec<AcceptedJob>, ApiError> {
    let now = api.clock.now();
    let mut accepted = Vec::with_capacity(jobs.len());
    let mut code = "invalid_job";
    let mut errors = Vec::new();
    let names = jobs.iter().filter_map(|job| JobName::parse(&job.name).ok());
    let problems = binary_problems(api, names).await;
    for (i, mut job) in jobs.into_iter().enumerate() {
        let missing = inputs::find(api, &mut job, &place(i)).await?;
        if !missing.is_empty() {
            errors.extend(missing);
            continue;
        }
        if job.array.is_some() {
            let detail = "is for `POST /api/v1/jobs` alone: an array is a request of its own".to_owned();
            errors.push(FieldProblem { pointer: format!("{}/array", place(i)), detail });
            continue;
        }
        let defaults = api.settings.defaults_of(&job.name);
        let mut new = job.with_defaults(defaults);
        new.options.queue = new.options.queue.and_then(|queue| api.settings.named(queue));
        let job = match new.accept(now) {
            Ok(job) => job,
            Err(e) => {
                errors.push(FieldProblem { pointer: format!("{}/{}", place(i), e.field), detail: e.problem });
                continue;
            }
        };
        if let Some(problem) = problems.get(&job.job.name) {
            if errors.is_empty() {
                code = problem.code();
            }
            errors.push(FieldProblem { pointer: format!("{}/name", place(i)), detail: problem.detail.clone() });
            continue;
        }
        accepted.push(job);
    }
    if errors.is_empty() {
        return Ok(accepted);
    }
    errors.truncate(LISTED);
    Err(ApiError::invalid_fields(code, errors))
}

/// The names of jobs that no worker can run, as far as this server can tell: its own jobs directory lacks the binary, and
/// no worker that lives announces it, or might have it without announcing it.
pub(super) async fn binary_problems(
    api: &Api,
    names: impl IntoIterator<Item = JobName>,
) -> HashMap<JobName, BinaryProblem> {
    let Some(check) = &api.settings.check_binary else { return HashMap::new() };
    let names: HashSet<_> = names.into_iter().collect();
    let mut problems: HashMap<_, _> =
        names.into_iter().filter_map(|name| check(&name).err().map(|problem| (name, problem))).collect();
    // With the queue away the submission itself will say so.
    if !problems.is_empty()
        && let Ok(workers) = api.queue.workers().await
    {
        problems.retain(|name, _| workers.iter().all(|worker| worker.has_binary(name) == Some(false)));
    }
    problems
}

/// Reads the `Idempotency-Key` header; `kind` keeps apart requests to different routes.
pub(super) fn idempotency(
    api: &Api,
    headers: &HeaderMap,
    kind: &str,
    body: &[u8],
) -> Result<Option<Idempotency>, ApiError> {
    let Some(text) = query::header(headers, "idempotency-key")? else { return Ok(None) };
    // The draft wants a quoted string; many clients send it bare.
    let key = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text).trim();
    if !(1..=256).contains(&key.len()) {
        return Err(ApiError::bad_request("invalid_header", "Idempotency-Key must be 1 to 256 characters"));
    }
    let request = Sha256::new().chain_update(kind).chain_update([0]).chain_update(body).finalize().into();
    Ok(Some(Idempotency { key: key.to_owned(), request, ttl: api.settings.idempotency_ttl }))
}

/// About a job that was checked, the queue can only refuse the jobs that it comes after.
fn refused(error: QueueError) -> ApiError {
    if error.kind == QueueErrorKind::Rejected {
        let problem = FieldProblem { pointer: "/after".to_owned(), detail: error.to_string() };
        return ApiError::invalid_fields("invalid_job", vec![problem]);
    }
    error.into()
}

/// Hands the jobs to the queue, and records their submission. Returns one answer for each job, in order. `is_batch` for
/// jobs that belong together.
pub(super) async fn submit(
    api: &Arc<Api>,
    mut jobs: Vec<AcceptedJob>,
    idempotency: Option<Idempotency>,
    trace: &RequestContext,
    is_batch: bool,
) -> Result<Vec<Submission>, ApiError> {
    api.check_room(jobs.len()).await?;
    let shared = api.clone();
    let sending = trace.send(api, &mut jobs, is_batch);
    let submitted = api.to_the_end(async move { hand_over(&shared, jobs, idempotency).await }).await;
    traced::sent(sending, &submitted);
    submitted
}

/// Hands the jobs to the queue, which may record their submission itself, and records the others.
pub(super) async fn hand_over(
    api: &Api,
    jobs: Vec<AcceptedJob>,
    idempotency: Option<Idempotency>,
) -> Result<Vec<Submission>, ApiError> {
    let submissions = api.queue.submit(jobs, idempotency).await.map_err(refused)?;
    let events = api.unannounced(&submissions).await;
    // The jobs are accepted by now. Later events make their records, and the queue is asked for their bodies (see
    // [`crate::reconciler::bodies`]): history is late, nothing is lost.
    if !events.is_empty()
        && let Err(error) = api.sink.append(&events).await
    {
        tracing::warn!(jobs = events.len(), %error, "could not write down that jobs were submitted");
    }
    Ok(submissions)
}

impl Api {
    /// The submission events to append: for new jobs that the queue has not announced, and for jobs whose own submission
    /// was cut off before its event.
    async fn unannounced(&self, submissions: &[Submission]) -> Vec<Event> {
        /// How many questions to history are under way at the same time.
        const ASKED: usize = 16;
        let mut seen = HashSet::new();
        let (mut news, mut others) = (Vec::new(), Vec::new());
        for submission in submissions {
            if let Some(job) = submission.job.as_ref().filter(|job| seen.insert(&job.job.id)) {
                match submission {
                    Submission { announced: true, .. } => {}
                    Submission { duplicate: true, .. } => others.push(job),
                    Submission { .. } => news.push(job),
                }
            }
        }
        for asked in others.chunks(ASKED) {
            let known = join_all(asked.iter().map(|job| self.is_announced(&job.job))).await;
            news.extend(asked.iter().zip(known).filter(|(_, known)| !known).map(|(job, _)| *job));
        }
        news.into_iter().cloned().map(Event::submitted).collect()
    }

    /// Whether history has the submission of the job. If that can't be known, it counts as not
    /// recorded, because recording it again changes nothing.
    async fn is_announced(&self, job: &Job) -> bool {
        let of_the_job = |record: &JobRecord| record.submitted_at == job.submitted_at;
        let found = async {
            let first = self.history.job_without_result(&job.id).await?;
            if first.as_ref().is_none_or(of_the_job) {
                return Ok(first);
            }
            self.history.job_without_result(&job.id.come_again(job.submitted_at)).await
        };
        const PATIENCE: Duration = Duration::from_secs(2);
        if self.feed.is_history_away() {
            return false;
        }
        let found: Result<Result<_, StoreError>, _> = tokio::time::timeout(PATIENCE, found).await;
        found.is_ok_and(|found| found.is_ok_and(|record| record.is_some_and(|record| record.announced)))
    }
}
