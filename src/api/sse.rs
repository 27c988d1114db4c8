//! Sends the events of a channel to a client as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::metrics::METRICS;

/// How many events may wait for a slow client. Beyond that, the task that makes them waits.
pub(super) const WAITING: usize = 64;
/// After this long without an event the server sends a comment, so that both ends know that the other lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The answer that sends the events of the channel until its sender is gone. `kind` names it in the metrics.
pub(super) fn answer(kind: &'static str, events: mpsc::Receiver<Event>) -> Response {
    let open = METRICS.http.stream(kind);
    let events = ReceiverStream::new(events).map(move |event| {
        // Counted as open for as long as the connection has the stream.
        let _ = &open;
        Ok::<_, Infallible>(event)
    });
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat")).into_response();
    // Without this header, proxies of the nginx family hold events back.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
