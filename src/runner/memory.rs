//! Reads how much memory a worker and its jobs can have, and how much of it is free: of the host, or of a cgroup
//! (version 2) that is given less.

use std::path::{Path, PathBuf};

use super::cgroup;
use super::procfs::kib_after;

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// The most that this process and its children can have together.
    pub total: u64,
    /// How much of that they could take now without swapping: what only holds copies of files counts as free.
    pub available: u64,
}

impl HostMemory {
    /// Reads it from `/proc/meminfo` and the files of the cgroups that this process is in. `None` without `/proc`.
    pub fn read() -> Option<Self> {
        let host = parse_meminfo(&fs_err::read_to_string("/proc/meminfo").ok()?)?;
        Some(own_cgroups().iter().filter_map(|directory| of_cgroup(directory)).fold(host, Self::narrowed_to))
    }

    fn narrowed_to(self, other: Self) -> Self {
        Self { total: self.total.min(other.total), available: self.available.min(other.available) }
    }
}

fn parse_meminfo(text: &str) -> Option<HostMemory> {
    Some(HostMemory { total: kib_after(text, "MemTotal:")?, available: kib_after(text, "MemAvailable:")? })
}

/// The cgroup of this process and those above it, each of which may have a limit.
fn own_cgroups() -> Vec<PathBuf> {
    let own = cgroup::own_cgroup().unwrap_or_default();
    // Above the mount point no directory has the files of a cgroup.
    own.ancestors().filter(|directory| directory.join("memory.max").exists()).map(Path::to_owned).collect()
}

/// The memory of a cgroup; `None` of one without a limit.
fn of_cgroup(directory: &Path) -> Option<HostMemory> {
    let read = |file: &str| fs_err::read_to_string(directory.join(file)).ok();
    let total: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    // The kernel drops these copies of files before it kills a process of the cgroup.
    let files = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok()).unwrap_or(0);
    Some(HostMemory { total, available: total.saturating_sub(used.saturating_sub(files)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_memory() {
        let memory = HostMemory::read().unwrap();
        assert!(memory.total > 16 << 20 && memory.available <= memory.total, "{memory:?}");
    }

    #[test]
    fn meminfo_counts_in_kib() {
        let text = "MemTotal:        2048 kB\nMemFree:          100 kB\nMemAvailable:     512 kB\n";
        assert_eq!(parse_meminfo(text), Some(HostMemory { total: 2 << 20, available: 512 << 10 }));
        assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_cgroup_with_a_limit_narrows_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs_err::write(directory.path().join(file), text).unwrap();
        write("memory.current", "700\n");
        write("memory.max", "max\n");
        assert_eq!(of_cgroup(directory.path()), None);
        write("memory.max", "1000\n");
        write("memory.stat", "anon 400\ninactive_file 200\nactive_file 100\n");
        let cgroup = of_cgroup(directory.path()).unwrap();
        assert_eq!(cgroup, HostMemory { total: 1000, available: 500 });
        let host = HostMemory { total: 4000, available: 300 };
        assert_eq!(host.narrowed_to(cgroup), HostMemory { total: 1000, available: 300 });
    }
}
