//! Who may write history, until when, and up to where it has been folded: one document, replaced under its version.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::documents::{PROJECTOR, Room, read};
use super::kv::Written;
use super::session::Connector;
use crate::backoff::Waits;
use crate::domain::{Clock, Timestamp};
use crate::events::Cursor;
use crate::store::{StoreError, StoreErrorKind, Term, codec};

/// The document `projector`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    schema: u32,
    /// The last term given out.
    term: u64,
    /// Who holds it; `None` when it was given back.
    holder: Option<String>,
    /// `None` when it was given back.
    until: Option<Timestamp>,
    /// Up to where the log has been folded.
    pub(super) cursor: Cursor,
}

impl Lease {
    const NEVER: Lease = Lease { schema: 1, term: 0, holder: None, until: None, cursor: Cursor::START };

    fn is(&self, term: &Term) -> bool {
        self.term == term.number && self.holder.as_deref() == Some(&*term.holder)
    }
}

/// How often to look again when others write the lease at the same time.
const TRIES: u32 = 50;

/// The lease with its version; `None` before the first.
pub(super) async fn stored(connector: &Connector) -> Result<Option<(Lease, u64)>, StoreError> {
    let found = connector.get(Room::Aggregates, PROJECTOR).await?;
    found.map(|f| Ok((read("the projector's lease", &f.body)?, f.cas))).transpose()
}

/// Rewrites the lease by `next` until nobody writes in between; `next` answers what to write, if anything, and the
/// result.
async fn rewrite<T>(
    connector: &Connector,
    next: impl Fn(&Lease) -> Result<(Option<Lease>, T), StoreError>,
) -> Result<T, StoreError> {
    let mut waits = Waits::new(Duration::from_millis(2), Duration::from_millis(200));
    for _ in 0..TRIES {
        let (lease, version) = match stored(connector).await? {
            Some((lease, version)) => (lease, Some(version)),
            None => (Lease::NEVER, None),
        };
        let (wanted, result) = next(&lease)?;
        let Some(wanted) = wanted else { return Ok(result) };
        match connector.write(Room::Aggregates, PROJECTOR, &codec::encode(&wanted), version).await? {
            Written::Done(_) => return Ok(result),
            Written::Moved => tokio::time::sleep(waits.next_wait()).await,
        }
    }
    Err(StoreError::new(StoreErrorKind::Unavailable, "too many processes write the projector's lease at once"))
}

/// Grants a new term when none is held or the last has lapsed, lengthens the holder's own; `None` for everybody else.
pub(super) async fn lead(
    connector: &Connector,
    holder: &str,
    ttl: Duration,
    clock: &Clock,
) -> Result<Option<Term>, StoreError> {
    rewrite(connector, |lease| {
        let now = clock.now();
        let held = lease.holder.as_deref().filter(|_| lease.until.is_some_and(|until| until > now));
        let number = match held {
            Some(by) if by != holder => return Ok((None, None)),
            Some(_) => lease.term,
            None => lease.term + 1,
        };
        let wanted = Lease { term: number, holder: Some(holder.to_owned()), until: Some(now + ttl), ..lease.clone() };
        Ok((Some(wanted), Some(Term { holder: holder.to_owned(), number })))
    })
    .await
}

/// Gives that term back, if it is still the current one.
pub(super) async fn resign(connector: &Connector, term: &Term) -> Result<(), StoreError> {
    rewrite(connector, |lease| {
        let wanted = lease.is(term).then(|| Lease { holder: None, until: None, ..lease.clone() });
        Ok((wanted, ()))
    })
    .await
}

/// Refuses every term but the current one.
pub(super) async fn check(connector: &Connector, term: &Term) -> Result<(), StoreError> {
    let lease = stored(connector).await?;
    if lease.is_some_and(|(lease, _)| lease.is(term)) { Ok(()) } else { Err(fenced()) }
}

/// Moves the cursor forward, under this term only.
pub(super) async fn advance(connector: &Connector, term: &Term, cursor: Cursor) -> Result<(), StoreError> {
    rewrite(connector, |lease| {
        if !lease.is(term) {
            return Err(fenced());
        }
        Ok(((cursor > lease.cursor).then(|| Lease { cursor, ..lease.clone() }), ()))
    })
    .await
}

fn fenced() -> StoreError {
    StoreError::new(StoreErrorKind::Fenced, "another projector has taken over")
}
