//! Sets up how this process deals with others (signals, secrets), before it has a second thread.
#![expect(unsafe_code, reason = "the signal mask and the environment block have no safe wrapper")]

use std::ffi::{CStr, c_char};

use rustix::process::DumpableBehavior;

unsafe extern "C" {
    /// The C library's list of the environment, ended by a null pointer.
    static mut environ: *mut *mut c_char;
}

/// Unblocks every signal. A process inherits its mask: a parent that blocks SIGTERM (a shell's
/// `trap`, a daemon's thread) would have made this process deaf for ever.
pub(crate) fn unblock_signals() {
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset fills in the set, which sigprocmask only reads; there is one thread, whose mask it is.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Keeps other processes of the same user, jobs above all, from reading this process: no `ptrace`, no
/// `/proc/PID/environ`, `mem` or `fd`. The kernel writes no core dump of it either. Nothing can keep root out.
pub(crate) fn keep_others_out() {
    // No kernel that Jobber runs on refuses this. An operator who forbids it by seccomp has decided so.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Overwrites the variables for which `is_secret` is true, where the kernel shows them in
/// `/proc/PID/environ`, and drops them from the environment. Code that needs them must have read them before.
pub(crate) fn wipe_environment(is_secret: impl Fn(&str) -> bool) {
    // SAFETY: main calls this while there is one thread, so no other code reads or changes the list or its
    // strings. The list ends with a null pointer and is only made shorter. Each string ends with a NUL and
    // lies in memory that may be written: the initial block on the stack, or what setenv has allocated.
    unsafe {
        if environ.is_null() {
            return;
        }
        let (mut from, mut to) = (environ, environ);
        while !(*from).is_null() {
            let entry = *from;
            let text = CStr::from_ptr(entry).to_bytes();
            let length = text.len();
            let name = text.split(|byte| *byte == b'=').next().unwrap_or_default();
            if std::str::from_utf8(name).is_ok_and(&is_secret) {
                for at in 0..length {
                    // Volatile, because no code reads it again, and the compiler must write it all the same.
                    entry.add(at).write_volatile(0);
                }
            } else {
                *to = entry;
                to = to.add(1);
            }
            from = from.add(1);
        }
        *to = std::ptr::null_mut();
    }
}
