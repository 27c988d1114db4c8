//! Claims jobs and hands them to the worker as leases.
//!
//! ```text
//!   take_jobs ──lease──> Claims ──> worker ──verdict──> settle
//!       ^                              │
//!       └────────── room ──────────────┘        beside them, until the last lease is settled: the tasks of `renew`,
//!                                               `cancel` and `output`
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::super::lease::CHANNEL;
use super::super::{ClaimOptions, Claims, Demand, Lease, ParentResults, QueueError};
use super::expiry::{GONE, Now};
use super::ledger::{Claim, PAUSE};
use super::limits::{self, Allowance};
use super::plan::{PlannedQueue, Planning};
use super::schema::{LeaseId, read_body};
use super::settle::LeaseHandle;
use super::sweep::{self, promote_due};
use super::{Inner, cancel, parents, queues, renew, schedules};
use crate::domain::{AcceptedJob, AttemptNumber, Job, QueueName, Timestamp, Verdict};

/// A claim that waits looks again after this long, should a wake-up get lost.
const FALLBACK: Duration = Duration::from_secs(5);

/// Starts a claim and its tasks.
pub(super) async fn start(inner: &Arc<Inner>, options: ClaimOptions) -> Result<Claims, QueueError> {
    let (sender, leases) = mpsc::channel(options.concurrency.clamp(1, CHANNEL));
    let (concurrency, limit) = watch::channel(options.concurrency);
    let stop = CancellationToken::new();
    let claim = Arc::new(Claim::new(inner.clone(), options));
    claim.session().await?;
    inner.tasks.spawn(renew::renew(claim.clone()));
    inner.tasks.spawn(renew::watch_suspicion(claim.clone()));
    inner.tasks.spawn(cancel::watch_cancellations(claim.clone()));
    let (outboxes, done) = (claim.outboxes.clone(), claim.done.clone());
    inner.tasks.spawn(async move { outboxes.publish(done).await });
    inner.tasks.spawn(take_jobs(claim, sender, limit, stop.clone()));
    Ok(Claims::new(leases, concurrency, stop))
}

