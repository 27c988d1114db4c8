//! Tells the service manager about a role while it lives: ready, status, signs of life, stopping.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::background::{BackgroundLoop, NextRun, Period};
use crate::lifecycle::Lifecycle;
use crate::notify::Notifier;
use crate::reconnect::ReconnectBackoff;
use crate::wiring::Liveness;

/// How often to look at the status. The manager gets it only when it has changed.
const STATUS: BackgroundLoop = BackgroundLoop::new("status", Period::Every(Duration::from_secs(1)));

/// Returns when the queue answers. Until then the status says what is missing.
pub(super) fn queue_answers(liveness: Liveness, notifier: &Notifier) -> impl Future<Output = ()> + Send + 'static {
    let notifier = notifier.clone();
    async move {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while let Some(answer) = liveness.queue_answers().await {
            match answer {
                Ok(()) => return,
                Err(error) => notifier.status(&format!("waiting for the queue: {error}")),
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
        // The queue was closed, so this process is about to end.
        std::future::pending().await
    }
}

/// Tells the service manager, if there is one, how this process is. It says that the process is
/// ready once `ready` returns, sends `status` whenever it has changed, and says that the process
/// stops as soon as it does (on `life.tasks`, so that this comes before the end). It gives signs of
/// life until the caller drops the returned guard.
pub(super) fn report_to_manager(
    notifier: &Notifier,
    life: &Lifecycle,
    liveness: Liveness,
    ready: impl Future<Output = ()> + Send + 'static,
    status: impl Fn() -> String + Send + Sync + 'static,
) -> DropGuard {
    let ended = CancellationToken::new();
    if notifier.is_heard() {
        life.tasks.spawn(report(notifier.clone(), life.stop.clone(), ready, status));
    }
    if let Some(limit) = notifier.watchdog() {
        // This task is not among `life.tasks`, because it goes on while the process waits for those.
        TaskTracker::new().spawn(beat(notifier.clone(), liveness, limit, ended.clone()));
    }
    ended.drop_guard()
}

async fn report(
    notifier: Notifier,
    stop: CancellationToken,
    ready: impl Future<Output = ()> + Send,
    status: impl Fn() -> String + Send + Sync,
) {
    notifier.status("waiting for the queue");
    if stop.run_until_cancelled(ready).await.is_some() {
        let mut last = status();
        notifier.ready(&last);
        let mut look = async || {
            let now = status();
            if now != last {
                notifier.status(&now);
                last = now;
            }
            Ok(NextRun::InTurn)
        };
        let mut turns = STATUS.start(&stop);
        while turns.run(look()).await {}
    }
    notifier.stopping(&format!("stopping; {}", status()));
}

/// Gives a sign of life after each half of `limit`, but only once every vital part has answered. So
/// a process that hangs falls silent, and the manager restarts it. The other half is the time in
/// which the parts must answer. Ends at once when `ended` is cancelled.
async fn beat(notifier: Notifier, liveness: Liveness, limit: Duration, ended: CancellationToken) {
    let watchdog = BackgroundLoop::new("watchdog", Period::Every(limit / 2))
        .error("the queue gives no answer; the service manager will start this process anew", "the queue answers again")
        .drop_run();
    let beat = async || {
        let answered = tokio::time::timeout(limit / 2, liveness.answer()).await;
        answered.map_err(|_| format!("no answer within {} ms", (limit / 2).as_millis()))?;
        notifier.beat();
        Ok(NextRun::InTurn)
    };
    let mut turns = watchdog.start(&ended);
    if turns.wait().await {
        while turns.run(beat()).await {}
    }
}
