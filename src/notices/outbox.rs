//! The outbox: notices that wait to be delivered, and those that were given up, in the SQLite file of this machine.
//!
//! Every server that shares the file may send what is in it. A claim moves the time at which a notice is due past the
//! longest time that a try may take, so no two senders try the same notice at once, and a claim whose sender is gone lapses
//! by itself. What is delivered is removed.
//!
//! `notice_marks` remembers what was told once and for all: which part of the server is not well, and which categories a
//! target knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::Notify;

use super::notice::Notice;
use crate::domain::Timestamp;
use crate::sqlite::{Sqlite, SqliteError};

const SCHEMA: &[&str] = &["
    CREATE TABLE notices (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        target TEXT NOT NULL,
        id TEXT NOT NULL UNIQUE,
        dead INTEGER NOT NULL,
        since INTEGER NOT NULL,
        due_at INTEGER NOT NULL,
        tries INTEGER NOT NULL,
        problem TEXT,
        document BLOB NOT NULL
    ) STRICT;
    CREATE INDEX notices_waiting ON notices (target, due_at) WHERE dead = 0;
    CREATE INDEX notices_dead ON notices (target, due_at, number) WHERE dead = 1;
    CREATE TABLE notice_marks (
        key TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
"];

/// A notice on its way into the outbox, with the bounds of its target.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNotice {
    /// The notice.
    pub notice: Notice,
    /// How many of the target may wait.
    pub queue_limit: u64,
    /// How many of its dead letters are kept.
    pub dead_limit: u64,
}

/// Whether a notice waits or was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeState {
    /// It is tried, or will be.
    Waiting,
    /// It was refused, or its time was over.
    Dead,
}

/// A notice in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    /// Its place: a later one has a higher number.
    pub number: i64,
    /// Whether it waits.
    pub state: NoticeState,
    /// Since when it is tried.
    pub since: Timestamp,
    /// When it is due next, or when it was given up.
    pub due_at: Timestamp,
    /// How many tries have failed.
    pub tries: u32,
    /// Why the last one did.
    pub problem: Option<String>,
    /// The notice.
    pub notice: Notice,
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxQuery {
    /// Only those of this target.
    pub target: Option<String>,
    /// Those that wait, or those that were given up.
    pub state: NoticeState,
    /// Only those that came before this one.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: usize,
}

/// A page of the outbox, the last that came first.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxPage {
    /// The notices.
    pub rows: Vec<OutboxRow>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<i64>,
}

/// How many notices of a target there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxCounts {
    /// The target.
    pub target: String,
    /// How many wait.
    pub waiting: u64,
    /// Since when the first of these waits.
    pub oldest: Option<Timestamp>,
    /// How many were given up.
    pub dead: u64,
}

/// What becomes of a claimed notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is done with: delivered, or not wanted.
    Gone,
    /// It is due again then. `problem` is why a try has failed; without one there was none.
    Due {
        /// When.
        at: Timestamp,
        /// Why the try has failed.
        problem: Option<String>,
    },
    /// It is given up.
    Dead {
        /// Why.
        problem: String,
        /// When.
        at: Timestamp,
        /// How many dead letters of the target are kept.
        keep: u64,
    },
}

/// The outbox of this machine. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    db: Sqlite,
    /// Wakes the senders of this process.
    came: Arc<Notify>,
}

impl Outbox {
    /// The name under which versions of its tables are kept, and the version that this Jobber brings them to.
    pub const SCHEMA_VERSION: (&str, usize) = ("notices", SCHEMA.len());

    /// Opens or makes the tables in `db`.
    ///
    /// # Errors
    /// When the tables can't be made, or were made by a newer Jobber.
    pub async fn open(db: Sqlite) -> Result<Self, SqliteError> {
        db.migrate(Self::SCHEMA_VERSION.0, SCHEMA).await?;
        Ok(Self { db, came: Arc::default() })
    }

    /// Waits until something was put in or is to be tried again at once.
    pub(super) fn came(&self) -> impl Future<Output = ()> + Send + use<> {
        self.came.clone().notified_owned()
    }

    /// Puts notices in at `now`, in one transaction; one whose id is there stays as it is. Where as many wait as may, a notice
    /// becomes a dead letter at once.
    pub(super) async fn put(&self, notices: Vec<NewNotice>, now: Timestamp) -> Result<(), SqliteError> {
        self.db.write(move |c| notices.iter().try_for_each(|new| insert(c, new, now))).await?;
        self.came.notify_waiters();
        Ok(())
    }

