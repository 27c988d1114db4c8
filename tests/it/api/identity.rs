//! Which job an id stands for: a submission that is repeated, an id that comes again.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::redis::Redis;
use crate::harness::{Jobber, Start, eventually};

/// A server over SQLite, and one over a Redis of its own.
async fn both() -> Vec<(Option<Redis>, Start)> {
    let redis = tokio::task::spawn_blocking(Redis::start).await.unwrap();
    let distributed = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url());
    vec![(None, Jobber::dev()), (Some(redis), distributed)]
}

async fn post(j: &Jobber, path: &str, key: &str, body: Value) -> Value {
    let answer = j.http().post(j.url(path)).header("idempotency-key", key).json(&body).send().await.unwrap();
    let status = answer.status();
    let body = answer.json().await.unwrap();
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    body
}

async fn listed(j: &Jobber, count: usize) -> Vec<Value> {
    eventually("the jobs in the list", async || {
        let (_, list) = j.get("/api/v1/jobs").await;
        let jobs = list["items"].as_array().cloned()?;
        assert!(jobs.len() <= count, "{jobs:#?}");
        (jobs.len() == count).then_some(jobs)
    })
    .await
}

/// The submission got its key and, perhaps, its jobs; its answer and its event were lost. This is how Redis then stands.
fn cut_off(redis: &Redis) {
    let keys = redis.cli(&["--raw", "keys", "bull:my-job-queue:jobber:request:*"]);
    let key = keys.lines().find(|key| !key.is_empty()).expect("the request is remembered");
    let remembered = redis.cli(&["--raw", "get", key]);
    redis.cli(&["set", key, &remembered.trim().replace("\"done\":true", "\"done\":false"), "keepttl"]);
    let remembered: Value = serde_json::from_str(remembered.trim()).unwrap();
    for id in remembered["ids"].as_array().unwrap() {
        redis.cli(&["hset", "bull:my-job-queue:jobber:requested", id.as_str().unwrap(), "requested"]);
    }
}

#[tokio::test]
async fn a_job_that_has_ended_and_left_is_not_run_anew_by_the_repeat() {
    let redis = tokio::task::spawn_blocking(Redis::start).await.unwrap();
    let j = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_COMPLETED_COUNT", "0").start().await;
    let ran = j.place().path().join("ran");
    j.job("plain", &format!("#!/bin/sh\necho once >> {}\n", ran.display()));
    j.post("/api/v1/queue:pause", json!({})).await;
    let first = post(&j, "/api/v1/jobs", "k", json!({"name": "plain"})).await;
    let id = first["id"].as_str().unwrap();
    cut_off(&redis);
    j.post("/api/v1/queue:resume", json!({})).await;
    assert_eq!(j.wait_final(id).await["state"], "completed");
    eventually("the job to leave", async || {
        (redis.cli(&["exists", &format!("bull:my-job-queue:{id}")]).trim() == "0").then_some(())
    })
    .await;
    let again = post(&j, "/api/v1/jobs", "k", json!({"name": "plain"})).await;
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    assert_eq!(j.cli(&["run", "plain"]).await.code, 0);
    assert_eq!(std::fs::read_to_string(ran).unwrap(), "once\nonce\n", "the repeat, and the run after it");
    assert_eq!(redis.cli(&["exists", "bull:my-job-queue:jobber:requested"]).trim(), "0");
}

#[tokio::test]
async fn a_repeated_submission_that_was_cut_off_leaves_no_phantom() {
    let redis = tokio::task::spawn_blocking(Redis::start).await.unwrap();
    let j = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    j.job("plain", "#!/bin/sh\n");
    j.post("/api/v1/queue:pause", json!({})).await;
    let flow = json!({"job": {"name": "plain"}, "children": [{"job": {"name": "plain"}}]});
    let first = post(&j, "/api/v1/flows", "k", flow.clone()).await;
    cut_off(&redis);
    let again = post(&j, "/api/v1/flows", "k", flow).await;
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    assert_eq!(again["children"][0]["id"], first["children"][0]["id"]);
    let body = json!({"jobs": [{"name": "plain"}, {"name": "plain"}]});
    let known = redis.cli(&["--raw", "keys", "bull:my-job-queue:jobber:request:*"]);
    redis.cli(&["del", known.trim()]);
    let first = post(&j, "/api/v1/jobs:bulk", "b", body.clone()).await;
    cut_off(&redis);
    let again = post(&j, "/api/v1/jobs:bulk", "b", body).await;
    for i in [0, 1] {
        assert_eq!(again["jobs"][i]["id"], first["jobs"][i]["id"]);
    }
    let jobs = listed(&j, 4).await;
    j.post("/api/v1/queue:resume", json!({})).await;
    for job in jobs {
        assert_eq!(j.wait_final(job["id"].as_str().unwrap()).await["state"], "completed");
    }
}

