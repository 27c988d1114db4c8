//! Answers scrapes: `GET /metrics`, on a server beside the API, on a worker on a listener of its own.

mod listener;
mod sampler;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use super::state::Api;
use crate::metrics::{Exposition, Format, METRICS};
pub use listener::WorkerMetricsSettings;
pub(super) use listener::router;
pub(super) use sampler::keep_snapshot;

/// The path of [`show`]. Programs ask for it again and again, so it is not worth a line in the log; it needs the token.
pub(super) const PATH: &str = "/metrics";

/// `GET /metrics`: all metrics of this process, in the format that the scraper prefers. Asks no backend.
pub(super) async fn show(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, ApiError> {
    METRICS.snapshot.scraped().await;
    answer(&api.settings.exposition, &headers).await
}

async fn answer(exposition: &Arc<Exposition>, headers: &HeaderMap) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (format, exposition) = (Format::negotiate(accept), exposition.clone());
    // It reads files of /proc, and asks the file system how much is free.
    let written = tokio::task::spawn_blocking(move || exposition.encode(format)).await;
    let text =
        written.map_err(|e| ApiError::internal(e.to_string()))?.map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}
