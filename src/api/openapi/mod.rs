//! Describes the API in OpenAPI 3.1: from the types of the bodies, and from one table of operations.
//!
//! [`operations`] is the table, [`operation`] what one entry is made of, [`problems`] every code of an error. Tests
//! compare the table with the router in both directions, and every error that a handler makes with the codes. [`shape`]
//! tells of schemas what the types don't.

mod builds;
mod files;
mod notices;
mod operation;
mod operations;
pub(super) mod problems;
mod queues;
mod schedules;
mod shape;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::domain::JobOptions;
use crate::wire::{GroupResult, JobEventView, LogEvent, Problem};
use operation::Schemas;

/// The document as JSON. It depends on the version of Jobber alone.
static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string_pretty(&document()).expect("the document has only strings for keys"));

/// Where the document is.
pub(super) const PATH: &str = "/api/v1/openapi.json";

/// `GET /api/v1/openapi.json`.
pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// The API's description as OpenAPI 3.1: a JSON text, several lines long.
pub fn openapi() -> &'static str {
    &DOCUMENT
}

fn document() -> Value {
    let mut schemas = Schemas::default();
    // What every operation may answer, and what the streams hold, which OpenAPI 3.1 can't tell.
    schemas.of::<Problem>();
    schemas.of::<LogEvent>();
    schemas.of::<JobEventView>();
    schemas.of::<GroupResult>();
    let mut paths = Map::new();
    for operation in operations::all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.describe(&mut schemas);
    }
    let mut components = schemas.into_components();
    shape::refine(&mut components);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Jobber",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Runs native programs as queued, supervised jobs and explains why they fail.",
            "description": "Times are RFC 3339 in UTC, durations whole milliseconds. Errors are problems (RFC 9457): decide \
                on `code`. Within v1 the API only grows: ignore fields and values of enumerations that you don't know.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "This server"}],
        "security": [{"token": []}, {"session": []}, {}],
        "tags": operations::TAGS.iter().map(|(name, about)| json!({"name": name, "description": about})).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The value of `serve.token`, or of `serve.view_token` to read only. A server on loopback \
                        may have neither.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "jobber_session",
                    "description": "What `signIn` gives to browsers.",
                },
            },
        },
    })
}

/// The longest duration of an option, in milliseconds.
const LONGEST_MS: u64 = JobOptions::MAX_DURATION.as_millis() as u64;

#[cfg(test)]
mod tests;
