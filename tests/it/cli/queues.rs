//! Several queues in one installation.

use serde_json::{Value, json};

use super::parse;
use crate::harness::{Jobber, Place, Start, eventually};

/// The queue of this name, as `queue ls` shows it.
async fn listed(j: &Jobber, name: &str) -> Value {
    let all = parse(&j.cli(&["queue", "ls", "-o", "json"]).await.stdout);
    let mut queues = all["items"].as_array().unwrap().iter();
    queues.find(|queue| queue["name"] == name).cloned().unwrap_or_else(|| panic!("no queue {name} in {all}"))
}

#[tokio::test]
async fn a_worker_serves_the_queues_that_it_is_told() {
    let place = Place::new();
    place.job("hello", "#!/bin/sh\necho hello\n");
    std::fs::write(place.path().join("jobber.toml"), "[jobs.render-frame]\nqueue = \"render\"\n").unwrap();
    place.job("render-frame", "#!/bin/sh\necho frame\n");
    let serve = Jobber::serve().at(&place).start().await;
    let _worker = Jobber::work().at(&place).arg("--queue=encode=4:2").arg("--queue=render").start().await;
    // By the command line, by the configuration of the name, and by JSON.
    let encoded = serve.submit(json!({"name": "hello", "queue": "encode"})).await;
    let rendered = serve.cli(&["submit", "render-frame", "--print-id"]).await.stdout.trim().to_owned();
    for id in [&encoded, &rendered] {
        assert_eq!(serve.wait_final(id).await["state"], "completed");
    }
    assert_eq!(serve.wait_final(&rendered).await["options"]["queue"], "render");
    let typo = serve.cli(&["submit", "hello", "--queue", "encoed", "--print-id"]).await.stdout.trim().to_owned();
    let plain = serve.submit(json!({"name": "hello"})).await;
    let why = serve.cli(&["explain", &typo]).await.stdout;
    assert!(why.contains("no worker serves the queue encoed; start one with `jobber work --queue encoed`"), "{why}");
    let why = serve.cli(&["explain", &plain]).await.stdout;
    assert!(why.contains("no worker serves the queue my-job-queue"), "{why}");
    let encoed = listed(&serve, "encoed").await;
    assert_eq!((&encoed["waiting"], &encoed["workers"], &encoed["is_default"]), (&json!(1), &json!(0), &json!(false)));
    assert_eq!(encoed["backlog"]["jobs"], 1, "{encoed}");
    let status = serve.cli(&["queue", "status", "encoed"]).await.stdout;
    assert!(status.contains("backlog") && status.contains("1 ready, some "), "{status}");
    let default = listed(&serve, "my-job-queue").await;
    assert_eq!((&default["waiting"], &default["is_default"]), (&json!(1), &json!(true)));
    assert_eq!(listed(&serve, "encode").await["workers"], 1);
    let found = parse(&serve.cli(&["list", "--queue", "encode", "-o", "json"]).await.stdout);
    assert_eq!(found["items"].as_array().unwrap().iter().map(|job| &job["id"]).collect::<Vec<_>>(), [&json!(encoded)]);
    let found = parse(&serve.cli(&["list", "--queue", "my-job-queue", "-o", "json"]).await.stdout);
    assert_eq!(found["items"].as_array().unwrap().iter().map(|job| &job["id"]).collect::<Vec<_>>(), [&json!(plain)]);
}

#[tokio::test]
async fn a_queue_is_paused_resumed_and_cleaned_alone() {
    let j = Jobber::dev().arg("--queue=a").arg("--queue=b").start().await;
    j.job("hello", "#!/bin/sh\necho hello\n");
    let paused = j.cli(&["queue", "pause", "a"]).await;
    assert!(paused.code == 0 && paused.stdout.contains("paused"), "{paused:?}");
    let (held, runs) = (
        j.submit(json!({"name": "hello", "queue": "a"})).await,
        j.submit(json!({"name": "hello", "queue": "b"})).await,
    );
    assert_eq!(j.wait_final(&runs).await["state"], "completed");
    let why = j.cli(&["explain", &held]).await.stdout;
    assert!(why.contains("the queue a is paused; let it go on with `jobber queue resume a`"), "{why}");
    assert!(j.cli(&["queue", "status"]).await.stdout.contains("running"), "not all are paused");
    assert_eq!(j.cli(&["queue", "resume", "a"]).await.code, 0);
    assert_eq!(j.wait_final(&held).await["state"], "completed");
    eventually("both among the completed", async || {
        let [a, b] = [listed(&j, "a").await, listed(&j, "b").await];
        (a["completed"] == 1 && b["completed"] == 1).then_some(())
    })
    .await;
    let cleaned = parse(&j.cli(&["queue", "clean", "a", "--state", "completed", "-o", "json"]).await.stdout);
    assert_eq!(cleaned["removed"], 1);
    assert_eq!([&listed(&j, "a").await["completed"], &listed(&j, "b").await["completed"]], [&json!(0), &json!(1)]);
    let unknown = j.cli(&["queue", "status", "nowhere"]).await;
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert!(unknown.stderr.contains("there is no queue nowhere"), "{unknown:?}");
}

