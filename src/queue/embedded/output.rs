//! Writes the output and progress of running jobs to the tables, and reads the output for clients that follow it.
//!
//! A job's output is kept up to a large bound while the job runs, and after its end for as long as a client reads it,
//! but at least for [`LINGER`]; then it is cut to a small one. Which jobs have that much is noted in `queue_spooled`,
//! and there, too, a client that reads is noted. Beyond the large bound, output that no client reads is not all
//! written: a job that floods its stdout must not keep the database busy.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::output::{LINGER, Outbox, READS_ON, keep_the_end};
use super::super::{OutputChunk, QueueError, QueueSettings};
use super::Inner;
use super::schema::{LeaseId, state, to_json};
use crate::domain::{JobId, Stream, Timestamp};

/// Output and progress are written at most this often, unless there is much of it: every write is a commit that other
/// writes wait for.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes that are read at once; a piece more.
const READ_BYTES: usize = 1 << 20;
/// Jobs whose output is cut in one transaction.
const CUT: i64 = 16;

/// Holds what the leases of one claim have said until it is written, all of them in one write.
pub(super) struct Outboxes {
    inner: Arc<Inner>,
    by_lease: Mutex<HashMap<LeaseId, LeaseOutbox>>,
    /// An outbox holds something to write.
    filled: Notify,
    /// An outbox is full: a job waits until it has been written.
    full: Notify,
}

/// What one lease has said, and how much of it was written.
#[derive(Debug, Default)]
struct LeaseOutbox {
    outbox: Outbox,
    /// Bytes handed to the database so far.
    written: usize,
    /// Bytes written since the job's output was last cut to its bound.
    since_cut: usize,
}

impl LeaseOutbox {
    fn of(lease: LeaseId, settings: &QueueSettings) -> Self {
        // An attempt before this one may have left output.
        Self { since_cut: if lease.number > 1 { settings.output_bytes } else { 0 }, ..Self::default() }
    }

    /// Takes what is to be written, and counts it.
    fn take(&mut self, settings: &QueueSettings) -> OutboxBatch {
        let mut outbox = self.outbox.take();
        let progress = outbox.progress.take().map(|progress| to_json(&progress));
        let (mut chunks, bytes) = outbox.into_chunks();
        if bytes > settings.output_bytes {
            keep_the_end(&mut chunks, settings.output_bytes);
        }
        self.written = self.written.saturating_add(bytes);
        self.since_cut += bytes.min(settings.output_bytes);
        let cut = self.since_cut > settings.output_bytes / 4;
        if cut {
            self.since_cut = 0;
        }
        let is_long = !chunks.is_empty() && self.written > settings.kept_output_bytes;
        OutboxBatch { progress, chunks, cut, is_long, is_too_long: self.written > settings.output_bytes }
    }
}

impl Outboxes {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, by_lease: Mutex::default(), filled: Notify::new(), full: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, LeaseOutbox>> {
        self.by_lease.lock().expect("nothing panics while it holds the outboxes")
    }

    /// Changes the outbox of a lease, and has it written soon.
    pub(super) fn change(&self, lease: LeaseId, change: impl FnOnce(&mut Outbox)) {
        let has_room = {
            let mut by_lease = self.lock();
            let of_lease = by_lease.entry(lease).or_insert_with(|| LeaseOutbox::of(lease, &self.inner.settings));
            change(&mut of_lease.outbox);
            of_lease.outbox.has_room()
        };
        self.filled.notify_one();
        if !has_room {
            self.full.notify_one();
        }
    }

    /// Whether the lease's outbox takes more without losing any.
    pub(super) fn has_room(&self, lease: LeaseId) -> bool {
        self.lock().get(&lease).is_none_or(|of_lease| of_lease.outbox.has_room())
    }

    /// Takes the last output of a lease, and queues the write that `queue` makes of it. No other write of that output
    /// can come between.
    pub(super) fn close<T>(&self, lease: LeaseId, queue: impl FnOnce(Arc<OutboxBatch>) -> T) -> (Arc<OutboxBatch>, T) {
        let mut by_lease = self.lock();
        let last = by_lease.remove(&lease).map(|mut of_lease| of_lease.take(&self.inner.settings));
        let last = Arc::new(last.unwrap_or_default());
        let queued = queue(last.clone());
        (last, queued)
    }

    /// Takes the last output of a lease back that could not be written: the lease is held on.
    pub(super) fn reopen(&self, lease: LeaseId, last: &OutboxBatch) {
        let mut by_lease = self.lock();
        let of_lease = by_lease.entry(lease).or_insert_with(|| LeaseOutbox::of(lease, &self.inner.settings));
        of_lease.outbox.put_back(last.chunks.clone());
        drop(by_lease);
        self.filled.notify_one();
    }

