//! One SQLite file shared by the embedded adapters: one writing thread with group commit, a few reading connections.
//!
//! Every write is a function on a connection, sent to the writing thread. The thread takes all that
//! has queued up, runs it in one transaction, commits once, and answers. A write that fails, or
//! panics, is undone alone and leaves the others of its group as they are.

mod appender;
mod inspect;
mod migrate;
mod open;
mod presence;
#[cfg(test)]
pub(crate) mod work;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::metrics::Operation;
pub use appender::Appender;
pub use inspect::{Inspection, inspect};
use open::{connect, open};
pub use presence::Presence;
use writer::{Call, Writer};

/// Why a query failed. `Unavailable` and `Full` may pass by themselves.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// Another process has locked the file for too long, or the writing thread is gone.
    #[error("the database {path} is busy")]
    Unavailable {
        /// The path of the database file.
        path: String,
        /// SQLite's own error, if it gave one.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// The disk is full, or can't be written to.
    #[error(
        "the database {path} can't be written: free some disk space, or check that its folder may be written and no limit of its file system is reached"
    )]
    Full {
        /// The path of the database file.
        path: String,
        /// SQLite's own error.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is not a database, is damaged, or was made by a newer Jobber.
    #[error("the database {path} can't be used: {reason}")]
    Corrupt {
        /// The path of the database file.
        path: String,
        /// What is wrong with the file, and what the operator can do.
        reason: String,
        /// SQLite's own error, if it gave one.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// The caller's function panicked, which is a fault in Jobber. SQLite has undone what it had written.
    #[error("a query of the database {path} panicked ({message}): a fault of Jobber, please report it")]
    Panicked {
        /// The path of the database file.
        path: String,
        /// The panic's message.
        message: String,
    },
}

/// A handle to the database file. Clones share it.
#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
}

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The commit survives the death of any process, but a loss of power may undo the last moments.
    Process,
    /// The commit survives a loss of power, at the cost of a disk flush for each group of commits.
    Power,
}

/// A read on a connection of its own.
static READ: Operation = Operation::new("sqlite", "read");
/// How long a write waits for the transaction of another process.
const BUSY: Duration = Duration::from_secs(10);
/// How many reading connections are kept open.
const READERS: usize = 4;

impl Sqlite {
    /// Opens or makes the file and starts its writing thread, which ends with the last handle. Only
    /// this user may read the file: `open` closes it to others if an older Jobber left it open to them.
    ///
    /// # Errors
    /// When the folder is missing or may not be written, or the file is no database.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, SqliteError> {
        Self::start(open(path, durability)?, path)
    }

    fn start(connection: Connection, path: &Path) -> Result<Self, SqliteError> {
        let writer = Writer::start(connection, path).map_err(|e| SqliteError::Corrupt {
            path: path.display().to_string(),
            reason: format!("its writing thread can't be started: {e}"),
            source: None,
        })?;
        Ok(Self { shared: Arc::new(Shared { path: path.to_owned(), writer, readers: Mutex::default() }) })
    }

    /// Like [`Sqlite::open`], with a counter of what the writing thread has SQLite do.
    #[cfg(test)]
    pub(crate) fn open_counted(path: &Path, durability: Durability) -> Result<(Self, work::WorkCounter), SqliteError> {
        let mut connection = open(path, durability)?;
        let counter = work::WorkCounter::default();
        counter.watch(&mut connection).map_err(|e| explain(path, e))?;
        Ok((Self::start(connection, path)?, counter))
    }

    /// The path of the database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Cancelled when the writing thread has died. No write can cause this, and none will ever be made again.
    pub fn writer_died(&self) -> CancellationToken {
        self.shared.writer.died()
    }

    /// Runs `run` in a transaction on the writing thread, and answers when it is committed. The
    /// thread may call `run` more than once (see above), each time on a state in which the other
    /// calls never happened. While another process holds the file, the write waits its turn for
    /// [`BUSY`]; then the thread drops it and answers `Unavailable`.
    pub async fn write<T, F>(&self, run: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_within(BUSY, run).await
    }

    /// Like [`Sqlite::write`], but waits for another process no longer than `patience`.
    pub async fn write_within<T, F>(&self, patience: Duration, run: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (call, answer) = Call::new(run, patience);
        self.shared.writer.send_in_turn(call).await;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Queues `run` like [`Sqlite::write`] without waiting. The thread runs writes in the order in
    /// which they were queued. This is for callers that can't wait, such as destructors, and for
    /// pipelining. Nothing bounds the queue here, so such a caller keeps only a few writes under way.
    pub fn write_later<T, F>(&self, run: F) -> oneshot::Receiver<Result<T, SqliteError>>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (call, answer) = Call::new(run, BUSY);
        self.shared.writer.send(call);
        answer
    }

    /// Like [`Sqlite::write_later`], for callers that hold something up meanwhile, such as cores:
    /// the thread doesn't wait for more writes to share its commit.
    pub fn write_now<T, F>(&self, run: F) -> oneshot::Receiver<Result<T, SqliteError>>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (call, answer) = Call::new(run, BUSY);
        self.shared.writer.send_hurried(call);
        answer
    }

    /// Runs `run` on a reading connection, off the async threads.
    pub async fn read<T, F>(&self, run: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let shared = self.shared.clone();
        let done = READ.time(tokio::task::spawn_blocking(move || {
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
        }));
        done.await.unwrap_or_else(|e| match e.try_into_panic() {
            Ok(panic) => Err(panicked(&self.shared.path, &*panic)),
            Err(_) => Err(self.gone()),
        })
    }

    /// Gives some of the file's free pages back to the file system, if it has more of them than it will soon need, and
    /// answers whether there is more to give back. Other writes wait for no more than a step.
    pub async fn give_room_back(&self) -> Result<bool, SqliteError> {
        /// The pages of one step.
        const STEP: i64 = 500;
        /// The free pages that are kept for what is written next: a part of the file, but these at least.
        const KEPT: (i64, i64) = (8, 1000);
        /// The mode in which pages can be given back.
        const INCREMENTAL: i64 = 2;
        let look = |c: &Connection| -> rusqlite::Result<i64> {
            let number = |pragma: &str| c.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
            match number("auto_vacuum")? {
                INCREMENTAL => Ok(number("freelist_count")? - (number("page_count")? / KEPT.0).max(KEPT.1)),
                _ => Ok(0),
            }
        };
        if self.read(look).await? <= 0 {
            return Ok(false);
        }
        self.write(move |c| {
            let excess = look(c)?;
            if excess > 0 {
                // Each row of the answer is one page that was given back.
                let mut give = c.prepare(&format!("PRAGMA incremental_vacuum({})", excess.min(STEP)))?;
                let mut rows = give.query([])?;
                while rows.next()?.is_some() {}
            }
            Ok(excess > STEP)
        })
        .await
    }

    /// Brings the tables of one adapter up to date: `steps[n]` leads from version n to n + 1. Versions are kept for each
    /// `adapter` by name.
    ///
    /// # Errors
    /// `Corrupt` when the tables were made by a newer Jobber.
    pub async fn migrate(&self, adapter: &'static str, steps: &'static [&'static str]) -> Result<(), SqliteError> {
        let path = self.shared.path.clone();
        let migrating = tokio::task::spawn_blocking(move || {
            migrate::migrate(&path, adapter, steps).map_err(|error| explain(&path, error))
        });
        let found = migrating.await.map_err(|_| self.gone())??;
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

fn removed(path: &Path) -> SqliteError {
    SqliteError::Corrupt {
        path: path.display().to_string(),
        reason: "it was removed or replaced while in use".to_owned(),
        source: None,
    }
}

fn panicked(path: &Path, panic: &(dyn std::any::Any + Send)) -> SqliteError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    SqliteError::Panicked { path: path.display().to_string(), message: text.unwrap_or("no message").to_owned() }
}

/// Whether the query failed because another process held a lock.
fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
    )
}

