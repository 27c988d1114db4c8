//! Tests the API as a client sees it: on a real socket, over the embedded adapters. The tests play the worker.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Api, ApiPorts, ApiSettings, BinaryProblem};
use crate::domain::{
    AttemptReport, Clock, Entry, Event, EventKind, FinalState, JobId, JobOptions, NewJob, Outcome, Stream, Tail,
    Verdict, WorkerId,
};
use crate::events::embedded::EmbeddedLog;
use crate::events::{Cursor, EventSink, EventSource};
use crate::projector::{self, ProjectorSettings};
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::{ClaimOptions, Claims, JobSource, Lease, OutputChunk, Queue, QueueSettings};
use crate::sqlite::{Durability, Sqlite};
use crate::store::{History, embedded::EmbeddedStore};

mod arrays;
mod bulk;
mod failures;
mod openapi;
mod overview;
mod queues;
mod resolve;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, with the ports behind it.
struct Site {
    store: Arc<EmbeddedStore>,
    base: String,
    http: reqwest::Client,
    queue: Arc<EmbeddedQueue>,
    log: Arc<EmbeddedLog>,
    clock: Clock,
    stop: CancellationToken,
    stop_projector: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    tasks: TaskTracker,
    dir: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        Self::with(|_| {}, 100_000).await
    }

    async fn with(change: impl FnOnce(&mut ApiSettings), log_cap: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, tasks) = (Clock::system(), TaskTracker::new());
        let db = Sqlite::open(&dir.path().join("jobber.db"), Durability::Process).unwrap();
        let settings = QueueSettings::default();
        let log = EmbeddedLog::open(db.clone(), dir.path(), log_cap).await.unwrap();
        let (same_file, times, spawner) = (Some(log.clone() as Arc<_>), clock.clone(), tasks.clone());
        let queue = EmbeddedQueue::open(db.clone(), dir.path(), settings, same_file, times, spawner).await.unwrap();
        let store = EmbeddedStore::open(db).await.unwrap();
        let stop_projector = CancellationToken::new();
        tasks.spawn(projector::run(
            log.clone(),
            store.clone(),
            ProjectorSettings::new("test"),
            clock.clone(),
            stop_projector.clone(),
            projector::ProjectorOutputs {
                progress: tokio::sync::watch::Sender::new(crate::events::Cursor::START),
                error_feed: projector::new_error_feed().0,
                missing_bodies: projector::new_missing_bodies().0,
                announcer: None,
            },
        ));
        let check = |name: &crate::domain::JobName| match name.as_str() {
            "missing" => Err(BinaryProblem { exists: false, detail: "there is no such binary".to_owned() }),
            "folder" => Err(BinaryProblem { exists: true, detail: "it is a directory".to_owned() }),
            _ => Ok(()),
        };
        let mut settings = ApiSettings { check_binary: Some(Arc::new(check)), ..ApiSettings::default() };
        change(&mut settings);
        let ports = ApiPorts {
            queue: queue.clone(),
            operator: queue.clone(),
            scheduler: queue.clone(),
            sink: log.clone(),
            source: log.clone(),
            history: store.clone(),
        };
        let api = Api::new(ports, clock.clone(), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let served = tasks.spawn(super::serve(listener, api, stop.clone(), Duration::from_secs(20)));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { store, base, http, queue, log, clock, stop, stop_projector, served, tasks, dir }
    }

    /// Stops the server, which must end by itself.
    async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.served).await.expect("the server ends").unwrap().unwrap();
        self.stop_projector.cancel();
        drop((self.queue, self.log));
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await.expect("nothing is left running");
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = timeout(PATIENCE, request.send()).await.unwrap().unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.answer(self.http.get(format!("{}{path}", self.base))).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.answer(self.http.post(format!("{}{path}", self.base)).json(&body)).await
    }

    async fn post_text(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        self.answer(request.body(body)).await
    }

    async fn submit(&self, body: Value) -> String {
        let (status, answer) = self.post("/api/v1/jobs", body).await;
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The events of a stream until it ends: name and data.
    async fn stream(&self, path: &str) -> Vec<(String, Value)> {
        let request = self.http.get(format!("{}{path}", self.base));
        let text = timeout(PATIENCE, async { request.send().await.unwrap().text().await.unwrap() }).await.unwrap();
        let field = |block: &str, name: &str| {
            block.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        let blocks = text.split("\n\n").filter(|b| b.contains("data:"));
        blocks.map(|b| (field(b, "event:"), serde_json::from_str(&field(b, "data:")).unwrap())).collect()
    }

    async fn claims(&self) -> Claims {
        let worker = WorkerId::parse("tester").unwrap();
        self.queue.claim(ClaimOptions::new(worker, 4, 8)).await.unwrap()
    }

    async fn lease(&self, claims: &mut Claims) -> Lease {
        timeout(PATIENCE, claims.next()).await.unwrap().unwrap()
    }

    async fn append(&self, lease: &Lease, kind: EventKind) {
        let event = Event::new(self.clock.now(), lease.job().clone(), kind);
        self.log.append(&[event]).await.unwrap();
    }

    async fn started(&self, lease: &Lease) {
        let worker = WorkerId::parse("tester").unwrap();
        self.append(
            lease,
            EventKind::AttemptStarted { attempt: lease.attempt(), worker, host: "h".to_owned(), build: None },
        )
        .await;
    }

    /// Records the end of an attempt with this output, and settles its lease.
    async fn finished(&self, lease: Lease, code: i32, stdout: &str, last: bool) {
        let now = self.clock.now();
        let outcome = Outcome::Exit { code };
        let mut report = AttemptReport::bare(outcome, now, now, "why");
        report.stdout = Tail::of(stdout.as_bytes(), stdout.len() as u64);
        let worker = WorkerId::parse("tester").unwrap();
        let attempt = lease.attempt();
        self.append(&lease, EventKind::AttemptFinished { attempt, worker, report: Box::new(report), next_at: None })
            .await;
        let state = if code == 0 { FinalState::Completed } else { FinalState::Failed };
        if last {
            let kind = EventKind::Finished { attempt: Some(attempt), state, outcome, result: None, error: None };
            self.append(&lease, kind).await;
        }
        let error = "why".to_owned();
        lease
            .settle(match (last, state) {
                (false, _) => Verdict::Retry { after: Duration::ZERO, error },
                (true, FinalState::Completed) => Verdict::Complete { result: None },
                (true, FinalState::Failed) => Verdict::Fail { error },
            })
            .await;
    }
}

fn says(lease: &Lease, text: &str) {
    let chunk = OutputChunk { attempt: lease.attempt().0, stream: Stream::Stdout, at: None, bytes: text.into() };
    lease.publisher().output(chunk);
}

/// Counts from the request to the worker's hands and into history. The child's standard input is written from there as
/// it is. Version 0.1.0 asked 53 times on the whole way, and made a tree of the body seven times.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_written_few_times_on_its_way() {
    let site = Site::start().await;
    let text = "x".repeat(crate::counting::SIZE);
    let body = format!("{{\"name\":\"echo\",\"data\":{{\"text\":\"{text}\"}}}}");
    let mut claims = site.claims().await;
    let before = crate::counting::count();
    let (status, answer) = site.post_text("/api/v1/jobs", body).await;
    assert_eq!(status, 202, "{answer}");
    let lease = site.lease(&mut claims).await;
    assert_eq!(lease.body().data_range().map(|data| data.len()), Some(text.len() + "{\"text\":\"\"}".len()));
    site.started(&lease).await;
    let id = lease.job().id.clone();
    timeout(PATIENCE, async {
        while site.store.job_without_result(&id).await.unwrap().is_none_or(|record| !record.has_body) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let asked = crate::counting::count() - before;
    println!("memory for a whole body was asked for {asked} times");
    assert!(asked <= 20, "{asked}");
}

#[tokio::test]
async fn a_job_is_submitted_run_and_waited_for() {
    let site = Site::start().await;
    let id = site.submit(json!({"name": "echo", "arguments": ["a"], "data": {"x": 1}})).await;
    let (_, early) = site.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!((&early["state"], &early["data"]), (&json!("waiting"), &json!({"x": 1})), "{early}");
    let mut claims = site.claims().await;
    let waiting = async { site.get(&format!("/api/v1/jobs/{id}?wait=60")).await };
    let working = async {
        let lease = site.lease(&mut claims).await;
        site.started(&lease).await;
        site.finished(lease, 0, "done", true).await;
    };
    let ((status, view), ()) = tokio::join!(waiting, working);
    assert_eq!(
        (status, &view["state"], &view["outcome"]),
        (200, &json!("completed"), &json!({"kind": "exit", "code": 0})),
        "{view}"
    );
    assert_eq!(view["attempts"][0]["report"]["stdout"]["text"], "done", "{view}");
    let (_, list) = site.get("/api/v1/jobs?state=completed,failed&name=echo&limit=1").await;
    assert_eq!(list["items"][0]["id"], json!(id));
    let (status, groups) = site.get("/jobs").await;
    assert_eq!((status, &groups["jobs"][0]["completedCount"]), (202, &json!(1)), "{groups}");
    assert_eq!(groups["jobs"][0]["allJobIds"], json!([id]));
    let (status, stats) = site.get("/stats").await;
    assert_eq!((status, &stats["jobStats"]["perAttemptsStats"][0]["completedJobsUpTo"]), (202, &json!(1)), "{stats}");
    let (status, ready) = site.get("/readyz").await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")), "{ready}");
    drop(claims);
    site.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_with_its_place() {
    let site = Site::start().await;
    let one = "/api/v1/jobs";
    for (body, status, code, pointer) in [
        ("", 400, "invalid_json", None),
        ("{", 400, "invalid_json", None),
        ("{\"name\":\"a\",}", 400, "invalid_json", None),
        ("{\"name\":\"a\0\"}", 400, "invalid_json", None),
        ("{\"name\":\"a\",\"attempts\":1e999}", 400, "invalid_json", None),
        ("[]", 422, "invalid_body", Some("")),
        ("[\"echo\"]", 422, "invalid_body", Some("")),
        ("{}", 422, "invalid_body", Some("")),
        ("{\"name\":7}", 422, "invalid_body", Some("/name")),
        ("{\"name\":\"a\",\"attempts\":-1}", 422, "invalid_body", Some("/attempts")),
        ("{\"name\":\"a\",\"attempts\":99999999999999999999}", 422, "invalid_body", Some("/attempts")),
        ("{\"name\":\"a\",\"arguments\":[\"x\",7]}", 422, "invalid_body", Some("/arguments/1")),
        ("{\"name\":\"a\",\"bogus\":7}", 422, "invalid_body", Some("/bogus")),
        ("{\"name\":\"a\",\"name\":\"b\"}", 422, "invalid_body", None),
        ("{\"name\":\"../../bin/sh\"}", 422, "invalid_job", Some("/name")),
        ("{\"name\":\"a\",\"id\":\"7\"}", 422, "invalid_job", Some("/id")),
        ("{\"name\":\"a\",\"arguments\":[\"ok\",\"a\\u0000b\"]}", 422, "invalid_job", Some("/arguments/1")),
        ("{\"name\":\"missing\"}", 422, "unknown_binary", Some("/name")),
        ("{\"name\":\"folder\"}", 422, "unusable_binary", Some("/name")),
    ] {
        let (got, answer) = site.post_text(one, body).await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{body}: {answer}");
        if let Some(pointer) = pointer {
            assert_eq!(answer["errors"][0]["pointer"], pointer, "{body}: {answer}");
        }
    }
    let (_, answer) = site.post_text(one, "{}").await;
    assert_eq!(answer["detail"], "missing field `name`");
    let (_, answer) = site.post_text(one, "{\"name\":\"a\",\"attempts\":-1}").await;
    assert_eq!(
        answer["detail"],
        "/attempts: invalid value: integer `-1`, expected a whole number from 0 to 4294967295"
    );
    let deep = format!("{{\"name\":\"a\",\"data\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(site.post_text(one, deep).await.0, 400);
    let (status, answer) = site.post_text(one, vec![b'x'; 10 << 20]).await;
    assert_eq!((status, &answer["code"]), (413, &json!("body_too_large")), "{answer}");
    let untyped = site.http.post(format!("{}{one}", site.base)).body("{}");
    assert_eq!(site.answer(untyped).await.0, 415);
    for path in
        ["/api/v1/jobs?limit=0", "/api/v1/jobs?state=done", "/api/v1/jobs?colour=red", "/api/v1/jobs?cursor=%00"]
    {
        let (status, answer) = site.get(path).await;
        assert_eq!((status, &answer["code"]), (400, &json!("invalid_query")), "{path}");
    }
    let (status, answer) = site.post("/jobs", json!({"name": "../x"})).await;
    assert_eq!(status, 400);
    assert!(answer["message"].is_string() && answer["error"].is_string(), "{answer}");
    assert_eq!(site.get("/nothing").await.1["code"], "not_found");
    let response = site.http.delete(format!("{}/api/v1/queue", site.base)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 405);
    assert!(response.headers()["allow"].to_str().unwrap().contains("GET"));
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(site.get("/api/v1/queue").await.1["waiting"], 0, "nothing was queued");
    site.end().await;
}

#[tokio::test]
async fn many_are_accepted_or_none() {
    let site = Site::start().await;
    let jobs: Vec<_> = (0..10_000).map(|i| json!({"name": "echo", "arguments": [i.to_string()]})).collect();
    let (status, answer) = site.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
    assert_eq!((status, answer["jobs"].as_array().unwrap().len()), (202, 10_000));
    let mut bad = vec![json!({"name": "echo"}); 20];
    bad[17]["name"] = json!("a/b");
    let (status, answer) = site.post("/api/v1/jobs:bulk", json!({"jobs": bad})).await;
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/jobs/17/name")), "{answer}");
    assert_eq!(site.post("/api/v1/jobs:bulk", json!({"jobs": []})).await.0, 422);
    let (status, answer) = site.post("/api/v1/jobs:bulk", json!({"jobs": [{"name": "echo"}, ["echo"]]})).await;
    assert_eq!((status, &answer["errors"][0]["pointer"]), (422, &json!("/jobs/1")), "{answer}");
    assert_eq!(site.get("/api/v1/queue").await.1["waiting"], 10_000);
    site.end().await;
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again() {
    let site = Site::start().await;
    let keyed = |key: &str, body: Value| {
        let request = site.http.post(format!("{}/api/v1/jobs", site.base)).header("idempotency-key", key);
        site.answer(request.json(&body))
    };
    let (_, first) = keyed("k1", json!({"name": "echo"})).await;
    let (status, again) = keyed("\"k1\"", json!({"name": "echo"})).await;
    assert_eq!((status, &again["id"], &again["duplicate"]), (202, &first["id"], &json!(true)));
    let (status, other) = keyed("k1", json!({"name": "other"})).await;
    assert_eq!((status, &other["code"]), (422, &json!("idempotency_key_reused")));
    site.end().await;
}

#[tokio::test]
async fn a_job_is_announced_once_and_by_its_repetition_if_its_own_request_was_cut_off_before() {
    let site = Site::start().await;
    // As an older Jobber left it that was killed behind the queue's commit.
    let db = Sqlite::open(&site.dir.path().join("jobber.db"), Durability::Process).unwrap();
    let (settings, times, tasks) = (QueueSettings::default(), site.clock.clone(), site.tasks.clone());
    let older = EmbeddedQueue::open(db, site.dir.path(), settings, None, times, tasks).await.unwrap();
    let options = JobOptions::default();
    let new =
        NewJob { id: Some("cut-off".to_owned()), name: "echo".to_owned(), arguments: vec![], data: None, options };
    older.submit(vec![new.accept(site.clock.now()).unwrap()], None).await.unwrap();
    drop(older);
    for (id, is_repetition) in [("cut-off", true), ("whole", false)] {
        for is_duplicate in [is_repetition, true, true] {
            let (status, answer) = site.post("/api/v1/jobs", json!({"name": "echo", "id": id})).await;
            assert_eq!((status, &answer["duplicate"]), (202, &json!(is_duplicate)), "{answer}");
            let id = JobId::parse(id).unwrap();
            timeout(PATIENCE, async {
                while site.store.job_without_result(&id).await.unwrap().is_none_or(|record| !record.announced) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await
            .unwrap();
        }
    }
    let events = site.log.read_without_bodies(Cursor::START, 100, Duration::ZERO).await.unwrap();
    let submitted = events.iter().filter_map(|(_, entry)| match entry {
        Entry::Job(event) if event.kind == EventKind::Submitted => Some(event.job.id.as_str()),
        _ => None,
    });
    assert_eq!(submitted.collect::<Vec<_>>(), ["cut-off", "whole"]);
    site.end().await;
}

#[tokio::test]
async fn a_job_is_cancelled_retried_promoted_and_removed() {
    let site = Site::start().await;
    let id = site.submit(json!({"name": "echo", "delay_ms": 3_600_000})).await;
    let (_, why) = site.get(&format!("/api/v1/jobs/{id}/explain")).await;
    assert!(why["reasons"][0].as_str().unwrap().contains("delay"), "{why}");
    assert_eq!(site.post(&format!("/api/v1/jobs/{id}:promote"), json!({})).await.0, 202);
    let (_, why) = site.get(&format!("/api/v1/jobs/{id}/explain")).await;
    assert!(why["reasons"][0].as_str().unwrap().contains("no worker"), "{why}");
    let (status, answer) = site.post(&format!("/api/v1/jobs/{id}:cancel"), json!({"reason": "no need"})).await;
    assert_eq!((status, &answer["status"]), (202, &json!("cancelled")));
    let (_, view) = site.get(&format!("/api/v1/jobs/{id}?wait=60")).await;
    assert_eq!((&view["state"], &view["outcome"]["kind"]), (&json!("failed"), &json!("cancelled")), "{view}");
    assert_eq!(site.post(&format!("/api/v1/jobs/{id}:cancel"), json!({})).await.0, 409);
    assert_eq!(site.post(&format!("/api/v1/jobs/{id}:retry"), json!({})).await.0, 202);
    let (_, view) = site.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!((&view["state"], &view["outcome"]), (&json!("waiting"), &Value::Null), "{view}");
    let removed = site.answer(site.http.delete(format!("{}/api/v1/jobs/{id}", site.base))).await;
    assert_eq!((removed.0, &removed.1["status"]), (200, &json!("removed")));
    assert_eq!(site.post(&format!("/api/v1/jobs/{id}:dance"), json!({})).await.1["code"], "unknown_verb");
    assert_eq!(site.post("/api/v1/jobs/nobody:cancel", json!({})).await.1["code"], "unknown_job");
    assert_eq!(site.get("/api/v1/jobs/nobody").await.0, 404);
    site.end().await;
}

#[tokio::test]
async fn logs_tell_each_thing_once_and_in_order() {
    let site = Site::start().await;
    let id = site.submit(json!({"name": "echo"})).await;
    let mut claims = site.claims().await;
    let path = format!("/api/v1/jobs/{id}/logs");
    let reading = site.stream(&path);
    let working = async {
        let first = site.lease(&mut claims).await;
        site.started(&first).await;
        says(&first, "one\n");
        // The last output of an attempt need not come through live.
        site.finished(first, 1, "one\ntwo\n", false).await;
        let second = site.lease(&mut claims).await;
        site.started(&second).await;
        // The output of a short attempt may not come through at all.
        site.finished(second, 0, "three\n", true).await;
    };
    let (events, ()) = tokio::join!(reading, working);
    let text: String = events.iter().filter_map(|(_, data)| data["text"].as_str()).collect();
    assert_eq!(text, "one\ntwo\nthree\n", "{events:?}");
    let (name, last) = events.last().unwrap();
    assert_eq!((name.as_str(), &last["state"]), ("state", &json!("completed")));
    let outcomes: Vec<_> = events
        .iter()
        .filter(|(name, data)| name == "attempt" && !data["outcome"].is_null())
        .map(|(_, d)| d["outcome"]["code"].clone())
        .collect();
    assert_eq!(outcomes, [json!(1), json!(0)]);
    let again = site.stream(&format!("/api/v1/jobs/{id}/logs?follow=false&attempt=2")).await;
    let text: String = again.iter().filter_map(|(_, data)| data["text"].as_str()).collect();
    assert_eq!(text, "three\n");
    let happened = site.http.get(format!("{}/api/v1/events?after=0-0", site.base)).send().await.unwrap();
    let mut body = String::new();
    let mut happened = happened;
    while !body.contains("event: finished") && !body.contains("event:finished") {
        body.push_str(&String::from_utf8_lossy(&timeout(PATIENCE, happened.chunk()).await.unwrap().unwrap().unwrap()));
    }
    assert!(body.contains("submitted") && body.contains("attempt_started"), "{body}");
    drop(claims);
    site.end().await;
}

#[tokio::test]
async fn a_full_log_refuses_submissions() {
    let site = Site::with(|_| {}, 3).await;
    let jobs = json!({"jobs": vec![json!({"name": "echo"}); 4]});
    let response = site.http.post(format!("{}/api/v1/jobs:bulk", site.base)).json(&jobs).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(site.get("/api/v1/queue").await.1["waiting"], 0);
    site.end().await;
}

#[tokio::test]
async fn only_who_may_is_let_in() {
    let site = Site::with(|s| s.token = Some("secret".to_owned().into()), 1000).await;
    let queue = format!("{}/api/v1/queue", site.base);
    let (status, answer) = site.answer(site.http.get(&queue)).await;
    assert_eq!((status, &answer["code"]), (401, &json!("unauthorized")));
    assert_eq!(site.answer(site.http.get(&queue).bearer_auth("wrong")).await.0, 401);
    assert_eq!(site.answer(site.http.get(&queue).bearer_auth("secret")).await.0, 200);
    assert_eq!(site.get("/healthz").await.0, 200);
    assert_eq!(site.answer(site.http.get(&queue).bearer_auth("secret").header("host", "evil.example")).await.0, 421);
    let pause = site.http.post(format!("{queue}:pause")).bearer_auth("secret").header("origin", "http://evil.example");
    assert_eq!(site.answer(pause).await.0, 403);
    let named = site.http.get(&queue).header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(named.headers()["x-request-id"], "mine-1");
    assert!(named.text().await.unwrap().contains("mine-1"));
    site.end().await;
}

#[tokio::test]
async fn slow_and_silent_connections_lose_their_place() {
    let short = |s: &mut ApiSettings| {
        s.header_timeout = Duration::from_millis(200);
        s.idle_timeout = Duration::from_millis(600);
        s.max_connections = 1;
    };
    let site = Site::with(short, 1000).await;
    let address = site.base.trim_start_matches("http://").to_owned();
    // With one place, each connection waits for the end of the one before it.
    for opening in ["", "GET /healthz HTT", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(opening.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server hangs up").ok();
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), opening.ends_with("\r\n\r\n"));
    }
    site.end().await;
}

#[tokio::test]
async fn stopping_ends_streams_and_long_polls_and_finishes_requests() {
    let site = Site::start().await;
    let id = site.submit(json!({"name": "echo"})).await;
    let polling = site.http.get(format!("{}/api/v1/jobs/{id}?wait=60", site.base)).send();
    let mut stream = site.http.get(format!("{}/api/v1/jobs/{id}/logs", site.base)).send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    // The body of this request is still on its way when the server is told to stop.
    let mut slow = TcpStream::connect(site.base.trim_start_matches("http://")).await.unwrap();
    let head = "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 15\r\nexpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    timeout(PATIENCE, slow.read_exact(&mut go_on)).await.unwrap().unwrap();
    let stop = site.stop.clone();
    let ending = async {
        stop.cancel();
        while let Some(_more) = stream.chunk().await.unwrap() {}
        slow.write_all(b"{\"name\":\"echo\"}").await.unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    };
    let (polled, ()) = timeout(PATIENCE, async { tokio::join!(polling, ending) }).await.unwrap();
    // The poll may arrive before or after the stop: the server either answers it, or never takes it.
    if let Ok(response) = polled {
        assert_eq!(response.status().as_u16(), 200);
    }
    site.end().await;
}
