//! Adds jobs: all jobs of a call in one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bullmq::FlowJob;
use serde::{Deserialize, Serialize};

use super::super::{Idempotency, QueueError, QueueErrorKind, Submission};
use super::connect::{BullClient, BullError};
use super::{Inner, announced, counts, format, group_window, keys, parents, read, submit_traced, watched};
use crate::domain::{AcceptedJob, Job, JobId, Timestamp};

/// How much each job of a large call adds to the caller's patience.
const PER_JOB: Duration = Duration::from_millis(1);

/// What is remembered of an idempotent request: before its jobs are added, and, as `done`, after.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    request: [u8; 32],
    ids: Vec<JobId>,
    /// When the jobs were submitted first: a repeat of the request adds the same jobs. Empty in
    /// what an older version wrote.
    #[serde(default)]
    submitted_at: Vec<Timestamp>,
    done: bool,
}

pub(super) async fn submit(
    inner: &Inner,
    jobs: Vec<AcceptedJob>,
    idempotency: Option<Idempotency>,
) -> Result<Vec<Submission>, QueueError> {
    let redis = inner.link.get().await?;
    counts::note_starts(inner, &redis).await?;
    let Some(idempotency) = idempotency else {
        return add(inner, &redis, &jobs).await;
    };
    let key = inner.keys.idempotency(&idempotency.key);
    let mut ours = Remembered {
        request: idempotency.request,
        ids: jobs.iter().map(|job| job.job.id.clone()).collect(),
        submitted_at: jobs.iter().map(|job| job.job.submitted_at).collect(),
        done: false,
    };
    let before = inner.link.call(remember(&redis, &key, &ours, Some(idempotency.ttl))).await?;
    let submitted = match before {
        None => {
            // Noted before the jobs are added, so that the process that ends one of them, and lets
            // it go, tells the repeat.
            inner.link.call_longer(patience(jobs.len()), note_requested(inner, &redis, &ours.ids)).await?;
            add(inner, &redis, &jobs).await?
        }
        Some(before) => {
            let before: Remembered = serde_json::from_str(&before).map_err(|e| {
                QueueError::new(QueueErrorKind::Corrupt, "what is stored under an idempotency key can't be read")
                    .caused_by(e)
            })?;
            idempotency.check(&before.request)?;
            if before.ids.len() != jobs.len() {
                return Err(QueueError::key_reused(&idempotency.key));
            }
            if !before.done {
                // That request is still being worked on, or was cut off. Doing it once more with
                // its ids changes nothing, but for jobs that have ended and left the queue since.
                let ended = inner.link.call_longer(patience(jobs.len()), ended(inner, &redis, &before.ids)).await?;
                let left =
                    as_before(jobs, &before).into_iter().filter(|job| !ended.contains(&job.job.id)).collect::<Vec<_>>();
                add(inner, &redis, &left).await?;
            }
            let answer = duplicates_of(inner, &redis, before.ids.clone()).await?;
            if before.done {
                return Ok(answer);
            }
            answer
        }
    };
    let noted = std::mem::replace(&mut ours.ids, submitted.iter().map(|s| s.id.clone()).collect());
    ours.done = true;
    inner.link.call(remember(&redis, &key, &ours, None)).await?;
    let mut forget = redis::cmd("HDEL");
    forget.arg(inner.keys.requested()).arg(noted.iter().chain(&ours.ids).map(JobId::as_str).collect::<Vec<_>>());
    if let Err(error) = inner.link.call(redis.queue.connection().cmd::<()>(&mut forget)).await {
        tracing::debug!(%error, "jobs of an answered request are still noted");
    }
    Ok(submitted)
}

/// Notes jobs of a request that is not answered yet. Redis forgets in time what no request asks for again.
async fn note_requested(inner: &Inner, redis: &BullClient, ids: &[JobId]) -> Result<(), BullError> {
    const KEPT: Duration = Duration::from_secs(7 * 86_400);
    if ids.is_empty() {
        return Ok(());
    }
    let mut pipe = redis::pipe();
    let noted: Vec<_> = ids.iter().map(|id| (id.as_str(), keys::REQUESTED)).collect();
    pipe.cmd("HSET").arg(inner.keys.requested()).arg(noted).ignore();
    pipe.cmd("EXPIRE").arg(inner.keys.requested()).arg(KEPT.as_secs()).ignore();
    Ok(redis.queue.connection().pipe::<()>(&pipe).await?)
}

/// The jobs that were added and have ended.
async fn ended(inner: &Inner, redis: &BullClient, ids: &[JobId]) -> Result<HashSet<JobId>, BullError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let mut ask = redis::cmd("HMGET");
    ask.arg(inner.keys.requested()).arg(ids.iter().map(JobId::as_str).collect::<Vec<_>>());
    let found: Vec<Option<String>> = redis.queue.connection().cmd(&mut ask).await?;
    let ended = ids.iter().zip(found).filter(|(_, found)| found.as_deref() == Some(keys::ENDED));
    Ok(ended.map(|(id, _)| id.clone()).collect())
}

