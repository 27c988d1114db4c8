//! Which process a worker is, and whether it still lives: how the others notice a death before its leases expire.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process, told apart from every other that ever had its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its process id.
    pub(super) pid: i32,
    /// When it was started, in clock ticks after boot.
    pub(super) started: u64,
    /// Which boot of which machine.
    pub(super) boot: String,
    /// In which PID namespace its number counts.
    pub(super) namespace: String,
}

impl Process {
    /// This process; `None` where `/proc` is missing or belongs to another PID namespace.
    pub(super) fn this() -> Option<Self> {
        let pid = i32::try_from(std::process::id()).ok()?;
        let seen = fs_err::read_link("/proc/self").ok()?;
        (seen.to_str()? == pid.to_string()).then(|| Self::at(pid))?
    }

    /// The process with this number now, if there is one that can be seen.
    pub(super) fn at(pid: i32) -> Option<Self> {
        let (_, started) = status(pid)?;
        Some(Self {
            pid,
            started,
            boot: boot_id()?,
            namespace: fs_err::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned(),
        })
    }

    /// Whether this process is certainly gone. False when it can't be judged from `here`: another boot, machine or PID
    /// namespace, or a `/proc` that hides other users.
    pub(super) fn is_gone(&self, here: &Process) -> bool {
        if self.boot != here.boot || self.namespace != here.namespace {
            return false;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        // A zombie still has its number, and a number may have been given to another process since.
        status(self.pid).is_some_and(|(state, started)| started != self.started || matches!(state, 'Z' | 'X'))
    }
}

/// Which boot of which machine this is; `None` where that can't be told.
pub(super) fn boot_id() -> Option<String> {
    let id = || fs_err::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned());
    // Something else than Linux may make one up at each look.
    id().filter(|first| !first.is_empty() && id().as_ref() == Some(first))
}

/// State letter and start time from `/proc/<pid>/stat`.
fn status(pid: i32) -> Option<(char, u64)> {
    let line = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in parentheses, and may itself contain spaces and parentheses.
    let (_, rest) = line.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // The third field was taken; the start time is the twenty-second.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_start_of_its_number_does_not() {
        let here = Process::this().unwrap();
        assert!(!here.is_gone(&here));
        let before = Process { started: here.started - 1, ..here.clone() };
        assert!(before.is_gone(&here));
        let elsewhere = Process { boot: "another".to_owned(), ..before };
        assert!(!elsewhere.is_gone(&here));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "needs a process that dies, not a job")]
    fn a_killed_process_is_gone_even_before_it_is_reaped() {
        let here = Process::this().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::at(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.is_gone(&here));
        child.kill().unwrap();
        // Waits for the death without reaping: the zombie stays.
        let pid = Pid::from_child(&child);
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        assert!(process.is_gone(&here));
        child.wait().unwrap();
        assert!(process.is_gone(&here));
    }
}
