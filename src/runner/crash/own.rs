//! Tells the job's own code from that of the C and C++ libraries and other languages' runtimes, which in a static program
//! lie in the same file. Pure.

use crate::domain::function_name::short_name;

/// What is known of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    /// Whether its module is one of the system.
    pub(super) of_system: bool,
    /// Whether there is a module at all.
    pub(super) has_module: bool,
    pub(super) function: Option<&'a str>,
    pub(super) file: Option<&'a str>,
    /// Whether the module has debug information of some code.
    pub(super) module_has_lines: bool,
}

/// Whether the frame is of the job's own code. A source file tells most. Without one the name does; and where other code
/// of the module has debug information, code without any was not compiled by the job's makers (`strict`).
pub(super) fn is_own(frame: Evidence<'_>, strict: bool) -> bool {
    if frame.of_system || !frame.has_module {
        return false;
    }
    if let Some(file) = frame.file {
        return !is_runtime_file(file)
            && !frame.function.is_some_and(|name| ENDERS.contains(&short_name(name).as_str()));
    }
    let foreign = strict && frame.module_has_lines;
    !foreign && !frame.function.is_some_and(is_runtime_function)
}

/// Whether a source file is of a runtime: as compilers of distributions wrote its path into debug information.
fn is_runtime_file(file: &str) -> bool {
    const STARTS: [&str; 5] = ["/usr/include/", "/usr/lib/", "/rustc/", "../sysdeps/", "/usr/local/go/src/"];
    const PARTS: [&str; 12] = [
        "/include/c++/",
        "/libstdc++-v3/",
        "/libgcc/",
        "/libcxx/",
        "/libcxxabi/",
        "/libunwind/",
        "/compiler-rt/",
        "/glibc-",
        "/sysdeps/",
        "/musl-",
        "/rustlib/src/rust/",
        "/go/src/runtime/",
    ];
    STARTS.iter().any(|start| file.starts_with(start)) || PARTS.iter().any(|part| file.contains(part))
}

/// Functions that end a program on the caller's behalf, or that a runtime calls to begin.
const ENDERS: [&str; 9] = [
    "abort",
    "raise",
    "gsignal",
    "pthread_kill",
    "__assert_fail",
    "__assert_perror_fail",
    "start_thread",
    "_start",
    "kill",
];

fn is_runtime_function(name: &str) -> bool {
    const SCOPES: [&str; 9] = [
        "std::",
        "__gnu_cxx::",
        "__cxxabiv1::",
        "core::",
        "alloc::",
        "compiler_builtins::",
        "runtime.",
        "reflect.",
        "sync.",
    ];
    const STARTS: [&str; 12] = [
        "__",
        "_IO_",
        "_int_",
        "_Unwind_",
        "_dl_",
        "_nl_",
        "_start",
        "operator new",
        "operator delete",
        "rust_",
        "_rust_",
        "tcache_",
    ];
    const NAMES: [&str; 80] = [
        "execute_native_thread_routine",
        "_exit",
        "_init",
        "_fini",
        "abort",
        "raise",
        "gsignal",
        "pthread_kill",
        "pthread_exit",
        "start_thread",
        "_Fork",
        "fork",
        "vfork",
        "clone",
        "clone3",
        "start",
        "kill",
        "tgkill",
        "exit",
        "quick_exit",
        "malloc",
        "calloc",
        "realloc",
        "free",
        "cfree",
        "memalign",
        "aligned_alloc",
        "posix_memalign",
        "malloc_printerr",
        "malloc_consolidate",
        "munmap_chunk",
        "unlink_chunk",
        "sysmalloc",
        "systrim",
        "memcpy",
        "memmove",
        "memset",
        "memcmp",
        "memchr",
        "mempcpy",
        "memmem",
        "strlen",
        "strnlen",
        "strcpy",
        "strncpy",
        "strcat",
        "strncat",
        "strcmp",
        "strncmp",
        "strcasecmp",
        "strchr",
        "strrchr",
        "strstr",
        "strdup",
        "strndup",
        "strtok",
        "strtol",
        "strtoul",
        "strtod",
        "atoi",
        "atol",
        "qsort",
        "qsort_r",
        "bsearch",
        "printf",
        "fprintf",
        "sprintf",
        "snprintf",
        "vfprintf",
        "vsnprintf",
        "puts",
        "fputs",
        "fwrite",
        "fread",
        "fclose",
        "fflush",
        "getenv",
        "msort_with_tmp.part.0",
        "siglongjmp",
        "sigreturn",
    ];
    let short = short_name(name);
    SCOPES.iter().any(|scope| short.starts_with(scope))
        || STARTS.iter().any(|start| short.starts_with(start))
        || NAMES.contains(&short.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(function: &str, file: &str) -> Evidence<'static> {
        let text = |text: &str| Some(&*text.to_owned().leak()).filter(|text| !text.is_empty());
        Evidence {
            of_system: false,
            has_module: true,
            function: text(function),
            file: text(file),
            module_has_lines: false,
        }
    }

    #[test]
    fn runtimes_are_not_the_jobs_own() {
        for (function, file, own) in [
            ("Image::resize", "/src/resize.cpp", true),
            ("Image::resize", "", true),
            ("", "", true),
            ("main", "main.cpp", true),
            ("std::hash<Image>::operator()", "/src/image.hpp", true),
            ("std::vector<int>::operator[]", "/usr/include/c++/12/bits/stl_vector.h", false),
            ("std::vector<int>::operator[]", "", false),
            ("std::terminate", "", false),
            ("__cxa_throw", "", false),
            ("raise", "", false),
            ("abort", "/work/glibc/stdlib/abort.c", false),
            ("__pthread_kill_implementation", "./nptl/../sysdeps/nptl/pthread_kill.c", false),
            ("core::panicking::panic", "/rustc/0123/library/core/src/panicking.rs", false),
            ("<alloc::vec::Vec<T> as core::ops::Index<I>>::index", "", false),
            ("core::Engine::run", "/src/core/engine.cpp", true),
            ("operator new(unsigned long)", "", false),
            ("runtime.fatalpanic", "/usr/local/go/src/runtime/panic.go", false),
            ("main.work", "/src/main.go", true),
        ] {
            assert_eq!(is_own(of(function, file), true), own, "{function} {file}");
        }
    }

    #[test]
    fn code_without_debug_information_is_foreign_where_other_code_has_some() {
        let frame = Evidence { module_has_lines: true, ..of("zlib_inflate", "") };
        assert!(!is_own(frame, true) && is_own(frame, false));
        assert!(!is_own(Evidence { of_system: true, ..frame }, false));
        assert!(!is_own(Evidence { has_module: false, ..frame }, false));
    }
}
