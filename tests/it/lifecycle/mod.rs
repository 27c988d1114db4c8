//! Starting, stopping, restarting: what a process does with what it holds.

mod lifetime;
mod notify;
mod storage;

use serde_json::json;

use crate::harness::{Jobber, Place, eventually, run};

#[tokio::test]
async fn serve_and_several_workers_share_a_queue() {
    let place = Place::new();
    place.job("who", "#!/bin/sh\nsleep 0.2\necho $JOBBER_WORKER\n");
    let serve = Jobber::serve().at(&place).start().await;
    let _a = Jobber::work().at(&place).arg("--cores").arg("1").start().await;
    let _b = Jobber::work().at(&place).arg("--cores").arg("1").start().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(serve.submit(json!({"name": "who"})).await);
    }
    let mut workers = std::collections::BTreeSet::new();
    for id in ids {
        workers.insert(serve.wait_final(&id).await["result"].as_str().unwrap().to_owned());
    }
    assert_eq!(workers.len(), 2);
    let (_, listed) = serve.get("/api/v1/workers").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
}

#[tokio::test]
async fn history_is_there_after_a_restart() {
    let place = Place::new();
    place.job("hello", "#!/bin/sh\necho hello $1\n");
    let mut first = Jobber::dev().at(&place).start().await;
    let id = first.submit(json!({"name": "hello", "arguments": ["world"]})).await;
    let before = first.wait_final(&id).await;
    assert_eq!(first.stop().await, 0, "{}", first.log());
    let second = Jobber::dev().at(&place).start().await;
    let (_, after) = second.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!(before, after);
    assert_eq!(after["result"], "hello world");
}

#[tokio::test]
async fn a_draining_worker_lets_its_jobs_finish() {
    let place = Place::new();
    place.job("slow", "#!/bin/sh\ntouch $0.started\nsleep 1\necho done\n");
    let serve = Jobber::serve().at(&place).start().await;
    let mut work = Jobber::work().at(&place).arg("--cores").arg("1").start().await;
    let running = serve.submit(json!({"name": "slow"})).await;
    let waiting = serve.submit(json!({"name": "slow"})).await;
    serve.wait_state(&running, "active").await;
    eventually("its process", async || place.jobs_dir().join("slow.started").exists().then_some(())).await;
    assert_eq!(work.stop().await, 0, "{}", work.log());
    let view = serve.wait_final(&running).await;
    assert_eq!((&view["state"], &view["result"]), (&json!("completed"), &json!("done")));
    let (_, view) = serve.get(&format!("/api/v1/jobs/{waiting}")).await;
    assert_eq!(view["state"], "waiting", "{view}");
}

#[tokio::test]
async fn past_the_drain_deadline_jobs_are_given_back_without_spending_an_attempt() {
    let place = Place::new();
    place.job("long", "#!/bin/sh\n[ $JOBBER_ATTEMPT -gt 1 ] && { echo second; exit 0; }\nsleep 100\n");
    let serve = Jobber::serve().at(&place).start().await;
    let mut work = Jobber::work().at(&place).arg("--drain-timeout").arg("200ms").start().await;
    // With a single attempt to spend, a second start is possible only if the first one cost nothing.
    let id = serve.submit(json!({"name": "long", "attempts": 1})).await;
    eventually("its first attempt", async || {
        let (_, view) = serve.get(&format!("/api/v1/jobs/{id}")).await;
        (!view["attempts"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    assert_eq!(work.stop().await, 0, "{}", work.log());
    let _second = Jobber::work().at(&place).start().await;
    let view = serve.wait_final(&id).await;
    assert_eq!((&view["state"], &view["result"]), (&json!("completed"), &json!("second")), "{view}");
    assert_eq!(view["attempts"][0]["report"]["outcome"]["kind"], "lost", "{view}");
}

#[tokio::test]
async fn a_port_that_is_taken_and_an_open_address_are_clear_errors() {
    let j = Jobber::dev().start().await;
    let listen = j.base().trim_start_matches("http://").to_owned();
    let data = j.place().path().join("other");
    let data = data.to_str().unwrap();
    let out = run(&["serve", "--listen", &listen, "--data-dir", data], &[], j.place().path(), "").await;
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains(&listen) && out.stderr.contains("in use"), "{}", out.stderr);
    let out = run(&["serve", "--listen", "0.0.0.0:0", "--data-dir", data], &[], j.place().path(), "").await;
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("token"), "{}", out.stderr);
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_its_place() {
    let place = Place::new();
    std::fs::write(place.path().join("jobber.toml"), "[worker]\ncores_per_proces = 1\n").unwrap();
    let out = run(&["work"], &[], place.path(), "").await;
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("jobber.toml") && out.stderr.contains("did you mean"), "{}", out.stderr);
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_a_clear_error() {
    let place = Place::new();
    std::fs::write(place.path().join("file"), "").unwrap();
    let out = run(&["work", "--data-dir", "file/data"], &[], place.path(), "").await;
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("file/data"), "{}", out.stderr);
}

#[tokio::test]
async fn the_default_jobs_directory_serves_every_attempt() {
    let j = Jobber::dev().with_default_jobs_dir().arg("--cores").arg("1").start().await;
    j.job("quick", "#!/bin/sh\necho ok\n");
    for _ in 0..3 {
        let id = j.submit(json!({"name": "quick", "attempts": 1})).await;
        let view = j.wait_final(&id).await;
        assert_eq!((&view["state"], &view["result"]), (&json!("completed"), &json!("ok")), "{view}");
    }
}