/// The jobs with the ids and times of submission that they had in the first request.
fn as_before(jobs: Vec<AcceptedJob>, before: &Remembered) -> Vec<AcceptedJob> {
    let new: HashMap<_, _> = jobs.iter().map(|job| job.job.id.clone()).zip(before.ids.iter().cloned()).collect();
    let times = before.submitted_at.iter().copied().map(Some).chain(std::iter::repeat(None));
    let renamed = jobs.iter().zip(&before.ids).zip(times).map(|((job, id), time)| {
        let submitted_at = time.unwrap_or(job.job.submitted_at);
        let mut again = Job { id: id.clone(), submitted_at, ..(*job.job).clone() };
        for other in &mut again.options.after {
            if let Some(id) = new.get(other) {
                *other = id.clone();
            }
        }
        AcceptedJob { job: Arc::new(again), body: job.body.clone() }
    });
    renamed.collect()
}

/// The answer for jobs whose places the jobs with these ids have taken.
async fn duplicates_of(inner: &Inner, redis: &BullClient, ids: Vec<JobId>) -> Result<Vec<Submission>, QueueError> {
    let jobs = inner.link.call_longer(patience(ids.len()), read::jobs(inner, redis, &ids)).await?;
    Ok(ids.into_iter().zip(jobs).map(|(id, job)| Submission::duplicate(id, job)).collect())
}

fn patience(jobs: usize) -> Duration {
    PER_JOB * u32::try_from(jobs).unwrap_or(u32::MAX)
}

/// Stores under the key if it is free, and answers its former value. Without `ttl`, replaces the
/// value that is there.
async fn remember(
    redis: &BullClient,
    key: &str,
    what: &Remembered,
    ttl: Option<Duration>,
) -> Result<Option<String>, BullError> {
    let text = serde_json::to_string(what).map_err(bullmq::Error::from)?;
    let mut set = redis::cmd("SET");
    set.arg(key).arg(text);
    match ttl {
        Some(ttl) => set.arg("NX").arg("PX").arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)),
        None => set.arg("XX").arg("KEEPTTL"),
    };
    set.arg("GET");
    Ok(redis.queue.connection().cmd(&mut set).await?)
}

async fn add(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<Vec<Submission>, QueueError> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let patience = patience(jobs.len());
    let known = inner.link.call_longer(patience, already_there(inner, redis, jobs)).await?;
    inner.link.call_longer(patience, group_window::park(inner, redis, jobs)).await?;
    let linked = jobs.iter().any(|job| !job.job.options.after.is_empty());
    let ids = if linked {
        add_linked(inner, redis, jobs, &known, patience).await?
    } else {
        inner.link.call_longer(patience, add_all(inner, redis, jobs)).await?
    };
    // Whoever looks after the groups next does what fails here.
    if let Err(error) = inner.link.call_longer(patience, group_window::admit(inner, redis, jobs)).await {
        tracing::debug!(%error, "jobs of a group with a limit become ready later");
    }
    let ids = ids
        .iter()
        .map(|id| JobId::parse(id))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| QueueError::new(QueueErrorKind::Corrupt, "a job has an id that can't be used").caused_by(e))?;
    let others = inner.link.call_longer(patience, taken_by_others(inner, redis, jobs)).await?;
    let mut seen = known;
    // BullMQ answers with the id that stands for the job, whether it was new or not.
    let new = jobs
        .iter()
        .zip(&ids)
        .zip(others)
        .map(|((job, id), other)| *id == job.job.id && !other && seen.insert(id.to_string()));
    let new: Vec<_> = new.collect();
    let duplicates: Vec<_> = ids.iter().zip(&new).filter(|(_, new)| !**new).map(|(id, _)| id.clone()).collect();
    let mut duplicates = duplicates_of(inner, redis, duplicates).await?.into_iter();
    let mut submissions = Vec::with_capacity(jobs.len());
    for ((job, id), new) in jobs.iter().zip(ids).zip(new) {
        let submission = if new {
            Submission::new(job.clone())
        } else {
            duplicates.next().unwrap_or_else(|| Submission::duplicate(id, None))
        };
        submissions.push(again_without_holder(inner, redis, job, submission).await?);
    }
    Ok(submissions)
}

/// Frees a deduplication key whose holder is gone, and adds the job. A job that holds a key for a
/// time may leave the queue before that is over; to BullMQ the key stays taken then.
async fn again_without_holder(
    inner: &Inner,
    redis: &BullClient,
    job: &AcceptedJob,
    submission: Submission,
) -> Result<Submission, QueueError> {
    let Some(deduplication) = &job.job.options.deduplication else { return Ok(submission) };
    if !submission.duplicate || submission.job.is_some() || submission.id == job.job.id {
        return Ok(submission);
    }
    let holder = submission.id.as_str();
    let again = async {
        let mut there = redis::cmd("EXISTS");
        if redis.queue.connection().cmd(there.arg(inner.keys.job(holder))).await? {
            return Ok(None);
        }
        redis.queue.remove_deduplication_key(&deduplication.key, holder).await?;
        Ok::<_, BullError>(add_all(inner, redis, std::slice::from_ref(job)).await?.pop())
    };
    match inner.link.call(again).await? {
        Some(id) if id == job.job.id.as_str() => Ok(Submission::new(job.clone())),
        Some(id) => match JobId::parse(&id) {
            Ok(id) => Ok(duplicates_of(inner, redis, vec![id]).await?.pop().unwrap_or(submission)),
            Err(_) => Ok(submission),
        },
        None => Ok(submission),
    }
}

