//! Gives each connection a place. When there is no room, a new connection takes the place of the
//! one that has been idle longest.
//!
//! A connection keeps its place while the server answers a request on it. If all are busy, the
//! server takes some more connections, on which it answers only probes. So a server that is full of
//! streams still tells that it lives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::timeouts::Watch;

/// How many connections beyond the limit are taken, for probes.
const FOR_PROBES: usize = 16;

/// Marks a request that came on a connection beyond the limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnlyProbes;

/// The connections of one listener.
pub(super) struct ConnectionLimit {
    most: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    next: u64,
    held: Vec<Held>,
}

struct Held {
    number: u64,
    watch: Watch,
    /// Cancelled when another connection needs the place.
    evicted: CancellationToken,
}

/// A connection's place, until it is dropped.
pub(super) struct ConnectionPermit {
    limit: Arc<ConnectionLimit>,
    number: u64,
    /// Cancelled when the connection must close.
    pub(super) evicted: CancellationToken,
    /// Whether the server answers only probes on this connection.
    pub(super) only_probes: bool,
}

impl ConnectionLimit {
    /// `most` places, and some for probes.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), taken: Mutex::default(), freed: Notify::new() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Every change of the list is whole, even if a thread panicked afterwards.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that `watch` watches. Returns at once unless every place, those for probes too, is with
    /// a connection that is being answered.
    pub(super) async fn acquire(self: &Arc<Self>, watch: &Watch) -> ConnectionPermit {
        loop {
            // Registers before it looks, so that it does not miss a place that becomes free meanwhile.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(permit) = self.try_acquire(watch) {
                return permit;
            }
            // Looks again even without a message, because a connection may have become idle.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), freed).await;
        }
    }

    fn try_acquire(self: &Arc<Self>, watch: &Watch) -> Option<ConnectionPermit> {
        let mut taken = self.taken();
        if taken.held.len() >= self.most
            && let Some(longest) = longest_idle(&taken.held)
        {
            taken.held.swap_remove(longest).evicted.cancel();
        }
        let count = taken.held.len();
        if count >= self.most + FOR_PROBES {
            return None;
        }
        let number = taken.next;
        taken.next += 1;
        let evicted = CancellationToken::new();
        taken.held.push(Held { number, watch: watch.clone(), evicted: evicted.clone() });
        Some(ConnectionPermit { limit: self.clone(), number, evicted, only_probes: count >= self.most })
    }
}

/// The connection that has waited longest without a whole request. Connections that have sent
/// nothing of one come first.
fn longest_idle(held: &[Held]) -> Option<usize> {
    let since = held.iter().enumerate().filter_map(|(i, held)| Some((held.watch.unanswered()?, i)));
    since.min().map(|(_, i)| i)
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limit.taken().held.retain(|held| held.number != self.number);
        self.limit.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn watch() -> Watch {
        Watch::new(Duration::from_secs(60), Duration::from_secs(10))
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_goes_and_the_busy_stay() {
        let limit = ConnectionLimit::new(2);
        let (first, second, third) = (watch(), watch(), watch());
        let one = limit.acquire(&first).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        let two = limit.acquire(&second).await;
        let _busy = first.request();
        let three = limit.acquire(&third).await;
        assert!(two.evicted.is_cancelled() && !one.evicted.is_cancelled() && !three.only_probes);
        let _busy_too = third.request();
        let probing = watch();
        let four = limit.acquire(&probing).await;
        assert!(four.only_probes && !one.evicted.is_cancelled() && !three.evicted.is_cancelled());
    }
}
