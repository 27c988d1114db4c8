//! The worker: claims jobs, runs each on its own cores, records what happened.
//!
//! ```text
//!   claim ──> slot ──> [attempt_started] ──> process ──> [attempt_finished, finished] ──> settle
//!                              └─ refused ──> [attempt_withdrawn] ──> given back
//! ```
//! The events are durable before the step that follows them: a crash in between leaves a lease to lapse and a history
//! that the next attempt completes. A job that waits its turn has not started; the start of one that has its slot is
//! written while its process is prepared, and the process itself looks last whether the lease still holds.

mod attempt;
mod elsewhere;
mod health;
mod heartbeat;
mod output_publisher;
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

use crate::domain::{Clock, Job, JobName, JobOptions, LimitScale, RetryPolicy, WorkerId};
use crate::events::EventSink;
use crate::queue::{ClaimOptions, Claims, JobSource, Lease, QueueError, QueueErrorKind};
use crate::reconnect::ReconnectBackoff;
use crate::runner::{Presence, RunOrder, Runner, RunningGauge, Slots};
use elsewhere::Elsewhere;
pub use health::Health;
pub use heartbeat::EVERY as HEARTBEAT;
pub use policies::Policies;
use prefetch::Prefetch;
use quarantine::Quarantine;
use recorder::Recorder;

/// What a worker is told.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// This run of the worker.
    pub id: WorkerId,
    /// The machine's name.
    pub host: String,
    /// How long running jobs may go on once the worker has been asked to stop.
    pub drain_timeout: Duration,
    /// A job that was lost with its worker more often than this in a row has failed.
    pub crash_limit: u32,
    /// Rules for jobs that say nothing.
    pub defaults: JobOptions,
    /// The same for single job names.
    pub jobs: BTreeMap<JobName, JobOptions>,
    /// End when the queue has had nothing to do for this long.
    pub burst: Option<Duration>,
}

impl WorkerSettings {
    fn rules(&self, name: &JobName) -> &JobOptions {
        self.jobs.get(name).unwrap_or(&self.defaults)
    }

    fn order(&self, lease: &Lease, stretch: LimitScale) -> RunOrder {
        let job = lease.job();
        let rules = self.rules(&job.name);
        RunOrder {
            job: job.clone(),
            attempt: lease.attempt(),
            timeout: job.options.timeout.or(rules.timeout).map(|limit| longer(limit, stretch.timeout)),
            grace: job.options.grace.or(rules.grace).unwrap_or(Duration::from_secs(10)),
            memory_bytes: job.options.memory_bytes.or(rules.memory_bytes).map(|limit| more(limit, stretch.memory)),
            no_retry_exit_codes: self.no_retry_exit_codes(job),
            validity: lease.validity().cloned(),
            results_before: lease.results_before().clone(),
            start_log: None,
            body: lease.body().clone(),
        }
    }

    fn cores(&self, job: &Job) -> Option<u32> {
        job.options.cores.or(self.rules(&job.name).cores)
    }

    fn policy(&self, job: &Job) -> RetryPolicy {
        RetryPolicy {
            attempts: job.options.attempts,
            backoff: job.options.backoff.clone(),
            no_retry_exit_codes: self.no_retry_exit_codes(job),
        }
    }

    fn no_retry_exit_codes(&self, job: &Job) -> Vec<u8> {
        let mut codes = job.options.no_retry_exit_codes.clone();
        codes.extend(&self.rules(&job.name).no_retry_exit_codes);
        codes
    }
}

fn longer(limit: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(limit.as_secs_f64() * factor)
        .map_or(JobOptions::MAX_DURATION, |longer| longer.clamp(Duration::from_millis(1), JobOptions::MAX_DURATION))
}

fn more(bytes: u64, factor: f64) -> u64 {
    // Made up of floats, but bounded far below where they lose whole bytes.
    ((bytes as f64 * factor) as u64).clamp(1 << 20, 1 << 50)
}

/// What a worker works with.
#[derive(Clone)]
pub struct Worker {
    /// Where jobs come from.
    pub source: Arc<dyn JobSource>,
    /// Where events go.
    pub sink: Arc<dyn EventSink>,
    /// Runs one attempt.
    pub runner: Arc<Runner>,
    /// The cores.
    pub slots: Arc<Slots>,
    /// Counts what runs at the same time.
    pub gauge: RunningGauge,
    /// Tells the time.
    pub clock: Clock,
    /// Set once the queue has been asked for jobs: from then on they are taken as they come.
    pub claiming: Arc<SetOnce<()>>,
    /// What follows on failures of a category.
    pub policies: Option<Arc<Policies>>,
    /// Whether there is a guard: without one nothing is taken.
    pub guard: Presence,
    /// Whether processes can be started: while they can't be, nothing is taken.
    pub health: Arc<Health>,
    /// What it was told.
    pub settings: Arc<WorkerSettings>,
}

