//! How the allocator deals with memory that has been freed.

use std::time::Duration;

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

/// Looks from time to time, on a thread of its own, whether this process has grown, and then hands back to the kernel what
/// has been freed: after a large request glibc would keep hundreds of megabytes in small pieces.
pub(crate) fn give_back_freed_memory() {
    const EVERY: Duration = Duration::from_secs(2);
    const GROWN: u64 = 32 << 20;
    let look = || {
        let mut before = resident().unwrap_or(0);
        loop {
            std::thread::sleep(EVERY);
            let Some(now) = resident() else { return };
            if now > before + GROWN {
                trim();
                before = resident().unwrap_or(now);
            } else {
                before = before.min(now);
            }
        }
    };
    // Without it everything works, in more memory.
    if let Err(error) = std::thread::Builder::new().name("memory".to_owned()).spawn(look) {
        tracing::debug!(%error, "freed memory is not given back");
    }
}

/// The memory of this process that is in RAM, in bytes.
fn resident() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's allocator is asked by a C call")]
    // SAFETY: may be called at any time from any thread; the argument is a plain number.
    unsafe {
        libc::malloc_trim(0);
    }
}
