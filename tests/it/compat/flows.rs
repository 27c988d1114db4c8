//! Flows that both sides see.

use serde_json::json;

use super::{node, server};
use crate::harness::{Jobber, eventually};

with_node! {
    a_flow_of_theirs_runs_here_and_ours_is_seen,
    a_job_of_ours_knows_the_end_of_one_that_a_worker_of_theirs_removed,
}

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

async fn a_job_of_ours_knows_the_end_of_one_that_a_worker_of_theirs_removed(bullmq: &str) {
    let redis = server().await;
    let serve = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    serve.job("echo", "#!/bin/sh\necho \"$@\"\n");
    serve.job("gather", "#!/bin/sh\nexec cat \"$JOBBER_RESULTS_FILE\"\n");
    let (first, second) = (serve.submit(json!({"name": "echo"})).await, serve.submit(json!({"name": "echo"})).await);
    let good = serve.submit(json!({"name": "gather", "after": [first]})).await;
    let bad = serve.submit(json!({"name": "gather", "after": [second]})).await;
    let said = node(bullmq, "remover.js", &[&redis.port().to_string()]).await.remove(0);
    assert_eq!(said, json!({"ids": [first, second], "left": 0}));
    let _work = Jobber::work().at(serve.place()).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let view = serve.wait_final(&good).await;
    assert_eq!(
        (&view["state"], &view["result"]),
        (&json!("completed"), &json!(json!({first: "kept"}).to_string())),
        "{view:#}"
    );
    let view = serve.wait_final(&bad).await;
    assert_eq!((&view["state"], &view["attempts"]), (&json!("failed"), &json!([])), "{view:#}");
    let error = view["error"].as_str().unwrap();
    assert!(error.contains(&second) && error.contains("broken"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_put_behind_others_by_a_process_that_was_killed_is_let_go_by_another() {
    let redis = server().await;
    let mut serve = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let place = serve.place().clone();
    let gate = place.path().join("gate");
    place.job("gated", &format!("#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.05; done\necho open\n", gate.display()));
    place.job("gather", "#!/bin/sh\nexec cat \"$JOBBER_RESULTS_FILE\"\n");
    let first = serve.submit(json!({"name": "gated"})).await;
    let after = json!({"name": "gather", "after": [first]});
    let (second, third) = (serve.submit(after.clone()).await, serve.submit(after).await);
    serve.kill().await;
    let other = Jobber::dev().at(&place).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    other.wait_state(&first, "active").await;
    let (_, shown) = other.get(&format!("/api/v1/jobs/{third}")).await;
    assert_eq!((&shown["state"], &shown["waits_for"]), (&json!("delayed"), &json!([first])), "{shown:#}");
    std::fs::write(&gate, "").unwrap();
    for id in [second, third] {
        let ended = other.wait_final(&id).await;
        assert!(ended["result"].as_str().unwrap().contains("open"), "{ended:#}");
        assert_eq!(ended["attempts"].as_array().unwrap().len(), 1);
    }
    for key in ["watched", "links", "ends"] {
        eventually("the record to be struck", async || {
            (redis.cli(&["exists", &format!("bull:my-job-queue:jobber:{key}")]).trim() == "0").then_some(())
        })
        .await;
    }
}
