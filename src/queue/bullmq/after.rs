//! Jobs that wait for others.
//!
//! The jobs of one call become BullMQ's parents and children, in one transaction, with the policy
//! `continueParentOnFailure`: when a child fails, BullMQ hands the parent out, and the worker that
//! gets the parent fails it. So history hears of the end; BullMQ's own `failParentOnFailure` would
//! fail the parent unseen.
//!
//! BullMQ can't make a job come after one that is in the queue already, or after one that has a parent
//! (it knows one at most). Such a job is *watched*: it is put in delayed, by longer than any delay, and
//! promoted when all jobs that it comes after have ended. Their ends are noted where BullMQ notes those
//! of children, so both ways meet when a worker takes the job ([`before`]). If one of these jobs has
//! left the queue by then, [`end_notes`] knows its end. To promote a job is BullMQ's own step and works
//! once, so any process may look after a watched job, and none has to survive.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bullmq::FlowJob;
use futures_util::future;
use serde_json::Map;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::{ParentResults, QueueError, QueueErrorKind};
use super::connect::{BullClient, BullError};
use super::end_notes::{self, End};
use super::{Inner, format, keys, read};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{AcceptedJob, Job, JobId, Timestamp};

/// The wait between two looks at the watched jobs, if this process hears of no end.
const LOOK: Duration = Duration::from_secs(1);
/// Ends that this process hears of within this time are looked at together.
const TOGETHER: Duration = Duration::from_millis(10);
/// How many jobs are read in one go.
const BATCH: usize = 500;
/// How many jobs are looked at at the same time.
const AT_ONCE: usize = 16;
/// How many of the jobs before a watched one are asked about at the same time.
const TOLD_AT_ONCE: usize = 100;
/// How long the look at one job may take, besides the usual patience.
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// A job on record that is not in the queue after this time will not come any more.
const ADDING: Duration = Duration::from_secs(60);

/// Tells this process's look at the watched jobs that something has ended.
#[derive(Default)]
pub(super) struct Watch {
    /// Whether there are any watched jobs: most queues have none.
    any: AtomicBool,
    ended: Notify,
}

impl Watch {
    /// Notes that a job has ended.
    pub(super) fn heard_of_an_end(&self) {
        if self.any.load(Ordering::Relaxed) {
            self.ended.notify_one();
        }
    }
}

/// A call's jobs as they are added.
pub(super) struct Linked<'j> {
    /// The jobs as trees: each has those that come before it below it.
    pub(super) trees: Vec<FlowJob>,
    /// The jobs that are to be watched.
    pub(super) watched: Vec<&'j Job>,
    /// The jobs that these come after and that are not of the call itself.
    pub(super) earlier: Vec<&'j JobId>,
}

/// Finds out for each job how it can come after others.
pub(super) fn link<'j>(inner: &Inner, jobs: &'j [AcceptedJob]) -> Result<Linked<'j>, QueueError> {
    let mut roots: HashMap<&JobId, FlowJob> = HashMap::new();
    let mut of_the_call: HashSet<&JobId> = HashSet::new();
    let (mut watched, mut earlier) = (Vec::new(), Vec::new());
    for accepted in jobs {
        let job = &accepted.job;
        let after = &job.options.after;
        earlier.extend(after.iter().filter(|id| !of_the_call.contains(id)));
        let data = format::data(accepted, inner.settings.rules(&job.name));
        let mut flow = FlowJob::new(job.name.as_str(), &inner.settings.queue, data).map_err(BullError::from)?;
        let mut options = format::options(job);
        if after.iter().all(|id| roots.contains_key(id)) {
            for mut child in after.iter().filter_map(|id| roots.remove(id)) {
                if let Some(options) = &mut child.opts {
                    options.continue_parent_on_failure = Some(true);
                }
                flow = flow.add_child(child);
            }
        } else {
            options.delay = u64::try_from(keys::FAR.as_millis()).ok();
            watched.push(&**job);
        }
        of_the_call.insert(&job.id);
        roots.insert(&job.id, flow.options(options));
    }
    let trees = jobs.iter().filter_map(|job| roots.remove(&job.job.id)).collect();
    Ok(Linked { trees, watched, earlier })
}

