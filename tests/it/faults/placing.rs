//! Workers that differ in binaries, labels and resources on one Redis, one of them killed.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::fleet::{on, server};
use crate::harness::{Jobber, Place, Start, eventually};

/// Jobs of these names note each run with its resources in the file of their worker.
fn place(worker: &str, names: &[&str]) -> std::sync::Arc<Place> {
    let place = Place::new();
    for name in names {
        let line = "$JOBBER_JOB_ID gpu:$JOBBER_GPU licence:$JOBBER_LICENCE";
        place.job(name, &format!("#!/bin/sh\nsleep 0.01\necho \"{line}\" >> \"$1-{worker}\"\n"));
    }
    place
}

/// What a job asks for, and which of the workers can run it.
fn kind(i: usize, file: &std::path::Path) -> (Value, &'static [&'static str]) {
    let job = |name: &str, more: Value| {
        let mut job = json!({"name": name, "arguments": [file]});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    };
    match i % 7 {
        0 => (job("encode", json!({})), &["one"]),
        1 => (job("render", json!({})), &["two"]),
        2 => (job("plain", json!({"require": {"zone": "eu"}})), &["one"]),
        3 => (job("plain", json!({"require": {"zone": "us"}})), &["two"]),
        4 => (job("plain", json!({"resources": {"gpu": 1}})), &["one"]),
        5 => (job("plain", json!({"resources": {"licence": 1}, "require": {"zone": "us"}})), &["two"]),
        _ => (job("plain", json!({})), &["one", "two"]),
    }
}

/// The lines of the file: job, units of gpu, units of licence.
fn runs(file: &std::path::Path, worker: &str) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(format!("{}-{worker}", file.display())).unwrap_or_default();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let lines = text.lines().map(words).filter(|words| words.len() == 3);
    lines.map(|words| (words[0].clone(), words[1].clone(), words[2].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_runs_where_it_can_and_spends_no_attempt_elsewhere() {
    const JOBS: usize = 1000;
    let redis = server(false).await;
    let (one, two) = (place("one", &["encode", "plain"]), place("two", &["render", "plain"]));
    let file = one.path().join("runs");
    let serve = on(redis.port(), &one, Jobber::serve()).start().await;
    let first = || {
        let start: Start = on(redis.port(), &one, Jobber::work());
        start.arg("--label=zone=eu").arg("--resource=gpu=a+b").start()
    };
    let mut killed = first().await;
    let second = on(redis.port(), &two, Jobber::work()).arg("--label=zone=us").arg("--resource=licence=1");
    let _second = second.start().await;
    let jobs: Vec<_> = (0..JOBS).map(|i| kind(i, &file)).collect();
    let bodies: Vec<_> = jobs.iter().map(|(body, _)| body).collect();
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": bodies})).await;
    assert_eq!(status, 202, "{answer}");
    let ids: Vec<_> = answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap()).collect();
    eventually("some of the jobs to be done", async || (runs(&file, "one").len() >= JOBS / 10).then_some(())).await;
    killed.kill().await;
    let _again = first().await;
    let mut wrong = Vec::new();
    for (id, (body, _)) in ids.iter().zip(&jobs) {
        let view = serve.wait_final(id).await;
        let outcomes: Vec<_> = view["attempts"].as_array().unwrap().iter().map(|a| &a["report"]["outcome"]).collect();
        // The killed worker's attempts are lost, and spent nothing; nothing was ever started where it could not run.
        let is_fine =
            |outcome: &&Value| outcome["kind"] == "lost" || (outcome["kind"] == "exit" && outcome["code"] == 0);
        if view["state"] != "completed" || !outcomes.iter().all(is_fine) {
            wrong.push(format!("{body}: {view}"));
        }
    }
    assert!(wrong.is_empty(), "{} jobs, such as {}", wrong.len(), wrong[0]);
    let by = ["one", "two"].map(|worker| (worker, runs(&file, worker)));
    for (worker, runs) in &by {
        let here: HashSet<_> = runs.iter().map(|(id, ..)| id.as_str()).collect();
        for (id, (body, can)) in ids.iter().zip(&jobs) {
            assert!(!here.contains(id) || can.contains(worker), "{worker} ran {body}");
        }
    }
    let gpus: HashSet<_> = by[0].1.iter().map(|(_, gpu, _)| gpu.as_str()).collect();
    // One each, and none for those that ask for none.
    assert!(gpus.is_subset(&HashSet::from(["gpu:", "gpu:a", "gpu:b"])), "{gpus:?}");
    assert!(gpus.contains("gpu:") && gpus.contains("gpu:a"), "{gpus:?}");
    let licences: HashSet<_> = by[1].1.iter().map(|(.., licence)| licence.as_str()).collect();
    assert_eq!(licences, HashSet::from(["licence:", "licence:0"]));
}
