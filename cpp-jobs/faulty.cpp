// Fails in any way that a program can, on demand: the supervisor's test piece. `faulty --help` lists the verbs.
// Plain POSIX on purpose, without jobber.hpp: nothing may soften the blow.

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace {

using arguments = std::vector<std::string>;

constexpr int usage_error = 64;
constexpr int lock_is_held = 99;
constexpr int default_lifetime = 300;

struct verb {
    const char* name;
    const char* parameters;
    const char* effect;
    std::function<int(const arguments&)> run;
};

/// Wrong use: ends the program with the usage text.
[[noreturn]] void usage(const std::string& problem);

std::string text_at(const arguments& given, std::size_t index, const char* fallback) {
    return index < given.size() ? given[index] : fallback;
}

double number_at(const arguments& given, std::size_t index, double fallback) {
    if (index >= given.size()) {
        return fallback;
    }
    char* end = nullptr;
    const double number = std::strtod(given[index].c_str(), &end);
    if (end == given[index].c_str() || *end != '\0' || !(number >= 0 && number <= 1e12)) {
        usage("\"" + given[index] + "\" is not a number of use here");
    }
    return number;
}

const std::string& required(const arguments& given, std::size_t index, const char* what) {
    if (index >= given.size()) {
        usage(std::string(what) + " is missing");
    }
    return given[index];
}

/// A size like 4096, 64K, 500M, 2G (powers of 1024).
std::uint64_t size_at(const arguments& given, std::size_t index) {
    arguments digits{required(given, index, "the number of bytes")};
    const std::size_t suffix = digits[0].find_first_of("KMG");
    int shift = 0;
    if (suffix != std::string::npos && suffix + 1 == digits[0].size()) {
        shift = digits[0][suffix] == 'K' ? 10 : digits[0][suffix] == 'M' ? 20 : 30;
        digits[0].resize(suffix);
    }
    return static_cast<std::uint64_t>(number_at(digits, 0, 0)) << shift;
}

/// Takes the flag out of the arguments, if it is there.
bool take_flag(arguments& given, const char* flag) {
    const auto found = std::find(given.begin(), given.end(), flag);
    if (found == given.end()) {
        return false;
    }
    given.erase(found);
    return true;
}

void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "%s: %s\n", what.c_str(), std::strerror(errno));
    std::exit(1);
}

void sleep_seconds(double seconds) {
    timespec left{};
    left.tv_sec = static_cast<time_t>(seconds);
    left.tv_nsec = static_cast<long>((seconds - static_cast<double>(left.tv_sec)) * 1e9);
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

[[noreturn]] void sleep_for_ever() {
    while (true) {
        pause();
    }
}

int attempt_number() {
    const char* attempt = std::getenv("JOBBER_ATTEMPT");
    return attempt ? std::atoi(attempt) : 1;
}

void write_all(int descriptor, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t written = write(descriptor, bytes.data(), bytes.size());
        if (written < 0 && errno != EINTR) {
            die("couldn't write");
        }
        bytes.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
    }
}

/// Writes as fast as it can: lines of 64 bytes, or one line without end.
int flood(int descriptor, arguments given) {
    const bool one_line = take_flag(given, "--one-line");
    std::string block(1 << 16, 'x');
    for (std::size_t at = 63; !one_line && at < block.size(); at += 64) {
        block[at] = '\n';
    }
    for (std::uint64_t left = size_at(given, 0); left > 0;) {
        const std::uint64_t now = std::min<std::uint64_t>(left, block.size());
        write_all(descriptor, std::string_view(block).substr(0, now));
        left -= now;
    }
    return 0;
}

int* volatile nowhere = nullptr;

int crash_by_segfault(const arguments&) {
    *nowhere = 1;
    return 0;
}

// What is called below is not to become a part of its caller: a report of the crash should show both.
#define NOT_INLINED __attribute__((noinline))

