//! Policies by category, with real jobs that fail.

use std::path::PathBuf;
use std::sync::Arc;

use jobber::failures::ErrorCache;
use jobber::failures::cache::embedded::EmbeddedCache;
use jobber::sqlite::{Durability, Sqlite};
use serde_json::{Value, json};

use crate::harness::{Jobber, Place, eventually};

fn configuration(place: &Arc<Place>, text: &str) -> String {
    let file: PathBuf = place.path().join("jobber.toml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn attempts(view: &Value) -> usize {
    view["attempts"].as_array().unwrap().len()
}

#[tokio::test]
async fn the_very_first_failures_follow_the_policy() {
    let place = Place::new();
    place.job("hang", "#!/bin/sh\nsleep 600\n");
    let config = configuration(&place, "[policies.timeout]\nretry = false\n");
    // Nobody has published categories yet, and all fail at the same time.
    let j = Jobber::dev().at(&place).arg("--config").arg(config).arg("--cores").arg("6").start().await;
    let body = json!({"name": "hang", "attempts": 3, "timeout_ms": 50, "backoff": {"type": "fixed", "delay_ms": 1}});
    let (status, answer) = j.post("/api/v1/jobs:bulk", json!({"jobs": vec![body; 6]})).await;
    assert_eq!(status, 202, "{answer}");
    for job in answer["jobs"].as_array().unwrap() {
        let view = j.wait_final(job["id"].as_str().unwrap()).await;
        assert_eq!((attempts(&view), &view["outcome"]["kind"]), (1, &json!("timeout")), "{view}");
    }
}

#[tokio::test]
async fn a_worker_follows_the_teams_categories_from_its_first_job_on_and_when_they_change() {
    let place = Place::new();
    place.job("calibrate", "#!/bin/sh\necho 'the flux capacitor of the beamline is not calibrated' >&2\nexit 1\n");
    let serve = Jobber::serve().at(&place).start().await;
    let add = async |name: &str, description: &str| {
        let (status, answer) =
            serve.post("/api/v1/categories", json!({"name": name, "description": description})).await;
        assert_eq!(status, 202, "{answer}");
    };
    add("Beamline", "the flux capacitor of the beamline is not calibrated").await;
    let db = Sqlite::open(&place.data_dir().join("jobber.db"), Durability::Process).unwrap();
    let cache = EmbeddedCache::open(db, 100).await.unwrap();
    eventually("the category to be published", async || {
        let published = cache.published().await.unwrap()?;
        published.categories.iter().any(|category| category.id.as_str() == "beamline").then_some(())
    })
    .await;
    let body = json!({"name": "calibrate", "attempts": 2, "backoff": {"type": "fixed", "delay_ms": 1}});
    let first = serve.submit(body.clone()).await;
    let config = configuration(&place, "[policies.beamline]\nretry = false\n");
    let _work = Jobber::work().at(&place).arg("--config").arg(config).start().await;
    let view = serve.wait_final(&first).await;
    assert_eq!(attempts(&view), 1, "{view}");
    let (status, answer) = serve.delete("/api/v1/categories/beamline").await;
    assert_eq!(status, 202, "{answer}");
    eventually("the worker to see that the category is gone", async || {
        let view = serve.wait_final(&serve.submit(body.clone()).await).await;
        (attempts(&view) == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_category_may_have_a_wait_of_its_own() {
    let place = Place::new();
    place.job("hang", "#!/bin/sh\nsleep 600\n");
    let policy = "[policies.timeout]\nbackoff = \"fixed\"\nbackoff_delay = \"1h\"\n";
    let config = configuration(&place, policy);
    let j = Jobber::dev().at(&place).arg("--config").arg(config).start().await;
    let body = json!({"name": "hang", "attempts": 3, "timeout_ms": 50, "backoff": {"type": "fixed", "delay_ms": 1}});
    let id = j.submit(body).await;
    j.wait_state(&id, "delayed").await;
    // The queue knows it before history does.
    let view = eventually("the end of the attempt in history", async || {
        let (_, view) = j.get(&format!("/api/v1/jobs/{id}")).await;
        view["attempts"][0]["report"].is_object().then_some(view)
    })
    .await;
    let at = |time: &Value| serde_json::from_value::<jobber::domain::Timestamp>(time.clone()).unwrap();
    let wait = at(&view["due_at"]).since(at(&view["attempts"][0]["report"]["ended_at"]));
    assert!((3590..3700).contains(&wait.as_secs()), "{view}");
}

#[tokio::test]
async fn the_next_attempt_gets_more_time_and_memory() {
    let place = Place::new();
    place.cpp_jobs();
    place.job("slow", "#!/bin/sh\nsleep 3\necho done\n");
    let policy = "[policies.timeout]\ntimeout_factor = 60.0\n[policies.memory-quota-exceeded]\nmemory_factor = 16.0\n";
    let config = configuration(&place, policy);
    let j = Jobber::dev().at(&place).arg("--config").arg(config).start().await;
    let backoff = json!({"type": "fixed", "delay_ms": 1});
    let slow = j.submit(json!({"name": "slow", "attempts": 2, "timeout_ms": 1000, "backoff": backoff})).await;
    let large = json!({"name": "faulty", "arguments": ["allocate", "400"], "attempts": 2, "memory_bytes": 64 << 20,
                       "backoff": backoff});
    let large = j.submit(large).await;
    for (id, outcome) in [(slow, "timeout"), (large, "oom")] {
        let view = j.wait_final(&id).await;
        assert_eq!((&view["state"], attempts(&view)), (&json!("completed"), 2), "{view}");
        assert_eq!(view["attempts"][0]["report"]["outcome"]["kind"], outcome, "{view}");
    }
}

#[tokio::test]
async fn more_memory_is_no_more_than_the_worker_divides() {
    let place = Place::new();
    place.cpp_jobs();
    let config = configuration(&place, "[policies.memory-quota-exceeded]\nmemory_factor = 16.0\n");
    let j = Jobber::dev().at(&place).arg("--memory-total=256MiB").arg("--config").arg(config).start().await;
    // Sixteen times as much would be enough for it.
    let exceeds = json!({"name": "faulty", "arguments": ["allocate", "400"], "attempts": 2, "memory_bytes": 64 << 20,
                         "backoff": {"type": "fixed", "delay_ms": 1}});
    let id = j.submit(exceeds).await;
    let view = j.wait_final(&id).await;
    assert_eq!((&view["state"], attempts(&view)), (&json!("failed"), 2), "{view}");
    let limit = &view["attempts"][1]["report"]["memory_limit_bytes"];
    assert_eq!((&view["outcome"]["kind"], limit), (&json!("oom"), &json!(256 << 20)), "{view}");
}
