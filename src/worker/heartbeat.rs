//! Tells the other workers that this one lives, and asks what they run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::placement::WorkerPlacement;
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{Build, JobName};
use crate::metrics::{Load, METRICS};
use crate::queue::{RunningJob, WorkerInfo};
use crate::runner::{HostMemory, Runner, RunningAttempt, RunningGauge};

/// The time between two heartbeats of a worker.
pub const EVERY: Duration = Duration::from_secs(1);

/// The time between two looks into the jobs directory.
const LOOK: Duration = Duration::from_secs(3);

/// The others take a worker for dead after some missed heartbeats, so it goes on at the same pace through failures.
const HEARTBEAT: BackgroundLoop = BackgroundLoop::new("heartbeat", Period::Every(EVERY))
    .warn("the queue did not take the heartbeat", "the queue takes the heartbeat again");

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

/// The builds of the binaries, as of the last look that has ended. A look may read all files, so no heartbeat waits for one.
#[derive(Default)]
struct Builds {
    known: Option<BTreeMap<JobName, Build>>,
    began_at: Option<Instant>,
    look: Option<JoinHandle<BTreeMap<JobName, Build>>>,
}

impl Builds {
    /// The builds of binaries of these names. Begins another look when it is time; a look ends at the `stop`.
    async fn of(
        &mut self,
        names: Option<&[JobName]>,
        runner: &Arc<Runner>,
        stop: &CancellationToken,
    ) -> Option<BTreeMap<JobName, Build>> {
        let names = names.filter(|names| names.len() <= WorkerInfo::BUILDS)?;
        if let Some(ended) = self.look.take_if(|look| look.is_finished()) {
            self.known = ended.await.ok();
        }
        if self.look.is_none() && self.began_at.is_none_or(|at| at.elapsed() >= LOOK) {
            let (runner, names, stop) = (runner.clone(), names.to_vec(), stop.clone());
            self.look = Some(tokio::task::spawn_blocking(move || runner.builds(&names, &|| !stop.is_cancelled())));
            self.began_at = Some(Instant::now());
        }
        let mut builds = self.known.clone()?;
        builds.retain(|name, _| names.contains(name));
        Some(builds)
    }
}

/// What runs here now, and how much memory there is. Reads small files of the kernel on another thread: hundreds of
/// jobs have hundreds of files.
async fn look_at_host(gauge: RunningGauge) -> (Option<Vec<RunningJob>>, Option<HostMemory>) {
    let job = |attempt: RunningAttempt| RunningJob {
        job: attempt.job.id.clone(),
        name: attempt.job.name.clone(),
        attempt: attempt.attempt,
        cpus: attempt.cpus,
        resources: attempt.units,
        started_at: attempt.started_at,
        memory_bytes: attempt.memory_bytes,
    };
    let look = move || {
        let jobs = gauge.attempts(WorkerInfo::JOBS).into_iter().map(job).collect();
        (Some(jobs), HostMemory::read())
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// Beats until `stop`. Cancels `drain` when an operator has asked this worker to drain, and tells
/// the gauge how many jobs other workers of this host run. Finishes a heartbeat that is under way.
/// `closed` is cancelled when the worker takes nothing new, be it by `drain` or by itself.
pub(super) async fn beat(
    worker: Worker,
    placement: Arc<WorkerPlacement>,
    drain: CancellationToken,
    closed: CancellationToken,
    stop: CancellationToken,
) {
    let started_at = worker.clock.now();
    let (mut found, mut builds) = (Binaries::default(), Builds::default());
    let mut beat = async || {
        let binaries = found.names(&worker.runner).await;
        let builds = builds.of(binaries.as_deref(), &worker.runner, &stop).await;
        placement.found(binaries.as_deref());
        let (jobs, memory) = look_at_host(worker.gauge.clone()).await;
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
            draining: closed.is_cancelled(),
            unhealthy: worker.health.trouble(),
            binaries,
            builds,
            cpus: Some(worker.slots.cpus().to_vec()),
            memory_bytes: memory.map(|memory| memory.total),
            memory_available_bytes: memory.map(|memory| memory.available),
            jobs,
            queues: Some(worker.settings.served()),
            labels: worker.settings.labels.clone(),
            resources: worker.slots.total().resources.clone(),
            job_memory_bytes: worker.slots.total().memory_bytes,
            sandbox: Some(worker.runner.sandbox_level()),
        };
        METRICS.worker.set_load(Load {
            slots: me.slots,
            slots_busy: me.running,
            cores: me.cores,
            cores_busy: worker.slots.busy_cores(),
            draining: me.draining,
        });
        let asked_to_drain = worker.source.heartbeat(&me).await;
        if let Ok(true) = asked_to_drain
            && !drain.is_cancelled()
        {
            tracing::info!("asked to drain");
            drain.cancel();
        }
        if let Ok(peers) = worker.source.peers().await {
            let foreign = peers.iter().filter(|p| p.host == me.host && p.id != me.id).map(|p| p.running).sum();
            worker.gauge.set_foreign(foreign);
            placement.heard(peers);
        }
        asked_to_drain?;
        Ok(NextRun::InTurn)
    };
    let mut turns = HEARTBEAT.start(&stop);
    while turns.run_woken(news(&worker, &closed), beat()).await {}
}

/// Returns when the worker has something to tell from now on that can't wait: that it takes nothing new, and why.
fn news(worker: &Worker, closed: &CancellationToken) -> impl Future<Output = ()> {
    let (mut health, is_closed) = (worker.health.follow(), closed.is_cancelled());
    async move {
        tokio::select! {
            () = closed.cancelled(), if !is_closed => {}
            // The sender lives as long as the worker.
            _ = health.changed() => {}
        }
    }
}
