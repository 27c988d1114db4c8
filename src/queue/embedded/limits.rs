//! How much of a queue may run, in all workers together.

use std::time::Duration;

use rusqlite::{Connection, Row};

use crate::domain::{Fairness, QueueLimit, StartRate, Timestamp};

/// How soon a claim looks again that found as many jobs running as may: they may end in another process.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a claim may take of a queue now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// The queue.
    pub(super) queue: i64,
    /// So many jobs at most.
    pub(super) most: usize,
    /// When there may be more, if a limit holds back.
    pub(super) again_at: Option<Timestamp>,
    /// Whether slots go to its groups in turn.
    pub(super) is_fair: bool,
    has_rate: bool,
}

/// A limit in columns: concurrency, jobs and time of the rate, whether groups take turns.
pub(super) fn of_columns(row: &Row<'_>, first: usize) -> rusqlite::Result<QueueLimit> {
    let (jobs, ms): (Option<u32>, Option<i64>) = (row.get(first + 1)?, row.get(first + 2)?);
    let rate = jobs.zip(ms).map(|(jobs, ms)| StartRate { jobs, per: Duration::from_millis(ms.unsigned_abs()) });
    let fair = row.get::<_, bool>(first + 3)?.then_some(Fairness::Group);
    Ok(QueueLimit { concurrency: row.get(first)?, rate, fair })
}

/// What may be taken of a queue now; `None` while it is paused.
pub(super) fn allowance(c: &Connection, queue: i64, now: Timestamp) -> rusqlite::Result<Option<Allowance>> {
    let row = |row: &Row<'_>| -> rusqlite::Result<(bool, QueueLimit, Option<i64>, u32)> {
        Ok((row.get(0)?, of_columns(row, 1)?, row.get(5)?, row.get(6)?))
    };
    let (paused, limit, from, taken) = c
        .prepare_cached(
            "SELECT paused, concurrency, rate_jobs, rate_ms, fair, rate_from, rate_taken FROM queue_names WHERE id = ?1",
        )?
        .query_row([queue], row)?;
    if paused {
        return Ok(None);
    }
    let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let mut allowed = Allowance {
        queue,
        most: usize::MAX,
        again_at: None,
        is_fair: limit.fair.is_some(),
        has_rate: limit.rate.is_some(),
    };
    if let Some(concurrency) = limit.concurrency {
        let active: u32 = c
            .prepare_cached("SELECT count(*) FROM queue_jobs WHERE state = 3 AND queue = ?1")?
            .query_row([queue], |row| row.get(0))?;
        allowed.most = size(concurrency.saturating_sub(active));
        allowed.again_at = Some(now + LOOK_AGAIN);
    }
    if let Some(rate) = limit.rate {
        let from = from.map(Timestamp::from_millis).filter(|from| is_running(*from, rate.per, now));
        let left = size(rate.jobs.saturating_sub(if from.is_some() { taken } else { 0 }));
        if left < allowed.most {
            allowed.most = left;
            allowed.again_at = Some(from.unwrap_or(now) + rate.per);
        }
    }
    Ok(Some(allowed))
}

/// Whether a time that began at `from` goes on. One that begins in the future was begun by a clock that was set back since.
fn is_running(from: Timestamp, per: Duration, now: Timestamp) -> bool {
    from <= now && now < from + per
}

/// Counts jobs that were taken, for the rate of their queue.
pub(super) fn count(c: &Connection, allowed: &Allowance, taken: usize, now: Timestamp) -> rusqlite::Result<()> {
    if !allowed.has_rate || taken == 0 {
        return Ok(());
    }
    c.prepare_cached(
        "UPDATE queue_names SET
            rate_taken = ?3 + CASE WHEN rate_from <= ?2 AND ?2 < rate_from + rate_ms THEN rate_taken ELSE 0 END,
            rate_from = CASE WHEN rate_from <= ?2 AND ?2 < rate_from + rate_ms THEN rate_from ELSE ?2 END
         WHERE id = ?1",
    )?
    .execute((allowed.queue, now.as_millis(), i64::try_from(taken).unwrap_or(i64::MAX)))?;
    Ok(())
}
