//! How a process ends: two tokens for two deadlines, and one place that waits for every task.
//!
//! The first SIGTERM or SIGINT (or the failure of a task that should run for ever) cancels `stop`: take nothing new,
//! finish what runs. A second signal, or the end of the grace period, cancels `kill`: end now.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The life of a process; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    /// Cancelled when the process must take nothing new and finish what runs.
    pub stop: CancellationToken,
    /// Cancelled when the process must end at once.
    pub kill: CancellationToken,
    /// All tasks of the process that [`Lifecycle::finish`] waits for.
    pub tasks: TaskTracker,
    failed: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Lifecycle {
    /// Listens for SIGTERM and SIGINT from now on, and raises the limit of descriptors again
    /// whenever something has lowered it. From now on a limit on the size of files (`RLIMIT_FSIZE`)
    /// makes writes fail, as a full disk does, instead of killing the process.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn listen(&self) -> std::io::Result<()> {
        // It is enough to catch the signal. The kernel resets a caught signal in the jobs, but not an ignored one.
        let _caught = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let life = self.clone();
        // Not tracked: it waits for signals until the runtime ends, and finishes nothing.
        #[expect(clippy::disallowed_methods, reason = "shutdown must not wait for the task that listens for it")]
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(Duration::from_secs(1));
            loop {
                let name = tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = int.recv() => "SIGINT",
                    _ = looks.tick() => {
                        crate::descriptors::raise();
                        continue;
                    }
                };
                if life.stop.is_cancelled() {
                    tracing::warn!(signal = name, "stopping at once");
                    life.kill.cancel();
                } else {
                    tracing::info!(signal = name, "stopping; once more to stop at once");
                    life.stop.cancel();
                }
            }
        });
        Ok(())
    }

    /// Runs a part of the process that should end only after `stop`; when it fails or panics, everything stops.
    pub fn run<E: std::fmt::Display + Send + 'static>(
        &self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let inner = self.tasks.spawn(part);
        let life = self.clone();
        self.tasks.spawn(async move {
            let trouble = match inner.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("{error:#}"),
                Err(panic) => panic.to_string(),
            };
            tracing::error!(part = name, error = trouble, "failed; stopping");
            life.failed.store(true, std::sync::atomic::Ordering::SeqCst);
            life.stop.cancel();
        })
    }

    /// Waits until every task has ended; after `grace` cancels `kill` and waits `grace` again. True when all is well:
    /// everything has ended and nothing had failed.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.tasks.close();
        let mut ended = tokio::time::timeout(grace, self.tasks.wait()).await.is_ok();
        if !ended {
            tracing::warn!("the grace period is over; stopping at once");
            self.kill.cancel();
            ended = tokio::time::timeout(grace.max(Duration::from_secs(5)), self.tasks.wait()).await.is_ok();
        }
        if !ended {
            tracing::error!(tasks = self.tasks.len(), "tasks were left behind");
        }
        ended && !self.failed.load(std::sync::atomic::Ordering::SeqCst)
    }
}