/// A picture whose pixels were never allocated.
struct picture {
    int* volatile pixels = nullptr;

    NOT_INLINED void paint(int colour) {
        pixels[0] = colour;
    }

    NOT_INLINED void draw_circle(int radius) {
        paint(2 * radius);
        said = said + 1;
    }

    volatile int said = 0;
};

int crash_in_method(const arguments&) {
    picture().draw_circle(3);
    return 0;
}

NOT_INLINED int descend(int depth, volatile int bottom) {
    volatile char room[512];
    room[depth % 512] = 1;
    return depth == bottom ? depth : descend(depth + 1, bottom) + room[0];
}

int overflow_stack(const arguments&) {
    return descend(0, -1);
}

struct shape {
    explicit shape(bool ask_at_once) {
        if (ask_at_once) {
            report();
        }
    }
    virtual ~shape() = default;
    virtual int corners() const = 0;

    NOT_INLINED void report() const {
        say("corners: " + std::to_string(corners()));
    }
};

struct square final : shape {
    using shape::shape;
    int corners() const override {
        return 4;
    }
};

struct hexagon final : shape {
    using shape::shape;
    int corners() const override {
        return 6;
    }
};

shape* make_shape(const arguments& given, bool ask_at_once) {
    if (given.empty()) {
        return new square(ask_at_once);
    }
    return new hexagon(ask_at_once);
}

/// What the allocator writes into the freed memory is taken for the table of the object's functions.
int use_after_free(const arguments& given) {
    shape* volatile forgotten = make_shape(given, false);
    delete forgotten;
    forgotten->report();
    return 0;
}

/// Asks a shape for its corners while it is not yet what it will be.
int call_pure_virtual(const arguments& given) {
    delete make_shape(given, true);
    return 0;
}

int free_twice(const arguments&) {
    char* const memory = static_cast<char*>(std::malloc(40));
    char* const volatile same = memory;
    std::free(memory);
    std::free(same);
    return 0;
}

struct aborts_when_destroyed {
    NOT_INLINED ~aborts_when_destroyed() {
        std::fputs("about to abort in a destructor\n", stderr);
        std::abort();
    }
};

int abort_in_destructor(const arguments&) {
    const aborts_when_destroyed guard;
    return 0;
}

NOT_INLINED int share(int all, volatile int among) {
    return all / among;
}

int divide_by_zero(const arguments&) {
    return share(10, 0);
}

[[noreturn]] NOT_INLINED void throw_text(const std::string& text) {
    throw std::runtime_error(text);
}

int throw_in_thread(const arguments& given) {
    std::thread([&] { throw_text(text_at(given, 0, "thrown in a thread")); }).join();
    return 0;
}

int crash_in_thread(const arguments&) {
    std::thread([] { picture().draw_circle(5); }).join();
    return 0;
}

