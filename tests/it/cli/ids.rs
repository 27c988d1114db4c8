//! Jobs, schedules, workers and errors by the beginning of their ids, and the last jobs by a word.

use serde_json::json;

use super::parse;
use crate::harness::{Jobber, eventually};

const JOB: &str = "#!/bin/sh\nsleep \"${2:-0}\"; echo \"$1 failed\" >&2; exit \"$1\"\n";

async fn submitted(j: &Jobber, id: &str, code: &str, wait: &str) {
    let out = j.cli(&["submit", "code", "--id", id, "--attempts", "1", "--print-id", "--", code, wait]).await;
    assert_eq!((out.code, out.stdout.trim()), (0, id), "{out:?}");
}

#[tokio::test]
async fn the_beginning_of_an_id_is_enough_wherever_an_id_is() {
    let j = Jobber::dev().start().await;
    j.job("code", JOB);
    submitted(&j, "alpha-1", "0", "0").await;
    submitted(&j, "beta-1", "3", "0").await;
    assert_eq!(j.cli(&["wait", "alp", "bet", "-q"]).await.code, 3);
    assert_eq!(parse(&j.cli(&["show", "alp", "-o", "json"]).await.stdout)["id"], "alpha-1");
    assert_eq!(j.cli(&["logs", "bet", "-q"]).await.stdout, "3 failed\n");
    assert!(j.cli(&["explain", "bet"]).await.stdout.contains("beta-1 is failed"));
    assert_eq!(j.cli(&["show", "alp,@last", "-o", "jsonl"]).await.stdout.lines().count(), 2);

    let retried = j.cli(&["retry", "bet", "-o", "json"]).await;
    assert_eq!(parse(&retried.stdout)["items"], json!([{"id": "beta-1", "status": "retried"}]), "{retried:?}");
    assert_eq!(j.cli(&["wait", "bet", "-q"]).await.code, 3);
    let removed = j.cli(&["remove", "alp,beta-1", "-o", "json"]).await;
    assert_eq!(parse(&removed.stdout)["items"].as_array().unwrap().len(), 2, "{removed:?}");
    let gone = j.cli(&["show", "alp"]).await;
    assert!(gone.code == 3 && gone.stderr.contains("@last"), "{gone:?}");
}

#[tokio::test]
async fn of_several_jobs_none_is_chosen() {
    let j = Jobber::serve().start().await;
    j.job("code", JOB);
    submitted(&j, "night-1", "0", "0").await;
    submitted(&j, "night-12", "0", "0").await;
    for words in [&["cancel", "nig"][..], &["show", "nig"], &["remove", "nig"], &["cancel", "nig", "--dry-run"]] {
        let out = j.cli(words).await;
        assert_eq!(out.code, 2, "{words:?}: {out:?}");
        assert!(out.stderr.contains("\n  night-1  code, waiting") && out.stderr.contains("night-12"), "{out:?}");
    }
    let out = j.cli(&["cancel", "night-1", "-o", "json"]).await;
    assert_eq!(parse(&out.stdout)["items"], json!([{"id": "night-1", "status": "cancelled"}]), "a whole id: {out:?}");
    assert_eq!(parse(&j.cli(&["show", "night-12", "-o", "json"]).await.stdout)["state"], "waiting");
    let out = j.cli(&["submit", "code", "--after", "night", "--", "0"]).await;
    assert!(out.code == 2 && out.stderr.contains("night-12"), "{out:?}");
    let out = j.cli(&["submit", "code", "--after", "night-12", "--print-id", "--", "0"]).await;
    assert_eq!(out.code, 0, "{out:?}");
}

#[tokio::test]
async fn the_last_jobs_have_words() {
    let j = Jobber::dev().start().await;
    j.job("code", JOB);
    for word in ["@last", "@last-failed"] {
        let out = j.cli(&["show", word]).await;
        assert!(out.code == 3 && out.stderr.contains("job"), "{out:?}");
    }
    // The one that was submitted first fails last.
    submitted(&j, "slow", "4", "1").await;
    submitted(&j, "quick", "3", "0").await;
    submitted(&j, "well", "0", "0").await;
    let id = async |word: &str| parse(&j.cli(&["show", word, "-o", "json"]).await.stdout)["id"].clone();
    assert_eq!(id("@last").await, "well", "at once");
    assert_eq!(j.cli(&["wait", "slow", "quick", "-q"]).await.code, 4);
    assert_eq!(id("@last-failed").await, "slow");
    let retried = j.cli(&["retry", "@last-failed", "-o", "json"]).await;
    assert_eq!(parse(&retried.stdout)["items"][0]["id"], "slow", "{retried:?}");
}

#[tokio::test]
async fn schedules_workers_and_errors_are_found_as_well() {
    let j = Jobber::dev().start().await;
    j.job("code", JOB);
    for id in ["nightly-a", "nightly-b"] {
        let out = j.cli(&["schedule", "add", "code", "--id", id, "--every", "10h", "--", "0"]).await;
        assert_eq!(out.code, 0, "{out:?}");
    }
    let out = j.cli(&["schedule", "pause", "nightly"]).await;
    assert!(out.code == 2 && out.stderr.contains("nightly-a, nightly-b"), "{out:?}");
    assert_eq!(j.cli(&["schedule", "pause", "nightly-a"]).await.code, 0);
    assert_eq!(j.cli(&["schedule", "rm", "nightly-a,nightly-b"]).await.code, 0);
    let out = j.cli(&["schedule", "show", "nightly"]).await;
    assert!(out.code == 3 && out.stderr.contains("schedule ls"), "{out:?}");

    submitted(&j, "one", "3", "0").await;
    assert_eq!(j.cli(&["wait", "one", "-q"]).await.code, 3);
    let worker = parse(&j.cli(&["worker", "ls", "-o", "json"]).await.stdout)["items"][0]["id"].clone();
    let prefix = &worker.as_str().unwrap()[..worker.as_str().unwrap().len() - 3];
    eventually("the attempt to be in history", async || {
        let listed = j.cli(&["list", "--worker", prefix, "-o", "json"]).await;
        parse(&listed.stdout)["items"].as_array().unwrap().iter().any(|job| job["id"] == "one").then_some(())
    })
    .await;
    let failures = parse(&j.cli(&["failures", "-o", "json"]).await.stdout);
    let fingerprint = failures["items"][0]["fingerprint"].as_str().unwrap().to_owned();
    let listed = parse(&j.cli(&["list", "--fingerprint", &fingerprint[..6], "-o", "json"]).await.stdout);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    // Tables have so many of its digits, and no more.
    for words in [&["failures"][..], &["show", "one"]] {
        let shown = j.cli(words).await.stdout;
        assert!(shown.contains(&fingerprint[..12]) && !shown.contains(&fingerprint[..13]), "{shown}");
    }
}
