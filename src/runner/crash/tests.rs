//! Real programs, compiled here in many ways, die in many ways. The report must name the function and the line.
#![expect(clippy::disallowed_methods, reason = "compiles and runs programs that die, which are no jobs")]

mod damaged;
mod special;
mod tracer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::elf::{Elf, Symbol};
use super::source::{Budget, Source};
use super::{modules, symbolise};
use crate::domain::function_name::short_name;
use crate::domain::{Crash, PointsAt};

const WAYS: &str = include_str!("tests/ways.cpp");
const LIBRARY: &str = include_str!("tests/library.cpp");

/// How much a report can tell of a build.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tells {
    Lines,
    Functions,
    Offsets,
}

struct Build {
    name: &'static str,
    compiler: &'static str,
    flags: &'static [&'static str],
    tells: Tells,
    /// Whether the C library is in the program, where without names it can't be told from the job's own code.
    is_static: bool,
}

const fn build(name: &'static str, compiler: &'static str, flags: &'static [&'static str], tells: Tells) -> Build {
    let mut is_static = false;
    let mut i = 0;
    while i < flags.len() {
        is_static = is_static || matches!(flags[i].as_bytes(), b"-static" | b"-static-pie");
        i += 1;
    }
    Build { name, compiler, flags, tells, is_static }
}

const GCC: &[Build] = &[
    build("dynamic-O0", "g++", &["-O0", "-g"], Tells::Lines),
    build("dynamic-O2", "g++", &["-O2", "-g"], Tells::Lines),
    build("static-O0", "g++", &["-O0", "-g", "-static"], Tells::Lines),
    build("static-O2", "g++", &["-O2", "-g", "-static"], Tells::Lines),
    build("static-pie", "g++", &["-O2", "-g", "-static-pie"], Tells::Lines),
    build("no-pie", "g++", &["-O2", "-g", "-no-pie", "-fomit-frame-pointer"], Tells::Lines),
    build("dwarf4", "g++", &["-O2", "-gdwarf-4"], Tells::Lines),
    build("compressed", "g++", &["-O2", "-g", "-gz"], Tells::Lines),
    build("split", "g++", &["-O2", "-g", "-gsplit-dwarf"], Tells::Lines),
    build("lto", "g++", &["-O2", "-g", "-flto"], Tells::Lines),
    build("no-debug", "g++", &["-O2"], Tells::Functions),
    build("static-no-debug", "g++", &["-O2", "-static"], Tells::Functions),
    build("stripped", "g++", &["-O2"], Tells::Offsets),
    build("static-stripped", "g++", &["-O2", "-static"], Tells::Offsets),
];

const CLANG: &[Build] = &[
    build("clang-O0", "clang++", &["-O0", "-g"], Tells::Lines),
    build("clang-O2", "clang++", &["-O2", "-g"], Tells::Lines),
    build("clang-static", "clang++", &["-O2", "-g", "-static"], Tells::Lines),
    build("clang-no-debug", "clang++", &["-O2"], Tells::Functions),
    build("clang-stripped", "clang++", &["-O2"], Tells::Offsets),
];

