//! What requests cost in memory.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Jobber, PATIENCE, Place, eventually};

/// A figure of `/proc/PID/status`, in MiB.
fn figure(j: &Jobber, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", j.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_bounded_together_and_their_memory_is_given_back() {
    let j = Jobber::serve().start().await;
    j.job("plain", "#!/bin/sh\n");
    let before = figure(&j, "VmRSS");
    let objects = vec![r#"{"a":0}"#; 1_000_000].join(",");
    let body = format!(r#"{{"name":"plain","data":[{objects}]}}"#);
    let send = || {
        let request = j.http().post(j.url("/api/v1/jobs")).header("content-type", "application/json");
        let request = request.body(body.clone()).send();
        async {
            let answer = request.await.unwrap();
            if answer.status() == 503 {
                assert_eq!(answer.headers()["retry-after"], "1");
                assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["code"], "too_much_at_once");
                return false;
            }
            assert_eq!(answer.status(), 202);
            true
        }
    };
    let (a, b, c, d, e, f) = tokio::join!(send(), send(), send(), send(), send(), send());
    let taken = [a, b, c, d, e, f].into_iter().filter(|taken| *taken).count();
    assert!((1..6).contains(&taken), "{taken} of 6 at once");
    assert_eq!(j.post("/api/v1/jobs", json!({"name": "plain"})).await.0, 202, "small ones have their own room");
    // Six trees would be some six gigabytes.
    let most = figure(&j, "VmHWM");
    assert!(most < 3500, "{most} MiB at most");
    // The projector makes a tree of each, too: some gigabytes one after the other, beside all other tests.
    let caught_up = async {
        while j.get("/readyz").await.1["history"]["caught_up"] != true {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(5 * PATIENCE, caught_up).await.expect("history catches up");
    eventually("the memory", async || (figure(&j, "VmRSS") < before + 300).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_takes_no_more_memory_than_a_part_of_it() {
    const JOBS: u64 = 30_000;
    let j = Jobber::serve().start().await;
    j.job("plain", "#!/bin/sh\n");
    let data = "x".repeat(2000);
    let submit = async |array: String| {
        let (status, answer) = j.post("/api/v1/jobs", json!({"name": "plain", "array": array, "data": data})).await;
        assert_eq!(status, 202, "{answer}");
        answer["array"]["group"].as_str().unwrap().to_owned()
    };
    submit("0-1999".to_owned()).await;
    let before = figure(&j, "VmHWM");
    let group = submit(format!("0-{}", JOBS - 1)).await;
    // 60 MB of data alone, if all were held at once.
    let grown = figure(&j, "VmHWM") - before;
    assert!(grown < 40, "{grown} MiB for {JOBS} jobs");
    let results = async {
        let text = j.http().get(j.url(&format!("/api/v1/groups/{group}/results"))).send().await.unwrap();
        text.text().await.unwrap().lines().count() as u64
    };
    let whole = eventually("history to know them all", async || {
        let (_, view) = j.get(&format!("/api/v1/groups/{group}")).await;
        (view["total"] == JOBS && view["behind"] == false).then_some(())
    });
    whole.await;
    assert_eq!(results.await, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_follow_a_large_job_hold_none_of_it() {
    const FOLLOWERS: usize = 20;
    let place = Place::new();
    place.job("slow", "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done\n");
    let j = Jobber::serve().at(&place).start().await;
    // As a tree it is some 120 times as large as its text.
    let objects = vec![r#"{"a":0}"#; 250_000].join(",");
    let body = format!(r#"{{"name":"slow","data":[{objects}]}}"#);
    let (status, answer) = j.post_raw("/api/v1/jobs", "application/json", body).await;
    assert_eq!(status, 202, "{answer}");
    let id = answer["id"].as_str().unwrap().to_owned();
    // The next start forgets what the submission took.
    drop(j);
    let j = Jobber::serve().at(&place).start().await;
    let before = figure(&j, "VmHWM");
    let follow = |path: String| {
        let request = j.http().get(j.url(&path)).send();
        async move { assert!(request.await.unwrap().bytes().await.unwrap().len() > 10) }
    };
    let followers: Vec<_> = (0..FOLLOWERS).map(|_| follow(format!("/api/v1/jobs/{id}/logs"))).collect();
    let logs = futures_util::future::join_all(followers);
    let work = Jobber::work().at(&place).start();
    let (_work, _) = tokio::join!(work, logs);
    let most = figure(&j, "VmHWM");
    // One tree is some 250 MiB. The projector makes one for each event that it folds; the followers make none.
    assert!(most < before + 1000, "{most} MiB at most, {before} MiB before");
    let view = j.wait_final(&id).await;
    assert_eq!(view["state"], "completed");
}