#[tokio::test]
async fn failures_and_statistics_of_one_queue_are_told() {
    told_by_queue(Jobber::dev()).await;
}

#[tokio::test]
async fn failures_and_statistics_of_one_queue_are_told_on_redis() {
    let redis = crate::harness::redis::Redis::start();
    told_by_queue(Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url())).await;
}

async fn told_by_queue(start: Start) {
    let j = start.arg("--queue=encode").arg("--queue=my-job-queue").start().await;
    j.job("some", "#!/bin/sh\n[ -z \"$1\" ] || { echo \"$1\" >&2; exit 1; }\n");
    let say = ["disk full in encode", "", "no route to host"];
    for (queue, text) in ["encode", "encode", "my-job-queue"].into_iter().zip(say) {
        let arguments: Vec<_> = [text].into_iter().filter(|text| !text.is_empty()).collect();
        let id = j.submit(json!({"name": "some", "queue": queue, "arguments": arguments, "attempts": 1})).await;
        j.wait_final(&id).await;
    }
    let ask = async |args: &[&str]| parse(&j.cli(&[args, &["-o", "json"]].concat()).await.stdout);
    let texts = |report: &Value| {
        let items = report["items"].as_array().unwrap().iter();
        items.map(|item| item["text"].as_str().unwrap().trim().to_owned()).collect::<Vec<_>>()
    };
    eventually("all of it in history", async || {
        (ask(&["failures"]).await["total"] == 2 && ask(&["stats", "durations"]).await["items"][0]["running"]["n"] == 3)
            .then_some(())
    })
    .await;
    for (queue, said, ran, completed) in [("encode", say[0], 2, 1), ("my-job-queue", say[2], 1, 0)] {
        assert_eq!(texts(&ask(&["failures", "--queue", queue]).await), [said], "{queue}");
        let days = ask(&["failures", "--queue", queue, "--trend", "1"]).await;
        assert_eq!(days["items"][0]["trend"][0]["count"], 1, "{days}");
        let durations = ask(&["stats", "durations", "--queue", queue]).await;
        assert_eq!(durations["items"][0]["running"]["n"], ran, "{durations}");
        let attempts = ask(&["stats", "attempts", "--queue", queue, "--name", "some"]).await;
        assert_eq!(attempts["items"][0]["completed_within"]["hits"], completed, "{attempts}");
    }
    assert_eq!(ask(&["failures", "--queue", "nowhere"]).await["total"], 0);
    assert_eq!(j.cli(&["stats", "throughput", "--queue", "encode"]).await.code, 2);
    assert_eq!(j.get("/api/v1/failures?queue=a:b").await.0, 400);
}

#[tokio::test]
async fn what_cannot_be_a_queue_is_told() {
    let j = Jobber::serve().start().await;
    j.job("hello", "#!/bin/sh\n");
    let (status, problem) = j.post("/api/v1/jobs", json!({"name": "hello", "queue": "a:b"})).await;
    assert_eq!(status, 422, "{problem}");
    assert_eq!(problem["errors"][0]["pointer"], "/queue");
    assert_eq!(j.cli(&["submit", "hello", "--queue", "a:b"]).await.code, 2);
    let twice = crate::harness::run(&["work", "--queue", "a", "--queue", "a=2"], &[], j.place().path(), "").await;
    assert!(twice.code != 0 && twice.stderr.contains("names a twice"), "{twice:?}");
    let heavy = crate::harness::run(&["work", "--queue", "a=0"], &[], j.place().path(), "").await;
    assert!(heavy.code == 2 && heavy.stderr.contains("NAME=WEIGHT (1 to 1000)"), "{heavy:?}");
}
