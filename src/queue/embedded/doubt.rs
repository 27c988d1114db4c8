//! How a claim ends that was not renewed: not at once, but by a doubt that its holder can see coming.
//!
//! Whoever finds a claim overdue writes a mark on it, and gives its jobs back no sooner than a [`grace`] after that mark
//! was committed, if it is still there. A renewal wipes it away. So a holder who *reads* that its claim bears no mark has
//! a grace from then on, even if it can't write: while another process holds the database, nobody can doubt anybody.
//!
//! Both the time until a claim is overdue and the grace are parts of one lease: a holder that falls silent has lost its
//! jobs after about a lease, as ever.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::expiry::{Now, OVERDUE};

/// The part of a lease that passes between the doubt and the end of a claim.
pub(super) fn grace(lease: Duration) -> Duration {
    lease / 3
}

/// The marks that this process has seen, by claim, and since when: no sooner than they were committed.
#[derive(Default)]
pub(super) struct Doubts(Mutex<HashMap<i64, Seen>>);

/// A mark on a claim. Each mark is another one, so that a claim that is doubted again has its grace again.
pub(super) type Mark = (i64, i64);

#[derive(Clone, Copy)]
struct Seen {
    mark: i64,
    since: Instant,
}

impl Doubts {
    /// Notes marks that are committed by now.
    pub(super) fn note(&self, marks: &[Mark]) {
        let mut seen = self.0.lock().expect("nothing panics while it holds the doubts");
        for (claim, mark) in marks {
            let now = Seen { mark: *mark, since: Instant::now() };
            let known = seen.entry(*claim).or_insert(now);
            if known.mark != *mark {
                *known = now;
            }
        }
    }

    /// Those of the marks that are on overdue claims now which have been there for a grace.
    pub(super) fn ripe(&self, marks: &[Mark], lease: Duration) -> Vec<Mark> {
        self.note(marks);
        let mut seen = self.0.lock().expect("nothing panics while it holds the doubts");
        seen.retain(|claim, seen| marks.contains(&(*claim, seen.mark)));
        let ripe = seen.iter().filter(|(_, seen)| seen.since.elapsed() >= grace(lease));
        ripe.map(|(claim, seen)| (*claim, seen.mark)).collect()
    }
}

/// The overdue claims, each with its mark if it bears one.
pub(super) fn overdue(c: &Connection, now: &Now) -> rusqlite::Result<Vec<(i64, Option<i64>)>> {
    c.prepare_cached(&format!("SELECT id, doubt FROM queue_claims WHERE {OVERDUE}"))?
        .query_map(now.overdue(), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Marks the overdue claims that bear no mark.
pub(super) fn mark(c: &Connection, now: &Now) -> rusqlite::Result<Vec<Mark>> {
    c.prepare_cached(&format!(
        "UPDATE queue_claims SET doubt = random() WHERE {OVERDUE} AND doubt IS NULL RETURNING id, doubt"
    ))?
    .query_map(now.overdue(), |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// Gives up a claim that still bears the mark.
pub(super) fn give_up(c: &Connection, (claim, mark): Mark) -> rusqlite::Result<usize> {
    c.prepare_cached("UPDATE queue_claims SET expires_at = 0 WHERE id = ?1 AND doubt = ?2")?.execute((claim, mark))
}

/// Whether the claim is there and bears no mark. Never for one that names no boot: such a claim ends without a doubt.
pub(super) fn is_free(c: &Connection, claim: i64) -> rusqlite::Result<bool> {
    c.prepare_cached(
        "SELECT EXISTS (
            SELECT 1 FROM queue_claims WHERE id = ?1 AND expires_at > 0 AND boot IS NOT NULL AND doubt IS NULL)",
    )?
    .query_row([claim], |row| row.get(0))
}
