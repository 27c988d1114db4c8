//! What the statistics say of small histories that real jobs have made.

use serde_json::{Value, json};

use crate::harness::{Jobber, eventually};

/// Runs a job to its end.
async fn ended(j: &Jobber, body: Value) -> Value {
    let id = j.submit(body).await;
    j.wait_final(&id).await
}

/// `GET /api/v1/stats/attempts` of one name, once so many of its jobs are counted.
async fn attempts(j: &Jobber, name: &str, jobs: i64) -> Value {
    eventually("the jobs to be counted", async || {
        let (_, report) = j.get(&format!("/api/v1/stats/attempts?attempts=2&name={name}")).await;
        (report["items"][0]["completed_within"]["n"] == jobs).then_some(report)
    })
    .await
}

#[tokio::test]
async fn a_hopeless_end_stays_one_on_the_last_attempt_and_after_the_job_was_put_back() {
    let j = Jobber::dev().start().await;
    j.job("picky", "#!/bin/sh\n[ \"$1\" = good ] || exit 65\n");
    let submit =
        |argument: &str| json!({"name": "picky", "arguments": [argument], "attempts": 1, "no_retry_exit_codes": [65]});
    for _ in 0..5 {
        assert_eq!(ended(&j, submit("good")).await["state"], "completed");
    }
    let mut bad = Vec::new();
    for _ in 0..5 {
        let view = ended(&j, submit("bad")).await;
        assert_eq!((&view["state"], &view["attempts"][0]["report"]["no_retry"]), (&json!("failed"), &json!(true)));
        bad.push(view["id"].as_str().unwrap().to_owned());
    }
    let before = attempts(&j, "picky", 10).await;
    let first = &before["items"][0];
    assert_eq!(
        (before["items"].as_array().unwrap().len(), &first["completes"]["chance"]),
        (1, &json!(0.5)),
        "{before}"
    );
    assert!(before["worth"]["answer"].as_str().unwrap().starts_with("unknown"), "{before}");

    // Somebody mends the program and puts the jobs back.
    j.job("picky", "#!/bin/sh\n");
    for id in &bad {
        let (status, answer) = j.post(&format!("/api/v1/jobs/{id}:retry"), json!({})).await;
        assert_eq!(status, 202, "{answer}");
        assert_eq!(j.wait_final(id).await["state"], "completed");
    }
    eventually("all to be counted as completed by the original's numbers", async || {
        let (_, stats) = j.get("/stats").await;
        let lines = stats["jobStats"]["perAttemptsStats"].as_array().unwrap().clone();
        lines.last().is_some_and(|line| line["completedJobsUpTo"] == 10).then_some(())
    })
    .await;
    assert_eq!(attempts(&j, "picky", 10).await, before, "what came after the mending says nothing of retries");
}

#[tokio::test]
async fn an_attempt_tells_what_ran_when_it_was_started() {
    let j = Jobber::dev().arg("--cores").arg("2").start().await;
    j.job("gate", "#!/bin/sh\ntouch \"$1.up\"\nwhile [ ! -e \"$1\" ]; do sleep 0.02; done\n");
    let gates: Vec<_> = (0..2).map(|i| j.place().path().join(format!("gate-{i}"))).collect();
    let mut ids = Vec::new();
    for gate in &gates {
        ids.push(j.submit(json!({"name": "gate", "arguments": [gate]})).await);
        eventually("it to run", async || gate.with_extension("up").exists().then_some(())).await;
    }
    gates.iter().for_each(|gate| std::fs::write(gate, "").unwrap());
    for (id, at_start) in ids.iter().zip([0, 1]) {
        let view = j.wait_final(id).await;
        let report = &view["attempts"][0]["report"];
        assert_eq!((&report["beside_at_start"], &report["peak_beside"]), (&json!(at_start), &json!(1)), "{view}");
    }
    eventually("both to be counted", async || {
        let (_, report) = j.get("/api/v1/stats/concurrency").await;
        (report["alone"]["n"] == 1 && report["beside"]["n"] == 1 && report["left_out"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_until_within_a_day_is_refused_by_statistics() {
    let j = Jobber::serve().start().await;
    for what in ["stats/attempts", "stats/concurrency", "stats/categories", "stats/cost", "stats/durations", "failures"]
    {
        let (status, problem) = j.get(&format!("/api/v1/{what}?until=2026-11-24T12:00:00Z")).await;
        assert_eq!(status, 400, "{what}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains("give a day such as 2026-11-24"), "{problem}");
        for until in ["2026-11-24", "2026-11-24T00:00:00Z", "2026-11-24T02:00:00%2B02:00"] {
            assert_eq!(j.get(&format!("/api/v1/{what}?until={until}")).await.0, 200, "{what} {until}");
        }
    }
    let out = j.cli(&["stats", "durations", "--until", "2026-11-24T12:00:00Z"]).await;
    assert!(out.code != 0 && out.stderr.contains("lies within a day"), "{out:?}");
    for until in ["2026-11-24", "3h", "7d"] {
        assert_eq!(j.cli(&["stats", "durations", "--until", until]).await.code, 0, "{until}");
    }
}
