//! The span of a request that submits jobs.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;

use super::problem::ApiError;
use super::state::Api;
use crate::domain::{AcceptedJob, TraceContext};
use crate::traces::Sending;

/// The routes that submit jobs.
const ROUTES: [&str; 4] = ["/jobs", "/api/v1/jobs", "/api/v1/jobs:bulk", "/api/v1/flows"];

/// The context that the jobs of a request continue; `None` without one.
#[derive(Clone, Default)]
pub(super) struct RequestContext(Option<TraceContext>);

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.remove().unwrap_or_default())
    }
}

impl RequestContext {
    /// The context of the caller, for a request without a span.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(caller(headers))
    }

    /// Begins to send the jobs of the request to the queue. `is_batch` for jobs that belong together.
    pub(super) fn send(&self, api: &Api, jobs: &mut [AcceptedJob], is_batch: bool) -> Sending {
        api.settings.traces.send(jobs, is_batch, self.0.as_ref(), api.clock.now())
    }
}

/// Ends the sending as it went.
pub(super) fn sent<T>(sending: Sending, result: &Result<T, ApiError>) {
    match result {
        Ok(_) => sending.end(None),
        Err(error) => sending.end(Some(error.detail())),
    }
}

/// Middleware: gives a request that submits jobs its place in its caller's trace.
pub(super) async fn trace(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = route.and_then(|route| ROUTES.into_iter().find(|known| *known == route));
    let Some(route) = route.filter(|_| request.method() == Method::POST) else { return next.run(request).await };
    let traced = api.settings.traces.request(route, request.uri().path(), caller(request.headers()), api.clock.now());
    request.extensions_mut().insert(RequestContext(traced.context().cloned()));
    let response = next.run(request).await;
    traced.end(response.status().as_u16());
    response
}

/// The context in the headers of a request. Several `tracestate` headers are one list.
fn caller(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all("traceparent").iter();
    let parent = parents.next()?.to_str().ok()?;
    if parents.next().is_some() {
        return None;
    }
    let states: Vec<_> = headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok()).collect();
    TraceContext::parse(parent, &states.join(","))
}
