//! Counts how often, and how much, memory is asked for, by thread: for `jobber bench`, in the same binary that is shipped.
//! Unlike times, these counts are nearly the same in each run. While nothing is counted, a request costs one more load.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// The allocator of the C library, with a count.
pub struct CountingAllocator;

/// How many threads are told apart; those that start later are counted together, in the last place, without an id.
const THREADS: usize = 64;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static STARTED: AtomicUsize = AtomicUsize::new(0);
static COUNTS: [ThreadCount; THREADS] = [const { ThreadCount::new() }; THREADS];

thread_local! {
    /// The thread's place among the counts, from 1. It has no destructor, so it can be used as long as the thread lives.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// What one thread has asked for. Only that thread writes it, except the last place. Each lies on cache lines of its own:
/// side by side, threads that count took the lines from one another, and a request cost several times as much.
#[repr(align(128))]
struct ThreadCount {
    thread: AtomicI32,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl ThreadCount {
    const fn new() -> Self {
        Self { thread: AtomicI32::new(0), requests: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

/// How often memory was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// How often.
    pub count: u64,
    /// How much in all, in bytes.
    pub bytes: u64,
}

/// Begins to count.
pub fn start_counting() {
    IS_COUNTING.store(true, Ordering::Relaxed);
}

/// What each thread has asked for since [`start_counting`], by thread id; 0 stands for threads that started late.
pub fn by_thread() -> BTreeMap<i32, Requests> {
    let mut all: BTreeMap<i32, Requests> = BTreeMap::new();
    for counted in &COUNTS[..STARTED.load(Ordering::Relaxed).min(THREADS)] {
        let requests = all.entry(counted.thread.load(Ordering::Relaxed)).or_default();
        requests.count += counted.requests.load(Ordering::Relaxed);
        requests.bytes += counted.bytes.load(Ordering::Relaxed);
    }
    all
}

fn note(size: usize) {
    if !IS_COUNTING.load(Ordering::Relaxed) {
        return;
    }
    let place = match PLACE.get() {
        0 => first_of_thread(),
        place => place,
    };
    let counted = &COUNTS[place - 1];
    if place == THREADS {
        counted.requests.fetch_add(1, Ordering::Relaxed);
        counted.bytes.fetch_add(size as u64, Ordering::Relaxed);
    } else {
        // Only this thread writes these. A locked instruction would cost more than the request that it counts.
        counted.requests.store(counted.requests.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        counted.bytes.store(counted.bytes.load(Ordering::Relaxed) + size as u64, Ordering::Relaxed);
    }
}

/// Takes the thread's place among the counts.
#[cold]
fn first_of_thread() -> usize {
    let place = STARTED.fetch_add(1, Ordering::Relaxed).min(THREADS - 1) + 1;
    PLACE.set(place);
    if place < THREADS {
        COUNTS[place - 1].thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }
    place
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing and does not panic.
#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
