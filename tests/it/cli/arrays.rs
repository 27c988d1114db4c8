//! Arrays and groups, from a shell.

use serde_json::{Value, json};

use super::parse;
use crate::harness::{Jobber, eventually};

const SIM: &str = "#!/bin/sh\necho \"::result {\\\"square\\\": $((JOBBER_ARRAY_INDEX * JOBBER_ARRAY_INDEX))}\"\n\
    [ $JOBBER_ARRAY_INDEX -ne 7 ] || exit 7\n[ $JOBBER_ARRAY_INDEX -ne 11 ] || exit 3\n";

#[tokio::test]
async fn an_array_is_submitted_awaited_and_read_as_one() {
    let j = Jobber::dev().start().await;
    j.job("sim", SIM);
    let ran = j.cli(&["submit", "sim", "--array", "0-14", "--group", "night", "--attempts", "1", "--wait"]).await;
    assert_eq!(ran.code, 7, "the highest of the codes: {ran:?}");
    assert!(ran.stdout.contains("completed    13\n") && ran.stdout.contains("failed       2\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("progress     100.0%\n") && ran.stdout.contains("finished"), "{}", ran.stdout);

    let results = j.cli(&["group", "results", "night", "-o", "jsonl"]).await.stdout;
    let results: Vec<Value> = results.lines().map(parse).collect();
    let squares: Vec<_> = results.iter().map(|job| job["result"]["square"].as_u64().unwrap_or(0)).collect();
    let expected: Vec<_> = (0_u64..15).map(|i| if [7, 11].contains(&i) { 0 } else { i * i }).collect();
    assert_eq!(squares, expected);
    assert_eq!((&results[11]["index"], &results[11]["outcome"]["code"]), (&json!(11), &json!(3)));

    let failed = parse(&j.cli(&["list", "--group", "night", "--state", "failed", "-o", "json"]).await.stdout);
    let mut indices: Vec<_> = failed["items"].as_array().unwrap().iter().map(|job| &job["array_index"]).collect();
    indices.sort_by_key(|index| index.as_u64());
    assert_eq!(indices, [7, 11]);
    let shown = j.cli(&["show", results[3]["id"].as_str().unwrap()]).await.stdout;
    assert!(shown.contains("night") && shown.contains("array index"), "{shown}");

    // Put right, what had failed is run once more, and nothing else is.
    j.job("sim", "#!/bin/sh\necho again\n");
    let retried = parse(&j.cli(&["retry", "--group", "night", "-o", "json"]).await.stdout);
    assert_eq!(retried["retried"].as_array().map(Vec::len), Some(2), "{retried}");
    let waited = j.cli(&["wait", "--group", "night", "-o", "json"]).await;
    assert_eq!(waited.code, 0, "{waited:?}");
    assert_eq!(parse(&waited.stdout)["completed"], 15);
}

#[tokio::test]
async fn many_jobs_of_one_submission_are_a_group() {
    let j = Jobber::dev().start().await;
    j.job("sim", "#!/bin/sh\necho \"$1 of $JOBBER_GROUP\"\n");
    let submitted = j.cli_stdin(&["submit", "sim", "--each-line", "-", "-o", "json"], "a\nb\nc\n").await;
    let group = parse(&submitted.stdout)["group"].as_str().unwrap().to_owned();
    assert_eq!(submitted.stderr, format!("group {group}\n"));
    assert_eq!(j.cli(&["wait", "--group", &group, "-q"]).await.code, 0);
    let results = j.cli(&["group", "results", &group]).await.stdout;
    for line in ["a", "b", "c"] {
        assert!(results.contains(&format!("{line} of {group}")), "{results}");
    }
    let unknown = j.cli(&["group", "status", "nobody"]).await;
    assert_eq!(unknown.code, 3, "{unknown:?}");
}

#[tokio::test]
async fn a_group_is_cancelled_as_one() {
    let j = Jobber::serve().start().await;
    j.job("sim", SIM);
    let group = j.cli(&["submit", "sim", "--array", "1-2500%3", "--print-id"]).await.stdout.trim().to_owned();
    let alone = j.submit(json!({"name": "sim"})).await;
    let cancelled = j.cli(&["cancel", "--group", &group, "--all-matching", "-o", "jsonl"]).await;
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    eventually("all to be cancelled", async || {
        let (_, view) = j.get(&format!("/api/v1/groups/{group}")).await;
        (view["failed"] == 2500).then_some(())
    })
    .await;
    assert_eq!(j.get(&format!("/api/v1/jobs/{alone}")).await.1["state"], "waiting");
    assert_eq!(j.cli(&["wait", "--group", &group]).await.code, 126);
}
