//! Opens connections with the settings that all of Jobber's connections share.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{BUSY, Durability, SqliteError, explain, is_busy};

/// The mode bits that give access to others than the owner.
const OTHERS: u32 = 0o077;

/// Opens or makes the database, for this user alone, and prepares it for writing.
pub(super) fn open(path: &Path, durability: Durability) -> Result<Connection, SqliteError> {
    keep_private(path);
    let connection = connect(path).map_err(|e| explain(path, e))?;
    let give_up_at = Instant::now() + BUSY;
    loop {
        match prepare(&connection, durability) {
            // To switch a new file to WAL fails at once, without the busy handler, while another process does the same.
            Err(e) if is_busy(&e) && Instant::now() < give_up_at => std::thread::sleep(Duration::from_millis(10)),
            prepared => {
                prepared.and_then(|()| check_writable(&connection)).map_err(|e| explain(path, e))?;
                make_shrinkable(&connection, path);
                return Ok(connection);
            }
        }
    }
}

/// SQLite opens a database that it may not write to for reading, where all of it can be read: with a log that was left
/// behind, for instance.
fn check_writable(connection: &Connection) -> rusqlite::Result<()> {
    if !connection.is_readonly(rusqlite::MAIN_DB)? {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    Err(rusqlite::Error::SqliteFailure(code, Some("it may only be read".to_owned())))
}

/// Makes the file before SQLite does, so that it is never open to others, and closes what an older Jobber left open. The
/// log (WAL) and its index get the mode of the database. Best effort: whether the file can be used is for SQLite to say.
fn keep_private(path: &Path) {
    let mut made = fs_err::OpenOptions::new();
    made.write(true).create_new(true).options_mut().mode(0o600);
    if made.open(path).is_ok() {
        return;
    }
    for file in ["", "-wal", "-shm"].map(|end| beside(path, end)) {
        let Ok(meta) = fs_err::metadata(&file) else { continue };
        let mode = meta.permissions().mode();
        if mode & OTHERS == 0 {
            continue;
        }
        match fs_err::set_permissions(&file, PermissionsExt::from_mode(mode & !OTHERS)) {
            Ok(()) => tracing::info!(file = %file.display(), "closed to other users of this machine"),
            Err(error) => tracing::warn!(%error, "other users of this machine may read the database"),
        }
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Opens or makes the file, set up for reading.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Without it, SQLite plans a statement anew whenever it compares a bound value with the condition
    // of a partial index and that value changes. That is more work than the statement itself.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// How large a file of an older Jobber is at most that is rewritten when it is opened, in bytes: that takes a moment.
const SMALL: i64 = 64 << 20;
/// How large the log (WAL) stays at most once all of it is in the database, in bytes: twice of what it usually has.
const LOG_KEPT: i64 = 32 << 20;

fn prepare(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    // Before anything else: it holds for a file that has no page yet.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
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

/// Rewrites a file of an older Jobber, which could never give room back, while it is small. Best effort: the file is as
/// good as it was when another process uses it, or the disk is full.
fn make_shrinkable(connection: &Connection, path: &Path) {
    let rewrite = || {
        let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        if number("auto_vacuum")? != 0 {
            return Ok(());
        }
        if number("page_count")? * number("page_size")? > SMALL {
            tracing::info!(file = %path.display(), "made by an older jobber: the file never becomes smaller; see the docs");
            return Ok(());
        }
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        // The copy that SQLite makes is not to be in memory.
        connection.pragma_update(None, "temp_store", "FILE")?;
        let rewritten = connection.execute_batch("VACUUM");
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        rewritten
    };
    if let Err(error) = rewrite() {
        let error: rusqlite::Error = error;
        tracing::info!(%error, "the database can't be made to give room back now; tried again at the next start");
    }
}
