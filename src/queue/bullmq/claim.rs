//! Claims jobs from BullMQ and hands them to the worker as leases.
//!
//! BullMQ's worker calls a closure for each job and settles it by what the closure returns. Here the closure lends the
//! job out and waits for the verdict:
//!
//! ```text
//!   bullmq::Worker ──job──> take ──lease──> Claims ──> our worker ──verdict──> settle ──answer──> bullmq::Worker
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

use super::super::{ClaimOptions, Claims, Lease, ParentResults, QueueRetention};
use super::connect::BullClient;
use super::format::Stored;
use super::lease::{self, LeaseDriver};
use super::limiter::ClaimLimiter;
use super::{Inner, after, announced, foreign_failures, format, hash, odd, options, schedules, signals};
use crate::domain::{AttemptNumber, Timestamp, WorkerId};
use crate::reconnect::ReconnectBackoff;

/// How many leases may wait in the channel: more only slows a burst down.
const CHANNEL: usize = 256;
/// A claimer that waits looks again after this long, should a wake-up get lost.
const FALLBACK: Duration = Duration::from_secs(1);
/// How long an answer that is on its way may take when claiming ends; a later one costs a lease's time.
const LAST_ANSWER: Duration = Duration::from_millis(300);
/// A job that needs more cores than there are is left alone for this long, growing up to sixteen times as much.
const PUT_OFF: Duration = Duration::from_millis(200);
/// Minutes for which BullMQ's own tools are told how many jobs ended: two weeks.
const METRICS: usize = 14 * 24 * 60;
/// How often a job's options are mended before it is taken as it is.
const MENDED: u32 = 3;
/// BullMQ counts stalls, but Jobber's own crash limit decides on them.
const NO_LIMIT: u32 = u32::MAX;

/// The state of the closure that BullMQ's worker calls for each job.
struct Claim {
    inner: Arc<Inner>,
    gate: Arc<ClaimLimiter>,
    max_cores: u32,
    stop: CancellationToken,
    /// The way of leases to the worker, taken away when claiming ends.
    lend: Mutex<Option<mpsc::Sender<Lease>>>,
    /// By job id, the sender that tells a lease that BullMQ's worker has ended its job.
    settling: Mutex<HashMap<String, oneshot::Sender<()>>>,
}

/// Starts to take jobs, as soon as Redis is there.
pub(super) fn start(inner: &Arc<Inner>, options: ClaimOptions) -> Claims {
    let (lend, leases) = mpsc::channel(CHANNEL);
    let (concurrency, wanted) = watch::channel(options.concurrency);
    let stop = CancellationToken::new();
    let gate = Arc::new(ClaimLimiter::new(options.worker, wanted));
    inner.signals.enlist(&gate);
    inner.renewer.start();
    let claim = Claim {
        inner: inner.clone(),
        gate,
        max_cores: options.max_cores,
        stop: stop.clone(),
        lend: Mutex::new(Some(lend)),
        settling: Mutex::default(),
    };
    inner.tasks.spawn(run(Arc::new(claim), stop.clone()));
    Claims::new(leases, concurrency, stop)
}

async fn run(claim: Arc<Claim>, stop: CancellationToken) {
    let starting = async {
        let redis = claim.inner.link.wait().await?;
        if let Err(error) = lease::note_starts(&claim.inner, &redis).await {
            tracing::warn!(%error, "attempts that an older worker lost may be counted as never started");
        }
        Some((redis, begin(&claim).await))
    };
    let started = tokio::select! {
        started = starting => started,
        () = stop.cancelled() => None,
    };
    let Some((redis, worker)) = started else {
        claim.end();
        return;
    };
    let gate = &claim.gate;
    let mut wanted = gate.wanted.clone();
    let mut ending = None;
    loop {
        gate.apply();
        tokio::select! {
            // Always drained: the channel has no bound.
            event = worker.next_event() => match event {
                Some(event) => claim.hear(&event),
                None => break,
            },
            changed = wanted.changed(), if ending.is_none() => {
                if changed.is_err() {
                    gate.close();
                }
                nudge(&worker, gate);
            }
            () = gate.changed.notified() => {}
            () = stop.cancelled(), if ending.is_none() => {
                claim.end();
                gate.close();
                ending = Some(tokio::time::Instant::now() + LAST_ANSWER);
            }
            () = tokio::time::sleep(LAST_ANSWER / 3), if ending.is_some() => {
                let over = ending.is_some_and(|at| at <= tokio::time::Instant::now());
                if over && worker.active_count().await == 0 {
                    break;
                }
            }
        }
    }
    // No job is lent out any more; BullMQ's worker only waits for news.
    if let Err(error) = worker.close(0).await {
        tracing::debug!(%error, "a claim was not closed in good order");
    }
    drop(worker);
    wake_another(&claim.inner, &redis).await;
}