/// The child's end is this process's: it exits with 128 and the signal's number, as a shell does.
int crash_in_child(const arguments&) {
    const pid_t child = fork();
    if (child < 0) {
        die("couldn't fork");
    }
    if (child == 0) {
        picture().draw_circle(7);
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int allocate(const arguments& given) {
    constexpr std::size_t megabyte = 1 << 20;
    const auto limit = static_cast<std::uint64_t>(number_at(given, 0, 1e12));
    std::vector<volatile char*> blocks;
    for (std::uint64_t taken = 0; taken < limit; ++taken) {
        volatile char* block = new char[megabyte];
        for (std::size_t at = 0; at < megabyte; at += 4096) {
            block[at] = 1;
        }
        blocks.push_back(block);
    }
    say("allocated " + std::to_string(blocks.size()) + " MB");
    return 0;
}

/// Starts a child that sleeps, and waits until it has set itself up.
pid_t start_sleeper(bool own_session, bool quiet, double lifetime) {
    int ready[2];
    if (pipe(ready) != 0) {
        die("couldn't make a pipe");
    }
    const pid_t child = fork();
    if (child < 0) {
        die("couldn't fork");
    }
    if (child == 0) {
        if (own_session) {
            setsid();
        }
        if (quiet) {
            const int null = open("/dev/null", O_RDWR);
            for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
                dup2(null, descriptor);
            }
        }
        write_all(ready[1], "r");
        close(ready[0]);
        close(ready[1]);
        sleep_seconds(lifetime);
        _exit(0);
    }
    close(ready[1]);
    char byte = 0;
    while (read(ready[0], &byte, 1) < 0 && errno == EINTR) {
    }
    close(ready[0]);
    return child;
}

int fork_children(arguments given) {
    const bool own_session = take_flag(given, "--setsid");
    const int count = static_cast<int>(number_at(given, 0, 1));
    for (int i = 0; i < count; ++i) {
        say("child " + std::to_string(start_sleeper(own_session, true, default_lifetime)));
    }
    return 0;
}

int hold_pipe(arguments given) {
    const bool own_session = take_flag(given, "--setsid");
    const double lifetime = number_at(given, 0, default_lifetime);
    say("child " + std::to_string(start_sleeper(own_session, false, lifetime)));
    return 0;
}

volatile std::sig_atomic_t term_arrived = 0;

int exit_on_term(const arguments& given) {
    const int code = static_cast<int>(number_at(given, 0, 0));
    // Blocked until sigsuspend lets it in: it can't arrive between the check and the wait.
    sigset_t term;
    sigset_t before;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &before);
    std::signal(SIGTERM, [](int) { term_arrived = 1; });
    sigdelset(&before, SIGTERM);
    say("waiting for SIGTERM");
    while (!term_arrived) {
        sigsuspend(&before);
    }
    return code;
}

int ignore_term(const arguments&) {
    std::signal(SIGTERM, SIG_IGN);
    say("ignoring SIGTERM");
    sleep_for_ever();
}

int write_error_file(const arguments& given) {
    const char* path = std::getenv("JOBBER_ERROR_FILE");
    const std::string& text = required(given, 0, "the text");
    std::FILE* file = path ? std::fopen(path, "wb") : nullptr;
    if (!file) {
        die("couldn't open JOBBER_ERROR_FILE");
    }
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
    std::fputs("this is stderr, not the error text\n", stderr);
    return 1;
}

int fail_until(const arguments& given) {
    required(given, 0, "the attempt that succeeds");
    const int success = static_cast<int>(number_at(given, 0, 1));
    const int attempt = attempt_number();
    if (attempt < success) {
        std::fprintf(stderr, "attempt %d fails, attempt %d will succeed\n", attempt, success);
        return 1;
    }
    say("attempt " + std::to_string(attempt) + " succeeds");
    return 0;
}

int kill_parent(const arguments&) {
    const pid_t parent = getppid();
    if (parent <= 1 || kill(parent, SIGKILL) != 0) {
        std::fputs("there is no parent to kill\n", stderr);
        return 1;
    }
    for (int i = 0; i < 500 && getppid() == parent; ++i) {
        sleep_seconds(0.01);
    }
    return 1;
}

int hold_lock(const arguments& given) {
    const std::string& path = required(given, 0, "the file");
    required(given, 1, "the number of seconds");
    const double seconds = number_at(given, 1, 0);
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) {
        die("couldn't open " + path);
    }
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
        std::fprintf(stderr, "somebody else holds the lock on %s\n", path.c_str());
        return lock_is_held;
    }
    const char* id = std::getenv("JOBBER_JOB_ID");
    const std::string who = std::string(id ? id : "-") + " " + std::to_string(attempt_number()) + "\n";
    write_all(file, "start " + who);
    sleep_seconds(seconds);
    write_all(file, "end " + who);
    return 0;
}

std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
        char escaped[8];
        if (static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\') {
            std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
            out += escaped;
        } else {
            out += c;
        }
    }
    return out + "\"";
}

