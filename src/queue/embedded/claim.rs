//! Claims jobs and hands them to the worker as leases.
//!
//! ```text
//!   take_jobs ──lease──> Claims ──> worker ──verdict──> settle
//!       ^                              │
//!       └────────── room ──────────────┘        beside them, until the last lease is settled: the tasks of `keep`
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::lease::reliable;
use super::super::{ClaimOptions, Claims, Lease, LeaseLoss, ParentResults, QueueError};
use super::expiry::{GONE, Now};
use super::output::Outboxes;
use super::schema::read_body;
use super::settle::Ops;
use super::sweep::{next_due, promote_due};
use super::{Inner, after, renew, schedules, workers};
use crate::domain::{AcceptedJob, AttemptNumber, Job, Timestamp, Validity, Verdict, WorkerId};

/// A claimer that waits looks again after this long, should a wake-up get lost.
const FALLBACK: Duration = Duration::from_secs(5);
/// Between two tries when the database can't be used.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// Leases that may wait in the channel: more only slows a burst down.
const CHANNEL: usize = 256;

/// One lease of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Start {
    pub(super) seq: i64,
    /// How many leases the job has had with this one.
    pub(super) number: u32,
    /// The row of `queue_claims` under which it was made. With the other two, the lease's fence.
    pub(super) claim: i64,
}

/// What the tasks and leases of one [`start`] share.
pub(super) struct Claim {
    pub(super) inner: Arc<Inner>,
    worker: WorkerId,
    max_cores: u32,
    book: Mutex<ClaimLedger>,
    pub(super) outboxes: Mutex<Outboxes>,
    /// A lease was settled or dropped.
    room: Notify,
    /// There is something in the outbox.
    pub(super) published: Notify,
    /// An outbox is full: a job waits until it has been written.
    pub(super) full: Notify,
    /// Nothing is taken any more and no lease is out.
    pub(super) done: CancellationToken,
}

/// Which leases are out, and under what.
#[derive(Default)]
struct ClaimLedger {
    /// The row that stands for this claim now; `None` when it was lost, until another is opened.
    session: Option<ClaimSession>,
    held: HashMap<Start, watch::Sender<Option<LeaseLoss>>>,
    /// Asked to stop when last looked: catches a request that overtakes the lease on its way here.
    cancelled: HashMap<Start, String>,
    /// Verdicts that are being written.
    writing: usize,
}

/// A row of `queue_claims`, and until when it holds unless it is renewed.
#[derive(Debug, Clone)]
pub(super) struct ClaimSession {
    pub(super) id: i64,
    pub(super) deadline: Instant,
    /// The same for who must end the processes should this one not be able to; somewhat earlier.
    pub(super) validity: Validity,
}

pub(super) async fn start(inner: &Arc<Inner>, options: ClaimOptions) -> Result<Claims, QueueError> {
    let (lend, leases) = mpsc::channel(options.concurrency.clamp(1, CHANNEL));
    let (concurrency, wanted) = watch::channel(options.concurrency);
    let stop = CancellationToken::new();
    let claim = Arc::new(Claim {
        inner: inner.clone(),
        worker: options.worker,
        max_cores: options.max_cores,
        book: Mutex::default(),
        outboxes: Mutex::default(),
        room: Notify::new(),
        published: Notify::new(),
        full: Notify::new(),
        done: CancellationToken::new(),
    });
    claim.session().await?;
    inner.tasks.spawn(renew::renew(claim.clone()));
    inner.tasks.spawn(renew::watch_doubts(claim.clone()));
    inner.tasks.spawn(renew::watch_cancellations(claim.clone()));
    inner.tasks.spawn(renew::publish(claim.clone()));
    inner.tasks.spawn(take_jobs(claim, lend, wanted, stop.clone()));
    Ok(Claims::new(leases, concurrency, stop))
}

/// Takes jobs while there is room, sleeps until there is room, news, or a job comes due. After `stop`, waits for the
/// leases that are out and gives the claim back.
async fn take_jobs(
    claim: Arc<Claim>,
    lend: mpsc::Sender<Lease>,
    mut wanted: watch::Receiver<usize>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        // Registered before the look, so that a job submitted meanwhile is not missed.
        let news = claim.inner.wakes.jobs.listen();
        let room = wanted.borrow_and_update().saturating_sub(claim.held());
        let mut pause = FALLBACK;
        if room > 0 {
            match claim.take(room).await {
                Ok(taken) => {
                    let found = taken.jobs.len();
                    for job in taken.jobs {
                        let Some(lease) = claim.lend(job) else { continue };
                        // Dropped if nobody wants it any more, and so given back.
                        tokio::select! {
                            _ = lend.send(lease) => {}
                            () = stop.cancelled() => {}
                        }
                    }
                    if found == room || taken.again {
                        continue;
                    }
                    if let Some(due_at) = taken.next_due {
                        pause = due_at.since(claim.inner.clock.now()).min(FALLBACK);
                    }
                }
                Err(e) => {
                    tracing::warn!(worker = %claim.worker, error = %e, "no jobs can be taken; trying again");
                    pause = PAUSE;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            _ = wanted.changed() => {}
            () = claim.room.notified(), if room == 0 => {}
            () = news.wait(pause), if room > 0 => {}
        }
    }
    drop(lend);
    while !claim.is_idle() {
        claim.room.notified().await;
    }
    claim.end().await;
    claim.done.cancel();
}

/// What one look at the queue found.
#[derive(Default)]
struct Taken {
    jobs: Vec<TakenJob>,
    /// When the next delayed job is due, if there was room left.
    next_due: Option<Timestamp>,
    /// The claim was lost meanwhile: look again under another.
    again: bool,
}

struct TakenJob {
    start: Start,
    attempt: AttemptNumber,
    order: (i64, i64),
    attempts_finished: u32,
    crashes: u32,
    header: Vec<u8>,
    body: Vec<u8>,
    cancelled: Option<String>,
    before: ParentResults,
}

/// A verdict that is being written.
pub(super) struct Writing(Arc<Claim>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.book().writing -= 1;
        self.0.room.notify_one();
    }
}

