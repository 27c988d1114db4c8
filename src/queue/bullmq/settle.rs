//! Settles one lease: publishes the job's output and progress until there is a verdict, and carries the verdict out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use super::super::output::Outbox;
use super::super::{LeaseLoss, LeaseOps, OutputChunk};
use super::connect::{BullClient, BullError};
use super::counts::Counts;
use super::limiter::ClaimLimiter;
use super::output::OutputWriter;
use super::watched::{self, End};
use super::{Inner, Loss, group_window, keys};
use crate::domain::{AttemptNumber, GroupName, JobId, Progress, Verdict};

/// Output and progress within this time are published together.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);
/// The wait between two tries to carry a verdict out.
const AGAIN: Duration = Duration::from_millis(200);

/// How long the holder of a lease waits at most to hear that its verdict was carried out.
const LONGEST_SETTLE: Duration = Duration::from_secs(5);

/// When a pause that begins now is over, in milliseconds since the epoch.
pub(super) fn in_ms(inner: &Inner, after: Duration) -> u64 {
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
    filled: Notify,
    /// Its group and the limit of that, if it has one.
    limit: Option<(GroupName, u32)>,
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

    /// Lets the next job of the group become ready.
    async fn leave_group(&self) {
        if let Some((group, limit)) = &self.limit
            && let Ok(id) = JobId::parse(&self.id)
        {
            group_window::left(&self.inner, &self.redis, group, *limit, &id).await;
        }
    }
}

/// The lease as its holder reaches it.
struct LeaseHandle {
    shared: Arc<Shared>,
    verdict: Mutex<Option<oneshot::Sender<Verdict>>>,
    done: Mutex<Option<oneshot::Receiver<()>>>,
}

impl LeaseHandle {
    fn decide(&self, verdict: Verdict) {
        let sender = self.verdict.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(verdict);
        }
    }
}

#[async_trait]
impl LeaseOps for LeaseHandle {
    fn progress(&self, progress: &Progress) {
        self.shared.outbox().progress = Some(progress.clone());
        self.shared.filled.notify_one();
    }

    fn output(&self, chunk: OutputChunk) {
        self.shared.outbox().push(chunk);
        self.shared.filled.notify_one();
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
        let is_end = matches!(verdict, Verdict::Complete { .. } | Verdict::Fail { .. });
        self.decide(verdict);
        if let Some(done) = done {
            // The crate says nothing of a verdict that it could not carry out.
            let _ = tokio::time::timeout(LONGEST_SETTLE, done).await;
        }
        if is_end && self.shared.limit.is_some() {
            let shared = self.shared.clone();
            // The holder need not wait for what is about other jobs.
            self.shared.inner.tasks.spawn(async move { shared.leave_group().await });
        }
    }

    fn release(&self) {
        self.decide(Verdict::Release);
    }
}

