//! Processes that outlive their attempt in, nothing left of them out.
//!
//! A process that left its group (`setsid`) is not hit by signals to the group. So that it can be found, this process is
//! a "child subreaper": whoever loses its parent below it becomes a child of its main thread, and is recognised by the
//! variables of its attempt in its environment, or by a working directory in the attempt's scratch directory. What
//! wipes out both and leaves its group, too, is not recognised; only a cgroup holds that.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{procfs, sys};

/// How long processes that were killed are waited for: one in the middle of slow input or output does not end at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Finds and ends orphans.
#[derive(Debug)]
pub(super) struct Orphans {
    /// The children of the main thread; `None` where the kernel has no such file.
    children: Option<OwnedFd>,
    /// A child that is no orphan, and lives as long as this process.
    guard: Option<i32>,
    own: i32,
    own_group: i32,
    /// Only its holder reaps orphans, so that none of their ids can come to mean another process meanwhile.
    reaping: Mutex<()>,
}

/// How the processes of one attempt are recognised.
pub(super) struct Marks<'a> {
    pub(super) group: Pid,
    /// Variables in their environment: `NAME=value`.
    pub(super) variables: &'a [Vec<u8>],
    pub(super) scratch: &'a Path,
}

impl Orphans {
    /// Makes this process the one to which orphans below it are given. `guard` is a child of its own that is left alone.
    pub(super) fn adopt(guard: Option<Pid>) -> Self {
        let own = rustix::process::getpid();
        if let Err(error) = rustix::process::set_child_subreaper(Some(own)) {
            tracing::warn!(%error, "couldn't become a subreaper; processes that leave their group can outlive their job");
        }
        let own = own.as_raw_nonzero().get();
        let path = format!("/proc/self/task/{own}/children");
        let children = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        let own_group = rustix::process::getpgrp().as_raw_nonzero().get();
        let guard = guard.map(|pid| pid.as_raw_nonzero().get());
        Self { children, guard, own, own_group, reaping: Mutex::new(()) }
    }

    /// The orphans that this process has been given, and other children of its main thread but for its guard.
    pub(super) fn children(&self) -> Vec<i32> {
        let mut buffer = [0u8; 8192];
        let Some(length) = self.children.as_ref().and_then(|file| rustix::io::pread(file, &mut buffer, 0).ok()) else {
            return Vec::new();
        };
        let text = String::from_utf8_lossy(&buffer[..length]);
        // An id at the very end may have been cut.
        let mut ids = text.rsplit_once(' ').map(|(whole, _)| procfs::parse_ids(whole)).unwrap_or_default();
        ids.retain(|id| Some(*id) != self.guard);
        ids
    }

    /// Kills and reaps whatever is left of an attempt whose leader has ended. Waits for their ends, but not for ever.
    pub(super) fn sweep(&self, marks: &Marks<'_>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let children = self.children();
            if children.is_empty() {
                return;
            }
            let killed = self.kill_and_reap(&children, marks);
            if killed.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(group = %marks.group, left = killed.len(), "processes of a job did not end when they were killed");
                return;
            }
            wait_for(&killed, deadline);
        }
    }

    /// One look at all children: reaps the dead, kills what belongs to the attempt. Answers who was killed.
    fn kill_and_reap(&self, children: &[i32], marks: &Marks<'_>) -> Vec<OwnedFd> {
        let _only_here = self.reaping.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let group = marks.group.as_raw_nonzero().get();
        let mut victims = Vec::new();
        for &id in children {
            let Some(stat) = procfs::stat(id).filter(|stat| stat.parent == self.own) else { continue };
            if stat.zombie {
                // One of this process's own group is somebody's child in the usual way, who wants to reap it.
                if stat.group != self.own_group
                    && let Some(pid) = Pid::from_raw(id)
                {
                    let _ = sys::reap(pid, false);
                }
            } else if stat.group == group
                || procfs::environment_holds(id, marks.variables)
                || procfs::working_directory(id).is_some_and(|at| at.starts_with(marks.scratch))
            {
                victims.push(id);
            }
        }
        self.kill_with_descendants(victims)
    }

    fn kill_with_descendants(&self, mut victims: Vec<i32>) -> Vec<OwnedFd> {
        /// More are found by the next look.
        const AT_ONCE: usize = 10_000;
        let mut next = 0;
        while next < victims.len() && victims.len() < AT_ONCE {
            victims.extend(procfs::children(victims[next]));
            next += 1;
        }
        let mut killed = Vec::new();
        for &id in &victims {
            let Some(pid) = Pid::from_raw(id) else { continue };
            let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // Held by the descriptor now: check that the id still means who it meant.
            let still = procfs::stat(id).is_some_and(|s| s.parent == self.own || victims.contains(&s.parent));
            if still && rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
                killed.push(pidfd);
            }
        }
        killed
    }
}

/// Waits until all of these have ended, or `deadline`.
pub(super) fn wait_for(processes: &[OwnedFd], deadline: Instant) {
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a few seconds fit");
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left));
    }
}
