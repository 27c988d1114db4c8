//! The kinds of jobs: those with the same needs and the same group, under one number.
//!
//! Jobs of one kind can be taken by the same workers. So a claim looks at each kind that has ready jobs once, and past
//! those that its worker can't run, however many jobs they have. If those are many kinds, it remembers them for a
//! while, and looks only at the others.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::schema::json;
use crate::domain::{GroupName, Job, Needs};

/// From so many kinds on, those that no job has are removed.
pub(super) const MANY: i64 = 1000;
/// So many kinds are looked at one by one, without asking first which of them have ready jobs.
const FEW: usize = 4;
/// So many kinds that the worker can't run are judged anew with every look.
const FEW_OTHERS: usize = 4;
/// After this time a claim judges again the many kinds that its worker could not run.
const JUDGED: Duration = Duration::from_secs(1);

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

/// The number of a kind, which is there from now on. `kind` is its JSON.
pub(super) fn number_or_new(c: &Connection, kind: &str) -> rusqlite::Result<i64> {
    let known = c
        .prepare_cached("SELECT id FROM queue_kinds WHERE kind = ?1")?
        .query_row([kind], |row| row.get(0))
        .optional()?;
    if let Some(number) = known {
        return Ok(number);
    }
    c.prepare_cached("INSERT INTO queue_kinds (kind) VALUES (?1)")?.execute([kind])?;
    Ok(c.last_insert_rowid())
}

/// The kinds that a claim has met, and those that it need not look at. What a number stands for never changes.
#[derive(Debug, Default)]
pub(super) struct KnownKinds {
    by_number: HashMap<i64, Arc<Kind>>,
    by_queue: HashMap<i64, Candidates>,
}

impl KnownKinds {
    /// More are forgotten, and read again when they are met again.
    const MOST: usize = 20_000;

    /// Forgets everything: a transaction that was undone may have told of kinds that are not there.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The kind of this number.
    pub(super) fn get(&mut self, c: &Connection, number: i64) -> rusqlite::Result<Arc<Kind>> {
        if let Some(known) = self.by_number.get(&number) {
            return Ok(known.clone());
        }
        let kind = c
            .prepare_cached("SELECT kind FROM queue_kinds WHERE id = ?1")?
            .query_row([number], |row| json::<Kind>(row, 0))
            .map(Arc::new)?;
        if self.by_number.len() >= Self::MOST {
            self.by_number.clear();
        }
        self.by_number.insert(number, kind.clone());
        Ok(kind)
    }

    /// The numbers of all kinds of which the queue may have jobs that are ready and that the worker can run, and maybe
    /// some more. So each is still to be looked at.
    pub(super) fn candidates(&mut self, c: &Connection, queue: i64) -> rusqlite::Result<Vec<i64>> {
        let candidates = self.by_queue.entry(queue).or_default();
        candidates.bring_up_to_date(c)?;
        if candidates.numbers.len() <= FEW {
            return Ok(candidates.numbers.iter().copied().collect());
        }
        // Most of them may have no jobs at all.
        let ready = ready(c, queue, candidates.numbers.len() + 1)?;
        if ready.len() <= candidates.numbers.len() {
            return Ok(ready.into_iter().filter(|number| candidates.numbers.contains(number)).collect());
        }
        Ok(candidates.numbers.iter().copied().collect())
    }

    /// Notes kinds that the worker can't run now, however many jobs of them are ready. If they are many, they are no
    /// candidates for a while.
    pub(super) fn pass_by(&mut self, queue: i64, numbers: &[i64]) {
        if numbers.len() > FEW_OTHERS
            && let Some(candidates) = self.by_queue.get_mut(&queue)
        {
            for number in numbers {
                candidates.numbers.remove(number);
            }
            candidates.is_partial = true;
        }
    }

    /// When kinds that are no candidates now are candidates again, if there are any.
    pub(super) fn complete_at(&self) -> Option<Instant> {
        let partial = self.by_queue.values().filter(|candidates| candidates.is_partial);
        partial.filter_map(|candidates| candidates.judged_at).min().map(|at| at + JUDGED)
    }
}

/// The kinds of which a queue may have jobs for the worker of a claim: all but those that it was found not to run.
#[derive(Debug, Default)]
struct Candidates {
    numbers: BTreeSet<i64>,
    /// The highest number that was read.
    last: i64,
    /// When all kinds were candidates.
    judged_at: Option<Instant>,
    is_partial: bool,
}

impl Candidates {
    /// Takes up the kinds that are new, and from time to time all: a worker may get what it lacked.
    fn bring_up_to_date(&mut self, c: &Connection) -> rusqlite::Result<()> {
        if self.judged_at.is_none_or(|at| at.elapsed() >= JUDGED) {
            *self = Self { judged_at: Some(Instant::now()), ..Self::default() };
        }
        let mut select = c.prepare_cached("SELECT id FROM queue_kinds WHERE id > ?1 ORDER BY id")?;
        for number in select.query_map([self.last], |row| row.get(0))? {
            self.last = number?;
            self.numbers.insert(self.last);
        }
        Ok(())
    }
}

/// The numbers of the kinds of which a queue has ready jobs, at most so many: one look into the index for each.
pub(super) fn ready(c: &Connection, queue: i64, most: usize) -> rusqlite::Result<Vec<i64>> {
    c.prepare_cached(
        "WITH RECURSIVE present (kind) AS (
            SELECT (SELECT kind FROM queue_jobs WHERE state <= 1 AND queue = ?1 ORDER BY kind LIMIT 1)
            UNION ALL
            SELECT (SELECT j.kind FROM queue_jobs j WHERE j.state <= 1 AND j.queue = ?1 AND j.kind > present.kind
                    ORDER BY j.kind LIMIT 1)
            FROM present WHERE present.kind IS NOT NULL LIMIT ?2)
         SELECT kind FROM present WHERE kind IS NOT NULL",
    )?
    .query_map((queue, i64::try_from(most).unwrap_or(i64::MAX)), |row| row.get(0))?
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
