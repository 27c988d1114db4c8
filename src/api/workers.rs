//! The workers that live.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use super::query::Segment;
use super::state::Api;
use crate::domain::WorkerId;
use crate::queue::WorkerInfo;
use crate::wire::{Draining, Listing};

/// `GET /api/v1/workers`: the workers that have sent a heartbeat lately.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<axum::Json<Listing<WorkerInfo>>, ApiError> {
    Ok(axum::Json(Listing { items: api.queue.workers().await?, next_cursor: None }))
}

/// `POST /api/v1/workers/{id}:drain`: asks a worker to drain.
pub(super) async fn act(State(api): State<Arc<Api>>, segment: Segment) -> Result<Response, ApiError> {
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
