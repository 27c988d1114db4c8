//! Makes a process by `clone3`: the shortest way from this process to another one.
//!
//! The child borrows this process's memory until it executes its program (`CLONE_VM`), and the
//! thread that made it waits for that (`CLONE_VFORK`): no page table is copied, however large the
//! worker is. Unlike with `posix_spawn`, code of this module runs in the child in between. The
//! child is born in its cgroup, sets its own limits, tells the guard of itself, lays its sandbox
//! upon itself, and, last of all before it executes, looks at the clock: a worker that was stopped meanwhile must not start a job
//! that another worker may be running.
//!
//! Between its birth and the exec the child may do nothing but system calls: it shares every lock
//! and the allocator with the threads of this process, and no other thread of it runs. So the
//! parent lays out before everything that the child needs ([`Plan`]).
#![expect(unsafe_code, reason = "a child that shares our memory is made by system calls that no crate wraps")]

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use rustix::process::Pid;

use super::ptrace;
use super::sandbox::Confinement;
use super::stack::Stack;
use crate::domain::Validity;

/// The program to execute, and how to execute it.
pub(super) struct Launch<'a> {
    pub(super) path: &'a CStr,
    pub(super) arguments: &'a Strings,
    pub(super) environment: &'a Strings,
    pub(super) directory: &'a CStr,
    /// Standard input, output and error.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Its nice value; `None` leaves it at that of this process.
    pub(super) nice: Option<i32>,
    /// Resource limits: the resource (`RLIMIT_*`), then its soft and its hard limit.
    pub(super) limits: &'a [(u32, [u64; 2])],
    /// The directory of the cgroup that it is born in.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    /// The child executes nothing once this validity is over.
    pub(super) validity: Option<&'a Validity>,
    /// The file and the offset at which the child writes its id and the end of its validity before
    /// it executes, eight bytes each.
    pub(super) note: Option<(BorrowedFd<'a>, u64)>,
    /// The sandbox that the child lays upon itself.
    pub(super) confinement: Option<&'a Confinement>,
    /// The child asks that this thread trace it.
    pub(super) traced: bool,
}

/// A process that has executed its program.
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// Whether it stands behind its exec with its signals blocked, until this thread, its tracer, lets it go on. False
    /// also where the kernel did not let it be traced.
    pub(super) traced: bool,
}

/// Why nothing was executed. The numbers are values of `errno`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The validity was over.
    Late,
    /// The system did not make a process.
    Clone(i32),
    /// It could not be put into its cgroup.
    Cgroup(i32),
    /// It could not enter its directory.
    Directory(i32),
    /// It could not lay its sandbox upon itself.
    Sandbox(i32),
    /// It could not be set up otherwise.
    SetUp(i32),
    /// Its program could not be executed.
    Exec(i32),
}

/// Strings as the kernel takes them: each ends with a NUL, and the list with a null pointer.
#[derive(Default)]
pub(super) struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Strings {
    /// Adds one string, made of parts. Answers false when a part holds a NUL, which no string can.
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> bool {
        if parts.iter().any(|part| part.contains(&0)) {
            return false;
        }
        self.starts.push(self.bytes.len());
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.bytes.push(0);
        true
    }

    fn pointers(&self) -> Vec<*const c_char> {
        let at = |start: &usize| self.bytes[*start..].as_ptr().cast();
        self.starts.iter().map(at).chain([std::ptr::null()]).collect()
    }
}

