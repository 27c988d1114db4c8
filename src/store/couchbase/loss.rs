//! Notices that the bucket has lost what this process saw in it, because the bucket was emptied,
//! rolled back by a failover, or made anew.
//!
//! Two signs show that Couchbase has lost what was written. First, the lease is missing or older
//! than before, although terms only grow, and so does the cursor within a term. Second, a vbucket
//! goes on under another UUID, which the server gives it when it becomes active without everything
//! that its predecessor had. A vbucket of documents may lose its last writes while that of the
//! lease keeps them. So after either sign nothing that this process remembers of the store counts
//! any more. Its term is over, the log is folded again from its beginning, and events that the
//! documents hold already are skipped.
//!
//! The write by which a loss is noticed may be of a job that was read after the loss: it then has its last events, and
//! lacks those that were lost. So the jobs of such a commit are put back (`projection::Projecting::take_back`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

use crate::events::Cursor;

/// The term and the cursor of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Standing {
    pub(super) term: u64,
    pub(super) cursor: Cursor,
}

#[derive(Debug, Default)]
struct Seen {
    /// The latest known state of the lease.
    lease: Standing,
    /// Counts how often `lease` was set back. A read from before means nothing after.
    epoch: u64,
    /// Terms up to this one ended with a loss.
    lost_through: u64,
    /// Whether the projector must fold the log again from its start.
    is_to_restart: bool,
    /// How many losses there had been when the projector last recounted what was left in the store.
    recounted: u64,
    /// The UUID of each vbucket, from the last write to it.
    branches: HashMap<u16, u64>,
}

/// What this process knew before it read the lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct StandingBefore {
    lease: Standing,
    epoch: u64,
}

/// What this process has seen of the store, by which it notices losses.
#[derive(Debug, Default)]
pub(super) struct StoreSightings {
    seen: Mutex<Seen>,
    losses: watch::Sender<u64>,
}

impl StoreSightings {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no thread panics while it holds the lock")
    }

    /// Must be called before the lease is read, because answers may arrive in another order than they were made in.
    pub(super) fn before(&self) -> StandingBefore {
        let seen = self.seen();
        StandingBefore { lease: seen.lease, epoch: seen.epoch }
    }

    /// Notes a lease that was read, or that there is none.
    pub(super) fn found(&self, before: StandingBefore, lease: Option<Standing>) {
        let mut seen = self.seen();
        if before.epoch != seen.epoch {
            return;
        }
        let found = lease.unwrap_or_default();
        // A later term may begin at an earlier cursor: its holder has noticed a loss itself.
        let is_older =
            found.term < before.lease.term || (found.term == before.lease.term && found.cursor < before.lease.cursor);
        if !is_older {
            seen.lease = seen.lease.max(found);
            return;
        }
        let why = match lease {
            None => "the projector's lease is gone".to_owned(),
            Some(_) => format!(
                "the projector's lease stands at term {} and cursor {}, where it stood at term {} and cursor {}",
                found.term, found.cursor, before.lease.term, before.lease.cursor
            ),
        };
        self.lost(&mut seen, &format!("Couchbase has lost history that had been written: {why}"));
    }

    /// Notes the UUID of the vbucket that a write went to.
    pub(super) fn wrote(&self, vbucket: u16, uuid: u64) {
        let mut seen = self.seen();
        if seen.branches.insert(vbucket, uuid).is_some_and(|known| known != uuid) {
            let why = format!("vbucket {vbucket} goes on under another UUID, as after a failover");
            self.lost(&mut seen, &format!("Couchbase may have lost history that had been written: {why}"));
        }
    }

    fn lost(&self, seen: &mut Seen, what: &str) {
        tracing::error!(
            "{what}. What the event log still holds is folded again; what is older and was lost comes back from a backup \
             only"
        );
        seen.lost_through = seen.lost_through.max(seen.lease.term);
        seen.lease = Standing::default();
        seen.epoch += 1;
        seen.is_to_restart = true;
        // Other vbuckets of the same node have changed too. That is one loss, to be logged once.
        seen.branches.clear();
        self.losses.send_modify(|losses| *losses += 1);
    }

    /// The last term in which the store lost something. It and earlier ones can't be written under any more.
    pub(super) fn lost_through(&self) -> u64 {
        self.seen().lost_through
    }

    /// Whether the next term must begin at the start of the log.
    pub(super) fn is_to_restart(&self) -> bool {
        self.seen().is_to_restart
    }

    /// Notes a lease that was written.
    pub(super) fn wrote_lease(&self, lease: Standing) {
        let mut seen = self.seen();
        if lease.term > seen.lost_through {
            if std::mem::take(&mut seen.is_to_restart) {
                seen.lease = lease;
                seen.epoch += 1;
            } else {
                seen.lease = seen.lease.max(lease);
            }
        }
    }

    /// How many losses there were, if one came after the last recount.
    pub(super) fn to_recount(&self) -> Option<u64> {
        let losses = self.losses();
        (losses > self.seen().recounted).then_some(losses)
    }

    /// Notes a recount that has begun after so many losses.
    pub(super) fn recounted(&self, losses: u64) {
        self.seen().recounted = losses;
    }

    /// How many losses there were.
    pub(super) fn losses(&self) -> u64 {
        *self.losses.borrow()
    }

    /// Follows the number of losses.
    pub(super) fn watch_losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, minor: u64) -> Standing {
        Standing { term, cursor: Cursor { major: 0, minor } }
    }

    #[test]
    fn a_lease_that_went_back_is_a_loss_and_one_that_was_read_late_is_not() {
        let witness = StoreSightings::default();
        let early = witness.before();
        witness.wrote_lease(at(3, 10));
        witness.found(early, Some(at(2, 5)));
        assert_eq!(witness.losses(), 0, "it was asked for before the write");
        witness.found(witness.before(), Some(at(4, 0)));
        assert_eq!(witness.losses(), 0, "a later term may begin behind");
        let before = witness.before();
        witness.found(before, Some(at(3, 10)));
        witness.found(before, Some(at(3, 10)));
        assert_eq!((witness.losses(), witness.lost_through()), (1, 4), "told once");
    }

    #[test]
    fn after_a_loss_the_log_is_folded_from_its_start_once() {
        let witness = StoreSightings::default();
        witness.wrote_lease(at(1, 10));
        witness.found(witness.before(), None);
        assert!(witness.is_to_restart());
        assert_eq!((witness.to_recount(), witness.to_recount()), (Some(1), Some(1)), "until it is done");
        witness.recounted(1);
        assert_eq!(witness.to_recount(), None);
        let reading = witness.before();
        witness.wrote_lease(at(2, 0));
        witness.found(reading, None);
        witness.found(witness.before(), Some(at(2, 0)));
        assert!(!witness.is_to_restart());
        assert_eq!(witness.losses(), 1);
    }

    #[test]
    fn a_vbucket_under_another_uuid_is_a_loss_and_the_next_ones_with_it() {
        let witness = StoreSightings::default();
        for vbucket in 0..4 {
            witness.wrote(vbucket, 7);
        }
        witness.wrote(1, 8);
        witness.wrote(2, 8);
        witness.wrote(1, 8);
        assert_eq!(witness.losses(), 1);
        witness.wrote(2, 9);
        assert_eq!(witness.losses(), 2);
    }
}
