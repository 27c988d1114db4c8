//! Verdicts, progress and output of one lease in, guarded writes out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rusqlite::Connection;

use super::super::{LeaseOps, OutputChunk};
use super::claim::{Claim, PAUSE, Start};
use super::schema::to_json;
use super::{Inner, after};
use crate::domain::{Progress, Stream, Timestamp, Verdict};
use crate::sqlite::SqliteError;

/// What leases have said and nobody has written yet, by lease.
pub(super) type Outbox = HashMap<Start, Pending>;

/// What one lease has said.
#[derive(Debug, Default)]
pub(super) struct Pending {
    progress: Option<String>,
    chunks: VecDeque<OutputChunk>,
    /// Bytes in `chunks`.
    bytes: usize,
    /// Bytes written since the job's output was last cut to its limit.
    since_trim: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.progress.is_none() && self.chunks.is_empty()
    }

    fn push(&mut self, mut chunk: OutputChunk, limit: usize) {
        if chunk.text.len() > limit {
            let cut = (chunk.text.len() - limit..).find(|i| chunk.text.is_char_boundary(*i));
            chunk.text.drain(..cut.unwrap_or(0));
        }
        self.bytes += chunk.text.len();
        self.chunks.push_back(chunk);
        while self.bytes > limit {
            let Some(dropped) = self.chunks.pop_front() else { break };
            self.bytes -= dropped.text.len();
        }
    }

    /// Takes what is to be written, and keeps count.
    fn take(&mut self, limit: usize) -> Said {
        self.since_trim += self.bytes;
        self.bytes = 0;
        let trim = self.since_trim > limit / 4;
        if trim {
            self.since_trim = 0;
        }
        Said { progress: self.progress.take(), chunks: std::mem::take(&mut self.chunks), trim }
    }
}

/// What one write publishes of one lease.
#[derive(Debug, Default)]
struct Said {
    progress: Option<String>,
    chunks: VecDeque<OutputChunk>,
    /// Whether the job's output may have outgrown its limit by a quarter.
    trim: bool,
}

impl Said {
    fn write(&self, c: &Connection, Start { seq, number, claim }: Start, limit: usize) -> rusqlite::Result<()> {
        if let Some(progress) = &self.progress {
            c.prepare_cached(
                "UPDATE queue_jobs SET progress = ?4
                 WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
            )?
            .execute((seq, claim, number, progress))?;
        }
        for chunk in &self.chunks {
            c.prepare_cached(
                "INSERT INTO queue_output (job, attempt, stream, text) SELECT seq, ?4, ?5, ?6 FROM queue_jobs
                 WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
            )?
            .execute((
                seq,
                claim,
                number,
                chunk.attempt,
                i64::from(chunk.stream == Stream::Stderr),
                &chunk.text,
            ))?;
        }
        if self.trim {
            c.prepare_cached(
                "DELETE FROM queue_output WHERE job = ?1 AND pos <= (
                    SELECT pos FROM (
                        SELECT pos, sum(octet_length(text)) OVER (ORDER BY pos DESC) AS kept
                        FROM queue_output WHERE job = ?1)
                    WHERE kept > ?2 ORDER BY pos DESC LIMIT 1)",
            )?
            .execute((seq, i64::try_from(limit).unwrap_or(i64::MAX)))?;
        }
        Ok(())
    }
}

impl Claim {
    fn say(&self, start: Start, change: impl FnOnce(&mut Pending)) {
        {
            let mut outbox = self.outbox.lock().expect("nothing panics while it holds the outbox");
            let pending = outbox.entry(start).or_insert_with(|| Pending {
                // An attempt before this one may have left output.
                since_trim: if start.number > 1 { self.inner.settings.output_bytes } else { 0 },
                ..Pending::default()
            });
            change(pending);
        }
        self.published.notify_one();
    }

    /// Writes all that is in the outbox. Best effort: what can't be written is dropped.
    pub(super) async fn flush(&self) {
        let limit = self.inner.settings.output_bytes;
        let written = {
            let mut outbox = self.outbox.lock().expect("nothing panics while it holds the outbox");
            let said: Vec<_> =
                outbox.iter_mut().filter(|(_, p)| !p.is_empty()).map(|(start, p)| (*start, p.take(limit))).collect();
            if said.is_empty() {
                return;
            }
            // Queued under the lock, so that a verdict can't overtake the output before it.
            self.inner.db.write_later(move |c| said.iter().try_for_each(|(start, said)| said.write(c, *start, limit)))
        };
        match written.await {
            Ok(Ok(())) => self.inner.wakes.output.signal(),
            Ok(Err(e)) => tracing::warn!(error = %e, "output of running jobs was dropped"),
            Err(_) => {}
        }
    }
}

/// What can be done to one lease.
pub(super) struct Ops {
    claim: Arc<Claim>,
    start: Start,
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
        Self { claim, start, concluded: AtomicBool::new(false) }
    }

    /// Carries a verdict out, however long the database can't be used: until then the job is this claim's.
    ///
    /// The write is queued when this is called; the answer only tells how it went. So there is room for another job at
    /// once, and the claim that fills it shares this verdict's commit.
    pub(super) fn conclude(&self, verdict: Verdict) -> impl Future<Output = ()> + Send + 'static {
        self.concluded.store(true, Ordering::Release);
        let (claim, start) = (self.claim.clone(), self.start);
        let limit = claim.inner.settings.output_bytes;
        let queue = move |claim: &Claim, verdict: Verdict, said: Arc<Said>| {
            let clock = claim.inner.clock.clone();
            claim.inner.db.write_later(move |c| {
                said.write(c, start, limit)?;
                settle(c, start, &verdict, clock.now())
            })
        };
        let (said, mut answer) = {
            let mut outbox = claim.outbox.lock().expect("nothing panics while it holds the outbox");
            let said = Arc::new(outbox.remove(&start).map(|mut p| p.take(limit)).unwrap_or_default());
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
        let progress = to_json(progress);
        self.claim.say(self.start, |pending| pending.progress = Some(progress));
    }

    fn output(&self, chunk: OutputChunk) {
        let limit = self.claim.inner.settings.output_bytes;
        self.claim.say(self.start, |pending| pending.push(chunk, limit));
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
        Verdict::Release => {
            let changed = c
                .prepare_cached(
                    "UPDATE queue_jobs SET state = (priority > 0), claim = NULL
                     WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
                )?
                .execute((seq, claim, number))?;
            (changed, Settled::Back)
        }
    };
    Ok(match settled {
        _ if changed == 0 => Settled::Fenced,
        Settled::Ended if after::has_followers(c, seq)? => Settled::Freed,
        settled => settled,
    })
}
