//! Drives one lease: publishes the job's output and progress, and carries its verdict out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use super::super::outbox::Outbox;
use super::super::{LeaseLoss, LeaseOps, OutputChunk, QueueError};
use super::connect::{BullClient, BullError};
use super::counts::Counts;
use super::end_notes::{self, End};
use super::limiter::ClaimLimiter;
use super::output::OutputWriter;
use super::{Inner, Loss, keys};
use crate::domain::{AttemptNumber, Progress, Verdict};

/// Output and progress within this time are published together.
const COALESCE: Duration = Duration::from_millis(20);
/// The wait between two tries to carry a verdict out.
const AGAIN: Duration = Duration::from_millis(200);

/// How long the holder of a lease waits at most to hear that its verdict was carried out.
const LONGEST_SETTLE: Duration = Duration::from_secs(5);

/// The counts of a job that was just taken. Only a job that was started before needs a look at its hash.
pub(super) async fn counts(inner: &Inner, job: &bullmq::Job) -> Result<(Arc<BullClient>, Counts), QueueError> {
    let redis = inner.link.get().await?;
    if job.attempts_started() <= 1 {
        let finished = job.attempts_made();
        return Ok((redis, Counts { started: 1, finished, crashes: 0, unseen: 0, stalls: 0, leases: 1 }));
    }
    let names = ["ats", "atm", "stc", keys::STALLS_BEFORE, keys::UNSEEN, keys::SPAWNED, keys::STALLS_SEEN];
    let mut get = redis::cmd("HMGET");
    get.arg(inner.keys.job(job.id())).arg(&names);
    let values: Vec<Option<String>> = inner.link.call(redis.queue.connection().cmd(&mut get)).await?;
    let fields = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect();
    let mut counts = Counts::of(&fields);
    let number = |name: &str| fields.get(name).and_then(|n: &String| n.parse().ok()).unwrap_or(0u32);
    if counts.stalls > number(keys::STALLS_SEEN) {
        // The lease before this one was lost.
        let mut note = redis::cmd("EVAL");
        note.arg(keys::SET_IF_THERE).arg(1).arg(inner.keys.job(job.id())).arg(keys::STALLS_SEEN).arg(counts.stalls);
        let is_noted = fields.contains_key(keys::SPAWNED) || !is_of_before(inner, &redis, job).await?;
        if is_noted && number(keys::SPAWNED) + 1 != counts.leases {
            counts.forgive_a_stall();
            // Absolute numbers: another try after a lost answer does not count twice.
            note.arg(keys::UNSEEN).arg(counts.unseen);
            note.arg(keys::STALLS_BEFORE).arg(number(keys::STALLS_BEFORE) + 1);
        }
        inner.link.call(redis.queue.connection().cmd::<()>(&mut note)).await?;
    }
    Ok((redis, counts))
}

/// Notes that from now on workers note each start: before this process submits or takes its first job. Only the first
/// process of all changes anything.
pub(super) async fn note_starts(inner: &Inner, redis: &BullClient) -> Result<(), QueueError> {
    let note = async || {
        let mut set = redis::cmd("SET");
        set.arg(inner.keys.starts_noted_since()).arg(inner.opened_at.as_millis()).arg("NX");
        inner.link.call(redis.queue.connection().cmd::<()>(&mut set)).await
    };
    inner.starts_are_noted.get_or_try_init(note).await.copied()
}

/// Whether the job may have been started by a worker of version 0.1.0, which did not note its starts: then a lease that was
/// lost counts as one that had started something.
async fn is_of_before(inner: &Inner, redis: &BullClient, job: &bullmq::Job) -> Result<bool, QueueError> {
    let mut get = redis::cmd("GET");
    get.arg(inner.keys.starts_noted_since());
    let since: Option<u64> = inner.link.call(redis.queue.connection().cmd(&mut get)).await?;
    Ok(since.is_some_and(|since| job.timestamp() < since))
}

/// Puts a job back that was not lent out: at the head of the queue, or after a pause.
pub(super) async fn put_back_unseen(inner: &Inner, redis: &BullClient, job: &bullmq::Job, pause: Option<Duration>) {
    let back = async {
        let mut count = redis::cmd("EVAL");
        count.arg(keys::ADD_IF_THERE).arg(1).arg(inner.keys.job(job.id())).arg(keys::UNSEEN).arg(1);
        redis.queue.connection().cmd::<()>(&mut count).await?;
        match pause {
            Some(pause) => job.move_to_delayed(in_ms(inner, pause)).await?,
            None => {
                job.move_to_wait(None).await?;
            }
        }
        Ok::<_, BullError>(())
    };
    if let Err(error) = inner.link.call(back).await {
        tracing::warn!(job = job.id(), %error, "a job could not be put back; it comes back when its lease expires");
    }
}

