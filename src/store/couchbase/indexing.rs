//! Looks after the indexes for as long as the store is open: makes what is missing as soon as that can be done.
//!
//! A collection that was just made is unknown to the query service for a while, the query and the index service of a
//! cluster that starts are up later than its documents, and an operator may drop an index, or the bucket. So what could not
//! be made is tried again, with waits that grow, until all is there; and looked at anew when something was lost or a query
//! misses an index.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{CouchbaseStore, query, setup, similar};
use crate::reconnect::ReconnectBackoff;
use crate::store::StoreError;

/// How often to try in silence what is only too early, as a rule.
const EARLY: u32 = 3;

/// How it stands with the indexes of lists.
pub(super) struct Indexing {
    /// What does not work without those that are missing; `None` when all are there, or nobody has looked yet.
    lack: Mutex<Option<String>>,
    /// Whether they have been made, or could not be for a reason that may last.
    is_settled: watch::Sender<bool>,
    look_again: Notify,
}

impl Default for Indexing {
    fn default() -> Self {
        Self { lack: Mutex::default(), is_settled: watch::Sender::new(false), look_again: Notify::new() }
    }
}

impl Indexing {
    pub(super) async fn settled(&self) {
        // An error means that the store is on its way out.
        let _ = self.is_settled.subscribe().wait_for(|done| *done).await;
    }

    /// What does not work, for people.
    pub(super) fn lack(&self) -> Option<String> {
        self.lack.lock().expect("nobody panics with the lock in hand").clone()
    }

    /// Notes that a query failed: it may have missed an index that was there.
    pub(super) fn failed(&self, error: &StoreError) {
        if query::misses_an_index(error) {
            self.look_again.notify_one();
        }
    }

    fn set(&self, lack: Option<String>) {
        *self.lack.lock().expect("nobody panics with the lock in hand") = lack;
    }
}

/// What is still to be made, and what was said of it.
struct Work {
    lists: bool,
    vectors: bool,
    tries: u32,
    told: Vec<String>,
}

impl Work {
    const ALL: Work = Work { lists: true, vectors: true, tries: 0, told: Vec::new() };

    /// Warns of what could not be made, once, and not of what is only too early.
    fn tell(&mut self, problem: &setup::Problem) {
        let text = &problem.log;
        if self.told.contains(text) || (!problem.may_last && self.tries < EARLY) {
            tracing::debug!(tries = self.tries, "{text}");
        } else {
            tracing::warn!("{text}");
            self.told.push(text.clone());
        }
    }
}

/// Makes the indexes as soon as the bucket can be used, and again whenever they may be gone.
pub(super) async fn run(store: Weak<CouchbaseStore>, indexing: Arc<Indexing>) {
    let mut waits = ReconnectBackoff::new(Duration::from_millis(200), Duration::from_secs(60));
    let mut work = Work::ALL;
    loop {
        let Some(strong) = store.upgrade() else { return };
        let mut losses = strong.connector.witness.news();
        losses.mark_unchanged();
        let settings = strong.connector.settings().clone();
        let session = strong.connector.session().await;
        drop(strong);
        let Ok(session) = session else {
            tokio::time::sleep(waits.next_wait()).await;
            continue;
        };
        work.tries += 1;
        if work.lists {
            let made = setup::indexes(&session, &settings).await;
            work.lists = made.is_err();
            if let Err(problem) = &made {
                work.tell(problem);
            }
            let lack = made.err();
            let is_settled = lack.as_ref().is_none_or(|problem| problem.may_last || work.tries > EARLY);
            indexing.set(lack.map(|problem| problem.lack));
            if is_settled {
                indexing.is_settled.send_replace(true);
            }
        }
        if work.vectors {
            let made = similar::prepare(&session, &settings).await;
            work.vectors = made.is_err();
            if let Err(problem) = &made {
                work.tell(problem);
            }
        }
        drop(session);
        if work.lists || work.vectors {
            tokio::time::sleep(waits.next_wait()).await;
            continue;
        }
        waits.reset();
        work = Work::ALL;
        tokio::select! {
            () = indexing.look_again.notified() => {}
            // The sender goes with the store, and this with it.
            _ = losses.changed() => {}
        }
    }
}
