//! Traces: what reaches a real collector, what the jobs themselves are told, and what other programs read of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::compat::node;
use crate::harness::collector::{Collector, SeenSpan};
use crate::harness::redis::Redis;
use crate::harness::{Jobber, Start, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// A job that fails twice and then prints the span that it is told of.
const THIRD: &str = "#!/bin/sh\n[ $JOBBER_ATTEMPT -ge 3 ] || exit 7\necho $TRACEPARENT $TRACESTATE\n";
const ECHO: &str = "#!/bin/sh\necho $TRACEPARENT $TRACESTATE\n";

fn traced(start: Start, collector: &Collector) -> Start {
    start.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

/// Submits as a caller within a trace does.
async fn submit_traced(jobber: &Jobber, path: &str, body: Value) -> Value {
    let request = jobber.http().post(jobber.url(path)).header("tracestate", "a=1").header("tracestate", "b=2");
    let answer = request.header("traceparent", format!("00-{TRACE}-{SPAN}-01")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    answer.json().await.unwrap()
}

fn id(answer: &Value) -> &str {
    answer["id"].as_str().unwrap()
}

/// The trace and the span that a job printed.
fn printed(view: &Value) -> (String, String) {
    let result = view["result"].as_str().unwrap_or_else(|| panic!("{view}"));
    let fields: Vec<_> = result.split(['-', ' ']).collect();
    (fields[1].to_owned(), fields[2].to_owned())
}

/// Whether the process has OpenTelemetry's thread, without which nothing is ever sent. The kernel cuts names of threads.
fn has_exporter(jobber: &Jobber) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", jobber.pid())).unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names.into_iter().any(|name| name.starts_with("OpenTelemetry"))
}

async fn redis() -> Redis {
    tokio::task::spawn_blocking(Redis::start).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_producers_trace_goes_on_through_two_retries_into_the_job() {
    let (redis, collector) = (redis().await, Collector::start().await);
    let jobber = traced(Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()), &collector).start().await;
    jobber.job("third", THIRD);
    let said = node("bullmq", "traced.js", &[&redis.port().to_string(), "third"]).await.remove(0);
    let attempts = collector.wait_for("process my-job-queue", id(&said), 3).await;
    let traces: BTreeSet<_> = attempts.iter().map(|span| span.trace.as_str()).collect();
    assert_eq!(traces, BTreeSet::from([said["trace"].as_str().unwrap()]), "{said} {attempts:#?}");
    assert!(attempts.iter().all(|span| span.parent == said["span"] && span.links.is_empty()), "{said} {attempts:#?}");
    let attribute = |name: &str| attempts.iter().map(|span| span.attributes.get(name).cloned()).collect::<Vec<_>>();
    assert_eq!(attribute("jobber.attempt"), [1, 2, 3].map(|n| Some(json!(n))));
    assert_eq!(attribute("process.exit.code"), [7, 7, 0].map(|n| Some(json!(n))));
    assert_eq!(attribute("error.type"), [Some(json!("exit")), Some(json!("exit")), None]);
    let view = jobber.wait_final(id(&said)).await;
    assert_eq!(printed(&view), (attempts[2].trace.clone(), attempts[2].id.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_worker_reads_the_context_of_a_job_that_jobber_has_submitted() {
    let redis = redis().await;
    let jobber =
        Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_CHECK_BINARIES", "false").start().await;
    let answer = submit_traced(&jobber, "/api/v1/jobs", json!({"name": "echo"})).await;
    let ran = node("bullmq", "traced-worker.js", &[&redis.port().to_string()]).await.remove(0);
    assert_eq!(ran, json!({"id": id(&answer), "trace": TRACE, "parent": SPAN}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_through_the_api_and_every_attempt() {
    let collector = Collector::start().await;
    let jobber = traced(Jobber::dev(), &collector).env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b").start().await;
    jobber.job("third", THIRD);
    let body = json!({"name": "third", "backoff": {"type": "fixed", "delay_ms": 10}});
    let answer = submit_traced(&jobber, "/api/v1/jobs", body).await;
    let view = jobber.wait_final(id(&answer)).await;
    let attempts = collector.wait_for("process my-job-queue", id(&answer), 3).await;
    let sent = collector.wait_for("send my-job-queue", id(&answer), 1).await.remove(0);
    let spans = collector.spans();
    let served = spans.iter().find(|span| span.name == "POST /api/v1/jobs").unwrap();
    assert_eq!((served.kind, served.parent.as_str()), (SpanKind::Server, SPAN));
    assert_eq!(served.attributes["http.response.status_code"], 202);
    assert_eq!((sent.kind, &sent.parent), (SpanKind::Producer, &served.id));
    assert!(attempts.iter().all(|span| span.kind == SpanKind::Consumer && span.parent == sent.id), "{attempts:#?}");
    let waits: Vec<_> = spans.iter().filter(|span| span.name == "wait").collect();
    assert!(matches!(waits[..], [wait] if wait.parent == attempts[0].id), "{waits:#?}");
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    assert_eq!(printed(&view), (TRACE.to_owned(), attempts[2].id.clone()));
    assert!(view["result"].as_str().unwrap().ends_with(" a=1,b=2"), "{view}");

    let of = &attempts[0].attributes;
    assert_eq!((&of["messaging.system"], &of["jobber.job.name"]), (&json!("jobber"), &json!("third")));
    assert_eq!(of["jobber.fingerprint"], view["attempts"][0]["fingerprint"]);
    assert!(of["process.pid"].as_u64() > Some(1) && of["jobber.memory.peak_rss_bytes"].as_u64() > Some(0), "{of:#?}");
    assert_eq!(attempts[0].events, ["spawn"]);
    assert!(attempts[0].is_error && !attempts[2].is_error);
    assert_eq!(served.resource["service.name"], "jobber");
    assert!(collector.headers().iter().all(|headers| headers["api-key"] == "a b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_batch_link_to_their_submission_and_each_keeps_to_one_trace() {
    let collector = Collector::start().await;
    let redis = redis().await;
    let start = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).env("OTEL_SERVICE_NAME", "mine");
    let jobber = traced(start, &collector).start().await;
    jobber.job("echo", ECHO);
    jobber.job("third", THIRD);
    let third = json!({"name": "third", "backoff": {"type": "fixed", "delay_ms": 10}});
    let answer = submit_traced(&jobber, "/api/v1/jobs:bulk", json!({"jobs": [{"name": "echo"}, third]})).await;
    let (echo, third) = (id(&answer["jobs"][0]), id(&answer["jobs"][1]));
    let created = collector.wait_for("create my-job-queue", third, 1).await.remove(0);
    let attempts = collector.wait_for("process my-job-queue", third, 3).await;
    let traces: BTreeSet<_> = attempts.iter().map(|span| &span.trace).collect();
    assert!(traces.len() == 1 && !traces.contains(&TRACE.to_owned()), "{attempts:#?}");
    let links_to = |span: &SeenSpan, to: &SeenSpan| span.links == [(to.trace.clone(), to.id.clone())];
    assert!(attempts.iter().all(|span| span.parent.is_empty() && links_to(span, &created)), "{attempts:#?}");
    assert_eq!((created.trace.as_str(), created.kind), (TRACE, SpanKind::Producer));
    let other = collector.wait_for("process my-job-queue", echo, 1).await.remove(0);
    assert_ne!(&other.trace, traces.first().copied().unwrap());
    let spans = collector.spans();
    let sent = spans.iter().find(|span| span.name == "send my-job-queue").unwrap();
    assert_eq!((sent.kind, sent.links.len()), (SpanKind::Client, 2));
    assert_eq!((&sent.attributes["messaging.batch.message_count"], sent.attributes.len()), (&json!(2), 5));
    assert_eq!(sent.resource["service.name"], "mine");

    // The jobs of a flow, which BullMQ's crate adds. The child may be taken before its context is noted.
    let flow = json!({"job": {"name": "echo"}, "children": [{"job": {"name": "echo", "delay_ms": 100}}]});
    let answer = submit_traced(&jobber, "/api/v1/flows", flow).await;
    let created = collector.wait_for("create my-job-queue", id(&answer), 1).await.remove(0);
    let parent = collector.wait_for("process my-job-queue", id(&answer), 1).await.remove(0);
    assert!(links_to(&parent, &created), "{parent:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_tells_of_the_signals_that_stopped_its_attempt() {
    let collector = Collector::start().await;
    let mut jobber = traced(Jobber::dev(), &collector).env("OTEL_BSP_SCHEDULE_DELAY", "60000").start().await;
    jobber.job("deaf", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.05; done\n");
    let body = json!({"name": "deaf", "attempts": 1, "timeout_ms": 150, "grace_ms": 150});
    let id = jobber.submit(body).await;
    jobber.wait_final(&id).await;
    assert!(has_exporter(&jobber));
    assert_eq!(collector.spans().len(), 0, "a batch waits for its time");
    // Its end exports what is left.
    assert_eq!(jobber.stop().await, 0);
    let spans = collector.spans();
    let attempt = spans.iter().find(|span| span.name == "process my-job-queue").unwrap();
    assert_eq!(attempt.events, ["spawn", "SIGTERM", "SIGKILL"]);
    assert_eq!(attempt.attributes["error.type"], "timeout");
    assert!((300_000_000..30_000_000_000).contains(&attempt.took), "{attempt:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_context_is_passed_on_and_nothing_is_sent() {
    let collector = Collector::start().await;
    for (name, value) in [("OTEL_SERVICE_NAME", "mine"), ("OTEL_SDK_DISABLED", "true")] {
        let mut start = Jobber::dev().env(name, value);
        if name == "OTEL_SDK_DISABLED" {
            start = traced(start, &collector);
        }
        let mut jobber = start.start().await;
        jobber.job("third", THIRD);
        let body = json!({"name": "third", "backoff": {"type": "fixed", "delay_ms": 10}});
        let answer = submit_traced(&jobber, "/api/v1/jobs", body).await;
        let view = jobber.wait_final(id(&answer)).await;
        assert_eq!(view["result"], format!("00-{TRACE}-{SPAN}-01 a=1,b=2"));
        let untraced = jobber.submit(json!({"name": "third", "backoff": {"type": "fixed", "delay_ms": 10}})).await;
        assert_eq!(jobber.wait_final(&untraced).await["result"], "");
        assert!(!has_exporter(&jobber), "there is a thread that exports");
        assert_eq!(jobber.stop().await, 0);
        assert!(!jobber.log().contains("spans are exported"), "{}", jobber.log());
    }
    assert_eq!(collector.headers().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_one_warning_and_holds_nothing_up() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{free}");
    let start = Jobber::dev().env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "20");
    let mut jobber = start.env("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500").start().await;
    jobber.job("echo", ECHO);
    eventually("several failed exports", async || {
        let id = jobber.submit(json!({"name": "echo"})).await;
        assert_eq!(jobber.wait_final(&id).await["state"], "completed");
        jobber.log().contains("spans can't be exported").then_some(())
    })
    .await;
    for _ in 0..5 {
        let id = jobber.submit(json!({"name": "echo"})).await;
        jobber.wait_final(&id).await;
    }
    let began = Instant::now();
    assert_eq!(jobber.stop().await, 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(jobber.log().matches("spans can't be exported").count(), 1, "{}", jobber.log());
}

/// The hash of a job without its time of submission, with its options taken apart; and the context that was among them.
fn hash(redis: &Redis, key: &str) -> (Value, Option<Value>) {
    let printed = redis.cli(&["HGETALL", key]);
    let lines: Vec<_> = printed.lines().collect();
    let fields = lines.chunks(2).map(|pair| (pair[0].to_owned(), json!(pair[1])));
    let mut fields: serde_json::Map<_, _> = fields.filter(|(name, _)| name != "timestamp").collect();
    let mut opts: Value = serde_json::from_str(fields["opts"].as_str().unwrap()).unwrap();
    let tm = opts.as_object_mut().unwrap().remove("tm");
    fields.insert("opts".to_owned(), opts);
    (Value::Object(fields), tm.map(|tm| serde_json::from_str(tm.as_str().unwrap()).unwrap()))
}

/// Jobs with a context are added by a script of Jobber's own: what lies in Redis differs from what BullMQ's script leaves
/// by the context alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_context_lies_in_redis_as_one_without() {
    let redis = redis().await;
    let mut left = Vec::new();
    for with in [false, true] {
        let prefix = if with { "{with}" } else { "{without}" };
        let start = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_QUEUE_PREFIX", prefix);
        let jobber = start.env("JOBBER_CHECK_BINARIES", "false").start().await;
        let mut found = Vec::new();
        let timed = json!({"key": "t", "ttl_ms": 600_000});
        for body in [
            json!({"id": "plain", "name": "echo", "arguments": ["a", "\u{e9}\""], "data": {"n": 1.5}, "timeout_ms": 900}),
            json!({"id": "plain", "name": "echo", "arguments": ["again"]}),
            json!({"id": "soon", "name": "echo", "priority": 3}),
            json!({"id": "sooner", "name": "echo", "priority": 1, "attempts": 7}),
            json!({"id": "late", "name": "echo", "delay_ms": 3_600_000}),
            json!({"id": "key", "name": "echo", "deduplication": {"key": "k"}}),
            json!({"id": "same-key", "name": "echo", "deduplication": {"key": "k"}}),
            json!({"id": "timed", "name": "echo", "deduplication": timed, "backoff": {"type": "fixed", "delay_ms": 5}}),
        ] {
            let answer = match with {
                true => submit_traced(&jobber, "/api/v1/jobs", body).await,
                false => jobber.post("/api/v1/jobs", body).await.1,
            };
            found.push(json!([answer["id"], answer["duplicate"]]));
        }
        let key = |name: &str| format!("{prefix}:my-job-queue:{name}");
        for id in ["plain", "soon", "sooner", "late", "key", "timed"] {
            let (hash, context) = hash(&redis, &key(id));
            let expected = json!({"traceparent": format!("00-{TRACE}-{SPAN}-01"), "tracestate": "a=1,b=2"});
            assert_eq!(context, with.then_some(expected), "{hash}");
            found.push(hash);
        }
        let events = redis.cli(&["XRANGE", &key("events"), "-", "+"]);
        // Ids of events and due times differ.
        let is_time = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
        found.push(events.lines().filter(|line| !is_time(line)).collect());
        for command in [
            ["LRANGE", &key("wait"), "0", "-1"].as_slice(),
            &["ZRANGE", &key("prioritized"), "0", "-1", "WITHSCORES"],
            &["ZRANGE", &key("delayed"), "0", "-1"],
            &["ZRANGE", &key("marker"), "0", "-1"],
            &["GET", &key("id")],
            &["GET", &key("de:k")],
        ] {
            found.push(redis.cli(command).into());
        }
        assert!(redis.cli(&["PTTL", &key("de:t")]).trim().parse::<i64>().unwrap() > 0);
        left.push(found);
    }
    assert_eq!(left[1], left[0]);
}
