//! The event log as a table of the shared SQLite file.
//!
//! Rows are only added at one end and trimmed at the other, and no row number is given out twice, so a row number is a
//! cursor and two of them tell the length.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::time::Instant;

use super::{Cursor, EventError, EventErrorKind, EventSink, EventSource, LogSpan, codec};
use crate::domain::{CategoryEvent, Entry, Event, EventKind, Timestamp};
use crate::sqlite::{Appender, Sqlite, SqliteError};
use crate::wake::{SignalOnDrop, Wake};

const SCHEMA: &[&str] = &[
    "
    CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL) STRICT;
    CREATE TABLE events_parked (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, reason TEXT NOT NULL) STRICT;
",
    "
    CREATE TABLE events_name (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL) STRICT;
    INSERT INTO events_name VALUES (1, lower(hex(randomblob(8))));
",
    "
    -- AUTOINCREMENT would write a second page with every append. What it promises is kept by `events_taken`, which is
    -- written only when rows are taken away: no event gets a number up to there.
    CREATE TABLE events_taken (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), through INTEGER NOT NULL) STRICT;
    INSERT INTO events_taken VALUES (1, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0));
    ALTER TABLE events RENAME TO events_numbered;
    CREATE TABLE events (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
    INSERT INTO events SELECT seq, body FROM events_numbered ORDER BY seq;
    DROP TABLE events_numbered;
",
];

/// The most rows that one write trims: other writers wait no longer than this takes.
const TRIM_CHUNK: i64 = 500;
/// Events of this many bytes end a read before its limit: output tails make some of them large.
const READ_BYTES: usize = 8 << 20;
/// The longest wait of one read. A longer one is cut to it.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The log in the shared SQLite file. Processes with the same file and data directory see the same log.
pub struct EmbeddedLog {
    db: Sqlite,
    wake: Wake,
    cap: u64,
}

impl EmbeddedLog {
    /// The name under which SQLite keeps the version of the log's tables, and the version that this
    /// Jobber brings them to.
    pub const SCHEMA_VERSION: (&str, usize) = ("events", SCHEMA.len());

    /// Opens or makes the log of at most `cap` events in `db`; `data_dir` holds the file by which processes wake each
    /// other. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the tables can't be made, or the wake-up file can't be watched.
    pub async fn open(db: Sqlite, data_dir: &Path, cap: u64) -> Result<Arc<Self>, EventError> {
        db.migrate("events", SCHEMA).await.map_err(failed)?;
        let wake = Wake::open(data_dir, "events").map_err(|e| {
            EventError::new(
                EventErrorKind::Unavailable,
                format!(
                    "the event log can't be watched in {}; check that the folder may be written and raise \
                     fs.inotify.max_user_instances",
                    data_dir.display()
                ),
            )
            .caused_by(e)
        })?;
        Ok(Arc::new(Self { db, wake, cap }))
    }

    /// The name of this log, unique among all logs.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn name(&self) -> Result<String, EventError> {
        let name = |c: &Connection| c.query_row("SELECT name FROM events_name", [], |row| row.get::<_, String>(0));
        Ok(format!("embedded {}", self.db.read(name).await.map_err(failed)?))
    }

    /// Makes a log that never held an event begin after every place that earlier logs may have
    /// used. Otherwise a history could not tell how far it has been folded. No log takes as many
    /// events as microseconds pass.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn begin_apart(&self, now: Timestamp) -> Result<(), EventError> {
        if self.db.read(last).await.map_err(failed)? > 0 {
            return Ok(());
        }
        let micros = now.as_millis().unsigned_abs().saturating_mul(1000);
        self.continue_after(Cursor { major: 0, minor: micros }).await
    }

    /// Makes the log go on after `place` at the earliest. History that came from another log, or outlived
    /// this one, has been folded up to there, so it would take an event at an earlier place for folded.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn continue_after(&self, place: Cursor) -> Result<(), EventError> {
        let place = row(place);
        if self.db.read(last).await.map_err(failed)? >= place {
            return Ok(());
        }
        self.db.write(move |c| note_taken(c, place)).await.map_err(failed)
    }
}

impl Appender<Event> for EmbeddedLog {
    fn encode(&self, event: &Event) -> Vec<u8> {
        codec::encode(event)
    }

