//! Claims jobs of several queues for one worker: BullMQ's worker of each queue takes jobs of its own, and the slots are
//! [dealt](super::slots) to the queues by what these have ready.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::super::lease::CHANNEL;
use super::super::{ClaimOptions, Claims, QueueError};
use super::Inner;
use super::claim::take_jobs;
use super::connect::{BullClient, BullError};
use super::keys::SCORE_PER_MS;
use super::limiter::{ClaimLimiter, Share};
use super::slots::{Ready, SharedSlots};

/// The wait before another look at the queues when Redis did not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// Starts to take jobs of these queues, in the order of `options.queues`, as soon as Redis is there. Requests to drain
/// reach the worker through the default queue.
pub(super) fn start(default: &Arc<Inner>, queues: Vec<Arc<Inner>>, options: ClaimOptions) -> Claims {
    let (sender, leases) = mpsc::channel(CHANNEL);
    let (concurrency, limit) = watch::channel(options.concurrency);
    let stop = CancellationToken::new();
    let slots = Arc::new(SharedSlots::new(&options, limit.clone()));
    let mut limiters = Vec::with_capacity(queues.len());
    for (number, inner) in queues.iter().enumerate() {
        let share = Share::Dealt(slots.clone(), number);
        let limiter = Arc::new(ClaimLimiter::new(options.worker.clone(), limit.clone(), share));
        default.signals.add_claim(&limiter);
        take_jobs(inner, limiter.clone(), options.placement.clone(), sender.clone(), stop.clone());
        limiters.push(limiter);
    }
    default.tasks.spawn(share(slots, queues, limiters, limit, stop.clone()));
    Claims::new(leases, concurrency, stop)
}

/// Deals slots whenever one is free, until `stop`. A deal that is cut off is made by no one: nothing is taken any more.
async fn share(
    slots: Arc<SharedSlots>,
    queues: Vec<Arc<Inner>>,
    limiters: Vec<Arc<ClaimLimiter>>,
    mut concurrency: watch::Receiver<usize>,
    stop: CancellationToken,
) {
    let dealing = async {
        // The first deal is to know all queues.
        let connected = join_all(queues.iter().map(|inner| inner.link.wait())).await;
        let Some(redis) = connected.into_iter().collect::<Option<Vec<_>>>() else { return };
        loop {
            let pause = deal(&slots, &queues, &redis, &limiters).await;
            for limiter in &limiters {
                limiter.apply();
            }
            tokio::select! {
                () = slots.changed.notified() => {}
                // A claim that ends is noticed by `stop`.
                Ok(()) = concurrency.changed() => {}
                () = tokio::time::sleep(pause) => limiters.iter().for_each(|limiter| limiter.wake_fetches()),
            }
        }
    };
    let _ = stop.run_until_cancelled(dealing).await;
    slots.close();
}

/// Deals once, if there is something to deal. Answers how long to wait for the next time.
async fn deal(
    slots: &SharedSlots,
    queues: &[Arc<Inner>],
    redis: &[Arc<BullClient>],
    limiters: &[Arc<ClaimLimiter>],
) -> Duration {
    if !slots.needs_look() {
        slots.skip_deal();
        return slots.next_look();
    }
    let looks = queues.iter().zip(redis).map(|(inner, redis)| inner.link.call(ready(inner, redis)));
    let jobs: Result<Vec<usize>, QueueError> = try_join_all(looks).await;
    let jobs = match jobs {
        Ok(jobs) => jobs,
        Err(error) => {
            tracing::debug!(%error, "the worker's slots can't be dealt; trying again");
            slots.skip_deal();
            tokio::time::sleep(AGAIN).await;
            return Duration::ZERO;
        }
    };
    let is_open = limiters.iter().map(|limiter| limiter.is_open()).collect();
    slots.deal(&Ready { jobs, is_open }).unwrap_or_else(|| slots.next_look())
}

/// How many jobs a queue could give at once.
async fn ready(inner: &Inner, redis: &BullClient) -> Result<usize, BullError> {
    let due_by = (inner.clock.now().as_millis() + 1) as f64 * SCORE_PER_MS - 1.0;
    let mut ask = redis::pipe();
    ask.cmd("HMGET").arg(inner.keys.bull("meta")).arg("paused").arg("concurrency");
    ask.cmd("LLEN").arg(inner.keys.bull("wait"));
    ask.cmd("ZCARD").arg(inner.keys.bull("prioritized"));
    ask.cmd("ZCOUNT").arg(inner.keys.bull("delayed")).arg("-inf").arg(due_by);
    ask.cmd("LLEN").arg(inner.keys.bull("active"));
    type Counts = ((Option<String>, Option<usize>), usize, usize, usize, usize);
    let ((paused, most), waiting, prioritized, due, active): Counts = redis.queue.connection().pipe(&ask).await?;
    let most = most.map_or(usize::MAX, |most| most.saturating_sub(active));
    Ok(if paused.is_some() { 0 } else { (waiting + prioritized + due).min(most) })
}
