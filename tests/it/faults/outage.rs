//! A Redis that is killed, with its append-only file on, in the midst of schedules and flows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::check_attempts;
use super::fleet::{on, server};
use crate::harness::{Jobber, Place, eventually};

/// Flows, each of a parent and three children.
const FLOWS: usize = 40;
const EVERY_MS: i64 = 1000;

/// What jobs wrote, each its id as the last thing that it did.
fn lines(file: &std::path::Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Ended once, and every attempt but those lost with the server is in history.
fn check_completed(view: &Value) {
    assert_eq!(view["state"], "completed", "{view:#}");
    check_attempts(view);
    let kinds: Vec<_> =
        view["attempts"].as_array().unwrap().iter().map(|a| a["report"]["outcome"]["kind"].as_str().unwrap()).collect();
    assert!(kinds.last() == Some(&"exit") && kinds.iter().all(|k| ["exit", "lost"].contains(k)), "{view:#}");
}

/// The jobs of this name in history.
async fn history(serve: &Jobber, name: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = serve.get(&format!("/api/v1/jobs?name={name}&limit=200{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        all.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// The times of a schedule for which a job is in history.
async fn times(serve: &Jobber, schedule: &str) -> Vec<i64> {
    let prefix = format!("repeat:{schedule}:");
    let ids = history(serve, "tick").await;
    let mut times: Vec<i64> =
        ids.iter().filter_map(|job| job["id"].as_str()?.strip_prefix(&prefix)?.parse().ok()).collect();
    times.sort_unstable();
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_and_flows_survive_a_redis_that_is_killed_in_their_midst() {
    let redis = server(true).await;
    let (one, two) = (Place::new(), Place::new());
    let file = one.path().join("ends");
    for place in [&one, &two] {
        place.job("tick", "#!/bin/sh\necho $JOBBER_JOB_ID\n");
        place.job("leaf", "#!/bin/sh\nsleep 0.1\necho $JOBBER_JOB_ID >> \"$1\"\necho $JOBBER_JOB_ID\n");
        place.job("gather", "#!/bin/sh\nexec cat \"$JOBBER_RESULTS_FILE\"\n");
    }
    let serve = on(redis.port(), &one, Jobber::serve()).start().await;
    let _workers = (
        on(redis.port(), &one, Jobber::work()).start().await,
        on(redis.port(), &two, Jobber::work().arg("--cores").arg("1")).start().await,
    );
    for id in ["odd", "even"] {
        let schedule = json!({"id": id, "every_ms": EVERY_MS, "job": {"name": "tick"}});
        assert_eq!(serve.post("/api/v1/schedules", schedule).await.0, 201);
    }
    // Parents by BullMQ's way, and behind pairs of them jobs by ours; with the ids that each waits for.
    let mut waiting: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for i in 0..FLOWS {
        let leaf = |n: usize| json!({"job": {"id": format!("leaf-{i}-{n}"), "name": "leaf", "arguments": [file]}});
        let parent = format!("parent-{i}");
        let flow = json!({"job": {"id": parent, "name": "gather"}, "children": [leaf(0), leaf(1), leaf(2)]});
        let (status, answer) = serve.post("/api/v1/flows", flow).await;
        assert_eq!(status, 202, "{answer}");
        waiting.insert(parent, (0..3).map(|n| format!("leaf-{i}-{n}")).collect());
    }
    for i in (0..FLOWS).step_by(2) {
        let after = vec![format!("parent-{i}"), format!("parent-{}", i + 1)];
        let id = serve.submit(json!({"name": "gather", "after": after})).await;
        waiting.insert(id, after);
    }
    for part in [1, 2, 3] {
        eventually("some leaves", async || (lines(&file).len() >= FLOWS * 3 * part / 4).then_some(())).await;
        let killed = redis.clone();
        tokio::task::spawn_blocking(move || killed.restart()).await.unwrap();
    }
    assert!(lines(&file).len() < FLOWS * 3, "the jobs were too fast for this test to say anything");
    eventually("the server to be ready", async || (serve.get("/readyz").await.0 == 200).then_some(())).await;

    for (id, others) in &waiting {
        let view = serve.wait_final(id).await;
        check_completed(&view);
        let results: Value = serde_json::from_str(view["result"].as_str().unwrap()).unwrap();
        let mut results: Vec<_> = results.as_object().unwrap().keys().cloned().collect();
        results.sort();
        assert_eq!(&results, others, "{view:#}");
    }
    for leaf in waiting.values().flatten().filter(|id| id.starts_with("leaf")) {
        let view = serve.wait_final(leaf).await;
        check_completed(&view);
        // What ran to its end more often than once was lost in between.
        let runs = lines(&file).iter().filter(|line| *line == leaf).count();
        assert!((1..=view["attempts"].as_array().unwrap().len()).contains(&runs), "{runs} runs of {view:#}");
    }
    assert_eq!(history(&serve, "gather").await.len(), waiting.len());
    assert_eq!(history(&serve, "leaf").await.len(), FLOWS * 3);

    // Both schedules go on, one job for each time, and one that is to come.
    for schedule in ["odd", "even"] {
        let before = times(&serve, schedule).await.len();
        eventually("more of the schedule", async || (times(&serve, schedule).await.len() >= before + 3).then_some(()))
            .await;
        let times = times(&serve, schedule).await;
        assert!(times.iter().all(|time| (time - times[0]) % EVERY_MS == 0), "{schedule}: {times:?}");
        let mut once = times.clone();
        once.dedup();
        assert_eq!(once, times, "{schedule}");
        for time in times {
            check_completed(&serve.wait_final(&format!("repeat:{schedule}:{time}")).await);
        }
    }
    eventually("one job to come for each schedule, and nothing else", async || {
        let (_, queue) = serve.get("/api/v1/queue").await;
        let states = ["delayed", "waiting", "prioritized", "active", "failed"].map(|state| queue[state].as_u64());
        (states == [Some(2), Some(0), Some(0), Some(0), Some(0)]).then_some(())
    })
    .await;
}
