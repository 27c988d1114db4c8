//! Divides a host's CPUs into [`Slot`]s: which attempts may run now, and on which cores.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The CPUs that jobs may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuSet(Vec<u32>);

/// Why a list of CPUs can't be used. The message names the CPUs that may be used.
#[derive(Debug, thiserror::Error)]
pub enum CpuSetError {
    /// The text is no list of CPUs.
    #[error("{0:?} is not a list of CPUs such as 0-3,6")]
    Malformed(String),
    /// The list names CPUs that this process may not use.
    #[error("none of the CPUs {asked} may be used by this process; it may use {allowed}")]
    NoneAllowed {
        /// The list that was asked for.
        asked: String,
        /// The CPUs that there are.
        allowed: String,
    },
    /// The kernel did not tell which CPUs there are.
    #[error("couldn't read the CPU affinity of this process")]
    Unknown(#[source] std::io::Error),
}

impl CpuSet {
    /// The CPUs that this process may use: its affinity, narrowed to `list` (`0-3,6`) and then to the first `limit` of
    /// them. Without a limit no more than the CPU quota of its cgroup are taken. Never empty.
    ///
    /// # Errors
    /// When the list is malformed or names no CPU that may be used.
    pub fn detect(limit: Option<u32>, list: Option<&str>) -> Result<Self, CpuSetError> {
        // The affinity of the main thread is that of the process, whatever this thread was pinned to.
        let affinity = rustix::thread::sched_getaffinity(Some(rustix::process::getpid()))
            .map_err(|e| CpuSetError::Unknown(e.into()))?;
        let allowed: Vec<u32> =
            (0..).take(rustix::thread::CpuSet::MAX_CPU).filter(|n| affinity.is_set(*n as usize)).collect();
        let quota = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        Self::narrow(allowed, limit, list, quota)
    }

    fn narrow(allowed: Vec<u32>, limit: Option<u32>, list: Option<&str>, quota: usize) -> Result<Self, CpuSetError> {
        let mut cpus = match list {
            None => allowed,
            Some(text) => {
                let asked = parse_list(text).ok_or_else(|| CpuSetError::Malformed(text.to_owned()))?;
                let both: Vec<u32> = allowed.iter().copied().filter(|n| asked.contains(n)).collect();
                if both.is_empty() {
                    return Err(CpuSetError::NoneAllowed { asked: text.to_owned(), allowed: join(&allowed) });
                }
                both
            }
        };
        let keep = limit.map_or(quota, |n| n as usize).max(1);
        cpus.truncate(keep);
        Ok(Self(cpus))
    }

    /// The CPU numbers, ascending.
    pub fn into_vec(self) -> Vec<u32> {
        self.0
    }
}

fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    const HIGHEST: u32 = 65_535;
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// CPU numbers as `JOBBER_CPUS` has them: `0,1`.
pub(super) fn join(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Divides CPUs among jobs, first come, first served: a job that asks for many cores waits until
/// they are free, and no job that came later overtakes it.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cpus: Vec<u32>,
    total: u32,
    cores_per_process: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: BTreeSet<u32>,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    cores: u32,
    answer: Grant,
}

/// How a waiter hears that it has a slot.
enum Grant {
    /// Sends the slot to a future, which is woken.
    Tell(oneshot::Sender<Slot>),
    /// The thread that frees the slot calls this with it.
    Call(Box<dyn FnOnce(Slot) + Send>, Arc<AtomicU8>),
}

/// The states of a [`Turn`]: in the queue, called, withdrawn.
const WAITING: u8 = 0;
const CALLED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Grant {
    /// Whether the waiter has given up.
    fn is_closed(&self) -> bool {
        match self {
            Grant::Tell(answer) => answer.is_closed(),
            Grant::Call(_, state) => state.load(Ordering::SeqCst) == WITHDRAWN,
        }
    }

    /// Whether the waiter can be given a slot now; from then on it can't withdraw.
    fn decide(&self) -> bool {
        match self {
            Grant::Tell(answer) => !answer.is_closed(),
            Grant::Call(_, state) => {
                state.compare_exchange(WAITING, CALLED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            }
        }
    }

    fn give(self, slot: Slot) {
        match self {
            // If the waiter gives up in this very moment, the slot is dropped, which serves the next waiter.
            Grant::Tell(answer) => drop(answer.send(slot)),
            Grant::Call(call, _) => call(slot),
        }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_closed() { "closed" } else { "waiting" })
    }
}

/// A place in the queue that is called when its turn comes.
#[derive(Debug)]
pub(super) struct Turn {
    state: Arc<AtomicU8>,
    slots: Slots,
}

impl Turn {
    /// Leaves the queue. Answers false when the call has been made.
    pub(super) fn withdraw(&self) -> bool {
        let left = self.state.compare_exchange(WAITING, WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if left {
            // Those behind may move up.
            self.slots.serve(&[]);
        }
        left
    }
}

/// The right to run one job on some CPUs. Frees them when dropped.
#[derive(Debug)]
pub struct Slot {
    cpus: Vec<u32>,
    slots: Slots,
}

impl Slots {
    /// Divides `cpus` (CPU 0 when there are none) by `cores_per_process` (at least 1 is taken).
    pub fn new(cpus: Vec<u32>, cores_per_process: u32) -> Self {
        let mut free: BTreeSet<u32> = cpus.into_iter().collect();
        if free.is_empty() {
            free.insert(0);
        }
        let total = u32::try_from(free.len()).unwrap_or(u32::MAX);
        let cores_per_process = cores_per_process.clamp(1, total);
        let cpus = free.iter().copied().collect();
        let state = Mutex::new(State { free, queue: VecDeque::new() });
        Self(Arc::new(Shared { cpus, total, cores_per_process, state }))
    }