/// What the child reads, and the fields in which it says why it failed.
struct Plan {
    /// The id of this process, whose death the child must not outlive.
    parent: c_int,
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    directory: *const c_char,
    stdio: [c_int; 3],
    nice: Option<c_int>,
    limits: *const (u32, [u64; 2]),
    limits_len: usize,
    /// The cgroup's directory, when the child must go there itself.
    cgroup: Option<c_int>,
    /// Whether the child must reset the signal handlers of this process by itself.
    reset_handlers: bool,
    until: *const AtomicU64,
    note: Option<(c_int, u64)>,
    /// Whether the child is to be traced, and whether it is.
    to_be_traced: bool,
    is_traced: AtomicBool,
    /// The rules of Landlock, if any.
    rules: Option<c_int>,
    /// The privileges of root that are kept; null for all.
    capabilities: *const [u32; 6],
    /// The filter for system calls; without instructions if there is none.
    filter: libc::sock_fprog,
    /// The step that the child is at, and the `errno` that it met there: 0 once it has executed.
    step: AtomicI32,
    errno: AtomicI32,
}

const SET_UP: i32 = 1;
const CGROUP: i32 = 2;
const DIRECTORY: i32 = 3;
const LATE: i32 = 4;
const EXEC: i32 = 5;
const SANDBOX: i32 = 6;

/// Makes the process, leader of a process group of its own, and returns once it has executed its program.
pub(super) fn launch(stack: &mut Stack, launch: &Launch<'_>) -> Result<Launched, Refusal> {
    // Decided once: an old kernel lacks the call, or a container filters it away.
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if !REFUSED.load(Ordering::Relaxed) {
        match launch_by(stack, launch, Way::Clone3) {
            Err(Refusal::Clone(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG)) => {
                tracing::debug!("clone3 can't be used here; using clone");
                REFUSED.store(true, Ordering::Relaxed);
            }
            result => return result,
        }
    }
    launch_by(stack, launch, Way::Clone)
}

/// By which system call the child is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The kernel puts the child into its cgroup and resets its signal handlers.
    Clone3,
    /// The child does both by itself.
    Clone,
}

fn launch_by(stack: &mut Stack, launch: &Launch<'_>, way: Way) -> Result<Launched, Refusal> {
    let (arguments, environment) = (launch.arguments.pointers(), launch.environment.pointers());
    let by_itself = way == Way::Clone;
    let filter = launch.confinement.and_then(|confinement| confinement.filter.as_deref()).unwrap_or_default();
    let plan = Plan {
        parent: rustix::process::getpid().as_raw_nonzero().get(),
        path: launch.path.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        directory: launch.directory.as_ptr(),
        stdio: launch.stdio.map(|fd| fd.as_raw_fd()),
        nice: launch.nice,
        limits: launch.limits.as_ptr(),
        limits_len: launch.limits.len(),
        cgroup: launch.cgroup.filter(|_| by_itself).map(|fd| fd.as_raw_fd()),
        reset_handlers: by_itself,
        until: launch.validity.map_or(std::ptr::null(), |validity| std::ptr::from_ref(validity.moment())),
        note: launch.note.map(|(fd, at)| (fd.as_raw_fd(), at)),
        to_be_traced: launch.traced,
        is_traced: AtomicBool::new(false),
        rules: launch.confinement.and_then(|confinement| Some(confinement.rules.as_ref()?.as_raw_fd())),
        capabilities: launch.confinement.map_or(std::ptr::null(), |its| std::ptr::from_ref(&its.capabilities)),
        filter: libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or_default(),
            filter: filter.as_ptr().cast_mut(),
        },
        step: AtomicI32::new(SET_UP),
        errno: AtomicI32::new(0),
    };
    // A signal handler of this process that ran in the child would write to this process's memory
    // as if it ran here.
    let blocked = mask_signals(u64::MAX);
    // SAFETY: `plan` and all that it points to (the strings, the limits, the validity, open descriptors) outlive the
    // call, and with `CLONE_VFORK` the call outlives the child's use of them. The stack is the child's alone: `&mut`
    // keeps others from it until the child has executed or ended. All signals are blocked.
    let made = unsafe {
        match way {
            Way::Clone3 => make_by_clone3(stack, &plan, launch.cgroup),
            Way::Clone => make_by_clone(stack, &plan),
        }
    };
    mask_signals(blocked);
    let (pid, pidfd) = made.map_err(|errno| match (launch.cgroup, errno) {
        // Errors that only the way into a cgroup can meet.
        (Some(_), libc::EACCES | libc::EBUSY | libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP | libc::EBADF) => {
            Refusal::Cgroup(errno)
        }
        _ => Refusal::Clone(errno),
    })?;
    let (step, errno) = (plan.step.load(Ordering::SeqCst), plan.errno.load(Ordering::SeqCst));
    if errno == 0 && step == EXEC {
        return Ok(Launched { pid, pidfd, traced: plan.is_traced.load(Ordering::SeqCst) });
    }
    // The child has ended, or ends now.
    let _ = super::usage::reap(pid, true);
    Err(match step {
        CGROUP => Refusal::Cgroup(errno),
        DIRECTORY => Refusal::Directory(errno),
        LATE => Refusal::Late,
        EXEC => Refusal::Exec(errno),
        SANDBOX => Refusal::Sandbox(errno),
        _ => Refusal::SetUp(errno),
    })
}

