//! Tests which job a person means.

use super::*;

#[tokio::test]
async fn a_job_is_found_by_the_beginning_of_its_id_and_as_the_last_one() {
    let site = Site::start().await;
    let mut claims = site.claims().await;
    let failed = site.fails(&mut claims, 1).await;
    for id in ["order-4", "order-42", "order-5"] {
        site.submit(json!({"name": "echo", "id": id, "delay_ms": 600_000})).await;
    }
    let find = async |asked: &str| {
        let (status, found) = site.get(&format!("/api/v1/jobs:resolve?id={asked}")).await;
        assert_eq!((status, &found["behind"], &found["more"]), (200, &json!(false), &json!(false)), "{found}");
        found["items"].as_array().unwrap().iter().map(|job| job["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(find("order").await, ["order-4", "order-42", "order-5"]);
    assert_eq!(find("order-4").await, ["order-4"], "a whole id is meant as it is");
    assert_eq!(find("order-42").await, ["order-42"]);
    assert!(find("nothing").await.is_empty());
    assert_eq!(find("@last").await, ["order-5"]);
    assert_eq!(find("@last-failed").await, [failed.as_str()]);
    assert_eq!(find(&failed[..20]).await, [failed.as_str()]);
    let (status, _) = site.post("/api/v1/jobs/order-5:cancel", json!({})).await;
    assert_eq!(status, 202);
    assert_eq!(find("@last-failed").await, ["order-5"], "what was cancelled has failed");
    for (asked, status) in [("", 400), ("?id=", 400), ("?id=a/b", 400), ("?id=a&other=1", 400)] {
        assert_eq!(site.get(&format!("/api/v1/jobs:resolve{asked}")).await.0, status, "{asked}");
    }
    drop(claims);
    site.end().await;
}

#[tokio::test]
async fn many_candidates_are_bounded() {
    let site = Site::start().await;
    let jobs: Vec<_> = (0..100).map(|i| json!({"name": "echo", "id": format!("n{i}"), "delay_ms": 600_000})).collect();
    assert_eq!(site.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await.0, 202);
    let (_, found) = site.get("/api/v1/jobs:resolve?id=n").await;
    assert_eq!((found["items"].as_array().unwrap().len(), &found["more"]), (20, &json!(true)), "{found}");
    // That others are removed is no reason not to find the one that is left.
    for id in ["n51", "n52", "n5"] {
        let (status, _) = site.answer(site.http.delete(format!("{}/api/v1/jobs/{id}", site.base))).await;
        assert_eq!(status, 200);
    }
    let (_, found) = site.get("/api/v1/jobs:resolve?id=n5").await;
    assert_eq!(found["items"].as_array().unwrap().len(), 8, "{found}");
    site.end().await;
}