    /// How many jobs of the usual size run at once: at least 1.
    pub fn count(&self) -> usize {
        (self.0.total / self.0.cores_per_process).max(1) as usize
    }

    /// The numbers of all CPUs, ascending.
    pub fn cpus(&self) -> &[u32] {
        &self.0.cpus
    }

    /// How many cores there are in all.
    pub fn total_cores(&self) -> u32 {
        self.0.total
    }

    /// How many cores jobs have now.
    pub fn busy_cores(&self) -> u32 {
        self.0.total - u32::try_from(self.lock().free.len()).unwrap_or(self.0.total)
    }

    /// Waits for `cores` cores (the usual number for `None`; no more than there are). Dropping the
    /// future gives up the place in the queue.
    pub async fn acquire(&self, cores: Option<u32>) -> Slot {
        let mut place = {
            let mut state = self.lock();
            if let Some(slot) = self.occupy_if_free(&mut state, cores) {
                return slot;
            }
            let (answer, place) = oneshot::channel();
            state.queue.push_back(Waiter { cores: self.cores(cores), answer: Grant::Tell(answer) });
            QueuedWaiter { answer: place, slots: self }
        };
        (&mut place.answer).await.expect("a waiter is only taken from the queue with an answer")
    }

    /// Calls `call` with a slot when its turn comes: at once and on this thread if cores are free,
    /// else later on the thread that frees the slot.
    pub(super) fn in_turn(&self, cores: Option<u32>, call: impl FnOnce(Slot) + Send + 'static) -> Turn {
        let state = Arc::new(AtomicU8::new(WAITING));
        let free = {
            let mut locked = self.lock();
            let free = self.occupy_if_free(&mut locked, cores);
            match free {
                Some(slot) => {
                    state.store(CALLED, Ordering::SeqCst);
                    Some((slot, call))
                }
                None => {
                    let answer = Grant::Call(Box::new(call), state.clone());
                    locked.queue.push_back(Waiter { cores: self.cores(cores), answer });
                    None
                }
            }
        };
        if let Some((slot, call)) = free {
            call(slot);
        }
        Turn { state, slots: self.clone() }
    }

    /// Takes a slot without waiting. `None` when too few cores are free, or another job waits already.
    pub fn try_acquire(&self, cores: Option<u32>) -> Option<Slot> {
        self.occupy_if_free(&mut self.lock(), cores)
    }

    fn cores(&self, asked: Option<u32>) -> u32 {
        asked.unwrap_or(self.0.cores_per_process).clamp(1, self.0.total)
    }

