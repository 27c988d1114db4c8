//! How the allocator deals with memory that has been freed.

/// Lets glibc keep some freed memory instead of handing it back to the kernel at once: the groups of writes of a busy
/// queue take and free the same megabytes a thousand times a second.
pub(crate) fn keep_freed_memory() {
    const KEPT: i32 = 8 << 20;
    const STEP: i32 = 1 << 20;
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's allocator is tuned by a C call")]
    // SAFETY: called first in main, before any other thread could allocate; both are plain numbers.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_TOP_PAD, STEP);
    }
}