/// Writes options that the crate reads in place of those that it could not, and puts the job back: the crate acts on what
/// it read when it took the job.
pub(super) async fn mend_options(inner: &Inner, redis: &BullClient, job: &bullmq::Job, opts: &str) {
    let mut write = redis::cmd("EVAL");
    write.arg(keys::SET_IF_THERE).arg(1).arg(inner.keys.job(job.id())).arg("opts").arg(opts);
    if let Err(error) = inner.link.call(redis.queue.connection().cmd::<()>(&mut write)).await {
        tracing::warn!(job = job.id(), %error, "a job's options could not be mended; it comes back when its lease expires");
        return;
    }
    put_back_unseen(inner, redis, job, None).await;
}

fn in_ms(inner: &Inner, after: Duration) -> u64 {
    (inner.clock.now() + after).as_millis().unsigned_abs()
}

/// What the holder's side and the queue's side share.
struct Shared {
    inner: Arc<Inner>,
    redis: Arc<BullClient>,
    id: String,
    token: String,
    counts: Counts,
    loss: Loss,
    outbox: Mutex<Outbox>,
    said: Notify,
    /// Whether the attempt is being started.
    started: AtomicBool,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A command that sets fields of the job's hash while the lock is held. The caller adds the fields.
    fn set_if_held(&self) -> redis::Cmd {
        let mut set = redis::cmd("EVAL");
        set.arg(keys::SET_IF_HELD).arg(2).arg(self.inner.keys.job(&self.id)).arg(self.inner.keys.lock(&self.id));
        set.arg(&self.token);
        set
    }

    fn is_lost(&self) -> bool {
        *self.loss.borrow() == Some(LeaseLoss::Expired)
    }
}

/// The worker's side of the lease.
struct Ops {
    shared: Arc<Shared>,
    verdict: Mutex<Option<oneshot::Sender<Verdict>>>,
    done: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Ops {
    fn decide(&self, verdict: Verdict) {
        let sender = self.verdict.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(verdict);
        }
    }
}

#[async_trait]
impl LeaseOps for Ops {
    fn progress(&self, progress: &Progress) {
        self.shared.outbox().progress = Some(progress.clone());
        self.shared.said.notify_one();
    }

    fn output(&self, chunk: OutputChunk) {
        self.shared.outbox().push(chunk);
        self.shared.said.notify_one();
    }

    fn has_room(&self) -> bool {
        self.shared.outbox().has_room()
    }