    fn append_within(&self, c: &Connection, events: &[&[u8]]) -> rusqlite::Result<Option<SignalOnDrop>> {
        Ok(insert(c, events, self.cap)?.map(|_| self.wake.signal_on_drop()))
    }
}

#[async_trait]
impl EventSink for EmbeddedLog {
    async fn append(&self, events: &[Event]) -> Result<Cursor, EventError> {
        // Encoded here, because all writers share the writing thread. A start is written in a
        // hurry, because cores are idle until it is written.
        let hurry = events.iter().any(|event| matches!(event.kind, EventKind::AttemptStarted { .. }));
        self.write(events.iter().map(codec::encode).collect(), hurry).await
    }

    async fn append_change(&self, event: &CategoryEvent) -> Result<Cursor, EventError> {
        self.write(vec![codec::encode_change(event)], false).await
    }
}

impl EmbeddedLog {
    async fn read_as(
        &self,
        decode: Decode,
        after: Cursor,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<(Cursor, Entry)>, EventError> {
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            // Before the look, so that an append from here on wakes the wait below.
            let news = self.wake.listen();
            let found = self.db.read(move |c| select(c, decode, after, limit)).await.map_err(failed)?;
            let left = until.saturating_duration_since(Instant::now());
            if !found.is_empty() || left.is_zero() {
                return readable(found);
            }
            news.wait(left).await;
        }
    }

    async fn write(&self, bodies: Vec<Vec<u8>>, hurry: bool) -> Result<Cursor, EventError> {
        let (cap, wake) = (self.cap, self.wake.clone());
        let run = move |c: &Connection| Ok(insert(c, &bodies, cap)?.map(|last| (last, wake.signal_on_drop())));
        let answer = if hurry { self.db.write_now(run) } else { self.db.write_later(run) };
        let closed = |_| EventError::new(EventErrorKind::Unavailable, "the event log has been closed");
        let appended = answer.await.map_err(closed)?.map_err(failed)?;
        appended.map(|(last, _signal)| cursor(last)).ok_or_else(|| {
            EventError::new(
                EventErrorKind::Full,
                format!("the event log is at its cap of {cap} events; history is behind, check the projector"),
            )
        })
    }
}

#[async_trait]
impl EventSource for EmbeddedLog {
    async fn read(&self, after: Cursor, limit: usize, wait: Duration) -> Result<Vec<(Cursor, Entry)>, EventError> {
        self.read_as(codec::decode, after, limit, wait).await
    }

