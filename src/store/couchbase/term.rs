//! The document that says who may write history, until when, and up to where it has been folded. It
//! is replaced under its version.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CouchbaseSettings;
use super::documents::{PROJECTOR, Room, read};
use super::kv::Written;
use super::loss::Standing;
use super::session::Connector;
use crate::domain::{Clock, Timestamp};
use crate::events::Cursor;
use crate::reconnect::ReconnectBackoff;
use crate::store::{StoreError, StoreErrorKind, Term, codec};

/// The document `projector`: the lease and the cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeadershipLease {
    schema: u32,
    /// The number of the last term that was granted.
    term: u64,
    /// The holder of that term; `None` when it was given back.
    holder: Option<String>,
    /// When the term ends; `None` when it was given back.
    until: Option<Timestamp>,
    /// The place up to which the log has been folded.
    pub(super) cursor: Cursor,
    /// The name of the log that was folded; `None` before the first log with a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

impl LeadershipLease {
    const NEVER: LeadershipLease =
        LeadershipLease { schema: 1, term: 0, holder: None, until: None, cursor: Cursor::START, log: None };

    fn is(&self, term: &Term) -> bool {
        self.term == term.number && self.holder.as_deref() == Some(&*term.holder)
    }

    fn standing(&self) -> Standing {
        Standing { term: self.term, cursor: self.cursor }
    }
}

/// How often to try again when another process writes the lease at the same time.
const TRIES: u32 = 50;

/// Reads the lease and its version; `None` before the first. Notices when it is older than before.
pub(super) async fn stored(connector: &Connector) -> Result<Option<(LeadershipLease, u64)>, StoreError> {
    let before = connector.witness.before();
    let found = connector.get(Room::Aggregates, PROJECTOR).await?;
    let found = found.map(|f| Ok((read::<LeadershipLease>("the projector's lease", &f.body)?, f.cas))).transpose()?;
    connector.witness.found(before, found.as_ref().map(|(lease, _)| lease.standing()));
    Ok(found)
}

/// Rewrites the lease by `next` until no other process writes in between. `next` returns the new
/// lease, if it changes, and the result.
async fn rewrite<T>(
    connector: &Connector,
    next: impl Fn(&LeadershipLease) -> Result<(Option<LeadershipLease>, T), StoreError>,
) -> Result<T, StoreError> {
    let mut waits = ReconnectBackoff::new(Duration::from_millis(2), Duration::from_millis(200));
    for _ in 0..TRIES {
        let (lease, version) = match stored(connector).await? {
            Some((lease, version)) => (lease, Some(version)),
            None => (LeadershipLease::NEVER, None),
        };
        let (wanted, result) = next(&lease)?;
        let Some(wanted) = wanted else { return Ok(result) };
        match connector.write(Room::Aggregates, PROJECTOR, &codec::encode(&wanted), version).await? {
            Written::Done(_) => {
                connector.witness.wrote_lease(wanted.standing());
                return Ok(result);
            }
            Written::Moved => tokio::time::sleep(waits.next_wait()).await,
        }
    }
    Err(StoreError::new(StoreErrorKind::Unavailable, "too many processes write the projector's lease at once"))
}

/// The log from which history is folded from now on. It stays the same unless the settings name
/// another. Then either history must not have been folded from any log before, or the settings must
/// say that the former log is gone.
fn followed(lease: &LeadershipLease, settings: &CouchbaseSettings) -> Result<Option<String>, StoreError> {
    match (&settings.log, &lease.log) {
        (Some(own), Some(other)) if own != other && settings.replaces_log.as_ref() != Some(other) => {
            let message = format!(
                "history in Couchbase is folded from another event log ({other}) and can't be folded from this one ({own}) \
                 as well, events would be lost: let all servers share one queue (one data directory, or one queue.url), or \
                 give this one a history of its own (another bucket, store.scope or store.key_prefix). If that log is \
                 gone for good, set store.replaces_log = '{other}'"
            );
            Err(StoreError::new(StoreErrorKind::Rejected, message))
        }
        (own, other) => Ok(own.as_ref().or(other.as_ref()).cloned()),
    }
}

/// Grants a new term when none is held or the last has lapsed, and lengthens the holder's own. `None` for all
/// others. A term in which the store lost something is over, and the next one begins at the start of the log.
///
/// # Errors
/// `Rejected` when this history is folded from another log.
pub(super) async fn lead(
    connector: &Connector,
    holder: &str,
    ttl: Duration,
    clock: &Clock,
) -> Result<Option<Term>, StoreError> {
    rewrite(connector, |lease| {
        let log = followed(lease, connector.settings())?;
        let now = clock.now();
        let held = lease.holder.as_deref().filter(|_| lease.until.is_some_and(|until| until > now));
        let lost_through = connector.witness.lost_through();
        let number = match held {
            Some(by) if by != holder => return Ok((None, None)),
            Some(_) if lease.term > lost_through => lease.term,
            _ => lease.term.max(lost_through) + 1,
        };
        let is_to_restart = number > lease.term && connector.witness.is_to_restart();
        let cursor = if is_to_restart { Cursor::START } else { lease.cursor };
        let (holder, until) = (holder.to_owned(), now + ttl);
        let wanted = LeadershipLease {
            term: number,
            holder: Some(holder.clone()),
            until: Some(until),
            log,
            cursor,
            ..lease.clone()
        };
        Ok((Some(wanted), Some(Term { holder, number })))
    })
    .await
}

/// Gives this term back, if it is still the current one.
pub(super) async fn resign(connector: &Connector, term: &Term) -> Result<(), StoreError> {
    rewrite(connector, |lease| {
        let wanted = lease.is(term).then(|| LeadershipLease { holder: None, until: None, ..lease.clone() });
        Ok((wanted, ()))
    })
    .await
}

/// Refuses every term but the current one.
pub(super) async fn check(connector: &Connector, term: &Term) -> Result<(), StoreError> {
    let lease = stored(connector).await?;
    if lease.is_some_and(|(lease, _)| lease.is(term)) { check_unlost(connector, term) } else { Err(fenced()) }
}

/// Refuses a term in which this process has noticed a loss. It looks at what the process knows, without a request.
pub(super) fn check_unlost(connector: &Connector, term: &Term) -> Result<(), StoreError> {
    if term.number > connector.witness.lost_through() { Ok(()) } else { Err(fenced()) }
}

/// Moves the cursor forward, under this term only.
pub(super) async fn advance(connector: &Connector, term: &Term, cursor: Cursor) -> Result<(), StoreError> {
    rewrite(connector, |lease| {
        if !lease.is(term) {
            return Err(fenced());
        }
        check_unlost(connector, term)?;
        Ok(((cursor > lease.cursor).then(|| LeadershipLease { cursor, ..lease.clone() }), ()))
    })
    .await
}

fn fenced() -> StoreError {
    StoreError::new(StoreErrorKind::Fenced, "another projector has taken over, or the store has lost data")
}
