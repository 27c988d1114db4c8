//! Shows which threads ask for memory, and how often.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::cpu::{ENDED, thread_name};
use crate::allocations::{Requests, by_thread};

/// Requests for memory by thread name.
#[derive(Debug, Default)]
pub(super) struct Allocations(BTreeMap<String, Requests>);

/// The requests so far.
pub(super) fn now() -> Allocations {
    let mut named: BTreeMap<String, Requests> = BTreeMap::new();
    for (thread, requests) in by_thread() {
        let task = format!("/proc/self/task/{thread}/comm");
        let name = fs_err::read_to_string(task).map_or_else(|_| ENDED.to_owned(), |name| thread_name(&name).to_owned());
        let sum = named.entry(name).or_default();
        sum.count += requests.count;
        sum.bytes += requests.bytes;
    }
    Allocations(named)
}

impl Allocations {
    /// The requests since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or_default();
        let since = |(name, now): (&String, &Requests)| {
            let before = before(name);
            let requests = Requests {
                count: now.count.saturating_sub(before.count),
                bytes: now.bytes.saturating_sub(before.bytes),
            };
            (name.clone(), requests)
        };
        Self(self.0.iter().map(since).collect())
    }

    /// Adds the requests of `other` to these.
    pub(super) fn add(&mut self, other: &Self) {
        for (name, requests) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            sum.count += requests.count;
            sum.bytes += requests.bytes;
        }
    }

    /// All of them.
    pub(super) fn total(&self) -> Requests {
        self.0.values().fold(Requests::default(), |sum, requests| Requests {
            count: sum.count + requests.count,
            bytes: sum.bytes + requests.bytes,
        })
    }

    /// The requests of each of `jobs` jobs, as `310 (48 KiB): 160 jobber-rt, ...`.
    pub(super) fn per_job(&self, jobs: usize) -> String {
        let jobs = jobs.max(1) as f64;
        let total = self.total();
        let mut parts: Vec<_> =
            self.0.iter().map(|(name, requests)| (requests.count as f64 / jobs, name)).filter(|p| p.0 >= 1.0).collect();
        parts.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut line = format!("{:.0} ({:.0} KiB)", total.count as f64 / jobs, total.bytes as f64 / jobs / 1024.0);
        let mut separator = ": ";
        for (count, name) in parts {
            let _ = write!(line, "{separator}{count:.0} {name}");
            separator = ", ";
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_by_thread() {
        let of = |name: &str, count, bytes| (name.to_owned(), Requests { count, bytes });
        let before = Allocations([of("a", 10, 1000)].into());
        let after = Allocations([of("a", 40, 5096), of("b", 5, 0)].into());
        let mut since = after.since(&before);
        assert_eq!(since.per_job(5), "7 (1 KiB): 6 a, 1 b");
        since.add(&before);
        assert_eq!(since.total(), Requests { count: 45, bytes: 5096 });
    }
}
