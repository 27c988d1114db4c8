//! Shares the slots of a worker among the queues that it serves.
//!
//! BullMQ's worker of each queue fetches jobs by itself, as many at once as it is told. It is told the leases that are
//! out, the slots that were dealt to the queue, and one more: a look ahead, by which it hears of the next job. A job
//! that comes without a slot is put back at once, and the fetch that it came by waits, blocked, until there is room: so
//! a queue that gets no slot costs one such job, and no fetch after it.
//!
//! ```text
//!   job ──admit──> slot dealt: held ──verdict──> slot free ──deal──> BullMQ's worker fetches the next
//!          └─────> no slot: put back, blocked ──────────────────────> until there is room
//! ```

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::super::{ClaimOptions, Dealer, Demand};

/// A fetch that was let go may bring a job for so long; then the queue is taken to have none.
const FETCHING: Duration = Duration::from_millis(50);
/// A queue that has none of the jobs any more for which it was dealt slots gives them back after this long.
const UNUSED: Duration = Duration::from_millis(100);
/// A queue that has jobs, and yet gives none for this long, gives its slots back: BullMQ limits its rate.
const WITHHELD: Duration = Duration::from_secs(2);
/// For so long such a queue is dealt nothing.
const QUIET: Duration = Duration::from_secs(1);
/// An end of a job waits at most so long for the slot to be dealt.
const LONGEST_DEAL: Duration = Duration::from_millis(200);

/// The slots of one claim, and which queue has how many of them.
pub(super) struct SharedSlots {
    state: Mutex<Slots>,
    concurrency: watch::Receiver<usize>,
    /// The slots are to be dealt anew.
    pub(super) changed: Notify,
}

struct Slots {
    dealer: Dealer,
    queues: Vec<QueueSlots>,
    /// The ends of jobs that wait until their slots are dealt.
    ends: Vec<oneshot::Sender<()>>,
    is_closed: bool,
}

/// The slots of one queue.
struct QueueSlots {
    /// Leases that are out.
    held: usize,
    /// Slots that were dealt, whose jobs are still to come; since when.
    granted: usize,
    granted_at: Instant,
    /// Jobs that have come without a slot, until the next deal.
    waiting: Vec<oneshot::Sender<bool>>,
    /// Fetches whose jobs were put back, or are being put back.
    blocked: usize,
    /// What lets those go on whose jobs are back.
    releases: Vec<oneshot::Sender<()>>,
    /// When a fetch was let go of which nothing was heard yet.
    fetching_since: Option<Instant>,
    quiet_until: Option<Instant>,
    /// Whether BullMQ's worker runs.
    is_started: bool,
}

/// The right to hold one lease.
pub(super) struct HeldSlot {
    slots: Arc<SharedSlots>,
    queue: usize,
    is_given_back: bool,
}

/// What one look at the queues found.
pub(super) struct Ready {
    /// How many jobs each queue could give at once.
    pub(super) jobs: Vec<usize>,
    /// Whether each queue is asked for jobs.
    pub(super) is_open: Vec<bool>,
}