/// Wakes the loops of BullMQ's worker that wait for room. The crate itself wakes them only if they
/// wait already; a moment later they do.
fn nudge(worker: &Worker, gate: &ClaimLimiter) {
    let wanted = gate.wanted();
    if wanted > 1 {
        worker.set_concurrency(wanted - 1);
        worker.set_concurrency(wanted);
    }
}

/// Wakes another worker: one that stops may have eaten the marker that was meant for the taker
/// of the next job.
async fn wake_another(inner: &Inner, redis: &BullClient) {
    let mut add = redis::cmd("ZADD");
    add.arg(inner.keys.bull("marker")).arg(0).arg("0");
    if let Err(error) = inner.link.call(redis.queue.connection().cmd::<()>(&mut add)).await {
        tracing::debug!(%error, "no other worker was woken");
    }
}

/// Starts BullMQ's worker, trying on until Redis lets it.
async fn begin(claim: &Arc<Claim>) -> Arc<Worker> {
    let mut waits = ReconnectBackoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let shared = claim.clone();
        let process = move |job: bullmq::Job, _cancelled| take(shared.clone(), job);
        let options = worker_options(&claim.inner, &claim.gate.worker_id, claim.gate.wanted());
        let error = match Worker::with_options(&claim.inner.settings.queue, process, options).await {
            Ok(worker) => {
                let worker = Arc::new(worker);
                let _ = claim.gate.worker.set(Arc::downgrade(&worker));
                claim.gate.apply();
                match worker.run().await {
                    Ok(()) => return worker,
                    Err(e) => e,
                }
            }
            Err(e) => e,
        };
        tracing::warn!(%error, "no jobs can be taken yet; trying again");
        tokio::time::sleep(waits.next_wait()).await;
    }
}

fn worker_options(inner: &Inner, worker: &WorkerId, wanted: usize) -> WorkerOptions {
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
        .concurrency(wanted.max(1))
        .lock_duration(settings.lease)
        .stalled_interval(settings.lease / 3)
        .max_stalled_count(NO_LIMIT)
        .drain_delay(FALLBACK)
        .run_retry_delay(Duration::from_millis(500))
        .skip_lock_renewal()
        .metrics(MetricsOptions { max_data_points: METRICS })
        .manual_start();
    if settings.completed.age.is_some() || settings.completed.count.is_some() {
        options = options.remove_on_complete(keep(&settings.completed));
    }
    if settings.failed.age.is_some() || settings.failed.count.is_some() {
        options = options.remove_on_fail(keep(&settings.failed));
    }
    options
}