/// Sets which signals this thread blocks, and answers which it blocked before. Unlike the C
/// library's function, this blocks also the signals that the C library uses itself.
fn mask_signals(blocked: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both pointers are to eight bytes, the size of the kernel's set, which is given; the call can't fail with
    // that size and that command.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            std::ptr::from_ref(&blocked),
            std::ptr::from_mut(&mut before),
            size_of::<u64>(),
        )
    };
    before
}

/// # Safety
/// The child runs [`child`] with `plan` on `stack` in this process's memory: see [`launch_by`].
#[cfg(target_arch = "x86_64")]
unsafe fn make_by_clone3(stack: &Stack, plan: &Plan, cgroup: Option<BorrowedFd<'_>>) -> Result<(Pid, OwnedFd), i32> {
    const VM: u64 = 0x100;
    const PIDFD: u64 = 0x1000;
    const VFORK: u64 = 0x4000;
    const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: c_int = -1;
    // SAFETY: a `clone_args` is plain numbers, and a zero asks for nothing.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = VM | PIDFD | VFORK | CLEAR_SIGHAND;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.bottom() as u64;
    args.stack_size = Stack::SIZE as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let result: isize;
    // SAFETY: the kernel preserves all registers but rax, rcx and r11, which are given up. The child begins behind
    // `syscall` with rax = 0, on its own stack, whose top is aligned to 16; it calls a function that does not return,
    // so it uses nothing of this frame. The parent goes on only when the child has executed or ended. No Rust memory is
    // changed but what the function changes through `plan`'s atomics and the kernel through `args.pidfd`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(&args),
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") std::ptr::from_ref(plan),
            in("r9") child as extern "C" fn(*mut c_void) -> c_int,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    let pid = i32::try_from(result).unwrap_or(-libc::EINVAL);
    if pid < 0 {
        return Err(-pid);
    }
    // SAFETY: the kernel has made this descriptor for this process.
    Ok((Pid::from_raw(pid).ok_or(libc::EINVAL)?, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn make_by_clone3(_: &Stack, _: &Plan, _: Option<BorrowedFd<'_>>) -> Result<(Pid, OwnedFd), i32> {
    Err(libc::ENOSYS)
}

/// # Safety
/// The same as for [`make_by_clone3`].
unsafe fn make_by_clone(stack: &Stack, plan: &Plan) -> Result<(Pid, OwnedFd), i32> {
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let argument = std::ptr::from_ref(plan).cast_mut().cast();
    // SAFETY: `child` never returns and reads `plan` only; the stack is its own. With `CLONE_PIDFD` the fifth argument
    // is where the descriptor is put.
    let pid = unsafe { libc::clone(child, stack.top(), flags, argument, std::ptr::from_mut(&mut pidfd)) };
    if pid < 0 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
    }
    // SAFETY: the kernel has made this descriptor for this process.
    Ok((Pid::from_raw(pid).ok_or(libc::EINVAL)?, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The child: never returns. It holds no lock, allocates nothing, and can't panic.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `launch_by` gives the child a plan that lives until the child has executed or ended.
    let plan = unsafe { &*plan.cast::<Plan>() };
    // SAFETY: this is the child, on its own stack, with all signals blocked.
    let errno = unsafe { set_up_and_execute(plan) };
    plan.errno.store(errno, Ordering::SeqCst);
    loop {
        // SAFETY: ends this process at once; no destructor or handler of this program runs.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

/// Makes the child another program. Returns only when that failed, with the `errno`.
///
/// # Safety
/// To be called by the child only, with all signals blocked, and a plan whose pointers are valid.
/// The C library's `syscall` writes its `errno`, which is that of the thread that waits: that
/// thread looks at it only after its own calls.
unsafe fn set_up_and_execute(plan: &Plan) -> i32 {
    /// What the kernel takes for a handler by default: all of its `sigaction` is zero.
    static DEFAULT: [u64; 4] = [0; 4];
    let at = |step: i32| plan.step.store(step, Ordering::SeqCst);
    // SAFETY: `__errno_location` is this thread's own, valid as long as the thread.
    let failure = || unsafe { *libc::__errno_location() };
    let reset = |signal: c_int| {
        // SAFETY: the pointer is to a `sigaction` of the kernel's, the size of whose set is given. For SIGKILL and
        // SIGSTOP it fails, and changes nothing.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null::<u64>(), size_of::<u64>())
        }
    };
    if plan.reset_handlers {
        for signal in 1..=64 {
            let mut action = [0u64; 4];
            // SAFETY: as above, and the pointer is valid for writes of a `sigaction`.
            unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    std::ptr::null::<u64>(),
                    action.as_mut_ptr(),
                    size_of::<u64>(),
                )
            };
            // Neither the default nor ignored.
            if action[0] > 1 {
                reset(signal);
            }
        }
    }
    // The runtime of this process ignores it.
    reset(libc::SIGPIPE);
    // SAFETY: all of these calls take numbers, and pointers of the plan, which are valid.
    unsafe {
        // If worker and guard are killed at the same time, the kernel ends the job: "parent" is the
        // thread that waits here, and later supervises. If this process died before the call, the
        // kernel would send no signal: hence the look at the parent's id.
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::syscall(libc::SYS_getppid) != c_long::from(plan.parent) {
            return libc::ESRCH;
        }
        if libc::syscall(libc::SYS_setpgid, 0, 0) < 0 {
            return failure();
        }
        for (target, source) in [0, 1, 2].into_iter().zip(plan.stdio) {
            if libc::syscall(libc::SYS_dup3, source, target, 0) < 0 {
                return failure();
            }
        }
        if let Some(nice) = plan.nice {
            // Fails only for want of a right, which lowering the priority does not need.
            libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice);
        }
        let mut limit = plan.limits;
        let end = plan.limits.wrapping_add(plan.limits_len);
        while limit != end {
            let (resource, both) = *limit;
            libc::syscall(libc::SYS_prlimit64, 0, resource, both.as_ptr(), std::ptr::null::<u64>());
            limit = limit.wrapping_add(1);
        }
        if let Some(directory) = plan.cgroup {
            at(CGROUP);
            let flags = libc::O_WRONLY | libc::O_CLOEXEC;
            let file = libc::syscall(libc::SYS_openat, directory, c"cgroup.procs".as_ptr(), flags, 0);
            if file < 0 || libc::syscall(libc::SYS_write, file, c"0".as_ptr(), 1) < 0 {
                return failure();
            }
        }
        at(DIRECTORY);
        if libc::syscall(libc::SYS_chdir, plan.directory) < 0 {
            return failure();
        }
        at(SET_UP);
        if let Some((file, offset)) = plan.note {
            let until = if plan.until.is_null() { 0 } else { (*plan.until).load(Ordering::SeqCst) };
            let words = [libc::syscall(libc::SYS_getpid).cast_unsigned(), until];
            // If there is no memory for it, the guard still finds the process by its number or its environment.
            libc::syscall(libc::SYS_pwrite64, file, words.as_ptr(), size_of_val(&words), offset);
        }
        let traced = plan.to_be_traced && ptrace::trace_me();
        plan.is_traced.store(traced, Ordering::SeqCst);
        // What is traced stands at a signal until its tracer acts, which can't before the exec. So it gets its signals
        // then, but for the one that tells of the exec.
        let blocked = if traced { !(1u64 << (libc::SIGTRAP - 1)) } else { 0 };
        let (blocked, null) = (std::ptr::from_ref(&blocked), std::ptr::null::<u64>());
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, blocked, null, size_of::<u64>());
        at(SANDBOX);
        if !confine(plan) {
            return failure();
        }
        if !plan.until.is_null() {
            at(LATE);
            let mut now = [0 as c_long; 2];
            if libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_BOOTTIME, now.as_mut_ptr()) < 0 {
                return failure();
            }
            let [seconds, nanos] = now;
            let now =
                seconds.unsigned_abs().wrapping_mul(1000).wrapping_add(nanos.unsigned_abs().wrapping_div(1_000_000));
            if (*plan.until).load(Ordering::SeqCst) <= now {
                return libc::ETIME;
            }
        }
        at(EXEC);
        libc::syscall(libc::SYS_execve, plan.path, plan.arguments, plan.environment);
        failure()
    }
}

