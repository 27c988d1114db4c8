//! `run`, `wait` and `logs`: output and exit codes.

use serde_json::{Value, json};

use crate::harness::{Jobber, eventually};

#[tokio::test]
async fn run_gives_output_error_output_and_code_of_the_job() {
    let j = Jobber::dev().start().await;
    j.job("talk", "#!/bin/sh\necho out; echo err >&2; echo '::progress 50 halfway'; exit \"$1\"\n");
    let out = j.cli(&["run", "talk", "--", "0"]).await;
    assert_eq!((out.code, out.stdout.as_str()), (0, "out\n"), "{out:?}");
    assert!(out.stderr.contains("err\n"), "{out:?}");

    let out = j.cli(&["run", "talk", "--attempts", "1", "--", "3"]).await;
    assert_eq!((out.code, out.stdout.as_str()), (3, "out\n"), "{out:?}");
    assert!(out.stderr.contains("failed: exit 3"), "{out:?}");
}

#[tokio::test]
async fn every_end_has_its_code() {
    let j = Jobber::dev().start().await;
    j.job("crash", "#!/bin/sh\nkill -SEGV $$\n");
    j.job("hang", "#!/bin/sh\nexec sleep 600\n");
    let once = ["--attempts", "1"];
    let run = async |words: &[&str]| j.cli(&[&["run"], words, &once].concat()).await;
    assert_eq!(run(&["crash"]).await.code, 139);
    assert_eq!(run(&["hang", "--timeout", "200ms"]).await.code, 124);
    assert_eq!(run(&["no-such-binary"]).await.code, 127);
    tokio::fs::create_dir(j.place().jobs_dir().join("folder")).await.unwrap();
    let out = run(&["folder"]).await;
    assert!(out.code == 126 && out.stderr.contains("is a directory"), "{out:?}");
    for name in ["../../bin/sh", ".", "..", "a/b", ""] {
        let out = run(&[name]).await;
        assert_eq!(out.code, 2, "{name:?}: {out:?}");
    }
    assert!(j.cli(&["list", "-o", "json"]).await.stdout.contains("crash"));
}

#[tokio::test]
async fn a_character_that_is_written_in_two_pieces_comes_through() {
    let j = Jobber::dev().start().await;
    // Each half is flushed by itself, with time to be passed on before the next.
    j.job("halves", "#!/bin/sh\nprintf 'gr\\303'; sleep 0.3; printf '\\274n\\n'\n");
    let out = j.cli(&["run", "halves", "-q"]).await;
    assert_eq!((out.code, out.stdout.as_str()), (0, "grün\n"), "{out:?}");
}

#[tokio::test]
async fn a_cancelled_job_never_gives_zero() {
    let j = Jobber::dev().start().await;
    // It would end well if it were let.
    j.job("patient", "#!/bin/sh\ntrap 'exit 0' TERM\nsleep 600 & wait\n");
    let id = j.cli(&["submit", "patient", "--print-id"]).await.stdout.trim().to_owned();
    j.wait_state(&id, "active").await;
    let (wait, cancel) = (["wait", &id], ["cancel", &id, "--reason", "too slow"]);
    let (waited, cancelled) = tokio::join!(j.cli(&wait), j.cli(&cancel));
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    assert_eq!(waited.code, 126, "{waited:?}");
    let again = j.cli(&["cancel", &id]).await;
    assert_eq!(again.code, 5, "{again:?}");
}