impl Claim {
    fn settling(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.settling.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn hear(&self, event: &WorkerEvent) {
        match event {
            WorkerEvent::Completed { job_id, .. } | WorkerEvent::Failed { job_id, .. } => {
                let settled = self.settling().remove(job_id);
                if let Some(done) = settled {
                    let _ = done.send(());
                } else if let (WorkerEvent::Failed { .. }, Some(lender)) = (event, self.lender()) {
                    self.inner.tasks.spawn(foreign_failures::lend(self.inner.clone(), lender, job_id.clone()));
                }
                self.inner.watch.heard_of_an_end();
            }
            WorkerEvent::Error(error) => tracing::warn!(error, "the queue's Redis did not do what was asked"),
            WorkerEvent::Stalled { job_id } => {
                tracing::info!(job = job_id, "the job's worker was not heard of; it goes to another");
            }
            WorkerEvent::Drained
            | WorkerEvent::Ready
            | WorkerEvent::Closed
            | WorkerEvent::Active { .. }
            | WorkerEvent::Progress { .. }
            | WorkerEvent::Paused
            | WorkerEvent::Resumed => {}
        }
    }

    fn end(&self) {
        self.lend.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }

    fn lender(&self) -> Option<mpsc::Sender<Lease>> {
        self.lend.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// The closure: lends a job out and answers with its verdict.
async fn take(claim: Arc<Claim>, job: bullmq::Job) -> Result<serde_json::Value, bullmq::Error> {
    let answer = lend(&claim, &job).await;
    claim.gate.apply();
    answer
}

async fn lend(claim: &Arc<Claim>, stored: &bullmq::Job) -> Result<serde_json::Value, bullmq::Error> {
    let inner = &claim.inner;
    let hash = match hash::look_again(inner, stored).await {
        Ok(hash) => hash,
        Err(error) => {
            tracing::warn!(job = stored.id(), %error, "a job was taken but can't be looked at");
            return Err(bullmq::Error::Delayed);
        }
    };
    let written = hash.as_ref().map_or_else(|| Stored::of(stored), |hash| Stored::of_hash(stored.id(), &hash.fields));
    let read = match hash.as_ref().and_then(|hash| hash.no_text) {
        Some(field) => Err(format!("{field}: is no UTF-8")),
        None => format::read(&written, &inner.settings),
    };
    let (job, unusable) = match read {
        Ok(job) => (job, None),
        Err(why) => {
            let why = format!("this job can't be run by jobber: {why}");
            let Some(job) = format::outline(&written) else {
                return Err(odd::refuse(inner, stored.id(), why).await);
            };
            (job, Some(why))
        }
    };
    let Some(token) = stored.token().map(str::to_owned) else {
        return Err(bullmq::Error::WorkerClosed);
    };
    let (redis, counts) = match lease::counts(inner, stored).await {
        Ok(known) => known,
        Err(error) => {
            // Neither lent nor settled: the lease expires, and the job goes on from there.
            tracing::warn!(job = stored.id(), %error, "a job was taken but can't be looked at");
            return Err(bullmq::Error::Delayed);
        }
    };
    if let Some(opts) = hash.as_ref().and_then(|hash| options::repaired(hash.fields.get("opts")?))
        && unusable.is_none()
        && counts.unseen < MENDED
    {
        lease::mend_options(inner, &redis, stored, &opts).await;
        return Err(bullmq::Error::Delayed);
    }
    if let Some(schedule) = stored.repeat_job_key()
        && counts.unseen < schedules::PUT_BACK
    {
        match schedules::stands_for_its_time(inner, &redis, stored, schedule).await {
            Ok(false) => {}
            Ok(true) => {
                lease::put_back_unseen(inner, &redis, stored, None).await;
                return Err(bullmq::Error::Delayed);
            }
            // The crate makes the next job when this one has ended.
            Err(error) => tracing::debug!(schedule, %error, "a schedule was not looked at"),
        }
    }
    let Some(lender) = claim.lender().filter(|_| claim.gate.wanted() > 0) else {
        lease::put_back_unseen(inner, &redis, stored, None).await;
        return Err(bullmq::Error::Delayed);
    };
    if job.job.options.cores.is_some_and(|cores| cores > claim.max_cores) {
        let pause = PUT_OFF * 2u32.saturating_pow(counts.unseen.min(4));
        lease::put_back_unseen(inner, &redis, stored, Some(pause)).await;
        let (gate, stop) = (claim.gate.clone(), claim.stop.clone());
        inner.tasks.spawn(async move {
            tokio::select! {
                () = gate.step_aside(pause) => {}
                () = stop.cancelled() => {}
            }
        });
        return Err(bullmq::Error::Delayed);
    }
    let before = match unusable {
        Some(why) => Ok(ParentResults { barred: Some(why), ..ParentResults::default() }),
        None => after::before(inner, &redis, &job.job).await,
    };
    let before = match before {
        Ok(before) => before,
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
    let validity = inner.renewer.hold(stored.id(), &token, loss.clone(), age);
    if inner.signals.hold(stored.id(), &token, loss.clone())
        && let Err(error) = inner.link.call(signals::look_at_record(inner, &redis, stored.id())).await
    {
        tracing::debug!(job = stored.id(), %error, "whether a job is to be stopped is found out later");
    }
    let is_announced = announced::look(inner, &redis, &job.job.id).await;
    let attempt = AttemptNumber(counts.started);
    let (lent, ops) = LeaseDriver::new(inner.clone(), redis, stored.clone(), token.clone(), counts, loss);
    let lease = Lease::new(job, attempt, counts.finished, counts.crashes, losses, ops);
    let lease = lease.valid(validity).with_parents(before).announced(is_announced);
    // A lease that nobody takes any more is dropped here, and so given back.
    let _ = lender.send(lease).await;
    drop(lender);
    let (answer, done) = lent.settled(&claim.gate).await;
    inner.signals.free(stored.id(), &token);
    inner.renewer.free(&token);
    if let Err(bullmq::Error::Delayed) = answer {
        let _ = done.send(());
    } else {
        // If BullMQ's worker never tells of the end, the drop of the sender does.
        claim.settling().insert(stored.id().to_owned(), done);
    }
    answer
}
