//! What is special: separate debug information, files that are gone, code without unwind information, other languages,
//! processes that may not be read, and time that is over.
#![expect(clippy::disallowed_methods, reason = "compiles and runs programs that die, which are no jobs")]
#![expect(unsafe_code, reason = "a thread gives up its rights by a system call that has no safe wrapper")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::super::{capture, symbolise};
use super::{GCC, compile, die, do_run, in_a_minute, line_of, needs, tracer};
use crate::domain::{Crash, MOST_FRAMES, PointsAt};

fn program(folder: &Path, compiler: &str, flags: &[&str], file: &str, source: &str) -> std::path::PathBuf {
    fs_err::write(folder.join(file), source).unwrap();
    do_run(Command::new(compiler).current_dir(folder).args(flags).args([file, "-o", "program"]));
    folder.join("program")
}

fn crash_of(command: &mut Command) -> Crash {
    symbolise(tracer::run(command, || {}).unwrap(), in_a_minute())
}

fn names(crash: &Crash) -> Vec<String> {
    crash.frames.iter().map(crate::domain::Frame::name).collect()
}

const NULL: &str = "int* volatile p; int main() { *p = 1; return 0; }\n";

#[test]
fn debug_information_is_found_beside_the_program_and_only_if_it_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let keep = |name: &str| {
        do_run(Command::new("objcopy").current_dir(&folder).args(["--only-keep-debug", "program", name]));
    };
    let strip = |link: &str| {
        do_run(Command::new("objcopy").current_dir(&folder).args(["--strip-all", link, "program"]));
    };
    let line = |path: &Path| crash_of(&mut Command::new(path)).place().unwrap().line;

    // By its build id, wherever the link leads.
    let path = program(folder.path(), "g++", &["-g"], "a.cpp", NULL);
    keep("program.debug");
    strip("--strip-all");
    assert_eq!(line(&path), Some(1));
    let other = program(folder.path(), "g++", &["-g", "-O2"], "a.cpp", NULL);
    strip("--strip-all");
    assert_eq!(line(&other), None, "the file there is of another build");

    // By the checksum in the link.
    let path = program(folder.path(), "g++", &["-g", "-Wl,--build-id=none"], "a.cpp", NULL);
    fs_err::remove_file(folder.path().join("program.debug")).unwrap();
    keep("linked.dbg");
    strip("--add-gnu-debuglink=linked.dbg");
    assert_eq!(line(&path), Some(1));
    let linked = folder.path().join("linked.dbg");
    let mut bytes = fs_err::read(&linked).unwrap();
    bytes.push(0);
    fs_err::write(&linked, bytes).unwrap();
    assert_eq!(line(&path), None, "the checksum is another one");
    std::fs::create_dir(folder.path().join(".debug")).unwrap();
    std::fs::rename(&linked, folder.path().join(".debug/linked.dbg")).unwrap();
    let crash = crash_of(&mut Command::new(&path));
    assert_eq!(
        crash.incomplete.as_deref(),
        Some("program is stripped: keep its symbols, or its .debug file beside it")
    );
}

#[test]
fn a_program_that_is_gone_is_read_by_what_the_kernel_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = compile(folder.path(), &GCC[1]);
    let library = path.with_file_name("libown.so");
    let replace = || {
        fs_err::remove_file(&path).unwrap();
        fs_err::write(&path, "another one").unwrap();
        fs_err::write(library.with_extension("new"), "another one").unwrap();
        std::fs::rename(library.with_extension("new"), &library).unwrap();
    };
    let death = tracer::run(Command::new(&path).arg("in-library"), replace);
    let crash = symbolise(death.unwrap(), in_a_minute());
    assert!(names(&crash).contains(&"main".to_owned()), "{crash:#?}");
    // Where the worker has the right, the library's file is found, too.
    match crash.frames[0].function.as_deref() {
        Some(function) => assert_eq!(function, "library_breaks"),
        None => assert_eq!(crash.incomplete.as_deref(), Some("libown.so is not to be had as it was mapped")),
    }
}

