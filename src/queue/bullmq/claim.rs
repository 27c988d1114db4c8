//! Claims jobs from BullMQ and hands them to the worker as leases.
//!
//! BullMQ's worker calls a closure for each job and settles it by what the closure returns. Here the closure hands the
//! job out and waits for the verdict:
//!
//! ```text
//!   bullmq::Worker ──job──> process ──lease──> Claims ──> our worker ──verdict──> settle ──answer──> bullmq::Worker
//! ```
//! The crate's own renewal of locks is switched off: it does not look at the answer (see [`super::renew`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bullmq::types::{KeepJobs, RemoveOnFinish};
use bullmq::worker::WorkerEvent;
use bullmq::{MetricsOptions, Worker, WorkerOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::super::lease::CHANNEL;
use super::super::{ClaimOptions, Claims, Lease, ParentResults, Placement, Placing, QueueRetention};
use super::connect::BullClient;
use super::format::Stored;
use super::hand_on::HandOn;
use super::limiter::{ClaimLimiter, Share};
use super::put_back::{mend_options, put_back_unstarted};
use super::settle::LeaseDriver;
use super::{Inner, announced, counts, foreign_jobs, format, options, parents, schedules, signals, telemetry};
use crate::domain::{AttemptNumber, Job, Needs, Timestamp, WorkerId};
use crate::reconnect::ReconnectBackoff;

/// A claimer that waits looks again after this long, should a wake-up get lost.
const FALLBACK: Duration = Duration::from_secs(1);
/// How often is looked, when claiming ends, whether every job that is out has been settled.
const SETTLED: Duration = Duration::from_millis(100);
/// Milliseconds that the answer on its way may take when claiming ends: as long as the crate waits for any. A job that
/// comes with it is put back; with a later one it waits for its lease to run out.
const LAST_ANSWER: u64 = 10_000;
/// Minutes for which BullMQ's own tools are told how many jobs ended: two weeks.
const METRICS: usize = 14 * 24 * 60;
/// How often a job's options are mended before it is taken as it is.
const MENDED: u32 = 3;
/// BullMQ counts stalls, but Jobber's own crash limit decides on them.
const NO_LIMIT: u32 = u32::MAX;

/// The state of the closure that BullMQ's worker calls for each job.
struct Claim {
    inner: Arc<Inner>,
    limiter: Arc<ClaimLimiter>,
    placement: Arc<dyn Placement>,
    hand_on: HandOn,
    stop: CancellationToken,
    /// The way of leases to the worker, taken away when claiming ends.
    leases: Mutex<Option<mpsc::Sender<Lease>>>,
    /// By job id, the sender that tells a lease that BullMQ's worker has ended its job.
    settling: Mutex<HashMap<String, oneshot::Sender<()>>>,
}

/// Starts to take jobs, as soon as Redis is there. The worker serves no other queue, and holds so many of this one's jobs
/// at `most`. Requests to drain reach it through the default queue.
pub(super) fn start(inner: &Arc<Inner>, default: &Inner, options: ClaimOptions, most: Option<usize>) -> Claims {
    let (sender, leases) = mpsc::channel(CHANNEL);
    let (concurrency, limit) = watch::channel(options.concurrency);
    let stop = CancellationToken::new();
    let limiter = Arc::new(ClaimLimiter::new(options.worker, limit, Share::All(most)));
    default.signals.add_claim(&limiter);
    take_jobs(inner, limiter, options.placement, sender, stop.clone());
    Claims::new(leases, concurrency, stop)
}

/// Starts to take jobs of one queue, as many as the limiter says.
pub(super) fn take_jobs(
    inner: &Arc<Inner>,
    limiter: Arc<ClaimLimiter>,
    placement: Arc<dyn Placement>,
    leases: mpsc::Sender<Lease>,
    stop: CancellationToken,
) {
    inner.renewer.start();
    let claim = Claim {
        inner: inner.clone(),
        limiter,
        placement,
        hand_on: HandOn::default(),
        stop: stop.clone(),
        leases: Mutex::new(Some(leases)),
        settling: Mutex::default(),
    };
    inner.tasks.spawn(run(Arc::new(claim), stop));
}

/// Hears the crate's worker and passes on how many jobs are wanted. After `stop` it takes no job more, but
/// goes on until each one that is out has been settled, and then closes the crate's worker.
async fn run(claim: Arc<Claim>, stop: CancellationToken) {
    let starting = async {
        let redis = claim.inner.link.wait().await?;
        if let Err(error) = counts::note_starts(&claim.inner, &redis).await {
            tracing::warn!(%error, "attempts that an older worker lost may be counted as never started");
        }
        Some((redis, start_worker(&claim).await))
    };
    let started = tokio::select! {
        started = starting => started,
        () = stop.cancelled() => None,
    };
    let Some((redis, worker)) = started else {
        claim.stop_handing_out();
        return;
    };
    let limiter = &claim.limiter;
    let mut concurrency = limiter.concurrency.clone();
    let mut ending = false;
    loop {
        limiter.apply();
        tokio::select! {
            // Always drained: the channel has no bound.
            event = worker.next_event() => match event {
                Some(event) => claim.on_event(&event),
                None => break,
            },
            changed = concurrency.changed(), if !ending => {
                if changed.is_err() {
                    limiter.close();
                }
                limiter.wake_fetches();
            }
            () = limiter.changed.notified() => {}
            () = stop.cancelled(), if !ending => {
                claim.stop_handing_out();
                limiter.close();
                ending = true;
            }
            () = tokio::time::sleep(SETTLED), if ending => {
                if worker.active_count().await == 0 {
                    break;
                }
            }
        }
    }
    // No job is handed out any more, but one may still be on its way here.
    if let Err(error) = worker.close(LAST_ANSWER).await {
        tracing::debug!(%error, "a claim was not closed in good order");
    }
    drop(worker);
    wake_another(&claim.inner, &redis).await;
}

/// Wakes another worker: one that stops may have eaten the marker that was meant for the taker
/// of the next job.
pub(super) async fn wake_another(inner: &Inner, redis: &BullClient) {
    let mut add = redis::cmd("ZADD");
    add.arg(inner.keys.bull("marker")).arg(0).arg("0");
    if let Err(error) = inner.link.call(redis.queue.connection().cmd::<()>(&mut add)).await {
        tracing::debug!(%error, "no other worker was woken");
    }
}

/// Starts BullMQ's worker, trying on until Redis lets it.
async fn start_worker(claim: &Arc<Claim>) -> Arc<Worker> {
    let mut waits = ReconnectBackoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let shared = claim.clone();
        let processor = move |job: bullmq::Job, _cancelled| process(shared.clone(), job);
        let options = worker_options(&claim.inner, &claim.limiter.worker_id, claim.limiter.limit());
        let error = match Worker::with_options(claim.inner.settings.queue().as_str(), processor, options).await {
            Ok(worker) => {
                let worker = Arc::new(worker);
                let _ = claim.limiter.worker.set(Arc::downgrade(&worker));
                claim.limiter.apply();
                match worker.run().await {
                    Ok(()) => {
                        if let Share::Dealt(slots, queue) = &claim.limiter.share {
                            slots.started(*queue);
                        }
                        return worker;
                    }
                    Err(e) => e,
                }
            }
            Err(e) => e,
        };
        tracing::warn!(%error, "no jobs can be taken yet; trying again");
        tokio::time::sleep(waits.next_wait()).await;
    }
}

