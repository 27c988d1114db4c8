//! Decides the [`Outcome`] from how the process ended and what Jobber did to it. Pure.

use crate::domain::{Outcome, Tail};

use super::order::StopReason;

/// How the kernel says that the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// The signal of this number ended it.
    Signaled(i32),
}

/// Why Jobber stopped the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It ran past its time limit.
    Timeout,
    /// Its memory was sampled above the limit.
    Memory,
    /// The worker asked the attempt to stop, for this reason.
    Asked(StopReason),
}

/// The evidence of a lack of memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MemoryEvidence {
    /// The attempt's own cgroup counted a kill.
    pub(super) cgroup_killed: bool,
    /// The kernel killed a process of this host for want of memory while the attempt ran.
    pub(super) kernel_killed: bool,
    /// Whether the measured memory says that the attempt reached its resource limit, if one was
    /// in force. See [`limit_reached`].
    pub(super) limit_reached: bool,
}

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;

/// Decides the outcome. A stop by Jobber counts first, even when the process then ended well by
/// itself; then evidence of a lack of memory; then the ending as it was. `telling` are exit codes
/// to which the job gives a meaning: what Jobber only infers does not override them.
pub(super) fn outcome(ending: Ending, stopped: Option<Stopped>, memory: MemoryEvidence, telling: &[u8]) -> Outcome {
    match stopped {
        Some(Stopped::Timeout) => return Outcome::Timeout,
        Some(Stopped::Memory) => return Outcome::Oom,
        Some(Stopped::Asked(StopReason::Cancelled)) => return Outcome::Cancelled,
        Some(Stopped::Asked(StopReason::Lost | StopReason::Lapsed)) => return Outcome::Lost,
        None => {}
    }
    let oom = match ending {
        Ending::Exited(0) => false,
        Ending::Exited(code) if telling.iter().any(|one| i32::from(*one) == code) => memory.cgroup_killed,
        Ending::Exited(_) | Ending::Signaled(SIGABRT | SIGSEGV) => memory.cgroup_killed || memory.limit_reached,
        Ending::Signaled(SIGKILL) => memory.cgroup_killed || memory.kernel_killed,
        Ending::Signaled(_) => memory.cgroup_killed,
    };
    match ending {
        _ if oom => Outcome::Oom,
        Ending::Exited(code) => Outcome::Exit { code },
        Ending::Signaled(signal) => Outcome::Signal { signal },
    }
}

/// Whether an attempt under a resource limit of `limit` bytes seems to have reached it: it was within a tenth of it, or
/// within a quarter and says so at the end of its standard error. Words alone tell nothing: other memory can run out,
/// such as that of a graphics card, and a program can say anything.
pub(super) fn limit_reached(limit: u64, peak_rss: u64, stderr: &Tail) -> bool {
    /// A program's last words are short; what it wrote long before does not tell why it ended.
    const LAST_WORDS: usize = 4096;
    if peak_rss >= limit / 10 * 9 {
        return true;
    }
    if peak_rss < limit / 4 * 3 {
        return false;
    }
    let start = stderr.text.ceil_char_boundary(stderr.text.len().saturating_sub(LAST_WORDS));
    let words = stderr.text[start..].to_ascii_lowercase();
    ["bad_alloc", "cannot allocate memory", "out of memory", "memoryerror"].iter().any(|w| words.contains(w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ending::*;

    const NONE: MemoryEvidence = MemoryEvidence { cgroup_killed: false, kernel_killed: false, limit_reached: false };
    const CGROUP: MemoryEvidence = MemoryEvidence { cgroup_killed: true, ..NONE };
    const KERNEL: MemoryEvidence = MemoryEvidence { kernel_killed: true, ..NONE };
    const LIMIT: MemoryEvidence = MemoryEvidence { limit_reached: true, ..NONE };

    #[test]
    fn what_jobber_did_decides() {
        for ending in [Exited(0), Exited(1), Signaled(15), Signaled(9)] {
            for memory in [NONE, CGROUP, KERNEL, LIMIT] {
                let of = |stopped| outcome(ending, Some(stopped), memory, &[1]);
                assert_eq!(of(Stopped::Timeout), Outcome::Timeout);
                assert_eq!(of(Stopped::Memory), Outcome::Oom);
                assert_eq!(of(Stopped::Asked(StopReason::Cancelled)), Outcome::Cancelled);
                assert_eq!(of(Stopped::Asked(StopReason::Lost)), Outcome::Lost);
                assert_eq!(of(Stopped::Asked(StopReason::Lapsed)), Outcome::Lost);
            }
        }
    }

    #[test]
    fn a_lack_of_memory_needs_evidence() {
        let exit = |code| Outcome::Exit { code };
        let signal = |signal| Outcome::Signal { signal };
        for (ending, memory, expected) in [
            (Exited(0), NONE, exit(0)),
            (Exited(0), LIMIT, exit(0)),
            (Exited(0), CGROUP, exit(0)),
            (Exited(3), NONE, exit(3)),
            (Exited(137), KERNEL, exit(137)),
            (Exited(1), LIMIT, Outcome::Oom),
            (Exited(137), CGROUP, Outcome::Oom),
            (Exited(65), LIMIT, exit(65)),
            (Exited(65), CGROUP, Outcome::Oom),
            (Signaled(6), LIMIT, Outcome::Oom),
            (Signaled(11), LIMIT, Outcome::Oom),
            (Signaled(11), NONE, signal(11)),
            (Signaled(15), LIMIT, signal(15)),
            (Signaled(9), NONE, signal(9)),
            (Signaled(9), LIMIT, signal(9)),
            (Signaled(9), KERNEL, Outcome::Oom),
            (Signaled(9), CGROUP, Outcome::Oom),
        ] {
            assert_eq!(outcome(ending, None, memory, &[65]), expected, "{ending:?} {memory:?}");
        }
    }

    #[test]
    fn a_peak_near_the_limit_tells_and_words_only_with_one() {
        let tail = |text: &str| Tail { text: text.to_owned(), ..Tail::default() };
        for words in ["what():  std::bad_alloc\n", "sh: Cannot allocate memory", "OUT OF MEMORY"] {
            assert!(limit_reached(1000, 750, &tail(words)), "{words}");
            for peak in [0, 270, 749] {
                assert!(!limit_reached(1000, peak, &tail(words)), "{words} at {peak}");
            }
        }
        assert!(!limit_reached(1000, 899, &tail("segfault")));
        assert!(limit_reached(1000, 900, &tail("")));
        let early = format!("out of memory{}", "é".repeat(4000));
        assert!(!limit_reached(1000, 800, &tail(&early)), "that was long before the end");
    }
}