impl Claim {
    fn book(&self) -> MutexGuard<'_, ClaimLedger> {
        self.book.lock().expect("nothing panics while it holds the book")
    }

    /// How many leases are out.
    fn held(&self) -> usize {
        self.book().held.len()
    }

    /// Whether no lease is out and no verdict under way.
    fn is_idle(&self) -> bool {
        let book = self.book();
        book.held.is_empty() && book.writing == 0
    }

    /// The session, if there is one now.
    pub(super) fn current(&self) -> Option<ClaimSession> {
        self.book().session.clone()
    }

    /// The session, opened if there is none.
    async fn session(&self) -> Result<ClaimSession, QueueError> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let lease = self.inner.settings.lease;
        let (deadline, validity) = (Instant::now() + lease, Validity::lasting(reliable(lease)));
        let (inner, worker) = (self.inner.clone(), self.worker.to_string());
        let id = self.inner.db.write(move |c| {
            workers::register(c, &inner, &worker)?;
            let expiry = Now::of(&inner).expiry(&inner);
            c.prepare_cached("INSERT INTO queue_claims (worker, expires_at, boot, until_ms) VALUES (?1, ?2, ?3, ?4)")?
                .execute((&worker, expiry.expires_at, expiry.boot, expiry.until_ms))?;
            Ok(c.last_insert_rowid())
        });
        let session = ClaimSession { id: id.await?, deadline, validity };
        self.book().session = Some(session.clone());
        Ok(session)
    }

    /// Notes that a session holds until its deadline, at least.
    pub(super) fn renewed(&self, session: ClaimSession) {
        let mut book = self.book();
        if let Some(known) = book.session.as_mut().filter(|known| known.id == session.id) {
            known.deadline = known.deadline.max(session.deadline);
        }
    }

    /// Until when the session holds; `None` if it is not the present one.
    pub(super) fn deadline(&self, session: i64) -> Option<Instant> {
        self.book().session.as_ref().filter(|known| known.id == session).map(|known| known.deadline)
    }

    /// Notes that a session was not renewed in time: tells the holders of its leases, and lets another be opened.
    pub(super) fn lose(&self, session: i64) {
        let mut book = self.book();
        if book.session.as_ref().is_some_and(|s| s.id == session) {
            book.session = None;
        }
        let mut lost = 0;
        for (_, loss) in book.held.iter().filter(|(start, _)| start.claim == session) {
            loss.send_replace(Some(LeaseLoss::Expired));
            lost += 1;
        }
        drop(book);
        tracing::warn!(worker = %self.worker, lost, "leases were not renewed in time; others may run their jobs");
    }

    /// Tells the holders of these leases that somebody wants their jobs stopped.
    pub(super) fn cancel(&self, cancelled: HashMap<Start, String>) {
        let mut book = self.book();
        for (start, reason) in &cancelled {
            if let Some(loss) = book.held.get(start) {
                loss.send_if_modified(|loss| {
                    let news = loss.is_none();
                    if news {
                        *loss = Some(LeaseLoss::Cancelled(reason.clone()));
                    }
                    news
                });
            }
        }
        book.cancelled = cancelled;
    }

    /// A lease is no longer out, there is room for another; but the claim goes on until its verdict is written.
    pub(super) fn hand_in(self: &Arc<Self>, start: Start) -> Writing {
        let mut book = self.book();
        book.held.remove(&start);
        book.writing += 1;
        drop(book);
        self.room.notify_one();
        Writing(self.clone())
    }

    async fn take(&self, room: usize) -> Result<Taken, QueueError> {
        let session = self.session().await?;
        let (inner, worker, max_cores) = (self.inner.clone(), self.worker.to_string(), self.max_cores);
        let limit = i64::try_from(room).unwrap_or(i64::MAX);
        let taken = self.inner.db.write(move |c| {
            let now = Now::of(&inner);
            let (wall, boot) = now.gone();
            let live = c
                .prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM queue_claims WHERE id = ?3 AND NOT {GONE})"))?
                .query_row((wall, boot, session.id), |row| row.get(0))?;
            match live {
                true => take(c, session.id, &worker, max_cores, limit, inner.clock.now()),
                false => Ok(Taken { again: true, ..Taken::default() }),
            }
        });
        let taken = taken.await?;
        if taken.again {
            self.lose(session.id);
        }
        Ok(taken)
    }

    /// Puts a job in the book and makes its lease; `None` for one that can't be read.
    fn lend(self: &Arc<Self>, taken: TakenJob) -> Option<Lease> {
        let TakenJob { start, attempt, attempts_finished, crashes, header, body, cancelled, before, .. } = taken;
        let (loss, lost) = watch::channel(None);
        let validity = {
            let mut book = self.book();
            let cancelled = cancelled.or_else(|| book.cancelled.get(&start).cloned());
            loss.send_replace(cancelled.map(LeaseLoss::Cancelled));
            let session = book.session.as_ref().filter(|session| session.id == start.claim);
            let validity = session.map(|session| session.validity.clone());
            if validity.is_none() {
                loss.send_replace(Some(LeaseLoss::Expired));
            }
            book.held.insert(start, loss);
            validity.unwrap_or_else(|| Validity::lasting(Duration::ZERO))
        };
        let ops = Arc::new(Ops::new(self.clone(), start));
        let job = serde_json::from_slice::<Job>(&header).map(Arc::new);
        match job.and_then(|job| Ok(AcceptedJob { job, body: read_body(&body)? })) {
            Ok(job) => {
                // A schedule's job comes from the queue itself.
                let is_announced = !job.job.id.is_scheduled();
                let lease = Lease::new(job, attempt, attempts_finished, crashes, lost, ops);
                Some(lease.valid(validity).after(before).announced(is_announced))
            }
            Err(e) => {
                tracing::error!(seq = start.seq, error = %e, "a job's payload can't be read; the job has failed");
                let error = format!("the job can't be read from the queue: {e}");
                self.inner.tasks.spawn_on(ops.conclude(Verdict::Fail { error }), &self.inner.runtime);
                None
            }
        }
    }

    /// Gives the claim back, and with it what a failed write may have left in its name.
    async fn end(&self) {
        let Some(session) = self.current() else { return };
        let ended = self.inner.db.write(move |c| {
            c.prepare_cached(
                "UPDATE queue_jobs SET state = (priority > 0), claim = NULL,
                    unstarted = unstarted + (spawned <> attempts_started)
                 WHERE claim = ?1 AND state = 3",
            )?
            .execute([session.id])?;
            c.prepare_cached("DELETE FROM queue_claims WHERE id = ?1")?.execute([session.id])
        });
        if let Err(e) = ended.await {
            tracing::warn!(worker = %self.worker, error = %e, "a claim could not be given back; it will expire");
        }
    }
}