    /// Writes what leases say, all of them in one write, at most every [`PUBLISH_INTERVAL`]. Ends with `done`: the last words of
    /// a lease are written with its verdict.
    pub(super) async fn publish(&self, done: CancellationToken) {
        loop {
            tokio::select! {
                () = self.filled.notified() => {}
                () = done.cancelled() => return,
            }
            self.flush().await;
            tokio::select! {
                () = sleep(PUBLISH_INTERVAL) => {}
                () = self.full.notified() => {}
                () = done.cancelled() => return,
            }
        }
    }

    /// Writes all that is in the outboxes; what can't be written goes back.
    async fn flush(&self) {
        let inner = self.inner.clone();
        let unwritten: Arc<Vec<(LeaseId, OutboxBatch)>>;
        let written = {
            let mut by_lease = self.lock();
            let batches: Vec<_> = by_lease
                .iter_mut()
                .filter(|(_, of_lease)| !of_lease.outbox.is_empty())
                .map(|(lease, of_lease)| (*lease, of_lease.take(&inner.settings)))
                .collect();
            if batches.is_empty() {
                return;
            }
            let batches = Arc::new(batches);
            unwritten = batches.clone();
            // Queued under the lock, so that a verdict can't overtake the output before it.
            self.inner.db.write_later(move |c| {
                let now = inner.clock.now();
                batches.iter().try_for_each(|(lease, batch)| batch.write(c, *lease, &inner.settings, now))
            })
        };
        match written.await {
            Ok(Ok(())) => self.inner.wakes.output.signal(),
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "output of running jobs can't be written; trying again");
                let mut by_lease = self.lock();
                for (lease, batch) in unwritten.iter() {
                    if let Some(of_lease) = by_lease.get_mut(lease) {
                        of_lease.outbox.put_back(batch.chunks.clone());
                    }
                }
                self.filled.notify_one();
            }
            Err(_) => {}
        }
    }
}

/// What one write publishes of one lease.
#[derive(Debug, Default)]
pub(super) struct OutboxBatch {
    progress: Option<String>,
    chunks: VecDeque<OutputChunk>,
    /// Whether the job's output may have outgrown its bound by a quarter.
    cut: bool,
    /// Whether the job has more output than is kept after its end.
    is_long: bool,
    /// Whether it has more than is kept at all.
    is_too_long: bool,
}

impl OutboxBatch {
    pub(super) fn write(
        &self,
        c: &Connection,
        lease: LeaseId,
        settings: &QueueSettings,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let LeaseId { seq, number, claim } = lease;
        if let Some(progress) = &self.progress {
            c.prepare_cached(
                "UPDATE queue_jobs SET progress = ?4
                 WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
            )?
            .execute((seq, claim, number, progress))?;
        }
        if self.is_long {
            c.prepare_cached(
                "INSERT INTO queue_spooled (job, until) SELECT seq, 0 FROM queue_jobs WHERE seq = ?1
                 ON CONFLICT DO NOTHING",
            )?
            .execute([seq])?;
        }
        let mut skipped = 0;
        if self.is_too_long && !has_reader(c, seq, now)? {
            let mut bytes: usize = self.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
            while bytes > settings.kept_output_bytes && skipped < self.chunks.len() {
                bytes -= self.chunks[skipped].bytes.len();
                skipped += 1;
            }
        }
        if !self.chunks.is_empty()
            && let Some(last) = last_place(c, lease)?
        {
            let mut insert = c.prepare_cached(
                "INSERT INTO queue_output (job, pos, attempt, stream, at, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            // A place that is free again, because all was cut, is not given out again: it is the time at least.
            let first = now.as_millis().max(last + 1);
            for (place, chunk) in (first..).zip(self.chunks.iter().skip(skipped)) {
                insert.execute((
                    seq,
                    place,
                    chunk.attempt,
                    i64::from(chunk.stream == Stream::Stderr),
                    chunk.at.and_then(|at| i64::try_from(at).ok()),
                    &chunk.bytes,
                ))?;
            }
        }
        if self.cut { cut(c, seq, settings.output_bytes) } else { Ok(()) }
    }
}

/// The place of the last output of a job, 0 when there is none; `None` when the lease was lost.
fn last_place(c: &Connection, LeaseId { seq, number, claim }: LeaseId) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached(
        "SELECT coalesce((SELECT max(pos) FROM queue_output WHERE job = ?1), 0) FROM queue_jobs
         WHERE seq = ?1 AND claim = ?2 AND attempts_started = ?3 AND state = 3",
    )?
    .query_row((seq, claim, number), |row| row.get(0))
    .optional()
}

