//! The ledger of one claim: which leases are out, and under which row of `queue_claims`. The claim's tasks and its
//! leases share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::lease::reliable;
use super::super::{ClaimOptions, Dealer, LeaseLoss, Placement, QueueError};
use super::expiry::Now;
use super::kinds::KnownKinds;
use super::output::Outboxes;
use super::schema::LeaseId;
use super::{Inner, workers};
use crate::domain::{QueueShare, Validity, WorkerId};

/// Between two tries when the database can't be used.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// One worker's stream of leases, from its start until its last lease is settled.
pub(super) struct Claim {
    pub(super) inner: Arc<Inner>,
    pub(super) worker: WorkerId,
    /// Which jobs the worker can run.
    pub(super) placement: Arc<dyn Placement>,
    kinds: Mutex<KnownKinds>,
    /// Deals room to the queues that the worker serves.
    dealer: Mutex<Dealer>,
    ledger: Mutex<Ledger>,
    pub(super) outboxes: Arc<Outboxes>,
    /// A lease was settled or dropped.
    pub(super) room: Notify,
    /// The claim takes nothing any more, and no lease is out.
    pub(super) done: CancellationToken,
}

#[derive(Default)]
struct Ledger {
    /// The row that stands for this claim now; `None` when it was lost, until another is opened.
    session: Option<ClaimSession>,
    leases: HashMap<LeaseId, HeldLease>,
    /// The leases that were to be stopped at the last look: a request may overtake the lease on its way here.
    cancelled: HashMap<LeaseId, String>,
    /// How many verdicts are being written.
    settling: usize,
}

/// A lease that is out: the queue of its job, and what tells its holder of a loss.
struct HeldLease {
    queue: i64,
    loss: watch::Sender<Option<LeaseLoss>>,
}

/// A row of `queue_claims`, and until when it holds unless it is renewed.
#[derive(Debug, Clone)]
pub(super) struct ClaimSession {
    pub(super) id: i64,
    pub(super) deadline: Instant,
    /// The same for the guard, which ends the processes of a worker that can't; somewhat earlier.
    pub(super) validity: Validity,
}

/// A verdict that is being written. The claim does not end before this is dropped.
pub(super) struct Settling {
    claim: Arc<Claim>,
    lease: LeaseId,
    /// The lease as it was held, if it was.
    held: Option<HeldLease>,
}

impl Settling {
    /// Notes that the verdict was not written: the lease is out as before, or lost with its session meanwhile.
    pub(super) fn undo(mut self) {
        let Some(held) = self.held.take() else { return };
        let mut ledger = self.claim.ledger();
        if ledger.session.as_ref().is_none_or(|session| session.id != self.lease.claim) {
            held.loss.send_replace(Some(LeaseLoss::Expired));
        }
        ledger.leases.insert(self.lease, held);
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.claim.ledger().settling -= 1;
        self.claim.room.notify_one();
    }
}

impl Claim {
    /// A claim of a worker, still without a row in the table.
    pub(super) fn new(inner: Arc<Inner>, options: ClaimOptions) -> Self {
        let ClaimOptions { worker, placement, mut queues, order, concurrency: _ } = options;
        if queues.is_empty() {
            queues.push(QueueShare::of(inner.settings.queue.clone()));
        }
        let outboxes = Arc::new(Outboxes::new(inner.clone()));
        Self {
            inner,
            worker,
            placement,
            kinds: Mutex::default(),
            dealer: Mutex::new(Dealer::new(queues, order)),
            ledger: Mutex::default(),
            outboxes,
            room: Notify::new(),
            done: CancellationToken::new(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
    }

    pub(super) fn kinds(&self) -> MutexGuard<'_, KnownKinds> {
        self.kinds.lock().expect("nothing panics while it holds the kinds")
    }

    pub(super) fn dealer(&self) -> MutexGuard<'_, Dealer> {
        self.dealer.lock().expect("nothing panics while it deals")
    }

    /// How many leases are out of which queue.
    pub(super) fn held_by_queue(&self) -> HashMap<i64, usize> {
        let mut held = HashMap::new();
        for lease in self.ledger().leases.values() {
            *held.entry(lease.queue).or_default() += 1;
        }
        held
    }