fn explain(path: &Path, source: rusqlite::Error) -> SqliteError {
    let path = path.display().to_string();
    match source.sqlite_error_code() {
        Some(_) if is_busy(&source) => SqliteError::Unavailable { path, source: Some(source) },
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

    #[test]
    fn many_may_make_the_file_at_once() {
        for _ in 0..200 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.db");
            std::thread::scope(|scope| {
                let opens: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| Sqlite::open(&path, Durability::Process).map(drop))).collect();
                for open in opens {
                    open.join().unwrap().unwrap();
                }
            });
        }
    }

    #[tokio::test]
    async fn only_this_user_may_read_the_files_old_ones_too() {
        use std::os::unix::fs::PermissionsExt;
        let modes = |dir: &Path| {
            let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
            files.map(|file| file.metadata().unwrap().permissions().mode() & 0o777).collect::<Vec<_>>()
        };
        let (dir, db) = temporary();
        db.write(|c| c.execute_batch("CREATE TABLE t (n INTEGER)")).await.unwrap();
        assert_eq!(modes(dir.path()), [0o600; 3]);
        for file in std::fs::read_dir(dir.path()).unwrap() {
            fs_err::set_permissions(file.unwrap().path(), PermissionsExt::from_mode(0o644)).unwrap();
        }
        let again = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        assert_eq!(modes(dir.path()), [0o600; 3]);
        drop(again);
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

    /// The sizes of the database and of its log, in bytes.
    fn sizes(db: &Sqlite) -> (u64, u64) {
        let log = format!("{}-wal", db.path().display());
        (fs_err::metadata(db.path()).unwrap().len(), fs_err::metadata(log).unwrap().len())
    }

    #[tokio::test]
    async fn room_is_given_back_step_by_step() {
        const MIB: u64 = 1 << 20;
        let (_dir, db) = temporary();
        db.migrate("t", &["CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB) STRICT;"]).await.unwrap();
        let fill = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 30000)
                    INSERT INTO t SELECT n, zeroblob(3000) FROM numbers";
        db.write(move |c| c.execute(fill, [])).await.unwrap();
        assert!(sizes(&db).1 > 100 * MIB, "one transaction is all in the log: {:?}", sizes(&db));
        assert!(!db.give_room_back().await.unwrap(), "none of it is free");
        db.write(|c| c.execute("DELETE FROM t WHERE n > 1000", [])).await.unwrap();
        let (mut steps, before) = (0, sizes(&db).0);
        while db.give_room_back().await.unwrap() {
            steps += 1;
        }
        assert!(steps > 20, "{steps}");
        // In passing, SQLite puts the log into the file, and begins it anew with what is written next.
        for n in 0..12 {
            db.write(move |c| c.execute("UPDATE t SET b = zeroblob(2000 + ?1)", [n])).await.unwrap();
        }
        let (file, log) = sizes(&db);
        assert!(before > 100 * MIB && file < 10 * MIB, "{before} bytes before, {file} now");
        assert!(log <= 33 * MIB, "{log}");
        let found: i64 = db.read(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))).await.unwrap();
        assert_eq!(found, 1000);
    }

    #[tokio::test]
    async fn a_file_of_an_older_jobber_learns_to_give_room_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (7);").unwrap();
        drop(old);
        let db = Sqlite::open(&path, Durability::Process).unwrap();
        let found = db.read(|c| {
            let mode: i64 = c.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
            Ok((mode, c.query_row("SELECT n FROM t", [], |row| row.get::<_, i64>(0))?))
        });
        assert_eq!(found.await.unwrap(), (2, 7));
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
