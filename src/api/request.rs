//! Wraps every request: gives it an id and a log line, and turns errors into answers.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::health;
use super::page;
use super::problem::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware: runs the request under its id, and logs its result in one line.
pub(super) async fn observe(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let original = path == "/jobs" || path == "/stats";
    let span = tracing::info_span!("request", id = %id);
    let began = Instant::now();
    async {
        let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|panic| ApiError::internal(panic_text(&*panic)).into_response());
        let mut cause = None;
        if let Some(error) = response.extensions_mut().remove::<ApiError>() {
            cause = error.cause().map(str::to_owned);
            let kept = response.headers().get(header::ALLOW).cloned();
            response = error.render(&id, original);
            if let Some(allow) = kept {
                response.headers_mut().insert(header::ALLOW, allow);
            }
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let status = response.status().as_u16();
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match cause {
            Some(cause) => tracing::warn!(%method, path, status, ms, cause, "request failed"),
            None if health::is_probe(&path) || page::is_of_page(&path) => {
                tracing::debug!(%method, path, status, ms, "request")
            }
            None => tracing::info!(%method, path, status, ms, "request"),
        }
        response
    }
    .instrument(span)
    .await
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