    /// How many leases are out.
    pub(super) fn held(&self) -> usize {
        self.ledger().leases.len()
    }

    /// Whether no lease is out and no verdict under way.
    pub(super) fn is_idle(&self) -> bool {
        let ledger = self.ledger();
        ledger.leases.is_empty() && ledger.settling == 0
    }

    /// The session, if there is one now.
    pub(super) fn current(&self) -> Option<ClaimSession> {
        self.ledger().session.clone()
    }

    /// The session, opened if there is none.
    pub(super) async fn session(&self) -> Result<ClaimSession, QueueError> {
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
        self.ledger().session = Some(session.clone());
        Ok(session)
    }

    /// Notes that a session holds until its deadline, at least.
    pub(super) fn renewed(&self, session: ClaimSession) {
        let mut ledger = self.ledger();
        if let Some(known) = ledger.session.as_mut().filter(|known| known.id == session.id) {
            known.deadline = known.deadline.max(session.deadline);
        }
    }

    /// Until when the session holds; `None` if it is not the present one.
    pub(super) fn deadline(&self, session: i64) -> Option<Instant> {
        self.ledger().session.as_ref().filter(|known| known.id == session).map(|known| known.deadline)
    }

    /// Notes that a session was not renewed in time: tells the holders of its leases, and lets another be opened.
    pub(super) fn lose(&self, session: i64) {
        let mut ledger = self.ledger();
        if ledger.session.as_ref().is_some_and(|s| s.id == session) {
            ledger.session = None;
        }
        let mut lost = 0;
        for (_, held) in ledger.leases.iter().filter(|(lease, _)| lease.claim == session) {
            held.loss.send_replace(Some(LeaseLoss::Expired));
            lost += 1;
        }
        drop(ledger);
        tracing::warn!(worker = %self.worker, lost, "leases were not renewed in time; others may run their jobs");
    }

    /// Enters a lease, and answers what tells its holder of a loss, and until when it can be relied on. The lease
    /// counts as lost already when its session is, or when its job is to be stopped.
    pub(super) fn enter(
        &self,
        lease: LeaseId,
        queue: i64,
        cancelled: Option<String>,
    ) -> (watch::Receiver<Option<LeaseLoss>>, Validity) {
        let (loss, lost) = watch::channel(None);
        let mut ledger = self.ledger();
        let cancelled = cancelled.or_else(|| ledger.cancelled.get(&lease).cloned());
        loss.send_replace(cancelled.map(LeaseLoss::Cancelled));
        let session = ledger.session.as_ref().filter(|session| session.id == lease.claim);
        let validity = session.map(|session| session.validity.clone());
        if validity.is_none() {
            loss.send_replace(Some(LeaseLoss::Expired));
        }
        ledger.leases.insert(lease, HeldLease { queue, loss });
        (lost, validity.unwrap_or_else(|| Validity::lasting(Duration::ZERO)))
    }

    /// Tells the holders of these leases that their jobs are to be stopped, and why.
    pub(super) fn cancel(&self, cancelled: HashMap<LeaseId, String>) {
        let mut ledger = self.ledger();
        for (lease, reason) in &cancelled {
            if let Some(held) = ledger.leases.get(lease) {
                held.loss.send_if_modified(|loss| {
                    let is_first = loss.is_none();
                    if is_first {
                        *loss = Some(LeaseLoss::Cancelled(reason.clone()));
                    }
                    is_first
                });
            }
        }
        ledger.cancelled = cancelled;
    }

    /// Notes that a lease is no longer out. There is room for another at once, but the claim goes on until its verdict
    /// is written and the answer is dropped.
    pub(super) fn begin_settling(self: &Arc<Self>, lease: LeaseId) -> Settling {
        let mut ledger = self.ledger();
        let held = ledger.leases.remove(&lease);
        ledger.settling += 1;
        drop(ledger);
        self.room.notify_one();
        Settling { claim: self.clone(), lease, held }
    }
}