#[test]
fn a_program_that_has_mapped_its_own_file_is_found_where_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let source = "\
#include <fcntl.h>
#include <sys/mman.h>
int main(int argc, char** argv) {
    char* file = mmap(0, 4096 * 8, PROT_READ, MAP_PRIVATE, open(argv[0], O_RDONLY), 0);
    *(volatile char*)file = argc;
    return 0;
}
";
    // Linkers leave room between segments or none, and map a small file's beginning once or twice.
    for flags in [&["-g"][..], &["-g", "-Wl,-z,noseparate-code"], &["-g", "-no-pie"], &["-g", "-static"]] {
        let crash = crash_of(&mut Command::new(program(folder.path(), "gcc", flags, "a.c", source)));
        assert!(crash.headline().starts_with("segmentation fault in main at a.c:5"), "{flags:?} {crash:#?}");
        assert_eq!(crash.points_at, Some(PointsAt::ReadOnly));
    }
}

const CHAIN: &str = "\
__attribute__((noinline)) void broken(int* volatile p) {
    *p = 1;
}
__attribute__((noinline)) void middle(int* volatile p) {
    volatile char room[200];
    room[0] = 1;
    broken(p);
    room[1] = 1;
}
int main(int argc, char** argv) {
    middle(argv[argc] == 0 ? 0 : &argc);
    return 0;
}
";

#[test]
fn without_unwind_information_callers_are_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let no_tables = ["-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    for flags in
        [&["-fomit-frame-pointer"][..], &["-fno-omit-frame-pointer"], &["-fomit-frame-pointer", "-fno-pie", "-no-pie"]]
    {
        let flags = [&no_tables[..], flags].concat();
        let crash = crash_of(&mut Command::new(program(folder.path(), "gcc", &flags, "a.c", CHAIN)));
        assert_eq!(names(&crash)[..3], ["broken", "middle", "main"], "{flags:?} {crash:#?}");
        assert!(!crash.frames[0].guessed && crash.frames[1].guessed && crash.frames[2].guessed);
        // Debug information alone tells how, too.
        let flags = [&flags[..], &["-g"]].concat();
        let crash = crash_of(&mut Command::new(program(folder.path(), "gcc", &flags, "a.c", CHAIN)));
        assert_eq!(names(&crash)[..3], ["broken", "middle", "main"], "{flags:?} {crash:#?}");
        assert!(crash.frames[..3].iter().all(|frame| !frame.guessed));
        assert_eq!(crash.headline(), "segmentation fault in broken at a.c:2, called from middle at a.c:7; address 0x0");
    }
}

#[test]
fn of_a_stack_that_is_overwritten_the_rest_is_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let source = "\
int* volatile nothing;
__attribute__((noinline)) void overwrite(volatile char* from) {
    volatile char room[16];
    from = room;
    for (int i = 0; i < 16 + 32; i++) from[i] = 'A';
    *nothing = 1;
}
int main() {
    char room[64];
    overwrite(room);
    return room[0];
}
";
    let flags = ["-g", "-O1", "-fno-stack-protector"];
    let crash = crash_of(&mut Command::new(program(folder.path(), "gcc", &flags, "a.c", source)));
    assert!(crash.headline().starts_with("segmentation fault in overwrite at a.c:6"), "{}", crash.headline());
    assert!(crash.frames.len() > 1 && crash.frames[1].guessed, "{crash:#?}");
    assert!(crash.incomplete.as_deref().is_some_and(|why| why.contains("may be damaged")), "{crash:#?}");
}

#[test]
fn a_new_build_without_symbols_has_the_same_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let fingerprint = |more: &str, argument: &str| {
        let source = format!("#include <stdio.h>\n{more}\n{TWO_WAYS}");
        let path = program(folder.path(), "gcc", &["-O2", "-s"], "a.c", &source);
        let crash = crash_of(Command::new(path).args(Some(argument).filter(|argument| !argument.is_empty())));
        assert!(crash.frames[0].function.is_none() && crash.frames[0].own, "{crash:#?}");
        (crash.fingerprint_frames(), crash.frames[0].offset.clone())
    };
    let (old, old_offset) = fingerprint("", "");
    let (new, new_offset) = fingerprint("int more(int a) { return printf(\"%d %d\", a, a / 7); }", "");
    assert_ne!(old_offset, new_offset, "the code has moved");
    assert_eq!(old, new);
    assert_ne!(old, fingerprint("", "other").0);
}

