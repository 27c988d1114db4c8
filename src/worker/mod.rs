//! The worker: claims jobs, runs each on its own cores, records what happened.
//!
//! ```text
//!   claim ──> slot ──> [attempt_started] ──> process ──> [attempt_finished, finished] ──> settle
//!                              └─ refused ──> [attempt_withdrawn] ──> given back
//! ```
//! The worker writes these events durably before the step that follows them, or, where queue and log
//! are one database, an end together with it. After a crash in between, the lease lapses and the next
//! attempt completes the history. A job that waits its turn has not started. For a job that has its
//! slot, the worker writes the start while it prepares the process, and the process itself checks last
//! whether the lease still holds.

mod attempt;
mod elsewhere;
mod files;
mod health;
mod heartbeat;
mod inputs;
mod lifetime;
mod output_publisher;
mod placement;
mod policies;
mod policy_classifier;
mod prefetch;
mod quarantine;
mod recorder;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifacts::ArtifactStore;
use crate::domain::{
    Clock, Job, JobName, JobOptions, Labels, LimitScale, Needs, QueueName, QueueOrder, QueueShare, RetryPolicy,
    TraceContext, WorkerId,
};
use crate::events::EventSink;
use crate::queue::{ClaimOptions, Claims, JobSource, Lease, QueueError, QueueErrorKind};
use crate::reconnect::ReconnectBackoff;
use crate::runner::{Presence, RunOrder, Runner, RunningGauge, Slots};
use crate::traces::Traces;
use elsewhere::Elsewhere;
pub use files::{FileKeeper, FileLimits};
pub use health::Health;
pub use heartbeat::EVERY as HEARTBEAT;
use lifetime::Allowance;
pub use lifetime::Lifetime;
use placement::WorkerPlacement;
pub use policies::Policies;
use prefetch::Prefetch;
use quarantine::Quarantine;
use recorder::Recorder;

/// The settings of one worker.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The identifier of this run of the worker, new at every start.
    pub id: WorkerId,
    /// The name of the machine, as heartbeats and events give it.
    pub host: String,
    /// The queue of jobs that name none.
    pub default_queue: QueueName,
    /// The queues that the worker serves; none for the default one.
    pub queues: Vec<QueueShare>,
    /// In which order it serves them.
    pub queue_order: QueueOrder,
    /// Its labels.
    pub labels: Labels,
    /// How long a job waits that no worker can run, before it has failed.
    pub unplaceable_after: Duration,
    /// How long running jobs may go on once the worker has been asked to stop.
    pub drain_timeout: Duration,
    /// How often in a row a job may be lost with its worker. A job that was lost more often has
    /// failed.
    pub crash_limit: u32,
    /// The rules for jobs that say nothing themselves.
    pub defaults: JobOptions,
    /// The rules for single job names. The worker uses them instead of `defaults`.
    pub jobs: BTreeMap<JobName, JobOptions>,
    /// What ends the worker by itself.
    pub lifetime: Lifetime,
}

impl WorkerSettings {
    fn rules(&self, name: &JobName) -> &JobOptions {
        self.jobs.get(name).unwrap_or(&self.defaults)
    }

    fn order(&self, lease: &Lease, scale: LimitScale, trace: Option<TraceContext>) -> RunOrder {
        let no_retry_exit_codes = self.no_retry_exit_codes(lease.job());
        let mut job = Job::clone(lease.job());
        job.options.fill_run_options(self.rules(&job.name));
        let options = &job.options;
        RunOrder {
            attempt: lease.attempt(),
            timeout: options.timeout.map(|limit| longer(limit, scale.timeout)),
            grace: options.grace.unwrap_or(Duration::from_secs(10)),
            memory_bytes: options.memory_bytes.map(|limit| more(limit, scale.memory)),
            no_retry_exit_codes,
            validity: lease.validity().cloned(),
            results_before: lease.results_before().clone(),
            start_log: None,
            inputs: None,
            trace,
            body: lease.body().clone(),
            job: Arc::new(job),
        }
    }

    /// The names of the queues that it serves.
    fn served(&self) -> Vec<QueueName> {
        match self.queues.is_empty() {
            true => vec![self.default_queue.clone()],
            false => self.queues.iter().map(|share| share.queue.clone()).collect(),
        }
    }

    /// These needs, with what they leave open filled in from the rules for the name.
    fn needs(&self, name: &JobName, mut needs: Needs) -> Needs {
        let rules = self.rules(name);
        needs.cores = needs.cores.or(rules.cores);
        needs.memory_bytes = needs.memory_bytes.or(rules.memory_bytes);
        if let (true, Some(require)) = (needs.require.is_empty(), &rules.require) {
            needs.require = require.clone();
        }
        if let (true, Some(resources)) = (needs.resources.is_empty(), &rules.resources) {
            needs.resources = resources.clone();
        }
        needs
    }

    fn policy(&self, job: &Job) -> RetryPolicy {
        RetryPolicy {
            attempts: job.options.attempts,
            backoff: job.options.backoff.clone(),
            no_retry_exit_codes: self.no_retry_exit_codes(job),
        }
    }

