//! Jobs whose ids are no text. Other programs can make them. The crate can't name such a job, so it
//! could neither run nor fail it, and the job would come again each time its lease was over. This
//! module fails it, once and for all, by plain commands: the same changes that BullMQ's script makes.

use super::Inner;
use super::connect::{BullClient, BullError};

/// Refuses a job, just taken, whose id history can't hold. Answers the error by which the crate settles it.
pub(super) async fn refuse(inner: &Inner, shown: &str, why: String) -> bullmq::Error {
    tracing::warn!(job = shown, why, "a job was failed that can't be told of");
    if !shown.contains(char::REPLACEMENT_CHARACTER) {
        return bullmq::Error::Unrecoverable(why);
    }
    let failed = match inner.link.get().await {
        Ok(redis) => inner.link.call(fail(inner, &redis, shown, &why)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = failed {
        tracing::warn!(job = shown, %error, "a job whose id is no text was not failed; it comes again");
    }
    bullmq::Error::Delayed
}

/// Fails the job that was just taken, and which the crate shows under this id.
async fn fail(inner: &Inner, redis: &BullClient, shown: &str, why: &str) -> Result<(), BullError> {
    let connection = redis.queue.connection();
    let active = inner.keys.bull("active");
    let mut range = redis::cmd("LRANGE");
    let taken: Vec<Vec<u8>> = connection.cmd(range.arg(&active).arg(0).arg(-1)).await?;
    let odd = taken.iter().filter(|id| std::str::from_utf8(id).is_err() && String::from_utf8_lossy(id) == shown);
    for id in odd {
        let key = [inner.keys.bull("").as_bytes(), id].concat();
        let now = inner.clock.now().as_millis();
        let mut end = redis::pipe();
        end.atomic();
        end.cmd("LREM").arg(&active).arg(0).arg(id).ignore();
        end.cmd("SREM").arg(inner.keys.bull("stalled")).arg(id).ignore();
        end.cmd("DEL").arg([&key[..], b":lock"].concat()).ignore();
        end.cmd("HSET").arg(&key).arg("failedReason").arg(why).arg("finishedOn").arg(now).ignore();
        end.cmd("ZADD").arg(inner.keys.bull("failed")).arg(now).arg(id).ignore();
        let told = end.cmd("XADD").arg(inner.keys.bull("events")).arg("*").arg("event").arg("failed");
        told.arg("jobId").arg(id).arg("failedReason").arg(why).arg("prev").arg("active").ignore();
        connection.pipe::<()>(&end).await?;
    }
    Ok(())
}