/// Two functions, each of which crashes.
const TWO_WAYS: &str = "\
int* volatile nothing;
__attribute__((noinline)) void one(int n) { *nothing = n; }
__attribute__((noinline)) void other(int n) { nothing[n] = n * n / 3; }
int main(int argc, char** argv) {
    if (argc > 1) other(argc); else one(argc);
    return argv[0] == 0;
}
";

#[test]
fn a_library_without_unwind_information_is_left_by_a_guess() {
    needs("musl-gcc");
    let folder = tempfile::tempdir().unwrap();
    let source = "#include <stdlib.h>\n__attribute__((noinline)) void work(volatile int* p) {\n    if (*p == 0) abort();\n    *p = 2;\n}\n\
                  int main() {\n    volatile int zero = 0;\n    work(&zero);\n    return zero;\n}\n";
    for flags in [&["-O0", "-g", "-static"][..], &["-O2", "-g", "-static"]] {
        let crash = crash_of(&mut Command::new(program(folder.path(), "musl-gcc", flags, "a.c", source)));
        assert_eq!(crash.headline(), "aborted in work at a.c:3, called from main at a.c:8", "{crash:#?}");
    }
}

#[test]
fn programs_in_rust_are_named_without_their_runtime() {
    needs("rustc");
    let folder = tempfile::tempdir().unwrap();
    let source = "\
mod image {
    #[inline(never)]
    pub fn resize(at: usize) -> u8 {
        let pixels = vec![1, 2, 3];
        pixels[at]
    }
    #[inline(never)]
    pub fn write<T: Default>(place: *mut T) {
        unsafe { place.write_volatile(T::default()) }
    }
}
fn main() {
    if std::env::args().len() > 1 {
        image::write(std::ptr::null_mut::<u32>());
    }
    println!(\"{}\", image::resize(std::env::args().len() + 10));
}
";
    let flags = ["-g", "-Cpanic=abort", "-Copt-level=1"];
    let path = program(folder.path(), "rustc", &flags, "a.rs", source);
    let crash = crash_of(&mut Command::new(&path));
    assert!(
        crash.headline().ends_with("in a::image::resize at a.rs:5, called from a::main at a.rs:16"),
        "{} {:?}",
        crash.headline(),
        names(&crash)
    );
    // A null pointer is seen by Rust's own checks, or by the processor.
    let crash = crash_of(Command::new(&path).arg("write"));
    assert_eq!(crash.place().map(|frame| (frame.name(), frame.line)), Some(("a::image::write".to_owned(), Some(9))));
}

#[test]
fn the_kernels_own_library_is_read_from_memory() {
    let folder = tempfile::tempdir().unwrap();
    let source =
        "#include <time.h>\nint main() {\n    return clock_gettime(CLOCK_MONOTONIC, (struct timespec*)16);\n}\n";
    let crash = crash_of(&mut Command::new(program(folder.path(), "gcc", &["-g"], "a.c", source)));
    assert_eq!(crash.frames[0].module.as_deref(), Some("[vdso]"));
    assert_eq!(crash.headline(), "segmentation fault in main at a.c:3; address 0x10");
}

#[test]
fn of_a_stack_without_end_both_ends_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = compile(folder.path(), &GCC[0]);
    let crash = die(&path, "stack-overflow").unwrap();
    assert!(crash.frames.len() <= MOST_FRAMES && crash.frames_omitted > 1000);
    assert!(crash.omitted_before.is_some_and(|at| at > 50 && (at as usize) < crash.frames.len()));
    let own: Vec<_> = crash.frames.iter().filter(|frame| frame.own).map(crate::domain::Frame::name).collect();
    assert_eq!((own[0].as_str(), own.last().unwrap().as_str()), ("descend", "main"));
    assert_eq!(crash.fingerprint_frames(), ["descend"]);
    assert_eq!(
        crash.headline(),
        format!("stack overflow in descend at ways.cpp:{}", crash.place().unwrap().line.unwrap())
    );
}

