//! Flows that both sides see.

use serde_json::json;

use super::{node, server};
use crate::harness::Jobber;

with_node! { a_flow_of_theirs_runs_here_and_ours_is_seen }

async fn a_flow_of_theirs_runs_here_and_ours_is_seen(bullmq: &str) {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    jobber.job("fail", "#!/bin/sh\nexit 3\n");
    jobber.job("gather", "#!/bin/sh\nexec cat \"$JOBBER_RESULTS_FILE\"\n");
    let leaf = |word: &str| json!({"job": {"name": "echo", "arguments": [word]}});
    let flow = json!({"job": {"name": "gather", "id": "ours"}, "children": [leaf("a"), leaf("b")]});
    assert_eq!(jobber.post("/api/v1/flows", flow).await.0, 202);
    assert_eq!(jobber.wait_final("ours").await["state"], "completed");

    let said = node(bullmq, "flows.js", &[&redis.port().to_string()]).await.remove(0);
    // Node's parent ran after its children and got what they gave back.
    assert_eq!(said["theirs"]["success"], true, "{said:#}");
    let results: serde_json::Value = serde_json::from_str(said["theirs"]["result"].as_str().unwrap()).unwrap();
    let mut words: Vec<_> = results.as_object().unwrap().values().map(|v| v.as_str().unwrap()).collect();
    words.sort_unstable();
    assert_eq!(words, ["one", "two"], "{said:#}");
    // Ours is a flow to Node, with the children's values where it looks for them.
    assert_eq!((&said["ours"]["name"], said["ours"]["children"].as_array().unwrap().len()), (&json!("gather"), 2));
    let values: Vec<_> = said["values"].as_object().unwrap().values().map(|v| v["result"].clone()).collect();
    assert!(values.contains(&json!("a")) && values.contains(&json!("b")), "{said:#}");
    assert!(said["failed"].as_str().unwrap().contains("child"), "{said:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_comes_after_another_and_a_second_is_refused() {
    let redis = server().await;
    let jobber = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\n");
    let first = jobber.submit(json!({"name": "echo"})).await;
    let second = jobber.submit(json!({"name": "echo", "after": [first]})).await;
    let (status, problem) = jobber.post("/api/v1/jobs", json!({"name": "echo", "after": [first]})).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/after")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&second), "{problem}");
    let third = jobber.submit(json!({"name": "echo", "after": [second]})).await;
    let (_, shown) = jobber.get(&format!("/api/v1/jobs/{third}")).await;
    assert_eq!((&shown["state"], &shown["waits_for"]), (&json!("delayed"), &json!([second])), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_left_behind_one_that_failed_by_a_process_that_died_is_failed() {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let gate = jobber.place().path().join("gate");
    jobber.job("gated", &format!("#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.05; done\nexit 3\n", gate.display()));
    let first = jobber.submit(json!({"name": "gated", "attempts": 1})).await;
    let second = jobber.submit(json!({"name": "gated", "after": [first]})).await;
    // As it stands when the first fails just before the second is put behind it, and the process then dies: BullMQ
    // has not noted the second as the first's parent, and knows the first as one that the second waits for.
    redis.cli(&["hdel", &format!("bull:my-job-queue:{first}"), "parentKey", "parent"]);
    std::fs::write(&gate, "").unwrap();
    jobber.wait_final(&first).await;
    redis.cli(&["zadd", "bull:my-job-queue:jobber:linking", "0", &second]);
    let ended = jobber.wait_final(&second).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("failed"), &json!([])), "{ended:#}");
    assert!(ended["error"].as_str().unwrap().contains(&first), "{ended:#}");
}
