//! Workers that end by themselves: after so many attempts, after so long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::faults::fleet::{on, server};
use crate::harness::{Jobber, Place, Start, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_embedded_queue_begins_no_more_jobs_than_it_may() {
    begins_no_more_than_it_may(|place, start| start.at(place)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_on_redis_begins_no_more_jobs_than_it_may() {
    let redis = server(false).await;
    begins_no_more_than_it_may(|place, start| on(redis.port(), place, start)).await;
}

async fn begins_no_more_than_it_may(on: impl Fn(&Arc<Place>, Start) -> Start) {
    const JOBS: usize = 120;
    let place = Place::new();
    let begins = place.path().join("begins");
    place.job("short", "#!/bin/sh\necho $JOBBER_JOB_ID $JOBBER_ATTEMPT >> \"$1\"\n");
    place.job("long", "#!/bin/sh\nsleep 3\n");
    let serve = on(&place, Jobber::serve()).start().await;
    let job = json!({"name": "short", "arguments": [begins], "attempts": 1});
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": vec![job; JOBS]})).await;
    assert_eq!(status, 202, "{answer}");
    let lines = || std::fs::read_to_string(&begins).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let mut done = 0;
    // Once by a limit that is reached amid leases held ahead, once by the last slot.
    for most in [70, 1] {
        let mut work = on(&place, Jobber::work().arg("--cores=2").arg(format!("--max-jobs={most}"))).start().await;
        assert_eq!(work.ended().await, 0, "{}", work.log());
        done += most;
        assert_eq!(lines().len(), done, "{}", work.log());
        eventually("the rest to wait", async || {
            let (_, queue) = serve.get("/api/v1/queue").await;
            (queue["waiting"] == JOBS - done && queue["active"] == 0).then_some(())
        })
        .await;
    }
    assert!(lines().iter().all(|line| line.ends_with(" 1")), "what was given back unstarted is no attempt");
    let long = serve.submit(json!({"name": "long", "queue": "last"})).await;
    let started = on(&place, Jobber::work().arg("--max-jobs=1").arg("--drain-timeout=500ms").arg("--queue=last"));
    let mut work = started.start().await;
    eventually("that it takes nothing more", async || {
        let (_, workers) = serve.get("/api/v1/workers").await;
        let (_, view) = serve.get(&format!("/api/v1/jobs/{long}")).await;
        (workers["items"][0]["draining"] == true && view["state"] == "active").then_some(())
    })
    .await;
    assert_eq!(work.ended().await, 0, "{}", work.log());
    let view = serve.wait_final(&long).await;
    assert_eq!(view["state"], "completed", "the last job may take its time: {view}");
}

#[tokio::test]
async fn a_worker_whose_time_is_over_drains() {
    let place = Place::new();
    std::fs::write(place.path().join("jobber.toml"), "[worker]\nmax_time = \"2s\"\ndrain_timeout = \"500ms\"\n")
        .unwrap();
    place.job("long", "#!/bin/sh\nsleep 60\n");
    let serve = Jobber::serve().at(&place).start().await;
    let held = serve.submit(json!({"name": "long"})).await;
    let began = Instant::now();
    let mut work = Jobber::work().at(&place).start().await;
    serve.wait_state(&held, "active").await;
    assert_eq!(work.ended().await, 0, "{}", work.log());
    assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() < Duration::from_secs(30));
    assert!(work.log().contains("the worker's time is over"), "{}", work.log());
    serve.wait_state(&held, "waiting").await;
    // A `dev` goes on with its API, so its worker goes on, too.
    let dev = Jobber::dev().at(&place).start().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(dev.get("/api/v1/workers").await.1["items"][0]["draining"], false, "{}", dev.log());
}