/// The first jobs that are ready, now this claim's, which has not expired. The hot path: three statements for a batch,
/// some more when there is room left.
fn take(
    c: &Connection,
    claim: i64,
    worker: &str,
    max_cores: u32,
    limit: i64,
    now: Timestamp,
) -> rusqlite::Result<Taken> {
    let closed: bool = c
        .prepare_cached(
            "SELECT paused OR EXISTS (SELECT 1 FROM queue_workers WHERE id = ?1 AND drain) FROM queue_switches",
        )?
        .query_row([worker], |row| row.get(0))?;
    if closed {
        return Ok(Taken::default());
    }
    promote_due(c, now)?;
    let mut jobs = c
        .prepare_cached(&format!(
            "UPDATE queue_jobs SET state = 3, claim = ?1, attempts_started = attempts_started + 1, progress = NULL
             WHERE seq IN (
                SELECT seq FROM queue_jobs WHERE state <= 1 AND cores <= ?2 ORDER BY priority, seq LIMIT ?3)
             RETURNING seq, attempts_started, priority, attempts_finished, crashes, cancel_reason,
                (SELECT job FROM queue_payloads WHERE queue_payloads.seq = queue_jobs.seq), barred, {},
                attempts_started - unstarted,
                (SELECT coalesce(body, job) FROM queue_payloads WHERE queue_payloads.seq = queue_jobs.seq)",
            after::RESULTS
        ))?
        .query_map((claim, max_cores, limit), |row| {
            Ok(TakenJob {
                start: Start { seq: row.get(0)?, number: row.get(1)?, claim },
                attempt: AttemptNumber(row.get(9)?),
                order: (row.get(2)?, row.get(0)?),
                attempts_finished: row.get(3)?,
                crashes: row.get(4)?,
                cancelled: row.get(5)?,
                header: row.get(6)?,
                body: row.get(10)?,
                before: after::before(row.get(7)?, row.get_ref(8)?.as_str_or_null()?),
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    jobs.sort_unstable_by_key(|job| job.order);
    let full = i64::try_from(jobs.len()).unwrap_or(i64::MAX) >= limit;
    let next_due = match full {
        true => None,
        // What has just come is taken with the next look.
        false if schedules::fire_due(c, now)? > 0 => Some(now),
        false => [next_due(c)?, schedules::next_due(c)?].into_iter().flatten().min(),
    };
    Ok(Taken { jobs, next_due, again: false })
}
