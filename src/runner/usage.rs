//! Measures what an attempt used: reaps its process with what the kernel counted, and computes its peak resident
//! memory.
//!
//! `ru_maxrss` of a child is trustworthy only above a floor: with a vfork-like spawn, the kernel starts the child's
//! high-water mark at that of its parent (the child runs in the parent's memory until it executes its program). So at
//! or below the supervisor's own high-water mark it says nothing, and `VmHWM`, which belongs to the program alone, takes
//! its place: as its tracer reads it when the process is about to die of a signal, or in samples. (A tracer could be told of
//! every end, `PTRACE_O_TRACEEXIT`; but then what is killed stands at its end, with its files and locks, for as long as a
//! worker that was stopped does not let it go on.)
#![expect(unsafe_code, reason = "wait4 and getrusage have no safe wrapper")]

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::exit::Ending;
use super::{procfs, ptrace, sys};

/// The first sample comes late enough that short attempts cost nothing, and then twice as late each time.
const FIRST: Duration = Duration::from_millis(8);
const LONGEST: Duration = Duration::from_secs(1);

/// Less memory than a program has that has been loaded, in bytes. What making and executing it cost is among its page faults.
const BEGUN: u64 = 512 << 10;

/// What the kernel counted for a process and the descendants that it waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    /// The largest resident set of one process, in bytes. The module says when it can be trusted.
    pub(super) max_rss: u64,
    /// Page faults: pages that the kernel brought in.
    pub(super) faults: u64,
}

impl From<libc::rusage> for Counted {
    fn from(usage: libc::rusage) -> Self {
        let count = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
        let micros =
            |t: libc::timeval| u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0);
        Self {
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
            max_rss: count(usage.ru_maxrss) * 1024,
            faults: count(usage.ru_minflt) + count(usage.ru_majflt),
        }
    }
}

/// Reaps a child. Answers how it ended and what it used; without `wait`, `None` while it still runs.
pub(super) fn reap(pid: Pid, wait: bool) -> io::Result<Option<(Ending, Counted)>> {
    let flags = if wait { 0 } else { libc::WNOHANG };
    if !wait && !ptrace::has_ended(pid.as_raw_nonzero().get()) {
        return Ok(None);
    }
    loop {
        let mut status = 0;
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both pointers are valid for writes for the duration of the call.
        let reaped = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, flags, usage.as_mut_ptr()) };
        if reaped == 0 {
            return Ok(None);
        }
        if reaped < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // A traced process that stands has not ended: without `WUNTRACED` no other is told of.
        if libc::WIFSTOPPED(status) {
            continue;
        }
        // SAFETY: an rusage of zeros is valid, and the kernel has filled it in.
        let usage = unsafe { usage.assume_init() };
        let ending = if libc::WIFSIGNALED(status) {
            Ending::Signaled(libc::WTERMSIG(status))
        } else {
            Ending::Exited(libc::WEXITSTATUS(status))
        };
        return Ok(Some((ending, usage.into())));
    }
}

/// The most memory that this process itself has had resident, in bytes.
pub(super) fn own_max_rss() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for writes for the duration of the call.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: an rusage of zeros is valid, and the kernel has filled it in.
    Counted::from(unsafe { usage.assume_init() }).max_rss
}

/// Samples the peak of a process while it runs.
#[derive(Debug)]
pub(super) struct PeakMemory {
    next: Instant,
    interval: Duration,
    sampled: u64,
    /// The page faults until the last sample.
    faults: u64,
}

impl PeakMemory {
    pub(super) fn new(started: Instant) -> Self {
        Self { next: started + FIRST, interval: FIRST, sampled: 0, faults: 0 }
    }

    /// When [`PeakMemory::tick`] wants to be called.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// Takes a sample when it is due. Answers whether that was the first sample.
    pub(super) fn tick(&mut self, pid: Pid, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let first = self.interval == FIRST;
        let pid = pid.as_raw_nonzero().get();
        // One that has just ended has no memory any more, but all of its page faults.
        if let (Some(stat), Some(peak)) = (procfs::stat(pid), procfs::peak_rss(pid)) {
            self.faults = stat.faults;
            self.sampled = self.sampled.max(peak);
        }
        self.interval = (self.interval * 2).min(LONGEST);
        self.next = now + self.interval;
        first
    }

    /// The peak in bytes: the kernel's count if it is above the floor; else what was seen when the process was about to die
    /// of a signal (`at_crash`, 0: nothing); else the last sample, which is the highest.
    ///
    /// When more than half of its page faults came after that, or the sample shows a program that had hardly begun, it is
    /// from before the program did what it did, or there is none. Then the memory is added that it can have touched since
    /// with one page for each fault. That is somewhat low when the kernel brought in several pages at once, and high when
    /// the program gave memory back in between.
    pub(super) fn finish(&self, counted: &Counted, floor: u64, at_crash: u64) -> u64 {
        if counted.max_rss > floor {
            return counted.max_rss;
        }
        if at_crash > 0 {
            return at_crash;
        }
        let since = counted.faults.saturating_sub(self.faults);
        if since > self.faults || self.sampled < BEGUN {
            return self.sampled.saturating_add(since.saturating_mul(sys::page_size())).min(counted.max_rss);
        }
        self.sampled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_holds_only_above_the_floor() {
        let counted = |max_rss, faults| Counted { max_rss, faults, ..Counted::default() };
        let page = sys::page_size();
        let mut peak = PeakMemory::new(Instant::now());
        assert_eq!(peak.finish(&counted(9_000_000, 5), 8_000_000, 7_000_000), 9_000_000);
        assert_eq!(peak.finish(&counted(8_000_000, 5), 8_000_000, 7_000_000), 7_000_000);
        assert_eq!(peak.finish(&counted(8_000_000, 5), 8_000_000, 0), 5 * page);
        assert_eq!(peak.finish(&counted(8_000_000, 1 << 40), 8_000_000, 0), 8_000_000);
        (peak.sampled, peak.faults) = (16_384, 60);
        assert_eq!(peak.finish(&counted(8_000_000, 110), 8_000_000, 0), 16_384 + 50 * page);
        (peak.sampled, peak.faults) = (3_000_000, 700);
        assert_eq!(peak.finish(&counted(8_000_000, 700), 8_000_000, 0), 3_000_000);
        assert_eq!(peak.finish(&counted(8_000_000, 1400), 8_000_000, 0), 3_000_000);
        assert_eq!(peak.finish(&counted(8_000_000, 1401), 8_000_000, 0), 3_000_000 + 701 * page);
        assert_eq!(peak.finish(&counted(8_000_000, 1401), 8_000_000, 3_500_000), 3_500_000);
    }
}
