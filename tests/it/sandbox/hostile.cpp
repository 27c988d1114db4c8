// Tries what a job has no business to do, one thing after another, and says of each what came of it: "NAME ok" or
// "NAME errno". Each does no harm where it succeeds.

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

void attempt(const std::string& name, const std::function<long()>& act) {
    errno = 0;
    const long result = act();
    std::printf("%s %s\n", name.c_str(), result >= 0 ? "ok" : strerrorname_np(errno));
}

long open_and_close(const std::string& path, int flags) {
    const int file = open(path.c_str(), flags | O_CLOEXEC, 0600);
    if (file < 0) {
        return -1;
    }
    char byte = 0;
    const long result = (flags & O_ACCMODE) == O_RDONLY && !(flags & O_DIRECTORY) ? read(file, &byte, 1) : 0;
    const int error = errno;
    close(file);
    errno = error;
    return result;
}

long attach(pid_t target) {
    if (ptrace(PTRACE_SEIZE, target, nullptr, nullptr) < 0) {
        return -1;
    }
    ptrace(PTRACE_INTERRUPT, target, nullptr, nullptr);
    waitpid(target, nullptr, __WALL);
    return ptrace(PTRACE_DETACH, target, nullptr, nullptr);
}

/// What a process can do to another one.
void against(const std::string& whom, pid_t target) {
    const auto about = [&](const char* what) { return whom + "-" + what; };
    const std::string proc = "/proc/" + std::to_string(target) + "/";
    attempt(about("environment"), [&] { return open_and_close(proc + "environ", O_RDONLY); });
    attempt(about("memory"), [&] { return open_and_close(proc + "mem", O_RDWR); });
    attempt(about("read-memory"), [&] {
        char byte = 0;
        iovec mine{&byte, 1}, its{reinterpret_cast<void*>(0x1000), 1};
        const long result = process_vm_readv(target, &mine, 1, &its, 1, 0);
        // No such address: it would have been read.
        return errno == EFAULT ? 0 : result;
    });
    attempt(about("ptrace"), [&] { return attach(target); });
    attempt(about("signal"), [&] { return kill(target, 0); });
    attempt(about("stop"), [&] { return kill(target, SIGCONT); });
    attempt(about("prlimit"), [&] {
        rlimit limit{};
        return syscall(SYS_prlimit64, target, RLIMIT_NOFILE, nullptr, &limit);
    });
    attempt(about("nice"), [&] { return setpriority(PRIO_PROCESS, target, getpriority(PRIO_PROCESS, target)); });
    attempt(about("scheduler"), [&] {
        sched_param none{};
        return sched_setscheduler(target, SCHED_OTHER, &none);
    });
}

/// What a process can do to the machine.
void against_system() {
    attempt("mount", [] {
        return mount("none", "/nowhere/at/all", "tmpfs", 0, nullptr) < 0 && errno == ENOENT ? 0 : -1;
    });
    attempt("unshare-user", [] {
        const pid_t child = fork();
        if (child == 0) {
            _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : errno);
        }
        int status = 0;
        waitpid(child, &status, 0);
        errno = WEXITSTATUS(status);
        return errno == 0 ? 0 : -1;
    });
    attempt("clone-user", [] {
        const long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
        if (child == 0) {
            _exit(0);
        }
        if (child > 0) {
            waitpid(static_cast<pid_t>(child), nullptr, 0);
        }
        return child;
    });
    attempt("keyring", [] { return syscall(SYS_keyctl, 0, -3, 1); });
    attempt("kcmp", [] { return syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0); });
    attempt("io-uring", [] { return syscall(SYS_io_uring_setup, 0, nullptr) < 0 && errno == EPERM ? -1 : 0; });
    attempt("bpf", [] { return syscall(SYS_bpf, 9999, nullptr, 0) < 0 && errno == EPERM ? -1 : 0; });
    attempt("perf", [] {
        perf_event_attr about{};
        about.type = PERF_TYPE_SOFTWARE;
        about.size = sizeof about;
        about.config = PERF_COUNT_SW_TASK_CLOCK;
        about.exclude_kernel = 1;
        const long event = syscall(SYS_perf_event_open, &about, 0, -1, -1, 0);
        if (event >= 0) {
            close(static_cast<int>(event));
        }
        return event;
    });
    attempt("type-for-others", [] { return ioctl(0, TIOCSTI, "x") < 0 && errno == EPERM ? -1 : 0; });
}

void pin_to_all() {
    cpu_set_t all, now;
    CPU_ZERO(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        CPU_SET(cpu, &all);
    }
    attempt("pin", [&] { return sched_setaffinity(0, sizeof all, &all); });
    sched_getaffinity(0, sizeof now, &now);
    std::printf("cpus %d\n", CPU_COUNT(&now));
}

void network(int port, const std::string& abstract) {
    attempt("tcp", [&] {
        const int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (made < 0) {
            return -1;
        }
        sockaddr_in there{};
        there.sin_family = AF_INET;
        there.sin_port = htons(static_cast<std::uint16_t>(port));
        there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return connect(made, reinterpret_cast<sockaddr*>(&there), sizeof there);
    });
    attempt("udp", [] { return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); });
    attempt("netlink", [] { return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0); });
    attempt("pair", [] {
        int both[2];
        return socketpair(AF_UNIX, SOCK_STREAM, 0, both);
    });
    attempt("abstract", [&] {
        const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_un there{};
        there.sun_family = AF_UNIX;
        std::memcpy(there.sun_path + 1, abstract.data(), abstract.size());
        const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + abstract.size());
        return connect(made, reinterpret_cast<sockaddr*>(&there), size);
    });
}

/// Becomes another program, for which this kernel has no Landlock.
int without_landlock(char** program) {
    constexpr unsigned create_ruleset = 444;
    sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, create_ruleset, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog filter{4, steps};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0) {
        execvp(program[0], program);
    }
    std::perror("without-landlock");
    return 1;
}

}  // namespace

int main(int count, char** given) {
    const std::string verb = count > 1 ? given[1] : "";
    if (verb == "process") {
        against(given[2], std::atoi(given[3]));
    } else if (verb == "system") {
        against_system();
    } else if (verb == "pin") {
        pin_to_all();
    } else if (verb == "network") {
        network(std::atoi(given[2]), given[3]);
    } else if (verb == "read") {
        for (int at = 2; at < count; ++at) {
            attempt(given[at], [&] { return open_and_close(given[at], O_RDONLY); });
        }
    } else if (verb == "write") {
        for (int at = 2; at < count; ++at) {
            attempt(given[at], [&] { return open_and_close(given[at], O_WRONLY | O_CREAT); });
        }
    } else if (verb == "without-landlock") {
        return without_landlock(given + 2);
    } else {
        return 64;
    }
    return 0;
}
