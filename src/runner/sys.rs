//! What this process asks of the kernel for itself: its units, and what its children inherit from it.
#![expect(unsafe_code, reason = "sysconf, close_range, signal and sigaction have no safe wrapper")]

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
