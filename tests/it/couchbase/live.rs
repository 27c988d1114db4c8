//! Whole processes on a bucket: the live one, if there is one.

use serde_json::{Value, json};

use crate::harness::couchbase::{Bucket, skipped};
use crate::harness::{Jobber, Output, Place, eventually, run};

async fn server(bucket: &Bucket) -> Jobber {
    let start = bucket.environment().iter().fold(Jobber::dev(), |start, (key, value)| start.env(key, value));
    let jobber = start.start().await;
    jobber.job("good", "#!/bin/sh\necho '{\"answer\": 42}'\n");
    jobber.job("bad", "#!/bin/sh\necho why >&2\nexit 3\n");
    jobber
}

/// Upkeep of what is in this bucket.
async fn upkeep(bucket: &Bucket, place: &Place, command: &[&str], input: &str) -> Output {
    let data = place.data_dir();
    let args: Vec<_> = command.iter().copied().chain(["--data-dir", data.to_str().unwrap()]).collect();
    let environment = bucket.environment();
    let environment: Vec<_> = environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let out = run(&args, &environment, place.path(), input).await;
    assert_eq!(out.code, 0, "{command:?}: {out:?}");
    out
}

/// Jobs run, and everything that is told of them is told from the bucket; then history is added up, written out and read
/// into another part of the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_its_history_there() {
    let bucket = Bucket::to_test_on().await;
    let mut j = server(&bucket).await;
    let mut ids = Vec::new();
    for name in ["good", "bad", "good"] {
        let id = j.submit(json!({"name": name, "data": {"b": 1, "a": [2, "é"]}, "attempts": 1})).await;
        ids.push((name, j.wait_final(&id).await["state"].clone(), id));
    }
    let states: Vec<_> = ids.iter().map(|(_, state, _)| state.as_str().unwrap()).collect();
    assert_eq!(states, ["completed", "failed", "completed"]);
    let (_, names) = j.get("/jobs").await;
    assert_eq!(names["jobs"].as_array().unwrap().len(), 2, "{names}");
    let (_, stats) = j.get("/stats").await;
    assert_eq!(stats["jobStats"]["perAttemptsStats"][0]["totalJobsUpTo"], 3, "{stats}");
    let failures = eventually("the error to be known", async || {
        let (_, failures) = j.get("/api/v1/failures").await;
        (failures["items"][0]["similarity"].is_number()).then_some(failures)
    })
    .await;
    let fingerprint = failures["items"][0]["fingerprint"].as_str().unwrap().to_owned();
    let (_, similar) = j.get("/api/v1/failures/similar?text=why").await;
    assert_eq!(similar["items"][0]["fingerprint"], json!(fingerprint), "{similar}");

    if !bucket.open().await.has_query_service().await.unwrap() {
        skipped("lists, rebuild, export and import need the query service");
        j.stop().await;
        return;
    }
    eventually("the lists to be served", async || (j.get("/api/v1/jobs").await.0 == 200).then_some(())).await;
    let (_, failed) = j.get(&format!("/api/v1/jobs?fingerprint={fingerprint}")).await;
    assert_eq!(
        (failed["items"].as_array().unwrap().len(), &failed["items"][0]["id"]),
        (1, &json!(ids[1].2)),
        "{failed}"
    );
    let place = j.place().clone();
    j.stop().await;
    upkeep(&bucket, &place, &["rebuild", "--check"], "").await;
    let history = upkeep(&bucket, &place, &["export"], "").await.stdout;
    let (other, elsewhere) = (Bucket::to_test_on().await, Place::new());
    let moved: Value =
        serde_json::from_str(&upkeep(&other, &elsewhere, &["import", "-o", "json"], &history).await.stdout).unwrap();
    assert_eq!(moved["jobs"], 3, "{moved}");
    let lines = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&upkeep(&other, &elsewhere, &["export"], "").await.stdout), lines(&history));
}

/// Two servers, one after the other: the second goes on where the first has stopped, whichever way it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_is_followed_by_another() {
    let bucket = Bucket::to_test_on().await;
    let mut first = server(&bucket).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(first.submit(json!({"name": "good"})).await);
    }
    first.wait_final(&ids[0]).await;
    first.kill().await;
    let place = first.place().clone();
    let start = bucket.environment().iter().fold(Jobber::dev().at(&place), |start, (key, value)| start.env(key, value));
    let second = start.start().await;
    ids.push(second.submit(json!({"name": "good"})).await);
    for id in &ids {
        assert_eq!(second.wait_final(id).await["state"], "completed");
    }
    eventually("every job to be counted once", async || {
        let (_, names) = second.get("/jobs").await;
        (names["jobs"][0]["completedCount"] == json!(ids.len())).then_some(())
    })
    .await;
}