    /// Takes up to `limit` notices of a target that are due, and moves their time to `until`.
    pub(super) async fn claim(
        &self,
        target: &str,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, SqliteError> {
        const DUE: &str = "SELECT number FROM notices WHERE dead = 0 AND target = ?1 AND due_at <= ?2";
        let (target, now) = (target.to_owned(), now.as_millis());
        let asked = target.clone();
        let look = move |c: &Connection| {
            c.prepare_cached(&format!("{DUE} LIMIT 1"))?.query_row((&asked, now), |_| Ok(())).optional()
        };
        if self.db.read(look).await?.is_none() {
            return Ok(Vec::new());
        }
        let claim = move |c: &Connection| {
            c.prepare_cached(&format!(
                "UPDATE notices SET due_at = ?3 WHERE number IN ({DUE} ORDER BY due_at LIMIT ?4) RETURNING {COLUMNS}"
            ))?
            .query_map((&target, now, until.as_millis(), i64::try_from(limit).unwrap_or(i64::MAX)), read)?
            .collect::<rusqlite::Result<Vec<_>>>()
        };
        let claimed = self.db.write(claim).await?;
        Ok(claimed.into_iter().flatten().collect())
    }

    /// Notes what becomes of a claimed notice.
    pub(super) async fn settle(&self, number: i64, settled: Settled) -> Result<(), SqliteError> {
        self.db.write(move |c| settle(c, number, &settled)).await
    }

    /// Moves the notices of targets other than these to the dead letters: nothing sends them.
    ///
    /// # Errors
    /// When the database can't be written.
    pub async fn give_up_others(&self, targets: Vec<String>) -> Result<(), SqliteError> {
        let orphans = move |c: &Connection| {
            /// Dead letters of a target that is not configured any more.
            const KEPT_OF_OTHERS: u64 = 1000;
            let all: BTreeSet<String> = c
                .prepare_cached("SELECT DISTINCT target FROM notices WHERE dead = 0")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for target in all.into_iter().filter(|target| !targets.contains(target)) {
                c.prepare_cached(
                    "UPDATE notices SET dead = 1, problem = 'the configuration has no such target any more'
                     WHERE dead = 0 AND target = ?1",
                )?
                .execute([&target])?;
                trim(c, &target, KEPT_OF_OTHERS)?;
            }
            Ok(())
        };
        self.db.write(orphans).await
    }

    /// How many notices wait and were given up, by target.
    pub(super) async fn counts(&self) -> Result<Vec<OutboxCounts>, SqliteError> {
        let count = |c: &Connection| {
            let mut counts: BTreeMap<String, OutboxCounts> = BTreeMap::new();
            let mut waiting =
                c.prepare_cached("SELECT target, count(*), min(since) FROM notices WHERE dead = 0 GROUP BY target")?;
            let mut rows = waiting.query([])?;
            while let Some(row) = rows.next()? {
                let (target, oldest): (String, Option<i64>) = (row.get(0)?, row.get(2)?);
                let oldest = oldest.map(Timestamp::from_millis);
                counts.insert(target.clone(), OutboxCounts { target, waiting: count_of(row.get(1)?), oldest, dead: 0 });
            }
            let mut dead = c.prepare_cached("SELECT target, count(*) FROM notices WHERE dead = 1 GROUP BY target")?;
            let mut rows = dead.query([])?;
            while let Some(row) = rows.next()? {
                let target: String = row.get(0)?;
                let none = || OutboxCounts { target: target.clone(), waiting: 0, oldest: None, dead: 0 };
                counts.entry(target.clone()).or_insert_with(none).dead = count_of(row.get(1)?);
            }
            Ok(counts.into_values().collect())
        };
        self.db.read(count).await
    }

    /// A page of what waits or was given up.
    pub(super) async fn list(&self, query: OutboxQuery) -> Result<OutboxPage, SqliteError> {
        let limit = query.limit;
        let list = move |c: &Connection| {
            let OutboxQuery { target, state, before, limit } = &query;
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM notices WHERE dead = ?1 AND (?2 IS NULL OR target = ?2) AND number < ?3
                 ORDER BY number DESC LIMIT ?4"
            ))?
            .query_map(
                (
                    *state == NoticeState::Dead,
                    target,
                    before.unwrap_or(i64::MAX),
                    i64::try_from(*limit).unwrap_or(i64::MAX),
                ),
                read,
            )?
            .collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows: Vec<OutboxRow> = self.db.read(list).await?.into_iter().flatten().collect();
        let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.number);
        Ok(OutboxPage { rows, next })
    }

    /// Lets dead letters wait again, due at `now`, and answers their ids. Without ids all of the target, or of all of
    /// them; never those of targets other than `configured`.
    pub(super) async fn retry(
        &self,
        ids: &[String],
        target: Option<&str>,
        configured: Vec<String>,
        now: Timestamp,
    ) -> Result<Vec<String>, SqliteError> {
        let (ids, target) = (ids.to_vec(), target.map(str::to_owned));
        let retry = move |c: &Connection| {
            let mut update = c.prepare_cached(
                "UPDATE notices SET dead = 0, since = ?2, due_at = ?2, tries = 0 WHERE id = ?1 AND dead = 1",
            )?;
            let mut done = Vec::new();
            for (id, of) in chosen(c, &ids, target.as_deref())? {
                if configured.contains(&of) && update.execute((&id, now.as_millis()))? == 1 {
                    done.push(id);
                }
            }
            Ok(done)
        };
        let done = self.db.write(retry).await?;
        self.came.notify_waiters();
        Ok(done)
    }

    /// Removes dead letters, and answers their ids. Without ids all of the target, or of all of them.
    pub(super) async fn forget(&self, ids: &[String], target: Option<&str>) -> Result<Vec<String>, SqliteError> {
        let (ids, target) = (ids.to_vec(), target.map(str::to_owned));
        let forget = move |c: &Connection| {
            let mut delete = c.prepare_cached("DELETE FROM notices WHERE id = ?1 AND dead = 1")?;
            let mut done = Vec::new();
            for (id, _) in chosen(c, &ids, target.as_deref())? {
                if delete.execute([&id])? == 1 {
                    done.push(id);
                }
            }
            Ok(done)
        };
        self.db.write(forget).await
    }

    /// Marks a key with a value, unless it has one, and answers the value that it has.
    pub(super) async fn mark(&self, key: &str, value: &str) -> Result<String, SqliteError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        let mark = move |c: &Connection| {
            c.prepare_cached("INSERT INTO notice_marks VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
                .execute((&key, &value))?;
            c.prepare_cached("SELECT value FROM notice_marks WHERE key = ?1")?.query_row([&key], |row| row.get(0))
        };
        self.db.write(mark).await
    }

    /// Takes a mark away.
    pub(super) async fn unmark(&self, key: &str) -> Result<(), SqliteError> {
        let key = key.to_owned();
        self.db.write(move |c| c.execute("DELETE FROM notice_marks WHERE key = ?1", [&key]).map(drop)).await
    }

    /// The marks whose keys begin so, without that beginning.
    pub(super) async fn marks(&self, prefix: &'static str) -> Result<BTreeMap<String, String>, SqliteError> {
        let marks = move |c: &Connection| {
            c.prepare_cached(
                "SELECT substr(key, length(?1) + 1), value FROM notice_marks WHERE substr(key, 1, length(?1)) = ?1",
            )?
            .query_map([prefix], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        };
        self.db.read(marks).await
    }
}

