//! Makes missing indexes for as long as the store is open, as soon as that is possible.
//!
//! The query service does not know a new collection for a while. The query and index services of a
//! cluster that starts are up later than its documents. And an operator may drop an index, or the
//! bucket. So this task tries again, with growing waits, until all indexes are there. It looks anew
//! when the bucket lost something or a query misses an index.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{CouchbaseStore, query, similar};
use crate::reconnect::ReconnectBackoff;
use crate::store::StoreError;

/// How often to try before a warning, since most failures come only from trying too early.
const EARLY: u32 = 3;

/// The state of the indexes of lists.
pub(super) struct Indexing {
    /// What does not work while some are missing. `None` when all are there, or before the first look.
    lack: Mutex<Option<String>>,
    /// Whether they have been made, or could not be made for a reason that may last.
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
        // An error means that the store is being closed.
        let _ = self.is_settled.subscribe().wait_for(|done| *done).await;
    }

    /// What does not work while indexes are missing, for people.
    pub(super) fn lack(&self) -> Option<String> {
        self.lack.lock().expect("no thread panics while it holds the lock").clone()
    }

    /// Notes that a query failed: it may have missed an index that was there.
    pub(super) fn failed(&self, error: &StoreError) {
        if query::misses_an_index(error) {
            self.look_again.notify_one();
        }
    }

    fn set(&self, lack: Option<String>) {
        *self.lack.lock().expect("no thread panics while it holds the lock") = lack;
    }
}

/// The indexes that are still to be made, and the warnings so far.
struct Work {
    lists: bool,
    vectors: bool,
    tries: u32,
    warned: Vec<String>,
}

impl Work {
    const ALL: Work = Work { lists: true, vectors: true, tries: 0, warned: Vec::new() };

    /// Warns once of an index that could not be made, but not of one that it is only too early for.
    fn warn_once(&mut self, problem: &query::MissingIndexes) {
        let text = &problem.log;
        if self.warned.contains(text) || (!problem.may_last && self.tries < EARLY) {
            tracing::debug!(tries = self.tries, "{text}");
        } else {
            tracing::warn!("{text}");
            self.warned.push(text.clone());
        }
    }
}

/// Makes the indexes as soon as the bucket can be used, and again whenever they may be gone. Ends
/// with the store, and finishes nothing: the next process makes what is still missing.
pub(super) async fn run(store: Weak<CouchbaseStore>, indexing: Arc<Indexing>) {
    let mut waits = ReconnectBackoff::new(Duration::from_millis(200), Duration::from_secs(60));
    let mut work = Work::ALL;
    loop {
        let Some(strong) = store.upgrade() else { return };
        let mut losses = strong.connector.witness.watch_losses();
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
            let made = query::make_indexes(&session, &settings).await;
            work.lists = made.is_err();
            if let Err(problem) = &made {
                work.warn_once(problem);
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
                work.warn_once(problem);
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
            // The sender ends with the store, and so does this task.
            _ = losses.changed() => {}
        }
    }
}
