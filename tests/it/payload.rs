//! What a job is given is written once: counted from outside, on the real binary.

use std::time::Duration;

use jobber::domain::{Clock, JobOptions, NewJob, RawJson};
use jobber::queue::embedded::EmbeddedQueue;
use jobber::queue::{Queue, QueueSettings};
use jobber::sqlite::{Durability, Sqlite};
use jobber::store::History;
use jobber::store::embedded::EmbeddedStore;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::harness::redis::Redis;
use crate::harness::{Jobber, eventually};

fn body(bytes: usize) -> Value {
    json!({"text": "x".repeat(bytes)})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_bodies_are_kept_three_times_each() {
    const JOBS: usize = 1000;
    let mut j = Jobber::dev().start().await;
    j.job("takes", "#!/bin/sh\ncat > /dev/null\n");
    let job = json!({"name": "takes", "data": body(10_000)});
    let half = json!({"jobs": vec![job; JOBS / 2]});
    for _ in 0..2 {
        assert_eq!(j.post("/api/v1/jobs:bulk", half.clone()).await.0, 202);
    }
    eventually("all jobs to end", async || (j.get("/api/v1/queue").await.1["completed"] == json!(JOBS)).then_some(()))
        .await;
    let place = j.place().clone();
    j.stop().await;
    let bytes = std::fs::metadata(place.data_dir().join("jobber.db")).unwrap().len();
    let times = bytes as f64 / (JOBS * 10_000) as f64;
    eprintln!("at rest for {JOBS} jobs of 10 KB: {bytes} bytes, {times:.2} times what was given");
    // Once each in queue, log and history, with what a page wastes, and a cache of some megabytes.
    assert!(times < 5.0, "{times}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_moves_to_and_from_redis_few_times() {
    const BYTES: usize = 1_000_000;
    let redis = Redis::start();
    let j = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    j.job("takes", "#!/bin/sh\ncat > /dev/null\n");
    // What is moved once in the life of a process is no matter of this job.
    j.wait_final(&j.submit(json!({"name": "takes"})).await).await;
    let moved = || {
        let stats = redis.cli(&["INFO", "stats"]);
        let number = |name: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<f64>().unwrap()
        };
        number("total_net_input_bytes:") + number("total_net_output_bytes:")
    };
    // The vectors of known texts, for instance.
    let mut before = moved();
    eventually("Redis to be at rest", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = moved();
        let is_at_rest = now - before < 20_000.0;
        before = now;
        is_at_rest.then_some(())
    })
    .await;
    let id = j.submit(json!({"name": "takes", "data": body(BYTES)})).await;
    eventually("the job to end, seen without asking for its body", async || {
        let (_, jobs) = j.get("/api/v1/jobs?state=completed").await;
        jobs["items"].as_array().unwrap().iter().any(|job| job["id"] == id.as_str()).then_some(())
    })
    .await;
    // What follows the log has read it by then, or makes the figure better than it is.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let times = (moved() - before) / BYTES as f64;
    eprintln!("moved to and from Redis for one job: {times:.2} times what it was given");
    // Into the queue and the log, to the worker, and to those that follow the log. In version 0.1.0: 11 times.
    assert!(times < 6.8, "{times}");
}

/// A server that is killed between the queue's answer and its own `submitted` event leaves a job of which history knows
/// nothing, until a worker tells of its start, which does not bring what the job is given.
#[tokio::test(flavor = "multi_thread")]
async fn history_is_told_what_a_job_is_given_when_its_server_was_killed_before_it_could() {
    let j = Jobber::dev().start().await;
    j.job("takes", "#!/bin/sh\ncat\n");
    let data_dir = j.place().data_dir();
    let db = Sqlite::open(&data_dir.join("jobber.db"), Durability::Process).unwrap();
    let settings = QueueSettings::default();
    let queue =
        EmbeddedQueue::open(db.clone(), &data_dir, settings, None, Clock::system(), TaskTracker::new()).await.unwrap();
    let new = NewJob {
        id: None,
        name: "takes".to_owned(),
        arguments: vec!["x".to_owned()],
        data: Some(RawJson::from(&json!({"n": 1}))),
        options: JobOptions::default(),
    };
    let job = new.accept(Clock::system().now()).unwrap();
    queue.submit(vec![job.clone()], None).await.unwrap();
    let id = job.job.id.clone();
    assert_eq!(j.wait_final(id.as_str()).await["state"], "completed");
    let store = EmbeddedStore::open(db).await.unwrap();
    let kept = eventually("history to be told", async || {
        store.bodies(std::slice::from_ref(&id)).await.unwrap().pop().flatten()
    })
    .await;
    assert_eq!(kept, job.body);
    let (_, view) = j.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!(
        (&view["arguments"], &view["data"], &view["incomplete"]),
        (&json!(["x"]), &json!({"n": 1}), &Value::Null)
    );
}

/// No server tells of it, and BullMQ lets go of it the moment that it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_producer_brings_what_it_is_given_with_its_first_event() {
    let redis = Redis::start();
    let j = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    j.job("takes", "#!/bin/sh\ncat\n");
    let producer = crate::bullmq::foreign(&redis).await;
    let options = bullmq::JobOptions {
        remove_on_complete: Some(bullmq::types::RemoveOnFinish::Bool(true)),
        ..bullmq::JobOptions::default()
    };
    let added = producer.add("takes", json!({"rows": 5})).options(options).await.unwrap();
    let view = eventually("its end in history", async || {
        let (status, view) = j.get(&format!("/api/v1/jobs/{}", added.id())).await;
        (status == 200 && view["state"] == "completed").then_some(view)
    })
    .await;
    assert_eq!((&view["data"], &view["incomplete"]), (&json!({"rows": 5}), &Value::Null), "{view}");
}
