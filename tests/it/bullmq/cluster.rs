//! Queues that carry a tag in their names lie on different nodes of a cluster, and work as on one server.

use serde_json::{Value, json};

use crate::compat::node;
use crate::harness::redis::Redis;
use crate::harness::{Jobber, Place, Start, eventually};

const DEFAULT: &str = "{my-job-queue}";

/// Which node has the queue's keys.
fn node_of(nodes: &[Redis], queue: &str) -> usize {
    let slot: usize = nodes[0].cli(&["cluster", "keyslot", &format!("bull:{queue}:wait")]).trim().parse().unwrap();
    // As redis-cli deals them to three nodes.
    slot * 3 / 16384
}

/// The default queue and two others, each on another node.
fn apart(nodes: &[Redis]) -> [String; 3] {
    let mut found = vec![DEFAULT.to_owned()];
    let names = ["encode", "render", "thumbs", "a", "b", "c", "d", "e", "f", "g"].map(|name| format!("{{{name}}}"));
    for name in names {
        if found.iter().all(|other| node_of(nodes, other) != node_of(nodes, &name)) {
            found.push(name);
        }
    }
    found.try_into().unwrap()
}

async fn cluster() -> (Vec<Redis>, String) {
    let nodes = tokio::task::spawn_blocking(Redis::cluster).await.unwrap();
    let url = format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}", nodes[0].port(), nodes[1].port());
    (nodes, url)
}

