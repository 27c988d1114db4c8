//! The whole pipeline in this process, as `jobber dev` has it: queue, worker, event log, projector, history.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::allocations::{self, Allocations};
use super::cpu::CpuTimes;
use crate::config::Config;
use crate::domain::{AcceptedJob, Clock, Event, Job, JobBody, JobId, JobName, JobOptions};
use crate::lifecycle::Lifecycle;
use crate::roles::parts;
use crate::runner::Guard;
use crate::stats::Counts;
use crate::store::DayRange;
use crate::traces::Traces;
use crate::wiring::{self, ServerPorts};
use crate::worker::Lifetime;

/// A pipeline that runs.
pub(super) struct Pipeline {
    pub(super) ports: ServerPorts,
    pub(super) life: Lifecycle,
    pub(super) clock: Clock,
    worker: JoinHandle<()>,
    worker_ended: CancellationToken,
    _guard: Guard,
}

impl Pipeline {
    pub(super) async fn start(config: &Config, environment: Vec<(String, String)>) -> anyhow::Result<Self> {
        let (life, clock) = (Lifecycle::default(), Clock::system());
        let (ports, worker_ports) = wiring::open_both(config, &clock, &life.tasks).await?;
        let (worker, guard) =
            parts::build_worker(config, environment, &worker_ports, &clock, Lifetime::default(), &Traces::default())?;
        let worker_ended = CancellationToken::new();
        parts::start_projector(config, &ports, &clock, &life, worker_ended.clone(), None);
        let worker = life.run("worker", worker.run(life.stop.clone(), life.kill.clone()));
        Ok(Self { ports, life, clock, worker, worker_ended, _guard: guard })
    }

    /// Ends it in good order.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        drop(self.ports);
        self.life.stop.cancel();
        self.worker.await?;
        self.worker_ended.cancel();
        ensure!(self.life.finish(Duration::from_secs(10)).await, "the pipeline did not end in good order");
        Ok(())
    }

    /// A new job with nothing to say.
    pub(super) fn job(&self, name: &JobName) -> AcceptedJob {
        let job = Job {
            id: JobId::generate(),
            name: name.clone(),
            options: JobOptions::default(),
            submitted_at: self.clock.now(),
            trace: None,
        };
        AcceptedJob { job: Arc::new(job), body: JobBody::new(Vec::new(), None) }
    }

    /// Submits jobs as the API does: to the queue, and to the event log unless the queue has told it.
    pub(super) async fn submit(&self, jobs: &[AcceptedJob]) -> anyhow::Result<()> {
        for chunk in jobs.chunks(1000) {
            let submissions = self.ports.queue.submit(chunk.to_vec(), None).await?;
            let left = submissions.into_iter().filter(|submission| !submission.announced);
            let events: Vec<_> = left.filter_map(|submission| submission.job).map(Event::submitted).collect();
            if !events.is_empty() {
                self.ports.sink.append(&events).await?;
            }
        }
        Ok(())
    }

    /// Has the worker begin jobs, or not.
    pub(super) async fn set_paused(&self, is_paused: bool) -> anyhow::Result<()> {
        self.ports.operator.set_paused(None, is_paused).await?;
        Ok(())
    }

    /// What history counts now.
    pub(super) async fn counts(&self) -> anyhow::Result<Counts> {
        let shards = self.ports.history.shards(DayRange::default(), None).await?;
        Ok(crate::stats::total(shards.iter().map(|shard| &shard.counts)))
    }

    /// Waits until history counts so much.
    ///
    /// # Errors
    /// When a job fails, or after five minutes.
    pub(super) async fn until(&self, reached: impl Fn(&Counts) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let counts = self.counts().await?;
            ensure!(counts.failed() == 0, "jobs failed; try the binary by hand");
            if reached(&counts) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the pipeline did not end within five minutes");
            // Each look reads aggregates: more often, and the looks would be a part of what is measured.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Jobs per second with which `jobs` jobs that wait in the queue come into history, with every event and every byte
    /// that a real job leaves.
    pub(super) async fn carry(&self, name: &JobName, jobs: usize) -> anyhow::Result<Carried> {
        self.set_paused(true).await?;
        let goal = self.counts().await?.completed() + jobs as i64;
        let batch: Vec<_> = (0..jobs).map(|_| self.job(name)).collect();
        let began = Instant::now();
        self.submit(&batch).await?;
        let submitting = began.elapsed();
        // History must have every submission, so that only the way from the queue to history is measured.
        self.until(|n| n.waiting == jobs as i64).await?;
        let (began, cpu, allocations) = (Instant::now(), CpuTimes::now(), allocations::now());
        self.set_paused(false).await?;
        self.until(|n| n.completed() == goal).await?;
        Ok(Carried {
            submitted_per_second: jobs as f64 / submitting.as_secs_f64(),
            per_second: jobs as f64 / began.elapsed().as_secs_f64(),
            cpu: CpuTimes::now().since(&cpu),
            allocations: allocations::now().since(&allocations),
        })
    }
}

/// What one round of the pipeline measured.
pub(super) struct Carried {
    pub(super) submitted_per_second: f64,
    pub(super) per_second: f64,
    pub(super) cpu: CpuTimes,
    pub(super) allocations: Allocations,
}