    fn no_retry_exit_codes(&self, job: &Job) -> Vec<u8> {
        let rules = self.rules(&job.name);
        [&job.options, rules]
            .into_iter()
            .flat_map(|options| options.no_retry_exit_codes.iter().flatten().copied())
            .collect()
    }
}

fn longer(limit: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(limit.as_secs_f64() * factor)
        .map_or(JobOptions::MAX_DURATION, |longer| longer.clamp(Duration::from_millis(1), JobOptions::MAX_DURATION))
}

fn more(bytes: u64, factor: f64) -> u64 {
    // The product of floats loses whole bytes only far above this bound.
    ((bytes as f64 * factor) as u64).clamp(1 << 20, 1 << 50)
}

/// A worker's ports and parts.
#[derive(Clone)]
pub struct Worker {
    /// The queue that the worker claims jobs from.
    pub source: Arc<dyn JobSource>,
    /// The event log that the worker writes to.
    pub sink: Arc<dyn EventSink>,
    /// Starts and supervises the processes of attempts.
    pub runner: Arc<Runner>,
    /// The cores, divided into slots for attempts.
    pub slots: Arc<Slots>,
    /// Counts the attempts that run at the same time, here and in other workers of this host.
    pub gauge: RunningGauge,
    /// The clock that all times of events and reports come from.
    pub clock: Clock,
    /// Set once the worker claims jobs from the queue. From then on it takes them as they come.
    pub claiming: Arc<SetOnce<()>>,
    /// The rules for failures by category. `None` without rules.
    pub policies: Option<Arc<Policies>>,
    /// Whether the guard lives. Without one the worker takes no jobs.
    pub guard: Presence,
    /// Whether the worker can start processes. While it can't, it takes no jobs.
    pub health: Arc<Health>,
    /// Keeps the files of attempts. `None` where there is no store for them.
    pub files: Option<Arc<FileKeeper>>,
    /// Where the inputs of jobs are; likewise.
    pub artifacts: Option<Arc<dyn ArtifactStore>>,
    /// Makes the spans of attempts.
    pub traces: Traces,
    /// The settings of this worker.
    pub settings: Arc<WorkerSettings>,
}

/// What the parts of one running worker share.
struct WorkerContext {
    worker: Worker,
    recorder: Recorder,
    prefetch: Arc<Prefetch>,
    quarantine: Quarantine,
    elsewhere: Elsewhere,
    placement: Arc<WorkerPlacement>,
    allowance: Arc<Allowance>,
    /// The tasks of the attempts, one for each lease.
    attempts: TaskTracker,
    /// Cancelled when the worker must stop running jobs and give them back.
    give_back: CancellationToken,
}

impl Worker {
    /// Works until `stop`. Then the worker takes nothing new and lets running jobs finish until the
    /// drain timeout (or `kill`). It stops the rest, gives them back without spending an attempt,
    /// and says farewell to the queue.
    ///
    /// # Errors
    /// When the queue refuses for a reason that does not pass, or the event log still takes nothing
    /// at the end.
    pub async fn run(self, stop: CancellationToken, kill: CancellationToken) -> Result<(), QueueError> {
        let (worker, tasks) = (self.clone(), TaskTracker::new());
        let drain = stop.child_token();
        // Cancelled when the worker takes nothing new, whether or not what runs has a deadline.
        let closed = drain.child_token();
        let heart_stop = CancellationToken::new();
        let placement = Arc::new(WorkerPlacement::new(self.settings.clone(), self.runner.clone(), self.slots.clone()));
        let heart = tasks.spawn(heartbeat::beat(
            self.clone(),
            placement.clone(),
            drain.clone(),
            closed.clone(),
            heart_stop.clone(),
        ));
        if let Some(max_time) = self.settings.lifetime.max_time {
            let (drain, heart_stop) = (drain.clone(), heart_stop.clone());
            tasks.spawn(async move {
                if heart_stop.run_until_cancelled(tokio::time::sleep(max_time)).await.is_some() {
                    tracing::info!(?max_time, "the worker's time is over");
                    drain.cancel();
                }
            });
        }
        if let Err(error) = self.runner.probe().await {
            self.health.note(error.to_string());
        }
        let (health, runner, mended) = (self.health.clone(), self.runner.clone(), heart_stop.clone());
        tasks.spawn(async move { mended.run_until_cancelled(health.mend(&runner)).await });
        if let Some(policies) = &self.policies {
            stop.run_until_cancelled(policies.prepare()).await;
            tasks.spawn(policies.clone().follow(heart_stop.clone()));
        }
        let Some(claims) = worker.claim(&placement, &drain).await? else {
            heart_stop.cancel();
            return Ok(());
        };
        // This fails only when a caller runs the same worker twice, which is then claiming all the
        // same.
        let _ = worker.claiming.set(());
        let give_up = kill.child_token();
        let context = Arc::new(WorkerContext {
            recorder: Recorder::new(self.sink.clone(), give_up.clone()),
            prefetch: Arc::new(Prefetch::new(self.slots.count())),
            quarantine: Quarantine::new(),
            elsewhere: Elsewhere::default(),
            placement,
            allowance: Allowance::new(self.settings.lifetime.max_jobs),
            attempts: TaskTracker::new(),
            give_back: CancellationToken::new(),
            worker: self,
        });
        tracing::info!(worker = %context.worker.settings.id, slots = context.worker.slots.count(), "working");
        take_leases(&context, claims, &drain, &closed).await;
        finish(&context, &kill, &give_up).await;
        heart_stop.cancel();
        // A panic of the heartbeat has been reported already; the farewell matters more.
        let _ = heart.await;
        if let Err(error) = worker.source.farewell(&worker.settings.id).await {
            tracing::warn!(%error, "could not say farewell; the others will notice");
        }
        tracing::info!(worker = %worker.settings.id, "ended");
        if context.recorder.gave_up() {
            let message = "the ends of some attempts could not be written down; their jobs will run again";
            return Err(QueueError::new(QueueErrorKind::Unavailable, message));
        }
        Ok(())
    }

