//! Wakes a thread from a wait that has no time limit of its own.
#![expect(unsafe_code, reason = "timers that signal one thread have no safe wrapper")]

use std::ffi::c_int;
use std::io;
use std::sync::Once;
use std::time::Duration;

/// A timer that interrupts the system call in which its thread waits, again and again until it is silenced: a signal that
/// comes just before the call would be missed, the next one is not.
#[derive(Debug)]
pub(super) struct Alarm(c_int);

impl Alarm {
    /// An alarm of the calling thread, silent at first.
    ///
    /// # Errors
    /// When the system has no timer left.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        static HANDLED: Once = Once::new();
        HANDLED.call_once(catch);
        // SAFETY: a sigevent of zeros is valid.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer: c_int = 0;
        // SAFETY: both pointers are valid for the duration of the call; the kernel's timer id is an int.
        let made =
            unsafe { libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &raw const event, &raw mut timer) };
        if made < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(timer)) }
    }

    /// Interrupts every so often, from now on.
    pub(super) fn ring_every(&self, interval: Duration) {
        let nanos = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
        self.set([nanos / 1_000_000_000, nanos % 1_000_000_000]);
    }

    /// Interrupts no more.
    pub(super) fn silence(&self) {
        self.set([0, 0]);
    }

    fn set(&self, [seconds, nanos]: [i64; 2]) {
        // The interval, then the first time: pairs of seconds and nanoseconds, as wide as the kernel's longs.
        let both = [seconds as libc::c_long, nanos as libc::c_long, seconds as libc::c_long, nanos as libc::c_long];
        // SAFETY: the pointer is to an itimerspec of the kernel's, which it only reads; the timer is this value's own.
        unsafe { libc::syscall(libc::SYS_timer_settime, self.0, 0, both.as_ptr(), std::ptr::null::<libc::c_long>()) };
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's own.
        unsafe { libc::syscall(libc::SYS_timer_delete, self.0) };
    }
}

/// The signal that interrupts: nothing else in this process sends it.
fn signal() -> c_int {
    libc::SIGRTMAX() - 1
}

/// Makes the signal interrupt, and do nothing else.
fn catch() {
    extern "C" fn nothing(_: c_int) {}
    let nothing: extern "C" fn(c_int) = nothing;
    // SAFETY: a sigaction of zeros is valid: no flag, so that calls are interrupted and not begun anew.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as libc::sighandler_t;
    // SAFETY: the handler does nothing, so it may run at any moment; no flag asks for another signature.
    unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_interrupts_a_wait_that_would_last_for_ever() {
        let (read, _write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let alarm = Alarm::of_this_thread().unwrap();
        alarm.ring_every(Duration::from_millis(1));
        let read = rustix::io::read(&read, &mut [0u8; 1]);
        alarm.silence();
        assert_eq!(read, Err(rustix::io::Errno::INTR));
    }
}