    fn occupy_if_free(&self, state: &mut State, cores: Option<u32>) -> Option<Slot> {
        let cores = self.cores(cores) as usize;
        state.queue.retain(|waiter| !waiter.answer.is_closed());
        (state.queue.is_empty() && state.free.len() >= cores).then(|| self.occupy(state, cores))
    }

    /// Takes the lowest CPUs: those that ran a job last, whose caches are warm.
    fn occupy(&self, state: &mut State, cores: usize) -> Slot {
        let cpus: Vec<u32> = state.free.iter().copied().take(cores).collect();
        for cpu in &cpus {
            state.free.remove(cpu);
        }
        Slot { cpus, slots: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the queue from its head, as far as the free CPUs go. A function that is called may
    /// drop its slot at once, which calls this again on the same thread. The inner call then only
    /// notes the CPUs, and the outer call goes on.
    fn serve(&self, freed: &[u32]) {
        let under_way = SERVING.replace(Arc::as_ptr(&self.0).cast());
        let is_nested = std::ptr::eq(under_way, Arc::as_ptr(&self.0).cast());
        let _restored = Serving(under_way);
        self.lock().free.extend(freed);
        if is_nested {
            return;
        }
        loop {
            let granted = self.grant();
            if granted.is_empty() {
                return;
            }
            for (answer, slot) in granted {
                answer.give(slot);
            }
        }
    }

    /// Takes the waiters from the head of the queue for which there are CPUs.
    fn grant(&self) -> Vec<(Grant, Slot)> {
        let mut granted = Vec::new();
        let mut state = self.lock();
        while let Some(head) = state.queue.front() {
            let cores = head.cores as usize;
            if !head.answer.is_closed() && state.free.len() < cores {
                break;
            }
            let Some(waiter) = state.queue.pop_front() else { break };
            if waiter.answer.decide() {
                granted.push((waiter.answer, self.occupy(&mut state, cores)));
            }
        }
        granted
    }
}

thread_local! {
    /// The [`Slots`] whose queue this thread is serving; null for none.
    static SERVING: Cell<*const ()> = const { Cell::new(std::ptr::null()) };
}

/// Puts [`SERVING`] back to what it was.
struct Serving(*const ());

impl Drop for Serving {
    fn drop(&mut self) {
        SERVING.set(self.0);
    }
}

/// A place in the queue. Dropping it lets the waiters behind move up.
struct QueuedWaiter<'a> {
    answer: oneshot::Receiver<Slot>,
    slots: &'a Slots,
}

impl Drop for QueuedWaiter<'_> {
    fn drop(&mut self) {
        self.answer.close();
        // A slot that was sent but not taken is dropped with the channel; this is for a place that got none.
        self.slots.serve(&[]);
    }
}

impl Slot {
    /// The CPUs of this slot, ascending.
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.serve(&self.cpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn turns_are_called_in_order_by_the_thread_that_frees_the_slot() {
        let slots = Slots::new(vec![0], 1);
        let (sender, called) = std::sync::mpsc::channel();
        let turn = |name: &'static str| {
            let sender = sender.clone();
            slots.in_turn(None, move |slot| sender.send((name, slot)).unwrap())
        };
        let (first, second, third) = (turn("first"), turn("second"), turn("third"));
        assert!(!first.withdraw(), "its turn had come at once");
        assert!(second.withdraw());
        assert!(!second.withdraw(), "only once");
        let (name, slot) = called.try_recv().unwrap();
        assert_eq!(name, "first");
        assert!(called.try_recv().is_err(), "there is one slot");
        drop(slot);
        assert_eq!(called.try_recv().unwrap().0, "third");
        assert!(!third.withdraw());
    }

    #[test]
    fn however_many_drop_their_slots_when_they_are_called_nothing_recurses() {
        let slots = Slots::new(vec![0], 1);
        let held = slots.try_acquire(None).unwrap();
        let count = Arc::new(AtomicU8::new(0));
        let deepest = Arc::new(Mutex::new((usize::MAX, 0)));
        let turns: Vec<Turn> = (0..200)
            .map(|_| {
                let (count, deepest) = (count.clone(), deepest.clone());
                slots.in_turn(None, move |slot| {
                    let here = std::ptr::from_ref(&slot).addr();
                    let mut seen = deepest.lock().unwrap();
                    *seen = (seen.0.min(here), seen.1.max(here));
                    drop(seen);
                    count.fetch_add(1, Ordering::SeqCst);
                    drop(slot);
                })
            })
            .collect();
        drop(held);
        assert_eq!(count.load(Ordering::SeqCst), 200);
        let (low, high) = *deepest.lock().unwrap();
        assert!(high - low < 1024, "the stack grew by {} bytes", high - low);
        assert!(turns.iter().all(|turn| !turn.withdraw()));
        assert!(slots.try_acquire(None).is_some());
    }

