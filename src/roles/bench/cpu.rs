//! Shows where the CPU time of a benchmark goes: to this process, by thread name, and to its children.
//!
//! Wall time shows how fast the pipeline is. It does not show what to make faster, and on a busy
//! machine it says little at all. CPU time hardly depends on what else runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// CPU time by thread name, or by one of the names below.
#[derive(Debug, Default)]
pub(super) struct CpuTimes(BTreeMap<String, Duration>);

/// The name for the children that this process has waited for.
const CHILDREN: &str = "jobs";
/// The unit of times in `/proc/self/stat`. Linux shows programs 100 ticks a second, whatever the kernel uses itself.
const TICK: Duration = Duration::from_millis(10);
/// The name for threads that have ended.
pub(super) const ENDED: &str = "ended threads";

impl CpuTimes {
    /// The CPU time used so far. Empty where `/proc` does not tell.
    pub(super) fn now() -> Self {
        let mut times: BTreeMap<String, Duration> = BTreeMap::new();
        let mut alive = Duration::ZERO;
        for task in fs_err::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            // A thread that ends between the listing and the read counts as one that has ended.
            let read = |file: &str| fs_err::read_to_string(task.path().join(file)).ok();
            let (Some(name), Some(used)) = (read("comm"), read("schedstat")) else { continue };
            let Some(used) = used.split_ascii_whitespace().next().and_then(|n| n.parse().ok()) else { continue };
            let used = Duration::from_nanos(used);
            alive += used;
            *times.entry(thread_name(&name).to_owned()).or_default() += used;
        }
        let stat = fs_err::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some((own, children)) = process_times(&stat) {
            times.insert(CHILDREN.to_owned(), children);
            times.insert(ENDED.to_owned(), own.saturating_sub(alive));
        }
        Self(times)
    }

    /// The CPU time used since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or_default();
        Self(self.0.iter().map(|(name, used)| (name.clone(), used.saturating_sub(before(name)))).collect())
    }

    /// Adds the times of `other` to these.
    pub(super) fn add(&mut self, other: &Self) {
        for (name, used) in &other.0 {
            *self.0.entry(name.clone()).or_default() += *used;
        }
    }

    /// The CPU time of all, in microseconds for each of `jobs` jobs.
    pub(super) fn all_us(&self, jobs: usize) -> f64 {
        self.0.values().map(Duration::as_secs_f64).sum::<f64>() * 1e6 / jobs.max(1) as f64
    }

    /// The CPU time of each of `jobs` jobs, as `520 us: 300 jobs, 120 sqlite-writer, ...`. Leaves
    /// out entries below one microsecond.
    pub(super) fn per_job(&self, jobs: usize) -> String {
        let jobs = jobs.max(1) as f64;
        let each = |used: Duration| used.as_secs_f64() * 1e6 / jobs;
        let mut parts: Vec<_> = self.0.iter().map(|(name, used)| (each(*used), name)).collect();
        parts.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut line = format!("{:.0} us", parts.iter().map(|p| p.0).sum::<f64>());
        let mut separator = ": ";
        for (used, name) in parts.iter().filter(|p| p.0 >= 1.0) {
            let _ = write!(line, "{separator}{used:.0} {name}");
            separator = ", ";
        }
        line
    }
}

/// The name of a thread without its number.
pub(super) fn thread_name(comm: &str) -> &str {
    comm.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-')
}

/// CPU time of the process itself and of its children, from `/proc/self/stat` (fields 14 to 17 of proc(5)).
fn process_times(stat: &str) -> Option<(Duration, Duration)> {
    // The second field is the name in brackets, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let time = |a: usize, b: usize| Some(TICK * u32::try_from(ticks(a)? + ticks(b)?).ok()?);
    Some((time(11, 12)?, time(13, 14)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_put_down_to_its_thread() {
        let before = CpuTimes::now();
        let spin = || {
            let began = CpuTimes::now();
            while CpuTimes::now().since(&began).0.get("spinner").is_none_or(|used| used.as_millis() < 20) {}
        };
        let after = std::thread::Builder::new()
            .name("spinner-7".to_owned())
            .spawn(move || {
                spin();
                CpuTimes::now()
            })
            .unwrap()
            .join()
            .unwrap();
        let line = after.since(&before).per_job(1);
        assert!(line.contains(" spinner"), "{line}");
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 100 200 300 400 20 0";
        assert_eq!(process_times(stat), Some((TICK * 300, TICK * 700)));
        assert_eq!(process_times("7 (a) R"), None);
    }
}
