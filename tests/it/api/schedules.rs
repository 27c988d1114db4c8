//! `/api/v1/schedules` of the real binary.

use serde_json::json;

use crate::harness::Jobber;

#[tokio::test]
async fn a_schedule_is_put_read_and_refused() {
    let j = Jobber::serve().start().await;
    j.job("report", "#!/bin/sh\n");
    let body = json!({"id": "nightly", "cron": "30 2 * * *", "tz": "Europe/Berlin", "job": {"name": "report"}});
    let (status, made) = j.post("/api/v1/schedules", body.clone()).await;
    assert_eq!((status, &made["id"], &made["paused"]), (201, &json!("nightly"), &json!(false)), "{made}");
    assert_eq!(j.post("/api/v1/schedules", body).await.0, 200, "the same again");
    let put = j
        .http()
        .put(j.url("/api/v1/schedules/nightly"))
        .json(&json!({"every_ms": 3_600_000, "job": {"name": "report"}}));
    assert_eq!(put.send().await.unwrap().status(), 200);
    let (_, shown) = j.get("/api/v1/schedules/nightly").await;
    assert_eq!((&shown["every_ms"], &shown["cron"]), (&json!(3_600_000), &json!(null)), "{shown}");
    let (_, all) = j.get("/api/v1/schedules").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");
    let (status, job) = j.post("/api/v1/schedules/nightly:trigger", json!({})).await;
    assert_eq!((status, &job["status"]), (202, &json!("queued")), "{job}");

    let refused = async |body: serde_json::Value| {
        let (status, problem) = j.post("/api/v1/schedules", body).await;
        (status, problem["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned())
    };
    let job = json!({"name": "report"});
    assert_eq!(refused(json!({"job": job})).await, (422, "/cron".to_owned()));
    assert_eq!(
        refused(json!({"cron": "* * * * *", "every_ms": 1000, "job": job})).await,
        (422, "/every_ms".to_owned())
    );
    assert_eq!(refused(json!({"cron": "0 0 30 2 *", "job": job})).await, (422, "/cron".to_owned()));
    assert_eq!(refused(json!({"every_ms": 5000, "tz": "UTC", "job": job})).await, (422, "/tz".to_owned()));
    assert_eq!(refused(json!({"every_ms": 5000, "id": "a/b", "job": job})).await, (422, "/id".to_owned()));
    assert_eq!(refused(json!({"every_ms": 5000, "job": {"name": "no-such"}})).await, (422, "/job/name".to_owned()));
    assert_eq!(
        refused(json!({"every_ms": 5000, "job": {"name": "report", "id": "x"}})).await,
        (422, "/job/id".to_owned())
    );
    assert_eq!(j.get("/api/v1/schedules/other").await.0, 404);
    assert_eq!(j.post("/api/v1/schedules/nightly:dance", json!({})).await.0, 404);
    assert_eq!(j.delete("/api/v1/schedules/nightly").await.0, 200);
    assert_eq!(j.delete("/api/v1/schedules/nightly").await.0, 404);
}