/// Leaves at most `limit` bytes of the end of a job's output.
fn cut(c: &Connection, seq: i64, limit: usize) -> rusqlite::Result<()> {
    c.prepare_cached(
        "DELETE FROM queue_output WHERE job = ?1 AND pos <= (
            SELECT pos FROM (
                SELECT pos, sum(length(bytes)) OVER (ORDER BY pos DESC) AS kept
                FROM queue_output WHERE job = ?1)
            WHERE kept > ?2 ORDER BY pos DESC LIMIT 1)",
    )?
    .execute((seq, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    Ok(())
}

fn has_reader(c: &Connection, seq: i64, now: Timestamp) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT EXISTS (SELECT 1 FROM queue_spooled WHERE job = ?1 AND until >= ?2)")?
        .query_row((seq, now.as_millis()), |row| row.get(0))
}

/// Cuts the output of jobs that have ended some time ago; whether there may be more of them.
pub(super) async fn cut_ended(inner: &Inner) -> Result<bool, QueueError> {
    let (now, kept) = (inner.clock.now(), inner.settings.kept_output_bytes);
    let due = inner.db.read(move |c| {
        c.prepare_cached(
            "SELECT s.job FROM queue_spooled s JOIN queue_jobs j ON j.seq = s.job
             WHERE j.state >= 4 AND j.finished_at < ?1 AND s.until < ?2 LIMIT ?3",
        )?
        .query_map(((now - LINGER).as_millis(), now.as_millis(), CUT), |row| row.get::<_, i64>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()
    });
    let due = due.await?;
    let count = due.len();
    if count > 0 {
        let cutting = inner.db.write(move |c| {
            for seq in &due {
                cut(c, *seq, kept)?;
                c.prepare_cached("DELETE FROM queue_spooled WHERE job = ?1")?.execute([seq])?;
            }
            Ok(())
        });
        cutting.await?;
    }
    Ok(i64::try_from(count).is_ok_and(|count| count == CUT))
}

/// Output behind `after`, waiting for some while the job may still say something.
pub(super) async fn read(
    inner: &Arc<Inner>,
    id: &JobId,
    after: u64,
    wait: Duration,
) -> Result<(u64, Vec<OutputChunk>), QueueError> {
    let deadline = Instant::now() + wait;
    loop {
        // Registered before the look, so that what is written meanwhile is not missed.
        let wake_up = inner.wakes.output.listen();
        let (id, now) = (id.clone(), inner.clock.now());
        let found = inner.db.read(move |c| output_now(c, &id, after)).await?;
        if let Some((seq, until)) = found.spooled
            && until < (now + READS_ON / 2).as_millis()
        {
            let until = (now + READS_ON).as_millis();
            // Nothing hangs on it yet: should it be lost, the next read says it again.
            drop(inner.db.write_later(move |c| {
                c.prepare_cached("UPDATE queue_spooled SET until = max(until, ?2) WHERE job = ?1")?
                    .execute((seq, until))
            }));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if !found.chunks.is_empty() || !found.may_grow || left.is_zero() {
            return Ok((found.next, found.chunks));
        }
        wake_up.wait(left).await;
    }
}

struct Found {
    next: u64,
    chunks: Vec<OutputChunk>,
    may_grow: bool,
    /// The job's row, and until when a client reads it, if it has much output.
    spooled: Option<(i64, i64)>,
}

fn output_now(c: &Connection, id: &JobId, after: u64) -> rusqlite::Result<Found> {
    // One transaction: if the job has ended, its last output is seen too.
    let all = c.unchecked_transaction()?;
    let mut found = Found { next: after, chunks: Vec::new(), may_grow: false, spooled: None };
    let job = c
        .prepare_cached(
            "SELECT seq, state, (SELECT until FROM queue_spooled WHERE job = seq) FROM queue_jobs WHERE id = ?1",
        )?
        .query_row([id.as_str()], |row| Ok((row.get::<_, i64>(0)?, state(row, 1)?, row.get::<_, Option<i64>>(2)?)))
        .optional()?;
    let Some((seq, state, until)) = job else { return Ok(found) };
    found.may_grow = !state.is_final();
    found.spooled = until.map(|until| (seq, until));
    {
        let mut select = c.prepare_cached(
            "SELECT pos, attempt, stream, at, bytes FROM queue_output WHERE job = ?1 AND pos > ?2 ORDER BY pos",
        )?;
        let mut rows = select.query((seq, i64::try_from(after).unwrap_or(i64::MAX)))?;
        let mut bytes = 0;
        while bytes < READ_BYTES
            && let Some(row) = rows.next()?
        {
            found.next = row.get::<_, i64>(0)?.unsigned_abs();
            let stream = if row.get::<_, i64>(2)? == 0 { Stream::Stdout } else { Stream::Stderr };
            let at = row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs);
            let chunk = OutputChunk { attempt: row.get(1)?, stream, at, bytes: row.get(4)? };
            bytes += chunk.bytes.len();
            found.chunks.push(chunk);
        }
    }
    all.commit()?;
    Ok(found)
}
