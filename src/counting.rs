//! For tests: counts how often memory is asked for that could hold a text of a certain size, and not much more. Each such
//! request is a copy of the text, a text that is written, or a string of a tree that is read.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The size that is counted, in bytes; nothing else in the tests is as large.
pub(crate) const SIZE: usize = 1_300_000;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many were asked for since the start.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

struct Counting;

fn note(size: usize) {
    if (SIZE..=2 * SIZE + 1000).contains(&size) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
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

#[global_allocator]
static ALLOCATOR: Counting = Counting;