/// The way, its signal, the function that is to be named, and what the address points at.
const EXPECTED: &[(&str, i32, &str, Option<PointsAt>)] = &[
    ("null-in-method", libc::SIGSEGV, "Image::resize", Some(PointsAt::NullPage)),
    ("call-of-null", libc::SIGSEGV, "call_pointer", Some(PointsAt::NullPage)),
    ("wild-jump", libc::SIGSEGV, "jump_wild", Some(PointsAt::Unmapped)),
    ("jump-to-data", libc::SIGSEGV, "jump_to_data", Some(PointsAt::NotExecutable)),
    ("stack-overflow", libc::SIGSEGV, "descend", Some(PointsAt::StackGuard)),
    ("stack-overflow-in-thread", libc::SIGSEGV, "descend", Some(PointsAt::StackGuard)),
    ("double-free", libc::SIGABRT, "free_twice", None),
    ("heap-corruption", libc::SIGABRT, "write_before", None),
    ("pure-virtual-call", libc::SIGABRT, "Shape::begin", None),
    ("uncaught-exception", libc::SIGABRT, "load_file", None),
    ("exception-in-thread", libc::SIGABRT, "load_file", None),
    ("noexcept-broken", libc::SIGABRT, "promise_nothing", None),
    ("abort-in-destructor", libc::SIGABRT, "Guard::~Guard", None),
    ("assertion", libc::SIGABRT, "check", None),
    ("division-by-zero", libc::SIGFPE, "divide", None),
    ("bad-instruction", libc::SIGILL, "bad_instruction", None),
    ("breakpoint", libc::SIGTRAP, "breakpoint", None),
    ("beyond-file", libc::SIGBUS, "beyond_file", Some(PointsAt::BeyondFile)),
    ("write-to-constant", libc::SIGSEGV, "write_constant", Some(PointsAt::ReadOnly)),
    ("not-canonical", libc::SIGSEGV, "not_canonical", Some(PointsAt::GeneralProtection)),
    ("in-handler", libc::SIGSEGV, "on_signal", Some(PointsAt::NullPage)),
    ("abort-in-handler", libc::SIGABRT, "on_fault", None),
    ("in-thread", libc::SIGSEGV, "thread_body", Some(PointsAt::NullPage)),
    ("in-child", libc::SIGSEGV, "child_body", Some(PointsAt::NullPage)),
    ("in-template", libc::SIGSEGV, "Tree::visit", Some(PointsAt::NullPage)),
    ("in-library", libc::SIGSEGV, "library_breaks", Some(PointsAt::NullPage)),
    ("sent", libc::SIGSEGV, "wait_for_signal", None),
];

fn needs(compiler: &str) {
    let answer = Command::new(compiler).arg("--version").output();
    assert!(answer.is_ok_and(|answer| answer.status.success()), "install {compiler}: tools/install-test-tools does");
}

/// What was captured may go to another thread.
const _: fn() = || {
    fn goes<T: Send>() {}
    goes::<super::Capture>();
};

