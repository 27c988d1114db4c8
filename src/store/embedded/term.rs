//! Who may write history, and until when, in one row.

use rusqlite::Connection;

use crate::domain::Timestamp;
use crate::store::Term;

/// The current term: its number, and its holder unless it has been given back.
fn current(c: &Connection) -> rusqlite::Result<(i64, Option<String>, i64)> {
    c.prepare_cached("SELECT term, holder, until_ms FROM history_head")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

pub(super) fn is_held_by_another(c: &Connection, holder: &str, now: Timestamp) -> rusqlite::Result<bool> {
    let (_, held, until) = current(c)?;
    Ok(held.is_some_and(|h| h != holder) && until > now.as_millis())
}

/// Grants a new term when none is held or the last has lapsed, and lengthens the holder's own. `None` for all others.
pub(super) fn lead(c: &Connection, holder: &str, now: Timestamp, until: Timestamp) -> rusqlite::Result<Option<Term>> {
    let (number, held, held_until) = current(c)?;
    let is_held = held.is_some() && held_until > now.as_millis();
    if is_held && held.as_deref() != Some(holder) {
        return Ok(None);
    }
    let number = if is_held { number } else { number + 1 };
    c.prepare_cached("UPDATE history_head SET term = ?1, holder = ?2, until_ms = ?3")?.execute((
        number,
        holder,
        until.as_millis(),
    ))?;
    Ok(Some(Term { holder: holder.to_owned(), number: number.unsigned_abs() }))
}

pub(super) fn resign(c: &Connection, term: &Term) -> rusqlite::Result<()> {
    if is_current(c, term)? {
        c.prepare_cached("UPDATE history_head SET holder = NULL, until_ms = 0")?.execute([])?;
    }
    Ok(())
}

/// Whether this term was the last one given out, and has not been given back.
pub(super) fn is_current(c: &Connection, term: &Term) -> rusqlite::Result<bool> {
    let (number, held, _) = current(c)?;
    Ok(number.unsigned_abs() == term.number && held.as_deref() == Some(&*term.holder))
}
