//! Named queues are queues of BullMQ's own, to producers and to workers.

use serde_json::json;

use super::{done, node, server};
use crate::harness::{Jobber, Place, eventually};

with_node! {
    a_named_queue_is_one_of_bullmqs,
    a_nodes_worker_obeys_the_limit_of_a_group,
}

async fn a_named_queue_is_one_of_bullmqs(bullmq: &str) {
    let redis = server().await;
    let place = Place::new();
    place.job("echo", "#!/bin/sh\necho \"$@\"\n");
    let start = |start: crate::harness::Start| start.at(&place).env("JOBBER_QUEUE_URL", &redis.url());
    let serve = start(Jobber::serve()).start().await;
    let work = start(Jobber::work()).arg("--queue").arg("encode=4").arg("--queue").arg("render");
    let mut worker = work.start().await;
    let port = redis.port().to_string();

    let said = node(bullmq, "queues.js", &[&port, "encode", "5"]).await;
    let returned: Vec<_> = said.iter().map(|job| job["returned"].clone()).collect();
    let expected: Vec<_> = (0..5).map(|n| done(&format!("encode-{n}"))).collect();
    assert_eq!(returned, expected, "{said:?}");
    let view = serve.wait_final(said[4]["id"].as_str().unwrap()).await;
    assert_eq!((&view["state"], &view["result"]), (&json!("completed"), &json!("encode-4")), "{view:#}");
    assert_eq!(view["options"]["queue"], "encode", "{view:#}");

    worker.stop().await;
    let id = serve.submit(json!({"name": "echo", "arguments": ["by", "node"], "queue": "render"})).await;
    let ran = node(bullmq, "worker.js", &[&port, "1", "render"]).await;
    assert_eq!(ran, [json!({"id": id, "name": "echo", "data": ["by", "node"], "attempts": 3})]);
    let view = eventually("its end in history", async || {
        let (_, view) = serve.get(&format!("/api/v1/jobs/{id}")).await;
        (view["state"] == "completed").then_some(view)
    })
    .await;
    assert_eq!((&view["result"], &view["options"]["queue"]), (&json!("by node"), &json!("render")), "{view:#}");
}

async fn a_nodes_worker_obeys_the_limit_of_a_group(bullmq: &str) {
    let redis = server().await;
    let place = Place::new();
    place.job("sim", "#!/bin/sh\n");
    let serve = Jobber::serve().at(&place).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let array = serve.post("/api/v1/jobs", json!({"name": "sim", "array": "0-8%3", "group": "g"})).await.1;
    let waits = format!("{}-8", array["id"].as_str().unwrap().strip_suffix("-0").unwrap());
    let why = serve.get(&format!("/api/v1/jobs/{waits}/explain")).await.1;
    assert_eq!(why["reasons"], json!(["of its group g no more than 3 run at once"]), "{why}");
    let ran = node(bullmq, "concurrent-worker.js", &[&redis.port().to_string(), "9"]).await;
    assert_eq!(ran, [json!({"most": 3})]);
    let view = eventually("their ends in history", async || {
        let (_, view) = serve.get("/api/v1/groups/g").await;
        (view["completed"] == 9).then_some(view)
    })
    .await;
    assert_eq!((&view["total"], &view["progress"]), (&json!(9), &json!(100.0)), "{view}");
}
