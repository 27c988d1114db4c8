//! Jobs that wait for others: BullMQ's parents and children. What a job comes after are its children, with the policy
//! `continueParentOnFailure`: when one of them fails, the parent is handed out, and is failed by the worker that gets it.
//! So history hears of it; BullMQ's own `failParentOnFailure` would fail it unseen.
//!
//! A job has one parent at most. That is BullMQ's limit, and here it means: one job at most can come after another, and a
//! second one is refused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bullmq::FlowJob;
use serde_json::Map;

use super::super::{Before, QueueError, QueueErrorKind};
use super::connect::{Redis, Trouble};
use super::{Inner, format, read};
use crate::domain::{Job, JobId, JobState};

/// Whoever has been putting a job behind others for longer than this has died.
const LINKING: Duration = Duration::from_secs(10);
/// Jobs that are looked after at once.
const BATCH: usize = 100;

/// A call's jobs, each with those that come before it below it: those of the call, and those that are in the queue.
pub(super) async fn trees(inner: &Inner, redis: &Redis, jobs: &[Arc<Job>]) -> Result<Vec<FlowJob>, QueueError> {
    let mut ready: HashMap<&JobId, FlowJob> = HashMap::new();
    let mut order: Vec<&JobId> = Vec::new();
    let mut taken: HashSet<&JobId> = HashSet::new();
    for job in jobs {
        let data = format::data(job, inner.settings.rules(&job.name));
        let mut flow = flow(inner, job.name.as_str(), data)?.options(format::options(job));
        for id in &job.options.after {
            if !taken.insert(id) {
                return Err(refused(format!("only one job can come after {id} on Redis, and this call names two")));
            }
            let mut child = match ready.remove(id) {
                Some(child) => child,
                None => standing(inner, redis, id, &job.id).await?,
            };
            if let Some(options) = &mut child.opts {
                options.continue_parent_on_failure = Some(true);
            }
            flow = flow.add_child(child);
        }
        order.push(&job.id);
        ready.insert(&job.id, flow);
    }
    Ok(order.into_iter().filter_map(|id| ready.remove(id)).collect())
}

fn flow(inner: &Inner, name: &str, data: serde_json::Value) -> Result<FlowJob, QueueError> {
    FlowJob::new(name, &inner.settings.queue, data).map_err(|e| Trouble::from(e).into())
}

fn refused(why: String) -> QueueError {
    QueueError::new(QueueErrorKind::Rejected, why)
}

/// A job of the queue as the child of another. BullMQ only notes the parent when it finds the job there.
async fn standing(inner: &Inner, redis: &Redis, id: &JobId, follower: &JobId) -> Result<FlowJob, QueueError> {
    let unknown = || refused(format!("there is no job {id} in the queue that another could come after"));
    let (state, fields) = inner.link.call(read::fields(inner, redis, id)).await?.ok_or_else(unknown)?;
    if state == JobState::Failed {
        return Err(refused(format!("job {id} has failed: nothing can come after it unless it is retried")));
    }
    if let Some(parent) = fields.get("parentKey")
        && inner.keys.id_of(parent) != Some(follower.as_str())
    {
        let mut there = redis::cmd("EXISTS");
        there.arg(parent);
        if inner.link.call(redis.queue.connection().cmd::<bool>(&mut there)).await? {
            let other = inner.keys.id_of(parent).unwrap_or(parent);
            let why = format!(
                "job {other} comes after {id} already, and on Redis only one can; let this one come after {other}"
            );
            return Err(refused(why));
        }
    }
    let stored = bullmq::Job::from_redis_hash(id.as_str(), &fields).map_err(|e| QueueError::from(Trouble::from(e)))?;
    let options = bullmq::JobOptions { job_id: Some(id.to_string()), parent: None, ..stored.opts().clone() };
    Ok(flow(inner, stored.name(), stored.data().clone())?.options(options))
}

/// Puts on record that these jobs are being put behind others, until [`linked`].
pub(super) async fn linking(inner: &Inner, redis: &Redis, jobs: &[Arc<Job>]) -> Result<(), Trouble> {
    let now = inner.clock.now().as_millis();
    let mut note = redis::pipe();
    for job in jobs.iter().filter(|job| !job.options.after.is_empty()) {
        note.cmd("ZADD").arg(inner.keys.linking()).arg(now).arg(job.id.as_str()).ignore();
    }
    Ok(redis.queue.connection().pipe(&note).await?)
}

