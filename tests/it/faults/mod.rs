//! Processes killed at the worst moments: nothing is lost, nothing is shown twice.

mod ahead;
mod embedder;
pub(crate) mod fleet;
mod locks;
mod outage;
mod placing;
mod queues;
mod redis;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jobber::domain::{Entry, Event, EventKind};
use jobber::events::embedded::EmbeddedLog;
use jobber::events::{Cursor, EventSource};
use jobber::sqlite::{Durability, Sqlite};
use serde_json::{Value, json};

use crate::harness::{Jobber, Place, eventually};

/// Every attempt of a job once, numbered without holes, every one with its report.
pub(crate) fn check_attempts(view: &Value) {
    let attempts = view["attempts"].as_array().unwrap();
    let numbers: Vec<_> = attempts.iter().map(|a| a["number"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=attempts.len() as u64), "{view}");
    assert!(attempts.iter().all(|a| a["report"].is_object()), "an ended job has no open attempt: {view}");
}

#[tokio::test]
async fn a_hundred_jobs_survive_workers_that_are_killed_every_second() {
    let place = Place::new();
    // Each finished run leaves a line: what the job itself says of how often it ended.
    place.job("count", "#!/bin/sh\nsleep 0.2\necho $JOBBER_JOB_ID $JOBBER_ATTEMPT >> \"$1\"\necho ok\n");
    let ends = place.path().join("ends");
    let serve = Jobber::serve().at(&place).start().await;
    let jobs: Vec<_> = (0..100).map(|_| json!({"name": "count", "arguments": [ends]})).collect();
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
    assert_eq!(status, 202, "{answer}");
    let ids: Vec<String> =
        answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap().to_owned()).collect();
    let mut kills = 0;
    loop {
        let mut work = Jobber::work().at(&place).arg("--cores").arg("4").start().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        work.kill().await;
        kills += 1;
        let (_, counts) = serve.get("/api/v1/queue").await;
        let left: u64 = ["waiting", "delayed", "prioritized"].iter().map(|s| counts[s].as_u64().unwrap()).sum();
        if left == 0 || kills > 40 {
            break;
        }
    }
    assert!(kills >= 3, "the workers were too fast for this test to say anything");
    let _last = Jobber::work().at(&place).start().await;
    for id in &ids {
        let view = serve.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{view}");
        check_attempts(&view);
    }
    let (_, list) = serve.get("/api/v1/jobs?limit=200").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn a_job_that_kills_its_worker_does_not_loop() {
    let place = Place::new();
    place.job("murder", "#!/bin/sh\nkill -9 $PPID\nsleep 100\n");
    let serve = Jobber::serve().at(&place).start().await;
    let id = serve.submit(json!({"name": "murder", "attempts": 1})).await;
    let view = loop {
        let mut work = Jobber::work().at(&place).env("JOBBER_CRASH_LIMIT", "2").start().await;
        let ended = tokio::select! {
            view = serve.wait_final(&id) => Some(view),
            _ = work.ended() => None,
        };
        if let Some(view) = ended {
            break view;
        }
    };
    assert_eq!((&view["state"], &view["outcome"]["kind"]), (&json!("failed"), &json!("lost")), "{view}");
    assert_eq!(view["attempts"].as_array().unwrap().len(), 3, "the limit of 2 and the one past it: {view}");
    check_attempts(&view);
}

#[tokio::test]
async fn children_of_a_killed_worker_die_with_it() {
    let place = Place::new();
    place.job("long", "#!/bin/sh\nsleep 1000 & setsid sleep 1000 & echo $$ > \"$1\"; wait\n");
    let serve = Jobber::serve().at(&place).start().await;
    let mut work = Jobber::work().at(&place).start().await;
    let file = place.path().join("pid");
    let id = serve.submit(json!({"name": "long", "arguments": [file]})).await;
    eventually("its process", async || std::fs::read_to_string(&file).ok().filter(|t| t.ends_with('\n'))).await;
    work.kill().await;
    eventually("its children to die", async || {
        place.leftovers().iter().all(|p| !p.contains("sleep 1000")).then_some(())
    })
    .await;
    let (status, _) = serve.post(&format!("/api/v1/jobs/{id}:cancel"), json!({})).await;
    assert_eq!(status, 202);
    let _second = Jobber::work().at(&place).start().await;
    let view = serve.wait_final(&id).await;
    assert_eq!(view["outcome"]["kind"], "cancelled", "{view}");
}

