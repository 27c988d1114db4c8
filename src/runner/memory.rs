//! Computes the peak resident memory of an attempt from what the kernel counted and what was sampled.
//!
//! `ru_maxrss` of a child is trustworthy only above a floor: with a vfork-like spawn, the kernel starts the child's
//! high-water mark at that of its parent (the child runs in the parent's memory until it executes its program). So at
//! or below the supervisor's own high-water mark it says nothing, and samples of `VmHWM`, which belongs to the program
//! alone, take its place.

use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::sys::Counted;
use super::{procfs, sys};

/// The first sample comes late enough that short attempts cost nothing, and then twice as late each time.
const FIRST: Duration = Duration::from_millis(8);
const LONGEST: Duration = Duration::from_secs(1);

/// Samples the peak of a process while it runs.
#[derive(Debug)]
pub(super) struct PeakMemory {
    next: Instant,
    interval: Duration,
    sampled: u64,
}

impl PeakMemory {
    pub(super) fn new(started: Instant) -> Self {
        Self { next: started + FIRST, interval: FIRST, sampled: 0 }
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
        self.sampled = self.sampled.max(procfs::peak_rss(pid).unwrap_or(0));
        self.interval = (self.interval * 2).min(LONGEST);
        self.next = now + self.interval;
        first
    }

    /// The peak in bytes: the kernel's count if it is above the floor; else the highest sample. An
    /// attempt too short for any sample gets an estimate: the memory that it can have touched with one
    /// page for each page fault. That is somewhat low when the kernel brought in several pages at once.
    pub(super) fn finish(&self, counted: &Counted, floor: u64) -> u64 {
        if counted.max_rss > floor {
            return counted.max_rss;
        }
        if self.sampled > 0 {
            return self.sampled;
        }
        (counted.faults * sys::page_size()).min(counted.max_rss)
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
        assert_eq!(peak.finish(&counted(9_000_000, 5), 8_000_000), 9_000_000);
        assert_eq!(peak.finish(&counted(8_000_000, 5), 8_000_000), 5 * page);
        assert_eq!(peak.finish(&counted(8_000_000, 1 << 40), 8_000_000), 8_000_000);
        peak.sampled = 3_000_000;
        assert_eq!(peak.finish(&counted(8_000_000, 5), 8_000_000), 3_000_000);
    }
}
