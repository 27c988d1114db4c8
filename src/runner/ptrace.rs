//! The calls of ptrace(2) and of waitid(2) that a tracer needs. A tracer is a thread: only the thread that a process
//! was born of may make these calls for it.
#![expect(unsafe_code, reason = "ptrace and the waits of a tracer have no safe wrapper")]

use std::ffi::{c_int, c_long};
use std::io;

/// What the kernel is to do for a tracer: numbers of linux/ptrace.h.
pub(super) mod options {
    pub(in crate::runner) const TRACE_FORK: usize = 1 << 1;
    pub(in crate::runner) const TRACE_VFORK: usize = 1 << 2;
    pub(in crate::runner) const TRACE_CLONE: usize = 1 << 3;
    pub(in crate::runner) const TRACE_EXEC: usize = 1 << 4;
    /// The kernel kills what is traced when its tracer ends.
    pub(in crate::runner) const EXIT_KILL: usize = 1 << 20;
}

/// What a traced thread stopped for, besides signals: numbers of linux/ptrace.h.
pub(super) mod events {
    pub(in crate::runner) const FORK: c_int = 1;
    pub(in crate::runner) const VFORK: c_int = 2;
    pub(in crate::runner) const CLONE: c_int = 3;
    pub(in crate::runner) const EXEC: c_int = 4;
    use super::c_int;
}

const TRACEME: c_long = 0;
const CONT: c_long = 7;
const DETACH: c_long = 17;
const SETOPTIONS: c_long = 0x4200;
const GETSIGINFO: c_long = 0x4202;
const SETSIGMASK: c_long = 0x420b;

/// What a child of this thread, or a thread that it traces, has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It has ended; it is still to be reaped.
    Ended,
    /// It has stopped, and goes on when the tracer says so.
    Stopped {
        /// The signal that is about to be delivered to it, or that stopped it.
        signal: c_int,
        /// What the tracer wanted to be told, one of [`events`]; 0 for a signal.
        event: c_int,
    },
}

/// Asks the kernel, between birth and exec, that the parent trace this process: see `launch`. Answers whether it does.
///
/// # Safety
/// Writes the C library's `errno` of the thread whose memory the child shares.
pub(super) unsafe fn trace_me() -> bool {
    // SAFETY: the request takes no pointer.
    unsafe { libc::syscall(libc::SYS_ptrace, TRACEME, 0, 0, 0) == 0 }
}

fn request(request: c_long, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: each request made here takes numbers, or pointers that its caller has made valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request, tid, address, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets a thread that has stopped go on, with this signal (0: none).
///
/// # Errors
/// When the thread is gone, or does not stand.
pub(super) fn resume(tid: i32, signal: c_int) -> io::Result<()> {
    request(CONT, tid, 0, signal.unsigned_abs() as usize)
}

/// Lets a thread that has stopped go on with this signal (0: none), no longer traced.
///
/// # Errors
/// When the thread is gone, or does not stand.
pub(super) fn detach(tid: i32, signal: c_int) -> io::Result<()> {
    request(DETACH, tid, 0, signal.unsigned_abs() as usize)
}

/// Sets what the kernel is to do for the tracer: see [`options`].
///
/// # Errors
/// When the thread is gone, does not stand, or the kernel is too old.
pub(super) fn set_options(tid: i32, options: usize) -> io::Result<()> {
    request(SETOPTIONS, tid, 0, options)
}

/// Lets a thread that has stopped take every signal.
///
/// # Errors
/// When the thread is gone, or does not stand.
pub(super) fn unblock_signals(tid: i32) -> io::Result<()> {
    let none = 0u64;
    request(SETSIGMASK, tid, size_of_val(&none), std::ptr::from_ref(&none).addr())
}

/// What the kernel says of the signal for which a thread has stopped.
///
/// # Errors
/// When the thread is gone, or does not stand for a signal.
pub(super) fn signal_info(tid: i32) -> io::Result<libc::siginfo_t> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    request(GETSIGINFO, tid, 0, info.as_mut_ptr().addr())?;
    // SAFETY: a siginfo of zeros is valid, and the kernel has filled it in.
    Ok(unsafe { info.assume_init() })
}

