//! Inspects a database that other processes may be using.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{BUSY, SqliteError, explain};

/// The findings about a database, all made without changing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The first complaint of SQLite's quick check.
    pub damage: Option<String>,
    /// The version of each adapter's tables.
    pub versions: Vec<(String, i64)>,
    /// The size of the file, in bytes.
    pub bytes: u64,
    /// The size of its log (WAL), in bytes.
    pub log_bytes: u64,
}

/// Looks at a database that other processes may be using. Reads all of it once.
///
/// # Errors
/// When it can't be opened or read, or is no database.
pub fn inspect(path: &Path) -> Result<Inspection, SqliteError> {
    let look = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY)?;
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        let tables: i64 =
            connection
                .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_versions'", [], |row| row.get(0))?;
        let versions = if tables == 0 {
            Vec::new()
        } else {
            connection
                .prepare("SELECT adapter, version FROM schema_versions ORDER BY adapter")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?
        };
        Ok(((verdict != "ok").then_some(verdict), versions))
    };
    let (damage, versions) = look().map_err(|e| explain(path, e))?;
    let length = |path: &Path| fs_err::metadata(path).map_or(0, |meta| meta.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Ok(Inspection { damage, versions, bytes: length(path), log_bytes: length(Path::new(&log)) })
}
