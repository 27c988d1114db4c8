//! Whether this worker can start processes. When it can't (no descriptors, threads, scratch space or jobs directory), that
//! is no job's fault: it takes no jobs, gives back those that it holds unstarted, and tries again after growing waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::reconnect::ReconnectBackoff;
use crate::runner::Runner;

/// Between the first two tries, and between any two at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// What keeps a worker from starting processes, if anything does.
#[derive(Debug)]
pub struct Health {
    trouble: watch::Sender<Option<String>>,
    /// Whether a process was started since the last trouble: only that proves that it is over.
    is_proven: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self { trouble: watch::Sender::new(None), is_proven: AtomicBool::new(true) }
    }
}

impl Health {
    /// Why no process can be started, for people.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Whether nothing is known that keeps processes from being started.
    pub(super) fn is_good(&self) -> bool {
        self.trouble.borrow().is_none()
    }

    /// Notes that a process could not be started.
    pub(super) fn note(&self, why: String) {
        self.trouble.send_replace(Some(why));
    }

    /// Notes that a process was started.
    pub(super) fn prove(&self) {
        if !self.is_proven.load(Ordering::Relaxed) {
            self.is_proven.store(true, Ordering::Relaxed);
        }
    }

    /// Follows what is noted.
    pub(super) fn follow(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Tries, whenever there is trouble, until it is over. Waits longer from time to time, until a process was started.
    pub(super) async fn mend(&self, runner: &Runner) {
        let mut noted = self.follow();
        let mut waits = ReconnectBackoff::new(WAITS.0, WAITS.1);
        // The sender lives as long as this.
        while let Ok(why) = noted.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default()) {
            if self.is_proven.swap(false, Ordering::Relaxed) {
                waits = ReconnectBackoff::new(WAITS.0, WAITS.1);
            }
            tracing::error!(why, "no job can be started here; taking none until one can");
            loop {
                tokio::time::sleep(waits.next_wait()).await;
                match runner.probe().await {
                    Ok(()) => break,
                    Err(error) => self.note(error.to_string()),
                }
            }
            tracing::info!("jobs can be started here, it seems; taking them again");
            self.trouble.send_replace(None);
        }
    }
}
