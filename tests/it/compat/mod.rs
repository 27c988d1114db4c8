//! The same queue as the real BullMQ: Node's package from npm, in both versions that are in use, on one side, the real
//! binary on the other.

use serde_json::{Value, json};

use crate::harness::redis::Redis;
use crate::harness::{Jobber, PATIENCE, Place, eventually, succeed};

/// Makes a test of every case for every version.
macro_rules! with_node {
    ($($case:ident),+ $(,)?) => {
        mod bullmq_5 { $( #[tokio::test(flavor = "multi_thread")] async fn $case() { super::$case("bullmq").await; } )+ }
        mod bullmq_6 { $( #[tokio::test(flavor = "multi_thread")] async fn $case() { super::$case("bullmq6").await; } )+ }
    };
}

mod flows;
mod foreign;
mod odd;
mod queues;
mod schedules;

with_node! {
    a_producers_jobs_are_run_and_its_listener_sees_them,
    an_operators_tools_are_obeyed,
    jobbers_jobs_run_in_a_worker,
    a_listener_hears_of_a_job_whose_worker_died,
    an_id_that_comes_again_is_another_job_in_history,
}

async fn server() -> Redis {
    tokio::task::spawn_blocking(Redis::start).await.unwrap()
}

/// What a script of tests/compat-node printed, one JSON value a line.
pub(crate) async fn node(bullmq: &str, script: &str, args: &[&str]) -> Vec<Value> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat-node");
    let package = folder.join("node_modules").join(bullmq);
    assert!(package.exists(), "run tools/install-test-tools: npm's {bullmq} is missing");
    let mut command = tokio::process::Command::new("node");
    command.current_dir(folder).env("BULLMQ", bullmq).arg(script).args(args);
    let stdout = succeed(command, PATIENCE * 2).await;
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"))).collect()
}

fn done(result: &str) -> Value {
    json!({"success": true, "result": result})
}

async fn a_producers_jobs_are_run_and_its_listener_sees_them(bullmq: &str) {
    let redis = server().await;
    let place = Place::new();
    std::fs::write(place.path().join("jobber.toml"), "[jobs.never-again]\nno_retry_exit_codes = [4]\n").unwrap();
    place.job("echo", "#!/bin/sh\necho \"$@\"\n");
    place.job("stdin", "#!/bin/sh\nexec cat\n");
    place.job("fail", "#!/bin/sh\necho went wrong >&2\nexit 3\n");
    place.job("never-again", "#!/bin/sh\necho no use >&2\nexit 4\n");
    place.job("third", "#!/bin/sh\n[ $JOBBER_ATTEMPT -ge 3 ] || exit 1\necho third\n");
    place.job(
        "talks",
        "#!/bin/sh\nprintf 'one\\ntwo\\n'\nsleep 0.1\necho three >&2\necho ::progress 40 rows\nsleep 0.1\n",
    );
    place.job("flood", "#!/bin/sh\nyes 0123456789 | head -c 3000000\necho the-end\n");
    let jobber = Jobber::dev().at(&place).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let said = node(bullmq, "producer.js", &[&redis.port().to_string()]).await.remove(0);
    let ended = |name: &str| &said["ended"][name];
    let attempts = |name: &str| ended(name)["attemptsMade"].as_u64().unwrap();

    for (name, result) in [
        ("single", "one two"),
        ("bulk", "b1"),
        ("prioritised", "b2"),
        ("object", r#"{"rows":5}"#),
        ("delayed", "later"),
        ("third", "third"),
        ("parent", "parent"),
    ] {
        assert_eq!(ended(name)["state"], "completed", "{name}: {said:#}");
        assert_eq!(ended(name)["returnvalue"], done(result), "{name}");
    }
    assert!(ended("delayed")["waited"].as_u64().unwrap() >= 300, "{said:#}");
    assert_eq!(attempts("third"), 3);

    // What a job says, line by line, and bounded.
    assert_eq!(ended("talks")["logs"], json!(["1.1 stdout| one", "1.2 stdout| two", "1.3 stderr| three"]));
    let progress = &ended("talks")["progress"];
    assert_eq!((&progress["percent"], &progress["text"]), (&json!(40), &json!("rows")), "{said:#}");
    let bytes = ended("flood")["logBytes"].as_u64().unwrap();
    assert!((1..=512 << 10).contains(&bytes), "{bytes} bytes of 3 MB are kept");

    for (name, attempts_made, reason) in [
        ("exhausted", 2, "went wrong"),
        ("unrecoverable", 1, "no use"),
        ("missing", 1, "job name"),
        ("fatherless", 1, "failed"),
    ] {
        assert_eq!(ended(name)["state"], "failed", "{name}: {said:#}");
        assert!(ended(name)["failedReason"].as_str().unwrap().contains(reason), "{name}: {said:#}");
        assert_eq!(attempts(name), attempts_made, "{name}");
    }

    let ids = |event: &str| -> Vec<&str> {
        said["seen"][event].as_array().unwrap().iter().map(|e| e["jobId"].as_str().unwrap()).collect()
    };
    let id = |name: &str| ended(name)["id"].as_str().unwrap();
    for name in said["ended"].as_object().unwrap().keys().filter(|name| *name != "flood") {
        let end = if ended(name)["state"] == "completed" { "completed" } else { "failed" };
        for event in ["added", "active", end] {
            assert!(ids(event).contains(&id(name)), "{event} of {name}: {said:#}");
        }
    }
    let completed = said["seen"]["completed"].as_array().unwrap();
    assert_eq!(completed.iter().find(|e| e["jobId"] == id("single")).unwrap()["returnvalue"], done("one two"));
    let failed = said["seen"]["failed"].as_array().unwrap();
    assert_eq!(failed.iter().find(|e| e["jobId"] == id("exhausted")).unwrap()["failedReason"], "went wrong");
    assert!(ids("progress").contains(&id("talks")) && ids("delayed").contains(&id("delayed")), "{said:#}");
    // What BullMQ calls unrecoverable has attempts left, and so does not exhaust them.
    assert!(ids("retries-exhausted").contains(&id("exhausted")), "{said:#}");
    assert!(!ids("retries-exhausted").contains(&id("unrecoverable")), "{said:#}");

    assert_eq!(said["children"], json!(["child-1", "child-2"]));
    let children = said["childrenFinishedOn"].as_array().unwrap();
    assert!(children.iter().all(|end| end.as_u64() <= said["parentProcessedOn"].as_u64()), "{said:#}");
    assert_eq!(said["tick"]["returnvalue"], done("tick"));
    let counted = |state: &str| said["counts"][state].as_u64().unwrap();
    assert_eq!((counted("completed"), counted("failed")), (14, 5), "{said:#}");
    assert_eq!((&said["metrics"]["completed"], &said["metrics"]["failed"]), (&json!(14), &json!(5)), "{said:#}");

    // In Jobber's own history under BullMQ's ids: a number, a scheduler's, a flow's.
    for (id, result) in [(id("single"), "one two"), (said["tick"]["ids"][2].as_str().unwrap(), "tick")] {
        let view = jobber.wait_final(id).await;
        assert_eq!((&view["state"], &view["result"]), (&json!("completed"), &json!(result)), "{view}");
        assert_eq!(view["attempts"].as_array().unwrap().len(), 1, "{view}");
    }
    // So are jobs of which no attempt was ever run: BullMQ itself failed the one, nothing can run the other.
    for (name, job, reason) in [("fatherless", "echo", "failed"), ("missing", "invalid-job-name", "no/such")] {
        let (view, listed) = eventually("the end in history", async || {
            let (_, view) = jobber.get(&format!("/api/v1/jobs/{}", id(name))).await;
            let (_, list) = jobber.get(&format!("/api/v1/jobs?name={job}&state=failed")).await;
            let jobs = list["items"].as_array()?.clone();
            (!jobs.is_empty()).then_some((view, jobs))
        })
        .await;
        assert_eq!((listed.len(), &listed[0]["id"]), (1, &json!(id(name))), "{listed:?}");
        assert_eq!(view["attempts"], json!([]), "{view:#}");
        assert!(view["error"].as_str().unwrap().contains(reason), "{view:#}");
        assert_eq!(view["error"], ended(name)["failedReason"], "{view:#}");
    }
    let view = jobber.wait_final(id("third")).await;
    let codes: Vec<_> =
        view["attempts"].as_array().unwrap().iter().map(|a| a["report"]["outcome"]["code"].clone()).collect();
    assert_eq!(codes, [json!(1), json!(1), json!(0)], "{view}");
}

async fn an_operators_tools_are_obeyed(bullmq: &str) {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_LEASE", "3s").start().await;
    jobber.job("nap", "#!/bin/sh\nsleep 0.2\n");
    jobber.job("once", "#!/bin/sh\n[ $JOBBER_ATTEMPT -ge 2 ]\n");
    jobber.job("hold", "#!/bin/sh\necho $$ > $1\nwhile :; do sleep 0.05; done\n");
    let running = jobber.place().path().join("running");
    let said = node(bullmq, "operator.js", &[&redis.port().to_string(), running.to_str().unwrap()]).await.remove(0);
    assert_eq!(said["whilePaused"], json!([true, null]), "{said:#}");
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert!(said["atOnceWithoutLimit"].as_u64().unwrap() > 1, "{said:#}");
    }
    assert_eq!(said["atOnceWithGlobalConcurrency1"], 1, "{said:#}");
    // Six jobs, two in each 700 ms.
    assert!(said["rateLimitedSpan"].as_u64().unwrap() >= 1300, "{said:#}");
    assert!(said["drained"].as_object().unwrap().values().all(|n| n == 0), "{said:#}");
    assert_eq!(said["drainedRan"], 0, "{said:#}");
    assert_eq!(said["failedBeforeRetry"], json!(["failed", "failed"]), "{said:#}");
    assert!(said["retried"].as_array().unwrap().iter().all(|job| job[1] == 2), "{said:#}");
    assert_eq!((said["cleaned"].as_u64(), said["completedAfterClean"].as_u64()), (Some(18), Some(0)), "{said:#}");
    assert!(said["obliterated"].as_object().unwrap().values().all(|n| n == 0), "{said:#}");
    assert_eq!(said["afterwards"], "completed", "{said:#}");
    // The retried jobs' history goes on.
    let view = jobber.wait_final(said["retried"][0][0].as_str().unwrap()).await;
    assert_eq!((&view["state"], view["attempts"].as_array().unwrap().len()), (&json!("completed"), 2), "{view}");
}

async fn jobbers_jobs_run_in_a_worker(bullmq: &str) {
    let redis = server().await;
    let jobber =
        Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_CHECK_BINARIES", "false").start().await;
    let first = jobber.submit(json!({"name": "echo", "arguments": ["a", "b"]})).await;
    let second = jobber.submit(json!({"name": "echo", "arguments": ["c"], "attempts": 4, "priority": 2})).await;
    let ran = node(bullmq, "worker.js", &[&redis.port().to_string(), "2"]).await;
    assert_eq!(ran[0], json!({"id": first, "name": "echo", "data": ["a", "b"], "attempts": 3}));
    assert_eq!(ran[1], json!({"id": second, "name": "echo", "data": ["c"], "attempts": 4}));
}

async fn a_listener_hears_of_a_job_whose_worker_died(bullmq: &str) {
    let redis = server().await;
    let place = Place::new();
    place.job("slow-once", "#!/bin/sh\ntouch $0.started\n[ $JOBBER_ATTEMPT -ge 2 ] || sleep 1000\n");
    let start =
        |start: crate::harness::Start| start.at(&place).env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_LEASE", "2s");
    let serve = start(Jobber::serve()).start().await;
    let mut first = start(Jobber::work()).start().await;
    let id = serve.submit(json!({"name": "slow-once"})).await;
    eventually("its start", async || place.jobs_dir().join("slow-once.started").exists().then_some(())).await;
    first.kill().await;
    let _second = start(Jobber::work()).start().await;
    let heard = node(bullmq, "listener.js", &[&redis.port().to_string(), &id]).await.remove(0);
    let heard: Vec<_> = heard.as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    let of_interest: Vec<_> = heard.into_iter().filter(|e| ["active", "stalled", "completed"].contains(e)).collect();
    assert_eq!(of_interest, ["active", "stalled", "active", "completed"]);
    let view = serve.wait_final(&id).await;
    let kinds: Vec<_> =
        view["attempts"].as_array().unwrap().iter().map(|a| a["report"]["outcome"]["kind"].clone()).collect();
    assert_eq!(kinds, [json!("lost"), json!("exit")], "{view}");
}

async fn an_id_that_comes_again_is_another_job_in_history(bullmq: &str) {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    let said = node(bullmq, "obliterated.js", &[&redis.port().to_string()]).await.remove(0);
    assert_eq!(said, json!([{"id": "1", "returned": done("first")}, {"id": "1", "returned": done("second")}]));
    // In the queue there is the second; history has both, and the first keeps the id.
    let view = jobber.wait_final("1").await;
    assert_eq!(
        (&view["id"], &view["result"], &view["attempts"][0]["number"]),
        (&json!("1"), &json!("second"), &json!(1))
    );
    let listed = eventually("both in history", async || {
        let (_, list) = jobber.get("/api/v1/jobs?name=echo&state=completed").await;
        list["items"].as_array().cloned().filter(|jobs| jobs.len() == 2)
    })
    .await;
    let mut ids: Vec<_> = listed.iter().map(|job| job["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids[0], "1");
    assert_eq!(jobber.wait_final(ids[1]).await["result"], "second", "{ids:?}");
    let (_, groups) = jobber.get("/jobs").await;
    assert_eq!(groups["jobs"][0]["completedCount"], 2, "{groups}");
    redis.cli(&["del", "bull:my-job-queue:1"]);
    assert_eq!(jobber.wait_final("1").await["result"], "first");
}