    async fn started(&self) -> bool {
        let Shared { inner, redis, id, counts, .. } = &*self.shared;
        self.shared.started.store(true, Ordering::Release);
        loop {
            let mut note = self.shared.set_if_held();
            note.arg(keys::SPAWNED).arg(counts.leases);
            match inner.link.call(redis.queue.connection().cmd::<bool>(&mut note)).await {
                Ok(is_held) => return is_held,
                Err(error) if self.shared.is_lost() || !error.is_retryable() => {
                    tracing::warn!(job = id, %error, "the start of an attempt could not be noted");
                    return false;
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    fn withdrawn(&self) {
        self.shared.started.store(false, Ordering::Release);
    }

    async fn settle(&self, verdict: Verdict) {
        let done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        self.decide(verdict);
        if let Some(done) = done {
            // The crate says nothing of a verdict that it could not carry out.
            let _ = tokio::time::timeout(LONGEST_SETTLE, done).await;
        }
    }

    fn release(&self) {
        self.decide(Verdict::Release);
    }
}

/// The result of a job that completed, as BullMQ keeps it, in the original's form.
fn answer(result: &Option<Value>) -> Value {
    json!({"success": true, "result": result})
}

/// A step that may have to be tried more than once.
enum Step {
    Confirm,
    Note(End),
    Retry { after: Duration, error: String },
    GiveBack { after: Duration },
}

/// The queue's side of the lease, which waits for the verdict.
pub(super) struct LeaseDriver {
    job: bullmq::Job,
    attempt: AttemptNumber,
    shared: Arc<Shared>,
    verdict: oneshot::Receiver<Verdict>,
    done: oneshot::Sender<()>,
}

impl LeaseDriver {
    pub(super) fn new(
        inner: Arc<Inner>,
        redis: Arc<BullClient>,
        job: bullmq::Job,
        token: String,
        counts: Counts,
        loss: Loss,
    ) -> (Self, Arc<dyn LeaseOps>) {
        let attempt = AttemptNumber(counts.started);
        let shared = Arc::new(Shared {
            inner,
            redis,
            id: job.id().to_owned(),
            token,
            counts,
            loss,
            outbox: Mutex::default(),
            said: Notify::new(),
            started: AtomicBool::new(false),
        });
        let (decide, verdict) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let ops = Ops { shared: shared.clone(), verdict: Mutex::new(Some(decide)), done: Mutex::new(Some(is_done)) };
        (Self { job, attempt, shared, verdict, done }, Arc::new(ops))
    }

    /// Publishes output and progress until there is a verdict. Carries out the part of the verdict
    /// that BullMQ does not carry out by the answer. Gives the answer, and the sender to tell when
    /// BullMQ has carried that out.
    pub(super) async fn settled(mut self, gate: &ClaimLimiter) -> (Result<Value, bullmq::Error>, oneshot::Sender<()>) {
        let mut transcript = OutputWriter::new(&self.shared.inner, self.job.id(), self.attempt);
        let verdict = loop {
            tokio::select! {
                // A holder that has gone without a verdict has given the job back.
                verdict = &mut self.verdict => break verdict.unwrap_or(Verdict::Release),
                () = self.shared.said.notified() => {}
            }
            tokio::select! {
                verdict = &mut self.verdict => break verdict.unwrap_or(Verdict::Release),
                () = tokio::time::sleep(COALESCE) => {}
            }
            if !self.publish(&mut transcript).await {
                self.shared.said.notify_one();
                tokio::time::sleep(AGAIN).await;
            }
        };
        if let Verdict::Complete { .. } | Verdict::Fail { .. } = verdict {
            transcript.is_last();
        }
        // Side by side: what such a question costs is the way to Redis and back.
        let ((), is_noted) = tokio::join!(self.publish_last(&mut transcript), self.note_end(&verdict));
        gate.apply();
        let is_lost = self.is_lost() || !is_noted;
        let answer = if is_lost { Err(bullmq::Error::Delayed) } else { self.carry_out(verdict).await };
        (answer, self.done)
    }

    fn is_lost(&self) -> bool {
        self.shared.is_lost()
    }

    /// Publishes the rest of the output. History has the end of it, so this is not tried for long.
    async fn publish_last(&self, transcript: &mut OutputWriter) {
        const TRIES: u32 = 5;
        for _ in 0..TRIES {
            if self.publish(transcript).await || self.is_lost() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Publishes what the job said. Answers false when that did not work and the output is
    /// still to be published.
    async fn publish(&self, transcript: &mut OutputWriter) -> bool {
        let mut said = self.shared.outbox().take();
        if self.is_lost() {
            return true;
        }
        let progress = said.progress.take();
        let (output, _) = said.into_chunks();
        let publish = async {
            if let Some(progress) = progress {
                // `progress` is what BullMQ's boards draw a bar of.
                let Progress { percent, text } = progress;
                let progress =
                    json!({"progress": percent, "percent": percent, "text": text, "attempt": self.attempt.0});
                let progress = bullmq::JobProgress::Object(progress);
                self.shared.redis.queue.update_job_progress(self.job.id(), progress).await?;
            }
            transcript.write(&self.shared.inner, &self.shared.redis, output.clone()).await
        };
        let Err(error) = self.shared.inner.link.call(publish).await else { return true };
        tracing::debug!(job = self.job.id(), %error, "what a job said was not published");
        if output.is_empty() || !error.is_retryable() {
            return true;
        }
        self.shared.outbox().put_back(output);
        false
    }

    async fn carry_out(&self, verdict: Verdict) -> Result<Value, bullmq::Error> {
        match verdict {
            Verdict::Complete { result } => {
                self.before_the_end().await?;
                Ok(answer(&result))
            }
            Verdict::Fail { error } => {
                self.before_the_end().await?;
                if let Err(unseen) = self.shared.inner.link.call(self.show_failure(&error)).await {
                    tracing::debug!(job = self.job.id(), error = %unseen, "BullMQ's tools miss why an attempt failed");
                }
                Err(bullmq::Error::Unrecoverable(error))
            }
            Verdict::Retry { after, error } => {
                self.insist(&Step::Retry { after, error }).await;
                Err(bullmq::Error::Delayed)
            }
            Verdict::Release => {
                self.insist(&Step::GiveBack { after: Duration::ZERO }).await;
                Err(bullmq::Error::Delayed)
            }
            Verdict::PutOff { after } => {
                self.insist(&Step::GiveBack { after }).await;
                Err(bullmq::Error::Delayed)
            }
        }
    }

    /// Notes how the job is about to end, for the jobs that come after it. Answers false when
    /// its lease is lost.
    async fn note_end(&self, verdict: &Verdict) -> bool {
        let end = match verdict {
            Verdict::Complete { result } => End::Completed(answer(result).to_string()),
            Verdict::Fail { error } => End::Failed(error.clone()),
            Verdict::Retry { .. } | Verdict::Release | Verdict::PutOff { .. } => return true,
        };
        self.insist(&Step::Note(end)).await
    }

    /// Makes ready for the end. The crate does not tell when it could not end a job, so while Redis
    /// is away the answer is kept until Redis is back, or until the lease is lost.
    async fn before_the_end(&self) -> Result<(), bullmq::Error> {
        if !self.shared.inner.signals.is_listening() && !self.insist(&Step::Confirm).await {
            return Err(bullmq::Error::Delayed);
        }
        if self.shared.inner.signals.take_cancel(self.job.id()) {
            let mut forget = redis::cmd("HDEL");
            forget.arg(self.shared.inner.keys.cancels()).arg(self.job.id());
            if let Err(error) =
                self.shared.inner.link.call(self.shared.redis.queue.connection().cmd::<()>(&mut forget)).await
            {
                tracing::debug!(job = self.job.id(), %error, "a request to stop is still on record");
            }
        }
        Ok(())
    }

    /// Counts the attempt and puts the job back. BullMQ's moves count nothing; the lock, just confirmed, fences both.
    async fn retry(&self, after: Duration, error: &str) -> Result<(), BullError> {
        self.confirm().await?;
        let mut count = self.shared.set_if_held();
        // Set, not added to: another try after a lost answer must not count twice.
        count.arg("atm").arg(self.job.attempts_made() + 1);
        count.arg("failedReason").arg(error);
        count.arg("stacktrace").arg(self.stacktrace(error).await?);
        count.arg(keys::STALLS_BEFORE).arg(self.shared.counts.stalls);
        self.shared.redis.queue.connection().cmd::<()>(&mut count).await?;
        self.put_back(after).await
    }

    /// Puts the job back without spending an attempt. An attempt that started nothing leaves its
    /// number to the next.
    async fn give_back(&self, after: Duration) -> Result<(), BullError> {
        if !self.shared.started.load(Ordering::Acquire) {
            self.confirm().await?;
            let mut count = self.shared.set_if_held();
            count.arg(keys::UNSEEN).arg(self.shared.counts.unseen + 1);
            self.shared.redis.queue.connection().cmd::<()>(&mut count).await?;
        }
        self.put_back(after).await
    }

    /// Puts the job back: after a pause, or at once if a caller cancelled it, so that the worker
    /// that takes it next hears of that.
    async fn put_back(&self, after: Duration) -> Result<(), BullError> {
        let is_cancelled = matches!(*self.shared.loss.borrow(), Some(LeaseLoss::Cancelled(_)));
        if after.is_zero() || is_cancelled {
            self.job.move_to_wait(None).await?;
        } else {
            self.job.move_to_delayed(in_ms(&self.shared.inner, after)).await?;
        }
        Ok(())
    }

    /// The errors of the attempts, this one last: one entry each, as BullMQ's own workers keep
    /// them, and as many as the producer wants.
    async fn stacktrace(&self, error: &str) -> Result<String, BullError> {
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let mut get = redis::cmd("HGET");
        get.arg(self.shared.inner.keys.job(self.job.id())).arg("stacktrace");
        let before: Option<String> = self.shared.redis.queue.connection().cmd(&mut get).await?;
        let mut entries: Vec<Value> = before.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        // Another try after a lost answer must not add a second one.
        entries.truncate(size(self.job.attempts_made()));
        entries.push(Value::from(error));
        let wanted = self.job.opts().stack_trace_limit.map_or(usize::MAX, size);
        entries.drain(..entries.len().saturating_sub(wanted));
        Ok(Value::Array(entries).to_string())
    }

    /// Shows BullMQ's tools why the last attempt failed.
    async fn show_failure(&self, error: &str) -> Result<(), BullError> {
        let mut keep = redis::cmd("EVAL");
        keep.arg(keys::SET_IF_THERE).arg(1).arg(self.shared.inner.keys.job(self.job.id()));
        keep.arg("stacktrace").arg(self.stacktrace(error).await?);
        Ok(self.shared.redis.queue.connection().cmd(&mut keep).await?)
    }

    /// Makes sure that the lease is still held.
    async fn confirm(&self) -> Result<(), BullError> {
        let lease = u64::try_from(self.shared.inner.settings.lease.as_millis()).unwrap_or(u64::MAX);
        Ok(self.job.extend_lock(&self.shared.token, lease).await?)
    }

    async fn take(&self, step: &Step) -> Result<(), BullError> {
        match step {
            Step::Confirm => self.confirm().await,
            Step::Note(end) => end_notes::note(&self.shared.inner, &self.shared.redis, self.job.id(), end).await,
            Step::Retry { after, error } => self.retry(*after, error).await,
            Step::GiveBack { after } => self.give_back(*after).await,
        }
    }

    /// Tries until the step works or the lease is lost. Answers whether it worked.
    async fn insist(&self, step: &Step) -> bool {
        loop {
            let error = match self.shared.inner.link.call(self.take(step)).await {
                Ok(()) => return true,
                Err(error) => error,
            };
            if self.is_lost() || !error.is_retryable() {
                tracing::warn!(job = self.job.id(), %error, "the job could not be settled: its lease is lost");
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
