//! Tests what queues tell of the work that waits in them.

use super::*;
use crate::domain::Usage;

impl Site {
    /// Runs the next job for two seconds on two cores, as history hears of it.
    async fn runs_for_two_seconds(&self, claims: &mut Claims) {
        let lease = self.lease(claims).await;
        self.started(&lease).await;
        let now = self.clock.now();
        let mut report = AttemptReport::bare(Outcome::Exit { code: 0 }, now, now, "");
        report.usage = Some(Usage { wall_us: 2_000_000, user_us: 1, system_us: 1, peak_rss_bytes: 1 });
        report.cpus = vec![0, 1];
        let (attempt, worker) = (lease.attempt(), WorkerId::parse("tester").unwrap());
        self.append(&lease, EventKind::AttemptFinished { attempt, worker, report: Box::new(report), next_at: None })
            .await;
        lease.settle(Verdict::Complete { result: None }).await;
    }

    async fn submit_many(&self, count: usize, job: Value) {
        let (status, answer) = self.post("/api/v1/jobs:bulk", json!({"jobs": vec![job; count]})).await;
        assert_eq!(status, 202, "{answer}");
    }
}

#[tokio::test]
async fn the_backlog_of_a_queue_is_estimated_by_the_jobs_that_come_first() {
    let site = Site::start().await;
    let mut claims = site.claims().await;
    site.submit(json!({"name": "echo"})).await;
    site.runs_for_two_seconds(&mut claims).await;
    claims.close().await;
    let path = "/api/v1/queues/encode";
    site.submit_many(3, json!({"name": "echo", "queue": "encode"})).await;
    site.submit(json!({"name": "echo", "queue": "encode", "cores": 3, "priority": 1})).await;
    site.submit_many(2, json!({"name": "other", "queue": "encode"})).await;
    // Not ready.
    site.submit(json!({"name": "echo", "queue": "encode", "delay_ms": 3_600_000})).await;
    let queue = site.until(path, |queue| queue["backlog"]["core_seconds"] != 0.0).await;
    // Those that do not say get two cores, as the one before.
    let known =
        json!({"jobs": 6, "core_seconds": 3.0 * 4.0 + 6.0, "unknown_jobs": 2, "unplaceable_jobs": null, "sampled": 6});
    assert_eq!(queue["backlog"], known);
    let (_, all) = site.get("/api/v1/queues").await;
    assert_eq!(all["items"][0]["backlog"], known, "{all}");
    assert_eq!(all["items"][1]["backlog"]["jobs"], 0, "{all}");

    site.submit_many(1000, json!({"name": "echo", "queue": "encode"})).await;
    site.submit_many(194, json!({"name": "other", "queue": "encode"})).await;
    let (_, queue) = site.get(path).await;
    let backlog = &queue["backlog"];
    assert_eq!((&backlog["jobs"], &backlog["sampled"]), (&json!(1200), &json!(1000)), "{backlog}");
    // All but two of the first thousand are known, so nearly all are taken to be.
    assert!((4700.0..4800.0).contains(&backlog["core_seconds"].as_f64().unwrap()), "{backlog}");
    assert!((1..=4).contains(&backlog["unknown_jobs"].as_u64().unwrap()), "{backlog}");
    let (_, all) = site.get("/api/v1/queues").await;
    assert_eq!(all["items"][0]["backlog"]["sampled"], 100, "the list looks at fewer: {all}");

    let history = Sqlite::open(&site.dir.path().join("jobber.db"), Durability::Process).unwrap();
    history.write(|c| c.execute("UPDATE history_shards SET document = x'00'", [])).await.unwrap();
    let queue = site.until(path, |queue| queue["backlog"]["core_seconds"].is_null()).await;
    let unknown =
        json!({"jobs": 1200, "core_seconds": null, "unknown_jobs": null, "unplaceable_jobs": null, "sampled": 0});
    assert_eq!((&queue["backlog"], &queue["waiting"]), (&unknown, &json!(1199)));
    drop(history);
    site.end().await;
}
