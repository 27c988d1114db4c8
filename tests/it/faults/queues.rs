//! Workers that serve different queues on one Redis, one of them killed.

use serde_json::json;

use super::fleet::{ends, on, server};
use crate::harness::{Jobber, Place, Start, eventually};

/// The job notes each run that ends in the file of its worker.
fn place(worker: &str) -> std::sync::Arc<Place> {
    let place = Place::new();
    place.job("count", &format!("#!/bin/sh\nsleep 0.02\necho $JOBBER_JOB_ID >> \"$1-{worker}\"\n"));
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_given_jobs_of_its_queues_alone_whoever_is_killed() {
    const JOBS: usize = 300;
    const QUEUES: [&str; 3] = ["encode", "render", "my-job-queue"];
    let redis = server(false).await;
    let (one, two) = (place("one"), place("two"));
    let file = one.path().join("ends");
    let serve = on(redis.port(), &one, Jobber::serve()).start().await;
    let serving =
        |start: Start, queues: &[&str]| queues.iter().fold(start, |start, queue| start.arg("--queue").arg(*queue));
    let first = || serving(on(redis.port(), &one, Jobber::work()), &["encode=4", "my-job-queue"]);
    let mut killed = first().start().await;
    let _second = serving(on(redis.port(), &two, Jobber::work()), &["render=2", "encode:1"]).start().await;
    let job = |i: usize| json!({"name": "count", "arguments": [file], "queue": QUEUES[i % QUEUES.len()]});
    let (status, answer) =
        serve.post("/api/v1/jobs:bulk", json!({"jobs": (0..JOBS).map(job).collect::<Vec<_>>()})).await;
    assert_eq!(status, 202, "{answer}");
    let ids: Vec<_> = answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap()).collect();

    let by = |worker: &str| ends(&one.path().join(format!("ends-{worker}")));
    eventually("some of the jobs to be done", async || (by("one").len() >= JOBS / 6).then_some(())).await;
    killed.kill().await;
    assert!(by("one").len() + by("two").len() < JOBS, "the jobs were too fast for this test to say anything");
    let _again = first().start().await;
    for (i, id) in ids.iter().enumerate() {
        let view = serve.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{i}: {view}");
    }
    let (first, second) = (by("one"), by("two"));
    for (i, id) in ids.iter().enumerate() {
        let (by_first, by_second) = (first.contains_key(*id), second.contains_key(*id));
        match QUEUES[i % QUEUES.len()] {
            "encode" => assert!(by_first || by_second, "{id} was not run"),
            "render" => assert!(by_second && !by_first, "{id} of render"),
            _ => assert!(by_first && !by_second, "{id} of the default queue"),
        }
    }
}
