//! Appends events until they are written: a worker does not go on before history knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Event;
use crate::events::{EventErrorKind, EventSink};
use crate::reconnect::ReconnectBackoff;

/// Writes events until they are written.
pub(super) struct Recorder {
    sink: Arc<dyn EventSink>,
    give_up: CancellationToken,
    gave_up: AtomicBool,
}

impl Recorder {
    /// Once `give_up` is cancelled, what can't be written at the first try is left.
    pub(super) fn new(sink: Arc<dyn EventSink>, give_up: CancellationToken) -> Self {
        Self { sink, give_up, gave_up: AtomicBool::new(false) }
    }

    /// Whether events were left unwritten.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// Appends the events, all of them. While the log is full or away it waits and tries again: the worker keeps its
    /// leases and its finished reports. False when it gave up before that: the job's lease lapses then, and it runs again.
    pub(super) async fn record(&self, events: &[Event]) -> bool {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut reported = false;
        loop {
            let error = match self.sink.append(events).await {
                Ok(_) => {
                    if reported {
                        tracing::info!("the event log takes events again");
                    }
                    return true;
                }
                Err(error) => error,
            };
            if !reported {
                let what = match error.kind {
                    EventErrorKind::Full => "the event log is full; waiting for room",
                    EventErrorKind::Unavailable | EventErrorKind::Corrupt => {
                        "the event log can't be written; trying again"
                    }
                };
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "{what}");
                reported = true;
            }
            tokio::select! {
                () = self.give_up.cancelled() => {
                    tracing::error!(events = events.len(), "ended before the event log took these events");
                    self.gave_up.store(true, Ordering::Relaxed);
                    return false;
                }
                () = tokio::time::sleep(waits.next_wait()) => {}
            }
        }
    }
}
