//! Writes verdict, progress and output of one lease, fenced by that lease.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};

use async_trait::async_trait;
use rusqlite::Connection;

use super::super::outbox::Outbox;
use super::super::{LeaseOps, OutputChunk};
use super::claim::{Claim, PAUSE, Start};
use super::output::{OutboxBatch, Outboxes, Pending};
use super::schema::to_json;
use super::{Inner, after};
use crate::domain::{Progress, Timestamp, Verdict};
use crate::sqlite::SqliteError;

impl Claim {
    fn say(&self, start: Start, change: impl FnOnce(&mut Outbox)) {
        let has_room = {
            let mut outboxes = self.outboxes();
            let pending = outboxes.entry(start).or_insert_with(|| Pending::of(start, &self.inner.settings));
            change(&mut pending.outbox);
            pending.outbox.has_room()
        };
        self.published.notify_one();
        if !has_room {
            self.full.notify_one();
        }
    }

    fn outboxes(&self) -> MutexGuard<'_, Outboxes> {
        self.outboxes.lock().expect("nothing panics while it holds the outboxes")
    }

    /// Writes all that is in the outboxes; what can't be written goes back.
    pub(super) async fn flush(&self) {
        let inner = self.inner.clone();
        let unwritten: Arc<Vec<(Start, OutboxBatch)>>;
        let written = {
            let mut outboxes = self.outboxes();
            let said: Vec<_> = outboxes
                .iter_mut()
                .filter(|(_, pending)| !pending.outbox.is_empty())
                .map(|(start, pending)| (*start, pending.take(&inner.settings)))
                .collect();
            if said.is_empty() {
                return;
            }
            let said = Arc::new(said);
            unwritten = said.clone();
            // Queued under the lock, so that a verdict can't overtake the output before it.
            self.inner.db.write_later(move |c| {
                let now = inner.clock.now();
                said.iter().try_for_each(|(start, said)| said.write(c, *start, &inner.settings, now))
            })
        };
        match written.await {
            Ok(Ok(())) => self.inner.wakes.output.signal(),
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "output of running jobs can't be written; trying again");
                let mut outboxes = self.outboxes();
                for (start, said) in unwritten.iter() {
                    if let Some(pending) = outboxes.get_mut(start) {
                        pending.outbox.put_back(said.chunks.clone());
                    }
                }
                self.published.notify_one();
            }
            Err(_) => {}
        }
    }
}

/// What can be done to one lease.
pub(super) struct Ops {
    claim: Arc<Claim>,
    start: Start,
    /// Whether the attempt is being started.
    started: AtomicBool,
    concluded: AtomicBool,
}

/// How a verdict was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Ended,
    /// And others, which came after it, may be taken now.
    Freed,
    Back,
    /// The lease had been lost: nothing was changed.
    Fenced,
}

impl Ops {
    pub(super) fn new(claim: Arc<Claim>, start: Start) -> Self {
        Self { claim, start, started: AtomicBool::new(false), concluded: AtomicBool::new(false) }
    }

    /// Carries a verdict out, however long the database can't be used: until then the job is this claim's.
    ///
    /// The write is queued when this is called; the answer only tells how it went. So there is room for another job at
    /// once, and the claim that fills it shares this verdict's commit.
    pub(super) fn conclude(&self, verdict: Verdict) -> impl Future<Output = ()> + Send + 'static {
        self.concluded.store(true, Ordering::Release);
        let (claim, start) = (self.claim.clone(), self.start);
        let started = self.started.load(Ordering::Acquire);
        let queue = move |claim: &Claim, verdict: Verdict, said: Arc<OutboxBatch>| {
            let inner = claim.inner.clone();
            claim.inner.db.write_later(move |c| {
                let now = inner.clock.now();
                said.write(c, start, &inner.settings, now)?;
                settle(c, start, started, &verdict, now)
            })
        };
        let (said, mut answer) = {
            let mut outboxes = claim.outboxes();
            let said = outboxes.remove(&start).map(|mut pending| pending.take(&claim.inner.settings));
            let said = Arc::new(said.unwrap_or_default());
            let answer = queue(&claim, verdict.clone(), said.clone());
            (said, answer)
        };
        let writing = claim.hand_in(start);
        async move {
            let _until_written = writing;
            loop {
                match answer.await {
                    Ok(Ok(settled)) => return claim.inner.announce(start, settled),
                    Ok(Err(e @ (SqliteError::Unavailable { .. } | SqliteError::Full { .. }))) => {
                        tracing::warn!(seq = start.seq, error = %e, "a verdict can't be written; trying again");
                    }
                    Ok(Err(e)) => {
                        tracing::error!(seq = start.seq, error = %e, "a verdict can't be written; the lease will expire");
                        return;
                    }
                    Err(_) => return,
                }
                tokio::time::sleep(PAUSE).await;
                answer = queue(&claim, verdict.clone(), said.clone());
            }
        }
    }
}

