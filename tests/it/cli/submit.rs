//! `submit` in all its forms.

use serde_json::{Value, json};

use super::parse;
use crate::harness::Jobber;

#[tokio::test]
async fn data_arrives_from_flag_file_and_stdin() {
    let j = Jobber::dev().start().await;
    j.job("echo", "#!/bin/sh\ncat\n");
    let expected = json!({"message": "hi"});
    let file = j.place().path().join("data.json");
    tokio::fs::write(&file, expected.to_string()).await.unwrap();
    let at_file = format!("@{}", file.display());
    for (data, stdin) in [(expected.to_string().as_str(), ""), (&at_file, ""), ("-", expected.to_string().as_str())] {
        let out = j.cli_stdin(&["run", "echo", "--data", data], stdin).await;
        assert_eq!((out.code, parse(&out.stdout)), (0, expected.clone()), "{out:?}");
    }
    let out = j.cli(&["submit", "echo", "--data", "{broken"]).await;
    assert_eq!(out.code, 2, "{out:?}");
    assert!(out.stderr.starts_with("error: --data is not JSON"), "{out:?}");
}

#[tokio::test]
async fn submit_wait_and_formats() {
    let j = Jobber::dev().start().await;
    j.job("quick", "#!/bin/sh\nexit \"${1:-0}\"\n");
    let out = j.cli(&["submit", "quick", "-o", "json"]).await;
    assert_eq!(out.code, 0, "{out:?}");
    assert_eq!(parse(&out.stdout)["status"], "queued");
    let out = j.cli(&["submit", "quick"]).await;
    assert!(out.stdout.starts_with("ID "), "{out:?}");
    let out = j.cli(&["submit", "quick", "--wait", "--attempts", "1", "--", "5"]).await;
    assert_eq!(out.code, 5, "{out:?}");
    let out = j.cli(&["submit", "quick", "--follow", "--attempts", "1", "--", "6"]).await;
    assert_eq!(out.code, 6, "{out:?}");
}

#[tokio::test]
async fn the_same_id_key_or_deduplication_key_is_the_same_job() {
    let j = Jobber::dev().start().await;
    j.job("quick", "#!/bin/sh\n");
    for flags in [&["--id", "order-42"][..], &["--idempotency-key", "k"], &["--dedup", "user:7:1h", "--delay", "1h"]] {
        let submit = async || {
            let out = j.cli(&[&["submit", "quick", "-o", "json"], flags].concat()).await;
            assert_eq!(out.code, 0, "{out:?}");
            parse(&out.stdout)
        };
        let (first, second) = (submit().await, submit().await);
        assert_eq!(first["id"], second["id"], "{flags:?}");
        assert_eq!((&first["duplicate"], &second["duplicate"]), (&json!(false), &json!(true)), "{flags:?}");
    }
}

#[tokio::test]
async fn lines_and_json_become_jobs() {
    let j = Jobber::dev().start().await;
    j.job("say", "#!/bin/sh\necho \"$@\"\n");
    let out =
        j.cli_stdin(&["submit", "say", "--each-line", "-", "--wait", "-o", "jsonl", "--", "x"], "a b\n\nc\n").await;
    assert_eq!(out.code, 0, "{out:?}");
    let results: Vec<Value> = out.stdout.lines().map(|line| parse(line)["result"].clone()).collect();
    assert_eq!(results, [json!("x a b"), json!("x c")]);

    let jobs = json!([{"name": "say", "arguments": ["x"]}, {"name": "say", "delay_ms": 3_600_000}]).to_string();
    let out = j.cli_stdin(&["submit", "--from-json", "-", "--print-id"], &jobs).await;
    assert_eq!(out.stdout.lines().count(), 2, "{out:?}");
    let delayed = out.stdout.lines().nth(1).unwrap();
    assert_eq!(j.get(&format!("/api/v1/jobs/{delayed}")).await.1["state"], "delayed");

    let out = j.cli_stdin(&["submit", "--from-json", "-"], "{\"name\": \"say\", \"colour\": \"red\"}").await;
    assert_eq!(out.code, 2, "{out:?}");
    assert!(out.stderr.contains("colour"), "{out:?}");
}

#[tokio::test]
async fn ten_thousand_jobs_and_more_go_in_at_once() {
    let j = Jobber::serve().start().await;
    j.job("quick", "#!/bin/sh\n");
    let out = j.cli(&["submit", "quick", "--count", "10001", "--print-id"]).await;
    assert_eq!((out.code, out.stdout.lines().count()), (0, 10_001), "{}", out.stderr);
    let counts = parse(&j.cli(&["queue", "status", "-o", "json"]).await.stdout);
    assert_eq!(counts["waiting"], 10_001);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_queued() {
    let j = Jobber::dev().start().await;
    j.job("quick", "#!/bin/sh\n");
    for flags in [
        &["--attempts", "0"][..],
        &["--priority", "3000000"],
        &["--cores", "0"],
        &["--memory", "1K"],
        &["--timeout", "0s"],
    ] {
        let out = j.cli(&[&["submit", "quick"], flags].concat()).await;
        assert_eq!(out.code, 1, "{out:?}");
        assert!(out.stderr.starts_with("error: ") && out.stderr.contains("must be"), "{out:?}");
    }
    let out = j.cli(&["list", "-o", "json"]).await;
    assert_eq!(parse(&out.stdout)["items"], json!([]));
}
