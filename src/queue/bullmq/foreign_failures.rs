//! Ends that BullMQ's worker brings about by itself. When a child has failed, it fails the parent
//! (`failParentOnFailure`, both in BullMQ's words) without a word to the closure. So that history
//! hears of it, such a job is lent out all the same, barred, with nothing left to settle.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::super::{Lease, LeaseOps, OutputChunk, ParentResults, QueueError};
use super::counts::Counts;
use super::{Inner, Loss, announced, format, read};
use crate::domain::{AttemptNumber, JobId, JobState, Progress, Verdict};

/// A job that has ended already.
struct Ended {
    /// Keeps the channel open, so that the lease does not count as lost.
    _loss: Loss,
}

#[async_trait]
impl LeaseOps for Ended {
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

/// Lends out a job that was failed unseen.
pub(super) async fn lend(inner: Arc<Inner>, lender: mpsc::Sender<Lease>, id: String) {
    match ended(&inner, &id).await {
        // A worker that ends has no use for it.
        Ok(Some(lease)) => drop(lender.send(lease).await),
        Ok(None) => tracing::warn!(job = id, "BullMQ failed a job that is not there any more; history misses its end"),
        Err(error) => tracing::warn!(job = id, %error, "BullMQ failed a job; history misses its end"),
    }
}

async fn ended(inner: &Inner, id: &str) -> Result<Option<Lease>, QueueError> {
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
    let ops = Arc::new(Ended { _loss: Arc::new(loss) });
    let lease = Lease::new(job, AttemptNumber(counts.started), counts.finished, 0, losses, ops);
    let barred = Some(stored.failed_reason().to_owned());
    let lease = lease.announced(announced::is_shown_by(&id, &fields));
    Ok(Some(lease.with_parents(ParentResults { barred, ..ParentResults::default() })))
}
