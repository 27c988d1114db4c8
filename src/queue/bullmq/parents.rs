//! Jobs that wait for others, their parents in Jobber's words (BullMQ calls the job that waits the parent, and those
//! that it waits for its children).
//!
//! The jobs of one call become a flow of BullMQ's, in one transaction, with the policy `continueParentOnFailure`: when
//! a job fails, BullMQ hands the one after it out, and the worker that gets that one fails it. So history hears of the
//! end; BullMQ's own `failParentOnFailure` would fail it unseen.
//!
//! A job that can't be part of a flow is watched (see [`super::watched`]). Ends of the jobs before it are noted where
//! BullMQ notes those of children, so both ways meet when a worker takes the job ([`results`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bullmq::FlowJob;
use serde_json::Map;
use tokio::sync::{mpsc, watch};

use super::super::lease::not_run_because;
use super::super::{Lease, LeaseOps, OutputChunk, ParentResults, QueueError};
use super::connect::{BullClient, BullError};
use super::counts::Counts;
use super::{Inner, Loss, announced, format, keys, read, watched};
use crate::domain::{AcceptedJob, AttemptNumber, Job, JobId, JobState, Progress, Verdict};

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
        let mut flow =
            FlowJob::new(job.name.as_str(), inner.settings.queue().as_str(), data).map_err(BullError::from)?;
        let mut options = format::options(job);
        // One with a limit goes on into the line of its group, which BullMQ does not know.
        let is_watched = !after.is_empty() && job.options.group_limit.is_some();
        if !is_watched && after.iter().all(|id| roots.contains_key(id)) {
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

/// Refuses a call whose jobs come after one that the queue does not know, or that has failed. Asked once the watched
/// jobs are on record: the worker of a job that ends after this answer knows that others come after it.
pub(super) async fn refuse_unknown_or_failed(
    inner: &Inner,
    redis: &BullClient,
    ids: &[&JobId],
) -> Result<(), QueueError> {
    use bullmq::JobState::{Failed, Unknown};
    for id in ids {
        match inner.link.call(redis.queue.get_job_state(id.as_str())).await? {
            Unknown => return Err(QueueError::unknown_parent(id)),
            Failed => return Err(QueueError::failed_parent(id)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a job may have waited for others. Jobs that BullMQ has counted, and Jobber's own that
/// name no others, have not: so most jobs are not asked about.
fn may_have_waited(job: &Job) -> bool {
    let id = &job.id;
    !job.options.after.is_empty() || !(id.is_counted() || id.is_scheduled() || id.is_generated())
}

/// What became of the jobs that this job, just taken, has waited for.
pub(super) async fn results(inner: &Inner, redis: &BullClient, job: &Job) -> Result<ParentResults, QueueError> {
    if !may_have_waited(job) {
        return Ok(ParentResults::default());
    }
    let (processed, failed) = inner.link.call(watched::noted(inner, redis, job.id.as_str())).await?;
    let name = |key: &str| inner.keys.id_of(key).unwrap_or(key).to_owned();
    // Other programs decide what a child's failure means to their jobs: it bars only Jobber's own.
    let barred = failed.iter().find(|(key, _)| job.options.after.iter().any(|id| id.as_str() == name(key)));
    let barred = barred.map(|(key, why)| not_run_because(&name(key), why));
    let results: Map<_, _> =
        processed.iter().filter_map(|(key, value)| Some((name(key), read::result(value)?))).collect();
    Ok(ParentResults { barred, results })
}

/// The lease of a job that BullMQ's worker has ended by itself: when a job has failed, it fails the one after it
/// (`failParentOnFailure`) without a word to the closure. So that history hears of it, that job is handed out all the
/// same, barred, with nothing left to settle.
struct EndedLease {
    /// Keeps the channel open, so that the lease does not count as lost.
    _loss: Loss,
}

#[async_trait]
impl LeaseOps for EndedLease {
    fn progress(&self, _: &Progress) {}

    fn output(&self, _: OutputChunk) {}

    fn has_room(&self) -> bool {
        true
    }

    async fn started(&self) -> bool {
        false
    }

    fn withdrawn(&self) {}

    async fn settle(&self, _: Verdict) {}

    fn release(&self) {}
}

/// Hands out a job that BullMQ's worker failed by itself.
pub(super) async fn hand_out_failed(inner: Arc<Inner>, leases: mpsc::Sender<Lease>, id: String) {
    match lease_of_failed(&inner, &id).await {
        // A worker that ends has no use for it.
        Ok(Some(lease)) => drop(leases.send(lease).await),
        Ok(None) => tracing::warn!(job = id, "BullMQ failed a job that is not there any more; history misses its end"),
        Err(error) => tracing::warn!(job = id, %error, "BullMQ failed a job; history misses its end"),
    }
}

async fn lease_of_failed(inner: &Inner, id: &str) -> Result<Option<Lease>, QueueError> {
    let Ok(id) = JobId::parse(id) else { return Ok(None) };
    let redis = inner.link.get().await?;
    let Some((JobState::Failed, fields)) = inner.link.call(read::fields(inner, &redis, &id)).await? else {
        return Ok(None);
    };
    let Ok(stored) = bullmq::Job::from_redis_hash(id.as_str(), &fields) else { return Ok(None) };
    let hash = format::Stored::of_hash(id.as_str(), &fields);
    let Some(job) = format::read(&hash, &inner.settings).ok().or_else(|| format::outline(&hash)) else {
        return Ok(None);
    };
    let counts = Counts::of(&fields);
    let (loss, losses) = watch::channel(None);
    let ops = Arc::new(EndedLease { _loss: Arc::new(loss) });
    let lease = Lease::new(job, AttemptNumber(counts.started), counts.finished, 0, losses, ops);
    let barred = Some(stored.failed_reason().to_owned());
    let lease = lease.announced(announced::is_announced_by(&id, &fields));
    Ok(Some(lease.with_parents(ParentResults { barred, ..ParentResults::default() })))
}
