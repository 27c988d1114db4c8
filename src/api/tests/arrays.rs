//! Tests arrays and groups over HTTP, with the embedded adapters.

use super::*;
use crate::domain::JobId;
use crate::queue::Queue;

impl Site {
    async fn post_keyed(&self, key: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}/api/v1/jobs", self.base)).header("idempotency-key", key);
        self.answer(request.json(body)).await
    }

    /// Completes this many jobs.
    async fn complete(&self, count: usize) {
        let options = ClaimOptions::new(WorkerId::parse("tester").unwrap(), count, 8);
        let mut claims = self.queue.claim(options).await.unwrap();
        for _ in 0..count {
            let lease = self.lease(&mut claims).await;
            self.started(&lease).await;
            self.finished(lease, 0, "", true).await;
        }
        claims.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_one_request_of_any_number_of_jobs() {
    let site = Site::start().await;
    let body = json!({"name": "echo", "arguments": ["x"], "data": {"n": 1}, "array": "0-2498:2%7", "attempts": 1});
    let (status, answer) = site.post("/api/v1/jobs", body).await;
    assert_eq!((status, &answer["duplicate"]), (202, &json!(false)), "{answer}");
    let array = &answer["array"];
    assert_eq!((&array["count"], &array["duplicates"]), (&json!(1250), &json!(0)));
    let group = array["group"].as_str().unwrap();
    assert_eq!(array["first_id"], format!("{group}-0"));
    assert_eq!(array["last_id"], format!("{group}-2498"));
    let (_, view) = site.get(&format!("/api/v1/groups/{group}")).await;
    assert_eq!((&view["total"], &view["waiting"], &view["behind"]), (&json!(1250), &json!(1250), &json!(false)));
    let (_, job) = site.get(&format!("/api/v1/jobs/{group}-2498")).await;
    assert_eq!((&job["arguments"], &job["data"]), (&json!(["x"]), &json!({"n": 1})));
    let options = &job["options"];
    assert_eq!(
        (&options["group"], &options["group_limit"], &options["array_index"]),
        (&json!(group), &json!(7), &json!(2498))
    );
    assert_eq!(site.get(&format!("/api/v1/jobs/{group}-1")).await.0, 404);
    let (_, count) = site.get(&format!("/api/v1/jobs:count?group={group}")).await;
    assert_eq!(count, json!({"count": 1250, "capped": false}));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_was_cut_off_is_completed_by_the_same_request() {
    let site = Site::start().await;
    let array = |spec: &str| json!({"name": "echo", "id": "sim", "array": spec});
    let submit = async |spec: &str| site.post("/api/v1/jobs", array(spec)).await.1;
    // All that a crash between two parts would have left.
    assert_eq!(submit("0-999").await["array"]["duplicates"], 0);
    let answer = submit("0-2499").await;
    assert_eq!((&answer["array"]["duplicates"], &answer["duplicate"]), (&json!(1000), &json!(false)));
    let answer = submit("0-2499").await;
    assert_eq!((&answer["array"]["duplicates"], &answer["duplicate"]), (&json!(2500), &json!(true)));
    assert_eq!(answer["array"]["group"], "sim", "the id is the group, too");
    assert_eq!(site.queue.counts().await.unwrap().waiting, 2500);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_makes_no_job_again_that_the_queue_has_let_go_of() {
    let site = Site::start().await;
    // 8 MiB in three parts, because the jobs of one part are given no more than 4 MiB.
    let body = json!({"name": "echo", "data": "x".repeat(3 << 20), "array": "1,5,7", "group": "mine"});
    let (status, first) = site.post_keyed("k", &body).await;
    assert_eq!((status, &first["array"]["duplicates"]), (202, &json!(0)), "{first}");
    let id = JobId::parse(first["id"].as_str().unwrap()).unwrap();
    assert!(id.as_str().ends_with("-1") && first["array"]["group"] == "mine", "{first}");
    site.complete(3).await;
    let cleaned = site.post("/api/v1/queue:clean", json!({"state": "completed"})).await.1;
    assert_eq!(cleaned["removed"], 3);
    let (status, again) = site.post_keyed("k", &body).await;
    assert_eq!((status, &again["array"]["duplicates"], &again["id"]), (202, &json!(3), &first["id"]), "{again}");
    let counts = site.queue.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.completed), (0, 0));
    let (status, refused) = site.post_keyed("k", &json!({"name": "echo", "array": "1,5,8"})).await;
    assert_eq!((status, &refused["code"]), (422, &json!("idempotency_key_reused")));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_array_is_told_before_any_job_is_made() {
    let site = Site::with(|_| {}, 100).await;
    let refused = async |body: Value| {
        let (status, answer) = site.post("/api/v1/jobs", body).await;
        (status, answer["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned())
    };
    let pointer = |text: &str| (422, text.to_owned());
    assert_eq!(refused(json!({"name": "echo", "array": "9-1"})).await, pointer("/array"));
    assert_eq!(refused(json!({"name": "echo", "array": "0-9%2", "group_limit": 3})).await, pointer("/group_limit"));
    assert_eq!(refused(json!({"name": "echo", "array": "0-9", "id": "x".repeat(127)})).await, pointer("/id"));
    assert_eq!(refused(json!({"name": "echo", "array": "0-9", "attempts": 0})).await, pointer("/attempts"));
    assert_eq!(refused(json!({"name": "missing", "array": "0-9"})).await, pointer("/name"));
    let after = json!({"name": "echo", "array": "0-9", "id": "a", "after": ["a-3"]});
    assert_eq!(refused(after).await, pointer("/after/0"));
    let deduplicated = json!({"name": "echo", "array": "0-9", "deduplication": {"key": "k"}});
    assert_eq!(refused(deduplicated).await, pointer("/deduplication"));
    let bulk = json!({"jobs": [{"name": "echo", "array": "0-9"}]});
    let (status, answer) = site.post("/api/v1/jobs:bulk", bulk).await;
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/jobs/0/array")));
    // The log has room for 100 events.
    let (status, answer) = site.post("/api/v1/jobs", json!({"name": "echo", "array": "0-100"})).await;
    assert_eq!((status, &answer["code"]), (503, &json!("log_full")));
    assert_eq!(site.queue.counts().await.unwrap().waiting, 0);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_of_a_group_come_in_the_order_of_the_indices() {
    let site = Site::start().await;
    let (_, answer) = site.post("/api/v1/jobs", json!({"name": "echo", "array": "0-249", "group": "g"})).await;
    site.submit(json!({"name": "echo", "group": "g"})).await;
    assert_eq!(answer["array"]["count"], 250);
    site.complete(20).await;
    let (_, view) = site.get("/api/v1/groups/g").await;
    assert_eq!((&view["completed"], &view["waiting"], &view["progress"]), (&json!(20), &json!(231), &json!(7.9)));
    let (status, text) = site.get("/api/v1/groups/g/results").await;
    assert_eq!(status, 200);
    let lines: Vec<Value> = text.as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["index"]), (251, &Value::Null), "the one without an index comes first");
    let indices: Vec<_> = lines[1..].iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert!(indices.iter().copied().eq(0..250), "{indices:?}");
    let done = lines.iter().filter(|line| line["state"] == "completed");
    assert_eq!(done.filter(|line| line["outcome"]["code"] == 0 && line["attempts"] == 1).count(), 20);
    assert_eq!(site.get("/api/v1/groups/nobody").await.0, 404);
    assert_eq!(site.get("/api/v1/groups/nobody/results").await.1["code"], "unknown_group");
    site.end().await;
}
