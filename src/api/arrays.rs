//! Accepts arrays: one request makes all jobs, part by part, so that its size bounds no memory.
//!
//! A part is in the queue as a whole or not at all. An array that was cut off between two parts is completed by the same
//! request once more, because its jobs have the same ids: made of the request's `id`, or of its idempotency key. With a
//! key each part is remembered by itself, so that no job comes again that the queue has let go of meanwhile.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::body::Json;
use super::problem::ApiError;
use super::state::Api;
use super::submit;
use super::traced::{self, RequestContext};
use crate::domain::{AcceptedJob, ArraySpec, GroupName, Job, JobId, Timestamp};
use crate::queue::Idempotency;
use crate::wire::{FieldProblem, SubmitJob, Submitted, SubmittedArray, name_of_key};

/// The most jobs of one part.
const PART: usize = 1000;
/// The most bytes that the jobs of one part are given together.
const PART_BYTES: usize = 4 * 1024 * 1024;

/// `POST /api/v1/jobs`: one job, or an array of them.
pub(super) async fn one_or_array(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    trace: RequestContext,
    mut body: Json<SubmitJob>,
) -> Result<Response, ApiError> {
    let idempotency = submit::idempotency(&api, &headers, "one", &body.bytes)?;
    match body.value.array.take() {
        Some(array) => submit(&api, body.value, array, idempotency, trace).await,
        None => submit::one(&api, body.value, idempotency, &trace).await,
    }
}

/// Submits the array that this request describes. After an error parts of it may have been submitted.
async fn submit(
    api: &Arc<Api>,
    mut job: SubmitJob,
    spec: ArraySpec,
    idempotency: Option<Idempotency>,
    trace: RequestContext,
) -> Result<Response, ApiError> {
    let limit = limit(&job, &spec)?;
    if job.deduplication.is_some() {
        return Err(wrong(
            "/deduplication",
            "has no place in an array: one job would take the place of all".to_owned(),
        ));
    }
    let base = job.id.take().unwrap_or_else(|| match &idempotency {
        Some(idempotency) => name_of_key(&idempotency.key),
        None => JobId::generate().to_string(),
    });
    let of_itself = |id: &JobId| id.as_str().strip_prefix(&base).is_some_and(|rest| rest.starts_with('-'));
    if let Some(place) = job.after.iter().position(of_itself) {
        return Err(wrong(&format!("/after/{place}"), "may be a job of the array itself".to_owned()));
    }
    let group = match job.group.take() {
        Some(group) => group,
        None => GroupName::parse(&base).map_err(|e| wrong("/id", e.to_string()))?,
    };
    // The longest id stands for all of them.
    job.id = Some(format!("{base}-{}", spec.indices().max().unwrap_or(0)));
    (job.group, job.group_limit) = (Some(group.clone()), limit);
    let template = submit::check(api, vec![job], |_| String::new()).await?.remove(0);
    let array = Array { base, spec, template };
    api.check_room(array.spec.len()).await?;
    let shared = api.clone();
    // A client that goes away leaves a whole array.
    let made = api.to_the_end(async move { array.submit(&shared, group, idempotency, &trace).await }).await?;
    Ok(submit::accepted(made))
}

/// How many of its jobs may run at once: behind the `%` of the array, or in the field of any job.
fn limit(job: &SubmitJob, spec: &ArraySpec) -> Result<Option<u32>, ApiError> {
    match (spec.at_once(), job.group_limit) {
        (Some(one), Some(other)) if one != other => {
            let detail = format!("is {other}, and the array says %{one}: give one of them");
            Err(wrong("/group_limit", detail))
        }
        (one, other) => Ok(one.or(other)),
    }
}

fn wrong(pointer: &str, detail: String) -> ApiError {
    ApiError::invalid_fields("invalid_job", vec![FieldProblem { pointer: pointer.to_owned(), detail }])
}

/// An array that was checked.
struct Array {
    base: String,
    spec: ArraySpec,
    /// Its jobs, but for id and index.
    template: AcceptedJob,
}

impl Array {
    fn id(&self, index: u32) -> JobId {
        JobId::parse(&format!("{}-{index}", self.base)).expect("the longest id of the array was checked")
    }

    /// The job of this index. It shares what it is given with all others.
    fn job(&self, index: u32) -> AcceptedJob {
        let mut job = Job { id: self.id(index), ..(*self.template.job).clone() };
        job.options.array_index = Some(index);
        AcceptedJob { job: Arc::new(job), body: self.template.body.clone() }
    }

    /// The error that ended the submission after so many jobs.
    fn cut_off(&self, error: ApiError, done: usize, is_keyed: bool) -> ApiError {
        let again = match is_keyed {
            _ if done == 0 => return error,
            true => "the same request once more adds the others".to_owned(),
            false => format!("the same with \"id\": \"{}\" adds the others", self.base),
        };
        error.and(&format!("{done} of its jobs are submitted: {again}"))
    }

    async fn submit(
        &self,
        api: &Arc<Api>,
        group: GroupName,
        idempotency: Option<Idempotency>,
        trace: &RequestContext,
    ) -> Result<Submitted, ApiError> {
        let part = (PART_BYTES / self.template.body.as_str().len().max(1)).clamp(1, PART);
        let mut indices = self.spec.indices();
        let (mut ids, mut done, mut duplicates): (Option<(JobId, JobId)>, _, _) = (None, 0, 0);
        let mut submitted_at: Option<Timestamp> = None;
        for number in 0_u32.. {
            let mut jobs: Vec<_> = indices.by_ref().take(part).map(|index| self.job(index)).collect();
            let (Some(first), Some(last)) = (jobs.first(), jobs.last()) else { break };
            let (first, last) = (first.job.id.clone(), last.job.id.clone());
            let sending = trace.send(api, &mut jobs, true);
            let submitted = submit::hand_over(api, jobs, part_key(idempotency.as_ref(), number)).await;
            traced::sent(sending, &submitted);
            let submitted = submitted.map_err(|error| self.cut_off(error, done, idempotency.is_some()))?;
            ids = Some((ids.map_or(first, |(first, _)| first), last));
            submitted_at = submitted_at.or_else(|| Some(submitted.first()?.job.as_ref()?.job.submitted_at));
            duplicates += submitted.iter().filter(|submission| submission.duplicate).count();
            done += submitted.len();
        }
        let (first_id, last_id) = ids.ok_or_else(|| ApiError::internal("an array has at least one job"))?;
        let (count, duplicates) = (self.spec.len() as u64, duplicates as u64);
        Ok(Submitted {
            id: first_id.clone(),
            status: "queued".to_owned(),
            duplicate: duplicates == count,
            submitted_at,
            array: Some(SubmittedArray { group, count, duplicates, first_id, last_id }),
        })
    }
}

/// The key under which a part is remembered; the first has the request's own, so that the key of another request is
/// noticed. No header has a line feed, so no request has the others.
fn part_key(request: Option<&Idempotency>, part: u32) -> Option<Idempotency> {
    let request = request?;
    let key = if part == 0 { request.key.clone() } else { format!("{}\n{part}", request.key) };
    Some(Idempotency { key, ..request.clone() })
}
