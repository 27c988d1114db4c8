//! Wraps every request: gives it an id and a log line, and turns errors into answers.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::problem::ApiError;
use super::{health, metrics, page};
use crate::metrics::METRICS;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware: runs the request under its id, and logs its result in one line.
pub(super) async fn observe(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = Route::of(&request);
    let original = path == "/jobs" || path == "/stats";
    let span = tracing::info_span!("request", id = %id);
    let began = Instant::now();
    async {
        let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|panic| ApiError::internal(panic_text(&*panic)).into_response());
        let mut cause = None;
        if let Some(error) = response.extensions_mut().remove::<ApiError>() {
            cause = error.cause().map(str::to_owned);
            METRICS.http.refused(error.code());
            let kept =
                [header::ALLOW, header::CONTENT_RANGE].map(|name| (response.headers().get(&name).cloned(), name));
            response = error.render(&id, original);
            for (value, name) in kept {
                if let Some(value) = value {
                    response.headers_mut().insert(name, value);
                }
            }
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let status = response.status().as_u16();
        let name = route.as_ref().map(Route::name);
        METRICS.http.answered(method.as_str(), name.as_deref(), status, began.elapsed());
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match cause {
            Some(cause) => tracing::warn!(%method, path, status, ms, cause, "request failed"),
            None if health::is_probe(&path) || page::is_of_page(&path) || path == metrics::PATH => {
                tracing::debug!(%method, path, status, ms, "request")
            }
            None => tracing::info!(%method, path, status, ms, "request"),
        }
        response
    }
    .instrument(span)
    .await
}

/// The route that a request matched.
struct Route {
    template: MatchedPath,
    /// The verb behind an id, which the template does not tell.
    verb: Option<&'static str>,
}

impl Route {
    /// `None` if the request matched no route.
    fn of(request: &Request) -> Option<Self> {
        const VERBS: [&str; 7] = ["cancel", "retry", "promote", "drain", "trigger", "pause", "resume"];
        let template = request.extensions().get::<MatchedPath>()?.clone();
        let has_verb = request.method() == Method::POST && template.as_str().ends_with('}');
        let last = request.uri().path().rsplit_once(':').filter(|_| has_verb).map(|(_, verb)| verb);
        Some(Self { template, verb: last.and_then(|last| VERBS.into_iter().find(|verb| *verb == last)) })
    }

    fn name(&self) -> Cow<'_, str> {
        match self.verb {
            Some(verb) => format!("{}:{verb}", self.template.as_str()).into(),
            None => self.template.as_str().into(),
        }
    }
}

/// The client's id if it is harmless in a log, else a new one.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
    };
    given.filter(sane).map_or_else(|| uuid::Uuid::now_v7().simple().to_string(), str::to_owned)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a handler panicked: {}", text.unwrap_or("without a word"))
}
