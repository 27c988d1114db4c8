//! One SQLite file shared by the embedded adapters: one writing thread with group commit, a few reading connections.
//!
//! Every write is a function on a connection, sent to the writing thread. The thread takes all that has queued up,
//! runs it in one transaction, commits once, and answers. A write that fails, or panics, is undone alone: it hits no other.

mod inspect;
mod open;
mod presence;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use inspect::{Inspection, inspect};
use open::{connect, open};
pub use presence::Presence;
use writer::{Call, Writer};

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
    /// A fault of Jobber's own in the function that was to be run; what it had written is undone.
    #[error("a query of the database {path} panicked ({message}): a fault of Jobber, please report it")]
    Panicked {
        /// The file.
        path: String,
        /// The panic's message.
        message: String,
    },
}

/// A handle to the file; clones share it.
#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    writer: Writer,
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

/// How long a write waits for the transaction of another process.
const BUSY: Duration = Duration::from_secs(10);
/// Reading connections that are kept open.
const READERS: usize = 4;

impl Sqlite {
    /// Opens or makes the file and starts its writing thread, which ends with the last handle. Only this user may read
    /// the file: one that others could read is closed to them.
    ///
    /// # Errors
    /// When the folder is missing or may not be written, or the file is no database.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, SqliteError> {
        let connection = open(path, durability)?;
        let writer = Writer::start(connection, path).map_err(|e| SqliteError::Corrupt {
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

    /// Cancelled when the writing thread has died, which no write can cause: no write will ever be made again.
    pub fn writer_died(&self) -> CancellationToken {
        self.shared.writer.died()
    }

    /// Runs `run` in a transaction on the writing thread; answers when it is committed. `run` may be called more than
    /// once (see above), each time on a state in which the other calls never happened. While another process holds the
    /// file, the write waits its turn for [`BUSY`], then is dropped and answers `Unavailable`.
    pub async fn write<T, F>(&self, run: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_within(BUSY, run).await
    }

    /// The same with another patience.
    pub async fn write_within<T, F>(&self, patience: Duration, run: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (call, answer) = Call::new(run, patience);
        self.shared.writer.send_in_turn(call).await;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Queues `run` like [`Sqlite::write`] without waiting; writes are run in the order in which they were queued. For
    /// callers that can't wait, such as destructors, and for pipelining: each has but a few of them under way.
    pub fn write_later<T, F>(&self, run: F) -> oneshot::Receiver<Result<T, SqliteError>>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (call, answer) = Call::new(run, BUSY);
        self.shared.writer.send(call);
        answer
    }

    /// The same for callers that hold something up meanwhile, such as cores: no others are gathered for its commit.
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
        done.await.unwrap_or_else(|e| match e.try_into_panic() {
            Ok(panic) => Err(panicked(&self.shared.path, &*panic)),
            Err(_) => Err(self.gone()),
        })
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

/// Whether another process was in the way.
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

    #[tokio::test]
    async fn tables_of_a_newer_jobber_are_refused() {
        let (_dir, db) = temporary();
        db.migrate("t", &["CREATE TABLE a (n INTEGER);", "CREATE TABLE b (n INTEGER);"]).await.unwrap();
        db.migrate("t", &["CREATE TABLE a (n INTEGER);", "CREATE TABLE b (n INTEGER);"]).await.unwrap();
        let error = db.migrate("t", &["CREATE TABLE a (n INTEGER);"]).await.unwrap_err();
        assert!(error.to_string().contains("run a newer jobber"), "{error}");
    }
}
