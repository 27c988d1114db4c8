//! What a user is told of a crash: by `exec`, `show`, `crash`, the API and the failures, and what tracing must not change.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Jobber, Output, Place, run};

/// Compiles a C++ program into the jobs directory.
fn compile(place: &Place, name: &str, source: &str, options: &[&str]) {
    let mut compiler = Command::new("c++")
        .args(["-x", "c++", "-", "-g", "-pthread", "-o"])
        .arg(place.jobs_dir().join(name))
        .args(options)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
}

async fn exec(place: &Place, environment: &[(&str, &str)], words: &[&str]) -> Output {
    let (jobs_dir, data_dir) = (place.jobs_dir(), place.data_dir());
    let fixed = ["exec", "--jobs-dir", jobs_dir.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    run(&[&fixed[..], words].concat(), environment, place.path(), "").await
}

const RESIZE: &str = r#"
#line 1 "resize.cpp"
#include <cstdio>
struct Image {
    int* pixels = nullptr;
    __attribute__((noinline)) void resize(int width) {
        pixels[width] = 1;
        asm volatile("" ::: "memory");
    }
    __attribute__((noinline)) void rotate(int width) {
        pixels[width] = 1;
        asm volatile("" ::: "memory");
    }
};
int main(int count, char**) {
    std::fputs("reading tile 7\n", stderr);
    Image image;
    if (count > 1) image.rotate(0); else image.resize(0);
    return 0;
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_told_by_its_place_wherever_a_user_looks() {
    let j = Jobber::dev().start().await;
    compile(j.place(), "resize", RESIZE, &[]);
    let id = j.submit(json!({"name": "resize", "attempts": 1})).await;
    let job = j.wait_final(&id).await;
    let line = "segmentation fault in Image::resize at resize.cpp:5, called from main at resize.cpp:16; address 0x0";
    assert_eq!(job["error"], format!("{line}: reading tile 7"), "{job}");
    assert_eq!(job["outcome"], json!({"kind": "signal", "signal": 11}));
    let crash = &job["attempts"][0]["report"]["crash"];
    assert_eq!(
        (&crash["code"], &crash["points_at"], &crash["command"]),
        (&json!("SEGV_MAPERR"), &json!("null_page"), &json!("resize"))
    );
    let frame = &crash["frames"][0];
    assert_eq!((&frame["line"], &frame["own"]), (&json!(5), &json!(true)), "{crash}");
    assert!(crash["registers"].as_array().unwrap().len() > 10, "{crash}");
    assert!(
        crash["modules"].as_array().unwrap().iter().any(|m| m["path"].as_str().unwrap().contains("libc")),
        "{crash}"
    );

    let shown = j.cli(&["show", &id]).await.stdout;
    assert!(shown.contains("Image::resize") && shown.contains(&format!("jobber crash {id}")), "{shown}");
    let told = j.cli(&["crash", &id]).await;
    for part in [line, "SEGV_MAPERR", "a null pointer", "*  0  Image::resize", "rip", "MODULE", "libc"] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    let told: Value =
        serde_json::from_str(&j.cli(&["crash", &id, "--attempt", "1", "-o", "json"]).await.stdout).unwrap();
    assert_eq!(told["crash"], *crash);
    let missing = j.cli(&["crash", &id, "--attempt", "2"]).await;
    assert_eq!(missing.code, 3, "{missing:?}");
    assert!(missing.stderr.contains("no crash report of attempt 2"), "{missing:?}");

    // Another null pointer is another failure, and the same one in another build is the same.
    compile(j.place(), "resize", &RESIZE.replace("#line 1", "#line 100"), &["-O1", "-fno-inline"]);
    let again = j.submit(json!({"name": "resize", "attempts": 1})).await;
    let again = j.wait_final(&again).await;
    assert!(again["error"].as_str().unwrap().contains("at resize.cpp:104"), "{again}");
    let other = j.submit(json!({"name": "resize", "attempts": 1, "arguments": ["rotate"]})).await;
    let other = j.wait_final(&other).await;
    let fingerprint = |job: &Value| job["attempts"][0]["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(fingerprint(&job), fingerprint(&again));
    assert_ne!(fingerprint(&job), fingerprint(&other));
    let failures = j.cli(&["failures"]).await.stdout;
    assert!(failures.contains("in Image::resize") && failures.contains("in Image::rotate"), "{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_a_child_is_told_where_the_tree_is_traced() {
    let place = Place::new();
    compile(&place, "resize", RESIZE, &[]);
    let binary = place.jobs_dir().join("resize");
    place.job("script", &format!("#!/bin/sh\n{}\nexit 3\n", binary.display()));
    let out = exec(&place, &[], &["script"]).await;
    assert!(out.code == 3 && !out.stderr.contains("Image::resize"), "{out:?}");
    let out = exec(&place, &[("JOBBER_CRASH_REPORT", "tree")], &["script"]).await;
    assert_eq!(out.code, 3, "{out:?}");
    assert!(out.stderr.contains("resize crashed: segmentation fault in Image::resize at resize.cpp:5"), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tracing_changes_no_outcome() {
    let place = Place::new();
    compile(
        &place,
        "handles",
        r#"
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
volatile sig_atomic_t rings = 0;
int main(int, char** words) {
    const char* how = words[1];
    if (!strcmp(how, "catch")) {
        signal(SIGSEGV, [](int) { _exit(17); });
        *(volatile int*)8 = 1;
    } else if (!strcmp(how, "ignore")) {
        signal(SIGABRT, SIG_IGN);
        raise(SIGABRT);
        return 18;
    } else if (!strcmp(how, "timer")) {
        // More signals than a tracer takes part in.
        signal(SIGALRM, [](int) { rings = rings + 1; });
        itimerval often{{0, 50}, {0, 50}};
        setitimer(ITIMER_REAL, &often, nullptr);
        while (rings < 6000) pause();
        return 19;
    } else if (!strcmp(how, "threads")) {
        for (int i = 0; i < 5000; ++i) std::thread([] {}).join();
        return 20;
    } else if (!strcmp(how, "stop")) {
        // Stops itself; a child lets it go on.
        const pid_t me = getpid();
        if (fork() == 0) {
            usleep(100000);
            kill(me, SIGCONT);
            _exit(0);
        }
        raise(SIGSTOP);
        return 21;
    } else if (!strcmp(how, "debug")) {
        // A debugger within the job.
        const pid_t child = fork();
        if (child == 0) {
            ptrace(PTRACE_TRACEME, 0, 0, 0);
            raise(SIGTRAP);
            _exit(4);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (!WIFSTOPPED(status)) return 1;
        ptrace(PTRACE_CONT, child, 0, 0);
        waitpid(child, &status, 0);
        return WIFEXITED(status) && WEXITSTATUS(status) == 4 ? 22 : 2;
    } else if (!strcmp(how, "exec")) {
        execl("/bin/sh", "sh", "-c", "exit 23", nullptr);
    } else if (!strcmp(how, "exec-in-thread")) {
        std::thread([] { execl("/bin/sh", "sh", "-c", "exit 24", nullptr); }).join();
    }
    return 1;
}
"#,
        &[],
    );
    let ways = [
        ("catch", 17),
        ("ignore", 18),
        ("timer", 19),
        ("threads", 20),
        ("stop", 21),
        ("debug", 22),
        ("exec", 23),
        ("exec-in-thread", 24),
    ];
    for (how, code) in ways {
        for mode in ["false", "true"] {
            let out = exec(&place, &[("JOBBER_CRASH_REPORT", mode)], &["handles", "--timeout", "1m", "--", how]).await;
            assert_eq!((out.code, out.stdout.as_str()), (code, ""), "{how} {mode}: {out:?}");
        }
    }
}

/// LeakSanitizer is a tracer itself, and fails where there is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_sanitizer_keeps_its_verdict() {
    let place = Place::new();
    let source = "#include <cstdlib>\nint main(int count, char**) {\n  auto lost = (int*)malloc(64);\n  if (count > 1) lost = nullptr; else free(lost);\n  return lost == nullptr ? 0 : 5;\n}\n";
    compile(&place, "address", source, &["-fsanitize=address"]);
    compile(&place, "leak", source, &["-fsanitize=leak"]);
    for name in ["address", "leak"] {
        for mode in ["true", "tree"] {
            let mode = [("JOBBER_CRASH_REPORT", mode)];
            assert_eq!(exec(&place, &mode, &[name]).await.code, 5, "{name}");
            let leaks = exec(&place, &mode, &[name, "--", "lose"]).await;
            assert!(leaks.stderr.contains("LeakSanitizer: detected memory leaks"), "{name}: {leaks:?}");
        }
        place.job("wrapped", &format!("#!/bin/sh\nexec {} lose\n", place.jobs_dir().join(name).display()));
        let leaks = exec(&place, &[], &["wrapped"]).await;
        assert!(leaks.stderr.contains("LeakSanitizer: detected memory leaks"), "{name}: {leaks:?}");
    }
}
