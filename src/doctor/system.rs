//! Judges the memory, the kernel and the clock of this host.

use std::time::Duration;

use tokio::time::Instant;

use super::{Finding, size};
use crate::config::Config;
use crate::domain::{Clock, Timestamp};
use crate::runner::{self, memory_cgroup};

/// Compares the memory of this host with what jobs may take together.
pub(super) fn memory(config: &Config, slots: usize) -> Finding {
    let info = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let strict = fs_err::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|text| text.trim() == "2");
    let of = |name: &str| kib(&info, name).unwrap_or(0);
    judge_memory(of("MemTotal:"), of("MemAvailable:"), config.defaults.memory_bytes, slots as u64, strict)
}

fn kib(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn judge_memory(total: u64, available: u64, each: Option<u64>, slots: u64, strict: bool) -> Finding {
    const CHECK: &str = "memory";
    let found = format!("{} of {} available", size(available), size(total));
    let together = each.map(|each| each.saturating_mul(slots));
    if let Some(together) = together.filter(|together| *together > total) {
        return Finding::warning(
            CHECK,
            format!("{found}; {slots} jobs at their limit take {}", size(together)),
            "lower defaults.memory, or let fewer run: worker.cores, worker.cores_per_process",
        );
    }
    if strict {
        return Finding::warning(
            CHECK,
            format!("{found}, with strict overcommit"),
            "jobs that reserve more than they use will fail: sysctl vm.overcommit_memory=0",
        );
    }
    if available < total / 20 {
        return Finding::warning(CHECK, found, "see what holds it: ps aux --sort=-rss | head");
    }
    Finding::ok(CHECK, found)
}

/// Tells by what means the worker holds jobs to their memory limits.
pub(super) fn memory_limits(config: &Config) -> Finding {
    const CHECK: &str = "memory limits";
    let limited = config.defaults.memory_bytes.is_some() || config.jobs.values().any(|j| j.memory_bytes.is_some());
    match memory_cgroup() {
        Ok(path) => Finding::ok(CHECK, format!("by cgroup, below {}", path.display())),
        Err(why) => {
            let found = format!("by rlimit and a watchdog; no cgroup as this user, from here: {why}");
            if limited {
                Finding::warning(
                    CHECK,
                    found,
                    "run the worker as a systemd unit with Delegate=yes: see deploy/jobber-work.service",
                )
            } else {
                Finding::ok(CHECK, found)
            }
        }
    }
}

/// Whether the kernel has the system calls that supervision needs.
pub(super) fn kernel() -> Finding {
    const CHECK: &str = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let me = rustix::process::getpid();
    if let Err(error) = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()) {
        return Finding::failed(
            CHECK,
            format!("{release} does not give out pidfds ({error})"),
            "use Linux 5.3 or newer, and a container runtime whose seccomp profile knows pidfd_open",
        );
    }
    let version = version(&release);
    let lacks = [((5, 11), "close_range with CLOEXEC"), ((5, 14), "cgroup.kill")];
    let lacks: Vec<_> = lacks.iter().filter(|(since, _)| version < *since).map(|(_, what)| *what).collect();
    if lacks.is_empty() {
        Finding::ok(CHECK, format!("Linux {release}"))
    } else {
        Finding::warning(CHECK, format!("Linux {release} lacks {}", lacks.join(" and ")), "use Linux 5.14 or newer")
    }
}

/// Whether crashes of jobs can be reported.
pub(super) fn crash_reports() -> Finding {
    const CHECK: &str = "crash reports";
    const CURE: &str = "allow ptrace: see docs/operations/crash-reports.md; or set crash_report = false in [defaults]";
    // A thread of its own: what spawns gives up some of its rights.
    let probe = std::thread::spawn(|| {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        runner::probe_tracing(&program)
    });
    match probe.join() {
        Ok(Ok(())) => Finding::ok(CHECK, "jobs can be traced"),
        Ok(Err(why)) => Finding::warning(CHECK, format!("jobs can't be traced: {why}"), CURE),
        Err(_) => Finding::warning(CHECK, "the check has panicked; please report this", CURE),
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the clock is set, and runs as fast as time does.
pub(super) fn clock(clock: &Clock) -> Finding {
    const LOOK: Duration = Duration::from_millis(50);
    let (wall, steady) = (clock.now(), Instant::now());
    std::thread::sleep(LOOK);
    judge_clock(wall, clock.now(), steady.elapsed())
}

fn judge_clock(before: Timestamp, after: Timestamp, steady: Duration) -> Finding {
    const CHECK: &str = "clock";
    /// The start of 2026, in milliseconds since 1970: no clock that is set shows less.
    const PAST: i64 = 1_767_225_600_000;
    const FAR: i64 = 4_102_444_800_000;
    const DRIFT: i64 = 25;
    const FIX: &str = "set it, and keep it set: timedatectl set-ntp true";
    if !(PAST..FAR).contains(&after.as_millis()) {
        return Finding::failed(CHECK, format!("it shows {after}"), FIX);
    }
    let passed = after.as_millis() - before.as_millis();
    let off = passed - i64::try_from(steady.as_millis()).unwrap_or(i64::MAX);
    if off.abs() > DRIFT {
        return Finding::warning(CHECK, format!("it jumped by {off} ms within {passed} ms"), FIX);
    }
    Finding::ok(CHECK, after.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    #[test]
    fn memory_is_judged_by_what_jobs_may_take() {
        const GIB: u64 = 1 << 30;
        assert_eq!(judge_memory(16 * GIB, 8 * GIB, Some(GIB), 4, false).status, Health::Ok);
        assert!(
            judge_memory(16 * GIB, 8 * GIB, Some(5 * GIB), 4, false)
                .found
                .ends_with("4 jobs at their limit take 20 GiB")
        );
        assert_eq!(judge_memory(16 * GIB, 8 * GIB, None, 4, true).status, Health::Warning);
        assert_eq!(judge_memory(16 * GIB, GIB / 2, None, 4, false).status, Health::Warning);
        assert_eq!(kib("MemTotal:  10 kB\nMemFree: 2 kB\n", "MemFree:"), Some(2048));
    }

    #[test]
    fn a_clock_that_is_not_set_or_jumps_is_noticed() {
        let now = Timestamp::from_millis(1_795_507_200_000);
        let step = Duration::from_millis(50);
        assert_eq!(judge_clock(now, now + step, step).status, Health::Ok);
        assert_eq!(judge_clock(now, now + step * 3, step).status, Health::Warning);
        assert_eq!(judge_clock(now + step, now, step).status, Health::Warning);
        assert_eq!(judge_clock(Timestamp::from_millis(0), Timestamp::from_millis(50), step).status, Health::Failed);
    }

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.4.0-150-generic"), (5, 4));
        assert_eq!(version("odd"), (0, 0));
    }
}