#[test]
fn the_report_tells_of_process_threads_and_modules() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = compile(folder.path(), &GCC[0]);
    let crash = die(&path, "in-thread").unwrap();
    assert_eq!((crash.command.as_str(), crash.thread_name.as_str()), ("ways", "ways"));
    assert!(crash.thread != crash.process && crash.other_threads == ["ways"]);
    assert_eq!((crash.code.as_deref(), crash.address.as_deref()), (Some("SEGV_MAPERR"), Some("0x8")));
    let counter = crash.registers.iter().find(|register| register.name == "rip").unwrap();
    assert_eq!(counter.value, crash.frames[0].address);
    assert_eq!(crash.modules[0].path, path.to_str().unwrap());
    assert!(crash.modules.iter().any(|module| module.path.ends_with("libc.so.6") && module.build_id.is_some()));
    assert!(crash.modules[0].build_id.is_some() && crash.took_us > 0 && crash.incomplete.is_none());
    let own: Vec<_> = crash.frames.iter().filter(|frame| frame.own).map(|frame| frame.line).collect();
    assert_eq!(own[0], Some(line_of("in-thread")));
    // A child is another process.
    let crash = die(&path, "in-child").unwrap();
    assert_eq!(crash.thread, crash.process);
    assert_eq!(
        crash.headline().split(", called").next(),
        Some(&*format!("segmentation fault in child_body at ways.cpp:{}", line_of("in-child")))
    );
}

/// Does something as a user without rights: in a thread that gives them up, and ends with it. Whoever has no right to give
/// up rights has none.
fn as_nobody<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    const NOBODY: libc::c_long = 65_534;
    let run = move || {
        // SAFETY: the system call takes three numbers, and changes this thread alone.
        unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        act()
    };
    std::thread::spawn(run).join().unwrap()
}

#[test]
fn what_may_not_be_read_is_told_by_its_registers() {
    let folder = tempfile::tempdir().unwrap();
    let source =
        "#include <sys/prctl.h>\nint* volatile p;\nint main() { prctl(PR_SET_DUMPABLE, 0); *p = 1; return 0; }\n";
    let path = program(folder.path(), "gcc", &["-g"], "a.c", source);
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let crash = as_nobody(move || crash_of(&mut Command::new(path)));
    assert!(crash.frames.is_empty() && crash.registers.len() > 10, "{crash:#?}");
    assert!(crash.incomplete.as_deref().is_some_and(|why| why.contains("not dumpable")), "{crash:#?}");
    assert_eq!(crash.headline(), "segmentation fault; address 0x0");
}

#[test]
fn a_worker_without_rights_reads_what_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = compile(folder.path(), &GCC[0]);
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for (way, lines) in [("in-library", 4), ("null-in-method", line_of("null-in-method"))] {
        let path = path.clone();
        let crash = as_nobody(move || crash_of(Command::new(path).arg(way)));
        assert_eq!((crash.place().unwrap().line, crash.incomplete.clone()), (Some(lines), None), "{crash:#?}");
    }
}

#[test]
fn when_time_is_over_the_report_has_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = compile(folder.path(), &GCC[0]);
    let death = tracer::run(Command::new(&path).arg("null-in-method"), || {});
    let whole = symbolise(death.unwrap(), Instant::now());
    assert!(whole.frames.len() > 3 && whole.frames.iter().all(|frame| frame.file.is_none()));
    assert!(whole.incomplete.as_deref().is_some_and(|why| why.contains("time was over")), "{whole:#?}");
    let late =
        tracer::run_with(Command::new(&path).arg("null-in-method"), || {}, |thread| capture(thread, Instant::now()));
    let late = symbolise(late.unwrap(), in_a_minute());
    assert!(late.registers.len() > 10 && late.frames.len() <= 1, "{late:#?}");
    assert_eq!(late.points_at, Some(PointsAt::NullPage));
    assert!(late.incomplete.as_deref().is_some_and(|why| why.contains("time was over")), "{late:#?}");
}