/// Refuses a call whose jobs come after one that no job can come after. Asked once the watched jobs
/// are on record: the worker of a job that ends after this answer knows that others come after it.
pub(super) async fn check(inner: &Inner, redis: &BullClient, ids: &[&JobId]) -> Result<(), QueueError> {
    use bullmq::JobState::{Failed, Unknown};
    for id in ids {
        let why = match inner.link.call(redis.queue.get_job_state(id.as_str())).await? {
            Unknown => format!("there is no job {id} in the queue that another could come after"),
            Failed => format!("job {id} has failed: nothing can come after it unless it is retried"),
            _ => continue,
        };
        return Err(QueueError::new(QueueErrorKind::Rejected, why));
    }
    Ok(())
}

/// Puts on record, before they are added, that these jobs are to be watched.
pub(super) async fn watch(inner: &Inner, redis: &BullClient, jobs: &[&Job]) -> Result<(), BullError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let now = inner.clock.now().as_millis();
    let mut record = redis::pipe();
    record.atomic();
    for job in jobs {
        record.cmd("ZADD").arg(inner.keys.watched()).arg(now).arg(job.id.as_str()).ignore();
        end_notes::link(inner, &mut record, job);
    }
    inner.watch.any.store(true, Ordering::Relaxed);
    Ok(redis.queue.connection().pipe(&record).await?)
}

/// Strikes jobs that were not added off the record.
pub(super) async fn unwatch(inner: &Inner, redis: &BullClient, jobs: &[&Job]) -> Result<(), BullError> {
    for job in jobs {
        done(inner, redis, job.id.as_str()).await?;
    }
    Ok(())
}

async fn done(inner: &Inner, redis: &BullClient, id: &str) -> Result<(), BullError> {
    end_notes::unlink(inner, redis, id).await?;
    let mut strike = redis::cmd("ZREM");
    strike.arg(inner.keys.watched()).arg(id);
    Ok(redis.queue.connection().cmd(&mut strike).await?)
}

/// A look that is dropped leaves its jobs watched, for the next look.
const LOOKING: BackgroundLoop = BackgroundLoop::new("jobs with parents", Period::Pause(LOOK))
    .debug("jobs that come after others can't be looked after; trying again", "they are looked after again")
    .drop_run();

/// Looks after the watched jobs until `stop`.
pub(super) async fn watch_jobs_with_parents(inner: Arc<Inner>, stop: CancellationToken) {
    let Some(Some(redis)) = stop.run_until_cancelled(inner.link.wait()).await else { return };
    let ended = async || {
        inner.watch.ended.notified().await;
        tokio::time::sleep(TOGETHER).await;
    };
    let mut turns = LOOKING.start(&stop);
    turns.wait(ended()).await;
    while turns.run_woken(ended(), async { Ok(look(&inner, &redis).await.map(|()| NextRun::InTurn)?) }).await {}
}

/// Looks at every watched job once, at some of them at the same time, and at each with patience of
/// its own: a job that takes long, because it comes after many, keeps no other from being looked at.
async fn look(inner: &Inner, redis: &BullClient) -> Result<(), QueueError> {
    let began = inner.clock.now().as_millis();
    loop {
        let mut first = redis::cmd("ZRANGEBYSCORE");
        first.arg(inner.keys.watched()).arg("-inf").arg(format!("({began}"));
        first.arg("WITHSCORES").arg("LIMIT").arg(0).arg(BATCH);
        let first: Vec<(String, f64)> = inner.link.call(redis.queue.connection().cmd(&mut first)).await?;
        if first.is_empty() {
            // Those that were just looked at, if any, are still there.
            let mut count = redis::cmd("ZCARD");
            let count: u64 = inner.link.call(redis.queue.connection().cmd(count.arg(inner.keys.watched()))).await?;
            inner.watch.any.store(count > 0, Ordering::Relaxed);
            return Ok(());
        }
        inner.watch.any.store(true, Ordering::Relaxed);
        let is_last = first.len() < BATCH;
        let mut moved = false;
        for together in first.chunks(AT_ONCE) {
            let looks = together.iter().map(|(id, since)| look_patiently(inner, redis, id, *since));
            moved |= future::join_all(looks).await.contains(&true);
        }
        if is_last || !moved {
            return Ok(());
        }
    }
}

