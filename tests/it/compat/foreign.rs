//! What other programs do to Jobber's jobs on a shared queue: history is told of it.

use serde_json::{Value, json};

use super::{node, server};
use crate::harness::{Jobber, eventually};

with_node! {
    what_a_node_worker_and_an_operator_do_to_our_jobs_is_in_history,
}

async fn what_a_node_worker_and_an_operator_do_to_our_jobs_is_in_history(bullmq: &str) {
    let redis = server().await;
    let jobber = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    for name in ["elsewhere", "later"] {
        jobber.job(name, "#!/bin/sh\n");
    }
    let mut ids = serde_json::Map::new();
    for name in ["done", "broken", "again", "held", "forgotten"] {
        ids.insert(name.into(), json!(jobber.submit(json!({"name": "elsewhere"})).await));
    }
    ids.insert("delayed".into(), json!(jobber.submit(json!({"name": "later", "delay_ms": 3_600_000})).await));
    let id = |name: &str| ids[name].as_str().unwrap().to_owned();
    let (done, delayed) = (id("done"), id("delayed"));
    let (wait, wait_for_removed) = (["wait", &done], ["wait", &delayed]);
    let script = [redis.port().to_string(), Value::Object(ids.clone()).to_string()];
    let script = [script[0].as_str(), script[1].as_str()];
    // Somebody waits for a job while it is done elsewhere.
    let (said, waited, told) =
        tokio::join!(node(bullmq, "foreign.js", &script), jobber.cli(&wait), jobber.cli(&wait_for_removed));
    assert_eq!(said[0]["seen"], json!({"done": 1, "broken": 1, "again": 2, "held": 1, "forgotten": 1}), "{said:?}");
    assert_eq!(waited.code, 0, "{waited:?}");
    assert_eq!(told.code, 125, "{told:?}");

    let view = async |name: &str| jobber.wait_final(&id(name)).await;
    for (name, result) in [("done", "done by node"), ("again", "second time"), ("forgotten", "forgotten by node")] {
        let job = view(name).await;
        assert_eq!((&job["state"], &job["result"]), (&json!("completed"), &json!(result)), "{name}: {job:#}");
        assert_eq!(job["outcome"], json!({"kind": "exit", "code": 0}), "{job:#}");
        assert!(!job["attempts"].as_array().unwrap().is_empty(), "{job:#}");
    }
    let broken = view("broken").await;
    assert_eq!((&broken["outcome"], &broken["error"]), (&json!({"kind": "exit", "code": 1}), &json!("broken by node")));
    let removed = view("delayed").await;
    assert_eq!(removed["outcome"], json!({"kind": "lost"}), "{removed:#}");
    assert!(removed["error"].as_str().unwrap().contains("another program"), "{removed:#}");
    // Lists, which are history's alone.
    let listed = async |id: &str| {
        let (_, all) = jobber.get("/api/v1/jobs").await;
        all["items"].as_array().unwrap().iter().find(|job| job["id"] == id).map(|job| job["state"].clone())
    };
    assert_eq!(listed(&id("held")).await, Some(json!("active")));
    assert_eq!(listed(&id("delayed")).await, Some(json!("failed")));

    // What is emptied is lost, and nobody waits for it for ever.
    let more = jobber.submit(json!({"name": "elsewhere"})).await;
    let held = id("held");
    let wait = ["wait", &more, &held];
    let waiting = jobber.cli(&wait);
    let emptied = async {
        jobber.wait_state(&more, "waiting").await;
        redis.cli(&["FLUSHALL"]);
    };
    let (waited, ()) = tokio::join!(waiting, emptied);
    assert_eq!(waited.code, 125, "{waited:?}");
    for id in [&more, &held] {
        let job = jobber.wait_final(id).await;
        assert_eq!((&job["state"], &job["outcome"]), (&json!("failed"), &json!({"kind": "lost"})), "{job:#}");
    }
    // And it goes on.
    let next = jobber.submit(json!({"name": "elsewhere"})).await;
    eventually("the next job in the list", async || listed(&next).await.filter(|state| *state == "waiting")).await;
    let (_, stats) = jobber.get("/api/v1/stats").await;
    assert_ne!(stats, Value::Null);
}
