//! Gives [`Slot`]s out: which attempts may run now, and on which CPUs and units of resources.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::allocator::{Allocator, Budget, Demand, Divided, Parts, SlotRequest};
use crate::domain::{Free, ResourceName};

/// Gives slots out, first come, first served: a job gets all that it asks for at once, or waits. What the one that has
/// waited longest lacks is kept for it; with the rest those behind it go on. So all that it waits for is that jobs end
/// which ran before it came first, however many smaller ones come.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: Divided,
    cores_per_process: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: Allocator,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    demand: Demand,
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
            self.slots.serve(&Parts::default());
        }
        left
    }
}

/// The right to run one job on some CPUs, with some units of resources. Frees them when dropped.
#[derive(Debug)]
pub struct Slot {
    parts: Parts,
    units: BTreeMap<ResourceName, Vec<String>>,
    slots: Slots,
}

impl Slots {
    /// Divides `cpus` (CPU 0 when there are none) by `cores_per_process` (at least 1 is taken), and nothing else.
    pub fn new(cpus: Vec<u32>, cores_per_process: u32) -> Self {
        Self::dividing(Divided { cpus, cores_per_process, ..Divided::default() })
    }

    /// Divides all of this.
    pub fn dividing(divided: Divided) -> Self {
        let cores_per_process = divided.cores_per_process;
        let free = Allocator::new(divided);
        let total = free.total().clone();
        let cores_per_process = cores_per_process.clamp(1, u32::try_from(total.cpus.len()).unwrap_or(u32::MAX));
        let state = Mutex::new(State { free, queue: VecDeque::new() });
        Self(Arc::new(Shared { total, cores_per_process, state }))
    }

    /// How many jobs of the usual size run at once: at least 1.
    pub fn count(&self) -> usize {
        (self.total_cores() / self.0.cores_per_process).max(1) as usize
    }

    /// All that is divided.
    pub fn total(&self) -> &Divided {
        &self.0.total
    }

    /// The numbers of all CPUs, ascending.
    pub fn cpus(&self) -> &[u32] {
        &self.0.total.cpus
    }

    /// How many cores there are in all.
    pub fn total_cores(&self) -> u32 {
        u32::try_from(self.0.total.cpus.len()).unwrap_or(u32::MAX)
    }

    /// How many cores jobs have now.
    pub fn busy_cores(&self) -> u32 {
        self.total_cores() - u32::try_from(self.lock().free.free_cores()).unwrap_or(self.total_cores())
    }

    /// What of memory and resources is neither given out nor waited for.
    pub fn free(&self) -> Free {
        let state = self.lock();
        state.free.free_beyond(state.queue.iter().filter(|w| !w.answer.is_closed()).map(|waiter| &waiter.demand))
    }

    /// Whether someone waits for memory or resources.
    pub fn is_awaited(&self) -> bool {
        let wants = |waiter: &Waiter| waiter.demand.memory_bytes > 0 || !waiter.demand.resources.is_empty();
        self.lock().queue.iter().any(|waiter| !waiter.answer.is_closed() && wants(waiter))
    }

    /// Waits for what is asked for (no more than there is). Dropping the future gives up the place in the queue.
    pub async fn acquire(&self, request: impl Into<SlotRequest>) -> Slot {
        let request = request.into();
        let mut place = {
            let mut state = self.lock();
            if let Some(slot) = self.occupy_if_free(&mut state, &request) {
                return slot;
            }
            let (answer, place) = oneshot::channel();
            let demand = state.free.demand(&request);
            state.queue.push_back(Waiter { demand, answer: Grant::Tell(answer) });
            QueuedWaiter { answer: place, slots: self }
        };
        (&mut place.answer).await.expect("a waiter is only taken from the queue with an answer")
    }

    /// Calls `call` with a slot when its turn comes: at once and on this thread if what is asked for is free,
    /// else later on the thread that frees it.
    pub(super) fn in_turn(&self, request: impl Into<SlotRequest>, call: impl FnOnce(Slot) + Send + 'static) -> Turn {
        let request = request.into();
        let state = Arc::new(AtomicU8::new(WAITING));
        let free = {
            let mut locked = self.lock();
            let free = self.occupy_if_free(&mut locked, &request);
            match free {
                Some(slot) => {
                    state.store(CALLED, Ordering::SeqCst);
                    Some((slot, call))
                }
                None => {
                    let answer = Grant::Call(Box::new(call), state.clone());
                    let demand = locked.free.demand(&request);
                    locked.queue.push_back(Waiter { demand, answer });
                    None
                }
            }
        };
        if let Some((slot, call)) = free {
            call(slot);
        }
        Turn { state, slots: self.clone() }
    }

    /// Takes a slot without waiting. `None` when too little is free, or is kept for another job that waits already.
    pub fn try_acquire(&self, request: impl Into<SlotRequest>) -> Option<Slot> {
        self.occupy_if_free(&mut self.lock(), &request.into())
    }