/// Looks at a watched job, and puts it behind the others or strikes it off. Answers false when the
/// job is just being added.
async fn look_patiently(inner: &Inner, redis: &BullClient, id: &str, since: f64) -> bool {
    let since = Timestamp::from_millis(since as i64);
    let found = inner.link.call_longer(LONGEST_LOOK, look_at(inner, redis, id, since)).await;
    let told = match found.as_ref().unwrap_or(&Watched::On) {
        Watched::NotYet => return false,
        // Behind the others, so that all have their turn.
        Watched::On => inner.link.call(put_behind(inner, redis, id)).await,
        Watched::Done => inner.link.call_longer(LONGEST_LOOK, done(inner, redis, id)).await,
    };
    if let Err(error) = found.map(drop).and(told) {
        tracing::debug!(job = id, %error, "a job that comes after others was not looked at to the end");
    }
    true
}

async fn put_behind(inner: &Inner, redis: &BullClient, id: &str) -> Result<(), BullError> {
    let mut again = redis::cmd("ZADD");
    again.arg(inner.keys.watched()).arg("XX").arg(inner.clock.now().as_millis()).arg(id);
    Ok(redis.queue.connection().cmd(&mut again).await?)
}

/// What is to become of a watched job.
enum Watched {
    /// It seems that a process is just adding it.
    NotYet,
    /// It stays on the record of watched jobs.
    On,
    /// It has been let go, or there is nothing to let go any more.
    Done,
}

/// Notes which of the jobs before this one have ended. Lets this job go when all of them have, or
/// when one of them has failed.
async fn look_at(inner: &Inner, redis: &BullClient, id: &str, since: Timestamp) -> Result<Watched, BullError> {
    use bullmq::JobState::Delayed;
    let Some(stored) = redis.queue.get_job(id).await? else {
        // Just being added, or taken out.
        let waits = inner.clock.now().since(since) < ADDING;
        return Ok(if waits { Watched::NotYet } else { Watched::Done });
    };
    let Ok(AcceptedJob { job, .. }) = format::read(&format::Stored::of(&stored), &inner.settings) else {
        return Ok(Watched::Done);
    };
    if redis.queue.get_job_state(id).await? != Delayed {
        return Ok(Watched::Done);
    }
    let (processed, failed) = noted(inner, redis, id).await?;
    let (mut pending, mut barred) = (false, !failed.is_empty());
    let unknown = job.options.after.iter().filter(|before| {
        let key = inner.keys.job(before.as_str());
        !processed.contains_key(&key) && !failed.contains_key(&key)
    });
    let unknown: Vec<_> = unknown.collect();
    let mut found = Vec::with_capacity(unknown.len());
    for together in unknown.chunks(TOLD_AT_ONCE) {
        // Side by side: the way to Redis and back is then paid for once.
        let ends = together.iter().map(|before| end_before(inner, redis, before));
        found.extend(future::try_join_all(ends).await?);
    }
    let mut note = redis::pipe();
    for (key, end) in found {
        match end {
            Ended::No => pending = true,
            Ended::With(End::Completed(value)) => {
                note.cmd("HSET").arg(inner.keys.processed(id)).arg(key).arg(value).ignore();
            }
            Ended::With(End::Failed(why)) => {
                barred = true;
                note.cmd("HSET").arg(inner.keys.failed_before(id)).arg(key).arg(why).ignore();
            }
            Ended::TakenOut => {}
        }
    }
    if !note.is_empty() {
        redis.queue.connection().pipe::<()>(&note).await?;
    }
    if pending && !barred {
        return Ok(Watched::On);
    }
    let let_go = if job.options.delay.is_zero() || barred {
        stored.promote().await
    } else {
        stored.change_delay(u64::try_from(job.options.delay.as_millis()).unwrap_or(u64::MAX)).await
    };
    match let_go {
        Ok(()) => Ok(Watched::Done),
        Err(bullmq::Error::Redis(error)) => Err(error.into()),
        // Another process was first, or a program took the job out.
        Err(error) => {
            tracing::debug!(job = id, %error, "a job that came after others has moved on by itself");
            Ok(Watched::Done)
        }
    }
}

/// What became of a job that a watched one comes after.
enum Ended {
    No,
    With(End),
    /// It was taken out before its end, and is not waited for any more.
    TakenOut,
}

