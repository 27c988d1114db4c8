//! Tells the others that this worker lives, and hears from them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::queue::WorkerInfo;

/// Between two heartbeats of a worker.
pub const EVERY: Duration = Duration::from_secs(1);

/// Beats until `stop`. Cancels `drain` when somebody asks this worker to drain, and keeps the gauge told of what other
/// workers of this host run.
pub(super) async fn beat(worker: Worker, drain: CancellationToken, stop: CancellationToken) {
    let started_at = worker.clock.now();
    let mut away = false;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            // The others hear at once that nothing new is taken here.
            () = drain.cancelled(), if !told => {}
        }
        told = drain.is_cancelled();
        let me = WorkerInfo {
            id: worker.settings.id.clone(),
            host: worker.settings.host.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at,
            last_seen: worker.clock.now(),
            slots: u32::try_from(worker.slots.count()).unwrap_or(u32::MAX),
            cores: worker.slots.total_cores(),
            running: worker.gauge.running(),
            draining: told,
        };
        match worker.source.heartbeat(&me).await {
            Ok(asked_to_drain) => {
                away = false;
                if asked_to_drain && !drain.is_cancelled() {
                    tracing::info!("asked to drain");
                    drain.cancel();
                }
            }
            Err(error) => {
                if !away {
                    tracing::warn!(%error, "the queue did not take the heartbeat");
                }
                away = true;
            }
        }
        if let Ok(peers) = worker.source.peers().await {
            let foreign = peers.iter().filter(|p| p.host == me.host && p.id != me.id).map(|p| p.running).sum();
            worker.gauge.set_foreign(foreign);
        }
    }
}