fn do_run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Compiles the ways into `folder`; the path of the program, and of its twin that has symbols.
fn compile(folder: &Path, build: &Build) -> (PathBuf, PathBuf) {
    let folder = folder.join(build.name);
    fs_err::create_dir(&folder).unwrap();
    fs_err::write(folder.join("ways.cpp"), WAYS).unwrap();
    fs_err::write(folder.join("library.cpp"), LIBRARY).unwrap();
    let compiler = || {
        let mut command = Command::new(build.compiler);
        command.current_dir(&folder).args(["-std=c++17", "-pthread"]).args(build.flags);
        command
    };
    if build.is_static {
        let whole = ["-Wl,--whole-archive", "-lpthread", "-Wl,--no-whole-archive"];
        do_run(compiler().args(["ways.cpp", "-o", "ways"]).args(whole));
    } else {
        do_run(compiler().args(["-shared", "-fPIC", "library.cpp", "-o", "libown.so"]));
        let library = ["-DWITH_LIBRARY", "-L.", "-lown", "-Wl,-rpath,$ORIGIN"];
        do_run(compiler().args(["ways.cpp", "-o", "ways"]).args(library));
    }
    let (program, twin) = (folder.join("ways"), folder.join("twin"));
    std::fs::copy(&program, &twin).unwrap();
    if build.tells == Tells::Offsets {
        do_run(Command::new("strip").arg(&program));
    }
    (program, twin)
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// The line that a way's name marks.
fn line_of(way: &str) -> u32 {
    let way = match way {
        "stack-overflow-in-thread" => "stack-overflow",
        "exception-in-thread" => "uncaught-exception",
        way => way,
    };
    let text = if way == "in-library" { LIBRARY } else { WAYS };
    let at = text.lines().position(|line| line.ends_with(&format!("// {way}"))).unwrap();
    u32::try_from(at).unwrap() + 1
}

/// The functions that hold an address of a file and the one before it: the frame may be at it or behind it.
fn functions_at(program: &Path, offset: &str) -> Vec<String> {
    let file = Source::File(modules::open(program.to_str().unwrap()).unwrap().into());
    let address = u64::from_str_radix(offset.trim_start_matches("0x"), 16).unwrap();
    let budget = Budget::new(in_a_minute(), u32::MAX, usize::MAX);
    let symbols = Elf::parse(file).unwrap().symbols(&[address, address - 1], &budget);
    let name = |symbol: Symbol| short_name(&super::names::demangled(&symbol.name));
    symbols.into_iter().flatten().map(name).collect()
}

fn die(program: &Path, way: &str) -> Option<Crash> {
    tracer::run(Command::new(program).arg(way), || {}).map(|capture| symbolise(capture, in_a_minute()))
}

/// What is wrong with a report; `None` when nothing is.
fn fault(build: &Build, twin: &Path, way: &str, crash: &Crash) -> Option<String> {
    let (_, signal, function, points_at) = EXPECTED.iter().find(|(name, ..)| *name == way)?;
    let wrong = |what: &str| Some(format!("{what}: {}", crash.headline()));
    // A static program may lack what says that a pure function was called, and then calls nothing.
    let nothing_called = way == "pure-virtual-call" && build.is_static && crash.points_at == Some(PointsAt::NullPage);
    if !nothing_called && (crash.signal != *signal || crash.points_at != *points_at) {
        return wrong(&format!("signal {} points at {:?}", crash.signal, crash.points_at));
    }
    let Some(place) = crash.place() else { return wrong("no place") };
    // Where in its function a stack ends or a signal comes is chance, and so is where compilers put a handler's end.
    let lines = match way {
        "stack-overflow" | "stack-overflow-in-thread" | "sent" => line_of(way) - 5..=line_of(way) + 1,
        "noexcept-broken" => line_of(way) - 4..=line_of(way) + 3,
        _ => line_of(way)..=line_of(way),
    };
    match build.tells {
        Tells::Lines if !place.line.is_some_and(|line| lines.contains(&line)) => wrong("line"),
        Tells::Lines | Tells::Functions if !place.name().contains(function) => wrong("function"),
        Tells::Offsets if way == "in-library" => {
            (place.module.as_deref() != Some("libown.so")).then(|| crash.headline())
        }
        Tells::Offsets => {
            // Without names, what compilers and a static C library put into the program is own, too.
            let own = crash.frames.iter().filter(|frame| frame.own).take(if build.is_static { 20 } else { 2 });
            let names: Vec<_> = own.flat_map(|frame| functions_at(twin, frame.offset.as_ref().unwrap())).collect();
            if names.iter().any(|name| name.contains(function)) { None } else { wrong(&format!("{names:?}")) }
        }
        _ => None,
    }
}

/// Whether the way's place is a function without a name, which a build without inlined functions can't tell.
fn is_lambda(way: &str, build: &Build) -> bool {
    way == "in-template" && build.name == "split"
}

fn check(builds: &[Build]) {
    let folder = tempfile::tempdir().unwrap();
    let mut faults = Vec::new();
    let mut first_frames: HashMap<&str, String> = HashMap::new();
    let mut table = String::new();
    for build in builds {
        let (program, twin) = compile(folder.path(), build);
        for (way, ..) in EXPECTED.iter().filter(|(way, ..)| !build.is_static || *way != "in-library") {
            let fault = match die(&program, way) {
                None => Some("it did not die".to_owned()),
                Some(crash) => {
                    table += &format!("{:16} {way:24} {:5} us  {}\n", build.name, crash.took_us, crash.headline());
                    // Where there are names, each build tells the crash apart by the same function.
                    let telling = crash.fingerprint_frames().swap_remove(0);
                    if build.tells == Tells::Lines && !is_lambda(way, build) {
                        assert_eq!(
                            *first_frames.entry(way).or_insert(telling.clone()),
                            telling,
                            "{} {way}",
                            build.name
                        );
                    }
                    fault(build, &twin, way, &crash).map(|fault| format!("{fault}\n{crash:#?}"))
                }
            };
            faults.extend(fault.map(|fault| format!("{} {way}: {fault}", build.name)));
        }
    }
    println!("{table}");
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn each_way_to_die_is_named_in_each_build_of_gcc() {
    check(GCC);
}

#[test]
fn each_way_to_die_is_named_in_each_build_of_clang() {
    needs("clang++");
    check(CLANG);
}