const COLUMNS: &str = "number, dead, since, due_at, tries, problem, document";

/// A row; `None` for one that a newer Jobber wrote and this one can't read. It stays where it is.
fn read(row: &Row<'_>) -> rusqlite::Result<Option<OutboxRow>> {
    let document: Vec<u8> = row.get(6)?;
    let Ok(notice) = serde_json::from_slice(&document) else { return Ok(None) };
    Ok(Some(OutboxRow {
        number: row.get(0)?,
        state: if row.get(1)? { NoticeState::Dead } else { NoticeState::Waiting },
        since: Timestamp::from_millis(row.get(2)?),
        due_at: Timestamp::from_millis(row.get(3)?),
        tries: row.get(4)?,
        problem: row.get(5)?,
        notice,
    }))
}

fn insert(c: &Connection, new: &NewNotice, now: Timestamp) -> rusqlite::Result<()> {
    let NewNotice { notice, queue_limit, dead_limit } = new;
    let document = serde_json::to_vec(notice).expect("a notice has only strings for keys");
    let waiting = c
        .prepare_cached("SELECT count(*) FROM notices WHERE dead = 0 AND target = ?1")?
        .query_row([&notice.target], |row| Ok(count_of(row.get(0)?)))?;
    let is_full = waiting >= *queue_limit;
    let problem = is_full.then(|| format!("{waiting} notices of this target wait already (queue_limit)"));
    c.prepare_cached(
        "INSERT INTO notices (target, id, dead, since, due_at, tries, problem, document)
         VALUES (?1, ?2, ?3, ?4, ?4, 0, ?5, ?6) ON CONFLICT DO NOTHING",
    )?
    .execute((&notice.target, &notice.id, is_full, now.as_millis(), problem, document))?;
    if is_full {
        trim(c, &notice.target, *dead_limit)?;
    }
    Ok(())
}