    /// Starts claiming, and tries again while the queue can't be reached. `None` when `stop` comes
    /// first.
    async fn claim(
        &self,
        placement: &Arc<WorkerPlacement>,
        stop: &CancellationToken,
    ) -> Result<Option<Claims>, QueueError> {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let options = ClaimOptions {
                worker: self.settings.id.clone(),
                concurrency: self.slots.count(),
                placement: placement.clone(),
                queues: self.settings.queues.clone(),
                order: self.settings.queue_order,
            };
            match self.source.claim(options).await {
                Ok(claims) => return Ok(Some(claims)),
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "the queue can't be reached; trying again");
                    if stop.run_until_cancelled(tokio::time::sleep(waits.next_wait())).await.is_none() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Takes leases and starts a task for each, until asked to drain or the worker's lifetime is over: in a burst when there is
/// nothing to do.
async fn take_leases(
    context: &Arc<WorkerContext>,
    mut claims: Claims,
    drain: &CancellationToken,
    closed: &CancellationToken,
) {
    let attempts = &context.attempts;
    let allowance = &context.allowance;
    let burst = context.worker.settings.lifetime.burst;
    let mut guard = context.worker.guard.clone();
    let (mut health, mut suspects) = (context.worker.health.follow(), context.quarantine.follow());
    loop {
        if allowance.is_used_up() {
            tracing::info!("the worker has begun as many jobs as it may");
            break;
        }
        let can_start = guard.is_there() && health.borrow_and_update().is_none();
        let is_open = can_start && *suspects.borrow_and_update() == 0 && !context.elsewhere.is_aside();
        let leases = allowance.bound(context.prefetch.leases(), context.worker.slots.count());
        claims.set_concurrency(if is_open { leases } else { 0 });
        let idle = async {
            match burst {
                // While the worker can't start processes, it may run nothing although there is
                // something to do.
                Some(quiet) if can_start => {
                    attempts.close();
                    attempts.wait().await;
                    tokio::time::sleep(quiet).await;
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = drain.cancelled() => break,
            () = idle => break,
            () = context.prefetch.changed() => {}
            () = context.elsewhere.changed() => {}
            () = allowance.changed() => {}
            () = guard.changed() => {}
            // The senders live as long as the worker.
            Ok(()) = health.changed() => {}
            Ok(()) = suspects.changed() => {}
            lease = claims.next() => match lease {
                Some(lease) => match allowance.take() {
                    Some(permit) => { attempts.spawn(attempt::run(context.clone(), lease, permit)); }
                    // Dropping it gives it back.
                    None => drop(lease),
                },
                None => break,
            },
        }
    }
    closed.cancel();
    claims.close().await;
    if allowance.is_used_up() {
        // The last jobs may take as long as the others. Only a worker that was asked to end has a deadline.
        attempts.close();
        drain.run_until_cancelled(attempts.wait()).await;
    }
}

/// Lets running attempts end, then stops what is left and gives it back.
async fn finish(context: &Arc<WorkerContext>, kill: &CancellationToken, give_up: &CancellationToken) {
    /// How long a log that takes no events is waited for beyond the drain timeout.
    const LAST_WORDS: Duration = Duration::from_secs(10);
    let attempts = &context.attempts;
    attempts.close();
    if !attempts.is_empty() {
        tracing::info!(running = attempts.len(), "draining");
    }
    tokio::select! {
        () = attempts.wait() => return,
        () = tokio::time::sleep(context.worker.settings.drain_timeout) => {}
        () = kill.cancelled() => {}
    }
    tracing::warn!(running = attempts.len(), "the drain timeout is over; stopping jobs and giving them back");
    context.give_back.cancel();
    // Each attempt ends within its own grace period after this, if only its end can be written down.
    tokio::select! {
        () = attempts.wait() => return,
        () = tokio::time::sleep(LAST_WORDS) => give_up.cancel(),
        () = kill.cancelled() => {}
    }
    attempts.wait().await;
}
