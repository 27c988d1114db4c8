//! What strangers leave in Redis, and what Jobber may do there itself.

use std::time::Duration;

use jobber::domain::{AcceptedJob, Clock, JobId, JobOptions, JobState, NewJob};
use jobber::queue::Queue;
use jobber::queue::bullmq::{BullQueue, BullSettings};
use jobber::redis::RedisSettings;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::harness::proxy::Proxy;
use crate::harness::redis::Redis;
use crate::harness::{Jobber, eventually};

const STREAM: &str = "jobber:{bull:my-job-queue}:events";

async fn server() -> Redis {
    tokio::task::spawn_blocking(Redis::start).await.unwrap()
}

async fn listed(jobber: &Jobber, id: &str) -> Option<Value> {
    let (_, all) = jobber.get("/api/v1/jobs").await;
    all["items"].as_array()?.iter().find(|job| job["id"] == id).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_the_log_that_cannot_be_read_are_set_aside_and_counted() {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    let before = jobber.submit(json!({"name": "echo"})).await;
    jobber.wait_final(&before).await;
    let add = |field: &str, value: &str| {
        let script = format!("return redis.call('XADD', KEYS[1], '*', {field}, {value})");
        let answer = redis.cli(&["EVAL", &script, "1", STREAM]);
        assert!(answer.contains('-'), "{answer}");
    };
    let bad = [
        ("'event'", "''"),
        ("'event'", "'{'"),
        ("'event'", r"'\255\254\000'"),
        ("'event'", r#"'{"v":1,"at":"today"}'"#),
        ("'event'", r#"'{"v":1}'"#),
        ("'event'", r#"'{"v":"one"}'"#),
        ("'event'", r#"'{"v":99,"what":"ever"}'"#),
        ("'event'", "'[[[[[[[[]]]]]]]]'"),
        ("'event'", "string.rep('[', 100000)"),
        ("'event'", "string.rep('x', 80000000)"),
        ("'other'", "'field'"),
        (r"'\255'", r"'\254'"),
    ];
    for (field, value) in bad {
        add(field, value);
    }
    // Redis itself has much to do with so large an entry.
    let after = eventually("a submission is taken", async || {
        let (status, answer) = jobber.post("/api/v1/jobs", json!({"name": "echo", "arguments": ["on"]})).await;
        (status == 202).then(|| answer["id"].as_str().unwrap().to_owned())
    })
    .await;
    let ended = eventually("its end", async || {
        let (status, view) = jobber.get(&format!("/api/v1/jobs/{after}")).await;
        (status == 200 && view["state"] == "completed").then_some(view)
    })
    .await;
    assert_eq!(ended["result"], "on");
    eventually("history goes on", async || listed(&jobber, &after).await.filter(|job| job["state"] == "completed"))
        .await;
    let (status, ready) = jobber.get("/readyz").await;
    assert_eq!((status, &ready["history"]["parked"]), (200, &json!(bad.len())), "{ready:#}");
    let doctor = jobber.cli(&["doctor", "-o", "json"]).await;
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let finding = report["findings"].as_array().unwrap().iter().find(|f| f["check"] == "event log").unwrap().clone();
    assert_eq!(finding["status"], "warning", "{finding:#}");
    // One of a newer Jobber is not thrown away, and that nothing goes on is no secret.
    add("'event'", r#"'{"v":3,"what":"ever"}'"#);
    eventually("the server is not ready", async || {
        let (status, ready) = jobber.get("/readyz").await;
        let why = ready["components"]["events"]["error"].as_str().unwrap_or_default();
        (status == 503 && why.contains("newer jobber")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_id_is_no_text_is_failed_once_with_a_reason() {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_QUEUE_LEASE", "2s").start().await;
    jobber.job("echo", "#!/bin/sh\necho ran >> ran\n");
    let script = r"
local id = 'bad\255\254'
redis.call('HSET', 'bull:my-job-queue:' .. id, 'name', 'echo', 'data', '[]', 'opts', '{}', 'timestamp', '1700000000000', 'delay', '0', 'priority', '0')
redis.call('LPUSH', 'bull:my-job-queue:wait', id)
redis.call('ZADD', 'bull:my-job-queue:marker', 0, '0')
return 1";
    redis.cli(&["EVAL", script, "0"]);
    let failed = r"return redis.call('HGET', 'bull:my-job-queue:bad\255\254', 'failedReason')";
    eventually("the job fails", async || redis.cli(&["EVAL", failed, "0"]).contains("job id").then_some(())).await;
    // It is not taken again, and lists and others are not held up.
    let next = jobber.submit(json!({"name": "echo"})).await;
    jobber.wait_final(&next).await;
    for (list, command) in [("active", "LLEN"), ("wait", "LLEN"), ("failed", "ZCARD")] {
        let count = redis.cli(&[command, &format!("bull:my-job-queue:{list}")]);
        assert_eq!(count.trim(), if list == "failed" { "1" } else { "0" }, "{list}");
    }
    let starts = r"return redis.call('HGET', 'bull:my-job-queue:bad\255\254', 'ats')";
    assert_eq!(redis.cli(&["EVAL", starts, "0"]).trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_the_documentation_asks_for_are_enough() {
    let redis = server().await;
    let docs = include_str!("../../docs/operations/redis.md");
    let rule = docs.lines().find(|line| line.starts_with("user jobber on")).unwrap();
    let words: Vec<_> = rule.split(' ').skip(1).collect();
    let set = [&["ACL", "SETUSER"][..], &words].concat();
    assert_eq!(redis.cli(&set).trim(), "OK");
    let url = format!("redis://jobber:SECRET@127.0.0.1:{}", redis.port());
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &url).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    jobber.job("fail", "#!/bin/sh\necho broken >&2\nexit 3\n");
    jobber.job("nap", "#!/bin/sh\nexec sleep 60\n");
    let cli = async |args: &[&str], code: i32| {
        let output = jobber.cli(args).await;
        assert_eq!(output.code, code, "{args:?}: {} {}", output.stdout, output.stderr);
        output.stdout
    };
    cli(&["run", "echo", "--", "a"], 0).await;
    cli(&["run", "fail", "--attempts", "2", "--backoff", "fixed:1ms"], 3).await;
    let first = cli(&["submit", "nap", "--print-id"], 0).await.trim().to_owned();
    jobber.wait_state(&first, "active").await;
    let second = cli(&["submit", "echo", "--print-id", "--after", &first], 0).await.trim().to_owned();
    let delayed = cli(&["submit", "echo", "--print-id", "--delay", "1h", "--priority", "3"], 0).await.trim().to_owned();
    cli(&["cancel", &first], 0).await;
    cli(&["wait", &first, &second], 126).await;
    cli(&["retry", &second], 0).await;
    cli(&["wait", &second], 0).await;
    cli(&["cancel", &delayed], 0).await;
    for args in [
        &["schedule", "add", "echo", "--every", "1s"][..],
        &["schedule", "add", "fail", "--cron", "30 2,14 28 3 *", "--tz", "Europe/Berlin"],
        &["schedule", "pause", "fail"],
        &["schedule", "resume", "fail"],
        &["schedule", "ls"],
        &["schedule", "trigger", "echo"],
        &["queue", "pause"],
        &["queue", "resume"],
        &["worker", "ls"],
        &["list"],
        &["stats", "attempts"],
    ] {
        cli(args, 0).await;
    }
    eventually("a job of the schedule", async || {
        let (_, schedule) = jobber.get("/api/v1/schedules/echo").await;
        schedule["last_job"].as_str().map(str::to_owned)
    })
    .await;
    cli(&["schedule", "rm", "echo", "fail"], 0).await;
    let env = [("JOBBER_QUEUE_URL", url.as_str()), ("JOBBER_SERVER", jobber.base())];
    let doctor = crate::harness::run(&["doctor", "-o", "json"], &env, jobber.place().path(), "").await;
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let redis_findings: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["check"].as_str().unwrap().starts_with("redis"))
        .collect();
    assert!(redis_findings.len() >= 4 && redis_findings.iter().all(|f| f["status"] != "failed"), "{report:#}");
    // Whatever was refused stands there, with the one thing that nobody needs.
    let log = redis.cli(&["ACL", "LOG"]);
    let objects: Vec<_> =
        log.lines().zip(log.lines().skip(1)).filter(|(name, _)| *name == "object").map(|(_, what)| what).collect();
    assert!(objects.iter().all(|what| *what == "config|get"), "{log}");
}

fn new(id: Option<&str>, after: Vec<JobId>) -> AcceptedJob {
    let options = JobOptions { after, ..JobOptions::default() };
    let new = NewJob { id: id.map(str::to_owned), name: "a".to_owned(), arguments: vec![], data: None, options };
    new.accept(Clock::system().now()).unwrap()
}

/// One that comes after very many used up all patience, and was first again the next time.
#[tokio::test(flavor = "multi_thread")]
async fn a_wide_job_over_a_slow_network_keeps_no_other_from_following() {
    const MANY: usize = 500;
    let redis = server().await;
    let proxy = Proxy::slow(redis.port(), Duration::from_millis(2)).await;
    let open = async |url: String| {
        let redis = RedisSettings { url: url.parse().unwrap(), ca_file: None };
        let settings = BullSettings { redis, patience: Duration::from_secs(5), ..BullSettings::default() };
        BullQueue::open(settings, Clock::system(), TaskTracker::new()).await.unwrap()
    };
    let near = open(redis.url()).await;
    let many: Vec<_> = (0..MANY).map(|_| new(None, vec![])).collect();
    near.submit(many.clone(), None).await.unwrap();
    let first = new(Some("first"), vec![]);
    near.submit(vec![first.clone()], None).await.unwrap();
    let wide = new(Some("wide"), many.iter().map(|job| job.job.id.clone()).collect());
    near.submit(vec![wide], None).await.unwrap();
    let follower = new(Some("follower"), vec![first.job.id.clone()]);
    near.submit(vec![follower.clone()], None).await.unwrap();
    drop(near);
    // Only who is far away looks after them now, with the patience that is usual.
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let slow = RedisSettings { url: url.parse().unwrap(), ca_file: None };
    let far =
        BullQueue::open(BullSettings { redis: slow, ..BullSettings::default() }, Clock::system(), TaskTracker::new());
    let far = far.await.unwrap();
    let end = r"
redis.call('LREM', KEYS[1] .. 'wait', 0, 'first')
redis.call('HSET', KEYS[1] .. 'first', 'returnvalue', '1', 'finishedOn', '1')
return redis.call('ZADD', KEYS[1] .. 'completed', 1, 'first')";
    assert_eq!(redis.cli(&["EVAL", end, "1", "bull:my-job-queue:"]).trim(), "1");
    eventually("the follower is let go", async || {
        let found = far.find(std::slice::from_ref(&follower.job.id)).await.ok()?.pop().flatten()?;
        (found.state == JobState::Waiting).then_some(())
    })
    .await;
}
