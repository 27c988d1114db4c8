//! Carries out the verdict of one lease, fenced by that lease, with the events of its end where it can; and notes that its
//! attempt is being started.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rusqlite::Connection;

use super::super::{LeaseOps, OutputChunk};
use super::ledger::{Claim, PAUSE};
use super::output::OutboxBatch;
use super::schema::{LeaseId, to_json};
use super::{Inner, parents};
use crate::domain::{Event, Progress, Timestamp, Verdict};
use crate::sqlite::SqliteError;

/// One lease, as its holder reaches it.
pub(super) struct LeaseHandle {
    claim: Arc<Claim>,
    lease: LeaseId,
    /// Whether the attempt is being started.
    started: AtomicBool,
    /// Whether a verdict is being carried out, or was.
    is_decided: AtomicBool,
}

/// How a verdict was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Ended,
    /// The job has ended, and jobs that come after it may be taken now.
    EndedAsParent,
    /// The job is in the queue again.
    PutBack,
    /// The lease had been lost: nothing was changed.
    Fenced,
}

impl LeaseHandle {
    pub(super) fn new(claim: Arc<Claim>, lease: LeaseId) -> Self {
        Self { claim, lease, started: AtomicBool::new(false), is_decided: AtomicBool::new(false) }
    }

    /// Carries a verdict out, however long the database can't be used: until then the job is this claim's.
    ///
    /// The write is queued when this is called; the answer only tells how it went. So there is room for another job at
    /// once, and the claim that fills it shares this verdict's commit.
    pub(super) fn carry_out(&self, verdict: Verdict) -> impl Future<Output = ()> + Send + 'static {
        self.is_decided.store(true, Ordering::Release);
        let (claim, lease) = (self.claim.clone(), self.lease);
        let started = self.started.load(Ordering::Acquire);
        let queue = move |claim: &Claim, verdict: Verdict, last: Arc<OutboxBatch>| {
            let inner = claim.inner.clone();
            claim.inner.db.write_later(move |c| {
                let now = inner.clock.now();
                last.write(c, lease, &inner.settings, now)?;
                settle(c, lease, started, &verdict, now)
            })
        };
        let (last, mut answer) = claim.outboxes.close(lease, |last| queue(&claim, verdict.clone(), last));
        let settling = claim.begin_settling(lease);
        async move {
            let _until_written = settling;
            loop {
                match answer.await {
                    Ok(Ok(settled)) => return claim.inner.signal_settled(lease, settled),
                    Ok(Err(e @ (SqliteError::Unavailable { .. } | SqliteError::Full { .. }))) => {
                        tracing::warn!(seq = lease.seq, error = %e, "a verdict can't be written; trying again");
                    }
                    Ok(Err(e)) => {
                        tracing::error!(seq = lease.seq, error = %e, "a verdict can't be written; the lease will expire");
                        return;
                    }
                    Err(_) => return,
                }
                tokio::time::sleep(PAUSE).await;
                answer = queue(&claim, verdict.clone(), last.clone());
            }
        }
    }
}

impl Inner {
    fn signal_settled(&self, lease: LeaseId, settled: Settled) {
        match settled {
            Settled::Ended => self.wakes.output.signal(),
            Settled::EndedAsParent => {
                self.wakes.output.signal();
                self.wakes.jobs.signal();
            }
            Settled::PutBack => self.wakes.jobs.signal(),
            Settled::Fenced => {
                tracing::info!(seq = lease.seq, start = lease.number, "the verdict of a lost lease was ignored");
            }
        }
    }
}

#[async_trait]
impl LeaseOps for LeaseHandle {
    fn progress(&self, progress: &Progress) {
        self.claim.outboxes.change(self.lease, |outbox| outbox.progress = Some(progress.clone()));
    }

    fn output(&self, chunk: OutputChunk) {
        self.claim.outboxes.change(self.lease, |outbox| outbox.push(chunk));
    }

    fn has_room(&self) -> bool {
        self.claim.outboxes.has_room(self.lease)
    }

    async fn started(&self) -> bool {
        self.started.store(true, Ordering::Release);
        loop {
            let LeaseId { seq, number, claim } = self.lease;
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
        self.carry_out(verdict).await;
    }

    async fn conclude(&self, events: &[Event], verdict: &Verdict) -> bool {
        let (claim, lease) = (&self.claim, self.lease);
        let Some(log) = claim.inner.log.clone() else { return false };
        self.is_decided.store(true, Ordering::Release);
        let started = self.started.load(Ordering::Acquire);
        let events: Vec<_> = events.iter().map(|event| log.encode(event)).collect();
        let (last, answer) = claim.outboxes.close(lease, |last| {
            let (inner, verdict) = (claim.inner.clone(), verdict.clone());
            claim.inner.db.write_later(move |c| {
                let events: Vec<_> = events.iter().map(Vec::as_slice).collect();
                let Some(signal) = log.append_within(c, &events)? else { return Ok(None) };
                let now = inner.clock.now();
                last.write(c, lease, &inner.settings, now)?;
                Ok(Some((settle(c, lease, started, &verdict, now)?, signal)))
            })
        });
        let settling = claim.begin_settling(lease);
        match answer.await {
            Ok(Ok(Some((settled, _signal)))) => {
                claim.inner.signal_settled(lease, settled);
                true
            }
            // No room in the log, or nothing can be written: the recorder of the events says so, and waits.
            Ok(Ok(None) | Err(_)) | Err(_) => {
                claim.outboxes.reopen(lease, &last);
                settling.undo();
                self.is_decided.store(false, Ordering::Release);
                false
            }
        }
    }

    fn release(&self) {
        let done = self.carry_out(Verdict::Release);
        // A lease may be dropped on any thread.
        self.claim.inner.tasks.spawn_on(done, &self.claim.inner.runtime);
    }
}

impl Drop for LeaseHandle {
    fn drop(&mut self) {
        // A settlement that was cancelled before it began.
        if !self.is_decided.load(Ordering::Acquire) {
            self.release();
        }
    }
}

/// One guarded update: a lease that was lost matches no row.
fn settle(
    c: &Connection,
    LeaseId { seq, number, claim }: LeaseId,
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
            // A job that is to be stopped does not wait: the worker that takes it next is told at once.
            let changed = c
                .prepare_cached(
                    "UPDATE queue_jobs SET claim = NULL, attempts_finished = attempts_finished + 1, crashes = 0,
                        error = ?5, due_at = iif(cancel_reason IS NULL, ?4, NULL),
                        state = iif(?4 IS NULL OR cancel_reason IS NOT NULL, priority > 0, 2)
                     WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
                )?
                .execute((seq, claim, number, due_at, error))?;
            (changed, Settled::PutBack)
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
            (changed, Settled::PutBack)
        }
    };
    Ok(match settled {
        _ if changed == 0 => Settled::Fenced,
        Settled::Ended if parents::has_children(c, seq)? => Settled::EndedAsParent,
        settled => settled,
    })
}
