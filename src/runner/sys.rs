//! The few system calls that rustix does not offer safely.
#![expect(unsafe_code, reason = "wait4, getrusage, sysconf, close_range, signal and sigaction have no safe wrapper")]

use std::io;

use rustix::process::Pid;

use super::exit::Ending;

/// What the kernel counted for a process and the descendants that it waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    /// The largest resident set of one process, in bytes. See [`super::memory`] on what it can mean.
    pub(super) max_rss: u64,
    /// Page faults: pages that the kernel brought in.
    pub(super) faults: u64,
}

impl From<libc::rusage> for Counted {
    fn from(usage: libc::rusage) -> Self {
        let count = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
        let micros =
            |t: libc::timeval| u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0);
        Self {
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
            max_rss: count(usage.ru_maxrss) * 1024,
            faults: count(usage.ru_minflt) + count(usage.ru_majflt),
        }
    }
}

/// Reaps a child. Answers how it ended and what it used; without `wait`, `None` while it still runs.
pub(super) fn reap(pid: Pid, wait: bool) -> io::Result<Option<(Ending, Counted)>> {
    let flags = if wait { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both pointers are valid for writes for the duration of the call.
        let reaped = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, flags, usage.as_mut_ptr()) };
        if reaped == 0 {
            return Ok(None);
        }
        if reaped < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // SAFETY: an rusage of zeros is valid, and the kernel has filled it in.
        let usage = unsafe { usage.assume_init() };
        let ending = if libc::WIFSIGNALED(status) {
            Ending::Signaled(libc::WTERMSIG(status))
        } else {
            Ending::Exited(libc::WEXITSTATUS(status))
        };
        return Ok(Some((ending, usage.into())));
    }
}

/// The most memory that this process itself has had resident, in bytes.
pub(super) fn own_max_rss() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for writes for the duration of the call.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: an rusage of zeros is valid, and the kernel has filled it in.
    Counted::from(unsafe { usage.assume_init() }).max_rss
}

/// The size of a page of memory, in bytes.
pub(super) fn page_size() -> u64 {
    // SAFETY: sysconf only reads.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// How many ticks a second has in what the kernel tells of processes.
pub(super) fn ticks_per_second() -> u64 {
    // SAFETY: sysconf only reads.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// Keeps every descriptor but the standard three from children, those included that this process inherited open.
pub(super) fn close_descriptors_on_exec() {
    // An old kernel refuses; then only what this process opens itself is kept from children.
    // SAFETY: CLOEXEC changes nothing for this process: no descriptor is closed here.
    let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}

/// Catches the signals that this process inherited as ignored, to no effect. The program that started
/// this process may have ignored some (`nohup`, a shell's `&`, a daemon that does not care for its
/// children), and an ignored signal stays ignored in every job. A caught signal does not. SIGCHLD gets
/// its default back: the kernel would reap children before this process could ask how they ended.
pub(super) fn catch_ignored_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    let nothing: extern "C" fn(libc::c_int) = nothing;
    // A child resets SIGPIPE itself; to stop at the terminal is nothing for jobs.
    let not_these = [libc::SIGKILL, libc::SIGSTOP, libc::SIGPIPE, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    for signal in (1..32).filter(|signal| !not_these.contains(signal)) {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null pointer changes nothing; the other is valid for writes for the duration of the call.
        if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
            continue;
        }
        // SAFETY: a sigaction of zeros is valid, and the kernel has filled it in.
        let mut action = unsafe { action.assume_init() };
        if action.sa_sigaction != libc::SIG_IGN {
            continue;
        }
        action.sa_sigaction = if signal == libc::SIGCHLD { libc::SIG_DFL } else { nothing as libc::sighandler_t };
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing, so it may run at any moment; no flag asks for another signature.
        unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    }
}

/// Makes this process ignore the signals that ask a group of processes to end.
pub(super) fn ignore_requests_to_end() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: SIG_IGN installs no handler that could run.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
