//! What a job is given is written once: counted from outside, on the real binary.

use std::time::Duration;

use serde_json::{Value, json};

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
    const BYTES: usize = 100_000;
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
    // Into the queue and the log, to the worker, and to the two that follow the log. In version 0.1.0: 11.1 times.
    assert!(times < 7.0, "{times}");
}
