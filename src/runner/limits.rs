//! Enforces a memory limit and finds the evidence of its breach.
//!
//! Where the worker's cgroup (version 2) may be divided, each attempt runs in a leaf of its own,
//! and the kernel does the rest. Elsewhere two nets work together: a resource limit on private
//! memory (`RLIMIT_DATA`) stops a job that allocates fast; a watchdog that adds up the resident
//! memory of the attempt's processes stops one that allocates slowly or in many processes.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Pid;

use super::cgroup::{Leaf, Root};
use super::exit::{self, Ending, MemoryEvidence};
use super::orphans::Tracked;
use super::procfs;
use super::table::SharedPidTable;
use crate::descriptors;
use crate::domain::Tail;

/// How attempts are limited on this host.
#[derive(Debug)]
pub(super) struct Limits {
    cgroup: Option<Root>,
    /// Whether children would inherit a protection from the kernel's out-of-memory killer.
    protected: bool,
    /// The kernel's count of kills when it was last read.
    kernel_kills: AtomicU64,
}

/// The limits of one attempt, and the means that keep them.
#[derive(Debug)]
pub(super) struct Restraint {
    limit: Option<u64>,
    leaf: Option<Leaf>,
    /// Resource limits that the process sets itself.
    resources: Vec<(u32, [u64; 2])>,
    kernel_kills: u64,
}

impl Limits {
    /// Finds out once what this host offers, and notes the cgroup in the guard's table.
    pub(super) fn detect(table: Option<&SharedPidTable>) -> Self {
        let own = procfs::read("/proc/self/oom_score_adj", 16).unwrap_or_default();
        let kernel_kills = AtomicU64::new(procfs::kernel_oom_kills().unwrap_or(0));
        let cgroup = Root::detect();
        if let (Some(root), Some(table)) = (&cgroup, table) {
            table.note_cgroup(root.path());
        }
        Self { cgroup, protected: own.starts_with(b"-"), kernel_kills }
    }

    /// Prepares the limits of a process that is not spawned yet. No other attempt on this host has
    /// `name`; the process and all its descendants get `number` (see [`super::orphans`]).
    pub(super) fn prepare(&self, name: &str, number: u64, memory: Option<u64>, cores: usize) -> Restraint {
        let kernel_kills = self.kernel_kills.load(Ordering::Relaxed);
        let mut resources = vec![(libc::RLIMIT_LOCKS, [number; 2])];
        resources.extend(descriptors::given().map(|both| (libc::RLIMIT_NOFILE, both)));
        let mut restraint = Restraint { limit: memory, leaf: None, resources, kernel_kills };
        match self.cgroup.as_ref().map(|root| root.leaf(name, memory)) {
            Some(Ok(leaf)) => restraint.leaf = Some(leaf),
            Some(Err(error)) => restraint.do_without_cgroup(&error, cores),
            None => restraint.limit_resources(cores),
        }
        restraint
    }

    /// Takes from a process that has just been spawned the protection from the out-of-memory
    /// killer, which it should not inherit.
    pub(super) fn expose(&self, pid: Pid) {
        if self.protected {
            let _ = fs_err::write(format!("/proc/{pid}/oom_score_adj"), "0");
        }
    }

    /// Collects the evidence of a lack of memory, after the process has ended as `ending` says and
    /// not because Jobber stopped it.
    pub(super) fn evidence(
        &self,
        restraint: &Restraint,
        ending: Ending,
        peak_rss: u64,
        stderr: &Tail,
    ) -> MemoryEvidence {
        // Most attempts end well, and then there is nothing to read.
        if ending == Ending::Exited(0) {
            return MemoryEvidence::default();
        }
        let kernel_killed = ending == Ending::Signaled(libc::SIGKILL) && {
            let now = procfs::kernel_oom_kills().unwrap_or(0);
            self.kernel_kills.fetch_max(now, Ordering::Relaxed);
            now > restraint.kernel_kills
        };
        MemoryEvidence {
            cgroup_killed: restraint.leaf.as_ref().is_some_and(Leaf::has_killed),
            kernel_killed,
            limit_reached: match (restraint.limit, &restraint.leaf) {
                (Some(limit), None) => exit::limit_reached(limit, peak_rss, stderr),
                _ => false,
            },
        }
    }

