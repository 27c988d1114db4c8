//! Server-sent events out of a channel.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How many events wait for a slow client; then whoever makes them waits.
pub(super) const WAITING: usize = 64;
/// A comment is sent after so much silence, so that both ends know that the other lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The answer that sends on what the channel brings, until its sender is gone.
pub(super) fn answer(events: mpsc::Receiver<Event>) -> Response {
    let events = ReceiverStream::new(events).map(Ok::<_, Infallible>);
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat")).into_response();
    // Proxies of the nginx family would hold events back.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