#[tokio::test]
async fn a_killed_server_forgets_nothing_that_it_accepted() {
    let place = Place::new();
    place.job("quick", "#!/bin/sh\necho ok\n");
    let mut accepted = Vec::new();
    for round in 0..5 {
        let mut serve = Jobber::serve().at(&place).start().await;
        let work = (round % 2 == 1).then_some(Jobber::work().at(&place));
        let _work = match work {
            Some(work) => Some(work.start().await),
            None => None,
        };
        for _ in 0..20 {
            accepted.push(serve.submit(json!({"name": "quick"})).await);
        }
        serve.kill().await;
    }
    let j = Jobber::dev().at(&place).start().await;
    for id in &accepted {
        let view = j.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{view}");
        check_attempts(&view);
    }
    let (_, stats) = j.get("/jobs").await;
    assert_eq!(stats["jobs"][0]["completedCount"], 100, "{stats}");
}

/// The events of jobs in the log of a data directory that no server uses.
async fn events_of(db: Sqlite, place: &Place) -> Vec<Event> {
    let log = EmbeddedLog::open(db, &place.data_dir(), 1_000_000).await.unwrap();
    let mut events = Vec::new();
    let mut last = Cursor::START;
    loop {
        let entries = log.read(last, 10_000, Duration::ZERO).await.unwrap();
        let Some((end, _)) = entries.last() else { return events };
        last = *end;
        events.extend(entries.into_iter().map(|(_, entry)| match entry {
            Entry::Job(event) => event,
            Entry::Categories(change) => panic!("nobody changes categories: {change:?}"),
        }));
    }
}

/// With the embedded queue the end of an attempt is written to the log and to the queue in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn no_job_whose_end_was_told_runs_once_more_whenever_its_worker_is_killed() {
    const JOBS: usize = 150;
    let place = Place::new();
    place.job("quick", "#!/bin/sh\n");
    for round in 0..6 {
        let mut dev = Jobber::dev().at(&place).start().await;
        let jobs = vec![json!({"name": "quick"}); JOBS];
        let (status, answer) = dev.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
        assert_eq!(status, 202, "{answer}");
        let before = dev.get("/api/v1/queue").await.1["completed"].as_u64().unwrap();
        let more = async || (dev.get("/api/v1/queue").await.1["completed"].as_u64()? > before).then_some(());
        eventually("some ends", more).await;
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        dev.kill().await;
    }
    let mut dev = Jobber::dev().at(&place).start().await;
    let all = async || (dev.get("/api/v1/queue").await.1["completed"] == 6 * JOBS).then_some(());
    eventually("the end of all", all).await;
    assert_eq!(dev.stop().await, 0);
    let db = Sqlite::open(&place.data_dir().join("jobber.db"), Durability::Process).unwrap();
    let mut ends = BTreeMap::<String, usize>::new();
    for event in events_of(db, &place).await {
        if matches!(event.kind, EventKind::AttemptFinished { .. }) {
            *ends.entry(event.job.id.to_string()).or_default() += 1;
        }
    }
    assert_eq!(ends.len(), 6 * JOBS);
    ends.retain(|_, count| *count > 1);
    assert!(ends.is_empty(), "{} of {} jobs ended more than once: {ends:?}", ends.len(), 6 * JOBS);
}

/// With the embedded queue a job and the event of its submission are written in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_in_the_queue_and_its_submission_in_the_log_or_neither_whenever_its_server_is_killed() {
    const CLIENTS: usize = 16;
    let place = Place::new();
    place.job("quick", "#!/bin/sh\n");
    let mut accepted = BTreeSet::new();
    for round in 0..6 {
        let mut serve = Jobber::serve().at(&place).start().await;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (http, url) = (serve.http(), serve.url("/api/v1/jobs"));
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    // Until the server is killed.
                    while let Ok(answer) = http.post(&url).json(&json!({"name": "quick"})).send().await
                        && let Ok(answer) = answer.json::<Value>().await
                    {
                        ids.push(answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned());
                    }
                    ids
                })
            })
            .collect();
        eventually("some jobs", async || (serve.get("/api/v1/queue").await.1["waiting"].as_u64()? > 0).then_some(()))
            .await;
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        serve.kill().await;
        for client in clients {
            accepted.extend(client.await.unwrap());
        }
        let db = Sqlite::open(&place.data_dir().join("jobber.db"), Durability::Process).unwrap();
        let queued = db
            .read(|c| c.prepare("SELECT id FROM queue_jobs ORDER BY seq")?.query_map([], |row| row.get(0))?.collect());
        let queued: Vec<String> = queued.await.unwrap();
        let announced = events_of(db, &place).await.into_iter().map(|event| {
            assert_eq!(event.kind, EventKind::Submitted, "nothing else happens");
            event.job.id.to_string()
        });
        let announced: Vec<String> = announced.collect();
        assert_eq!(announced, queued, "the order of the log is that of the queue");
        assert!(accepted.iter().all(|id| queued.contains(id)), "what was accepted is there");
    }
    assert!(accepted.len() > CLIENTS, "{}", accepted.len());
}