/// What the parts of one running worker share.
struct WorkerContext {
    worker: Worker,
    recorder: Recorder,
    prefetch: Arc<Prefetch>,
    quarantine: Quarantine,
    elsewhere: Elsewhere,
    /// One task for each lease.
    attempts: TaskTracker,
    /// Cancelled when running jobs must be stopped and given back.
    give_back: CancellationToken,
}

impl Worker {
    /// Works until `stop`: then takes nothing new, lets running jobs finish until the drain timeout (or `kill`), stops
    /// the rest, gives them back without spending an attempt, and says farewell.
    ///
    /// # Errors
    /// When the queue refuses for a reason that does not pass, or the event log takes nothing to the last.
    pub async fn run(self, stop: CancellationToken, kill: CancellationToken) -> Result<(), QueueError> {
        let (worker, tasks) = (self.clone(), TaskTracker::new());
        let drain = stop.child_token();
        let heart_stop = CancellationToken::new();
        let heart = tasks.spawn(heartbeat::beat(self.clone(), drain.clone(), heart_stop.clone()));
        if let Err(error) = self.runner.probe().await {
            self.health.note(error.to_string());
        }
        let (health, runner, mended) = (self.health.clone(), self.runner.clone(), heart_stop.clone());
        tasks.spawn(async move { mended.run_until_cancelled(health.mend(&runner)).await });
        if let Some(policies) = &self.policies {
            stop.run_until_cancelled(policies.prepare()).await;
            tasks.spawn(policies.clone().follow(heart_stop.clone()));
        }
        let Some(claims) = worker.claim(&stop).await? else {
            heart_stop.cancel();
            return Ok(());
        };
        // Set before only when somebody runs the same worker twice, which is then claiming all the same.
        let _ = worker.claiming.set(());
        let give_up = kill.child_token();
        let context = Arc::new(WorkerContext {
            recorder: Recorder::new(self.sink.clone(), give_up.clone()),
            prefetch: Arc::new(Prefetch::new(self.slots.count())),
            quarantine: Quarantine::new(),
            elsewhere: Elsewhere::default(),
            attempts: TaskTracker::new(),
            give_back: CancellationToken::new(),
            worker: self,
        });
        tracing::info!(worker = %context.worker.settings.id, slots = context.worker.slots.count(), "working");
        take_leases(&context, claims, &drain).await;
        finish(&context, &kill, &give_up).await;
        heart_stop.cancel();
        // A heart that panicked has been reported; the farewell matters more.
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

    /// Starts claiming; tries again while the queue can't be reached. `None` when asked to stop meanwhile.
    async fn claim(&self, stop: &CancellationToken) -> Result<Option<Claims>, QueueError> {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let options = ClaimOptions {
                worker: self.settings.id.clone(),
                concurrency: self.slots.count(),
                max_cores: self.slots.total_cores(),
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

/// Takes leases and starts a task for each, until asked to drain or, in a burst, until there is nothing to do.
async fn take_leases(context: &Arc<WorkerContext>, mut claims: Claims, drain: &CancellationToken) {
    let attempts = &context.attempts;
    let burst = context.worker.settings.burst;
    let mut guard = context.worker.guard.clone();
    let (mut health, mut suspects) = (context.worker.health.follow(), context.quarantine.follow());
    loop {
        let can_start = guard.is_there() && health.borrow_and_update().is_none();
        let is_open = can_start && *suspects.borrow_and_update() == 0 && !context.elsewhere.is_aside();
        claims.set_concurrency(if is_open { context.prefetch.leases() } else { 0 });
        let idle = async {
            match burst {
                // While nothing can be started, that nothing runs does not mean that there is nothing to do.
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
            () = guard.changed() => {}
            // Their senders live as long as the worker.
            Ok(()) = health.changed() => {}
            Ok(()) = suspects.changed() => {}
            lease = claims.next() => match lease {
                Some(lease) => { attempts.spawn(attempt::live(context.clone(), lease)); }
                None => break,
            },
        }
    }
    claims.close().await;
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
