//! One SQLite file shared by the embedded adapters: one writing thread with group commit, a few reading connections.
//!
//! Every write is a function on a connection, sent to the writing thread. The thread takes all that has queued up,
//! runs it in one transaction, commits once, and answers. If one of them fails, the transaction is rolled back and each
//! is run again in a transaction of its own, so that a failure hits nobody else.

mod inspect;
mod presence;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;

pub use inspect::{Inspection, inspect};
pub use presence::Presence;

/// Why a query failed. `Unavailable` and `Full` may pass.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// Locked for too long by another process, or the writing thread is gone.
    #[error("the database {path} is busy")]
    Unavailable {
        /// The file.
        path: String,
        /// What SQLite said, if it said something.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// The disk is full, or can't be written to.
    #[error("the database {path} can't grow: free some disk space, or check the limits of its file system")]
    Full {
        /// The file.
        path: String,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Not a database, of a newer Jobber, or damaged.
    #[error("the database {path} can't be used: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
        /// What SQLite said, if it said something.
        #[source]
        source: Option<rusqlite::Error>,
    },
}

/// A handle to the file; clones share it.
#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    writer: std::sync::mpsc::SyncSender<Box<dyn Work>>,
    readers: Mutex<Vec<Connection>>,
}

/// How hard a commit is pressed to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives the death of any process, but the last moments may be lost with the power.
    Process,
    /// Survives the loss of power: a disk flush for each group of commits.
    Power,
}

/// How many writes may wait before their callers do.
const QUEUE: usize = 4096;
/// How many writes share one commit at most.
const GROUP: usize = 512;
/// While several writes come at a time they are gathered for the next commit for so many times what the last one took:
/// a commit costs about as much as ten small writes, so this is worth far more than it delays. One caller alone never
/// waits for it.
const GATHER: u32 = 2;
/// The longest that writes are gathered.
const GATHER_MOST: Duration = Duration::from_millis(2);
/// How long to wait for another process's transaction.
const BUSY: Duration = Duration::from_secs(10);
/// Reading connections that are kept open.
const READERS: usize = 4;

trait Work: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, result: Result<(), SqliteError>);
}

struct Call<F, T> {
    run: F,
    output: Option<T>,
    reply: oneshot::Sender<Result<T, SqliteError>>,
}

impl<F, T> Work for Call<F, T>
where
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.output = Some((self.run)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Call { output, reply, .. } = *self;
        // Nobody waits any more when the caller was cancelled; the write stands.
        let _ = reply.send(result.map(|()| output.expect("a write that succeeded has run")));
    }
}