fn on(url: &str, place: &std::sync::Arc<Place>, start: Start) -> Start {
    start.at(place).env("JOBBER_QUEUE_URL", url).env("JOBBER_QUEUE_NAME", DEFAULT)
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_on_different_nodes_of_a_cluster_work_as_on_one_server() {
    let (nodes, url) = cluster().await;
    let queues = apart(&nodes);
    let [_, second, third] = &queues;
    let place = Place::new();
    place.job("echo", "#!/bin/sh\necho \"$@\"\n");
    place.job("second-time", "#!/bin/sh\n[ $JOBBER_ATTEMPT -ge 2 ] && echo ok\n");
    place.job("if-there", "#!/bin/sh\ntest -e \"$1\"\n");
    place.job("long", "#!/bin/sh\nexec sleep 1000\n");
    let serve = on(&url, &place, Jobber::serve()).start().await;
    let work = || {
        let start = on(&url, &place, Jobber::work()).arg("--cores").arg("4");
        queues.iter().fold(start, |start, queue| start.arg("--queue").arg(queue.as_str()))
    };
    let mut worker = work().start().await;

    // Jobs of one request, told again by its key, some of which fail at first, or come after others.
    let backoff = json!({"type": "fixed", "delay_ms": 1});
    let job =
        |i: usize| json!({"name": "second-time", "queue": queues[i % 3], "backoff": backoff, "id": format!("j{i}")});
    let mut jobs: Vec<Value> = (0..30).map(job).collect();
    jobs.extend((0..3).map(|i| json!({"name": "echo", "queue": queues[i], "after": [format!("j{i}")]})));
    let mut answers = Vec::new();
    for _ in 0..2 {
        let request = serve.http().post(serve.url("/api/v1/jobs:bulk")).header("idempotency-key", "once");
        let answer: Value = request.json(&json!({"jobs": jobs})).send().await.unwrap().json().await.unwrap();
        answers.push(answer["jobs"].as_array().unwrap_or_else(|| panic!("{answer}")).clone());
    }
    let ids =
        |answer: &[Value]| -> Vec<String> { answer.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect() };
    assert_eq!(ids(&answers[0]), ids(&answers[1]));
    for (i, id) in ids(&answers[0]).iter().enumerate() {
        let view = serve.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{view}");
        assert_eq!(view["options"]["queue"].as_str().unwrap_or(DEFAULT), queues[i % 3], "{view}");
        assert_eq!(view["attempts"].as_array().unwrap().len(), if i < 30 { 2 } else { 1 }, "{view}");
    }
    for (at, queue) in queues.iter().enumerate() {
        let there = nodes[node_of(&nodes, queue)].cli(&["hget", &format!("bull:{queue}:j{at}"), "name"]);
        assert_eq!(there.trim(), "second-time", "{queue}");
    }

    // One after the other, by the limit of their group, in each queue.
    for queue in &queues {
        let job = json!({"name": "echo", "queue": queue, "group": "team", "group_limit": 1});
        let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": vec![job; 4]})).await;
        assert_eq!(status, 202, "{answer}");
        for id in ids(answer["jobs"].as_array().unwrap()) {
            assert_eq!(serve.wait_final(&id).await["state"], "completed");
        }
    }

    // What an operator does.
    let file = place.path().join("there");
    let said = |out: crate::harness::Output| (out.code == 0).then_some(()).ok_or(out.stderr);
    for queue in &queues {
        said(serve.cli(&["queue", "pause", queue]).await).unwrap();
        let failing =
            serve.submit(json!({"name": "if-there", "arguments": [file], "queue": queue, "attempts": 1})).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(serve.get(&format!("/api/v1/jobs/{failing}")).await.1["state"], "waiting", "{queue} is paused");
        said(serve.cli(&["queue", "resume", queue]).await).unwrap();
        assert_eq!(serve.wait_final(&failing).await["state"], "failed");
        std::fs::write(&file, "").unwrap();
        said(serve.cli(&["retry", &failing]).await).unwrap();
        eventually("the retried job to complete", async || {
            let (_, view) = serve.get(&format!("/api/v1/jobs/{failing}")).await;
            (view["state"] == "completed").then_some(())
        })
        .await;
        std::fs::remove_file(&file).unwrap();

        said(serve.cli(&["queue", "limit", queue, "--concurrency", "1"]).await).unwrap();
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(serve.submit(json!({"name": "long", "queue": queue})).await);
        }
        let mut active = serve.wait_state(&held[0], "active").await["id"].as_str().unwrap().to_owned();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let (_, standing) = serve.get(&format!("/api/v1/queues/{}", queue.replace('{', "%7B"))).await;
        assert_eq!((&standing["active"], &standing["waiting"]), (&json!(1), &json!(1)), "{standing}");
        for _ in 0..2 {
            said(serve.cli(&["cancel", &active]).await).unwrap();
            assert_eq!(serve.wait_final(&active).await["outcome"]["kind"], "cancelled");
            active.clone_from(&held[1]);
        }
        said(serve.cli(&["queue", "limit", queue, "--none"]).await).unwrap();
    }

    // Removed by another program: history hears of it from the queue's own events.
    said(serve.cli(&["queue", "pause", third]).await).unwrap();
    let gone = serve.submit(json!({"name": "echo", "queue": third})).await;
    let at_third = &nodes[node_of(&nodes, third)];
    at_third.cli(&["lrem", &format!("bull:{third}:paused"), "1", &gone]);
    at_third.cli(&["lrem", &format!("bull:{third}:wait"), "1", &gone]);
    at_third.cli(&["del", &format!("bull:{third}:{gone}")]);
    at_third.cli(&["xadd", &format!("bull:{third}:events"), "*", "event", "removed", "jobId", &gone, "prev", "wait"]);
    let view = serve.wait_final(&gone).await;
    assert_eq!(view["outcome"]["kind"], "lost", "{view}");
    said(serve.cli(&["queue", "resume", third]).await).unwrap();

    // Node, both ways.
    let port = nodes[2].port().to_string();
    for bullmq in ["bullmq", "bullmq6"] {
        let printed = node(bullmq, "queues.js", &[&port, second, "3", "cluster"]).await;
        assert_eq!(printed.len(), 3, "{printed:?}");
        let view = serve.wait_final(printed[2]["id"].as_str().unwrap()).await;
        assert_eq!((&view["state"], &view["options"]["queue"]), (&json!("completed"), &json!(second)), "{view}");
    }
    assert_eq!(worker.stop().await, 0, "{}", worker.log());
    let id = serve.submit(json!({"name": "echo", "arguments": ["by", "node"], "queue": third})).await;
    let ran = node("bullmq", "worker.js", &[&port, "1", third, "cluster"]).await;
    assert_eq!(ran[0]["id"], json!(id), "{ran:?}");
    eventually("its end in history", async || {
        (serve.get(&format!("/api/v1/jobs/{id}")).await.1["result"] == "by node").then_some(())
    })
    .await;

    let worker = work().start().await;
    let workers = eventually("the worker", async || {
        serve.get("/api/v1/workers").await.1["items"].as_array().filter(|all| !all.is_empty()).cloned()
    })
    .await;
    assert_eq!(workers[0]["queues"], json!(queues));
    said(serve.cli(&["worker", "drain", workers[0]["id"].as_str().unwrap()]).await).unwrap();
    let mut worker = worker;
    assert_eq!(worker.ended().await, 0, "{}", worker.log());
    assert!(!format!("{}{}", serve.log(), worker.log()).contains("CROSSSLOT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_a_cluster_would_tear_apart_is_refused_with_the_cure() {
    let (nodes, url) = cluster().await;
    let place = Place::new();
    place.job("echo", "#!/bin/sh\n");
    let refused = async |args: &[&str], env: &[(&str, &str)]| {
        let all: Vec<_> = [("JOBBER_QUEUE_URL", url.as_str())].into_iter().chain(env.iter().copied()).collect();
        let out = crate::harness::run(args, &all, place.path(), "").await;
        assert!(out.code != 0 && out.stderr.contains("braces"), "{args:?}: {}", out.stderr);
        out.stderr
    };
    let said = refused(&["serve", "--listen", "127.0.0.1:0"], &[]).await;
    assert!(said.contains("{my-job-queue}") && said.contains("queue.prefix to {bull}"), "{said}");
    let said = refused(&["work", "--queue", "encode"], &[("JOBBER_QUEUE_NAME", DEFAULT)]).await;
    assert!(said.contains("name it {encode}"), "{said}");
    std::fs::write(place.path().join("jobber.toml"), "[jobs.echo]\nqueue = \"echoes\"\n").unwrap();
    let said = refused(&["serve", "--listen", "127.0.0.1:0"], &[("JOBBER_QUEUE_NAME", DEFAULT)]).await;
    assert!(said.contains("name it {echoes}"), "{said}");
    std::fs::remove_file(place.path().join("jobber.toml")).unwrap();

    let env = [("JOBBER_QUEUE_URL", url.as_str()), ("JOBBER_QUEUE_NAME", DEFAULT)];
    let examined = async |args: &[&str]| crate::harness::run(args, &env, place.path(), "").await.stdout;
    let found = examined(&["doctor", "--queue", "encode", "--server", "http://127.0.0.1:9"]).await;
    assert!(found.contains("name it {encode}"), "{found}");
    let found = examined(&["doctor", "--queue", "{encode}", "--server", "http://127.0.0.1:9"]).await;
    assert!(!found.contains("name it"), "{found}");

    let serve = on(&url, &place, Jobber::serve()).env("JOBBER_CHECK_BINARIES", "false").start().await;
    let (status, answer) = serve.post("/api/v1/jobs", json!({"name": "echo", "queue": "encode"})).await;
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/queue")), "{answer}");
    assert!(answer["errors"][0]["detail"].as_str().unwrap().contains("name it {encode}"), "{answer}");
    let paused = serve.cli(&["queue", "limit", "encode", "--concurrency", "1"]).await;
    assert!(paused.code != 0 && paused.stderr.contains("name it {encode}"), "{}", paused.stderr);
    drop(nodes);
}
