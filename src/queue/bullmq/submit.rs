//! Jobs in: all of a call in one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bullmq::FlowJob;
use serde::{Deserialize, Serialize};

use super::super::{Idempotency, QueueError, QueueErrorKind, Submission};
use super::connect::{Redis, Trouble};
use super::{Inner, after, format};
use crate::domain::{Job, JobId};

/// What a job of a large call adds to the caller's patience.
const PER_JOB: Duration = Duration::from_millis(1);

/// What is remembered of an idempotent request: before its jobs are added, and, as `done`, after.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    request: [u8; 32],
    ids: Vec<JobId>,
    done: bool,
}

pub(super) async fn submit(
    inner: &Inner,
    mut jobs: Vec<Arc<Job>>,
    idempotency: Option<Idempotency>,
) -> Result<Vec<Submission>, QueueError> {
    let redis = inner.link.get().await?;
    let Some(wanted) = idempotency else {
        return add(inner, &redis, &jobs).await;
    };
    let key = inner.keys.idempotency(&wanted.key);
    let mut ours =
        Remembered { request: wanted.request, ids: jobs.iter().map(|job| job.id.clone()).collect(), done: false };
    let before = inner.link.call(remember(&redis, &key, &ours, Some(wanted.ttl))).await?;
    if let Some(before) = before {
        let before: Remembered = serde_json::from_str(&before).map_err(|e| {
            QueueError::new(QueueErrorKind::Corrupt, "what is stored under an idempotency key can't be read")
                .caused_by(e)
        })?;
        if before.request != wanted.request || before.ids.len() != jobs.len() {
            let message = "this idempotency key was used for another request; use a new one";
            return Err(QueueError::new(QueueErrorKind::KeyReused, message));
        }
        if before.done {
            return Ok(before.ids.into_iter().map(|id| Submission { id, duplicate: true }).collect());
        }
        // That request is still being worked on, or was cut off: with its ids, doing it once more changes nothing.
        let renamed: HashMap<_, _> = jobs.iter().map(|job| job.id.clone()).zip(before.ids.iter().cloned()).collect();
        for (job, id) in jobs.iter_mut().zip(before.ids) {
            let mut again = Job { id, ..(**job).clone() };
            for other in &mut again.options.after {
                if let Some(id) = renamed.get(other) {
                    *other = id.clone();
                }
            }
            *job = Arc::new(again);
        }
    }
    let submitted = add(inner, &redis, &jobs).await?;
    ours.ids = submitted.iter().map(|s| s.id.clone()).collect();
    ours.done = true;
    inner.link.call(remember(&redis, &key, &ours, None)).await?;
    Ok(submitted)
}

/// Stores under the key if nothing is there, and answers what was; without `ttl`, replaces what is there.
async fn remember(
    redis: &Redis,
    key: &str,
    what: &Remembered,
    ttl: Option<Duration>,
) -> Result<Option<String>, Trouble> {
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

async fn add(inner: &Inner, redis: &Redis, jobs: &[Arc<Job>]) -> Result<Vec<Submission>, QueueError> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let patience = PER_JOB * u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    let known = inner.link.call_longer(patience, known(inner, redis, jobs)).await?;
    let linked = jobs.iter().any(|job| !job.options.after.is_empty());
    let ids = if linked {
        add_linked(inner, redis, jobs, &known, patience).await?
    } else {
        inner.link.call_longer(patience, add_all(inner, redis, jobs)).await?
    };
    let mut seen = known;
    let submissions = jobs.iter().zip(ids).map(|(job, id)| {
        // BullMQ answers with the id that stands for the job, whether it was new or not.
        let id = JobId::parse(&id)
            .map_err(|e| QueueError::new(QueueErrorKind::Corrupt, "a job has an id that can't be used").caused_by(e))?;
        let duplicate = id != job.id || !seen.insert(id.to_string());
        Ok(Submission { id, duplicate })
    });
    submissions.collect()
}

/// Adds jobs of which some come after others, in one transaction. They keep their ids: without deduplication none can
/// take another's place.
async fn add_linked(
    inner: &Inner,
    redis: &Redis,
    jobs: &[Arc<Job>],
    known: &HashSet<String>,
    patience: Duration,
) -> Result<Vec<String>, QueueError> {
    if let Some(job) = jobs.iter().find(|job| job.options.deduplication.is_some()) {
        let why = format!("job {} has a deduplication key, which can't go with jobs that come after others", job.id);
        return Err(QueueError::new(QueueErrorKind::Rejected, why));
    }
    let new: Vec<_> = jobs.iter().filter(|job| !known.contains(job.id.as_str())).cloned().collect();
    let after::Linked { trees, watched, earlier } = after::link(inner, &new)?;
    inner.link.call_longer(patience, after::watch(inner, redis, &watched)).await?;
    if let Err(refused) = after::check(inner, redis, &earlier).await {
        inner.link.call_longer(patience, after::unwatch(inner, redis, &watched)).await?;
        return Err(refused);
    }
    inner.link.call_longer(patience, redis.producer.add_bulk(trees)).await?;
    // What they come after may have ended meanwhile.
    inner.watch.heard_of_an_end();
    Ok(jobs.iter().map(|job| job.id.to_string()).collect())
}

/// Those of the ids that were chosen by somebody, and so may be there already.
async fn known(inner: &Inner, redis: &Redis, jobs: &[Arc<Job>]) -> Result<HashSet<String>, Trouble> {
    let chosen: Vec<_> = jobs.iter().filter(|job| uuid::Uuid::parse_str(job.id.as_str()).is_err()).collect();
    if chosen.is_empty() {
        return Ok(HashSet::new());
    }
    let mut ask = redis::pipe();
    for job in &chosen {
        ask.cmd("EXISTS").arg(inner.keys.job(job.id.as_str()));
    }
    let there: Vec<bool> = redis.queue.connection().pipe(&ask).await?;
    Ok(chosen.iter().zip(there).filter(|(_, there)| *there).map(|(job, _)| job.id.to_string()).collect())
}

/// Adds the jobs; one alone takes one round trip, many are one transaction.
async fn add_all(inner: &Inner, redis: &Redis, jobs: &[Arc<Job>]) -> Result<Vec<String>, Trouble> {
    let data = |job: &Job| format::data(job, inner.settings.rules(&job.name));
    if let [job] = jobs {
        let added = redis.queue.add(job.name.as_str(), data(job)).options(format::options(job)).await?;
        return Ok(vec![added.id().to_owned()]);
    }
    let flows = jobs.iter().map(|job| {
        let flow = FlowJob::new(job.name.as_str(), &inner.settings.queue, data(job))?;
        Ok(flow.options(format::options(job)))
    });
    let flows: Vec<_> = flows.collect::<Result<_, bullmq::Error>>()?;
    let nodes = redis.producer.add_bulk(flows).await?;
    Ok(nodes.into_iter().map(|node| node.job.id().to_owned()).collect())
}