impl Sqlite {
    /// Opens or makes the file and starts its writing thread, which ends with the last handle.
    ///
    /// # Errors
    /// When the folder is missing or may not be written, or the file is no database.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, SqliteError> {
        let connection = connect(path).map_err(|e| explain(path, e))?;
        prepare(&connection, durability).map_err(|e| explain(path, e))?;
        let (writer, work) = std::sync::mpsc::sync_channel(QUEUE);
        let thread_path = path.to_owned();
        std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || write_all(&connection, &thread_path, &work))
            .map_err(|e| SqliteError::Corrupt {
                path: path.display().to_string(),
                reason: format!("its writing thread can't be started: {e}"),
                source: None,
            })?;
        Ok(Self { shared: Arc::new(Shared { path: path.to_owned(), writer, readers: Mutex::default() }) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Runs `run` in a transaction on the writing thread; answers when it is committed. `run` may be called twice (see
    /// above), each time on a state in which the other call never happened.
    pub async fn write<T, F>(&self, run: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_later(run).await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Queues `run` like [`Sqlite::write`] without waiting; writes are run in the order in which they were queued. For
    /// callers that can't wait, such as destructors, and for pipelining.
    pub fn write_later<T, F>(&self, run: F) -> oneshot::Receiver<Result<T, SqliteError>>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { run, output: None, reply });
        // A full queue blocks the caller for the length of one group commit: back-pressure. A closed one drops `reply`,
        // which the receiver sees.
        let _ = self.shared.writer.send(call);
        answer
    }

    /// Runs `run` on a reading connection, off the async threads.
    pub async fn read<T, F>(&self, run: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || {
            let kept = shared.readers.lock().expect("no reader panics while it holds the lock").pop();
            let connection = match kept {
                Some(connection) => connection,
                None => {
                    let connection = connect(&shared.path).map_err(|e| explain(&shared.path, e))?;
                    connection.pragma_update(None, "query_only", true).map_err(|e| explain(&shared.path, e))?;
                    connection
                }
            };
            let result = run(&connection).map_err(|e| explain(&shared.path, e));
            let mut readers = shared.readers.lock().expect("no reader panics while it holds the lock");
            if readers.len() < READERS {
                readers.push(connection);
            }
            result
        });
        done.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Brings the tables of one adapter up to date: `steps[n]` leads from version n to n + 1. Versions are kept for each
    /// `adapter` by name.
    ///
    /// # Errors
    /// `Corrupt` when the tables were made by a newer Jobber.
    pub async fn migrate(&self, adapter: &'static str, steps: &'static [&'static str]) -> Result<(), SqliteError> {
        let found = self
            .write(move |c| {
                c.execute_batch(
                    "CREATE TABLE IF NOT EXISTS schema_versions (adapter TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;",
                )?;
                let found: i64 = c
                    .query_row("SELECT version FROM schema_versions WHERE adapter = ?1", [adapter], |row| row.get(0))
                    .or_else(|e| if e == rusqlite::Error::QueryReturnedNoRows { Ok(0) } else { Err(e) })?;
                let found = usize::try_from(found).unwrap_or(usize::MAX);
                for step in steps.iter().skip(found) {
                    c.execute_batch(step)?;
                }
                if found < steps.len() {
                    c.execute(
                        "INSERT INTO schema_versions VALUES (?1, ?2) ON CONFLICT DO UPDATE SET version = excluded.version",
                        (adapter, i64::try_from(steps.len()).expect("few")),
                    )?;
                }
                Ok(found)
            })
            .await?;
        if found > steps.len() {
            return Err(SqliteError::Corrupt {
                path: self.shared.path.display().to_string(),
                reason: format!(
                    "its {adapter} tables have version {found}, this jobber knows {}; run a newer jobber",
                    steps.len()
                ),
                source: None,
            });
        }
        Ok(())
    }

    fn gone(&self) -> SqliteError {
        SqliteError::Unavailable { path: self.shared.path.display().to_string(), source: None }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Without it, SQLite plans a statement anew whenever a bound value changes that it compares with the condition of a
    // partial index: more work than the statement itself.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

fn prepare(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(
        None,
        "synchronous",
        match durability {
            Durability::Process => "NORMAL",
            Durability::Power => "FULL",
        },
    )?;
    // 16 MiB of log between checkpoints: fewer flushes under load.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "cache_size", -4_000)?;
    // The journals of single statements are small and live for microseconds: not worth a file each.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "foreign_keys", true)
}

fn write_all(connection: &Connection, path: &Path, work: &std::sync::mpsc::Receiver<Box<dyn Work>>) {
    // What is written to a file that nobody can find any more is lost with this process: better refuse it.
    let presence = Presence::of(path);
    let mut group = Vec::new();
    let mut gather = Duration::ZERO;
    while let Ok(first) = work.recv() {
        group.push(first);
        if !gather.is_zero() {
            std::thread::sleep(gather);
        }
        while group.len() < GROUP {
            match work.try_recv() {
                Ok(next) => group.push(next),
                Err(_) => break,
            }
        }
        if !presence.is_there() {
            for call in group.drain(..) {
                call.answer(Err(removed(path)));
            }
            continue;
        }
        let (writes, began) = (group.len(), Instant::now());
        if run_in_one(connection, &mut group).is_ok() {
            for call in group.drain(..) {
                call.answer(Ok(()));
            }
        } else {
            for mut call in group.drain(..) {
                let result = run_in_one(connection, std::slice::from_mut(&mut call));
                call.answer(result.map_err(|e| explain(path, e)));
            }
        }
        gather = if writes > 1 { (began.elapsed() * GATHER).min(GATHER_MOST) } else { Duration::ZERO };
    }
}

fn run_in_one(connection: &Connection, calls: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let done = calls
        .iter_mut()
        .try_for_each(|call| call.run(connection))
        .and_then(|()| connection.prepare_cached("COMMIT")?.execute([]));
    if done.is_err() && !connection.is_autocommit() {
        // The error that led here is the one to report; a failed rollback leaves the next BEGIN to fail.
        let _ = connection.execute_batch("ROLLBACK");
    }
    done.map(|_| ())
}

fn removed(path: &Path) -> SqliteError {
    SqliteError::Corrupt {
        path: path.display().to_string(),
        reason: "it was removed or replaced while in use".to_owned(),
        source: None,
    }
}

fn explain(path: &Path, source: rusqlite::Error) -> SqliteError {
    let path = path.display().to_string();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            SqliteError::Unavailable { path, source: Some(source) }
        }
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            SqliteError::Full { path, source }
        }
        Some(ErrorCode::CannotOpen) => SqliteError::Corrupt {
            path,
            reason: "it can't be opened; check that its folder exists and may be written".to_owned(),
            source: Some(source),
        },
        _ => SqliteError::Corrupt { path, reason: source.to_string(), source: Some(source) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> (tempfile::TempDir, Sqlite) {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        (dir, db)
    }

    #[tokio::test]
    async fn a_failing_write_hits_nobody_else() {
        let (_dir, db) = temporary();
        db.migrate("t", &["CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT;"]).await.unwrap();
        let writes: Vec<_> = [1, 2, 2, 3]
            .into_iter()
            .map(|n| db.write_later(move |c| c.execute("INSERT INTO t VALUES (?1)", [n])))
            .collect();
        let mut good = 0;
        for write in writes {
            good += usize::from(write.await.unwrap().is_ok());
        }
        let count: i64 = db.read(|c| c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))).await.unwrap();
        assert_eq!((good, count), (3, 3));
    }

    #[tokio::test]
    async fn nothing_is_written_to_a_file_that_was_removed() {
        let (dir, db) = temporary();
        db.write(|c| c.execute_batch("CREATE TABLE t (n INTEGER)")).await.unwrap();
        fs_err::rename(dir.path().join("t.db"), dir.path().join("moved.db")).unwrap();
        let error = db.write(|c| c.execute("INSERT INTO t VALUES (1)", [])).await.unwrap_err();
        assert!(error.to_string().contains("removed or replaced"), "{error}");
        fs_err::rename(dir.path().join("moved.db"), dir.path().join("t.db")).unwrap();
        db.write(|c| c.execute("INSERT INTO t VALUES (1)", [])).await.unwrap();
    }

    #[tokio::test]
    async fn tables_of_a_newer_jobber_are_refused() {
        let (_dir, db) = temporary();
        db.migrate("t", &["CREATE TABLE a (n INTEGER);", "CREATE TABLE b (n INTEGER);"]).await.unwrap();
        db.migrate("t", &["CREATE TABLE a (n INTEGER);", "CREATE TABLE b (n INTEGER);"]).await.unwrap();
        let error = db.migrate("t", &["CREATE TABLE a (n INTEGER);"]).await.unwrap_err();
        assert!(error.to_string().contains("run a newer jobber"), "{error}");
    }
}
