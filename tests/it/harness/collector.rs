//! A collector of OpenTelemetry's that takes spans by OTLP/HTTP, as protobuf.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::eventually;

/// A span as it was received. Ids are hexadecimal, as in `traceparent`.
#[derive(Debug, Clone)]
pub struct SeenSpan {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub attributes: BTreeMap<String, Value>,
    pub events: Vec<String>,
    /// Trace and span of each link.
    pub links: Vec<(String, String)>,
    pub is_error: bool,
    /// From its start to its end, in nanoseconds.
    pub took: u64,
    pub resource: BTreeMap<String, Value>,
}

#[derive(Default)]
struct Seen {
    spans: Vec<SeenSpan>,
    headers: Vec<HeaderMap>,
}

/// The running collector.
pub struct Collector {
    url: String,
    seen: Arc<Mutex<Seen>>,
    server: JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let app = Router::new().route("/v1/traces", post(take)).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen, server }
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn spans(&self) -> Vec<SeenSpan> {
        self.seen.lock().unwrap().spans.clone()
    }

    /// The headers of all requests.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.seen.lock().unwrap().headers.clone()
    }

    /// The spans of this name about this job, once there are so many.
    pub async fn wait_for(&self, name: &str, job: &str, count: usize) -> Vec<SeenSpan> {
        eventually(&format!("{count} spans {name:?} about {job}"), async || {
            let mut found = self.spans();
            found.retain(|span| span.name == name && span.attributes.get("messaging.message.id") == Some(&json!(job)));
            (found.len() >= count).then_some(found)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if headers.get("content-type").is_none_or(|kind| kind != "application/x-protobuf") {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let mut seen = seen.lock().unwrap();
    seen.headers.push(headers);
    for of_resource in request.resource_spans {
        let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            seen.spans.push(SeenSpan {
                kind: span.kind(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                attributes: attributes(span.attributes),
                events: span.events.into_iter().map(|event| event.name).collect(),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                is_error: span.status.is_some_and(|status| status.code == 2),
                took: span.end_time_unix_nano - span.start_time_unix_nano,
                name: span.name,
                resource: resource.clone(),
            });
        }
    }
    StatusCode::OK
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, Value> {
    let value = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => json!(text),
        Some(any_value::Value::IntValue(number)) => json!(number),
        Some(any_value::Value::DoubleValue(number)) => json!(number),
        Some(any_value::Value::BoolValue(flag)) => json!(flag),
        _ => Value::Null,
    };
    pairs.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
