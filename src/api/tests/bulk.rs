//! Tests the actions on many jobs over HTTP, with the embedded adapters.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

impl Site {
    /// Has `count` new jobs fail, each with the same error.
    async fn fail_many(&self, count: usize) {
        const AT_ONCE: usize = 50;
        let jobs: Vec<_> = (0..count).map(|_| json!({"name": "echo", "attempts": 1})).collect();
        assert_eq!(self.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await.0, 202);
        let worker = WorkerId::parse("tester").unwrap();
        let options = ClaimOptions::new(worker, AT_ONCE, 8);
        let mut claims = self.queue.claim(options).await.unwrap();
        for _ in 0..count / AT_ONCE {
            let mut leases = Vec::new();
            for _ in 0..AT_ONCE {
                leases.push(self.lease(&mut claims).await);
            }
            let fail = async |lease: Lease| {
                self.started(&lease).await;
                self.finished(lease, 1, "", true).await;
            };
            futures_util::future::join_all(leases.into_iter().map(fail)).await;
        }
        claims.close().await;
    }

    /// Goes through all batches of an action: the jobs that were acted on, and those that were not and why.
    async fn act_on_all(&self, path: &str, mut body: Value) -> (BTreeSet<String>, BTreeMap<String, String>) {
        let (mut done, mut skipped) = (BTreeSet::new(), BTreeMap::new());
        loop {
            let (status, batch) = self.post(path, body.clone()).await;
            assert_eq!(status, 200, "{batch}");
            let acted = if path.ends_with("retry") { &batch["retried"] } else { &batch["done"] };
            let acted: Vec<String> = serde_json::from_value(acted.clone()).unwrap();
            let passed: BTreeMap<String, String> = serde_json::from_value(batch["skipped"].clone()).unwrap();
            assert!(acted.len() + passed.len() <= 700, "a batch has its limit");
            assert!(acted.into_iter().all(|id| done.insert(id)), "no job comes twice");
            skipped.extend(passed);
            assert_eq!(batch["more"], !batch["next_cursor"].is_null());
            if batch["next_cursor"].is_null() {
                return (done, skipped);
            }
            body["cursor"] = batch["next_cursor"].clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_of_thousands_counts_what_is_done_and_what_is_skipped() {
    const JOBS: usize = 2500;
    const FORGOTTEN: usize = 100;
    let site = Site::start().await;
    site.fail_many(JOBS).await;
    timeout(PATIENCE, async {
        while site.get("/api/v1/failures").await.1["items"][0]["count"] != JOBS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("history knows them all");
    // The queue forgets some, which history still has.
    let (_, cleaned) = site.post("/api/v1/queue:clean", json!({"state": "failed", "limit": FORGOTTEN})).await;
    assert_eq!(cleaned["removed"], FORGOTTEN);
    let chosen = |dry_run: bool| json!({"category": "pending", "limit": 700, "dry_run": dry_run});
    let preview = site.act_on_all("/api/v1/jobs:retry", chosen(true)).await;
    assert_eq!((preview.0.len(), preview.1.len()), (JOBS - FORGOTTEN, FORGOTTEN));
    assert!(preview.1.values().all(|why| why.contains("let go of it")), "{:?}", preview.1.values().next());
    assert_eq!(site.get("/api/v1/queue").await.1["failed"], JOBS - FORGOTTEN, "nothing was done");
    assert_eq!(site.act_on_all("/api/v1/jobs:retry", chosen(false)).await, preview);
    assert_eq!(site.get("/api/v1/queue").await.1["waiting"], JOBS - FORGOTTEN);
    site.end().await;
}

#[tokio::test]
async fn a_request_that_chooses_no_jobs_is_refused() {
    let site = Site::start().await;
    for verb in ["cancel", "retry", "promote", "remove"] {
        let path = format!("/api/v1/jobs:{verb}");
        for body in [json!({}), json!({"dry_run": true, "limit": 5}), json!({"ids": [], "state": [], "q": "  "})] {
            let (status, problem) = site.post(&path, body.clone()).await;
            assert_eq!((status, &problem["code"]), (422, &json!("empty_filter")), "{verb} {body}");
        }
        let wrong = [
            json!({"name": "echo", "limit": 0}),
            json!({"name": "echo", "statee": ["failed"]}),
            json!({"name": "echo", "ids": ["a"]}),
            json!({"ids": ["a"], "cursor": "2"}),
        ];
        for body in wrong {
            let (status, problem) = site.post(&path, body.clone()).await;
            assert_eq!((status, &problem["code"]), (422, &json!("invalid_body")), "{verb} {body}");
        }
    }
    assert_eq!(site.post("/api/v1/jobs:retry", json!({"name": "echo", "reason": "why"})).await.0, 422);
    site.end().await;
}

#[tokio::test]
async fn jobs_are_promoted_cancelled_and_removed_by_ids_and_by_conditions() {
    let site = Site::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(site.submit(json!({"name": "echo", "delay_ms": 3_600_000})).await);
    }
    let waits = site.submit(json!({"name": "echo", "after": [ids[0]]})).await;
    let other = site.submit(json!({"name": "other"})).await;

    // Of a job just submitted, history is told before it is asked.
    let by_name = json!({"name": "echo", "dry_run": true});
    let (_, preview) = site.post("/api/v1/jobs:promote", by_name).await;
    assert_eq!(preview["done"].as_array().unwrap().len(), 3, "{preview}");
    assert!(preview["skipped"][&waits].as_str().unwrap().contains("waits for other jobs"), "{preview}");
    let (_, first) = site.post("/api/v1/jobs:promote", json!({"ids": [ids[0], "none-such", other], "limit": 2})).await;
    assert_eq!((&first["done"], &first["next_cursor"]), (&json!([ids[0]]), &json!("2")), "{first}");
    assert_eq!(first["skipped"]["none-such"], "there is no job none-such");
    let (_, last) =
        site.post("/api/v1/jobs:promote", json!({"ids": [ids[0], "none-such", other], "cursor": "2"})).await;
    assert_eq!((&last["more"], last["skipped"].as_object().unwrap().len()), (&json!(false), 1), "{last}");

    let body = json!({"state": ["waiting", "delayed"], "name": "echo", "reason": "wrong input"});
    let (_, cancelled) = site.post("/api/v1/jobs:cancel", body).await;
    let (done, skipped) =
        (cancelled["done"].as_array().unwrap().len(), cancelled["skipped"].as_object().unwrap().len());
    // The job that came after another is failed with that one, or cancelled before.
    assert_eq!(done + skipped, 4, "{cancelled}");
    assert!(done >= 3, "{cancelled}");
    let (_, view) = site.get(&format!("/api/v1/jobs/{}?wait=5", ids[1])).await;
    assert_eq!((&view["state"], &view["outcome"]["kind"]), (&json!("failed"), &json!("cancelled")), "{view}");
    assert_eq!(
        site.post("/api/v1/jobs:cancel", json!({"name": "echo", "state": ["failed"]})).await.1["done"],
        json!([])
    );
    let (_, removed) = site.post("/api/v1/jobs:remove", json!({"ids": ids})).await;
    assert_eq!(removed["done"], json!(ids), "{removed}");
    assert_eq!(site.get(&format!("/api/v1/jobs/{other}")).await.1["state"], "waiting");
    site.end().await;
}
