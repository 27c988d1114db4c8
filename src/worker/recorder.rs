//! Events out, whatever it takes: a worker does not go on before history knows.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backoff::Waits;
use crate::domain::Event;
use crate::events::{EventErrorKind, EventSink};

/// Writes events until they are written.
pub(super) struct Recorder {
    sink: Arc<dyn EventSink>,
    kill: CancellationToken,
}

impl Recorder {
    pub(super) fn new(sink: Arc<dyn EventSink>, kill: CancellationToken) -> Self {
        Self { sink, kill }
    }

    /// Appends the events, all of them. While the log is full or away it waits and tries again: the worker keeps its
    /// leases and its finished reports. False when the worker was told to end at once before that.
    pub(super) async fn record(&self, events: &[Event]) -> bool {
        let mut waits = Waits::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut said = false;
        loop {
            let error = match self.sink.append(events).await {
                Ok(_) => {
                    if said {
                        tracing::info!("the event log takes events again");
                    }
                    return true;
                }
                Err(error) => error,
            };
            if !said {
                let what = match error.kind {
                    EventErrorKind::Full => "the event log is full; waiting for room",
                    EventErrorKind::Unavailable | EventErrorKind::Corrupt => {
                        "the event log can't be written; trying again"
                    }
                };
                tracing::error!(%error, "{what}");
                said = true;
            }
            tokio::select! {
                () = self.kill.cancelled() => return false,
                () = tokio::time::sleep(waits.next_wait()) => {}
            }
        }
    }
}
