// Ways to die. The line that a report must name ends in the way's name as a comment; the function around it is the one.

#include <cassert>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

#ifdef WITH_LIBRARY
void library_breaks(int* place);
#endif

static volatile int sink;
static void* volatile nowhere = nullptr;

struct Image {
    int* volatile pixels = nullptr;
    NOINLINE void resize(int width);
    NOINLINE void load(int width) {
        resize(width);
        sink = sink + 1;
    }
};

void Image::resize(int width) {
    pixels[0] = width; // null-in-method
}

NOINLINE static void call_pointer() {
    auto function = reinterpret_cast<void (*)()>(nowhere);
    function(); // call-of-null
    sink = sink + 1;
}

NOINLINE static void jump_wild() {
    auto function = reinterpret_cast<void (*)()>(reinterpret_cast<char*>(nowhere) + 0x123456789000);
    function(); // wild-jump
    sink = sink + 1;
}

NOINLINE static void jump_to_data() {
    static volatile char data[64];
    auto function = reinterpret_cast<void (*)()>(const_cast<char*>(data));
    function(); // jump-to-data
    sink = sink + 1;
}

NOINLINE static int descend(int depth) {
    volatile char room[512];
    room[depth % 512] = 1;
    return descend(depth + 1) + room[0]; // stack-overflow
}

NOINLINE static void free_twice() {
    char* memory = static_cast<char*>(std::malloc(40));
    char* volatile other = memory;
    std::free(memory);
    std::free(other); // double-free
    sink = sink + 1;
}

NOINLINE static void write_before() {
    char* memory = static_cast<char*>(std::malloc(40));
    reinterpret_cast<volatile std::size_t*>(memory)[-1] = 7;
    std::free(memory); // heap-corruption
    sink = sink + 1;
}

struct Shape {
    Shape() { begin(); }
    virtual ~Shape() = default;
    NOINLINE void begin() {
        draw(); // pure-virtual-call
        sink = sink + 1;
    }
    virtual void draw() = 0;
};
struct Circle : Shape {
    void draw() override { sink = 1; }
};

NOINLINE static void make_circle() {
    Circle circle;
    sink = sink + 1;
}

NOINLINE static void load_file(const char* what) {
    throw std::runtime_error(what); // uncaught-exception
}

NOINLINE static void promise_nothing() noexcept {
    std::string text = "text";
    if (sink == 0) {
        throw std::logic_error(text); // noexcept-broken
    }
}

struct Guard {
    NOINLINE ~Guard() {
        std::abort(); // abort-in-destructor
    }
};

NOINLINE static void check(int value) {
    assert(value > 0); // assertion
    sink = sink + 1;
}

NOINLINE static int divide(int value) {
    volatile int zero = 0;
    return value / zero; // division-by-zero
}

NOINLINE static void bad_instruction() {
    asm volatile("ud2"); // bad-instruction
}

NOINLINE static void breakpoint() {
    asm volatile("int3"); // breakpoint
    sink = sink + 1;
}

NOINLINE static void beyond_file() {
    char path[] = "/tmp/ways-XXXXXX";
    const int file = mkstemp(path);
    unlink(path);
    if (ftruncate(file, 4096) != 0) {
        std::exit(9);
    }
    volatile char* map = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    if (ftruncate(file, 0) != 0) {
        std::exit(9);
    }
    map[10] = 1; // beyond-file
}

NOINLINE static void write_constant() {
    static const char text[] = "constant";
    const_cast<volatile char*>(text)[sink] = 'C'; // write-to-constant
}

NOINLINE static void not_canonical() {
    volatile int* place = reinterpret_cast<int*>(reinterpret_cast<char*>(nowhere) + 0x6b6b6b6b6b6b6b6b);
    *place = 1; // not-canonical
}

static void on_signal(int) {
    *reinterpret_cast<volatile int*>(nowhere) = 1; // in-handler
}

NOINLINE static void in_handler() {
    std::signal(SIGUSR1, on_signal);
    std::raise(SIGUSR1);
    sink = sink + 1;
}

static void on_fault(int) {
    std::abort(); // abort-in-handler
}

NOINLINE static void abort_in_handler() {
    std::signal(SIGSEGV, on_fault);
    *reinterpret_cast<volatile int*>(nowhere) = 1;
}

NOINLINE static void thread_body(int* place) {
    place[2] = 1; // in-thread
}

NOINLINE static void child_body(int* place) {
    *place = 1; // in-child
}

NOINLINE static void wait_for_signal() {
    const pid_t self = getpid();
    if (fork() == 0) {
        kill(self, SIGSEGV);
        _exit(0);
    }
    for (;;) {
        sink = sink + 1; // sent
    }
}

namespace {
template <class T> struct Tree {
    NOINLINE void visit(T* leaf) {
        auto put = [](T* place) {
            *place = T(); // in-template
        };
        put(leaf);
        sink = sink + 1;
    }
};
} // namespace

int main(int argc, char** argv) {
    const std::string way = argc > 1 ? argv[1] : "";
    if (way == "null-in-method") {
        Image().load(4);
    } else if (way == "call-of-null") {
        call_pointer();
    } else if (way == "wild-jump") {
        jump_wild();
    } else if (way == "jump-to-data") {
        jump_to_data();
    } else if (way == "stack-overflow") {
        sink = descend(0);
    } else if (way == "stack-overflow-in-thread") {
        std::thread([] { sink = descend(0); }).join();
    } else if (way == "double-free") {
        free_twice();
    } else if (way == "heap-corruption") {
        write_before();
    } else if (way == "pure-virtual-call") {
        make_circle();
    } else if (way == "uncaught-exception") {
        load_file("no such file");
    } else if (way == "exception-in-thread") {
        std::thread([] { load_file("no such file"); }).join();
    } else if (way == "noexcept-broken") {
        promise_nothing();
    } else if (way == "abort-in-destructor") {
        Guard guard;
        sink = 1;
    } else if (way == "assertion") {
        check(sink);
    } else if (way == "division-by-zero") {
        sink = divide(argc);
    } else if (way == "bad-instruction") {
        bad_instruction();
    } else if (way == "breakpoint") {
        breakpoint();
    } else if (way == "beyond-file") {
        beyond_file();
    } else if (way == "write-to-constant") {
        write_constant();
    } else if (way == "not-canonical") {
        not_canonical();
    } else if (way == "in-handler") {
        in_handler();
    } else if (way == "abort-in-handler") {
        abort_in_handler();
    } else if (way == "in-thread") {
        std::thread([] { thread_body(static_cast<int*>(nowhere)); }).join();
    } else if (way == "in-child") {
        const pid_t child = fork();
        if (child == 0) {
            child_body(static_cast<int*>(nowhere));
        }
        waitpid(child, nullptr, 0);
        std::raise(SIGKILL);
    } else if (way == "in-template") {
        Tree<int>().visit(static_cast<int*>(nowhere));
#ifdef WITH_LIBRARY
    } else if (way == "in-library") {
        library_breaks(static_cast<int*>(nowhere));
#endif
    } else if (way == "sent") {
        wait_for_signal();
    }
    return 0;
}
