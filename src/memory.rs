//! How the allocator deals with memory that has been freed.

use std::time::Duration;

use jobber::metrics::resident_memory;

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

/// Trims from time to time, on a thread of its own: hands freed memory back to the kernel when this process
/// has grown. After a large request glibc would otherwise keep hundreds of megabytes in small pieces.
pub(crate) fn give_back_freed_memory() {
    let watch = || {
        let mut trimming = Trimming::of(resident_memory().unwrap_or(0));
        loop {
            std::thread::sleep(LOOK);
            let Some(now) = resident_memory() else { return };
            if trimming.is_due(now) {
                trim();
                trimming.trimmed(resident_memory().unwrap_or(now));
            }
        }
    };
    // Without the thread everything works, but takes more memory.
    if let Err(error) = std::thread::Builder::new().name("memory".to_owned()).spawn(watch) {
        tracing::debug!(%error, "freed memory is not given back");
    }
}

/// The time between two looks at the memory.
const LOOK: Duration = Duration::from_secs(2);
/// The longest time between two trims of a process that stays large.
const LONGEST: Duration = Duration::from_secs(64);
/// A process has grown when it has this many bytes more.
const GROWN: u64 = 32 << 20;

/// Decides when to trim. The process may free after one trim what it used during it. That can't be
/// seen from outside: the process just stays large. So it is trimmed again, after waits that double
/// up to [`LONGEST`], until it is small.
#[derive(Debug)]
struct Trimming {
    /// The least memory that the process had, in bytes.
    least: u64,
    /// The memory at the last look or trim, in bytes; a growth beyond [`GROWN`] does not update it.
    last: u64,
    /// The time since the last trim.
    since: Duration,
    /// How long after the last trim the next one is due, if the process stays large.
    wait: Duration,
}

impl Trimming {
    fn of(now: u64) -> Self {
        Self { least: now, last: now, since: Duration::ZERO, wait: LOOK }
    }

    /// Whether to trim a process that has `now` bytes. The caller asks once every [`LOOK`].
    fn is_due(&mut self, now: u64) -> bool {
        self.since += LOOK;
        self.least = self.least.min(now);
        if now > self.last + GROWN {
            self.wait = LOOK;
        } else {
            self.last = self.last.min(now);
        }
        now > self.least + GROWN && self.since >= self.wait
    }

    fn trimmed(&mut self, now: u64) {
        self.last = now;
        self.since = Duration::ZERO;
        self.wait = (self.wait * 2).min(LONGEST);
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's allocator is asked by a C call")]
    // SAFETY: may be called at any time from any thread; the argument is a plain number.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The looks at which a process with this memory, look by look, is trimmed; a trim takes nothing off.
    fn trims(memory: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let mut trimming = Trimming::of(40 * MIB);
        let looks = memory.into_iter().enumerate().filter(|(_, now)| {
            let is_due = trimming.is_due(*now);
            if is_due {
                trimming.trimmed(*now);
            }
            is_due
        });
        looks.map(|(look, _)| look).collect()
    }

    #[test]
    fn what_is_freed_after_a_trim_is_given_back_too() {
        assert_eq!(trims([3000 * MIB; 40]), [0, 2, 6, 14, 30], "of what stays large, less and less often");
        assert_eq!(trims([41 * MIB, 60 * MIB, 40 * MIB, 70 * MIB]), [0; 0], "small changes are none");
        let twice = [[1000 * MIB; 20], [1100 * MIB; 20]].concat();
        assert!(trims(twice).contains(&20), "new growth is trimmed at once");
    }
}
