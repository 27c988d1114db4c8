//! Operation: the queue as a whole (counts, pausing, cleaning), and the workers that live.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::body::Json;
use super::problem::ApiError;
use super::query::Segment;
use super::state::Api;
use crate::domain::{JobOptions, WorkerId};
use crate::queue::{CleanRequest, StateCounts, WorkerInfo};
use crate::wire::{CleanBody, Cleaned, Draining, FieldProblem, Listing};

/// `GET /api/v1/queue`: how many jobs are in each state, and whether the queue is paused.
pub(super) async fn counts(State(api): State<Arc<Api>>) -> Result<axum::Json<StateCounts>, ApiError> {
    Ok(axum::Json(api.queue.counts().await?))
}

/// `POST /api/v1/queue:pause`: lets workers claim no more jobs.
pub(super) async fn pause(State(api): State<Arc<Api>>) -> Result<axum::Json<StateCounts>, ApiError> {
    set_paused(&api, true).await
}

/// `POST /api/v1/queue:resume`: lets workers claim jobs again.
pub(super) async fn resume(State(api): State<Arc<Api>>) -> Result<axum::Json<StateCounts>, ApiError> {
    set_paused(&api, false).await
}

async fn set_paused(api: &Api, paused: bool) -> Result<axum::Json<StateCounts>, ApiError> {
    api.operator.set_paused(paused).await?;
    tracing::info!(paused, "the queue was paused or resumed");
    Ok(axum::Json(api.queue.counts().await?))
}

/// `POST /api/v1/queue:clean`: removes ended jobs from the queue.
pub(super) async fn clean(State(api): State<Arc<Api>>, body: Json<CleanBody>) -> Result<axum::Json<Cleaned>, ApiError> {
    const MOST: usize = 100_000;
    let CleanBody { state, older_than_ms, limit } = body.value;
    let older_than = Duration::from_millis(older_than_ms);
    let wrong = |pointer: &str, detail: String| {
        ApiError::invalid_fields("invalid_body", vec![FieldProblem { pointer: pointer.to_owned(), detail }])
    };
    if !state.is_final() {
        return Err(wrong("/state", format!("must be completed or failed, not {state}")));
    }
    if older_than > JobOptions::MAX_DURATION {
        return Err(wrong("/older_than_ms", "must be at most ten years".to_owned()));
    }
    if !(1..=MOST).contains(&limit) {
        return Err(wrong("/limit", format!("must be 1 to {MOST}")));
    }
    let removed = api.operator.clean(CleanRequest { state, older_than, limit }).await?;
    tracing::info!(%state, removed, "ended jobs were taken out of the queue");
    Ok(axum::Json(Cleaned { removed }))
}

/// `GET /api/v1/workers`: the workers that have sent a heartbeat lately.
pub(super) async fn workers(State(api): State<Arc<Api>>) -> Result<axum::Json<Listing<WorkerInfo>>, ApiError> {
    Ok(axum::Json(Listing { items: api.queue.workers().await?, next_cursor: None }))
}

/// `POST /api/v1/workers/{id}:drain`: asks a worker to drain.
pub(super) async fn act_on_worker(State(api): State<Arc<Api>>, segment: Segment) -> Result<Response, ApiError> {
    let (id, verb) = segment.verb()?;
    if verb != "drain" {
        let detail = format!("a worker can't be told to {verb:?}, only to drain");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_verb", detail));
    }
    let id = WorkerId::parse(id)?;
    if !api.operator.drain_worker(&id).await? {
        let detail = format!("there is no worker {id}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_worker", detail));
    }
    tracing::info!(worker = %id, "a worker was asked to drain");
    Ok((StatusCode::ACCEPTED, axum::Json(Draining { id, status: "draining".to_owned() })).into_response())
}