std::string list(const std::vector<std::string>& items) {
    std::string out = "[";
    for (const std::string& item : items) {
        out += (out.size() > 1 ? "," : "") + item;
    }
    return out + "]";
}

std::string environment() {
    std::map<std::string, std::string> variables;
    for (char** entry = environ; *entry; ++entry) {
        const std::string_view text(*entry);
        const std::size_t equals = text.find('=');
        variables.emplace(text.substr(0, equals), equals == text.npos ? "" : text.substr(equals + 1));
    }
    std::string out = "{";
    for (const auto& [name, value] : variables) {
        out += (out.size() > 1 ? "," : "") + quoted(name) + ":" + quoted(value);
    }
    return out + "}";
}

/// The numbers of all open descriptors: a job should see 0, 1 and 2.
std::vector<std::string> open_descriptors() {
    std::vector<std::string> numbers;
    if (DIR* directory = opendir("/proc/self/fd")) {
        while (const dirent* entry = readdir(directory)) {
            if (entry->d_name[0] != '.' && std::atoi(entry->d_name) != dirfd(directory)) {
                numbers.push_back(entry->d_name);
            }
        }
        closedir(directory);
    }
    return numbers;
}

std::vector<std::string> usable_cpus() {
    std::vector<std::string> numbers;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    sched_getaffinity(0, sizeof cpus, &cpus);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &cpus)) {
            numbers.push_back(std::to_string(cpu));
        }
    }
    return numbers;
}

/// Signals that are ignored or blocked from birth: a job should have none.
std::vector<std::string> unusual_signals() {
    std::vector<std::string> numbers;
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, nullptr, &blocked);
    for (int signal = 1; signal < 32; ++signal) {
        struct sigaction action = {};
        const bool known = sigaction(signal, nullptr, &action) == 0;
        if (known && (action.sa_handler == SIG_IGN || sigismember(&blocked, signal) == 1)) {
            numbers.push_back(std::to_string(signal));
        }
    }
    return numbers;
}

int echo(const arguments& given) {
    std::string input;
    char buffer[4096];
    for (ssize_t got = 0; (got = read(STDIN_FILENO, buffer, sizeof buffer)) > 0;) {
        input.append(buffer, static_cast<std::size_t>(got));
    }
    arguments words;
    for (const std::string& word : given) {
        words.push_back(quoted(word));
    }
    char directory[4096] = "";
    if (!getcwd(directory, sizeof directory)) {
        die("couldn't find the working directory");
    }
    say("{\"arguments\":" + list(words) + ",\"environment\":" + environment() + ",\"stdin\":" + quoted(input) +
        ",\"directory\":" + quoted(directory) + ",\"descriptors\":" + list(open_descriptors()) +
        ",\"cpus\":" + list(usable_cpus()) + ",\"unusualSignals\":" + list(unusual_signals()) +
        ",\"pid\":" + std::to_string(getpid()) + ",\"parent\":" + std::to_string(getppid()) +
        ",\"group\":" + std::to_string(getpgrp()) +
        ",\"nice\":" + std::to_string(getpriority(PRIO_PROCESS, 0)) + "}");
    return 0;
}

