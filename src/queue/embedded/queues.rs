//! The queues: a number for each name. The default one has the number 0, whatever its name is.

use rusqlite::{Connection, OptionalExtension};

use super::super::{QueueError, QueueStanding, StateCounts};
use super::schema::code;
use super::{Inner, limits};
use crate::domain::{JobState, QueueLimit, QueueName, StartRate};

/// The number of the default queue.
pub(super) const DEFAULT: i64 = 0;

impl Inner {
    /// The queue as it is looked for: `None` for the default one.
    pub(super) fn named(&self, queue: &QueueName) -> Option<QueueName> {
        (*queue != self.settings.queue).then(|| queue.clone())
    }
}

/// The number of a queue that is there. `None` stands for the default one.
pub(super) fn number(c: &Connection, name: Option<&QueueName>) -> rusqlite::Result<Option<i64>> {
    let Some(name) = name else { return Ok(Some(DEFAULT)) };
    c.prepare_cached("SELECT id FROM queue_names WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()
}

/// The number of a queue, which is there from now on.
pub(super) fn number_or_new(c: &Connection, name: Option<&QueueName>) -> rusqlite::Result<i64> {
    if let Some(number) = number(c, name)? {
        return Ok(number);
    }
    c.prepare_cached("INSERT INTO queue_names (name) VALUES (?1)")?.execute([name.map(QueueName::as_str)])?;
    Ok(c.last_insert_rowid())
}

/// Pauses a queue, or lets it go on; `None` for all there are.
pub(super) async fn set_paused(inner: &Inner, queue: Option<&QueueName>, paused: bool) -> Result<(), QueueError> {
    let one = queue.map(|queue| inner.named(queue));
    let set = inner.db.write(move |c| match &one {
        None => c.execute("UPDATE queue_names SET paused = ?1", [paused]),
        Some(name) => {
            let number = number_or_new(c, name.as_ref())?;
            c.execute("UPDATE queue_names SET paused = ?2 WHERE id = ?1", (number, paused))
        }
    });
    set.await?;
    inner.wakes.jobs.signal();
    Ok(())
}

/// Sets the limits of a queue. What was started before does not count for a new rate.
pub(super) async fn set_limit(inner: &Inner, queue: &QueueName, limit: QueueLimit) -> Result<(), QueueError> {
    let name = inner.named(queue);
    let set = inner.db.write(move |c| {
        let number = number_or_new(c, name.as_ref())?;
        let ms = |rate: StartRate| i64::try_from(rate.per.as_millis()).unwrap_or(i64::MAX);
        c.execute(
            "UPDATE queue_names SET concurrency = ?2, rate_jobs = ?3, rate_ms = ?4, rate_from = NULL, rate_taken = 0,
                fair = ?5
             WHERE id = ?1",
            (number, limit.concurrency, limit.rate.map(|rate| rate.jobs), limit.rate.map(ms), limit.fair.is_some()),
        )
    });
    set.await?;
    inner.wakes.jobs.signal();
    Ok(())
}

/// All queues with what they hold, by name.
pub(super) async fn list(inner: &Inner) -> Result<Vec<QueueStanding>, QueueError> {
    let default = inner.settings.queue.clone();
    let all = inner.db.read(move |c| {
        // One transaction, so that a job in motion is counted once.
        let transaction = c.unchecked_transaction()?;
        let names: Vec<(i64, Option<String>, bool, QueueLimit)> = c
            .prepare_cached("SELECT id, name, paused, concurrency, rate_jobs, rate_ms, fair FROM queue_names")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, limits::of_columns(row, 3)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut all = Vec::with_capacity(names.len());
        for (number, name, paused, limit) in names {
            // Only names that could be read were written.
            let name = match name {
                Some(name) => QueueName::parse(&name)
                    .map_err(|e| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, e.into()))?,
                None => default.clone(),
            };
            let counts = StateCounts { paused, ..StateCounts::default() };
            all.push((number, QueueStanding { name, counts, limit }));
        }
        // Each branch walks one partial index. The first two walk the same in its order: that takes half the time of one
        // that groups by both, some 90 ms for a million jobs.
        let mut counts = c.prepare_cached(
            "SELECT queue, 0, count(*) FROM queue_jobs WHERE state <= 1 AND priority <= 0 GROUP BY 1
             UNION ALL SELECT queue, 1, count(*) FROM queue_jobs WHERE state <= 1 AND priority > 0 GROUP BY 1
             UNION ALL SELECT queue, state, count(*) FROM queue_jobs WHERE state = 2 GROUP BY 1
             UNION ALL SELECT queue, state, count(*) FROM queue_jobs WHERE state = 3 GROUP BY 1
             UNION ALL SELECT queue, state, count(*) FROM queue_jobs WHERE state >= 4 GROUP BY 1, 2",
        )?;
        let mut rows = counts.query([])?;
        while let Some(row) = rows.next()? {
            let (number, state, count): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some((_, standing)) = all.iter_mut().find(|(known, _)| *known == number) else { continue };
            let counts = &mut standing.counts;
            let field = match JobState::ALL.into_iter().find(|s| code(*s) == state) {
                Some(JobState::Waiting) => &mut counts.waiting,
                Some(JobState::Prioritized) => &mut counts.prioritized,
                Some(JobState::Delayed) => &mut counts.delayed,
                Some(JobState::Active) => &mut counts.active,
                Some(JobState::Completed) => &mut counts.completed,
                Some(JobState::Failed) => &mut counts.failed,
                None => continue,
            };
            *field = count.unsigned_abs();
        }
        drop(rows);
        drop(counts);
        transaction.commit()?;
        Ok(all)
    });
    let mut all: Vec<_> = all.await?.into_iter().map(|(_, standing)| standing).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}