/// The result of a job that completed, as BullMQ keeps it, in the original's form.
fn return_value(result: &Option<Value>) -> Value {
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
            filled: Notify::new(),
            limit: group_window::limit_in(job.data()),
            started: AtomicBool::new(false),
        });
        let (decide, verdict) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let handle =
            LeaseHandle { shared: shared.clone(), verdict: Mutex::new(Some(decide)), done: Mutex::new(Some(is_done)) };
        (Self { job, attempt, shared, verdict, done }, Arc::new(handle))
    }

    /// Publishes output and progress until there is a verdict. Carries out the part of the verdict
    /// that BullMQ does not carry out by the answer. Gives the answer, and the sender to tell when
    /// BullMQ has carried that out.
    pub(super) async fn run(mut self, limiter: &ClaimLimiter) -> (Result<Value, bullmq::Error>, oneshot::Sender<()>) {
        let mut writer = OutputWriter::new(&self.shared.inner, self.job.id(), self.attempt);
        let verdict = loop {
            tokio::select! {
                // A holder that has gone without a verdict has given the job back.
                verdict = &mut self.verdict => break verdict.unwrap_or(Verdict::Release),
                () = self.shared.filled.notified() => {}
            }
            tokio::select! {
                verdict = &mut self.verdict => break verdict.unwrap_or(Verdict::Release),
                () = tokio::time::sleep(PUBLISH_INTERVAL) => {}
            }
            if !self.publish(&mut writer).await {
                self.shared.filled.notify_one();
                tokio::time::sleep(AGAIN).await;
            }
        };
        if let Verdict::Complete { .. } | Verdict::Fail { .. } = verdict {
            writer.expect_last();
        }
        // Side by side: what such a question costs is the way to Redis and back.
        let ((), is_noted) = tokio::join!(self.publish_last(&mut writer), self.note_end(&verdict));
        limiter.apply();
        let is_lost = self.is_lost() || !is_noted;
        let answer = if is_lost { Err(bullmq::Error::Delayed) } else { self.carry_out(verdict).await };
        (answer, self.done)
    }

    fn is_lost(&self) -> bool {
        self.shared.is_lost()
    }

    /// Publishes the rest of the output. History has the end of it, so this is not tried for long.
    async fn publish_last(&self, writer: &mut OutputWriter) {
        const TRIES: u32 = 5;
        for _ in 0..TRIES {
            if self.publish(writer).await || self.is_lost() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Publishes what the job said. Answers false when that did not work and the output is
    /// still to be published.
    async fn publish(&self, writer: &mut OutputWriter) -> bool {
        let mut outbox = self.shared.outbox().take();
        if self.is_lost() {
            return true;
        }
        let progress = outbox.progress.take();
        let (output, _) = outbox.into_chunks();
        let publish = async {
            if let Some(progress) = progress {
                // `progress` is what BullMQ's boards draw a bar of.
                let Progress { percent, text } = progress;
                let progress =
                    json!({"progress": percent, "percent": percent, "text": text, "attempt": self.attempt.0});
                let progress = bullmq::JobProgress::Object(progress);
                self.shared.redis.queue.update_job_progress(self.job.id(), progress).await?;
            }
            writer.write(&self.shared.inner, &self.shared.redis, output.clone()).await
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
                self.prepare_end().await?;
                Ok(return_value(&result))
            }
            Verdict::Fail { error } => {
                self.prepare_end().await?;
                if let Err(unshown) = self.shared.inner.link.call(self.show_failure(&error)).await {
                    tracing::debug!(job = self.job.id(), error = %unshown, "BullMQ's tools miss why an attempt failed");
                }
                Err(bullmq::Error::Unrecoverable(error))
            }
            Verdict::Retry { after, error } => {
                self.retry_until_lost(&Step::Retry { after, error }).await;
                Err(bullmq::Error::Delayed)
            }
            Verdict::Release => {
                self.retry_until_lost(&Step::GiveBack { after: Duration::ZERO }).await;
                Err(bullmq::Error::Delayed)
            }
            Verdict::PutOff { after } => {
                self.retry_until_lost(&Step::GiveBack { after }).await;
                Err(bullmq::Error::Delayed)
            }
        }
    }

    /// Notes how the job is about to end, for the jobs that come after it. Answers false when
    /// its lease is lost.
    async fn note_end(&self, verdict: &Verdict) -> bool {
        let end = match verdict {
            Verdict::Complete { result } => End::Completed(return_value(result).to_string()),
            Verdict::Fail { error } => End::Failed(error.clone()),
            Verdict::Retry { .. } | Verdict::Release | Verdict::PutOff { .. } => return true,
        };
        self.retry_until_lost(&Step::Note(end)).await
    }

    /// Makes ready for the end. The crate does not tell when it could not end a job, so while Redis
    /// is away the answer is kept until Redis is back, or until the lease is lost.
    async fn prepare_end(&self) -> Result<(), bullmq::Error> {
        if !self.shared.inner.signals.is_listening() && !self.retry_until_lost(&Step::Confirm).await {
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
            count.arg(keys::UNSTARTED).arg(self.shared.counts.unstarted + 1);
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
        let limit = self.job.opts().stack_trace_limit.map_or(usize::MAX, size);
        entries.drain(..entries.len().saturating_sub(limit));
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
        let lease = u64::try_from(self.shared.inner.settings.common.lease.as_millis()).unwrap_or(u64::MAX);
        Ok(self.job.extend_lock(&self.shared.token, lease).await?)
    }

    async fn run_step(&self, step: &Step) -> Result<(), BullError> {
        match step {
            Step::Confirm => self.confirm().await,
            Step::Note(end) => watched::note_end(&self.shared.inner, &self.shared.redis, self.job.id(), end).await,
            Step::Retry { after, error } => self.retry(*after, error).await,
            Step::GiveBack { after } => self.give_back(*after).await,
        }
    }

    /// Tries until the step works or the lease is lost. Answers whether it worked.
    async fn retry_until_lost(&self, step: &Step) -> bool {
        loop {
            let error = match self.shared.inner.link.call(self.run_step(step)).await {
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
