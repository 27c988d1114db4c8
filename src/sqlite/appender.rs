//! Entries that one adapter adds to another's table, in a transaction of its own.

use rusqlite::Connection;

use crate::wake::SignalOnDrop;

/// A table to which other adapters of the same file add entries. They do so within their own transactions, so that an entry
/// is there when and only when what it tells of is.
pub trait Appender<E>: Send + Sync + 'static {
    /// The entry as the table keeps it: made before the transaction, because all writers share the writing thread.
    fn encode(&self, entry: &E) -> Vec<u8>;

    /// Adds the entries in order, all or none, within the transaction under way. `None` when there is no room for them.
    /// What it returns wakes the readers of the table, so the caller drops it after the commit.
    fn append_within(&self, connection: &Connection, entries: &[&[u8]]) -> rusqlite::Result<Option<SignalOnDrop>>;
}
