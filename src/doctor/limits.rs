//! What the kernel lets one process, or one user, have: open files, processes, inotify.

use rustix::fs::inotify;
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::config::Config;

/// Descriptors that a running job takes in the worker: pipes, pidfd, scratch directory, with some to spare.
const FILES_PER_JOB: u64 = 16;
/// Descriptors of a role besides its jobs: databases, logs, wake files, those of the runtime.
const FILES_OF_A_ROLE: u64 = 128;
/// A thread of the worker and the job's process, with some threads or children of its own.
const PROCESSES_PER_JOB: u64 = 8;
/// Threads of the runtime.
const PROCESSES_OF_A_ROLE: u64 = 64;

/// `RLIMIT_NOFILE` against slots and connections. The hard limit counts: roles raise the soft one at their start.
pub(super) fn open_files(config: &Config, slots: usize) -> Finding {
    let connections = u64::try_from(config.serve.max_connections).unwrap_or(u64::MAX);
    let need = (slots as u64 * FILES_PER_JOB).saturating_add(connections).saturating_add(FILES_OF_A_ROLE);
    judge("open files", getrlimit(Resource::Nofile).maximum, need, "LimitNOFILE= of the unit, or ulimit -Hn")
}

/// Judges `RLIMIT_NPROC` against the processes and threads that so many slots need.
pub(super) fn processes(slots: usize) -> Finding {
    let need = slots as u64 * PROCESSES_PER_JOB + PROCESSES_OF_A_ROLE;
    judge("processes", getrlimit(Resource::Nproc).current, need, "LimitNPROC= and TasksMax= of the unit, or ulimit -u")
}

fn judge(check: &str, limit: Option<u64>, need: u64, how: &str) -> Finding {
    match limit {
        None => Finding::ok(check, "no limit"),
        Some(limit) if limit >= need => Finding::ok(check, format!("{limit} allowed, {need} may be needed")),
        Some(limit) => Finding::warning(
            check,
            format!("{limit} allowed, but {need} may be needed"),
            format!("raise it to {need} or more: {how}"),
        ),
    }
}

/// Whether this user can make another inotify instance, by which roles wait for wake-ups.
pub(super) fn inotify() -> Finding {
    const CHECK: &str = "inotify";
    let most = |what: &str| {
        let text = fs_err::read_to_string(format!("/proc/sys/fs/inotify/max_user_{what}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let (instances, watches) = (most("instances"), most("watches"));
    match inotify::init(inotify::CreateFlags::CLOEXEC) {
        Ok(_) => Finding::ok(CHECK, format!("{instances} instances and {watches} watches for each user")),
        Err(error) => Finding::failed(
            CHECK,
            format!("this user can't have another instance ({error}); {instances} are allowed"),
            "sysctl fs.inotify.max_user_instances=1024",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    #[test]
    fn a_limit_below_the_need_is_warned_of() {
        assert_eq!(judge("x", None, 100, "").status, Health::Ok);
        assert_eq!(judge("x", Some(100), 100, "").status, Health::Ok);
        let low = judge("x", Some(99), 100, "this way");
        assert_eq!((low.status, low.fix.as_deref()), (Health::Warning, Some("raise it to 100 or more: this way")));
    }
}
