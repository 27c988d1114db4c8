//! A new job, from its first line to its next build.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::harness::{Jobber, Output, Place, eventually, run, succeed};

const PATIENCE: Duration = Duration::from_secs(300);

async fn new(place: &Place, words: &[&str]) -> Output {
    run(&[&["new"], words].concat(), &[], place.path(), "").await
}

/// Runs a shell's command in the place.
async fn shell(place: &Place, command: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).current_dir(place.path());
    succeed(shell, PATIENCE).await
}

/// Begins a job, which then runs at once, and fails as its source says.
async fn runs_at_once(place: &Place, name: &str, words: &[&str], test: &str) {
    let out = new(place, &[&[name], words].concat()).await;
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stdout.contains(&format!("jobs/{name}")) && out.stderr.contains("jobber dev --sources"), "{out:?}");
    let exec = async |words: &[&str]| run(&[&["exec", name], words].concat(), &[], place.path(), "").await;
    let out = exec(&["--", "Ada", "Grace"]).await;
    assert_eq!((out.code, out.stdout.contains("Hello, Grace!")), (0, true), "{name}: {out:?}");
    let out = exec(&["-o", "json", "--", "Ada"]).await;
    let report: serde_json::Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    assert_eq!(report["result"], json!({"greeted": 1}), "{name}: {report}");
    let out = exec(&[]).await;
    assert_eq!((out.code, out.stderr.contains("there is nobody to greet")), (64, true), "{name}: {out:?}");
    let tested = shell(place, test).await;
    assert!(tested.contains("passed"), "{name}: {tested}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_job_runs_at_once_and_passes_its_test_in_each_language() {
    let place = Place::new();
    runs_at_once(&place, "in-shell", &["--language", "shell"], "make -C in-shell test").await;
    runs_at_once(&place, "in.python", &["-l", "python"], "make -C in.python test").await;
    runs_at_once(&place, "with_make", &["--into", "source/one"], "make -C source/one test").await;
    let test = "ctest --test-dir with-cmake/build 2>&1";
    runs_at_once(&place, "with-cmake", &["--build", "cmake"], test).await;

    // Without its own header it takes that of the machine.
    let header = format!(
        "make -C '{}/cpp-jobs' install DESTDIR='{}' PREFIX=/opt/jobber",
        env!("CARGO_MANIFEST_DIR"),
        place.path().display()
    );
    shell(&place, &header).await;
    shell(&place, "rm -r with-cmake/jobber.hpp with-cmake/build jobs/with-cmake").await;
    let build = "cmake -S with-cmake -B with-cmake/build -DCMAKE_PREFIX_PATH=$PWD/opt/jobber -DJOBS_DIR=$PWD/jobs
                 cmake --build with-cmake/build";
    shell(&place, build).await;
    assert!(place.path().join("jobs/with-cmake").exists());
    let package = "PKG_CONFIG_PATH=opt/jobber/share/pkgconfig pkg-config --modversion jobber
                   PKG_CONFIG_PATH=opt/jobber/share/pkgconfig pkg-config --cflags jobber";
    let told = shell(&place, package).await;
    assert!(told.starts_with(env!("CARGO_PKG_VERSION")) && told.contains("-I/opt/jobber/include"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_and_what_is_wrong_is_said() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("mine")).unwrap();
    std::fs::write(place.path().join("mine/notes"), "precious").unwrap();
    for (words, why) in [
        (&["mine"][..], "mine has files already; name another directory with --into"),
        (&["other", "-l", "shell", "--build", "cmake"], "--build is for jobs in C++"),
        (&["no/name"], "no/name"),
        (&["other", "-l", "cobol"], "possible values: cpp, shell, python"),
    ] {
        let out = new(&place, words).await;
        assert_eq!((out.code, out.stderr.contains(why)), (2, true), "{words:?}: {out:?}");
    }
    assert_eq!(std::fs::read_dir(place.path().join("mine")).unwrap().count(), 1);
    let out = run(&["new", "other"], &[("PATH", "/nowhere")], place.path(), "").await;
    assert_eq!((out.code, out.stderr.contains("make can't be started; install make")), (1, true), "{out:?}");
    assert!(place.path().join("other/other.cpp").exists(), "the source is kept: {out:?}");
    let out = new(&place, &["another", "-l", "shell", "--no-build", "-o", "json"]).await;
    assert_eq!((out.code, out.stdout.contains(r#""binary": null"#)), (0, true), "{out:?}");
}

/// Replaces a text in a file, as an editor does: a new file takes the place of the old one.
fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from));
    let new = file.with_extension("edited");
    std::fs::write(&new, text.replace(from, to)).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_source_is_built_again_and_what_does_not_compile_changes_nothing() {
    let place = Place::new();
    let out = new(&place, &["greet", "--no-build"]).await;
    assert_eq!(out.code, 0, "{out:?}");
    let source = place.path().join("greet");
    let mut j = Jobber::dev().at(&place).arg("--sources").arg(source.to_str().unwrap()).start().await;
    let greeting = async || {
        let out = j.cli(&["run", "greet", "--attempts", "1", "--", "Ada"]).await;
        assert_eq!(out.code, 0, "{out:?}");
        out.stdout
    };
    assert!(greeting().await.contains("Hello, Ada!"));
    let file = source.join("greet.cpp");
    let said = async |what: &str| eventually(what, async || j.log().contains(what).then_some(())).await;

    edit(&file, "\"Hello\"", "\"Hello\" 1");
    said("the jobs stay as they were built before").await;
    assert!(greeting().await.contains("Hello, Ada!"));

    edit(&file, "\"Hello\" 1", "\"Good day\"");
    said("attempts from now on run the new build").await;
    assert!(greeting().await.contains("Good day, Ada!"), "{}", j.log());
    let log = j.log();
    assert!(log.contains("greet.cpp") && log.contains("jobs=\"greet\""), "{log}");
    assert_eq!(j.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_cannot_be_built_are_refused_at_the_start() {
    let place = Place::new();
    let out = run(&["dev", "--listen", "127.0.0.1:0", "--sources", "nowhere"], &[], place.path(), "").await;
    assert_eq!((out.code, out.stderr.contains("nowhere has no Makefile and no CMakeLists.txt")), (1, true), "{out:?}");
}
