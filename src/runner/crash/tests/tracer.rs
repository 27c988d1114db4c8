//! The smallest tracer: runs a program until it has died, and captures each fatal stop.
#![expect(unsafe_code, reason = "ptrace and waitpid by thread have no safe wrapper")]

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::super::tracer::FATAL;
use super::super::{Capture, capture};

/// Runs it; what was taken at the last fatal stop. `when_stopped` is called before each capture.
pub(super) fn run(command: &mut Command, when_stopped: impl Fn()) -> Option<Capture> {
    run_with(command, when_stopped, |thread| capture(thread, Instant::now() + Duration::from_secs(10)))
}

/// As [`run`], captured in this way.
pub(super) fn run_with(
    command: &mut Command,
    when_stopped: impl Fn(),
    capture: impl Fn(i32) -> Option<Capture>,
) -> Option<Capture> {
    let trace_me = || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads the limit given; no core files are left behind.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
        // SAFETY: asks for nothing but to be traced by the parent.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: system calls are all that the child does.
    unsafe { command.pre_exec(trace_me) };
    let program = command.spawn().unwrap().id() as i32;
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut captured = None;
    let mut begun = false;
    loop {
        let mut status = 0;
        // SAFETY: writes the status to the integer given.
        let thread = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert!(thread > 0 && Instant::now() < deadline, "{}", std::io::Error::last_os_error());
        if !libc::WIFSTOPPED(status) {
            if thread == program {
                return captured;
            }
            continue;
        }
        let mut signal = libc::WSTOPSIG(status);
        if !begun {
            begun = true;
            let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_EXITKILL;
            // SAFETY: sets options of a stopped tracee.
            unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, thread, 0_usize, options as usize) };
            signal = 0;
        } else if status >> 16 != 0 || signal == libc::SIGSTOP {
            signal = 0;
        } else if FATAL.contains(&signal) {
            when_stopped();
            captured = capture(thread);
        }
        // SAFETY: lets a stopped tracee go on.
        unsafe { libc::ptrace(libc::PTRACE_CONT, thread, 0_usize, signal as usize) };
    }
}