fn settle(c: &Connection, number: i64, settled: &Settled) -> rusqlite::Result<()> {
    match settled {
        Settled::Gone => {
            c.prepare_cached("DELETE FROM notices WHERE number = ?1 AND dead = 0")?.execute([number])?;
        }
        Settled::Due { at, problem } => {
            c.prepare_cached(
                "UPDATE notices SET due_at = ?2, tries = tries + (?3 IS NOT NULL), problem = coalesce(?3, problem)
                 WHERE number = ?1 AND dead = 0",
            )?
            .execute((number, at.as_millis(), problem))?;
        }
        Settled::Dead { problem, at, keep } => {
            let target: Option<String> = c
                .prepare_cached(
                    "UPDATE notices SET dead = 1, due_at = ?3, tries = tries + 1, problem = ?2
                     WHERE number = ?1 AND dead = 0 RETURNING target",
                )?
                .query_row((number, problem, at.as_millis()), |row| row.get(0))
                .optional()?;
            if let Some(target) = target {
                trim(c, &target, *keep)?;
            }
        }
    }
    Ok(())
}

/// Removes those dead letters of a target that were given up first, beyond those that are kept.
fn trim(c: &Connection, target: &str, keep: u64) -> rusqlite::Result<()> {
    const DEAD: &str = "FROM notices WHERE dead = 1 AND target = ?1";
    let keep = i64::try_from(keep).unwrap_or(i64::MAX);
    let dead: i64 = c.prepare_cached(&format!("SELECT count(*) {DEAD}"))?.query_row([target], |row| row.get(0))?;
    if dead > keep {
        let first = format!("SELECT number {DEAD} ORDER BY due_at, number LIMIT ?2");
        c.prepare_cached(&format!("DELETE FROM notices WHERE number IN ({first})"))?.execute((target, dead - keep))?;
        tracing::warn!(notify = target, removed = dead - keep, "more notices were given up than are kept (dead_limit)");
    }
    Ok(())
}