    /// Reads the kernel's count of kills. Called while an attempt runs, so that kills before do
    /// not count for it.
    pub(super) fn refresh(&self, restraint: &mut Restraint) {
        if let Some(now) = procfs::kernel_oom_kills() {
            self.kernel_kills.fetch_max(now, Ordering::Relaxed);
            restraint.kernel_kills = now;
        }
    }
}

impl Restraint {
    /// The cgroup that the process is to be born in.
    pub(super) fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        self.leaf.as_ref().map(Leaf::directory)
    }

    /// Resource limits that the child sets before its program begins: the resource, then its soft
    /// and its hard limit.
    pub(super) fn resources(&self) -> &[(u32, [u64; 2])] {
        &self.resources
    }

    /// Holds the process by resource limits, as its cgroup can't be used.
    pub(super) fn do_without_cgroup(&mut self, error: &std::io::Error, cores: usize) {
        tracing::warn!(%error, "couldn't give a job a cgroup; using a resource limit for its memory");
        self.leaf = None;
        self.limit_resources(cores);
    }

    fn limit_resources(&mut self, cores: usize) {
        if let Some(limit) = self.limit {
            let data = limit.saturating_add(headroom(cores));
            self.resources.extend([(libc::RLIMIT_DATA, [data; 2]), (libc::RLIMIT_CORE, [0; 2])]);
        }
    }

    /// The limit in bytes that the watchdog has to keep; `None` without a limit, or when a cgroup keeps it.
    pub(super) fn watched(&self) -> Option<u64> {
        self.limit.filter(|_| self.leaf.is_none())
    }

    /// The most memory that a limited attempt had at once, in bytes, where its cgroup counts it.
    /// Pages of files are among it, as they are in what the kernel compares with the limit. Without
    /// a limit the answer is `None`, since such pages say nothing of what the job needs.
    pub(super) fn peak(&self) -> Option<u64> {
        self.limit?;
        self.leaf.as_ref()?.peak()
    }

    /// Kills all processes of the attempt's cgroup, if it has one.
    pub(super) fn kill_all(&self) {
        if let Some(leaf) = &self.leaf {
            leaf.kill();
        }
    }
}

/// How many bytes `RLIMIT_DATA` allows beyond the limit: the kernel counts mapped memory, not used
/// memory, and every thread maps a stack of 8 MiB but uses little of it.
fn headroom(cores: usize) -> u64 {
    const MIB: u64 = 1024 * 1024;
    64 * MIB + 8 * MIB * cores as u64
}

/// Whether the attempt of `leader` uses more than `limit` bytes. Adds up resident memory first.
/// Only when that is too much, divides the pages that several of its processes share among them,
/// which is slow to find out.
pub(super) fn is_above(limit: u64, leader: Pid, tracked: &Tracked) -> bool {
    let members = members(leader, tracked);
    let rss: u64 = members.iter().filter_map(|id| procfs::stat(*id)).map(|stat| stat.rss).sum();
    rss > limit
        && (members.len() == 1
            || members.iter().map(|id| procfs::proportional_memory(*id).unwrap_or(0)).sum::<u64>() > limit)
}

/// The leader, the attempt's orphans, and the descendants of them all.
fn members(leader: Pid, tracked: &Tracked) -> Vec<i32> {
    /// Enough to see that it is too much.
    const MOST: usize = 4096;
    let leader = leader.as_raw_nonzero().get();
    let mut members = vec![leader];
    members.extend(tracked.orphans());
    let mut next = 0;
    while next < members.len() && members.len() < MOST {
        members.extend(procfs::children(members[next]));
        next += 1;
    }
    members
}
