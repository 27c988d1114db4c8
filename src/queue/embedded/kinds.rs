//! The kinds of jobs: those with the same needs and the same group, under one number.
//!
//! Jobs of one kind can be taken by the same workers. So a claim looks at each kind that has ready jobs once, and past
//! those that its worker can't run, however many jobs they have.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::schema::{json, to_json};
use crate::domain::{GroupName, Job, Needs};

/// From so many kinds on, those that no job has are removed.
pub(super) const MANY: i64 = 1000;

/// What the jobs of one kind have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kind {
    #[serde(flatten)]
    pub(super) needs: Needs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<GroupName>,
    /// How many jobs of the group run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group_limit: Option<u32>,
}

impl Kind {
    pub(super) fn of(job: &Job) -> Self {
        Self {
            needs: Needs::of(&job.name, &job.options),
            group: job.options.group.clone(),
            group_limit: job.options.group_limit,
        }
    }
}

/// The number of a kind, which is there from now on.
pub(super) fn number_or_new(c: &Connection, kind: &Kind) -> rusqlite::Result<i64> {
    let text = to_json(kind);
    let known = c
        .prepare_cached("SELECT id FROM queue_kinds WHERE kind = ?1")?
        .query_row([&text], |row| row.get(0))
        .optional()?;
    if let Some(number) = known {
        return Ok(number);
    }
    c.prepare_cached("INSERT INTO queue_kinds (kind) VALUES (?1)")?.execute([&text])?;
    Ok(c.last_insert_rowid())
}

/// The kinds that a claim has met. What a number stands for never changes.
#[derive(Debug, Default)]
pub(super) struct KnownKinds(HashMap<i64, Arc<Kind>>);

impl KnownKinds {
    /// More are forgotten, and read again when they are met again.
    const MOST: usize = 10_000;

    /// The kind of this number.
    pub(super) fn get(&mut self, c: &Connection, number: i64) -> rusqlite::Result<Arc<Kind>> {
        if let Some(known) = self.0.get(&number) {
            return Ok(known.clone());
        }
        let kind = c
            .prepare_cached("SELECT kind FROM queue_kinds WHERE id = ?1")?
            .query_row([number], |row| json::<Kind>(row, 0))
            .map(Arc::new)?;
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.insert(number, kind.clone());
        Ok(kind)
    }
}

/// The numbers of the kinds of which a queue has ready jobs: one look into the index for each.
pub(super) fn ready(c: &Connection, queue: i64) -> rusqlite::Result<Vec<i64>> {
    c.prepare_cached(
        "WITH RECURSIVE present (kind) AS (
            SELECT (SELECT kind FROM queue_jobs WHERE state <= 1 AND queue = ?1 ORDER BY kind LIMIT 1)
            UNION ALL
            SELECT (SELECT j.kind FROM queue_jobs j WHERE j.state <= 1 AND j.queue = ?1 AND j.kind > present.kind
                    ORDER BY j.kind LIMIT 1)
            FROM present WHERE present.kind IS NOT NULL)
         SELECT kind FROM present WHERE kind IS NOT NULL",
    )?
    .query_map([queue], |row| row.get(0))?
    .collect()
}

/// How many jobs of each group are taken, in all workers together.
pub(super) fn taken_by_group(c: &Connection, known: &mut KnownKinds) -> rusqlite::Result<HashMap<GroupName, usize>> {
    let counts: Vec<(i64, i64)> = c
        .prepare_cached("SELECT kind, count(*) FROM queue_jobs WHERE state = 3 GROUP BY kind")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut taken = HashMap::new();
    for (number, count) in counts {
        if let Some(group) = &known.get(c, number)?.group {
            *taken.entry(group.clone()).or_default() += usize::try_from(count).unwrap_or(0);
        }
    }
    Ok(taken)
}

/// Removes the kinds that no job has, if there are more than `many`. Looks at every job, so answers when it is worth it
/// again: at so many kinds.
pub(super) fn forget(c: &Connection, many: i64) -> rusqlite::Result<i64> {
    let count = || c.query_row("SELECT count(*) FROM queue_kinds", [], |row| row.get::<_, i64>(0));
    if count()? <= many {
        return Ok(many);
    }
    c.execute("DELETE FROM queue_kinds WHERE id NOT IN (SELECT kind FROM queue_jobs)", [])?;
    Ok((2 * count()?).max(MANY))
}