fn worker_options(inner: &Inner, worker: &WorkerId, limit: usize) -> WorkerOptions {
    let settings = &inner.settings;
    let keep = |retention: &QueueRetention| {
        RemoveOnFinish::Options(KeepJobs {
            age: retention.age.map(|age| age.as_secs()),
            count: retention.count.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            limit: None,
        })
    };
    let mut options = WorkerOptions::new()
        .connection(inner.link.target().options.clone())
        .prefix(settings.prefix.clone())
        .name(worker.as_str())
        .concurrency(limit.max(1))
        .lock_duration(settings.common.lease)
        .stalled_interval(settings.common.lease / 3)
        .max_stalled_count(NO_LIMIT)
        .drain_delay(FALLBACK)
        .run_retry_delay(Duration::from_millis(500))
        .skip_lock_renewal()
        .metrics(MetricsOptions { max_data_points: METRICS })
        .manual_start();
    if settings.common.completed.age.is_some() || settings.common.completed.count.is_some() {
        options = options.remove_on_complete(keep(&settings.common.completed));
    }
    if settings.common.failed.age.is_some() || settings.common.failed.count.is_some() {
        options = options.remove_on_fail(keep(&settings.common.failed));
    }
    options
}

impl Claim {
    fn settling(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.settling.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn on_event(&self, event: &WorkerEvent) {
        match event {
            WorkerEvent::Completed { job_id, .. } | WorkerEvent::Failed { job_id, .. } => {
                let settled = self.settling().remove(job_id);
                if let Some(done) = settled {
                    let _ = done.send(());
                } else if let (WorkerEvent::Failed { .. }, Some(leases)) = (event, self.sender()) {
                    self.inner.tasks.spawn(parents::hand_out_failed(self.inner.clone(), leases, job_id.clone()));
                }
                self.inner.watch.wake();
            }
            WorkerEvent::Error(error) => tracing::warn!(error, "the queue's Redis did not do what was asked"),
            WorkerEvent::Stalled { job_id } => {
                tracing::info!(job = job_id, "the job's worker was not heard of; it goes to another");
            }
            WorkerEvent::Drained => {
                if let Share::Dealt(slots, queue) = &self.limiter.share {
                    slots.drained(*queue);
                }
            }
            WorkerEvent::Ready
            | WorkerEvent::Closed
            | WorkerEvent::Active { .. }
            | WorkerEvent::Progress { .. }
            | WorkerEvent::Paused
            | WorkerEvent::Resumed => {}
        }
    }

    /// Why the job is handed on, if it is: to another worker, or until what it needs is free here. One job may wait for
    /// that here, so that it is the next to have it.
    fn misplaced(&self, job: &Job) -> Option<Placing> {
        let needs = Needs::of(&job.name, &job.options);
        match self.placement.judge(self.inner.settings.queue(), &needs) {
            placing @ (Placing::Elsewhere | Placing::Nowhere) => Some(placing),
            Placing::Refused => None,
            Placing::Here => {
                let free = self.placement.free();
                let is_held = free.is_wanted_by(&needs) && !free.covers(&needs);
                (is_held && self.placement.is_awaited()).then_some(Placing::Here)
            }
        }
    }

    fn stop_handing_out(&self) {
        self.leases.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }

    fn sender(&self) -> Option<mpsc::Sender<Lease>> {
        self.leases.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Puts a job off that this worker can't run now, without an attempt.
async fn hand_on(
    claim: &Arc<Claim>,
    redis: &BullClient,
    stored: &bullmq::Job,
    job: &Job,
    placing: Placing,
    round: u32,
) {
    let pause = claim.hand_on.pause(placing, round);
    put_back_unstarted(&claim.inner, redis, stored, Some(pause)).await;
    if placing != Placing::Here
        && let Some(jobs) = claim.hand_on.news()
    {
        tracing::warn!(
            jobs,
            queue = %claim.inner.settings.queue(),
            last = %job.id,
            name = %job.name,
            "this worker can't run some jobs of a queue that it serves, and hands them on; a queue of their own, served by \
             the workers that can run them, spares them the detour"
        );
    }
    if claim.hand_on.yields(placing) {
        let (limiter, stop) = (claim.limiter.clone(), claim.stop.clone());
        claim.inner.tasks.spawn(async move {
            tokio::select! {
                () = limiter.yield_to_others(pause) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// The closure: hands a job out and answers with its verdict.
async fn process(claim: Arc<Claim>, job: bullmq::Job) -> Result<serde_json::Value, bullmq::Error> {
    let slot = match &claim.limiter.share {
        Share::All(_) => None,
        Share::Dealt(slots, queue) => {
            let Some(slot) = slots.admit(*queue).await else {
                if let Ok(redis) = claim.inner.link.get().await {
                    put_back_unstarted(&claim.inner, &redis, &job, None).await;
                }
                slots.block(*queue).await;
                claim.limiter.apply();
                return Err(bullmq::Error::Delayed);
            };
            claim.limiter.apply();
            Some(slot)
        }
    };
    let answer = hand_out(&claim, &job).await;
    if let Some(slot) = slot {
        slot.give_back().await;
    }
    claim.limiter.apply();
    answer
}

async fn hand_out(claim: &Arc<Claim>, stored: &bullmq::Job) -> Result<serde_json::Value, bullmq::Error> {
    let inner = &claim.inner;
    let (hash, trace) = tokio::join!(foreign_jobs::read_again(inner, stored), telemetry::of_taken(inner, stored.id()));
    let hash = match hash {
        Ok(hash) => hash,
        Err(error) => {
            tracing::warn!(job = stored.id(), %error, "a job was taken but can't be looked at");
            return Err(bullmq::Error::Delayed);
        }
    };
    let written = hash
        .as_ref()
        .map_or_else(|| Stored::of(stored), |hash| Stored::of_hash(stored.id(), &hash.fields))
        .traced(trace);
    let read = match hash.as_ref().and_then(|hash| hash.no_text) {
        Some(field) => Err(format!("{field}: is no UTF-8")),
        None => format::read(&written, &inner.settings),
    };
    let (job, unusable) = match read {
        Ok(job) => (job, None),
        Err(why) => {
            let why = format!("this job can't be run by jobber: {why}");
            let Some(job) = format::outline(&written) else {
                return Err(foreign_jobs::refuse(inner, stored.id(), why).await);
            };
            (job, Some(why))
        }
    };
    let Some(token) = stored.token().map(str::to_owned) else {
        return Err(bullmq::Error::WorkerClosed);
    };
    let (redis, counts) = match counts::of_taken(inner, stored).await {
        Ok(known) => known,
        Err(error) => {
            // Neither handed out nor settled: the lease expires, and the job goes on from there.
            tracing::warn!(job = stored.id(), %error, "a job was taken but can't be looked at");
            return Err(bullmq::Error::Delayed);
        }
    };
    if let Some(opts) = hash.as_ref().and_then(|hash| options::repaired(hash.fields.get("opts")?))
        && unusable.is_none()
        && counts.unstarted < MENDED
    {
        mend_options(inner, &redis, stored, &opts).await;
        return Err(bullmq::Error::Delayed);
    }
    if let Some(schedule) = stored.repeat_job_key()
        && counts.unstarted < schedules::MOST_PUT_BACKS
    {
        match schedules::is_put_back_for_schedule(inner, &redis, stored, schedule).await {
            Ok(false) => {}
            Ok(true) => {
                put_back_unstarted(inner, &redis, stored, None).await;
                return Err(bullmq::Error::Delayed);
            }
            // The crate makes the next job when this one has ended.
            Err(error) => tracing::debug!(schedule, %error, "a schedule was not looked at"),
        }
    }
    let Some(leases) = claim.sender().filter(|_| claim.limiter.limit() > 0) else {
        put_back_unstarted(inner, &redis, stored, None).await;
        return Err(bullmq::Error::Delayed);
    };
    if unusable.is_none()
        && let Some(placing) = claim.misplaced(&job.job)
    {
        hand_on(claim, &redis, stored, &job.job, placing, counts.unstarted).await;
        return Err(bullmq::Error::Delayed);
    }
    let parents = match unusable {
        Some(why) => Ok(ParentResults { barred: Some(why), ..ParentResults::default() }),
        None => parents::results(inner, &redis, &job.job).await,
    };
    let parents = match parents {
        Ok(parents) => parents,
        Err(error) => {
            tracing::warn!(job = stored.id(), %error, "a job was taken but can't be looked at");
            return Err(bullmq::Error::Delayed);
        }
    };
    let (loss, losses) = watch::channel(None);
    let loss = Arc::new(loss);
    // The lease lasts from when the job was asked for, which is what BullMQ notes as its beginning.
    let asked_at = stored.processed_on().and_then(|ms| i64::try_from(ms).ok()).map(Timestamp::from_millis);
    let age = asked_at.map_or(Duration::ZERO, |at| inner.clock.now().since(at));
    let validity = inner.renewer.add(stored.id(), &token, loss.clone(), age);
    if inner.signals.add_lease(stored.id(), &token, loss.clone())
        && let Err(error) = inner.link.call(signals::check_cancel_record(inner, &redis, stored.id())).await
    {
        tracing::debug!(job = stored.id(), %error, "whether a job is to be stopped is found out later");
    }
    let is_announced = announced::is_announced(inner, &redis, &job.job.id).await;
    let attempt = AttemptNumber(counts.started);
    let (driver, handle) = LeaseDriver::new(inner.clone(), redis, stored.clone(), token.clone(), counts, loss);
    let lease = Lease::new(job, attempt, counts.finished, counts.crashes, losses, handle);
    let lease = lease.valid(validity).with_parents(parents).announced(is_announced);
    // A lease that the worker does not take any more is dropped here, and so given back.
    let _ = leases.send(lease).await;
    drop(leases);
    let (answer, done) = driver.run(&claim.limiter).await;
    inner.signals.remove_lease(stored.id(), &token);
    inner.renewer.remove(&token);
    if let Err(bullmq::Error::Delayed) = answer {
        let _ = done.send(());
    } else {
        // If BullMQ's worker never tells of the end, the drop of the sender does.
        claim.settling().insert(stored.id().to_owned(), done);
    }
    answer
}