/// The job's key, and what became of it.
async fn end_before(inner: &Inner, redis: &BullClient, before: &JobId) -> Result<(String, Ended), BullError> {
    use bullmq::JobState::{Completed, Failed, Unknown};
    let key = inner.keys.job(before.as_str());
    let field = match redis.queue.get_job_state(before.as_str()).await? {
        Completed => Some("returnvalue"),
        Failed => Some("failedReason"),
        Unknown => None,
        _ => return Ok((key, Ended::No)),
    };
    let word = match field {
        Some(field) => {
            let mut read = redis::cmd("HGET");
            let word: Option<Vec<u8>> = redis.queue.connection().cmd(read.arg(&key).arg(field)).await?;
            word.map(|word| String::from_utf8_lossy(&word).into_owned())
        }
        None => None,
    };
    let end = match (field, word) {
        (Some("returnvalue"), Some(value)) => Some(End::Completed(value)),
        (Some(_), Some(why)) => Some(End::Failed(why)),
        // It has left the queue, maybe just now.
        _ => end_notes::of_one_that_left(inner, redis, before.as_str()).await?,
    };
    Ok((key, end.map_or(Ended::TakenOut, Ended::With)))
}

/// Whether a job is put off until others have ended.
pub(super) async fn is_watched(inner: &Inner, redis: &BullClient, job: &Job) -> Result<bool, BullError> {
    if job.options.after.is_empty() {
        return Ok(false);
    }
    let mut score = redis::cmd("ZSCORE");
    score.arg(inner.keys.bull("delayed")).arg(job.id.as_str());
    let score = redis.queue.connection().cmd::<Option<f64>>(&mut score).await?;
    let due = score.map(|score| Timestamp::from_millis((score / keys::SCORE_PER_MS) as i64));
    Ok(due.is_some_and(|due| due.since(job.submitted_at) >= keys::FAR))
}

type Hash = HashMap<String, String>;

/// The results of a job's children, or of the jobs before a watched one, and the reasons why others
/// of them failed: each by the key of the job.
async fn noted(inner: &Inner, redis: &BullClient, id: &str) -> Result<(Hash, Hash), BullError> {
    let mut ask = redis::pipe();
    ask.cmd("HGETALL").arg(inner.keys.processed(id));
    ask.cmd("HGETALL").arg(inner.keys.failed_before(id));
    Ok(redis.queue.connection().pipe(&ask).await?)
}

/// The jobs that a job without a due time waits for.
pub(super) async fn waits_for(inner: &Inner, redis: &BullClient, job: &Job) -> Result<Vec<JobId>, BullError> {
    let mut members = redis::cmd("SMEMBERS");
    members.arg(inner.keys.dependencies(job.id.as_str()));
    let keys: Vec<String> = redis.queue.connection().cmd(&mut members).await?;
    if keys.is_empty() {
        // The job is watched: ends may not have been noted yet.
        use bullmq::JobState::{Completed, Unknown};
        let mut left = Vec::new();
        for id in &job.options.after {
            if !matches!(redis.queue.get_job_state(id.as_str()).await?, Completed | Unknown) {
                left.push(id.clone());
            }
        }
        return Ok(left);
    }
    let mut ids: Vec<_> =
        keys.iter().filter_map(|key| JobId::parse(inner.keys.id_of(key).unwrap_or(key)).ok()).collect();
    ids.sort();
    Ok(ids)
}

/// Whether a job may have waited for others. Jobs that BullMQ has counted, and Jobber's own that
/// name no others, have not: so most jobs are not asked about.
fn may_have_waited(job: &Job) -> bool {
    let id = &job.id;
    !job.options.after.is_empty() || !(id.is_counted() || id.is_scheduled() || id.is_generated())
}

/// What became of the jobs that this job, just taken, has waited for.
pub(super) async fn before(inner: &Inner, redis: &BullClient, job: &Job) -> Result<ParentResults, QueueError> {
    if !may_have_waited(job) {
        return Ok(ParentResults::default());
    }
    let (processed, failed) = inner.link.call(noted(inner, redis, job.id.as_str())).await?;
    let name = |key: &str| inner.keys.id_of(key).unwrap_or(key).to_owned();
    // Other programs decide what a child's failure means to their jobs: it bars only Jobber's own.
    let barred = failed.iter().find(|(key, _)| job.options.after.iter().any(|id| id.as_str() == name(key)));
    let barred =
        barred.map(|(key, why)| format!("not run, because job {}, which comes before it, failed: {why}", name(key)));
    let results: Map<_, _> =
        processed.iter().filter_map(|(key, value)| Some((name(key), read::result(value)?))).collect();
    Ok(ParentResults { barred, results })
}
