//! Puts jobs back that were taken and not handed out.

use std::time::Duration;

use super::connect::{BullClient, BullError};
use super::settle::in_ms;
use super::{Inner, keys};

/// Puts a job back that was not handed out: at the head of the queue, or after a pause.
pub(super) async fn put_back_unstarted(inner: &Inner, redis: &BullClient, job: &bullmq::Job, pause: Option<Duration>) {
    let back = async {
        let mut count = redis::cmd("EVAL");
        count.arg(keys::ADD_IF_THERE).arg(1).arg(inner.keys.job(job.id())).arg(keys::UNSTARTED).arg(1);
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

/// Writes options that the crate reads in place of those that it could not, and puts the job back: the crate acts on
/// what it read when it took the job.
pub(super) async fn mend_options(inner: &Inner, redis: &BullClient, job: &bullmq::Job, opts: &str) {
    let mut write = redis::cmd("EVAL");
    write.arg(keys::SET_IF_THERE).arg(1).arg(inner.keys.job(job.id())).arg("opts").arg(opts);
    if let Err(error) = inner.link.call(redis.queue.connection().cmd::<()>(&mut write)).await {
        tracing::warn!(job = job.id(), %error, "a job's options could not be mended; it comes back when its lease expires");
        return;
    }
    put_back_unstarted(inner, redis, job, None).await;
}