impl SharedSlots {
    /// The slots of a claim of several queues.
    pub(super) fn new(options: &ClaimOptions, concurrency: watch::Receiver<usize>) -> Self {
        let queue = |_| QueueSlots {
            held: 0,
            granted: 0,
            granted_at: Instant::now(),
            waiting: Vec::new(),
            blocked: 0,
            releases: Vec::new(),
            fetching_since: None,
            quiet_until: None,
            is_started: false,
        };
        let state = Slots {
            dealer: Dealer::new(options.queues.clone(), options.order),
            queues: options.queues.iter().map(queue).collect(),
            ends: Vec::new(),
            is_closed: false,
        };
        Self { state: Mutex::new(state), concurrency, changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, Slots> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn concurrency(&self) -> usize {
        *self.concurrency.borrow()
    }

    /// How many fetches BullMQ's worker of a queue may have out, blocked ones included.
    pub(super) fn fetches(&self, queue: usize) -> usize {
        let state = self.state();
        let slots = &state.queues[queue];
        let known = slots.held + slots.granted + slots.waiting.len() + slots.blocked;
        known + usize::from(state.may_look_ahead(queue))
    }

    /// Notes that BullMQ's worker of a queue runs.
    pub(super) fn started(&self, queue: usize) {
        let mut state = self.state();
        let slots = &mut state.queues[queue];
        (slots.is_started, slots.granted_at) = (true, Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    /// Notes that BullMQ's worker found nothing in a queue.
    pub(super) fn drained(&self, queue: usize) {
        let mut state = self.state();
        state.take_back(queue);
        drop(state);
        self.changed.notify_one();
    }

    /// Asks for a slot for a job that has come. `None` when there is none: the job is to be put back, and its fetch
    /// [blocked](Self::block).
    pub(super) async fn admit(self: &Arc<Self>, queue: usize) -> Option<HeldSlot> {
        let decision = {
            let mut state = self.state();
            if state.held() >= self.concurrency() {
                // The worker wants fewer than when these slots were dealt.
                state.take_back(queue);
            }
            let is_full = state.is_closed || state.used() >= self.concurrency();
            let slots = &mut state.queues[queue];
            slots.fetching_since = None;
            if slots.granted > 0 {
                slots.granted -= 1;
                slots.held += 1;
                let may_fetch = state.may_look_ahead(queue);
                state.queues[queue].fetching_since = may_fetch.then(Instant::now);
                return Some(self.held_slot(queue));
            }
            if is_full {
                state.refuse(queue);
                return None;
            }
            let (decide, decision) = oneshot::channel();
            slots.waiting.push(decide);
            decision
        };
        self.changed.notify_one();
        match decision.await {
            Ok(true) => Some(self.held_slot(queue)),
            Ok(false) | Err(_) => None,
        }
    }

    fn held_slot(self: &Arc<Self>, queue: usize) -> HeldSlot {
        HeldSlot { slots: self.clone(), queue, is_given_back: false }
    }

    /// Waits, once the job is back, until the queue may fetch again.
    pub(super) async fn block(&self, queue: usize) {
        let released = {
            let mut state = self.state();
            let is_closed = state.is_closed;
            let slots = &mut state.queues[queue];
            slots.fetching_since = None;
            if is_closed {
                slots.blocked -= 1;
                return;
            }
            let (release, released) = oneshot::channel();
            slots.releases.push(release);
            released
        };
        // The job may be the next one that gets a slot.
        self.changed.notify_one();
        let _ = released.await;
    }

    /// Whether a look at the queues is needed: a slot is free, or one was dealt long ago.
    pub(super) fn needs_look(&self) -> bool {
        let state = self.state();
        let is_stale = |slots: &QueueSlots| slots.granted > 0 && slots.granted_at.elapsed() >= UNUSED;
        !state.is_closed && (state.used() < self.concurrency() || state.queues.iter().any(is_stale))
    }

    /// When to look again without being told.
    pub(super) fn next_look(&self) -> Duration {
        let state = self.state();
        let is_pending = state.queues.iter().any(|slots| slots.granted > 0 || !slots.waiting.is_empty());
        if is_pending { UNUSED } else { QUIET }
    }

    /// Deals what is free. Answers how long to wait before another look when it can't be told yet who is to get it.
    pub(super) fn deal(&self, ready: &Ready) -> Option<Duration> {
        let mut state = self.state();
        state.take_back_unused(ready);
        let free = self.concurrency().saturating_sub(state.used());
        let demands = state.demands(ready);
        let demand: usize = demands.iter().map(|demand| demand.ready).sum();
        if free > 0
            && demand >= free
            && let Some(wait) = state.still_fetching(&demands)
        {
            return Some(wait);
        }
        let dealt = state.dealer.deal(free, &demands);
        let is_left = dealt.iter().sum::<usize>() < free;
        for (queue, dealt) in dealt.into_iter().enumerate() {
            state.grant(queue, dealt);
            if is_left && state.has_share_left(queue) {
                state.release_blocked(queue);
            }
        }
        state.ends.clear();
        None
    }

    /// Refuses what waits for a slot: there is none, or none can be dealt now.
    pub(super) fn skip_deal(&self) {
        let mut state = self.state();
        (0..state.queues.len()).for_each(|queue| state.grant(queue, 0));
        state.ends.clear();
    }

    /// Gives no slot from now on, and lets go on what waits for one.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for queue in 0..state.queues.len() {
            state.take_back(queue);
            state.grant(queue, 0);
            state.release_blocked(queue);
        }
        state.ends.clear();
    }
}

impl Slots {
    /// Leases that are out.
    fn held(&self) -> usize {
        self.queues.iter().map(|slots| slots.held).sum()
    }

    /// Slots that are held or dealt.
    fn used(&self) -> usize {
        self.queues.iter().map(|slots| slots.held + slots.granted).sum()
    }

    /// Whether the queue may hold more than it does.
    fn has_share_left(&self, queue: usize) -> bool {
        let slots = &self.queues[queue];
        self.dealer.shares()[queue].most.is_none_or(|most| slots.held + slots.granted < most)
    }

    /// Whether BullMQ's worker may fetch one job beyond the slots that the queue has.
    fn may_look_ahead(&self, queue: usize) -> bool {
        let slots = &self.queues[queue];
        slots.granted == 0 && slots.waiting.is_empty() && slots.blocked == 0 && self.has_share_left(queue)
    }

    /// Refuses a job that has come: its fetch is blocked once the job is back.
    fn refuse(&mut self, queue: usize) {
        let slots = &mut self.queues[queue];
        slots.blocked += 1;
        slots.fetching_since = Some(Instant::now());
    }

    /// Takes the slots back of which the queue has made nothing.
    fn take_back(&mut self, queue: usize) {
        let slots = &mut self.queues[queue];
        slots.fetching_since = None;
        let unused = std::mem::take(&mut slots.granted);
        self.dealer.take_back(queue, unused);
    }

    fn take_back_unused(&mut self, ready: &Ready) {
        for queue in 0..self.queues.len() {
            let slots = &mut self.queues[queue];
            if slots.granted == 0 || !slots.is_started {
                continue;
            }
            let age = slots.granted_at.elapsed();
            if age >= WITHHELD {
                slots.quiet_until = Some(Instant::now() + QUIET);
                self.take_back(queue);
            } else if age >= UNUSED && ready.jobs[queue] == 0 {
                self.take_back(queue);
            }
        }
    }

    fn demands(&self, ready: &Ready) -> Vec<Demand> {
        let demand = |(queue, slots): (usize, &QueueSlots)| {
            let is_quiet = slots.quiet_until.is_some_and(|until| until > Instant::now());
            // What was dealt is ready until it comes.
            let jobs = (ready.jobs[queue] + slots.waiting.len()).saturating_sub(slots.granted);
            let is_served = ready.is_open[queue] && !is_quiet;
            Demand { held: slots.held + slots.granted, ready: if is_served { jobs } else { 0 } }
        };
        self.queues.iter().enumerate().map(demand).collect()
    }

    /// How long to wait for a fetch that may bring the only job of its queue just now.
    fn still_fetching(&self, demands: &[Demand]) -> Option<Duration> {
        let waits = self.queues.iter().zip(demands).enumerate().filter_map(|(queue, (slots, demand))| {
            let wait = FETCHING.checked_sub(slots.fetching_since?.elapsed())?;
            (demand.ready == 0 && self.has_share_left(queue)).then_some(wait)
        });
        waits.max().filter(|wait| !wait.is_zero())
    }

    /// Gives slots to a queue: to the jobs first that have come already.
    fn grant(&mut self, queue: usize, dealt: usize) {
        let slots = &mut self.queues[queue];
        if dealt > 0 {
            slots.granted += dealt;
            slots.granted_at = Instant::now();
        }
        let waiting = std::mem::take(&mut slots.waiting);
        for waiting in waiting {
            let slots = &mut self.queues[queue];
            if slots.granted == 0 {
                self.refuse(queue);
                let _ = waiting.send(false);
            } else if waiting.send(true).is_ok() {
                slots.granted -= 1;
                slots.held += 1;
            }
        }
    }

    /// Lets blocked fetches go on.
    fn release_blocked(&mut self, queue: usize) {
        let slots = &mut self.queues[queue];
        if slots.releases.is_empty() {
            return;
        }
        slots.blocked -= slots.releases.len();
        slots.fetching_since = Some(Instant::now());
        for release in slots.releases.drain(..) {
            let _ = release.send(());
        }
    }
}

impl HeldSlot {
    /// Gives the slot back, and waits until it is dealt: so BullMQ's worker obeys the deal with the next job.
    pub(super) async fn give_back(mut self) {
        let (end, dealt) = oneshot::channel();
        self.is_given_back = true;
        {
            let mut state = self.slots.state();
            state.queues[self.queue].held -= 1;
            state.ends.push(end);
        }
        self.slots.changed.notify_one();
        let _ = tokio::time::timeout(LONGEST_DEAL, dealt).await;
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.slots.state().queues[self.queue].held -= 1;
            self.slots.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
