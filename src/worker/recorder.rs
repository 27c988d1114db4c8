//! Appends events until the log has them: a worker does not go on before history can know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Event;
use crate::events::{EventErrorKind, EventSink};
use crate::reconnect::ReconnectBackoff;

/// Appends events to the log, again and again until they are written.
pub(super) struct Recorder {
    sink: Arc<dyn EventSink>,
    give_up: CancellationToken,
    gave_up: AtomicBool,
}

impl Recorder {
    /// Makes a recorder. Once `give_up` is cancelled, it tries each event only once.
    pub(super) fn new(sink: Arc<dyn EventSink>, give_up: CancellationToken) -> Self {
        Self { sink, give_up, gave_up: AtomicBool::new(false) }
    }

    /// Whether the recorder has left events unwritten.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// Appends the events, all of them. While the log is full or away, it waits and tries again,
    /// and the worker keeps its leases and reports meanwhile. Returns false when it has given up:
    /// then the job's lease lapses and the job runs again.
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