impl Inner {
    fn announce(&self, start: Start, settled: Settled) {
        match settled {
            Settled::Ended => self.wakes.output.signal(),
            Settled::Freed => {
                self.wakes.output.signal();
                self.wakes.jobs.signal();
            }
            Settled::Back => self.wakes.jobs.signal(),
            Settled::Fenced => {
                tracing::info!(seq = start.seq, start = start.number, "the verdict of a lost lease was ignored");
            }
        }
    }
}

#[async_trait]
impl LeaseOps for Ops {
    fn progress(&self, progress: &Progress) {
        self.claim.say(self.start, |outbox| outbox.progress = Some(progress.clone()));
    }

    fn output(&self, chunk: OutputChunk) {
        self.claim.say(self.start, |outbox| outbox.push(chunk));
    }

    fn has_room(&self) -> bool {
        self.claim.outboxes().get(&self.start).is_none_or(|pending| pending.outbox.has_room())
    }

    async fn started(&self) -> bool {
        self.started.store(true, Ordering::Release);
        loop {
            let Start { seq, number, claim } = self.start;
            let noted = self.claim.inner.db.write(move |c| {
                c.prepare_cached(
                    "UPDATE queue_jobs SET spawned = attempts_started
                     WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
                )?
                .execute((seq, claim, number))
            });
            match noted.await {
                Ok(changed) => return changed > 0,
                Err(e @ (SqliteError::Unavailable { .. } | SqliteError::Full { .. })) => {
                    tracing::debug!(seq, error = %e, "the start of an attempt can't be noted; trying again");
                }
                Err(e) => {
                    tracing::error!(seq, error = %e, "the start of an attempt can't be noted");
                    return false;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn withdrawn(&self) {
        self.started.store(false, Ordering::Release);
    }

    async fn settle(&self, verdict: Verdict) {
        self.conclude(verdict).await;
    }

    fn release(&self) {
        let done = self.conclude(Verdict::Release);
        // A lease may be dropped on any thread.
        self.claim.inner.tasks.spawn_on(done, &self.claim.inner.runtime);
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        // A settlement that was cancelled before it began.
        if !self.concluded.load(Ordering::Acquire) {
            self.release();
        }
    }
}

/// One guarded update: a lease that was lost matches no row.
fn settle(
    c: &Connection,
    Start { seq, number, claim }: Start,
    started: bool,
    verdict: &Verdict,
    now: Timestamp,
) -> rusqlite::Result<Settled> {
    let end = |state: i64, result: Option<String>, error: Option<&str>, spent: i64| {
        c.prepare_cached(
            "UPDATE queue_jobs SET state = ?4, claim = NULL, finished_at = ?5, result = ?6, error = ?7,
                attempts_finished = attempts_finished + ?8, crashes = 0
             WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
        )?
        .execute((seq, claim, number, state, now.as_millis(), result, error, spent))
    };
    let (changed, settled) = match verdict {
        Verdict::Complete { result } => (end(4, result.as_ref().map(to_json), None, 0)?, Settled::Ended),
        Verdict::Fail { error } => (end(5, None, Some(error), 1)?, Settled::Ended),
        Verdict::Retry { after, error } => {
            let due_at = (!after.is_zero()).then(|| (now + *after).as_millis());
            // A job that somebody wants stopped does not wait: whoever takes it next is told at once.
            let changed = c
                .prepare_cached(
                    "UPDATE queue_jobs SET claim = NULL, attempts_finished = attempts_finished + 1, crashes = 0,
                        error = ?5, due_at = iif(cancel_reason IS NULL, ?4, NULL),
                        state = iif(?4 IS NULL OR cancel_reason IS NOT NULL, priority > 0, 2)
                     WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
                )?
                .execute((seq, claim, number, due_at, error))?;
            (changed, Settled::Back)
        }
        Verdict::Release | Verdict::PutOff { .. } => {
            let due_at = match verdict {
                Verdict::PutOff { after } if !after.is_zero() => Some((now + *after).as_millis()),
                _ => None,
            };
            let changed = c
                .prepare_cached(
                    "UPDATE queue_jobs SET claim = NULL, unstarted = unstarted + ?5,
                        due_at = iif(cancel_reason IS NULL, ?4, NULL),
                        state = iif(?4 IS NULL OR cancel_reason IS NOT NULL, priority > 0, 2)
                     WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
                )?
                .execute((seq, claim, number, due_at, !started))?;
            (changed, Settled::Back)
        }
    };
    Ok(match settled {
        _ if changed == 0 => Settled::Fenced,
        Settled::Ended if after::has_followers(c, seq)? => Settled::Freed,
        settled => settled,
    })
}
