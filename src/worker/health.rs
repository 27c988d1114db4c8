//! Whether this worker can start processes. It may lack descriptors, threads, scratch space or the
//! jobs directory, which is no job's fault. Then it takes no jobs, gives back those that it holds
//! unstarted, and tries again after growing waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::reconnect::ReconnectBackoff;
use crate::runner::Runner;

/// The wait between the first two tries, and the longest between any two.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The reason why a worker can't start processes, if there is one.
#[derive(Debug)]
pub struct Health {
    trouble: watch::Sender<Option<String>>,
    /// Whether a process has started since the last trouble. Only that proves that the trouble is over.
    is_proven: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self { trouble: watch::Sender::new(None), is_proven: AtomicBool::new(true) }
    }
}

impl Health {
    /// The reason why no process can be started, for people.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Whether the worker knows of nothing that keeps it from starting processes.
    pub(super) fn is_good(&self) -> bool {
        self.trouble.borrow().is_none()
    }

    /// Notes why a process could not be started.
    pub(super) fn note(&self, why: String) {
        self.trouble.send_replace(Some(why));
    }

    /// Notes that a process was started.
    pub(super) fn prove(&self) {
        if !self.is_proven.load(Ordering::Relaxed) {
            self.is_proven.store(true, Ordering::Relaxed);
        }
    }

    /// Follows the current trouble; `None` in the channel means that there is none.
    pub(super) fn follow(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Probes, whenever there is trouble, until a process can be started. The waits keep growing
    /// from one trouble to the next until an attempt has started a process. Ends with the caller that
    /// drops it, and has nothing to finish.
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
