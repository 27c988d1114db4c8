//! The CPUs that jobs may use, and on which nodes of memory they are.

use std::collections::BTreeSet;
use std::path::Path;

/// The CPUs that jobs may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuSet(Vec<u32>);

/// Why a list of CPUs can't be used. The message names the CPUs that may be used.
#[derive(Debug, thiserror::Error)]
pub enum CpuSetError {
    /// The text is no list of CPUs.
    #[error("{0:?} is not a list of CPUs such as 0-3,6")]
    Malformed(String),
    /// The list names CPUs that this process may not use.
    #[error("none of the CPUs {asked} may be used by this process; it may use {allowed}")]
    NoneAllowed {
        /// The list that was asked for.
        asked: String,
        /// The CPUs that there are.
        allowed: String,
    },
    /// The kernel did not tell which CPUs there are.
    #[error("couldn't read the CPU affinity of this process")]
    Unknown(#[source] std::io::Error),
}

impl CpuSet {
    /// The CPUs that this process may use: its affinity, narrowed to `list` (`0-3,6`) and then to the first `limit` of
    /// them. Without a limit no more than the CPU quota of its cgroup are taken. Never empty.
    ///
    /// # Errors
    /// When the list is malformed or names no CPU that may be used.
    pub fn detect(limit: Option<u32>, list: Option<&str>) -> Result<Self, CpuSetError> {
        // The affinity of the main thread is that of the process, whatever this thread was pinned to.
        let affinity = rustix::thread::sched_getaffinity(Some(rustix::process::getpid()))
            .map_err(|e| CpuSetError::Unknown(e.into()))?;
        let allowed: Vec<u32> =
            (0..).take(rustix::thread::CpuSet::MAX_CPU).filter(|n| affinity.is_set(*n as usize)).collect();
        let quota = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        Self::narrow(allowed, limit, list, quota)
    }

    fn narrow(allowed: Vec<u32>, limit: Option<u32>, list: Option<&str>, quota: usize) -> Result<Self, CpuSetError> {
        let mut cpus = match list {
            None => allowed,
            Some(text) => {
                let asked = parse_list(text).ok_or_else(|| CpuSetError::Malformed(text.to_owned()))?;
                let both: Vec<u32> = allowed.iter().copied().filter(|n| asked.contains(n)).collect();
                if both.is_empty() {
                    return Err(CpuSetError::NoneAllowed { asked: text.to_owned(), allowed: join(&allowed) });
                }
                both
            }
        };
        let keep = limit.map_or(quota, |n| n as usize).max(1);
        cpus.truncate(keep);
        Ok(Self(cpus))
    }

    /// The CPU numbers, ascending.
    pub fn into_vec(self) -> Vec<u32> {
        self.0
    }
}

fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    const HIGHEST: u32 = 65_535;
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// CPU numbers as `JOBBER_CPUS` has them: `0,1`.
pub(super) fn join(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The CPUs of each node of memory (NUMA), as the kernel lists them; none where it does not tell.
pub fn nodes() -> Vec<Vec<u32>> {
    nodes_in(Path::new("/sys/devices/system/node"))
}

fn nodes_in(dir: &Path) -> Vec<Vec<u32>> {
    let Ok(entries) = fs_err::read_dir(dir) else { return Vec::new() };
    let number = |name: &str| name.strip_prefix("node")?.parse::<u32>().ok();
    let mut nodes: Vec<(u32, Vec<u32>)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let node = number(entry.file_name().to_str()?)?;
            let list = fs_err::read_to_string(entry.path().join("cpulist")).ok()?;
            Some((node, parse_list(list.trim())?.into_iter().collect()))
        })
        .collect();
    nodes.sort_unstable();
    nodes.into_iter().map(|(_, cpus)| cpus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_those_that_the_kernel_lists() {
        let dir = tempfile::tempdir().unwrap();
        for (name, list) in [("node1", "4-5,7\n"), ("node0", "0-3\n"), ("node2", "\n"), ("online", "0-1\n")] {
            fs_err::create_dir(dir.path().join(name)).unwrap();
            fs_err::write(dir.path().join(name).join("cpulist"), list).unwrap();
        }
        // A node without CPUs has memory alone.
        assert_eq!(nodes_in(dir.path()), [vec![0, 1, 2, 3], vec![4, 5, 7]]);
        assert!(nodes_in(Path::new("/no/such/dir")).is_empty());
    }

    #[test]
    fn a_list_narrows_the_affinity() {
        let set = |limit, list| CpuSet::narrow(vec![0, 1, 2, 3, 8], limit, list, 4).map(CpuSet::into_vec);
        assert_eq!(set(None, None).unwrap(), [0, 1, 2, 3]);
        assert_eq!(set(Some(9), None).unwrap(), [0, 1, 2, 3, 8]);
        assert_eq!(set(Some(0), None).unwrap(), [0]);
        assert_eq!(set(None, Some("2-3, 8,99")).unwrap(), [2, 3, 8]);
        assert!(matches!(set(None, Some("7")), Err(CpuSetError::NoneAllowed { .. })));
        for bad in ["", "x", "3-1", "1,,2", "-1", "0-99999999"] {
            assert!(matches!(set(None, Some(bad)), Err(CpuSetError::Malformed(_))), "{bad:?}");
        }
        assert!(!CpuSet::detect(None, None).unwrap().into_vec().is_empty());
    }
}