    async fn read_without_bodies(
        &self,
        after: Cursor,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<(Cursor, Entry)>, EventError> {
        self.read_as(codec::decode_without_body, after, limit, wait).await
    }

    async fn span(&self) -> Result<LogSpan, EventError> {
        let (bounds, last) = self.db.read(|c| Ok((bounds(c)?, last(c)?))).await.map_err(failed)?;
        Ok(LogSpan { last: cursor(last), length: length(bounds), cap: self.cap })
    }

    async fn trim(&self, through: Cursor) -> Result<u64, EventError> {
        let through = row(through);
        let mut trimmed = 0;
        loop {
            let (deleted, more) = self.db.write(move |c| delete_some(c, through)).await.map_err(failed)?;
            trimmed += deleted;
            if !more {
                return Ok(trimmed);
            }
        }
    }

    /// The log lies in the same file as its history, or serves the one machine whose history it is.
    async fn owner(&self, history: &str) -> Result<String, EventError> {
        Ok(history.to_owned())
    }

    async fn parked(&self) -> Result<u64, EventError> {
        let count = self.db.read(|c| c.query_row("SELECT count(*) FROM events_parked", [], |row| row.get::<_, i64>(0)));
        Ok(count.await.map_err(failed)?.unsigned_abs())
    }

    async fn park(&self, at: Cursor, reason: &str) -> Result<(), EventError> {
        let (at, reason) = (row(at), reason.to_owned());
        let park = move |c: &Connection| {
            c.execute(
                "INSERT OR IGNORE INTO events_parked (seq, body, reason) SELECT seq, body, ?2 FROM events WHERE seq = ?1",
                (at, &reason),
            )?;
            note_taken(c, at)?;
            c.execute("DELETE FROM events WHERE seq = ?1", [at]).map(|_| ())
        };
        self.db.write(park).await.map_err(failed)
    }
}

fn cursor(row: i64) -> Cursor {
    Cursor { major: 0, minor: row.unsigned_abs() }
}

/// The row of the cursor, or the greatest row number for a cursor beyond all rows.
fn row(cursor: Cursor) -> i64 {
    if cursor.major > 0 { i64::MAX } else { i64::try_from(cursor.minor).unwrap_or(i64::MAX) }
}

/// The first and the last row.
fn bounds(c: &Connection) -> rusqlite::Result<Option<(i64, i64)>> {
    // Two queries in one: SQLite finds a minimum and a maximum by index only when each stands alone.
    let bounds: (Option<i64>, Option<i64>) = c
        .prepare_cached("SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(bounds.0.zip(bounds.1))
}

fn length(bounds: Option<(i64, i64)>) -> u64 {
    bounds.map_or(0, |(first, last)| (last - first).unsigned_abs() + 1)
}

/// The last row number that was given out, trimmed or not; 0 when there was none.
fn last(c: &Connection) -> rusqlite::Result<i64> {
    c.prepare_cached("SELECT max(through, (SELECT coalesce(max(seq), 0) FROM events)) FROM events_taken")?
        .query_row([], |row| row.get(0))
}

/// Notes that no event gets a number up to this one any more.
fn note_taken(c: &Connection, through: i64) -> rusqlite::Result<()> {
    c.prepare_cached("UPDATE events_taken SET through = ?1 WHERE through < ?1")?.execute([through]).map(drop)
}

/// Appends all events, or none (and returns `None`) when that would pass the cap.
fn insert(c: &Connection, bodies: &[impl AsRef<[u8]>], cap: u64) -> rusqlite::Result<Option<i64>> {
    let (first, newest, taken): (Option<i64>, Option<i64>, i64) = c
        .prepare_cached(
            "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events), through FROM events_taken",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    if length(first.zip(newest)).saturating_add(bodies.len() as u64) > cap {
        return Ok(None);
    }
    let mut at = newest.unwrap_or(0).max(taken);
    let mut insert = c.prepare_cached("INSERT INTO events (seq, body) VALUES (?1, ?2)")?;
    for body in bodies {
        at += 1;
        insert.execute((at, body.as_ref()))?;
    }
    Ok(Some(at))
}

type Found = Vec<(Cursor, Result<Entry, EventError>)>;

type Decode = fn(&[u8]) -> Result<Entry, EventError>;

fn select(c: &Connection, decode: Decode, after: Cursor, limit: usize) -> rusqlite::Result<Found> {
    let mut select = c.prepare_cached("SELECT seq, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = select.query((row(after), i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let body = row.get_ref(1)?.as_blob()?;
        found.push((cursor(row.get(0)?), decode(body)));
        bytes += body.len();
        if bytes > READ_BYTES {
            break;
        }
    }
    Ok(found)
}

/// The events before the first that can't be read. If that is the very first, returns its error, with its place.
fn readable(found: Found) -> Result<Vec<(Cursor, Entry)>, EventError> {
    let mut events = Vec::with_capacity(found.len());
    for (at, event) in found {
        match event {
            Ok(event) => events.push((at, event)),
            Err(e) if events.is_empty() => return Err(e.found_at(at)),
            Err(_) => break,
        }
    }
    Ok(events)
}

/// Trims a chunk. Returns how many rows it trimmed, and whether there are more.
fn delete_some(c: &Connection, through: i64) -> rusqlite::Result<(u64, bool)> {
    let Some((first, _)) = bounds(c)? else { return Ok((0, false)) };
    let chunk = through.min(first.saturating_add(TRIM_CHUNK - 1));
    note_taken(c, chunk.min(last(c)?))?;
    let deleted = c.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute([chunk])?;
    Ok((deleted as u64, bounds(c)?.is_some_and(|(first, _)| first <= through)))
}

fn failed(error: SqliteError) -> EventError {
    let kind = match &error {
        SqliteError::Unavailable { .. } => EventErrorKind::Unavailable,
        SqliteError::Full { .. } => EventErrorKind::Full,
        SqliteError::Corrupt { .. } | SqliteError::Panicked { .. } => EventErrorKind::Corrupt,
    };
    EventError::new(kind, "the event log can't be used").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobOptions, NewJob};
    use crate::sqlite::Durability;

    fn event() -> Event {
        let job = NewJob { id: None, name: "a".into(), arguments: vec![], data: None, options: JobOptions::default() };
        Event::submitted(job.accept(Timestamp::from_millis(1)).unwrap())
    }

    async fn log(dir: &tempfile::TempDir) -> Arc<EmbeddedLog> {
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedLog::open(db, dir.path(), 10_000).await.unwrap()
    }

    #[tokio::test]
    async fn an_unreadable_event_is_told_with_its_place_and_can_be_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir).await;
        log.append(&[event(), event(), event()]).await.unwrap();
        log.db.write(|c| c.execute("UPDATE events SET body = x'00' WHERE seq = 2", [])).await.unwrap();

        let before = log.read(Cursor::START, 10, Duration::ZERO).await.unwrap();
        assert_eq!(before.len(), 1);
        let error = log.read(before[0].0, 10, Duration::ZERO).await.unwrap_err();
        assert_eq!((error.kind, error.at), (EventErrorKind::Corrupt, Some(cursor(2))));

        log.park(cursor(2), "broken").await.unwrap();
        assert_eq!(log.parked().await.unwrap(), 1);
        let after = log.read(before[0].0, 10, Duration::ZERO).await.unwrap();
        assert_eq!(after[0].0, cursor(3));
        let kept: (i64, Vec<u8>, String) = log
            .db
            .read(|c| c.query_row("SELECT * FROM events_parked", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))))
            .await
            .unwrap();
        assert_eq!(kept, (2, vec![0], "broken".to_owned()));
    }

    #[tokio::test]
    async fn it_goes_on_behind_a_place_and_never_before_its_own_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir).await;
        log.continue_after(cursor(0)).await.unwrap();
        assert_eq!(log.span().await.unwrap().last, Cursor::START);
        log.continue_after(cursor(7)).await.unwrap();
        assert_eq!(log.span().await.unwrap().last, cursor(7));
        assert_eq!(log.append(&[event()]).await.unwrap(), cursor(8));
        for earlier in [3, 8] {
            log.continue_after(cursor(earlier)).await.unwrap();
        }
        assert_eq!(log.append(&[event()]).await.unwrap(), cursor(9));
        assert_eq!(log.span().await.unwrap().length, 2);
        assert_eq!(log.read(cursor(7), 10, Duration::ZERO).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_append_whose_caller_went_away_wakes_the_readers_too() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir).await;
        let read = log.read(Cursor::START, 1, Duration::from_secs(60));
        let abandoned = async {
            let event = [event()];
            let mut append = Box::pin(log.append(&event));
            // Polled once, so that the write is queued, and then dropped.
            let _ = futures_util::future::poll_immediate(&mut append).await;
        };
        let (events, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(30), read), abandoned);
        assert_eq!(events.unwrap().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn row_numbers_are_never_given_out_twice() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir).await;
        let last = log.append(&vec![event(); 1200]).await.unwrap();
        assert_eq!(log.trim(last).await.unwrap(), 1200);
        let span = log.span().await.unwrap();
        assert_eq!((span.last, span.length), (last, 0));
        assert_eq!(log.append(&[]).await.unwrap(), last);
        assert!(log.append(&[event()]).await.unwrap() > last);
    }

    #[tokio::test]
    async fn a_log_of_an_older_version_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        db.migrate("events", &SCHEMA[..2]).await.unwrap();
        let fill = db.write(|c| {
            for _ in 0..4 {
                c.execute("INSERT INTO events (body) VALUES (?1)", [codec::encode(&event())])?;
            }
            c.execute("DELETE FROM events WHERE seq IN (1, 4)", [])
        });
        assert_eq!(fill.await.unwrap(), 2);
        let log = log(&dir).await;
        let read = log.read(Cursor::START, 10, Duration::ZERO).await.unwrap();
        assert_eq!(read.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [cursor(2), cursor(3)]);
        assert_eq!(log.span().await.unwrap().last, cursor(4), "that of an event that is gone");
        assert_eq!(log.append(&[event()]).await.unwrap(), cursor(5));
    }
}