fn count_of(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

/// The dead letters with these ids, or all of the target, or all: id and target of each.
fn chosen(c: &Connection, ids: &[String], target: Option<&str>) -> rusqlite::Result<Vec<(String, String)>> {
    let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    if ids.is_empty() {
        return c
            .prepare_cached(
                "SELECT id, target FROM notices WHERE dead = 1 AND (?1 IS NULL OR target = ?1) ORDER BY number",
            )?
            .query_map([target], pair)?
            .collect();
    }
    let mut select =
        c.prepare_cached("SELECT id, target FROM notices WHERE id = ?1 AND dead = 1 AND (?2 IS NULL OR target = ?2)")?;
    ids.iter().filter_map(|id| select.query_row((id, target), pair).optional().transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::notice::tests::failed;
    use super::*;
    use crate::sqlite::Durability;

    async fn outbox() -> (tempfile::TempDir, Outbox) {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("jobber.db"), Durability::Process).unwrap();
        (dir, Outbox::open(db).await.unwrap())
    }

    fn new(id: &str) -> NewNotice {
        let notice = Notice { id: id.to_owned(), ..failed() };
        NewNotice { notice, queue_limit: 3, dead_limit: 2 }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    async fn ids(outbox: &Outbox, state: NoticeState) -> Vec<String> {
        let query = OutboxQuery { target: None, state, before: None, limit: 100 };
        outbox.list(query).await.unwrap().rows.into_iter().map(|row| row.notice.id).collect()
    }

    async fn claimed(outbox: &Outbox, now: i64, until: i64) -> Vec<OutboxRow> {
        outbox.claim("ops", at(now), at(until), 10).await.unwrap()
    }

    #[tokio::test]
    async fn a_notice_is_there_once_and_claimed_by_one_until_the_claim_lapses() {
        let (_dir, outbox) = outbox().await;
        outbox.put(vec![new("a"), new("a")], at(10)).await.unwrap();
        outbox.put(vec![new("a"), new("b")], at(10)).await.unwrap();
        assert_eq!(claimed(&outbox, 9, 100).await, [], "not due yet");
        let first = claimed(&outbox, 10, 100).await;
        assert_eq!(first.iter().map(|row| row.notice.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(first[0].notice, new("a").notice);
        assert_eq!(claimed(&outbox, 99, 200).await, []);
        assert_eq!(claimed(&outbox, 100, 200).await.len(), 2);
        outbox.settle(first[0].number, Settled::Gone).await.unwrap();
        let problem = Some("refused".to_owned());
        outbox.settle(first[1].number, Settled::Due { at: at(150), problem }).await.unwrap();
        outbox.settle(first[1].number, Settled::Due { at: at(160), problem: None }).await.unwrap();
        let again = claimed(&outbox, 160, 300).await;
        assert_eq!((again.len(), again[0].tries, again[0].problem.as_deref()), (1, 1, Some("refused")));
    }

    #[tokio::test]
    async fn more_than_may_wait_are_dead_letters_of_which_the_last_are_kept() {
        let (_dir, outbox) = outbox().await;
        outbox.put(["a", "b", "c", "d", "e", "f"].map(new).into(), at(10)).await.unwrap();
        assert_eq!(ids(&outbox, NoticeState::Waiting).await, ["c", "b", "a"]);
        assert_eq!(ids(&outbox, NoticeState::Dead).await, ["f", "e"]);
        let rows = claimed(&outbox, 10, 20).await;
        let dead = Settled::Dead { problem: "gone".to_owned(), at: at(15), keep: 2 };
        outbox.settle(rows[0].number, dead).await.unwrap();
        assert_eq!(ids(&outbox, NoticeState::Dead).await, ["f", "a"], "e was given up first");
        let counts = outbox.counts().await.unwrap();
        let expected = OutboxCounts { target: "ops".to_owned(), waiting: 2, oldest: Some(at(10)), dead: 2 };
        assert_eq!(counts, [expected]);
    }

    #[tokio::test]
    async fn dead_letters_are_tried_again_or_forgotten_by_id_or_by_target() {
        let (_dir, outbox) = outbox().await;
        outbox.put(["a", "b", "c", "d", "e"].map(new).into(), at(10)).await.unwrap();
        let configured = || vec!["ops".to_owned()];
        let retry = async |ids: &[&str], target, configured| {
            let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
            outbox.retry(&ids, target, configured, at(500)).await.unwrap()
        };
        assert!(retry(&["a", "x"], None, configured()).await.is_empty(), "one waits and the other is not there");
        assert!(retry(&["d"], None, vec![]).await.is_empty(), "its target is gone");
        assert!(retry(&["d"], Some("other"), configured()).await.is_empty());
        assert_eq!(retry(&["d"], None, configured()).await, ["d"]);
        assert_eq!(claimed(&outbox, 499, 600).await.len(), 3);
        let again = claimed(&outbox, 500, 600).await;
        assert_eq!((again[0].since, again[0].tries), (at(500), 0));
        assert!(outbox.forget(&["d".to_owned()], None).await.unwrap().is_empty(), "it waits");
        assert_eq!(outbox.forget(&[], Some("ops")).await.unwrap(), ["e"]);
        outbox.give_up_others(vec!["other".to_owned()]).await.unwrap();
        assert_eq!(ids(&outbox, NoticeState::Dead).await, ["d", "c", "b", "a"]);
    }

    #[tokio::test]
    async fn a_page_leads_to_the_next() {
        let (_dir, outbox) = outbox().await;
        outbox.put(["a", "b", "c"].map(new).into(), at(10)).await.unwrap();
        let page = |before| OutboxQuery { target: Some("ops".into()), state: NoticeState::Waiting, before, limit: 2 };
        let first = outbox.list(page(None)).await.unwrap();
        let second = outbox.list(page(first.next)).await.unwrap();
        let names = |page: &OutboxPage| page.rows.iter().map(|row| row.notice.id.clone()).collect::<Vec<_>>();
        assert_eq!((names(&first), names(&second)), (vec!["c".into(), "b".into()], vec!["a".into()]));
        assert_eq!(second.next, None);
    }

    #[tokio::test]
    async fn a_mark_keeps_its_first_value() {
        let (_dir, outbox) = outbox().await;
        assert_eq!(outbox.mark("health/queue", "1").await.unwrap(), "1");
        assert_eq!(outbox.mark("health/queue", "2").await.unwrap(), "1");
        outbox.mark("category/ops/full", "3").await.unwrap();
        assert_eq!(outbox.marks("health/").await.unwrap(), [("queue".to_owned(), "1".to_owned())].into());
        outbox.unmark("health/queue").await.unwrap();
        assert!(outbox.marks("health/").await.unwrap().is_empty());
    }
}
