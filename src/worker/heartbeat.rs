//! Tells the other workers that this one lives, and asks what they run.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::domain::JobName;
use crate::queue::WorkerInfo;
use crate::runner::Runner;

/// The time between two heartbeats of a worker.
pub const EVERY: Duration = Duration::from_secs(1);

/// The time between two looks into the jobs directory.
const LOOK: Duration = Duration::from_secs(3);

/// The names of the jobs whose binaries are here, as of the last look.
#[derive(Default)]
struct Binaries {
    looked_at: Option<Instant>,
    names: Option<Vec<JobName>>,
}

impl Binaries {
    async fn names(&mut self, runner: &Arc<Runner>) -> Option<Vec<JobName>> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK) {
            let runner = runner.clone();
            // Reads the directory on another thread, because it may be on a slow network.
            let looked = tokio::task::spawn_blocking(move || runner.job_names(WorkerInfo::BINARIES)).await;
            self.names = looked.unwrap_or_default();
            self.looked_at = Some(Instant::now());
        }
        self.names.clone()
    }
}

/// Beats until `stop`. Cancels `drain` when an operator has asked this worker to drain, and tells
/// the gauge how many jobs other workers of this host run.
pub(super) async fn beat(worker: Worker, drain: CancellationToken, stop: CancellationToken) {
    let started_at = worker.clock.now();
    let mut away = false;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut draining = false;
    let mut health = worker.health.follow();
    let mut found = Binaries::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            // The others hear at once that nothing new is taken here.
            () = drain.cancelled(), if !draining => {}
            Ok(()) = health.changed() => {}
        }
        draining = drain.is_cancelled();
        let unhealthy = health.borrow_and_update().clone();
        let binaries = found.names(&worker.runner).await;
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
            draining,
            unhealthy,
            binaries,
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
