//! Tests what tells how things go: searches of the list, counts over time, and the overview.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::*;

#[tokio::test]
async fn jobs_are_searched_and_counted() {
    let site = Site::start().await;
    let mut claims = site.claims().await;
    let failed = site.fails(&mut claims, 1).await;
    let waiting = site.submit(json!({"name": "echo", "id": "order-42"})).await;
    site.until("/api/v1/jobs", |list| list["items"].as_array().unwrap().len() == 2).await;
    site.until("/api/v1/jobs?state=failed", |list| list["items"][0]["outcome"].is_object()).await;
    let ids = |list: &Value| list["items"].as_array().unwrap().iter().map(|job| job["id"].clone()).collect::<Vec<_>>();
    for (query, found) in [
        ("q=ORDER", vec![&waiting]),
        (&*format!("q={}", failed[4..].to_uppercase()), vec![&failed]),
        ("q=echo", vec![&waiting, &failed]),
        ("outcome=exit,timeout", vec![&failed]),
        ("outcome=timeout&outcome=lost", vec![]),
        ("exit_code=1&worker=tester", vec![&failed]),
        ("exit_code=2", vec![]),
        ("signal=SEGV", vec![]),
        ("shorter_than_ms=60000&q=echo", vec![&failed]),
        ("longer_than_ms=60000", vec![]),
    ] {
        let (status, list) = site.get(&format!("/api/v1/jobs?{query}")).await;
        assert_eq!((status, ids(&list)), (200, found.iter().map(|id| json!(id)).collect()), "{query}: {list}");
        assert_eq!((&list["scanned"], &list["next_cursor"]), (&json!(2), &Value::Null), "{query}");
        let (_, count) = site.get(&format!("/api/v1/jobs:count?{query}")).await;
        assert_eq!(count, json!({"count": found.len(), "capped": false}), "{query}");
    }
    assert_eq!(site.get("/api/v1/jobs:count").await.1, json!({"count": 2, "capped": false}));

    let (_, first) = site.get("/api/v1/jobs?q=order-42").await;
    assert_eq!((ids(&first), &first["scanned"]), (vec![json!(waiting)], &json!(1)), "an id is found at once");
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, rest) = site.get(&format!("/api/v1/jobs?q=order-42&cursor={cursor}")).await;
    assert_eq!((ids(&rest), &rest["next_cursor"]), (vec![], &Value::Null), "and once only");
    for wrong in ["outcome=well", "exit_code=256", "signal=WHAT", "signal=99", "longer_than_ms=-1", "cursor=rest"] {
        assert_eq!(site.get(&format!("/api/v1/jobs?{wrong}")).await.0, 400, "{wrong}");
    }
    drop(claims);
    site.end().await;
}

#[tokio::test]
async fn what_happens_is_counted_once_by_the_minute_and_shown_in_the_overview() {
    let site = Site::start().await;
    let mut claims = site.claims().await;
    site.fails(&mut claims, 1).await;
    let oldest = site.submit(json!({"name": "echo", "delay_ms": 0})).await;
    // A writer that got no answer writes once more.
    let lease = site.lease(&mut claims).await;
    site.started(&lease).await;
    site.started(&lease).await;
    site.finished(lease, 0, "", true).await;
    drop(claims);
    let waiting = site.submit(json!({"name": "echo"})).await;
    let expected = json!({"submitted": 3, "started": 2, "completed": 1, "failed": 1, "attempts_failed": 1});
    let sum = |report: &Value| {
        let mut sums = json!({"submitted": 0, "started": 0, "completed": 0, "failed": 0, "attempts_failed": 0});
        for item in report["items"].as_array().unwrap() {
            for (kind, sum) in sums.as_object_mut().unwrap() {
                *sum = json!(sum.as_u64().unwrap() + item[kind].as_u64().unwrap());
            }
        }
        sums
    };
    let path = "/api/v1/stats/throughput?minutes=5";
    let report = site.until(path, |report| sum(report)["submitted"] == 3 && sum(report)["completed"] == 1).await;
    assert_eq!((sum(&report), report["items"].as_array().unwrap().len()), (expected, 5), "{oldest}: {report}");
    let csv = site.http.get(format!("{}{path}&format=csv", site.base)).send().await.unwrap().text().await.unwrap();
    assert!(csv.starts_with("at,submitted,started,completed,failed,attempts_failed\r\n"), "{csv}");
    assert_eq!(site.get("/api/v1/stats/throughput?minutes=1441").await.0, 400);

    let overview = site.until("/api/v1/overview", |overview| overview["history"]["caught_up"] == true).await;
    assert_eq!(overview["queue"]["waiting"], 1, "{overview}");
    assert_eq!(overview["oldest_waiting"]["id"], json!(waiting));
    assert_eq!((&overview["rates"]["submitted"], &overview["rates"]["window_s"]), (&json!(3), &json!(60)));
    assert_eq!((&overview["history"]["lag_ms"], &overview["history"]["parked"]), (&json!(0), &json!(0)));
    assert_eq!(overview["components"]["store"], json!({"status": "ok"}));
    assert_eq!(overview["workers"]["total"], 0);
    site.end().await;
}

/// The next event of a stream.
async fn next<E: std::fmt::Debug>(stream: &mut BoxStream<'static, Result<axum::body::Bytes, E>>) -> String {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let piece = timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
        text += std::str::from_utf8(&piece).unwrap();
    }
    text
}

#[tokio::test]
async fn the_overview_is_one_stream_for_all() {
    let site = Site::start().await;
    let open = async || {
        let request = site.http.get(format!("{}/api/v1/overview", site.base)).header("accept", "text/event-stream");
        request.send().await.unwrap().bytes_stream().boxed()
    };
    let (mut one, mut other) = (open().await, open().await);
    let begun = std::time::Instant::now();
    let (mut seen, mut seen_by_other) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        seen.push(next(&mut one).await);
        seen_by_other.push(next(&mut other).await);
    }
    assert!(seen[0].starts_with("event: overview\ndata: {\"at\":"), "{}", seen[0]);
    assert!(seen.iter().any(|text| seen_by_other.contains(text)), "both get the same snapshots");
    assert!(begun.elapsed() >= Duration::from_millis(500), "no more than one a second");
    drop((one, other));
    site.end().await;
}

#[tokio::test]
async fn a_trend_has_every_day() {
    let site = Site::start().await;
    let mut claims = site.claims().await;
    site.fails(&mut claims, 1).await;
    let path = "/api/v1/failures?trend=3";
    let report = site.until(path, |report| report["items"][0]["count"] == 1).await;
    let today = site.clock.now().day().to_string();
    let trend = &report["items"][0]["trend"];
    assert_eq!(trend.as_array().unwrap().len(), 3, "{report}");
    assert_eq!((&trend[0]["count"], &trend[2]), (&json!(0), &json!({"day": today, "count": 1})));
    let (_, categories) = site.get("/api/v1/stats/categories?trend=3").await;
    assert_eq!(&categories["items"][0]["trend"], trend, "{categories}");
    let (_, categories) = site.get("/api/v1/stats/categories").await;
    assert_eq!(categories["items"][0]["trend"], json!({today: 1}), "{categories}");
    assert_eq!(site.get("/api/v1/failures?trend=91").await.0, 400);
    drop(claims);
    site.end().await;
}