/// Lays the sandbox upon the child, which is a task with credentials of its own: the thread that waits for it is not
/// confined. The filter comes last: it may refuse what the rest needs. Answers false when one part failed.
///
/// # Safety
/// As for [`set_up_and_execute`].
unsafe fn confine(plan: &Plan) -> bool {
    /// The header that `capset` takes, of the version with two words for each set, for the calling thread.
    static HEADER: [u32; 2] = [0x2008_0522, 0];
    // SAFETY: the kernel only reads what these pointers are to: the header, and the plan's capabilities and filter.
    unsafe {
        if let Some(rules) = plan.rules
            && libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) < 0
        {
            return false;
        }
        if !plan.capabilities.is_null() && libc::syscall(libc::SYS_capset, HEADER.as_ptr(), plan.capabilities) < 0 {
            return false;
        }
        let filter = std::ptr::from_ref(&plan.filter);
        plan.filter.len == 0 || libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, filter) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use rustix::pipe::PipeFlags;

    use super::super::alarm::Alarm;
    use super::super::tracer::{Scope, Tracer};

    use super::super::exit::Ending;

    fn strings(list: &[&str]) -> Strings {
        let mut strings = Strings::default();
        assert!(list.iter().all(|s| strings.push(&[s.as_bytes()])));
        strings
    }

    /// Runs a shell script to its end by one of the ways: what it said, or why it was not executed.
    fn run(way: Way, script: &str, change: impl FnOnce(&mut Launch<'_>)) -> Result<String, Refusal> {
        let nothing = File::open("/dev/null").unwrap();
        let (said, its_output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (arguments, environment) = (strings(&["sh", "-c", script]), strings(&["A=1", "PATH=/usr/bin:/bin"]));
        let mut order = Launch {
            path: c"/bin/sh",
            arguments: &arguments,
            environment: &environment,
            directory: c"/",
            stdio: [nothing.as_fd(), its_output.as_fd(), its_output.as_fd()],
            nice: None,
            limits: &[],
            cgroup: None,
            validity: None,
            note: None,
            traced: false,
            confinement: None,
        };
        change(&mut order);
        let launched = launch_by(&mut Stack::map().unwrap(), &order, way);
        drop(its_output);
        let Launched { pid, traced, .. } = launched?;
        if traced {
            let mut tracer = Tracer::begin(pid, Scope::Process, Duration::ZERO).unwrap();
            assert!(tracer.serve(&Alarm::of_this_thread().unwrap(), None));
        }
        let mut text = String::new();
        File::from(said).read_to_string(&mut text).unwrap();
        assert!(matches!(super::super::usage::reap(pid, true).unwrap(), Some((Ending::Exited(0), _))));
        Ok(text)
    }

    const WAYS: [Way; 2] = [Way::Clone3, Way::Clone];

    #[test]
    fn a_child_is_set_up_alike_by_both_ways() {
        super::super::sys::close_descriptors_on_exec();
        let script = "pwd; echo $A; ulimit -c; test $(cut -d' ' -f5 /proc/$$/stat) = $$ && echo own group
            cut -d' ' -f19 /proc/$$/stat; ls /proc/self/fd | tr '\\n' ' '; echo
            sed -nE 's/Sig(Blk|Cgt|Ign):\t//p' /proc/self/status";
        for way in WAYS {
            let said = run(way, script, |order| {
                order.directory = c"/tmp";
                order.limits = &[(libc::RLIMIT_CORE, [0, 0])];
                order.nice = Some(7);
            });
            let said = said.unwrap();
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines[..6], ["/tmp", "1", "0", "own group", "7", "0 1 2 3 "], "{way:?}");
            // ls itself opens 3.
            let [blocked, ignored, caught] = lines[6..] else { panic!("{said}") };
            assert_eq!([blocked, caught], ["0000000000000000"; 2], "{way:?}");
            // This process ignores SIGPIPE, and may itself have been started with others ignored.
            let ignored = u64::from_str_radix(ignored, 16).unwrap();
            assert_eq!(ignored & (1 << (libc::SIGPIPE - 1)), 0, "{way:?}");
        }
    }

    #[test]
    fn a_traced_child_gets_its_signals_when_it_has_executed() {
        let script = "sed -n 's/TracerPid:\\t//p' /proc/$$/status; sed -nE 's/Sig(Blk|Cgt):\\t//p' /proc/self/status";
        for way in WAYS {
            let said = run(way, script, |order| order.traced = true);
            let said = said.unwrap();
            let [tracer, blocked, caught] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
            assert_ne!(tracer, "0", "{way:?}");
            assert_eq!([blocked, caught], ["0000000000000000"; 2], "{way:?}");
        }
    }

    #[test]
    fn a_child_whose_time_is_over_executes_nothing() {
        for way in WAYS {
            let over = Validity::lasting(Duration::ZERO);
            let refused = run(way, "echo ran", |order| {
                // Outlives the call, which the compiler can't see.
                order.validity = Some(Box::leak(Box::new(over.clone())));
            });
            assert_eq!(refused, Err(Refusal::Late), "{way:?}");
            over.extend(crate::domain::validity::boot_ms(), Duration::from_secs(60));
            let valid = run(way, "echo ran", |order| order.validity = Some(Box::leak(Box::new(over))));
            assert_eq!(valid.unwrap(), "ran\n", "{way:?}");
        }
    }

    #[test]
    fn a_child_notes_itself_before_it_executes() {
        for way in WAYS {
            let table: &File = Box::leak(Box::new(tempfile::tempfile().unwrap()));
            let validity = Box::leak(Box::new(Validity::lasting(Duration::from_secs(60))));
            let said = run(way, "echo $$", |order| {
                order.note = Some((table.as_fd(), 16));
                order.validity = Some(validity);
            });
            let mut noted = [0; 32];
            std::os::unix::fs::FileExt::read_exact_at(table, &mut noted, 0).unwrap();
            let words: Vec<u64> = noted.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
            let pid: u64 = said.unwrap().trim().parse().unwrap();
            assert_eq!(words, [0, 0, pid, validity.until()], "{way:?}");
        }
    }

    #[test]
    fn what_kept_it_from_being_executed_is_told() {
        for way in WAYS {
            let missing = run(way, "", |order| order.path = c"/nonexistent");
            assert_eq!(missing, Err(Refusal::Exec(libc::ENOENT)), "{way:?}");
            let nowhere = run(way, "", |order| order.directory = c"/nonexistent");
            assert_eq!(nowhere, Err(Refusal::Directory(libc::ENOENT)), "{way:?}");
            // A plain directory is no cgroup.
            let plain = tempfile::tempdir().unwrap();
            let plain: &File = Box::leak(Box::new(File::open(plain.path()).unwrap()));
            let homeless = run(way, "", |order| order.cgroup = Some(plain.as_fd()));
            assert!(matches!(homeless, Err(Refusal::Cgroup(_))), "{way:?}: {homeless:?}");
        }
    }

    #[test]
    fn a_sandbox_holds_for_the_child_and_not_for_the_thread_that_made_it() {
        use super::super::sandbox::{SandboxSupport, Sandboxes};
        use crate::domain::{HostRules, HostRulesByName, JobName, Sandbox, SandboxLevel};
        if SandboxSupport::detect().level() == SandboxLevel::Off {
            eprintln!("skipped: this kernel can't do it");
            return;
        }
        let sandbox = Sandbox { level: SandboxLevel::Strict, ..Sandbox::default() };
        let defaults = HostRules { sandbox, ..HostRules::default() };
        let rules = HostRulesByName { defaults: defaults.into(), ..HostRulesByName::default() };
        let sandboxes: &Sandboxes = Box::leak(Box::new(Sandboxes::new(&rules, &[], SandboxSupport::detect()).unwrap()));
        let directory = tempfile::tempdir().unwrap();
        let (secret, scratch) = (directory.path().join("secret"), directory.path().join("scratch"));
        fs_err::write(&secret, "known").unwrap();
        fs_err::create_dir(&scratch).unwrap();
        let sandbox = sandboxes.of(&JobName::parse("any").unwrap()).unwrap();
        let script = format!(
            "grep ^Seccomp: /proc/self/status; grep ^CapEff: /proc/self/status; echo mine > {0}/file && cat {0}/file
            prlimit --pid $PPID --nofile > /dev/null 2>&1 && echo reached the parent
            cat {1} 2> /dev/null; kill -0 $PPID 2> /dev/null && echo could signal it; true",
            scratch.display(),
            secret.display()
        );
        // The thread may not gain rights by programs, as those that spawn jobs.
        std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            for way in WAYS {
                let free = run(way, &script, |_| {}).unwrap();
                let free: Vec<&str> = free.lines().collect();
                assert_eq!(free[0], "Seccomp:\t0", "{way:?}");
                assert_eq!(free[2..], ["mine", "reached the parent", "knowncould signal it"], "{way:?}");
                let confinement = Box::leak(Box::new(
                    sandbox.confine("/bin/sh".as_ref(), [&scratch, &scratch], None, &mut None).unwrap(),
                ));
                let confined = run(way, &script, |order| order.confinement = Some(confinement)).unwrap();
                let lines: Vec<&str> = confined.lines().collect();
                assert_eq!(lines, ["Seccomp:\t2", "CapEff:\t0000000000000000", "mine"], "{way:?}");
                let own = fs_err::read_to_string("/proc/thread-self/status").unwrap();
                assert!(own.contains("\nSeccomp:\t0\n"), "{own}");
                assert_eq!(fs_err::read_to_string(&secret).unwrap(), "known");
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn signals_are_as_they_were_afterwards() {
        let before = mask_signals(1 << (libc::SIGUSR2 - 1));
        for way in WAYS {
            run(way, "true", |_| {}).unwrap();
        }
        assert_eq!(mask_signals(before), 1 << (libc::SIGUSR2 - 1));
    }
}