    #[test]
    fn cpus_are_divided_and_freed() {
        let slots = Slots::new(vec![4, 5, 6, 7], 2);
        assert_eq!((slots.count(), slots.total_cores()), (2, 4));
        let a = slots.try_acquire(None).unwrap();
        let b = slots.try_acquire(None).unwrap();
        assert_eq!((a.cpus(), b.cpus()), (&[4, 5][..], &[6, 7][..]));
        assert!(slots.try_acquire(Some(1)).is_none());
        drop(a);
        assert_eq!(slots.try_acquire(Some(1)).unwrap().cpus(), [4]);
    }

    #[test]
    fn there_is_always_one_slot() {
        let slots = Slots::new(vec![0, 1], 8);
        assert_eq!(slots.count(), 1);
        assert_eq!(slots.try_acquire(None).unwrap().cpus(), [0, 1]);
        assert_eq!(Slots::new(vec![], 1).try_acquire(Some(9)).unwrap().cpus(), [0]);
    }

    #[test]
    fn a_job_that_asks_for_many_cores_is_not_overtaken() {
        let slots = Slots::new(vec![0, 1, 2], 1);
        let (a, b) = (slots.try_acquire(None).unwrap(), slots.try_acquire(None).unwrap());
        let mut big = pin!(slots.acquire(Some(3)));
        assert!(poll(big.as_mut()).is_none());
        let mut small = pin!(slots.acquire(None));
        assert!(poll(small.as_mut()).is_none(), "CPU 2 is free, but the big job came first");
        assert!(slots.try_acquire(None).is_none());
        drop(a);
        assert!(poll(big.as_mut()).is_none());
        drop(b);
        let all = poll(big.as_mut()).unwrap();
        assert_eq!(all.cpus(), [0, 1, 2]);
        drop(all);
        assert_eq!(poll(small.as_mut()).unwrap().cpus(), [0]);
    }

    #[test]
    fn who_gives_up_waiting_lets_others_pass_and_loses_no_core() {
        let slots = Slots::new(vec![0, 1], 1);
        let held = slots.try_acquire(None).unwrap();
        {
            let mut small = pin!(slots.acquire(Some(1)));
            {
                let mut big = pin!(slots.acquire(Some(2)));
                assert!(poll(big.as_mut()).is_none());
                assert!(poll(small.as_mut()).is_none());
            }
            assert_eq!(poll(small.as_mut()).unwrap().cpus(), [1]);
        }
        {
            let mut granted_but_never_polled = pin!(slots.acquire(Some(2)));
            assert!(poll(granted_but_never_polled.as_mut()).is_none());
            drop(held);
        }
        assert_eq!(slots.try_acquire(Some(2)).unwrap().cpus(), [0, 1]);
    }

    #[test]
    fn a_list_narrows_the_affinity() {
        let set = |limit, list| CpuSet::narrow(vec![0, 1, 2, 3, 8], limit, list, 4).map(CpuSet::into_vec);
        assert_eq!(set(None, None).unwrap(), [0, 1, 2, 3]);
        assert_eq!(set(Some(9), None).unwrap(), [0, 1, 2, 3, 8]);
        assert_eq!(set(Some(0), None).unwrap(), [0]);
        assert_eq!(set(None, Some("2-3, 8,99")).unwrap(), [2, 3, 8]);
        assert!(matches!(set(None, Some("7")), Err(CpuSetError::NoneAllowed { .. })));
        for bad in ["", "x", "3-1", "1,,2", "-1", "0-99999999"] {
            assert!(matches!(set(None, Some(bad)), Err(CpuSetError::Malformed(_))), "{bad:?}");
        }
        assert!(!CpuSet::detect(None, None).unwrap().into_vec().is_empty());
    }
}
