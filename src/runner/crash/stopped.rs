//! Asks the kernel about a stopped thread: by which signal, and what is in its registers.
#![expect(unsafe_code, reason = "ptrace has no safe wrapper")]

use std::io;
use std::mem::MaybeUninit;

use crate::runner::ptrace;

/// What the kernel says of the signal for which a thread has stopped (`siginfo_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SignalInfo {
    pub(super) signal: i32,
    pub(super) code: i32,
    /// `si_addr`, where `code` is of a fault; `si_pid` in the lower half, where a process sent it.
    pub(super) value: u64,
}

/// The registers of a thread.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    /// By their names, in the order in which people list them.
    pub(super) named: Vec<(&'static str, u64)>,
    pub(super) counter: u64,
    pub(super) stack: u64,
    /// By the numbers that debug information has for them; empty where stacks are not walked.
    pub(super) numbered: Vec<u64>,
}

/// The signal of a thread that this thread traces, and that is stopped.
pub(super) fn signal_info(thread: i32) -> io::Result<SignalInfo> {
    let info = ptrace::signal_info(thread)?;
    // SAFETY: both fields share their place, which is within the siginfo: an address, or a number in its lower half.
    let value = unsafe { info.si_addr() }.addr() as u64;
    Ok(SignalInfo { signal: info.si_signo, code: info.si_code, value })
}

/// The registers of a thread that this thread traces, and that is stopped. `None` of a program of 32 bits.
pub(super) fn registers(thread: i32) -> io::Result<Option<Registers>> {
    const NT_PRSTATUS: usize = 1;
    let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
    let size = size_of::<libc::user_regs_struct>();
    let mut part = libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size };
    // SAFETY: `part` names the buffer, to whose end the kernel writes at most.
    let done = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, thread, NT_PRSTATUS, &raw mut part) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: integers of zeros are valid, and so are those that the kernel has written.
    let registers = unsafe { registers.assume_init() };
    Ok((part.iov_len == size).then(|| arranged(&registers)))
}

#[cfg(target_arch = "x86_64")]
fn arranged(r: &libc::user_regs_struct) -> Registers {
    let named = vec![
        ("rip", r.rip),
        ("rsp", r.rsp),
        ("rbp", r.rbp),
        ("rax", r.rax),
        ("rbx", r.rbx),
        ("rcx", r.rcx),
        ("rdx", r.rdx),
        ("rsi", r.rsi),
        ("rdi", r.rdi),
        ("r8", r.r8),
        ("r9", r.r9),
        ("r10", r.r10),
        ("r11", r.r11),
        ("r12", r.r12),
        ("r13", r.r13),
        ("r14", r.r14),
        ("r15", r.r15),
        ("eflags", r.eflags),
    ];
    let numbered = vec![
        r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15,
        r.rip,
    ];
    Registers { named, counter: r.rip, stack: r.rsp, numbered }
}

#[cfg(target_arch = "aarch64")]
fn arranged(r: &libc::user_regs_struct) -> Registers {
    const NAMES: [&str; 31] = [
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
        "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30",
    ];
    let named = [("pc", r.pc), ("sp", r.sp)].into_iter().chain(NAMES.into_iter().zip(r.regs)).collect();
    Registers { named, counter: r.pc, stack: r.sp, numbered: Vec::new() }
}

/// The name that the C library has for `si_code`.
pub(super) fn code_name(signal: i32, code: i32) -> Option<&'static str> {
    let by_signal: &[&'static str] = match signal {
        libc::SIGILL => &[
            "ILL_ILLOPC",
            "ILL_ILLOPN",
            "ILL_ILLADR",
            "ILL_ILLTRP",
            "ILL_PRVOPC",
            "ILL_PRVREG",
            "ILL_COPROC",
            "ILL_BADSTK",
            "ILL_BADIADDR",
        ],
        libc::SIGFPE => &[
            "FPE_INTDIV",
            "FPE_INTOVF",
            "FPE_FLTDIV",
            "FPE_FLTOVF",
            "FPE_FLTUND",
            "FPE_FLTRES",
            "FPE_FLTINV",
            "FPE_FLTSUB",
        ],
        libc::SIGSEGV => &[
            "SEGV_MAPERR",
            "SEGV_ACCERR",
            "SEGV_BNDERR",
            "SEGV_PKUERR",
            "SEGV_ACCADI",
            "SEGV_ADIDERR",
            "SEGV_ADIPERR",
            "SEGV_MTEAERR",
            "SEGV_MTESERR",
            "SEGV_CPERR",
        ],
        libc::SIGBUS => &["BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR", "BUS_MCEERR_AR", "BUS_MCEERR_AO"],
        libc::SIGTRAP => &["TRAP_BRKPT", "TRAP_TRACE", "TRAP_BRANCH", "TRAP_HWBKPT", "TRAP_UNK", "TRAP_PERF"],
        libc::SIGSYS => &["SYS_SECCOMP"],
        _ => &[],
    };
    match code {
        0 => Some("SI_USER"),
        0x80 => Some("SI_KERNEL"),
        -1 => Some("SI_QUEUE"),
        -2 => Some("SI_TIMER"),
        -6 => Some("SI_TKILL"),
        code => by_signal.get(usize::try_from(code).ok()?.checked_sub(1)?).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_c_library() {
        for (signal, code, name) in [
            (libc::SIGSEGV, 1, Some("SEGV_MAPERR")),
            (libc::SIGSEGV, 2, Some("SEGV_ACCERR")),
            (libc::SIGSEGV, 0x80, Some("SI_KERNEL")),
            (libc::SIGABRT, -6, Some("SI_TKILL")),
            (libc::SIGFPE, 1, Some("FPE_INTDIV")),
            (libc::SIGBUS, 2, Some("BUS_ADRERR")),
            (libc::SIGSEGV, 99, None),
            (libc::SIGSEGV, i32::MIN, None),
        ] {
            assert_eq!(code_name(signal, code), name);
        }
    }
}