#[tokio::test]
async fn wait_gives_the_highest_code_and_any_the_first() {
    let j = Jobber::dev().start().await;
    j.job("code", "#!/bin/sh\nexit \"$1\"\n");
    j.job("hang", "#!/bin/sh\nexec sleep 600\n");
    let submit = async |words: &[&str]| {
        let out = j.cli(&[&["submit", "--attempts", "1", "--print-id"], words].concat()).await;
        assert_eq!(out.code, 0, "{out:?}");
        out.stdout.trim().to_owned()
    };
    let (a, b, c) =
        (submit(&["code", "--", "0"]).await, submit(&["code", "--", "7"]).await, submit(&["code", "--", "4"]).await);
    let out = j.cli(&["wait", &a, &b, &c, "-o", "json"]).await;
    assert_eq!(out.code, 7, "{out:?}");
    let ends: Value = serde_json::from_str(&out.stdout).unwrap();
    let codes: Vec<_> = ends["items"].as_array().unwrap().iter().map(|end| end["exit_code"].clone()).collect();
    assert_eq!(codes, [json!(0), json!(7), json!(4)]);

    let never = submit(&["hang", "--delay", "1h"]).await;
    assert_eq!(j.cli(&["wait", &never, &c, "--any"]).await.code, 4);
    let out = j.cli(&["wait", &never, "--timeout", "300ms"]).await;
    assert_eq!(out.code, 125, "{out:?}");
    assert_eq!(j.cli(&["wait", "no-such-job"]).await.code, 125);
}

#[tokio::test]
async fn a_retried_job_gives_the_code_of_its_last_attempt() {
    let j = Jobber::dev().start().await;
    j.job("second-time", "#!/bin/sh\necho try $JOBBER_ATTEMPT\n[ \"$JOBBER_ATTEMPT\" -ge 2 ] || exit 9\n");
    let out = j.cli(&["run", "second-time", "--attempts", "3", "--backoff", "fixed:10ms"]).await;
    assert_eq!((out.code, out.stdout.as_str()), (0, "try 1\ntry 2\n"), "{out:?}");
    assert!(out.stderr.contains("attempt 1 ended: exit 9"), "{out:?}");

    j.job("hopeless", "#!/bin/sh\nexit 2\n");
    let out = j.cli(&["run", "hopeless", "--no-retry-exit-codes", "2", "--backoff", "fixed:10ms", "-o", "json"]).await;
    assert_eq!(out.code, 2, "{out:?}");
    let job: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(job["attempts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn logs_are_there_while_a_job_runs_and_after_it() {
    let j = Jobber::dev().start().await;
    let gate = j.place().path().join("gate");
    j.job("speak", "#!/bin/sh\necho one\necho two >&2\nuntil [ -e \"$1\" ]; do sleep 0.02; done\necho three\n");
    let gate_word = gate.to_str().unwrap();
    let id = j.cli(&["submit", "speak", "--print-id", "--", gate_word]).await.stdout.trim().to_owned();
    eventually("the first line in the log", async || {
        j.cli(&["logs", &id]).await.stdout.contains("one\n").then_some(())
    })
    .await;
    let open = async {
        tokio::fs::write(&gate, "").await.unwrap();
    };
    let follow = ["logs", "-f", &id, "--stream", "stdout"];
    let (out, ()) = tokio::join!(j.cli(&follow), open);
    assert_eq!((out.code, out.stdout.as_str()), (0, "one\nthree\n"), "{out:?}");
    let out = j.cli(&["logs", &id, "--stream", "stderr"]).await;
    assert_eq!(out.stdout, "two\n", "{out:?}");
    let out = j.cli(&["logs", &id, "-o", "jsonl"]).await;
    assert!(out.stdout.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["type"].is_string()));
    assert_eq!(j.cli(&["logs", "no-such-job"]).await.code, 3);
}

#[tokio::test]
async fn a_result_is_printed_once() {
    let j = Jobber::dev().start().await;
    j.job("plain", "#!/bin/sh\necho hello\n");
    j.job("structured", "#!/bin/sh\necho working\necho '::result {\"sum\": 3}'\n");
    assert_eq!(j.cli(&["run", "plain"]).await.stdout, "hello\n");
    assert_eq!(j.cli(&["run", "structured"]).await.stdout, "working\n{\"sum\":3}\n");
}