#[tokio::test]
async fn a_repeat_writes_down_the_submission_that_was_not() {
    let redis = tokio::task::spawn_blocking(Redis::start).await.unwrap();
    let j = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    j.job("plain", "#!/bin/sh\n");
    j.post("/api/v1/queue:pause", json!({})).await;
    for (key, id) in [("k", None), ("", Some("chosen"))] {
        // The queue takes the job, and the log refuses the event.
        redis.cli(&["acl", "setuser", "default", "resetkeys", "~bull:*", "%R~*"]);
        let send = async || {
            let request = j.http().post(j.url("/api/v1/jobs")).json(&json!({"name": "plain", "id": id}));
            let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
            request.send().await.unwrap().json::<Value>().await.unwrap()
        };
        let before = j.log().matches("could not write down").count();
        let first = send().await;
        assert_eq!(first["duplicate"], false, "{first}");
        assert_eq!(j.log().matches("could not write down").count(), before + 1);
        redis.cli(&["acl", "setuser", "default", "allkeys"]);
        let again = send().await;
        assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
        let written = async || {
            let (_, list) = j.get("/api/v1/jobs").await;
            let job = list["items"].as_array()?.iter().find(|job| job["id"] == first["id"]).cloned()?;
            Some(job["submitted_at"].clone())
        };
        assert_eq!(eventually("history to be told", written).await, first["submitted_at"]);
    }
    listed(&j, 2).await;
}

#[tokio::test]
async fn an_id_that_comes_again_is_another_job_and_run_follows_it() {
    for (redis, start) in both().await {
        let mut start = start;
        for (name, value) in [("JOBBER_COMPLETED_AGE", "1s"), ("JOBBER_FAILED_AGE", "1s")] {
            start = start.env(name, value);
        }
        let j = start.start().await;
        j.job("ok", "#!/bin/sh\necho fine\n");
        j.job("failonce", "#!/bin/sh\necho broken >&2\nexit 7\n");
        let first = j.cli(&["submit", "ok", "--id", "jobA", "--wait"]).await;
        assert_eq!(first.code, 0, "{}", first.stderr);
        let gone = async || {
            eventually("the queue to let go of it", async || match &redis {
                None => {
                    let (_, counts) = j.get("/api/v1/queue").await;
                    (counts["completed"] == 0 && counts["failed"] == 0).then_some(())
                }
                Some(redis) => {
                    // BullMQ removes the aged only when another job ends alike.
                    j.cli(&["run", "ok"]).await;
                    j.cli(&["run", "failonce", "--attempts", "1"]).await;
                    (redis.cli(&["exists", "bull:my-job-queue:jobA"]).trim() == "0").then_some(())
                }
            })
            .await;
        };
        gone().await;
        let second = j.cli(&["run", "failonce", "--id", "jobA", "--attempts", "1"]).await;
        let said = second.stderr;
        assert_eq!((second.code, second.stdout.as_str()), (7, ""), "{said}");
        assert!(said.contains("broken") && said.contains("job jobA failed"), "{said}");
        gone().await;
        // The last of them is who the id stands for; each has a record of its own.
        let view = j.wait_final("jobA").await;
        assert_eq!((&view["name"], &view["state"]), (&json!("failonce"), &json!("failed")), "{view}");
        assert_eq!(view["attempts"].as_array().unwrap().len(), 1);
        let (_, list) = j.get("/api/v1/jobs?limit=200").await;
        let of = |name: &str| -> Vec<String> {
            let jobs = list["items"].as_array().unwrap().iter();
            let ids = jobs.filter(|job| job["name"] == name).map(|job| job["id"].as_str().unwrap().to_owned());
            ids.filter(|id| id.starts_with("jobA")).collect()
        };
        assert_eq!(of("ok"), ["jobA"]);
        let [again] = &of("failonce")[..] else { panic!("{list:#}") };
        assert_eq!(j.wait_final(again).await["state"], "failed");
        let waited = j.cli(&["submit", "ok", "--id", "jobA", "--wait", "-o", "json"]).await;
        assert_eq!(waited.code, 0, "{}", waited.stderr);
        let ended: Value = serde_json::from_str(&waited.stdout).unwrap();
        assert_eq!(
            (&ended["items"][0]["id"], &ended["items"][0]["state"]),
            (&json!("jobA"), &json!("completed")),
            "{ended}"
        );
        drop(redis);
    }
}
