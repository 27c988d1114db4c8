//! Waits for news at the end of the stream: one blocking read on a connection of its own, whoever and how many wait.

use std::time::Duration;

use fred::interfaces::{ClientLike, StreamsInterface};
use fred::types::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::events::Cursor;
use crate::reconnect::ReconnectBackoff;
use crate::redis::{Redis, within};

/// One blocking read ends after this; then it starts over from the place of who waits by then.
const BLOCK: Duration = Duration::from_secs(1);
/// When a blocking read has not ended by then, its connection is dead.
const OVERDUE: Duration = Duration::from_secs(3);

/// Somebody who has seen all up to a place.
struct Waiter {
    after: Cursor,
    wake: oneshot::Sender<()>,
}

pub(super) struct Tail {
    waiters: mpsc::UnboundedSender<Waiter>,
}

impl Tail {
    /// The task ends when this is dropped.
    pub(super) fn start(redis: Redis, stream: String, tasks: &TaskTracker) -> Self {
        let (waiters, arriving) = mpsc::unbounded_channel();
        tasks.spawn(watch(redis, stream, arriving));
        Self { waiters }
    }

    /// Waits until there may be events after `after`, or `wait` is over. Wakes too often rather than too late: when the
    /// server can't be asked, who waits is to look and see for themselves.
    pub(super) async fn news(&self, after: Cursor, wait: Duration) {
        let (wake, woken) = oneshot::channel();
        if self.waiters.send(Waiter { after, wake }).is_err() {
            // The runtime ends; then so does the wait.
            tokio::time::sleep(wait).await;
            return;
        }
        // Either way there is nothing to do but to look again.
        let _ = tokio::time::timeout(wait, woken).await;
    }
}

async fn watch(redis: Redis, stream: String, mut arriving: mpsc::UnboundedReceiver<Waiter>) {
    let mut own = None;
    let mut waits = ReconnectBackoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut waiting: Vec<Waiter> = Vec::new();
    loop {
        waiting.retain(|waiter| !waiter.wake.is_closed());
        // From the earliest place: whatever is new for the others is new from there too.
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
        // Not given up for those who arrive: the connection would stay busy with it all the same.
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
                // Who went away meanwhile needs no news.
                let _ = waiter.wake.send(());
            });
        }
    }
}

/// True when there is something after this place, false when there was nothing for a while.
async fn ask(connection: &Redis, stream: &str, after: Cursor) -> Result<bool, String> {
    let client = connection.client().await.map_err(|e| e.to_string())?;
    let milliseconds = u64::try_from(BLOCK.as_millis()).expect("a constant of seconds");
    let patient = client.with_options(&within(OVERDUE));
    match patient.xread::<Value, _, _>(Some(1), Some(milliseconds), stream, after.to_string()).await {
        Ok(found) => Ok(!found.is_null()),
        Err(error) => {
            if error.kind() == &fred::error::ErrorKind::Timeout && client.is_connected() {
                // The client does not look for dead connections among those that block.
                let _ = client.force_reconnection().await;
            }
            Err(connection.failed(&error).to_string())
        }
    }
}
