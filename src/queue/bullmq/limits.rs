//! How much of a queue may run: BullMQ's own limits, which its scripts and so workers of every language obey.

use std::time::Duration;

use super::super::QueueError;
use super::Inner;
use super::claim::wake_another;
use super::connect::BullError;
use crate::domain::{QueueLimit, StartRate};

/// The limits of the queue.
pub(super) async fn of(inner: &Inner) -> Result<QueueLimit, QueueError> {
    let redis = inner.link.get().await?;
    let limits = async {
        let queue = &redis.queue;
        let (concurrency, rate) = tokio::try_join!(queue.get_global_concurrency(), queue.get_global_rate_limit())?;
        Ok::<_, BullError>((concurrency, rate))
    };
    let (concurrency, rate) = inner.link.call(limits).await?;
    // Another program may have set more than can be told here: that is no limit.
    let count = |n: u64| u32::try_from(n).ok().filter(|n| *n > 0);
    let rate = rate.and_then(|(jobs, ms)| Some(StartRate { jobs: count(jobs)?, per: Duration::from_millis(ms) }));
    Ok(QueueLimit { concurrency: concurrency.and_then(count), rate, fair: None })
}

/// Sets the limits of the queue, in place of those that it has.
///
/// # Errors
/// `Rejected` when groups are to take turns: BullMQ hands out in the order of its list, and its groups are not in the
/// open edition.
pub(super) async fn set(inner: &Inner, limit: QueueLimit) -> Result<(), QueueError> {
    if limit.fair.is_some() {
        return Err(QueueError::unfair());
    }
    let redis = inner.link.get().await?;
    let set = async {
        let queue = &redis.queue;
        match limit.concurrency {
            Some(concurrency) => queue.set_global_concurrency(concurrency.into()).await?,
            None => queue.remove_global_concurrency().await?,
        }
        match limit.rate {
            Some(rate) => {
                let ms = u64::try_from(rate.per.as_millis()).unwrap_or(u64::MAX);
                queue.set_global_rate_limit(rate.jobs.into(), ms).await?;
            }
            None => queue.remove_global_rate_limit().await?,
        }
        Ok::<_, BullError>(())
    };
    inner.link.call(set).await?;
    // One that waits for room looks again: there may be more of it.
    wake_another(inner, &redis).await;
    Ok(())
}
