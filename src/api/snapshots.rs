//! Holds the last snapshot of the overview for all who watch it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// From one snapshot to the next.
pub(super) const STEP: Duration = Duration::from_secs(1);

/// The last snapshot, and who waits for the next.
pub(super) struct Overviews {
    pub(super) latest: watch::Sender<Option<Arc<Snapshot>>>,
    /// Wakes the one that makes them.
    pub(super) wanted: Notify,
}

/// The overview at one moment.
pub(super) struct Snapshot {
    pub(super) made_at: Instant,
    /// The snapshot as JSON, written once for all.
    pub(super) json: String,
}

impl Snapshot {
    /// Whether no newer one is due.
    pub(super) fn is_fresh(&self) -> bool {
        self.made_at.elapsed() < STEP
    }
}

impl Default for Overviews {
    fn default() -> Self {
        Self { latest: watch::Sender::new(None), wanted: Notify::new() }
    }
}

impl Overviews {
    /// Watches the snapshots from now on, which lets them be made.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        let snapshots = self.latest.subscribe();
        self.wanted.notify_one();
        snapshots
    }
}
