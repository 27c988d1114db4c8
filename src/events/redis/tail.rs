//! Waits for news at the end of the stream, for any number of readers, with one blocking read on a
//! connection of its own.

use std::time::Duration;

use fred::interfaces::{ClientLike, StreamsInterface};
use fred::types::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::events::Cursor;
use crate::reconnect::ReconnectBackoff;
use crate::redis::{Redis, within};

/// How long one blocking read lasts. The next one starts at the earliest place of the readers that wait by then.
const BLOCK: Duration = Duration::from_secs(1);
/// When a blocking read has not ended by then, its connection counts as dead.
const OVERDUE: Duration = Duration::from_secs(3);

/// A reader that has seen everything up to a place.
struct Waiter {
    after: Cursor,
    wake: oneshot::Sender<()>,
}

pub(super) struct Tail {
    waiters: mpsc::UnboundedSender<Waiter>,
}

impl Tail {
    /// Starts the task that watches the stream. It ends when the returned value is dropped.
    pub(super) fn start(redis: Redis, stream: String, tasks: &TaskTracker) -> Self {
        let (waiters, arriving) = mpsc::unbounded_channel();
        tasks.spawn(watch(redis, stream, arriving));
        Self { waiters }
    }

    /// Waits until there may be events after `after`, or `wait` is over. Wakes too often rather
    /// than too late: when the server can't be asked, the reader has to look by itself.
    pub(super) async fn wait_for_events(&self, after: Cursor, wait: Duration) {
        let (wake, woken) = oneshot::channel();
        if self.waiters.send(Waiter { after, wake }).is_err() {
            // The runtime is about to end, and the wait with it.
            tokio::time::sleep(wait).await;
            return;
        }
        // Woken or not, the caller looks again.
        let _ = tokio::time::timeout(wait, woken).await;
    }
}

/// Serves the readers that wait, until the [`Tail`] is dropped. Has nothing to finish, because no
/// reader is left by then.
async fn watch(redis: Redis, stream: String, mut arriving: mpsc::UnboundedReceiver<Waiter>) {
    let mut own = None;
    let mut waits = ReconnectBackoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut waiting: Vec<Waiter> = Vec::new();
    loop {
        waiting.retain(|waiter| !waiter.wake.is_closed());
        // Reads from the earliest place: events that are new to the other readers come after it too.
        let Some(after) = waiting.iter().map(|w| w.after).min() else {
            match arriving.recv().await {
                Some(waiter) => waiting.push(waiter),
                None => return,
            }
            continue;
        };
        let asked = async {
            let connection = match &own {
                Some(connection) => connection,
                None => own.insert(redis.another().map_err(|e| e.to_string())?),
            };
            ask(connection, &stream, after).await
        };
        tokio::pin!(asked);
        // A new reader does not interrupt the read, because the connection would stay busy with it all the same.
        let answer = loop {
            tokio::select! {
                answer = &mut asked => break answer,
                waiter = arriving.recv() => match waiter {
                    Some(waiter) => waiting.push(waiter),
                    None => return,
                },
            }
        };
        let is_news = match answer {
            Ok(is_news) => {
                waits.reset();
                is_news
            }
            Err(error) => {
                tracing::debug!(error, "the end of the event log can't be watched; trying again");
                tokio::time::sleep(waits.next_wait()).await;
                true
            }
        };
        if is_news {
            waiting.drain(..).for_each(|waiter| {
                // A reader that has gone away needs no news.
                let _ = waiter.wake.send(());
            });
        }
    }
}

/// Returns true when there is an entry after this place, false when there was none for a while.
async fn ask(connection: &Redis, stream: &str, after: Cursor) -> Result<bool, String> {
    let client = connection.client().await.map_err(|e| e.to_string())?;
    let milliseconds = u64::try_from(BLOCK.as_millis()).expect("a constant of seconds");
    let patient = client.with_options(&within(OVERDUE));
    match patient.xread::<Value, _, _>(Some(1), Some(milliseconds), stream, after.to_string()).await {
        Ok(found) => Ok(!found.is_null()),
        Err(error) => {
            if error.kind() == &fred::error::ErrorKind::Timeout && client.is_connected() {
                // The client does not look for dead connections among those with blocking commands.
                let _ = client.force_reconnection().await;
            }
            Err(connection.failed(&error).to_string())
        }
    }
}
