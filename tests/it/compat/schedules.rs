//! Schedules that both sides see and manage.

use serde_json::json;

use super::{node, server};
use crate::harness::Jobber;

with_node! { our_schedules_are_seen_and_removed_and_theirs_run_here }

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
