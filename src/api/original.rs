//! The three routes of the original program, in its shapes and with its statuses (202 for reading, too).

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::body::Json;
use super::failures;
use super::problem::ApiError;
use super::state::Api;
use super::submit;
use super::traced::RequestContext;
use crate::wire::{FieldProblem, OriginalJob, OriginalJobs, OriginalStats, OriginalSubmitted, SubmitJob};

/// `POST /jobs`: submits one job.
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    trace: RequestContext,
    body: Json<OriginalJob>,
) -> Result<Response, ApiError> {
    let idempotency = submit::idempotency(&api, &headers, "original", &body.bytes)?;
    let OriginalJob { name, arguments, data } = body.value;
    if name.is_empty() {
        let problem = FieldProblem { pointer: "/name".to_owned(), detail: "must not be empty".to_owned() };
        return Err(ApiError::invalid_fields("invalid_job", vec![problem]));
    }
    let job = SubmitJob { name, arguments, data, ..SubmitJob::default() };
    let jobs = submit::check(&api, vec![job], |_| String::new()).await?;
    let submission = submit::submit(&api, jobs, idempotency, &trace, false).await?.remove(0);
    let answer = OriginalSubmitted {
        message: "Job added to the queue".to_owned(),
        job_id: submission.id,
        status: "queued".to_owned(),
    };
    Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response())
}

/// `GET /jobs`: the jobs in numbers, by job name.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let jobs = api.history.job_names().await?.into_iter().map(Into::into).collect();
    Ok((StatusCode::ACCEPTED, axum::Json(OriginalJobs { jobs })).into_response())
}

/// `GET /stats`: the statistics of the original.
pub(super) async fn stats(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let stats = failures::job_stats(&api).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(OriginalStats { job_stats: stats })).into_response())
}