/// Takes jobs while there is room, sleeps until there is room, a wake-up, or a job comes due. After `stop`, waits for
/// the leases that are out and gives the claim back.
async fn take_jobs(
    claim: Arc<Claim>,
    leases: mpsc::Sender<Lease>,
    mut limit: watch::Receiver<usize>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        // Registered before the look, so that a job submitted meanwhile is not missed.
        let wake_up = claim.inner.wakes.jobs.listen();
        let room = limit.borrow_and_update().saturating_sub(claim.held());
        let mut pause = FALLBACK;
        let mut ends_matter = room == 0;
        if room > 0 {
            match take(&claim, room).await {
                Ok(taken) => {
                    let found = taken.jobs.len();
                    ends_matter = taken.lacks_resources;
                    for job in taken.jobs {
                        let Some(lease) = make_lease(&claim, job) else { continue };
                        // A lease that the worker does not take any more is dropped, and so given back.
                        tokio::select! {
                            _ = leases.send(lease) => {}
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
            _ = limit.changed() => {}
            () = claim.room.notified(), if ends_matter => {}
            () = wake_up.wait(pause), if room > 0 => {}
        }
    }
    drop(leases);
    while !claim.is_idle() {
        claim.room.notified().await;
    }
    give_back(&claim).await;
    claim.done.cancel();
}

/// What one look at the queue found.
#[derive(Default)]
struct Taken {
    jobs: Vec<TakenJob>,
    /// When the next delayed job is due, if there was room left.
    next_due: Option<Timestamp>,
    /// A job was passed by until others of this worker end.
    lacks_resources: bool,
    /// The claim was lost meanwhile: look again under another.
    again: bool,
}

struct TakenJob {
    lease: LeaseId,
    queue: i64,
    attempt: AttemptNumber,
    attempts_finished: u32,
    crashes: u32,
    header: Vec<u8>,
    body: Vec<u8>,
    cancelled: Option<String>,
    parents: ParentResults,
}

/// Takes at most `room` jobs for the claim.
async fn take(claim: &Arc<Claim>, room: usize) -> Result<Taken, QueueError> {
    let session = claim.session().await?;
    let taker = claim.clone();
    let mut was_undone = false;
    let taken = claim.inner.db.write(move |c| {
        if was_undone {
            taker.kinds().clear();
        }
        was_undone = true;
        take_ready(c, &taker, session.id, room)
    });
    let taken = taken.await.inspect_err(|_| claim.kinds().clear())?;
    if taken.again {
        claim.lose(session.id);
    }
    Ok(taken)
}

/// Enters a job in the ledger and makes its lease; `None` for one that can't be read.
fn make_lease(claim: &Arc<Claim>, taken: TakenJob) -> Option<Lease> {
    let TakenJob { lease, queue, attempt, attempts_finished, crashes, header, body, cancelled, parents } = taken;
    let (lost, validity) = claim.enter(lease, queue, cancelled);
    let handle = Arc::new(LeaseHandle::new(claim.clone(), lease));
    let job = serde_json::from_slice::<Job>(&header).map(Arc::new);
    match job.and_then(|job| Ok(AcceptedJob { job, body: read_body(&body)? })) {
        Ok(job) => {
            // A schedule's job comes from the queue itself.
            let is_announced = !job.job.id.is_scheduled();
            let lease = Lease::new(job, attempt, attempts_finished, crashes, lost, handle);
            Some(lease.valid(validity).with_parents(parents).announced(is_announced))
        }
        Err(e) => {
            tracing::error!(seq = lease.seq, error = %e, "a job's payload can't be read; the job has failed");
            let error = format!("the job can't be read from the queue: {e}");
            claim.inner.tasks.spawn_on(handle.carry_out(Verdict::Fail { error }), &claim.inner.runtime);
            None
        }
    }
}

/// Gives the claim back, and with it what a failed write may have left in its name.
async fn give_back(claim: &Claim) {
    let Some(session) = claim.current() else { return };
    let ended = claim.inner.db.write(move |c| {
        c.prepare_cached(
            "UPDATE queue_jobs SET state = (priority > 0), claim = NULL,
                unstarted = unstarted + (spawned <> attempts_started)
             WHERE claim = ?1 AND state = 3",
        )?
        .execute([session.id])?;
        c.prepare_cached("DELETE FROM queue_claims WHERE id = ?1")?.execute([session.id])
    });
    if let Err(e) = ended.await {
        tracing::warn!(worker = %claim.worker, error = %e, "a claim could not be given back; it will expire");
    }
}

/// The first jobs that are ready, now this claim's. The hot path: four statements and two for each job, some more when
/// there is room left or the worker serves several queues.
fn take_ready(c: &Connection, claim: &Claim, session: i64, room: usize) -> rusqlite::Result<Taken> {
    let Outset { is_live, is_drained, mut next_due } = outset(c, claim, session)?;
    if !is_live {
        return Ok(Taken { again: true, ..Taken::default() });
    }
    if is_drained {
        return Ok(Taken::default());
    }
    let now = claim.inner.clock.now();
    if next_due.is_some_and(|due_at| due_at <= now) {
        promote_due(c, now)?;
        next_due = sweep::next_due(c)?;
    }
    let mut jobs = Vec::new();
    let mut lacks_resources = false;
    let mut held_back = Vec::new();
    let allowed = allowances(c, claim, now)?;
    let mut planning = Planning::new(c, claim);
    for (share, slots) in dealt(c, claim, &allowed, room)? {
        let queue = share.planned();
        let plan = planning.plan(queue, slots)?;
        let before = jobs.len();
        take_planned(c, session, queue.number, &plan.jobs, &mut jobs)?;
        let taken = jobs.len() - before;
        limits::count(c, share.allowance, taken, now)?;
        lacks_resources |= plan.lacks_resources;
        held_back.extend(plan.is_limited.then(|| now + limits::LOOK_AGAIN));
        // Only where as many were taken as may: of another queue there was no more to take, and the next job wakes the claim.
        let is_spent = share.allowance.most < room && taken >= share.allowance.most;
        held_back.extend(share.allowance.again_at.filter(|_| is_spent));
    }
    let complete_at = claim.kinds().complete_at();
    held_back.extend(complete_at.map(|at| now + at.saturating_duration_since(Instant::now())));
    let full = jobs.len() >= room;
    let next_due = match full {
        true => None,
        // What has just come is taken with the next look.
        false if schedules::fire_due(c, &claim.inner, now)? > 0 => Some(now),
        false => [next_due, schedules::next_due(c)?, held_back.into_iter().min()].into_iter().flatten().min(),
    };
    Ok(Taken { jobs, next_due, lacks_resources, again: false })
}

/// What a look at the queue begins with.
struct Outset {
    /// Whether the claim holds.
    is_live: bool,
    /// Whether the worker is to take nothing more.
    is_drained: bool,
    /// When the next delayed job is due.
    next_due: Option<Timestamp>,
}

fn outset(c: &Connection, claim: &Claim, session: i64) -> rusqlite::Result<Outset> {
    let now = Now::of(&claim.inner);
    let (wall, boot) = now.gone();
    c.prepare_cached(&format!(
        "SELECT EXISTS (SELECT 1 FROM queue_claims WHERE id = ?3 AND NOT {GONE}),
            EXISTS (SELECT 1 FROM queue_workers WHERE id = ?4 AND drain),
            (SELECT due_at FROM queue_jobs WHERE state = 2 ORDER BY due_at, seq LIMIT 1)"
    ))?
    .query_row((wall, boot, session, claim.worker.as_str()), |row| {
        let next_due = row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis);
        Ok(Outset { is_live: row.get(0)?, is_drained: row.get(1)?, next_due })
    })
}

/// A queue of which may be taken.
struct OpenQueue<'a> {
    name: &'a QueueName,
    allowance: &'a Allowance,
}

impl OpenQueue<'_> {
    fn planned(&self) -> PlannedQueue<'_> {
        PlannedQueue { number: self.allowance.queue, name: self.name, is_fair: self.allowance.is_fair }
    }
}