    fn occupy_if_free(&self, state: &mut State, request: &SlotRequest) -> Option<Slot> {
        state.queue.retain(|waiter| !waiter.answer.is_closed());
        let demand = state.free.demand(request);
        let is_free = match state.queue.front() {
            None => state.free.covers(&demand),
            Some(first) => state.free.covers(&demand) && beside(&state.free, &first.demand).covers(&demand),
        };
        is_free.then(|| self.occupy(state, &demand))
    }

    fn occupy(&self, state: &mut State, demand: &Demand) -> Slot {
        let parts = state.free.take(demand);
        let units = state.free.names(&parts);
        Slot { parts, units, slots: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees parts and serves the queue from its head, as far as they go. A function that is called may
    /// drop its slot at once, which calls this again on the same thread. The inner call then only
    /// notes the parts, and the outer call goes on.
    fn serve(&self, freed: &Parts) {
        let under_way = SERVING.replace(Arc::as_ptr(&self.0).cast());
        let is_nested = std::ptr::eq(under_way, Arc::as_ptr(&self.0).cast());
        let _restored = Serving(under_way);
        self.lock().free.give_back(freed);
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

    /// Takes the waiters for which there is enough out of the queue, in their order. From the first one on for which
    /// there is not, only what that one leaves over is given.
    fn grant(&self) -> Vec<(Grant, Slot)> {
        let mut granted = Vec::new();
        let mut state = self.lock();
        let mut left: Option<Budget> = None;
        let mut at = 0;
        while let Some(waiter) = state.queue.get(at) {
            let fits =
                state.free.covers(&waiter.demand) && left.as_ref().is_none_or(|left| left.covers(&waiter.demand));
            if !waiter.answer.is_closed() && !fits {
                if left.is_none() {
                    left = Some(beside(&state.free, &waiter.demand));
                }
                if left.as_ref().is_some_and(Budget::is_spent) {
                    break;
                }
                at += 1;
                continue;
            }
            let Some(waiter) = state.queue.remove(at) else { break };
            if waiter.answer.decide() {
                if let Some(left) = &mut left {
                    left.take(&waiter.demand);
                }
                granted.push((waiter.answer, self.occupy(&mut state, &waiter.demand)));
            }
        }
        granted
    }
}

/// What is left over beside a job that waits for its parts.
fn beside(free: &Allocator, waiting: &Demand) -> Budget {
    let mut left = free.budget();
    left.take(waiting);
    left
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
        self.slots.serve(&Parts::default());
    }
}

impl Slot {
    /// The CPUs of this slot, ascending.
    pub fn cpus(&self) -> &[u32] {
        &self.parts.cpus
    }

    /// The units of resources of this slot.
    pub fn units(&self) -> &BTreeMap<ResourceName, Vec<String>> {
        &self.units
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.serve(&self.parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use crate::domain::ResourceUnits;

    fn poll<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
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
            slots.in_turn(None::<u32>, move |slot| sender.send((name, slot)).unwrap())
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
        let held = slots.try_acquire(None::<u32>).unwrap();
        let count = Arc::new(AtomicU8::new(0));
        let deepest = Arc::new(Mutex::new((usize::MAX, 0)));
        let turns: Vec<Turn> = (0..200)
            .map(|_| {
                let (count, deepest) = (count.clone(), deepest.clone());
                slots.in_turn(None::<u32>, move |slot| {
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
        assert!(slots.try_acquire(None::<u32>).is_some());
    }

    #[test]
    fn cpus_are_divided_and_freed() {
        let slots = Slots::new(vec![4, 5, 6, 7], 2);
        assert_eq!((slots.count(), slots.total_cores()), (2, 4));
        let a = slots.try_acquire(None::<u32>).unwrap();
        let b = slots.try_acquire(None::<u32>).unwrap();
        assert_eq!((a.cpus(), b.cpus()), (&[4, 5][..], &[6, 7][..]));
        assert!(slots.try_acquire(Some(1)).is_none());
        drop(a);
        assert_eq!(slots.try_acquire(Some(1)).unwrap().cpus(), [4]);
    }

    #[test]
    fn there_is_always_one_slot() {
        let slots = Slots::new(vec![0, 1], 8);
        assert_eq!(slots.count(), 1);
        assert_eq!(slots.try_acquire(None::<u32>).unwrap().cpus(), [0, 1]);
        assert_eq!(Slots::new(vec![], 1).try_acquire(Some(9)).unwrap().cpus(), [0]);
    }

    #[test]
    fn a_job_that_asks_for_many_cores_is_not_overtaken() {
        let slots = Slots::new(vec![0, 1, 2], 1);
        let (a, b) = (slots.try_acquire(None::<u32>).unwrap(), slots.try_acquire(None::<u32>).unwrap());
        let mut big = pin!(slots.acquire(Some(3)));
        assert!(poll(big.as_mut()).is_none());
        let mut small = pin!(slots.acquire(None::<u32>));
        assert!(poll(small.as_mut()).is_none(), "CPU 2 is free, but the big job came first");
        assert!(slots.try_acquire(None::<u32>).is_none());
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
        let held = slots.try_acquire(None::<u32>).unwrap();
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

    /// Steps of a random life of some slots.
    #[derive(Debug, Clone)]
    enum Step {
        Ask(SlotRequest),
        Free(usize),
        GiveUp(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let request = (1..=8u32, 0..=10u64, 0..=3u32, 0..=2u32).prop_map(|(cores, memory_bytes, gpus, licences)| {
            let amounts = [("gpu", gpus), ("licence", licences)];
            let resources = amounts.iter().filter(|(_, n)| *n > 0);
            let resources = resources.map(|(name, n)| (ResourceName::parse(name).unwrap(), *n)).collect();
            SlotRequest { cores: Some(cores), memory_bytes, resources }
        });
        prop_oneof![
            4 => request.prop_map(Step::Ask),
            3 => (0..64usize).prop_map(Step::Free),
            1 => (0..64usize).prop_map(Step::GiveUp),
        ]
    }

    fn machine() -> Slots {
        Slots::dividing(Divided {
            cpus: (0..8).collect(),
            nodes: vec![vec![0, 2, 4, 6], vec![1, 3, 5, 7]],
            cores_per_process: 1,
            memory_bytes: Some(10),
            resources: ResourceUnits::parse(&["gpu=a+b+c".to_owned(), "licence=2".to_owned()]).unwrap(),
        })
    }

    /// Someone who waits, by a number.
    type Waiting = (u64, std::pin::Pin<Box<dyn Future<Output = Slot>>>);

    /// Takes out what was granted to those who wait.
    fn granted(waiting: &mut Vec<Waiting>) -> Vec<(u64, Slot)> {
        let mut now = Vec::new();
        waiting.retain_mut(|(number, future)| match poll(future.as_mut()) {
            Some(slot) => {
                now.push((*number, slot));
                false
            }
            None => true,
        });
        now
    }

    fn wait_for(slots: &Slots, number: u64, request: SlotRequest) -> Waiting {
        let slots = slots.clone();
        (number, Box::pin(async move { slots.acquire(request).await }))
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_and_everyone_is_served(steps in prop::collection::vec(step(), 1..120)) {
            let slots = machine();
            let mut held: Vec<(u64, Slot)> = Vec::new();
            let mut waiting: Vec<Waiting> = Vec::new();
            // Who waits longest, and who held something when that one came to be first.
            let mut oldest: Option<(u64, Vec<u64>)> = None;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Ask(request) => waiting.push(wait_for(&slots, number as u64, request)),
                    Step::Free(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                    Step::GiveUp(at) if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                    Step::Free(_) | Step::GiveUp(_) => {}
                }
                held.extend(granted(&mut waiting));
                // Nothing is given twice, and no more than there is.
                let mut cpus: Vec<u32> = held.iter().flat_map(|(_, slot)| slot.cpus().to_vec()).collect();
                cpus.sort_unstable();
                prop_assert!(cpus.windows(2).all(|two| two[0] < two[1]));
                for resource in ["gpu", "licence"].map(|name| ResourceName::parse(name).unwrap()) {
                    let mut units: Vec<&String> =
                        held.iter().filter_map(|(_, slot)| slot.units().get(&resource)).flatten().collect();
                    units.sort_unstable();
                    prop_assert!(units.windows(2).all(|two| two[0] < two[1]));
                }
                let memory: u64 = held.iter().map(|(_, slot)| slot.parts.memory_bytes()).sum();
                prop_assert!(memory <= 10);
                // The oldest waits only for those that held something when it came to be the oldest.
                match (waiting.first().map(|(number, ..)| *number), &oldest) {
                    (Some(first), Some((known, holders))) if first == *known => {
                        let they_hold = held.iter().any(|(number, _)| holders.contains(number));
                        prop_assert!(they_hold, "all that it waited for have ended");
                    }
                    (Some(first), _) => oldest = Some((first, held.iter().map(|(number, _)| *number).collect())),
                    (None, _) => oldest = None,
                }
            }
            // Nobody waits for ever: when all that runs ends, and then what was granted, all have had their slot.
            while !waiting.is_empty() {
                let before = waiting.len();
                held.clear();
                held.extend(granted(&mut waiting));
                prop_assert!(waiting.len() < before, "a deadlock");
            }
            held.clear();
            prop_assert_eq!(slots.busy_cores(), 0);
            prop_assert_eq!(slots.free(), machine().free());
        }
    }
}
