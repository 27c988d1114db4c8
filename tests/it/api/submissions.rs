//! Submitted jobs: many at once, repeated, acted upon.

use std::collections::HashSet;

use serde_json::json;

use crate::harness::redis::Redis;
use crate::harness::{Jobber, Place, Start, eventually};

#[tokio::test]
async fn ten_thousand_jobs_in_one_request_are_queued_and_listed_once_each() {
    let j = Jobber::dev().start().await;
    j.job("plain", "#!/bin/sh\n");
    // Paused, so that what is counted stands still.
    assert_eq!(j.post("/api/v1/queue:pause", json!({})).await.1["paused"], true);
    let jobs: Vec<_> = (0..10_000).map(|i| json!({"name": "plain", "arguments": [i.to_string()]})).collect();
    let (status, answer) = j.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
    assert_eq!((status, answer["jobs"].as_array().map(Vec::len)), (202, Some(10_000)));
    assert_eq!(j.get("/api/v1/queue").await.1["waiting"], 10_000);
    eventually("history to know them all", async || {
        let (_, groups) = j.get("/jobs").await;
        (groups["jobs"][0]["waitingCount"] == 10_000).then_some(())
    })
    .await;
    let mut seen = HashSet::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = j.get(&format!("/api/v1/jobs?limit=200{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        for item in page["items"].as_array().unwrap() {
            assert!(seen.insert(item["id"].to_string()), "{item} is listed twice");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 10_000);
}

#[tokio::test]
async fn a_repeated_request_submits_once() {
    let j = Jobber::dev().start().await;
    j.job("plain", "#!/bin/sh\n");
    let send = async |name: &str| {
        let request = j.http().post(j.url("/api/v1/jobs")).header("idempotency-key", "k");
        let response = request.json(&json!({"name": name, "delay_ms": 1})).send().await.unwrap();
        (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap())
    };
    let (_, first) = send("plain").await;
    let (status, again) = send("plain").await;
    assert_eq!((status, &again["id"], &again["duplicate"]), (202, &first["id"], &json!(true)));
    j.job("other", "#!/bin/sh\n");
    assert_eq!(send("other").await.1["code"], "idempotency_key_reused");
    j.wait_final(first["id"].as_str().unwrap()).await;
    let (_, list) = j.get("/api/v1/jobs").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_array_whose_server_is_killed_is_completed_by_the_same_request() {
    completed_after_a_kill(40_000, |start| start).await;
}

#[tokio::test]
async fn an_array_on_redis_whose_server_is_killed_is_completed_by_the_same_request() {
    let redis = tokio::task::spawn_blocking(Redis::start).await.unwrap();
    completed_after_a_kill(20_000, |start| start.env("JOBBER_QUEUE_URL", &redis.url())).await;
}

/// An array of so many jobs: enough for a kill in their midst, however late this hears of the first.
async fn completed_after_a_kill(jobs: u64, at: impl Fn(Start) -> Start) {
    let place = Place::new();
    place.job("plain", "#!/bin/sh\n");
    let mut j = at(Jobber::serve()).at(&place).start().await;
    let send = |j: &Jobber| {
        let request = j.http().post(j.url("/api/v1/jobs")).header("idempotency-key", "night");
        request.json(&json!({"name": "plain", "array": format!("1-{jobs}"), "group": "sims"})).send()
    };
    let cut_off = tokio::spawn(send(&j));
    let some = eventually("some parts of it", async || {
        let waiting = j.get("/api/v1/queue").await.1["waiting"].as_u64().unwrap();
        (waiting > 0).then_some(waiting)
    });
    assert!(some.await < jobs, "the test is too slow for what it tests");
    j.kill().await;
    assert!(cut_off.await.unwrap().is_err());

    let j = at(Jobber::serve()).at(&place).start().await;
    let before = j.get("/api/v1/queue").await.1["waiting"].as_u64().unwrap();
    assert!(before > 0 && before < jobs, "{before}");
    let answer: serde_json::Value = send(&j).await.unwrap().json().await.unwrap();
    // On Redis the part that was cut off counts as a whole.
    let duplicates = answer["array"]["duplicates"].as_u64().unwrap();
    assert!((before..before + 1000).contains(&duplicates), "{answer}");
    assert_eq!(j.get("/api/v1/queue").await.1["waiting"], jobs);
    eventually("history to know each once", async || {
        let (_, view) = j.get("/api/v1/groups/sims").await;
        assert!(view["total"].as_u64().is_none_or(|total| total <= jobs), "{view}");
        (view["total"] == jobs && view["behind"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_failed_job_is_retried_and_then_removed() {
    let j = Jobber::dev().start().await;
    let flag = j.place().path().join("flag");
    j.job("needs-flag", &format!("#!/bin/sh\ntest -e {}\n", flag.display()));
    let id = j.submit(json!({"name": "needs-flag", "attempts": 1})).await;
    assert_eq!(j.wait_final(&id).await["state"], "failed");
    std::fs::write(flag, "").unwrap();
    assert_eq!(j.post(&format!("/api/v1/jobs/{id}:retry"), json!({})).await.1["status"], "retried");
    let view = j.wait_final(&id).await;
    assert_eq!((&view["state"], &view["retries"]), (&json!("completed"), &json!(1)), "{view}");
    assert_eq!(view["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(j.post(&format!("/api/v1/jobs/{id}:retry"), json!({})).await.0, 409);
    assert_eq!(j.delete(&format!("/api/v1/jobs/{id}")).await.0, 200);
    eventually("the job to be gone", async || (j.get(&format!("/api/v1/jobs/{id}")).await.0 == 404).then_some(()))
        .await;
}
