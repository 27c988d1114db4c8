//! Tells requests that wait for a job of its events. One reader of the event log serves all of
//! them.
//!
//! The reader sleeps while no request waits. [`Feed::watch`] returns only when the reader's place
//! in the log is fixed. Events after that place reach the watcher, and earlier ones can be seen in
//! history. So a caller watches first, then looks, then waits. A missed event (when the log can't
//! be reached) does little harm, because watchers look again from time to time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::JobId;
use crate::events::{Cursor, EventError, EventSource};
use crate::store::History;

/// A read has no effect, and may wait for events that do not come: it is dropped at the stop.
const LOG_READER: BackgroundLoop = BackgroundLoop::new("api feed", Period::WakeUp)
    .warn("the event log can't be read for requests that wait; trying again", "the event log can be read again")
    .back_off(Duration::from_millis(250), Duration::from_millis(250))
    .drop_run();

/// The watched jobs, and the places of the reader and of history. See the module.
pub(super) struct Feed {
    jobs: Mutex<HashMap<JobId, Watched>>,
    /// Where the reader is; `None` while it sleeps. Changed only under the lock of `jobs`.
    position: watch::Sender<Option<Cursor>>,
    /// Wakes the reader when a request begins to watch.
    wanted: Notify,
    /// The furthest place in the log up to which a request waits for history.
    target: watch::Sender<Cursor>,
    /// The place up to which history was folded at the last look.
    folded: watch::Sender<Cursor>,
    /// Whether history did not answer at the last look. Then no request waits for it.
    history_away: watch::Sender<bool>,
}

struct Watched {
    watchers: usize,
    /// The place of the last event of the job that the reader has seen.
    last: watch::Sender<Cursor>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            jobs: Mutex::default(),
            position: watch::Sender::new(None),
            wanted: Notify::new(),
            target: watch::Sender::new(Cursor::START),
            folded: watch::Sender::new(Cursor::START),
            history_away: watch::Sender::new(false),
        }
    }
}

/// One request's interest in a job, until it is dropped.
pub(super) struct JobWatch<'f> {
    feed: &'f Feed,
    id: JobId,
    last: watch::Receiver<Cursor>,
}

impl JobWatch<'_> {
    /// Returns at the next event of the job, with its place in the log.
    pub(super) async fn changed(&mut self) -> Cursor {
        // The sender lives in the map for as long as this watch does.
        match self.last.changed().await {
            Ok(()) => *self.last.borrow_and_update(),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for JobWatch<'_> {
    fn drop(&mut self) {
        let mut jobs = self.feed.lock();
        if let Some(watched) = jobs.get_mut(&self.id) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                jobs.remove(&self.id);
            }
        }
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Watched>> {
        // Every change of the map is whole, even if a thread panicked afterwards.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a job from now on.
    pub(super) async fn watch(&self, id: &JobId) -> JobWatch<'_> {
        /// How long to wait for the reader's place. Without news the watcher looks by itself, so it
        /// need not wait for a log that can't be reached.
        const PATIENCE: Duration = Duration::from_secs(1);
        let watch = {
            let mut jobs = self.lock();
            let watched = jobs
                .entry(id.clone())
                .or_insert_with(|| Watched { watchers: 0, last: watch::Sender::new(Cursor::START) });
            watched.watchers += 1;
            JobWatch { feed: self, id: id.clone(), last: watched.last.subscribe() }
        };
        self.wanted.notify_one();
        let mut position = self.position.subscribe();
        let _ = tokio::time::timeout(PATIENCE, position.wait_for(Option::is_some)).await;
        watch
    }

    /// Reads the log while any request watches a job. Ends at `stop`.
    pub(super) async fn follow_log(&self, source: &dyn EventSource, stop: &CancellationToken) {
        let mut at = None;
        let mut step = async || {
            if self.rest() {
                at = None;
                return Ok(NextRun::Idle);
            }
            at = Some(self.read(source, at).await?);
            Ok(NextRun::AtOnce)
        };
        let mut turns = LOG_READER.start(stop);
        while turns.run_woken(self.wanted.notified(), step()).await {}
    }

    /// Lets the reader sleep if no job is watched.
    fn rest(&self) -> bool {
        let jobs = self.lock();
        if jobs.is_empty() {
            self.position.send_replace(None);
        }
        jobs.is_empty()
    }

    /// Fixes the reader's place in the log, or passes on the events after it.
    async fn read(&self, source: &dyn EventSource, at: Option<Cursor>) -> Result<Cursor, EventError> {
        const AT_ONCE: usize = 512;
        const WAIT: Duration = Duration::from_secs(10);
        let Some(mut at) = at else {
            let at = source.span().await?.last;
            let _jobs = self.lock();
            self.position.send_replace(Some(at));
            return Ok(at);
        };
        let events = source.read_without_bodies(at, AT_ONCE, WAIT).await?;
        let jobs = self.lock();
        for (cursor, entry) in events {
            at = cursor;
            if let Some(watched) = entry.job().and_then(|event| jobs.get(&event.job.id)) {
                watched.last.send_replace(cursor);
            }
        }
        self.position.send_replace(Some(at));
        Ok(at)
    }

    /// Whether history did not answer at the last look.
    pub(super) fn is_history_away(&self) -> bool {
        *self.history_away.borrow()
    }

    /// Notes that history did not answer a request. [`Feed::follow_history`] then asks it until it
    /// answers again.
    pub(super) fn history_is_away(&self) {
        self.history_away.send_if_modified(|away| !std::mem::replace(away, true));
    }

    /// Returns when history has been folded through `cursor`, when it can't be asked, or at
    /// `deadline`.
    pub(super) async fn folded(&self, cursor: Cursor, deadline: Instant) {
        self.target.send_if_modified(|target| {
            let further = cursor > *target;
            *target = (*target).max(cursor);
            further
        });
        let (mut folded, mut away) = (self.folded.subscribe(), self.history_away.subscribe());
        tokio::select! {
            _ = folded.wait_for(|folded| *folded >= cursor) => {}
            _ = away.wait_for(|away| *away) => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    /// Asks how far history is while a request waits for it, and while it is away. Ends at `stop`, and drops
    /// the question in hand.
    /// The store has no wake-up of its own and is at most some milliseconds behind the log, so a
    /// few looks for all requests are cheap.
    pub(super) async fn follow_history(&self, history: &dyn History, stop: &CancellationToken) {
        const FIRST: Duration = Duration::from_millis(2);
        const LONGEST: Duration = Duration::from_millis(200);
        const PATIENCE: Duration = Duration::from_secs(3);
        let (mut target, mut away) = (self.target.subscribe(), self.history_away.subscribe());
        let follow = async {
            let mut pause = FIRST;
            loop {
                let reached = *self.folded.borrow();
                // Both senders live as long as `self`.
                tokio::select! {
                    _ = target.wait_for(|target| *target > reached) => {}
                    _ = away.wait_for(|away| *away) => {}
                }
                match tokio::time::timeout(PATIENCE, history.cursor()).await {
                    Ok(Ok(cursor)) => {
                        self.history_away.send_if_modified(std::mem::take);
                        if cursor > reached {
                            self.folded.send_replace(cursor);
                            pause = FIRST;
                            continue;
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "could not ask how far history is");
                        self.history_is_away();
                    }
                    Err(_) => {
                        tracing::debug!("history does not say how far it is");
                        self.history_is_away();
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        };
        stop.run_until_cancelled(follow).await;
    }
}
