//! When a claim expires: on the boot clock of the machine, which all its processes read alike and no correction of the
//! time of day moves. A reboot ends every claim: its row names another boot.
//!
//! Rows of an older Jobber, and of one that can't tell which boot this is, name none and go by the time of day.
//!
//! A claim that was not renewed does not end at once: another process first suspects it, which its holder can see.
//!
//! The process that finds a claim overdue writes a mark on it (the column `doubt`). It gives the claim's jobs back no
//! sooner than a [`grace`] after that mark was committed, if the mark is still there. A renewal wipes the mark away. So
//! a holder that *reads* that its claim bears no mark has a grace from then on, even if it can't write: while another
//! process holds the database, no process can suspect a claim.
//!
//! Both the time until a claim is overdue and the grace are parts of one lease: a holder that falls silent has lost its
//! jobs after about a lease.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::Inner;
use crate::domain::validity::boot_ms;

/// `expires_at` of a claim that goes by the boot clock: an older Jobber on the same file lets it be.
const NEVER: i64 = i64::MAX;

/// SQL: holds for a claim that has ended, by the parameters `(wall, boot)`: one of another boot, one of an older Jobber
/// whose time is over, or one that was given up.
pub(super) const GONE: &str = "(expires_at < ?1 OR (boot IS NOT NULL AND boot <> ?2))";
/// SQL: holds for a claim that was not renewed for so long that it is to be suspected, by the parameters `(boot, ms)`.
pub(super) const OVERDUE: &str = "(boot = ?1 AND until_ms < ?2)";

/// This moment, as claims count the time.
#[derive(Debug, Clone)]
pub(super) struct Now {
    wall_ms: i64,
    boot: Option<String>,
    boot_ms: i64,
}

/// What a claim's row says of its end.
pub(super) struct Expiry {
    pub(super) expires_at: i64,
    pub(super) boot: Option<String>,
    pub(super) until_ms: i64,
}

impl Now {
    /// To be called inside a write, where no other process can change the claims.
    pub(super) fn of(inner: &Inner) -> Self {
        let boot_ms = i64::try_from(boot_ms()).unwrap_or(i64::MAX);
        Self { wall_ms: inner.clock.now().as_millis(), boot: inner.boot.clone(), boot_ms }
    }

    /// For [`GONE`].
    pub(super) fn gone(&self) -> (i64, Option<&str>) {
        (self.wall_ms, self.boot.as_deref())
    }

    /// For [`OVERDUE`].
    pub(super) fn overdue(&self) -> (Option<&str>, i64) {
        (self.boot.as_deref(), self.boot_ms)
    }

    /// A lease from now, of which the last part is the grace of a suspected claim.
    pub(super) fn expiry(&self, inner: &Inner) -> Expiry {
        let (lease, grace) = (inner.settings.lease, grace(inner.settings.lease));
        let after = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let expires_at = if self.boot.is_some() { NEVER } else { self.wall_ms.saturating_add(after(lease)) };
        Expiry { expires_at, boot: self.boot.clone(), until_ms: self.boot_ms.saturating_add(after(lease - grace)) }
    }
}

/// The part of a lease that passes between the suspicion and the end of a claim.
pub(super) fn grace(lease: Duration) -> Duration {
    lease / 3
}

/// The marks that this process has seen, by claim, and since when: no sooner than they were committed.
#[derive(Default)]
pub(super) struct Suspicions(Mutex<HashMap<i64, Seen>>);

/// A mark on a claim. Each mark is another one, so that a claim that is suspected again has its grace again.
pub(super) type Mark = (i64, i64);

#[derive(Clone, Copy)]
struct Seen {
    mark: i64,
    since: Instant,
}

impl Suspicions {
    /// Notes marks that are committed by now.
    pub(super) fn note(&self, marks: &[Mark]) {
        let mut seen = self.0.lock().expect("nothing panics while it holds the suspicions");
        for (claim, mark) in marks {
            let now = Seen { mark: *mark, since: Instant::now() };
            let known = seen.entry(*claim).or_insert(now);
            if known.mark != *mark {
                *known = now;
            }
        }
    }

    /// Of the marks that are on overdue claims now, those that have been there for a grace.
    pub(super) fn due(&self, marks: &[Mark], lease: Duration) -> Vec<Mark> {
        self.note(marks);
        let mut seen = self.0.lock().expect("nothing panics while it holds the suspicions");
        seen.retain(|claim, seen| marks.contains(&(*claim, seen.mark)));
        let due = seen.iter().filter(|(_, seen)| seen.since.elapsed() >= grace(lease));
        due.map(|(claim, seen)| (*claim, seen.mark)).collect()
    }
}

/// The overdue claims, each with its mark if it bears one.
pub(super) fn overdue(c: &Connection, now: &Now) -> rusqlite::Result<Vec<(i64, Option<i64>)>> {
    c.prepare_cached(&format!("SELECT id, doubt FROM queue_claims WHERE {OVERDUE}"))?
        .query_map(now.overdue(), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Marks the overdue claims that bear no mark.
pub(super) fn suspect_overdue(c: &Connection, now: &Now) -> rusqlite::Result<Vec<Mark>> {
    c.prepare_cached(&format!(
        "UPDATE queue_claims SET doubt = random() WHERE {OVERDUE} AND doubt IS NULL RETURNING id, doubt"
    ))?
    .query_map(now.overdue(), |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// Ends a claim that still bears the mark.
pub(super) fn expire(c: &Connection, (claim, mark): Mark) -> rusqlite::Result<usize> {
    c.prepare_cached("UPDATE queue_claims SET expires_at = 0 WHERE id = ?1 AND doubt = ?2")?.execute((claim, mark))
}

/// Whether the claim is there and bears no mark. Never for one that names no boot: such a claim ends without a mark.
pub(super) fn is_unsuspected(c: &Connection, claim: i64) -> rusqlite::Result<bool> {
    c.prepare_cached(
        "SELECT EXISTS (
            SELECT 1 FROM queue_claims WHERE id = ?1 AND expires_at > 0 AND boot IS NOT NULL AND doubt IS NULL)",
    )?
    .query_row([claim], |row| row.get(0))
}