/// Adds jobs that come after others, in one transaction. They keep their ids: without deduplication
/// no job can take another's place.
async fn add_linked(
    inner: &Inner,
    redis: &BullClient,
    jobs: &[AcceptedJob],
    known: &HashSet<String>,
    patience: Duration,
) -> Result<Vec<String>, QueueError> {
    if let Some(job) = jobs.iter().find(|job| job.job.options.deduplication.is_some()) {
        let why =
            format!("job {} has a deduplication key, which can't go with jobs that come after others", job.job.id);
        return Err(QueueError::new(QueueErrorKind::Rejected, why));
    }
    let new: Vec<_> = jobs.iter().filter(|job| !known.contains(job.job.id.as_str())).cloned().collect();
    let parents::Linked { trees, watched, earlier } = parents::link(inner, &new)?;
    inner.link.call_longer(patience, watched::watch(inner, redis, &watched)).await?;
    if let Err(refused) = parents::refuse_unknown_or_failed(inner, redis, &earlier).await {
        inner.link.call_longer(patience, watched::unwatch(inner, redis, &watched)).await?;
        return Err(refused);
    }
    inner.link.call_longer(patience, redis.producer.add_bulk(trees)).await?;
    if let Err(error) = inner.link.call_longer(patience, submit_traced::note(inner, redis, &new)).await {
        tracing::debug!(%error, "jobs of a flow lack their trace contexts");
    }
    // The jobs that they come after may have ended meanwhile.
    inner.watch.wake();
    Ok(jobs.iter().map(|job| job.job.id.to_string()).collect())
}

/// Of the ids that callers chose, those that are in the queue already.
async fn already_there(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<HashSet<String>, BullError> {
    let chosen: Vec<_> = jobs.iter().map(|job| &job.job).filter(|job| is_chosen(job)).collect();
    if chosen.is_empty() {
        return Ok(HashSet::new());
    }
    let mut ask = redis::pipe();
    for job in &chosen {
        ask.cmd("EXISTS").arg(inner.keys.job(job.id.as_str()));
    }
    let there: Vec<bool> = redis.queue.connection().pipe(&ask).await?;
    let mut forget = redis::pipe();
    for (job, _) in chosen.iter().zip(&there).filter(|(_, there)| !**there) {
        // The output of an earlier job of this id outlives that job for late readers: it is not this job's.
        forget.cmd("DEL").arg(inner.keys.output(job.id.as_str())).ignore();
    }
    if there.contains(&false) {
        redis.queue.connection().pipe::<()>(&forget).await?;
    }
    Ok(chosen.iter().zip(there).filter(|(_, there)| *there).map(|(job, _)| job.id.to_string()).collect())
}

/// Tells for each job whether its id was chosen and belongs to another job, which came first. Notes of the others that
/// a server of Jobber's has submitted them, which their ids do not show.
async fn taken_by_others(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<Vec<bool>, BullError> {
    let mut ask = redis::pipe();
    for job in jobs.iter().map(|job| &job.job).filter(|job| is_chosen(job)) {
        ask.cmd("HGET").arg(inner.keys.job(job.id.as_str())).arg("timestamp");
        announced::note_submission(inner, &mut ask, job);
    }
    if ask.is_empty() {
        return Ok(vec![false; jobs.len()]);
    }
    let mut times = redis.queue.connection().pipe::<Vec<Option<String>>>(&ask).await?.into_iter();
    let mut is_anothers = |job: &Job| {
        is_chosen(job) && times.next().flatten().is_some_and(|time| time != job.submitted_at.as_millis().to_string())
    };
    Ok(jobs.iter().map(|job| is_anothers(&job.job)).collect())
}

fn is_chosen(job: &Job) -> bool {
    uuid::Uuid::parse_str(job.id.as_str()).is_err()
}

/// Adds the jobs; one alone takes one round trip, many are one transaction.
async fn add_all(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<Vec<String>, BullError> {
    if jobs.iter().any(|job| job.job.trace.is_some()) {
        return submit_traced::add(inner, redis, jobs).await;
    }
    let data = |job: &AcceptedJob| format::data(job, inner.settings.rules(&job.job.name));
    if let [job] = jobs {
        let options = format::options(&job.job);
        let added = redis.queue.add(job.job.name.as_str(), data(job)).options(options).await?;
        return Ok(vec![added.id().to_owned()]);
    }
    let flows = jobs.iter().map(|job| {
        let flow = FlowJob::new(job.job.name.as_str(), inner.settings.queue().as_str(), data(job))?;
        Ok(flow.options(format::options(&job.job)))
    });
    let flows: Vec<_> = flows.collect::<Result<_, bullmq::Error>>()?;
    let nodes = redis.producer.add_bulk(flows).await?;
    Ok(nodes.into_iter().map(|node| node.job.id().to_owned()).collect())
}
