//! What this process gives back: memory that the allocator keeps, and code that was needed to start.

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
/// has grown. After a large request glibc would otherwise keep hundreds of megabytes in small pieces. Gives back,
/// too, what only the start needed.
pub(crate) fn give_back_freed_memory() {
    let watch = || {
        let mut trimming = Trimming::of(resident_memory().unwrap_or(0));
        let mut age = Duration::ZERO;
        loop {
            std::thread::sleep(LOOK);
            age += LOOK;
            if STARTED.contains(&age) {
                trim();
                forget_startup_code();
            }
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
/// How long after the start to give back what only that needed: multiples of [`LOOK`]. Where history has errors, their
/// categories have been fitted at the first, which takes most; on a slow machine, at the second.
const STARTED: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];
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

/// No machine has larger pages. Part of a page can't be given back.
const LARGEST_PAGE: u64 = 64 << 10;

/// Takes the code and constants of this program out of the process's memory. What it goes on to use comes back from the
/// kernel's page cache, at a microsecond for each 64 KiB; the rest, most of it, was for the start.
pub(crate) fn forget_startup_code() {
    #[expect(unsafe_code, reason = "only C code tells where the program lies")]
    // SAFETY: the callback is called for each loaded object, and keeps nothing of what it is given.
    unsafe {
        libc::dl_iterate_phdr(Some(forget_constant_segments), std::ptr::null_mut());
    }
}

#[expect(unsafe_code, reason = "goes through a table of the C library")]
unsafe extern "C" fn forget_constant_segments(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library passes an object whose headers stay where they are while it is loaded.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let first = (base + header.p_vaddr).next_multiple_of(LARGEST_PAGE);
        let end = (base + header.p_vaddr + header.p_memsz) / LARGEST_PAGE * LARGEST_PAGE;
        if first < end {
            // SAFETY: nothing has ever been written to these whole pages of a mapped file (the segment is not
            // writable, and the program is linked without text relocations): a thread that needs one reads it again.
            let _ = unsafe {
                rustix::mm::madvise(
                    first as *mut std::ffi::c_void,
                    (end - first) as usize,
                    rustix::mm::Advice::LinuxDontNeed,
                )
            };
        }
    }
    0
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
