//! `replay`: an attempt once more, on this host and without a queue.

use serde_json::{Value, json};

use crate::harness::{Jobber, Output, Place, run};

/// Tells all that it was given, and fails at the first attempt.
const TELLS: &str = r#"#!/bin/sh
cat; echo
printf '%s\n' "$@" "$JOBBER_ATTEMPT of $JOBBER_MAX_ATTEMPTS" "$JOBBER_JOB_ID" "$JOBBER_GROUP" "$COLOUR"
[ -z "$JOBBER_INPUT_DIR" ] || (cd "$JOBBER_INPUT_DIR" && cat scene.json deep/words; touch new 2>/dev/null || echo read-only)
[ -z "$JOBBER_RESULTS_FILE" ] || cat "$JOBBER_RESULTS_FILE"
[ "$JOBBER_ATTEMPT" -gt 1 ] || { echo 'not yet' >&2; exit 3; }
"#;

async fn replay(j: &Jobber, words: &[&str]) -> Output {
    let jobs_dir = j.place().jobs_dir();
    j.cli(&[&["replay", "--jobs-dir", jobs_dir.to_str().unwrap()], words].concat()).await
}

/// What an attempt wrote to its standard output.
async fn written(j: &Jobber, id: &str, attempt: u32) -> String {
    let (status, text) = j.get(&format!("/api/v1/jobs/{id}/attempts/{attempt}/stdout")).await;
    assert_eq!(status, 200, "{text}");
    text.as_str().unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_attempt_is_given_again_all_that_it_was_given() {
    let j = Jobber::dev().start().await;
    j.job("one", "#!/bin/sh\necho '::result {\"n\": 1}'\n");
    j.job("tells", TELLS);
    let parent = j.submit(json!({"name": "one"})).await;
    j.wait_final(&parent).await;
    std::fs::write(j.place().path().join("scene.json"), "[1, 2]\n").unwrap();
    std::fs::write(j.place().path().join("words.txt"), "a few words\n").unwrap();
    let submitted = j
        .cli(&[
            "submit",
            "tells",
            "--print-id",
            "--data",
            "{\"frame\": 7}",
            "--group",
            "night",
            "--backoff",
            "fixed:1ms",
            "--input",
            "scene.json",
            "--input",
            "words.txt=deep/words",
            "--after",
            &parent,
            "--",
            "a b",
            "",
            "--c",
        ])
        .await;
    assert_eq!(submitted.code, 0, "{submitted:?}");
    let id = submitted.stdout.trim().to_owned();
    assert_eq!(j.wait_final(&id).await["state"], "completed");

    // The last attempt is meant unless another is named; the ends are those of the job.
    for (words, attempt, code) in [(vec![&*id], 2, 0), (vec![&id[..30], "--attempt", "1"], 1, 3)] {
        let out = replay(&j, &words).await;
        assert_eq!(out.code, code, "{out:?}");
        assert_eq!(out.stdout.trim(), written(&j, &id, attempt).await);
        assert!(out.stdout.contains("a few words") && out.stdout.contains("{\"n\":1}"), "{out:?}");
        let said = format!("attempt {attempt} on ");
        assert!(out.stderr.contains(&said) && out.stderr.contains(&format!("in the same way: exit {code}")), "{out:?}");
    }
    // No queue and no history heard of it.
    let (_, view) = j.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!(view["attempts"].as_array().unwrap().len(), 2, "{view:#}");

    // A variable of here, and another format.
    let out = replay(&j, &[&id, "--env", "COLOUR=red", "-o", "json"]).await;
    let report: Value = serde_json::from_str(&out.stdout).unwrap();
    assert!(report["stdout"]["text"].as_str().unwrap().contains("\nred\n"), "{report:#}");
}

#[tokio::test]
async fn limits_are_those_of_the_attempt_and_what_differs_is_said() {
    let j = Jobber::dev().start().await;
    j.job("limits", "#!/bin/sh\nulimit -v\nexec sleep \"$1\"\n");
    let options = json!({"name": "limits", "arguments": ["0"], "timeout_ms": 300, "memory_bytes": 268_435_456u64});
    let id = j.submit(options).await;
    let view = j.wait_final(&id).await;
    let limit = view["attempts"][0]["report"]["memory_limit_bytes"].clone();
    assert_eq!(limit, 268_435_456u64, "{view:#}");
    // The binary changes: it runs into the time limit of the job, and out of the build that the attempt ran.
    j.job("limits", "#!/bin/sh\nexec sleep 600\n");
    let out = replay(&j, &[&id, "-o", "json"]).await;
    assert_eq!(out.code, 124, "{out:?}");
    let report: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((&report["outcome"]["kind"], &report["memory_limit_bytes"]), (&json!("timeout"), &limit), "{report:#}");
    assert!(out.stderr.contains("ended otherwise: exit 0") && out.stderr.contains("another build"), "{out:?}");

    // What this host has not is said, and the attempt runs without.
    let (status, body) = j
        .post("/api/v1/jobs", json!({"name": "limits", "cores": 4096, "resources": {"licence": 2}, "timeout_ms": 100}))
        .await;
    assert_eq!(status, 202, "{body}");
    let out = replay(&j, &[body["id"].as_str().unwrap()]).await;
    assert_eq!(out.code, 124, "{out:?}");
    for said in ["was never started", "licence=2, and this host has 0", "4096 cores, and this host has "] {
        assert!(out.stderr.contains(said), "{said}: {out:?}");
    }
}

#[tokio::test]
async fn what_can_not_be_replayed_is_said() {
    let start = Jobber::dev().env("JOBBER_TOKEN", "of-operators").env("JOBBER_VIEW_TOKEN", "of-viewers");
    let j = start.env("JOBBER_VIEW_HIDES_DATA", "true").start().await;
    j.job("gone", "#!/bin/sh\nexec cat \"$JOBBER_INPUT_DIR/f\"\n");
    std::fs::write(j.place().path().join("f"), "secret words").unwrap();
    let out = j.cli(&["submit", "gone", "--print-id", "--input", "f", "--token", "of-operators"]).await;
    let id = out.stdout.trim().to_owned();
    assert_eq!((out.code, j.cli(&["wait", &id, "--token", "of-operators"]).await.code), (0, 0));
    let as_viewer = replay(&j, &[&id, "--token", "of-viewers"]).await;
    assert_eq!(as_viewer.code, 2, "{as_viewer:?}");
    assert!(as_viewer.stderr.contains("not shown what jobs are given"), "{as_viewer:?}");

    let as_operator = async |words: &[&str]| replay(&j, &[words, &["--token", "of-operators"]].concat()).await;
    let out = as_operator(&[&id]).await;
    assert_eq!((out.code, out.stdout.as_str()), (0, "secret words"), "{out:?}");
    for (words, code, said) in [
        (vec![&*id, "--attempt", "7"], 125, "has no attempt 7; there is 1"),
        (vec!["no-such-job"], 125, "no-such-job"),
        (vec![&*id, "--attempt", "0"], 2, "--attempt"),
    ] {
        let out = as_operator(&words).await;
        assert!(out.code == code && out.stderr.contains(said), "{words:?}: {out:?}");
    }
    std::fs::remove_file(j.place().jobs_dir().join("gone")).unwrap();
    let out = as_operator(&[&id]).await;
    assert!(out.code == 127 && out.stderr.contains("gone"), "{out:?}");
    // The content of an input that has expired.
    j.job("gone", "#!/bin/sh\nexec true\n");
    std::fs::remove_dir_all(j.place().data_dir().join("artifacts/inputs")).unwrap();
    let out = as_operator(&[&id]).await;
    assert!(out.code == 125 && out.stderr.contains("not in the store any more"), "{out:?}");
    assert_eq!(as_operator(&[&id, "--jobs-dir", "/no/such/directory"]).await.code, 2, "a flag given twice");

    let nobody = run(&["replay", &id], &[("JOBBER_SERVER", "http://127.0.0.1:9")], j.place().path(), "").await;
    assert!(nobody.code == 125 && nobody.stderr.contains("127.0.0.1:9"), "{nobody:?}");
}

/// gdb reads its commands from a pipe here, and from a terminal else.
#[tokio::test]
async fn a_debugger_finds_what_the_attempt_found() {
    let j = Jobber::dev().start().await;
    let binary = j.place().jobs_dir().join("crashes");
    let source = j.place().path().join("crashes.c");
    std::fs::write(
        &source,
        r#"#include <stdio.h>
#include <stdlib.h>
static void tell(const char *word) {
    char line[64] = "";
    if (fgets(line, sizeof line, stdin)) printf("<%s> <%s> <%s> <%s>\n", line, word, getenv("JOBBER_ATTEMPT"), getenv("LINES") ? "dirty" : "clean");
    fflush(stdout);
    abort();
}
int main(int argc, char **argv) { tell(argc > 1 ? argv[1] : ""); }
"#,
    )
    .unwrap();
    let built =
        tokio::process::Command::new("cc").arg("-g").arg("-o").arg(&binary).arg(&source).output().await.unwrap();
    assert!(built.status.success(), "{built:?}");
    let id = j.submit(json!({"name": "crashes", "arguments": ["it's \"a\" $word"], "data": [1], "attempts": 1})).await;
    assert_eq!(j.wait_final(&id).await["state"], "failed");
    let jobs_dir = j.place().jobs_dir();
    let words = ["replay", &id, "--gdb", "--jobs-dir", jobs_dir.to_str().unwrap()];
    let out = j.cli_stdin(&words, "set pagination off\nset confirm off\nrun\nbacktrace\nquit\n").await;
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stdout.contains("<[1]> <it's \"a\" $word> <1> <clean>"), "{out:?}");
    assert!(out.stdout.contains("SIGABRT") && out.stdout.contains("tell (word="), "{out:?}");
    // The same without a server.
    let words = ["exec", "crashes", "--gdb", "--jobs-dir", jobs_dir.to_str().unwrap(), "--data", "[2]", "--", "w"];
    let out = run(&words, &[], j.place().path(), "set confirm off\nrun\nquit\n").await;
    assert!(out.code == 0 && out.stdout.contains("<[2]> <w> <1> <clean>"), "{out:?}");

    let bare = Place::new();
    bare.job("crashes", "#!/bin/sh\n");
    let words = ["exec", "crashes", "--gdb", "--jobs-dir", bare.jobs_dir().to_str().unwrap()].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let out = run(&words, &[("PATH", "/nowhere")], bare.path(), "").await;
    assert!(out.code == 125 && out.stderr.contains("apt-get install gdb"), "{out:?}");
}