/// The queues that the worker serves, with what may be taken of each; `None` for one that is paused or not there.
fn allowances(c: &Connection, claim: &Claim, now: Timestamp) -> rusqlite::Result<Vec<(QueueName, Option<Allowance>)>> {
    let dealer = claim.dealer();
    let allowed = dealer.shares().iter().map(|share| {
        let number = queues::number(c, claim.inner.named(&share.queue).as_ref())?;
        let allowance = number.map_or(Ok(None), |number| limits::allowance(c, number, now))?;
        Ok((share.queue.clone(), allowance))
    });
    allowed.collect()
}

/// How many jobs are taken of which queue.
fn dealt<'a>(
    c: &Connection,
    claim: &Claim,
    allowed: &'a [(QueueName, Option<Allowance>)],
    room: usize,
) -> rusqlite::Result<Vec<(OpenQueue<'a>, usize)>> {
    let mut dealer = claim.dealer();
    let open = |(name, allowance): &'a (QueueName, Option<Allowance>)| {
        Some(OpenQueue { name, allowance: allowance.as_ref()? })
    };
    // With one queue, the plan itself is the look at what is ready.
    if let ([only], [share]) = (allowed, dealer.shares()) {
        let room = share.most.map_or(room, |most| room.min(most.saturating_sub(claim.held())));
        return Ok(open(only)
            .map(|queue| (room.min(queue.allowance.most), queue))
            .map(|(n, q)| (q, n))
            .into_iter()
            .collect());
    }
    let held = claim.held_by_queue();
    let mut demands = Vec::with_capacity(allowed.len());
    for queue in allowed {
        let Some(queue) = open(queue) else {
            demands.push(Demand { held: 0, ready: 0 });
            continue;
        };
        // Each queue as if it had all that is free: what the slots then go to is planned once more, together.
        let plan = Planning::new(c, claim).plan(queue.planned(), room.min(queue.allowance.most))?;
        let held = held.get(&queue.allowance.queue).copied().unwrap_or(0);
        demands.push(Demand { held, ready: plan.jobs.len() });
    }
    let slots = dealer.deal(room, &demands);
    let given = allowed.iter().zip(slots).filter_map(|(queue, slots)| Some((open(queue)?, slots)));
    Ok(given.filter(|(_, slots)| *slots > 0).collect())
}

/// Takes these jobs of one queue, which are ready.
fn take_planned(
    c: &Connection,
    session: i64,
    queue: i64,
    planned: &[i64],
    jobs: &mut Vec<TakenJob>,
) -> rusqlite::Result<()> {
    // One statement for all that returns them takes several times as long: SQLite gathers their numbers, and then what it
    // returns, in tables.
    let mut take = c.prepare_cached(
        "UPDATE queue_jobs SET state = 3, claim = ?1, attempts_started = attempts_started + 1, progress = NULL
         WHERE seq = ?2 AND state <= 1",
    )?;
    let mut read = c.prepare_cached(&format!(
        "SELECT attempts_started, attempts_started - unstarted, attempts_finished, crashes, cancel_reason, barred, {},
            job, coalesce(body, job)
         FROM queue_jobs JOIN queue_payloads USING (seq) WHERE seq = ?1",
        parents::RESULTS
    ))?;
    for &seq in planned {
        if take.execute((session, seq))? == 0 {
            continue;
        }
        let job = read.query_row([seq], |row| {
            Ok(TakenJob {
                lease: LeaseId { seq, number: row.get(0)?, claim: session },
                queue,
                attempt: AttemptNumber(row.get(1)?),
                attempts_finished: row.get(2)?,
                crashes: row.get(3)?,
                cancelled: row.get(4)?,
                parents: parents::results(row.get(5)?, row.get_ref(6)?.as_str_or_null()?),
                header: row.get(7)?,
                body: row.get(8)?,
            })
        })?;
        jobs.push(job);
    }
    Ok(())
}
