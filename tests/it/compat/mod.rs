//! The same queue as the real BullMQ: Node's package from npm on one side, the real binary on the other.

mod flows;
mod schedules;

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::redis::Redis;
use crate::harness::{Jobber, PATIENCE};

async fn server() -> Redis {
    tokio::task::spawn_blocking(Redis::start).await.unwrap()
}

/// What a script of tests/compat-node printed, one JSON value a line.
async fn node(script: &str, args: &[String]) -> Vec<Value> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat-node");
    assert!(folder.join("node_modules/bullmq").exists(), "run tools/install-test-tools: npm's bullmq is missing");
    let child = tokio::process::Command::new("node")
        .current_dir(folder)
        .arg(script)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE * 2, child).await.expect("node ends").expect("node is installed");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_producers_jobs_are_run_and_its_listener_sees_them() {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    jobber.job("stdin", "#!/bin/sh\nexec cat\n");
    jobber.job("fail", "#!/bin/sh\necho went wrong >&2\nexit 3\n");
    let said = node("producer.js", &[redis.port().to_string()]).await.remove(0);
    let done = |result: Value| json!({"success": true, "result": result});
    let returned = said["returned"].as_array().unwrap();
    assert_eq!(returned[0], done(json!("one two")), "{said:#}");
    assert_eq!([&returned[1], &returned[2]], [&done(json!("b1")), &done(json!("b2"))]);
    assert_eq!(returned[4], done(json!("later")));
    assert!(returned[3]["result"].to_string().contains("rows"), "{said:#}");
    assert!(said["reasons"]["failing"].as_str().unwrap().contains("went wrong"), "{said:#}");
    assert_eq!(said["attemptsMade"], 2);
    assert!(said["reasons"]["missing"].as_str().unwrap().contains("job name"), "{said:#}");
    assert!(said["logs"].to_string().contains("one two"), "{said:#}");
    assert_eq!((said["counts"]["completed"].as_u64(), said["counts"]["failed"].as_u64()), (Some(5), Some(2)));
    let seen = |event: &str| said["seen"][event].as_array().unwrap().len();
    assert_eq!((seen("added"), seen("completed"), seen("failed")), (7, 5, 2), "{said:#}");
    // Known by BullMQ's own number.
    let view = jobber.wait_final(said["singleId"].as_str().unwrap()).await;
    assert_eq!((view["state"].as_str(), view["result"].as_str()), (Some("completed"), Some("one two")));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobbers_jobs_run_in_a_node_worker() {
    let redis = server().await;
    let jobber =
        Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_CHECK_BINARIES", "false").start().await;
    let first = jobber.submit(json!({"name": "echo", "arguments": ["a", "b"]})).await;
    let second = jobber.submit(json!({"name": "echo", "arguments": ["c"], "attempts": 4, "priority": 2})).await;
    let ran = node("worker.js", &[redis.port().to_string(), "2".to_owned()]).await;
    assert_eq!(ran[0], json!({"id": first, "name": "echo", "data": ["a", "b"], "attempts": 3}));
    assert_eq!(ran[1], json!({"id": second, "name": "echo", "data": ["c"], "attempts": 4}));
}
