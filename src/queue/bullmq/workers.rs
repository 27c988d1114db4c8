//! The workers of the queue: heartbeats that expire, and requests to drain.

use std::time::Duration;

use super::super::{QueueError, WorkerInfo};
use super::Inner;
use super::connect::BullError;
use super::signals::{self, Message};
use crate::domain::WorkerId;

/// How long a request to drain is remembered: longer than any drain.
const DRAIN: Duration = Duration::from_secs(24 * 3600);

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells that the worker lives. Answers whether it is asked to drain.
pub(super) async fn heartbeat(inner: &Inner, worker: &WorkerInfo) -> Result<bool, QueueError> {
    let redis = inner.link.get().await?;
    let beat = async {
        let text = serde_json::to_string(worker).map_err(bullmq::Error::from)?;
        let id = worker.id.as_str();
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("SADD").arg(inner.keys.workers()).arg(id).ignore();
        pipe.cmd("SET")
            .arg(inner.keys.worker(id))
            .arg(text)
            .arg("PX")
            .arg(ms(inner.settings.common.worker_timeout()))
            .ignore();
        pipe.cmd("EXISTS").arg(inner.keys.drain(id));
        let (asked,): (bool,) = redis.queue.connection().pipe(&pipe).await?;
        Ok::<_, BullError>(asked)
    };
    let asked = inner.link.call(beat).await?;
    if asked {
        // In case the message was lost.
        inner.signals.drain(worker.id.as_str());
    }
    Ok(asked)
}

pub(super) async fn farewell(inner: &Inner, worker: &WorkerId) -> Result<(), QueueError> {
    let redis = inner.link.get().await?;
    let mut pipe = redis::pipe();
    pipe.atomic();
    pipe.cmd("SREM").arg(inner.keys.workers()).arg(worker.as_str()).ignore();
    pipe.cmd("DEL").arg(inner.keys.worker(worker.as_str())).arg(inner.keys.drain(worker.as_str())).ignore();
    inner.link.call(redis.queue.connection().pipe(&pipe)).await
}

pub(super) async fn list(inner: &Inner) -> Result<Vec<WorkerInfo>, QueueError> {
    let redis = inner.link.get().await?;
    let ask = async {
        let mut members = redis::cmd("SMEMBERS");
        members.arg(inner.keys.workers());
        let ids: Vec<String> = redis.queue.connection().cmd(&mut members).await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("MGET");
        for id in &ids {
            get.arg(inner.keys.worker(id));
        }
        let texts: Vec<Option<String>> = redis.queue.connection().cmd(&mut get).await?;
        let gone: Vec<_> = ids.iter().zip(&texts).filter(|(_, text)| text.is_none()).map(|(id, _)| id).collect();
        if !gone.is_empty() {
            let mut forget = redis::cmd("SREM");
            forget.arg(inner.keys.workers()).arg(gone);
            redis.queue.connection().cmd::<()>(&mut forget).await?;
        }
        Ok::<_, BullError>(texts)
    };
    let texts = inner.link.call(ask).await?;
    // Entries that another version wrote and this one can't read are left out.
    Ok(texts.into_iter().flatten().filter_map(|text| serde_json::from_str(&text).ok()).collect())
}

/// Asks the worker to drain. Answers false when it is not known.
pub(super) async fn drain(inner: &Inner, worker: &WorkerId) -> Result<bool, QueueError> {
    let redis = inner.link.get().await?;
    let ask = async {
        let mut there = redis::cmd("EXISTS");
        there.arg(inner.keys.worker(worker.as_str()));
        if !redis.queue.connection().cmd::<bool>(&mut there).await? {
            return Ok(false);
        }
        let mut set = redis::cmd("SET");
        set.arg(inner.keys.drain(worker.as_str())).arg(1).arg("PX").arg(ms(DRAIN));
        redis.queue.connection().cmd::<()>(&mut set).await?;
        signals::publish(inner, &redis, &Message::Drain { worker: worker.to_string() }).await?;
        Ok::<_, BullError>(true)
    };
    inner.link.call(ask).await
}