/// Whether the thread stands because all of its process does (SIGSTOP and the like), and not for a signal to come.
pub(super) fn is_group_stop(tid: i32) -> bool {
    signal_info(tid).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// Whether this is a thread of that process.
pub(super) fn is_thread_of(process: i32, tid: i32) -> bool {
    // SAFETY: signal 0 is not sent: the kernel only looks.
    unsafe { libc::syscall(libc::SYS_tgkill, process, tid, 0) == 0 }
}

/// Waits until a child of this thread has ended, or something that it traces has ended or stopped. Answers its id. A stop
/// is taken, an end is left for [`reap`]. `None` when a signal interrupted the wait, or (without `wait`) nothing is there.
///
/// # Errors
/// When there is nothing to wait for.
pub(super) fn next_change(wait: bool) -> io::Result<Option<(i32, Change)>> {
    change_of(libc::P_ALL, 0, wait)
}

/// The same of one child of this thread alone.
///
/// # Errors
/// When there is no such child.
pub(super) fn next_change_of(pid: i32) -> io::Result<Option<(i32, Change)>> {
    change_of(libc::P_PID, pid.unsigned_abs(), true)
}

fn change_of(kind: libc::idtype_t, id: libc::id_t, wait: bool) -> io::Result<Option<(i32, Change)>> {
    let hang = if wait { 0 } else { libc::WNOHANG };
    loop {
        let Some(seen) = wait_for(kind, id, OF_THIS_THREAD | libc::WEXITED | libc::WNOWAIT | hang)? else {
            return Ok(None);
        };
        if seen.has_ended() {
            return Ok(Some((seen.tid, Change::Ended)));
        }
        // Without WEXITED this takes nothing but the stop. A kill in between has taken that back: look again.
        if let Some(Seen { tid, status, .. }) =
            wait_for(libc::P_PID, seen.tid.unsigned_abs(), OF_THIS_THREAD | libc::WSTOPPED | libc::WNOHANG)?
        {
            return Ok(Some((tid, Change::Stopped { signal: status & 0x7f, event: status >> 8 })));
        }
    }
}

/// What other threads trace, or have started, is none of a tracer's.
const OF_THIS_THREAD: c_int = libc::__WNOTHREAD;

/// What waitid tells.
struct Seen {
    tid: i32,
    code: c_int,
    status: c_int,
}

impl Seen {
    fn has_ended(&self) -> bool {
        matches!(self.code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED)
    }
}

/// Calls waitid. `None` when a signal interrupted it, or it found nothing and was not to wait.
fn wait_for(kind: libc::idtype_t, id: libc::id_t, flags: c_int) -> io::Result<Option<Seen>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the pointer is valid for writes for the duration of the call.
    if unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags | libc::__WALL) } < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(None) } else { Err(error) };
    }
    // SAFETY: a siginfo of zeros is valid, and the kernel has filled in what waitid tells.
    let info = unsafe { info.assume_init() };
    // SAFETY: these are fields of what waitid tells, 0 where it tells of nothing.
    let (tid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((tid != 0).then_some(Seen { tid, code: info.si_code, status }))
}

/// Reaps a traced thread, or a traced process of another parent, that has ended.
pub(super) fn reap(tid: i32) {
    let _ = wait_for(libc::P_PID, tid.unsigned_abs(), OF_THIS_THREAD | libc::WEXITED | libc::WNOHANG);
}

/// Whether a child of any thread of this process has ended, or there is no such child. Takes nothing: a stop of what is
/// traced is its tracer's.
pub(super) fn has_ended(pid: i32) -> bool {
    let seen = wait_for(libc::P_PID, pid.unsigned_abs(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
    seen.map_or(true, |seen| seen.is_some_and(|seen| seen.has_ended()))
}
