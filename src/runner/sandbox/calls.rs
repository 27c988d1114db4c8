//! Which system calls a sandbox refuses, and how.
//!
//! A job may do with itself, its threads and its children what a program may do. Refused is what reaches beyond: other
//! processes, the kernel's own state, and calls by which other rules could be evaded. What a library tries in passing
//! is answered so that it goes on.

use libc::{EAFNOSUPPORT, ENOSYS, EPERM};

use super::filter::{Answer, Rule, Test};

/// Calls that no batch job needs. Their numbers above 424 are the same on every machine; the newest have no name in
/// the C library's list yet.
const REFUSED: &[libc::c_long] = &[
    // Memory and descriptors of other processes. `ptrace` is left: Landlock keeps it within the sandbox.
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Mounts, and other roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Namespaces of others; new ones are refused by their flags.
    libc::SYS_setns,
    // The kernel's keyrings, programs, events, and ways to have system calls made that no filter sees.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The kernel itself, and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

const OPEN_TREE_ATTR: libc::c_long = 467;

/// Calls about the process that their first argument names: with 0 it is the caller itself.
const ABOUT_OTHERS: &[libc::c_long] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// New namespaces of every kind; that of time has no bit for `clone`.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();
const TIME_NAMESPACE: u32 = 0x80;

/// Put characters into a terminal as if they were typed there.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// All processes of a user, for `setpriority` and `ioprio_set`.
const PRIO_USER: u32 = 2;
const IOPRIO_WHO_USER: u32 = 3;

/// The rules of *basic* and of *strict*.
pub(super) fn rules(network: bool) -> Vec<Rule> {
    let refused = Answer::Errno(EPERM);
    let when = |call, tests| Rule { call, tests, answer: refused };
    let mut rules: Vec<Rule> = REFUSED.iter().map(|call| Rule::always(*call, refused)).collect();
    rules.extend(ABOUT_OTHERS.iter().map(|call| when(*call, vec![(0, Test::IsNot(0))])));
    rules.extend([
        // A job stays on the cores of its slot. Thread pools pin their threads by these calls, and some end when they
        // fail: so they seem to succeed, as within a cpuset that holds the cores asked for only in part.
        Rule::always(libc::SYS_sched_setaffinity, Answer::Errno(0)),
        when(libc::SYS_setpriority, vec![(0, Test::Is(PRIO_USER)), (1, Test::IsNot(0))]),
        when(libc::SYS_ioprio_set, vec![(0, Test::Is(IOPRIO_WHO_USER)), (1, Test::IsNot(0))]),
        when(libc::SYS_unshare, vec![(0, Test::Has(NAMESPACES | TIME_NAMESPACE))]),
        when(libc::SYS_clone, vec![(0, Test::Has(NAMESPACES))]),
        // Its flags are in memory, where no filter sees them. Without it the C library uses `clone`.
        Rule::always(libc::SYS_clone3, Answer::Errno(ENOSYS)),
        when(libc::SYS_ioctl, vec![(1, Test::Is(TIOCSTI)), (1, Test::Is(TIOCLINUX))]),
    ]);
    if !network {
        rules.push(Rule {
            call: libc::SYS_socket,
            tests: vec![(0, Test::IsNot(libc::AF_UNIX.unsigned_abs()))],
            answer: Answer::Errno(EAFNOSUPPORT),
        });
    }
    rules
}
