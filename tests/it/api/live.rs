//! What is live: output, waiting, the end of the server.

use serde_json::{Value, json};

use crate::harness::{Jobber, PATIENCE};

/// The events of a stream that ends by itself: name and data.
async fn stream(j: &Jobber, path: &str) -> Vec<(String, Value)> {
    let request = j.http().get(j.url(path)).send();
    let text = tokio::time::timeout(PATIENCE, async { request.await.unwrap().text().await.unwrap() }).await.unwrap();
    let field = |block: &str, name: &str| {
        block.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
    blocks.map(|b| (field(b, "event:"), serde_json::from_str(&field(b, "data:")).unwrap())).collect()
}

fn text_of(events: &[(String, Value)], attempt: u64) -> String {
    let output = events.iter().filter(|(name, data)| name == "output" && data["attempt"] == attempt);
    output.filter_map(|(_, data)| data["text"].as_str()).collect()
}

#[tokio::test]
async fn every_line_of_every_attempt_comes_through_once() {
    let j = Jobber::dev().start().await;
    let script = "#!/bin/sh\ni=0\nwhile [ $i -lt 300 ]; do echo line $i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.2; done\n\
                  echo '::progress 100 done'\n[ \"$JOBBER_ATTEMPT\" = 2 ]\n";
    j.job("talker", script);
    let job = json!({"name": "talker", "attempts": 2, "backoff": {"type": "fixed", "delay_ms": 10}});
    let id = j.submit(job).await;
    let path = format!("/api/v1/jobs/{id}/logs");
    let (early, second) = tokio::join!(stream(&j, &path), stream(&j, &path));
    let late = stream(&j, &path).await;
    let so_far = stream(&j, &format!("{path}?follow=false")).await;
    let all: String = (0..300).map(|i| format!("line {i}\n")).collect();
    for events in [&early, &second, &late, &so_far] {
        assert_eq!(text_of(events, 1), all);
        assert_eq!(text_of(events, 2), all);
        assert_eq!(events.last().unwrap(), &("state".to_owned(), json!({"type": "state", "state": "completed"})));
    }
    assert!(early.iter().any(|(name, data)| name == "progress" && data["percent"] == 100.0), "{early:?}");
}

#[tokio::test]
async fn who_waits_is_answered_when_the_job_has_ended_and_not_before() {
    let j = Jobber::dev().start().await;
    let gate = j.place().path().join("gate");
    j.job("gated", &format!("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done\necho through\n", gate.display()));
    let id = j.submit(json!({"name": "gated"})).await;
    let (_, early) = j.get(&format!("/api/v1/jobs/{id}?wait=1")).await;
    assert!(matches!(early["state"].as_str(), Some("waiting" | "active")), "{early}");
    let response = j.http().get(j.url(&format!("/api/v1/jobs/{id}"))).header("prefer", "wait=60").send();
    let (response, ()) = tokio::join!(response, async { std::fs::write(&gate, "").unwrap() });
    let response = response.unwrap();
    assert_eq!(response.headers()["preference-applied"], "wait=60");
    let view: Value = response.json().await.unwrap();
    assert_eq!((&view["state"], &view["result"]), (&json!("completed"), &json!("through")), "{view}");
    assert_eq!(view["attempts"][0]["report"]["outcome"], json!({"kind": "exit", "code": 0}));
}

#[tokio::test]
async fn a_server_that_stops_answers_who_waits_and_ends_streams() {
    let mut j = Jobber::serve().start().await;
    j.job("plain", "#!/bin/sh\n");
    // Nobody works here, so it stays.
    let id = j.submit(json!({"name": "plain"})).await;
    let (_, why) = j.get(&format!("/api/v1/jobs/{id}/explain")).await;
    assert!(why["reasons"][0].as_str().unwrap().contains("no worker"), "{why}");
    let mut events = j.http().get(j.url("/api/v1/events?after=0-0")).send().await.unwrap();
    let first = tokio::time::timeout(PATIENCE, events.chunk()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("submitted"));
    let mut logs = j.http().get(j.url(&format!("/api/v1/jobs/{id}/logs"))).send().await.unwrap();
    assert!(logs.chunk().await.unwrap().is_some());
    assert_eq!(j.stop().await, 0, "{}", j.log());
    tokio::time::timeout(PATIENCE, async {
        while let Ok(Some(_)) = logs.chunk().await {}
        while let Ok(Some(_)) = events.chunk().await {}
    })
    .await
    .unwrap();
}
