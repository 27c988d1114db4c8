//! The actions on a job: cancel, retry, promote, remove. Each goes to the queue and is recorded.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::view::Depth;
use crate::api::body::{OptionalJson, check_text};
use crate::api::problem::ApiError;
use crate::api::query::Segment;
use crate::api::state::Api;
use crate::domain::outcome::cancelled_because;
use crate::domain::{Event, EventKind, FinalState, Job, JobId, Outcome};
use crate::queue::{Cancellation, Change};
use crate::wire::{Acted, CancelRequest};

/// The longest reason, in bytes.
const LONGEST_REASON: usize = 4096;

/// `POST /api/v1/jobs/{id}:cancel`, `:retry`, `:promote`.
pub(in crate::api) async fn act(
    State(api): State<Arc<Api>>,
    segment: Segment,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, verb) = segment.verb()?;
    let id = api.in_queue(JobId::parse(id)?).await?;
    let status = match verb {
        "cancel" => {
            let OptionalJson(body) = OptionalJson::<CancelRequest>::from_request(request, &api).await?;
            let reason = body.reason.filter(|r| !r.trim().is_empty()).unwrap_or_else(|| "on request".to_owned());
            check_text("/reason", &reason, LONGEST_REASON)?;
            let (api, id) = (api.clone(), id.clone());
            api.clone().to_the_end(async move { cancel(&api, &id, reason).await }).await?
        }
        "retry" => {
            let (api, id) = (api.clone(), id.clone());
            api.clone().to_the_end(async move { retry(&api, &id).await }).await?
        }
        "promote" => promote(&api, &id).await?,
        _ => {
            let detail = format!("a job can't be told to {verb:?}, only to cancel, retry or promote");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_verb", detail));
        }
    };
    tracing::info!(job = %id, status, "acted on a job");
    Ok((StatusCode::ACCEPTED, axum::Json(Acted { id, status: status.to_owned() })).into_response())
}

/// `DELETE /api/v1/jobs/{id}`.
pub(in crate::api) async fn remove(
    State(api): State<Arc<Api>>,
    segment: Segment,
) -> Result<axum::Json<Acted>, ApiError> {
    let id = api.in_queue(JobId::parse(&segment.0)?).await?;
    let (shared, job) = (api.clone(), id.clone());
    api.to_the_end(async move { take_out(&shared, &job).await }).await?;
    tracing::info!(job = %id, status = "removed", "acted on a job");
    Ok(axum::Json(Acted { id, status: "removed".to_owned() }))
}

async fn cancel(api: &Api, id: &JobId, reason: String) -> Result<&'static str, ApiError> {
    const ENDED: &str = "only a job that has not ended can be cancelled";
    let snapshot = api.brief_snapshot(id).await?;
    if snapshot.view.state.is_final() {
        return Err(ApiError::wrong_state(id, snapshot.view.state, ENDED));
    }
    let Some(queued) = api.queue.find(std::slice::from_ref(id)).await?.pop().flatten() else {
        return Err(not_in_queue(id));
    };
    // Recorded first: if the log can't be written, nothing has happened yet.
    append(api, &queued.job, EventKind::Cancelled { reason: reason.clone() }).await?;
    match api.operator.cancel(id, &reason).await? {
        Cancellation::Ended(job) => {
            let end = EventKind::Finished {
                attempt: None,
                state: FinalState::Failed,
                outcome: Outcome::Cancelled,
                result: None,
                error: Some(cancelled_because(&reason)),
            };
            append_surely(api, &job, end).await;
            Ok("cancelled")
        }
        Cancellation::Signalled(_) => Ok("cancelling"),
        Cancellation::AlreadyFinal(state) => Err(ApiError::wrong_state(id, state, ENDED)),
        Cancellation::NotFound => Err(not_in_queue(id)),
    }
}

/// Puts a failed job back into the queue.
pub(in crate::api) async fn put_back(api: &Api, id: &JobId) -> Result<(), ApiError> {
    retry(api, id).await.map(|_| ())
}

async fn retry(api: &Api, id: &JobId) -> Result<&'static str, ApiError> {
    match api.operator.retry(id).await? {
        Change::Done(job, attempts) => {
            append_surely(api, &job, EventKind::Retried { attempts }).await;
            Ok("retried")
        }
        Change::WrongState(state) => Err(ApiError::wrong_state(id, state, "only a failed job can be retried")),
        Change::KeyTaken(holder) => Err(key_taken(id, &holder)),
        Change::NotFound => {
            api.brief_snapshot(id).await?;
            Err(not_in_queue(id))
        }
    }
}

async fn promote(api: &Api, id: &JobId) -> Result<&'static str, ApiError> {
    match api.operator.promote(id).await? {
        // There is no event for this: history learns of the job's start.
        Change::Done(..) => Ok("promoted"),
        Change::WrongState(state) => Err(ApiError::wrong_state(id, state, "only a delayed job can be promoted")),
        Change::KeyTaken(holder) => Err(key_taken(id, &holder)),
        Change::NotFound => {
            let snapshot = api.brief_snapshot(id).await?;
            Err(ApiError::wrong_state(id, snapshot.view.state, "only a delayed job can be promoted"))
        }
    }
}

async fn take_out(api: &Api, id: &JobId) -> Result<(), ApiError> {
    match api.operator.remove(id).await? {
        Change::Done(job, _) => append_surely(api, &job, EventKind::Removed).await,
        Change::WrongState(state) => {
            return Err(ApiError::wrong_state(id, state, "cancel it, and remove it when it has ended"));
        }
        Change::KeyTaken(holder) => return Err(key_taken(id, &holder)),
        // The queue has forgotten the job, but the lists still have it.
        Change::NotFound => match api.remembered(id, Depth::Whole).await? {
            Some(record) if !record.removed => append(api, &Arc::new(record.job()), EventKind::Removed).await?,
            _ => return Err(ApiError::unknown_job(id)),
        },
    }
    Ok(())
}

fn key_taken(id: &JobId, holder: &JobId) -> ApiError {
    let detail = format!("job {holder} holds the deduplication key of job {id}; retry it when that one has ended");
    ApiError::new(StatusCode::CONFLICT, "deduplication_key_taken", detail)
}

fn not_in_queue(id: &JobId) -> ApiError {
    let detail = format!("job {id} has ended and the queue has let go of it; submit it again");
    ApiError::new(StatusCode::CONFLICT, "not_in_queue", detail)
}

async fn append(api: &Api, job: &Arc<Job>, kind: EventKind) -> Result<(), ApiError> {
    let event = Event::new(api.clock.now(), job.clone(), kind);
    api.sink.append(std::slice::from_ref(&event)).await?;
    Ok(())
}

/// Records what the queue has done already. Tries for some seconds, because no other part would record it.
async fn append_surely(api: &Api, job: &Arc<Job>, kind: EventKind) {
    const PAUSES: [u64; 6] = [20, 100, 500, 1000, 2000, 4000];
    let event = Event::new(api.clock.now(), job.clone(), kind);
    for pause in PAUSES {
        let Err(error) = api.sink.append(std::slice::from_ref(&event)).await else { return };
        tracing::warn!(job = %job.id, %error, "could not write down what was done to a job; trying again");
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    if let Err(error) = api.sink.append(std::slice::from_ref(&event)).await {
        tracing::error!(job = %job.id, kind = event.key().kind, %error, "history lacks what was done to a job");
    }
}
