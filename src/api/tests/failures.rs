//! Tests failures over HTTP, with the embedded adapters and an embedder that knows a few words.

use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::api::CategoryPreview;
use crate::failures::{EmbedError, Embedder};

struct Words;

#[async_trait]
impl Embedder for Words {
    fn model(&self) -> &str {
        "words"
    }

    fn dimension(&self) -> usize {
        3
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let vector = |text: &String| match text {
            t if t.contains("disk") => vec![1.0, 0.0, 0.0],
            t if t.contains("memory") => vec![0.0, 1.0, 0.0],
            _ => vec![0.0, 0.0, 1.0],
        };
        Ok(texts.iter().map(vector).collect())
    }
}

async fn site() -> Site {
    Site::with(|settings| settings.category_preview = CategoryPreview::new(Arc::new(Words), 0.5), 100_000).await
}

impl Site {
    /// Runs a job once, to an end that says this.
    pub(super) async fn fails(&self, claims: &mut Claims, attempts: u32) -> String {
        let id = self.submit(json!({"name": "echo", "attempts": attempts})).await;
        let lease = self.lease(claims).await;
        self.started(&lease).await;
        self.finished(lease, 1, "", true).await;
        id
    }

    /// Repeats the request until the answer is as expected, because history is some moments behind.
    pub(super) async fn until(&self, path: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        timeout(PATIENCE, async {
            loop {
                let (status, answer) = self.get(path).await;
                assert!(matches!(status, 200 | 202), "{answer}");
                if is_it(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("in time")
    }
}

#[tokio::test]
async fn failures_are_grouped_counted_found_and_retried() {
    let site = site().await;
    let mut claims = site.claims().await;
    let ids = [site.fails(&mut claims, 1).await, site.fails(&mut claims, 1).await];
    let report = site.until("/api/v1/failures", |answer| answer["items"][0]["count"] == 2).await;
    let group = &report["items"][0];
    assert_eq!((&report["total"], &group["category"], &group["text"]), (&json!(1), &json!("pending"), &json!("why")));
    let fingerprint = group["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(group["samples"].as_array().unwrap().len(), 2);

    let (_, jobs) = site.get(&format!("/api/v1/jobs?fingerprint={}", &fingerprint[..8])).await;
    assert_eq!(jobs["items"].as_array().unwrap().len(), 2, "{jobs}");
    let (_, jobs) = site.get("/api/v1/jobs?category=pending&state=completed").await;
    assert_eq!(jobs["items"], json!([]));
    for wrong in ["/api/v1/jobs?category=none-such", "/api/v1/jobs?fingerprint=ffffffff"] {
        assert_eq!(site.get(wrong).await.0, 404, "{wrong}");
    }
    let (_, job) = site.get(&format!("/api/v1/jobs/{}", ids[0])).await;
    assert_eq!(job["categories"][&fingerprint], "pending", "{job}");

    // The attempts are counted before their jobs have ended.
    let of_both =
        |answer: &Value| answer["jobStats"]["errorCategorySuccessRate"][0]["pending"]["totalErrorCategoryJobs"] == 2;
    let stats = site.until("/stats", of_both).await;
    let expected =
        json!([{"pending": {"totalErrorCategoryJobs": 2, "completedJobs": 0, "successRatePercentage": 0.0}}]);
    assert_eq!(&stats["jobStats"]["errorCategorySuccessRate"], &expected);

    let (status, dry) = site.post("/api/v1/jobs:retry", json!({"fingerprint": fingerprint, "dry_run": true})).await;
    assert_eq!((status, dry["retried"].as_array().unwrap().len(), &dry["dry_run"]), (200, 2, &json!(true)), "{dry}");
    assert_eq!(site.get(&format!("/api/v1/jobs/{}", ids[0])).await.1["state"], "failed", "nothing was done");
    let body = json!({"category": "pending", "name": "echo", "limit": 1});
    let (_, done) = site.post("/api/v1/jobs:retry", body).await;
    assert_eq!((&done["retried"], &done["more"]), (&json!([ids[1]]), &json!(true)), "the newest first");
    let (_, rest) = site.post("/api/v1/jobs:retry", json!({"fingerprint": fingerprint})).await;
    assert!(rest["retried"].as_array().unwrap().contains(&json!(ids[0])), "{rest}");
    assert_eq!(site.post("/api/v1/jobs:retry", json!({})).await.0, 422);
    drop(claims);
    site.end().await;
}

#[tokio::test]
async fn statistics_are_told_as_json_and_as_csv() {
    let site = site().await;
    let mut claims = site.claims().await;
    for _ in 0..3 {
        site.fails(&mut claims, 1).await;
    }
    let report = site.until("/api/v1/stats/attempts?attempts=2", |a| a["items"][0]["next"]["n"] == 3).await;
    assert_eq!(report["items"][0]["next"]["rate"], Value::Null, "of fewer than five no bare rate: {report}");
    assert!(report["items"][0]["next"]["high"].as_f64().unwrap() > 0.5);
    assert_eq!(report["worth"]["answer"], "unknown: no job has been tried 2 times");
    let (_, categories) = site.get("/api/v1/stats/categories?name=echo").await;
    assert_eq!((&categories["items"][0]["jobs"], &categories["items"][0]["failures"]), (&json!(3), &json!(3)));
    for what in ["concurrency", "cost", "durations"] {
        let (status, answer) = site.get(&format!("/api/v1/stats/{what}?since=2020-01-01&until=2999-01-01")).await;
        assert_eq!(status, 200, "{answer}");
        let (status, text) = site.get(&format!("/api/v1/stats/{what}?format=csv")).await;
        assert_eq!(status, 200, "{text}");
    }
    let request = site.http.get(format!("{}/api/v1/stats/durations", site.base)).header("accept", "text/csv");
    let (_, text) = site.answer(request).await;
    assert!(text.as_str().unwrap().starts_with("name,waiting_n,waiting_p50,"), "{text}");
    let (_, none) = site.get("/api/v1/stats/categories?until=2000-01-01").await;
    assert_eq!(none["items"], json!([]));
    for (wrong, status) in
        [("none", 404), ("cost?attempts=3", 400), ("cost?since=today", 400), ("cost?format=xml", 400)]
    {
        assert_eq!(site.get(&format!("/api/v1/stats/{wrong}")).await.0, status, "{wrong}");
    }
    drop(claims);
    site.end().await;
}

#[tokio::test]
async fn categories_are_added_changed_removed_and_tried_out() {
    let site = site().await;
    let listing = |id: &'static str| move |a: &Value| a["items"].as_array().unwrap().iter().any(|c| c["id"] == id);
    let body = json!({"name": "Disk full", "description": "no room on a disk", "examples": ["disk quota exceeded"]});
    let (status, added) = site.post("/api/v1/categories", body.clone()).await;
    assert_eq!((status, &added["id"], &added["status"]), (202, &json!("disk-full"), &json!("added")), "{added}");
    site.until("/api/v1/categories", listing("disk-full")).await;
    assert_eq!(site.post("/api/v1/categories", body.clone()).await.0, 409);
    for wrong in [json!({"name": ""}), json!({"name": "x", "id": "Not An Id"}), json!({"name": "x", "colour": "red"})] {
        assert!((400..=422).contains(&site.post("/api/v1/categories", wrong.clone()).await.0), "{wrong}");
    }
    let (_, tested) = site.post("/api/v1/categories:test", json!({"text": "the disk is full"})).await;
    assert_eq!((&tested["category"], &tested["nearest"]), (&json!("disk-full"), &json!("disk-full")), "{tested}");
    let (_, tested) = site.post("/api/v1/categories:test", json!({"text": "out of memory"})).await;
    assert_eq!((&tested["category"], &tested["threshold"]), (&json!("uncategorised"), &json!(0.5)), "{tested}");

    let labelled = json!({"labelled": [
        {"text": "disk a", "category": "Disk full"},
        {"text": "disk b", "category": "disk-full"},
        {"text": "memory", "category": "none"},
        {"text": "odd", "category": null},
    ]});
    let (status, found) = site.post("/api/v1/categories:calibrate", labelled).await;
    assert_eq!((status, &found["best"]["accuracy"]), (200, &json!(1.0)), "{found}");
    let unknown = json!({"labelled": [{"text": "x", "category": "none-such"}]});
    assert_eq!(site.post("/api/v1/categories:calibrate", unknown).await.0, 404);
    assert_eq!(site.post("/api/v1/categories:threshold", json!({"threshold": 7})).await.0, 400);
    assert_eq!(site.post("/api/v1/categories:threshold", json!({"threshold": 0.25})).await.0, 202);
    site.until("/api/v1/categories", |a| a["threshold"] == 0.25 && a["threshold_is_configured"] == false).await;

    let put =
        |id: &str, body: Value| site.answer(site.http.put(format!("{}/api/v1/categories/{id}", site.base)).json(&body));
    let renamed = json!({"name": "No room", "description": "", "examples": []});
    assert_eq!(put("disk-full", renamed.clone()).await.0, 202);
    assert_eq!(put("none-such", renamed).await.0, 404);
    site.until("/api/v1/categories", |a| a["items"][0]["name"] == "No room").await;
    let delete = |id: &str| site.answer(site.http.delete(format!("{}/api/v1/categories/{id}", site.base)));
    assert_eq!(delete("disk-full").await.0, 202);
    site.until("/api/v1/categories", |a| a["items"] == json!([])).await;
    assert_eq!(delete("disk-full").await.0, 404);
    let (status, near) = site.get("/api/v1/failures/similar?text=disk").await;
    assert_eq!((status, &near["items"]), (200, &json!([])));
    assert_eq!(site.get("/api/v1/failures/similar").await.0, 400);
    site.end().await;
}
