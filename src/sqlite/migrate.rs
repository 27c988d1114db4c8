//! Brings tables up to date, on a connection of its own. To change a table, SQLite opens a database for temporary ones;
//! the connection of the writing thread would then begin and end a transaction there, too, with each of its own.

use std::path::Path;

use rusqlite::{OptionalExtension, TransactionBehavior};

use super::open::connect;

/// Takes the tables of an adapter from their version to that after the last of these steps, in one transaction. Answers
/// the version that it found; of a later one than it knows, it changes nothing.
pub(super) fn migrate(path: &Path, adapter: &str, steps: &[&str]) -> rusqlite::Result<usize> {
    let mut connection = connect(path)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_versions (adapter TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;",
    )?;
    let version: Option<i64> = transaction
        .query_row("SELECT version FROM schema_versions WHERE adapter = ?1", [adapter], |row| row.get(0))
        .optional()?;
    let found = usize::try_from(version.unwrap_or(0)).unwrap_or(usize::MAX);
    for step in steps.iter().skip(found) {
        transaction.execute_batch(step)?;
    }
    if found < steps.len() {
        transaction.execute(
            "INSERT INTO schema_versions VALUES (?1, ?2) ON CONFLICT DO UPDATE SET version = excluded.version",
            (adapter, i64::try_from(steps.len()).expect("few")),
        )?;
    }
    transaction.commit()?;
    Ok(found)
}
