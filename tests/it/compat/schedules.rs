//! Schedules that both sides see and manage.

use serde_json::json;

use super::{node, server};
use crate::harness::{Jobber, eventually};

with_node! {
    our_schedules_are_seen_and_removed_and_theirs_run_here,
    what_cron_parser_reads_goes_on_here_and_what_nobody_can_read_says_so,
}

async fn what_cron_parser_reads_goes_on_here_and_what_nobody_can_read_says_so(bullmq: &str) {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    let ran = node(bullmq, "crons.js", &[&redis.port().to_string()]).await.remove(0);
    for name in ["steps", "zone", "question"] {
        assert!(ran[name].as_u64().unwrap() >= 3, "{ran:#}");
    }
    let (_, all) = jobber.get("/api/v1/schedules").await;
    for schedule in all["items"].as_array().unwrap() {
        assert!(schedule["trouble"].is_null() && schedule["next"].as_array().unwrap().len() == 5, "{schedule:#}");
    }
    // Something that only its own program understands.
    redis.cli(&["ZADD", "bull:my-job-queue:repeat", "1700000000000", "odd"]);
    redis.cli(&["HSET", "bull:my-job-queue:repeat:odd", "name", "echo", "pattern", "H H * * *", "ic", "1"]);
    let list = jobber.cli(&["schedule", "ls"]).await;
    let line = list.stdout.lines().find(|line| line.starts_with("odd")).unwrap_or_default();
    assert!(line.contains("stopped") && list.stderr.contains("not a cron expression"), "{list:?}");
    let doctor = jobber.cli(&["doctor", "-o", "json"]).await;
    assert!(doctor.stdout.contains("odd brings no jobs"), "{doctor:?}");
    eventually("a word in the log", async || {
        jobber.log().lines().any(|line| line.contains("a schedule") && line.contains("odd")).then_some(())
    })
    .await;
}

async fn our_schedules_are_seen_and_removed_and_theirs_run_here(bullmq: &str) {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    let add = |id: &str| json!({"id": id, "cron": "30 2 * * *", "tz": "Europe/Berlin", "job": {"name": "echo", "arguments": ["ours"]}});
    for id in ["ours", "to-remove"] {
        assert_eq!(jobber.post("/api/v1/schedules", add(id)).await.0, 201);
    }
    let said = node(bullmq, "schedules.js", &[&redis.port().to_string()]).await.remove(0);
    let ours = said["seen"].as_array().unwrap().iter().find(|s| s["key"] == "ours").unwrap();
    assert_eq!(
        (&ours["pattern"], &ours["tz"], &ours["name"]),
        (&json!("30 2 * * *"), &json!("Europe/Berlin"), &json!("echo"))
    );
    assert_eq!(ours["template"]["data"], json!(["ours"]), "{said:#}");
    assert_eq!(said["removed"], true);
    // Node's schedule brought jobs here, each time once.
    let ran: Vec<_> = said["ran"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert!(ran.len() >= 3 && ran.iter().all(|id| id.starts_with("repeat:from-node:")), "{said:#}");
    assert_eq!(said["returned"], json!({"success": true, "result": "tick"}));

    let (_, all) = jobber.get("/api/v1/schedules").await;
    let ids: Vec<_> = all["items"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.contains(&"ours".to_owned()) && ids.contains(&"from-node".to_owned()) && ids.len() == 2, "{all:#}");
    let theirs = all["items"].as_array().unwrap().iter().find(|s| s["id"] == "from-node").unwrap();
    assert_eq!((&theirs["every_ms"], &theirs["job"]["name"]), (&json!(1000), &json!("echo")));
    assert!(theirs["last_job"].as_str().unwrap().starts_with("repeat:from-node:"), "{theirs:#}");
    // Ours to manage: a Node schedule is taken out.
    assert_eq!(jobber.delete("/api/v1/schedules/from-node").await.0, 200);
}