/// Looks after jobs that were just put behind others, and takes them off the record.
pub(super) async fn linked(inner: &Inner, redis: &Redis, jobs: &[Arc<Job>]) -> Result<(), Trouble> {
    for job in jobs.iter().filter(|job| !job.options.after.is_empty()) {
        settle_late_failures(inner, redis, job).await?;
        let mut done = redis::cmd("ZREM");
        done.arg(inner.keys.linking()).arg(job.id.as_str());
        redis.queue.connection().cmd::<()>(&mut done).await?;
    }
    Ok(())
}

/// Does what a process that died in between has left undone.
pub(super) async fn mend_once(inner: &Inner, redis: &Redis) -> Result<(), Trouble> {
    let until = (inner.clock.now() - LINKING).as_millis();
    let mut left = redis::cmd("ZRANGEBYSCORE");
    left.arg(inner.keys.linking()).arg("-inf").arg(until).arg("LIMIT").arg(0).arg(BATCH);
    for id in redis.queue.connection().cmd::<Vec<String>>(&mut left).await? {
        let job = match redis.queue.get_job(&id).await? {
            Some(stored) => format::read(&stored, &inner.settings).ok(),
            None => None,
        };
        match job {
            Some(job) => linked(inner, redis, &[Arc::new(job)]).await?,
            None => {
                let mut gone = redis::cmd("ZREM");
                gone.arg(inner.keys.linking()).arg(&id);
                redis.queue.connection().cmd::<()>(&mut gone).await?;
            }
        }
    }
    Ok(())
}

/// Bars a job whose predecessor failed while it was being put behind it: BullMQ then keeps it waiting for good.
async fn settle_late_failures(inner: &Inner, redis: &Redis, job: &Job) -> Result<(), Trouble> {
    for id in &job.options.after {
        let Some((JobState::Failed, fields)) = read::fields(inner, redis, id).await? else { continue };
        let child = inner.keys.job(id.as_str());
        let mut pending = redis::cmd("SISMEMBER");
        pending.arg(inner.keys.dependencies(job.id.as_str())).arg(&child);
        if !redis.queue.connection().cmd::<bool>(&mut pending).await? {
            continue;
        }
        let reason = fields.get("failedReason").map_or("", String::as_str);
        let mut bar = redis::cmd("HSET");
        bar.arg(inner.keys.failed_before(job.id.as_str())).arg(&child).arg(reason);
        redis.queue.connection().cmd::<()>(&mut bar).await?;
        redis.queue.remove_child_dependency(id.as_str(), &inner.keys.job(job.id.as_str())).await?;
    }
    Ok(())
}

/// The jobs that a job waits for.
pub(super) async fn waits_for(inner: &Inner, redis: &Redis, id: &JobId) -> Result<Vec<JobId>, Trouble> {
    let mut members = redis::cmd("SMEMBERS");
    members.arg(inner.keys.dependencies(id.as_str()));
    let keys: Vec<String> = redis.queue.connection().cmd(&mut members).await?;
    let mut ids: Vec<_> =
        keys.iter().filter_map(|key| JobId::parse(inner.keys.id_of(key).unwrap_or(key)).ok()).collect();
    ids.sort();
    Ok(ids)
}

/// Whether a job may have waited for others. Those that BullMQ has counted, and our own that say nothing, have not:
/// so most jobs are not asked about.
fn may_have_waited(job: &Job) -> bool {
    let id = job.id.as_str();
    let counted = id.bytes().all(|b| b.is_ascii_digit()) || id.starts_with("repeat:");
    let ours = uuid::Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 7);
    !job.options.after.is_empty() || !(counted || ours)
}

/// What became of the jobs that a job, just taken, has waited for.
pub(super) async fn before(inner: &Inner, redis: &Redis, job: &Job) -> Result<Before, QueueError> {
    if !may_have_waited(job) {
        return Ok(Before::default());
    }
    let id = job.id.as_str();
    let mut ask = redis::pipe();
    ask.cmd("HGETALL").arg(inner.keys.processed(id));
    ask.cmd("HGETALL").arg(inner.keys.failed_before(id));
    type Hash = HashMap<String, String>;
    let (processed, failed): (Hash, Hash) = inner.link.call(redis.queue.connection().pipe(&ask)).await?;
    let name = |key: &str| inner.keys.id_of(key).unwrap_or(key).to_owned();
    // What others made of a child's failure is theirs to decide: only ours are barred by it.
    let barred = failed.iter().find(|(key, _)| job.options.after.iter().any(|id| id.as_str() == name(key)));
    let barred =
        barred.map(|(key, why)| format!("not run, because job {}, which comes before it, failed: {why}", name(key)));
    let results: Map<_, _> =
        processed.iter().filter_map(|(key, value)| Some((name(key), read::result(value)?))).collect();
    Ok(Before { barred, results })
}
