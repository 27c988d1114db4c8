//! Turns errors into `application/problem+json`: the one place where error kinds become statuses.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::openapi::problems::is_known;
use crate::domain::{InvalidName, JobId, JobState};
use crate::events::{EventError, EventErrorKind, LogSpan};
use crate::logging::chain;
use crate::queue::{QueueError, QueueErrorKind};
use crate::store::{StoreError, StoreErrorKind};
use crate::wire::{FieldProblem, Problem};

/// After how many seconds a client may retry a refused request.
const RETRY_AFTER: &str = "1";

/// The reason for which a request is refused, and the answer for it.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldProblem>,
    retry: bool,
    /// The cause, which only the server's log shows.
    cause: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(
            is_known(status.as_u16(), code),
            "{status} {code} is missing from the codes of the OpenAPI document"
        );
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry: false, cause: None }
    }

    /// The problem as a code for clients.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The same, with something more about it.
    pub(super) fn and(mut self, more: &str) -> Self {
        self.detail = format!("{}; {more}", self.detail);
        self
    }

    /// The query or a header is wrong.
    pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// The body is JSON, but its fields are not what they must be.
    pub(super) fn invalid_fields(code: &'static str, errors: Vec<FieldProblem>) -> Self {
        let first = errors.first().map_or(String::new(), |e| match e.pointer.as_str() {
            "" => e.detail.clone(),
            pointer => format!("{pointer}: {}", e.detail),
        });
        let detail = match errors.len() {
            0 | 1 => first,
            n => format!("{first} (and {} more)", n - 1),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail) }
    }

    pub(super) fn unknown_job(id: &JobId) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_job", format!("there is no job {id}"))
    }

    pub(super) fn wrong_state(id: &JobId, state: JobState, rule: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "wrong_state", format!("job {id} is {state}; {rule}"))
    }

    pub(super) fn log_full(span: &LogSpan) -> Self {
        let detail = format!(
            "the event log holds {} of {} events because history does not keep up; try again when it does",
            span.length, span.cap
        );
        Self { retry: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "log_full", detail) }
    }

    /// The event log did not answer in time whether it has room.
    pub(super) fn log_silent() -> Self {
        let detail = "the event log does not answer; try again when it does";
        Self { retry: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable", detail) }
    }

    /// This process takes no more jobs, because it is about to end.
    pub(super) fn draining() -> Self {
        let detail = "this server is stopping and takes no jobs any more; try again when it is back";
        Self { retry: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail) }
    }

    /// A part of Jobber can't be reached now.
    pub(super) fn unavailable(code: &'static str, error: &dyn std::error::Error) -> Self {
        let cause = Some(chain(error));
        Self { retry: true, cause, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string()) }
    }

    /// The server has too much to do at this moment.
    pub(super) fn busy(code: &'static str, detail: impl Into<String>) -> Self {
        Self { retry: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    fn no_room(code: &'static str, error: &dyn std::error::Error) -> Self {
        let cause = Some(chain(error));
        Self { retry: true, cause, ..Self::new(StatusCode::INSUFFICIENT_STORAGE, code, error.to_string()) }
    }

    /// A fault of Jobber itself. The log has the reason, and the client gets the id of its request.
    pub(super) fn internal(cause: impl Into<String>) -> Self {
        let detail = "jobber failed to answer; its log tells why, look for the request id";
        Self { cause: Some(cause.into()), ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail) }
    }

    /// The problem, for the client.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// The cause, for the server's log only.
    pub(super) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Makes the answer. With `original`, in the shape of the original's routes.
    pub(super) fn render(self, request_id: &str, original: bool) -> Response {
        let title = self.code.replace('_', " ");
        // For a wrong body the original knew only status 400.
        let status = match self.status {
            StatusCode::UNPROCESSABLE_ENTITY if original => StatusCode::BAD_REQUEST,
            status => status,
        };
        let (kind, body) = if original {
            ("application/json", json!({"message": title, "error": self.detail}).to_string())
        } else {
            let problem = Problem {
                kind: format!("/problems/{}", self.code),
                title,
                status: status.as_u16(),
                detail: self.detail,
                code: self.code.to_owned(),
                errors: self.errors,
                request_id: Some(request_id.to_owned()),
            };
            let body = serde_json::to_string(&problem).expect("a problem has only strings and numbers");
            ("application/problem+json", body)
        };
        let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
        if self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // The server has not read the rest of the body, so the connection can't be used again.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// Only attaches the error to the answer. [`super::request::observe`], which knows the
    /// request's id, renders it.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        match error.kind {
            QueueErrorKind::Unavailable => Self::unavailable("queue_unavailable", &error),
            QueueErrorKind::Full => Self::no_room("queue_full", &error),
            QueueErrorKind::KeyReused => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", error.to_string())
            }
            QueueErrorKind::Rejected => Self::bad_request("invalid_query", error.to_string()),
            QueueErrorKind::UnfitQueue => {
                let problem = FieldProblem { pointer: "/queue".to_owned(), detail: error.to_string() };
                Self::invalid_fields("invalid_body", vec![problem])
            }
            QueueErrorKind::Corrupt => Self::internal(chain(&error)),
        }
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        match error.kind {
            EventErrorKind::Unavailable => Self::unavailable("log_unavailable", &error),
            // Unlike a full queue, a full log has room again as soon as history has caught up.
            EventErrorKind::Full => Self::unavailable("log_full", &error),
            EventErrorKind::Corrupt => Self::internal(chain(&error)),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Unavailable => Self::unavailable("store_unavailable", &error),
            StoreErrorKind::Full => Self::no_room("store_full", &error),
            StoreErrorKind::Rejected => Self::bad_request("invalid_query", error.to_string()),
            StoreErrorKind::Fenced | StoreErrorKind::Conflict | StoreErrorKind::Corrupt => {
                Self::internal(chain(&error))
            }
        }
    }
}

impl From<InvalidName> for ApiError {
    /// A name that can't exist names nothing, so the answer is 404.
    fn from(error: InvalidName) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string())
    }
}

/// Answers what no route matches.
pub(super) async fn no_route(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
}

/// Answers a method that a route does not have.
pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    let detail = format!("{method} does not work on {}; the Allow header lists what does", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
