//! The metrics of a worker, which has no API, on a listener of its own.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::super::caller::bearer;
use super::super::host::Host;
use super::super::problem::{self, ApiError};
use super::super::request;
use super::super::state::Token;
use super::PATH;
use crate::metrics::Exposition;

/// What the listener of a worker shows, and to whom.
#[derive(Clone)]
pub struct WorkerMetricsSettings {
    /// The metrics.
    pub exposition: Arc<Exposition>,
    /// The tokens of which scrapers must send one as `Authorization: Bearer ...`. None admits every scraper.
    pub tokens: Vec<Token>,
    /// The names by which scrapers may address a loopback listener, besides those of the loopback. Without port.
    pub allowed_hosts: Vec<String>,
}

#[derive(Clone)]
struct Guard {
    settings: Arc<WorkerMetricsSettings>,
    /// Whether only this machine can reach the listener.
    loopback: bool,
}

/// The only route of the listener.
pub(in crate::api) fn router(settings: WorkerMetricsSettings, loopback: bool) -> Router {
    let guard = Guard { settings: Arc::new(settings), loopback };
    Router::new()
        .route(PATH, get(show))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(from_fn_with_state(guard.clone(), admit))
        .layer(from_fn(request::observe))
        .with_state(guard)
}

async fn show(State(guard): State<Guard>, headers: HeaderMap) -> Result<Response, ApiError> {
    super::answer(&guard.settings.exposition, &headers).await
}

/// Middleware: refuses requests that the API of a server would refuse, too.
async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Guard { settings, loopback } = guard;
    if let Err(error) = Host::admit(&request, loopback, &settings.allowed_hosts) {
        return error.into_response();
    }
    let admits = |given| settings.tokens.iter().any(|token| token.is(given));
    if !settings.tokens.is_empty() && !bearer(request.headers()).is_some_and(admits) {
        let detail = "send the token as `Authorization: Bearer ...`";
        return ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
    }
    next.run(request).await
}