/// In the order of the usage text.
const verb verbs[] = {
    {"exit", "N", "exits with code N",
     [](const arguments& given) {
         required(given, 0, "the exit code");
         return static_cast<int>(number_at(given, 0, 0));
     }},
    {"segfault", "", "writes through a null pointer", crash_by_segfault},
    {"segfault-in-method", "", "does so in a method, some calls deep", crash_in_method},
    {"segfault-in-thread", "", "does so in another thread", crash_in_thread},
    {"segfault-in-child", "", "does so in a child, and exits with 139 itself", crash_in_child},
    {"stack-overflow", "", "calls itself until the stack ends", overflow_stack},
    {"use-after-free", "", "calls a method of an object that is gone", use_after_free},
    {"double-free", "", "frees memory twice, which the C library notices", free_twice},
    {"pure-virtual-call", "", "calls a method that is not there yet", call_pure_virtual},
    {"divide-by-zero", "", "divides by zero", divide_by_zero},
    {"abort", "", "calls abort()",
     [](const arguments&) -> int {
         std::fputs("about to abort\n", stderr);
         std::abort();
     }},
    {"abort-in-destructor", "", "does so in a destructor", abort_in_destructor},
    {"throw", "[TEXT]", "throws std::runtime_error, and nobody catches it",
     [](const arguments& given) -> int { throw std::runtime_error(text_at(given, 0, "thrown on demand")); }},
    {"throw-in-thread", "[TEXT]", "does so in another thread", throw_in_thread},
    {"hang", "", "sleeps for ever",
     [](const arguments&) -> int {
         say("hanging");
         sleep_for_ever();
     }},
    {"ignore-term", "", "ignores SIGTERM and sleeps for ever", ignore_term},
    {"exit-on-term", "N", "waits for SIGTERM, then exits with code N", exit_on_term},
    {"allocate", "[MB]", "allocates and touches memory, without end or up to MB", allocate},
    {"fork-children", "[N] [--setsid]", "leaves N sleeping children behind, each in its own session or in the group",
     fork_children},
    {"hold-pipe", "[SECONDS] [--setsid]", "exits while a child keeps stdout and stderr open", hold_pipe},
    {"flood", "BYTES [--one-line]", "writes that much to stdout (4096, 64K, 500M, 2G), then exits 0",
     [](const arguments& given) { return flood(STDOUT_FILENO, given); }},
    {"flood-stderr", "BYTES [--one-line]", "the same to stderr",
     [](const arguments& given) { return flood(STDERR_FILENO, given); }},
    {"stderr", "TEXT", "writes TEXT to stderr and exits 1",
     [](const arguments& given) {
         std::fprintf(stderr, "%s\n", required(given, 0, "the text").c_str());
         return 1;
     }},
    {"error-file", "TEXT", "writes TEXT to JOBBER_ERROR_FILE and exits 1", write_error_file},
    {"sleep", "SECONDS", "sleeps, then exits 0",
     [](const arguments& given) {
         required(given, 0, "the number of seconds");
         sleep_seconds(number_at(given, 0, 0));
         return 0;
     }},
    {"fail-until", "N", "fails before attempt N, then succeeds", fail_until},
    {"kill-parent", "", "kills its parent process with SIGKILL", kill_parent},
    {"echo", "[ARGUMENT...]", "prints what it was given (arguments, environment, stdin, CPUs, ...) as JSON", echo},
    {"lock", "FILE SECONDS", "holds an exclusive lock on FILE; exits 99 if somebody else does", hold_lock},
};

void print_usage(std::FILE* out) {
    std::fputs("usage: faulty VERB [ARGUMENT...]\n\n", out);
    for (const verb& verb : verbs) {
        const std::string call = std::string(verb.name) + " " + verb.parameters;
        std::fprintf(out, "  %-34s %s\n", call.c_str(), verb.effect);
    }
}

[[noreturn]] void usage(const std::string& problem) {
    std::fprintf(stderr, "faulty: %s\n\n", problem.c_str());
    print_usage(stderr);
    std::exit(usage_error);
}

} // namespace

int main(int argc, char** argv) {
    const arguments given(argv + std::min(argc, 1), argv + argc);
    if (given.empty()) {
        usage("no verb is given");
    }
    if (given[0] == "--help") {
        print_usage(stdout);
        return 0;
    }
    const auto found =
        std::find_if(std::begin(verbs), std::end(verbs), [&](const verb& verb) { return verb.name == given[0]; });
    if (found == std::end(verbs)) {
        usage("\"" + given[0] + "\" is not one of its verbs");
    }
    return found->run(arguments(given.begin() + 1, given.end()));
}
