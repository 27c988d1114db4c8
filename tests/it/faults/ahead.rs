//! Jobs that a worker holds ahead of its slots: they have not started, nobody hoards them, and no lease of theirs is used
//! once it is over.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::fleet::{on, server};
use crate::harness::{Jobber, Place, Start, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_long_jobs_after_short_ones_are_shared_and_start_when_they_start() {
    let redis = server(false).await;
    let (one, two) = (Place::new(), Place::new());
    share([&one, &two], |place, start| on(redis.port(), place, start)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_queue_long_jobs_after_short_ones_are_shared_and_start_when_they_start() {
    let place = Place::new();
    share([&place, &place], |place, start| start.at(place)).await;
}

/// After a spell of short jobs, which one worker alone has run, long ones come.
async fn share(places: [&Arc<Place>; 2], on: impl Fn(&Arc<Place>, Start) -> Start) {
    const LONG: usize = 6;
    for place in places {
        place.job("short", "#!/bin/sh\n:\n");
        place.job("long", "#!/bin/sh\nnow=$(date +%s%3N)\nsleep 2\necho $now\n");
    }
    let serve = on(places[0], Jobber::serve()).start().await;
    let _busy = on(places[0], Jobber::work().arg("--cores").arg("1")).start().await;
    let short = submit(&serve, "short", 300).await;
    for id in short.iter().rev() {
        serve.wait_final(id).await;
    }
    // Idle when the long ones come.
    let _idle = on(places[1], Jobber::work().arg("--cores").arg("1")).start().await;
    let long = submit(&serve, "long", LONG).await;
    let mut workers = Vec::new();
    for id in &long {
        let view = serve.wait_final(id).await;
        let [attempt] = view["attempts"].as_array().unwrap().as_slice() else {
            panic!("what was given back unstarted is no attempt: {view}")
        };
        assert_eq!(attempt["report"]["outcome"]["kind"], "exit", "{view}");
        let started = jiff_ms(&attempt["started_at"]);
        let began: i64 = view["result"].as_str().unwrap().parse().unwrap();
        assert!((began - started).abs() < 1500, "started {} ms before it began: {view}", began - started);
        workers.push(attempt["worker"].as_str().unwrap().to_owned());
    }
    workers.sort_unstable();
    let first = workers.iter().filter(|w| **w == workers[0]).count();
    assert!((2..=LONG - 2).contains(&first), "one worker has run nearly all: {workers:?}");
    let (_, stats) = serve.get("/api/v1/stats/durations?name=long").await;
    assert!(stats.is_object(), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_starts_nothing_of_what_it_held_ahead() {
    let place = Place::new();
    let begins = place.path().join("begins");
    place.job("short", "#!/bin/sh\necho $JOBBER_JOB_ID $JOBBER_ATTEMPT >> \"$1\"\n");
    let start = |start: Start| start.at(&place).env("JOBBER_LEASE", "3s");
    let serve = start(Jobber::serve()).start().await;
    let stopped = start(Jobber::work().arg("--cores").arg("1")).start().await;
    let job = json!({"name": "short", "arguments": [begins], "attempts": 1});
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": vec![job; 400]})).await;
    assert_eq!(status, 202, "{answer}");
    let lines = || std::fs::read_to_string(&begins).unwrap_or_default().lines().count();
    eventually("a quarter of it", async || (lines() >= 100).then_some(())).await;
    stopped.freeze().await;
    let _other = start(Jobber::work().arg("--cores").arg("1")).start().await;
    eventually("the other to have done the rest", async || {
        let (_, queue) = serve.get("/api/v1/queue").await;
        ["waiting", "active"].iter().all(|state| queue[state] == 0).then_some(())
    })
    .await;
    let before = lines();
    stopped.signal(Signal::CONT);
    // It takes part again: whatever it had in hand is behind it.
    let next = serve.submit(json!({"name": "short", "arguments": ["/dev/null"], "attempts": 1})).await;
    serve.wait_final(&next).await;
    eventually("word of the loss", async || stopped.log().contains("not renewed in time").then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lines(), before, "it has started what was another's");
    let mut lost = 0;
    for id in answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap()) {
        let view = serve.wait_final(id).await;
        let attempts = view["attempts"].as_array().unwrap();
        assert_eq!(view["state"], "completed", "{view}");
        lost += attempts.iter().filter(|a| a["report"]["outcome"]["kind"] != "exit").count();
    }
    // Those that ran, or whose ends were not written yet, when it was stopped; not what only waited.
    assert!(lost <= 4, "{lost} attempts are lost that never were");
}

/// Submits jobs of a name; their ids.
async fn submit(serve: &Jobber, name: &str, count: usize) -> Vec<String> {
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": vec![json!({"name": name}); count]})).await;
    assert_eq!(status, 202, "{answer}");
    answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap().to_owned()).collect()
}

fn jiff_ms(time: &Value) -> i64 {
    jobber::domain::Timestamp::parse(time.as_str().unwrap()).unwrap().as_millis()
}
