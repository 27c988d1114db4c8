//! Failures of real jobs, and an endpoint for vectors that does whatever endpoints do: what each message costs, and who
//! sees the key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::embeddings::{DIMENSION, Embeddings, Manner};
use crate::harness::redis::Redis;
use crate::harness::{Jobber, Place, Start, eventually};

const KEY: &str = "sk-nobody-may-read-this";

/// In every message of a job, and in no text of a category.
const MARK: &str = "gadget";

/// Says one of forty messages, with numbers that vary from run to run.
const BREAK: &str = "#!/bin/sh\nenv >> \"$2\"\necho \"gadget $1 went wrong (pid $$)\" >&2\nexit 1\n";

/// Embeds at this server, and takes whatever is nearest for the category.
fn at_server(start: Start, server: &Embeddings) -> Start {
    start
        .env("JOBBER_FAILURES_SEED", "library")
        .env("JOBBER_EMBEDDER_URL", server.url())
        .env("JOBBER_EMBEDDER_MODEL", "a-model")
        .env("JOBBER_EMBEDDER_DIMENSION", &DIMENSION.to_string())
        .env("JOBBER_EMBEDDER_BATCH", "16")
        .env("JOBBER_EMBEDDER_TIMEOUT", "1s")
        .env("SUCCESS_VECTOR_MATCH_THRESHOLD", "-1")
        .env("OPENAI_API_KEY", KEY)
        .env("JOBBER_LOG", "trace")
}

/// One of forty words.
fn word(n: usize) -> String {
    let animals = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"];
    let colours = ["red", "green", "blue", "black"];
    format!("{}-{}", colours[n / 10 % 4], animals[n % 10])
}

async fn fail(j: &Jobber, range: std::ops::Range<usize>) {
    let environment = j.place().path().join("environment");
    let job = |n| json!({"name": "break", "arguments": [word(n), environment], "attempts": 1});
    let (status, answer) = j.post("/api/v1/jobs:bulk", json!({"jobs": range.map(job).collect::<Vec<_>>()})).await;
    assert_eq!(status, 202, "{answer}");
}

/// Waits until so many failures have been counted and all are categorised; the counts by message.
async fn all_categorised(j: &Jobber, failures: i64) -> BTreeMap<String, i64> {
    // The embedder may have been left alone for half a minute.
    let deadline = std::time::Instant::now() + Duration::from_secs(240);
    loop {
        let (status, report) = j.get("/api/v1/failures?limit=200").await;
        assert_eq!(status, 200, "{report}");
        let items = report["items"].as_array().unwrap();
        let counts: BTreeMap<_, _> = items
            .iter()
            .map(|group| (group["fingerprint"].as_str().unwrap().to_owned(), group["count"].as_i64().unwrap()))
            .collect();
        let is_known = |group: &Value| !matches!(group["category"].as_str(), Some("pending" | "uncategorised"));
        if counts.values().sum::<i64>() == failures && items.iter().all(is_known) {
            return counts;
        }
        assert!(std::time::Instant::now() < deadline, "not all are categorised: {report}\n{}", j.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many messages of jobs were embedded; none, and no text of a category, more than once.
fn messages_embedded_once(server: &Embeddings) -> usize {
    let embedded = server.embedded();
    let twice: Vec<_> = embedded.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    embedded.keys().filter(|text| text.contains(MARK)).count()
}

fn status(status: u16, headers: &[(&'static str, &str)]) -> Manner {
    Manner::Status(status, headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect(), "no".to_owned())
}

/// The texts of the categories have been embedded.
async fn categories_are_known(server: &Embeddings) {
    let seeds = jobber::failures::categories::seeds(jobber::domain::Seed::Library);
    let texts = jobber::failures::categories::Matcher::texts(&seeds);
    let texts: std::collections::BTreeSet<_> =
        texts.iter().map(|text| jobber::failures::codes::expand_codes(text).into_owned()).collect();
    eventually("the categories to be embedded", async || (server.embedded().len() >= texts.len()).then_some(())).await;
}

#[tokio::test]
async fn a_thousand_failures_with_forty_messages_cost_forty_embeddings_at_a_server_with_troubles() {
    let mut server = Embeddings::start().await;
    server.next([status(429, &[("retry-after", "1")]), Manner::Well, status(500, &[]), Manner::Hang, Manner::Short]);
    let place = Place::new();
    place.job("break", BREAK);
    let j = at_server(Jobber::dev().at(&place), &server).arg("--cores").arg("4").start().await;
    categories_are_known(&server).await;
    assert_eq!(server.troubles(), 0);
    server.next([status(429, &[("retry-after", "1")]), status(503, &[]), Manner::Hang, Manner::Well, Manner::Short]);
    fail(&j, 0..500).await;
    eventually("the second troubles to be over", async || (server.troubles() == 0).then_some(())).await;
    server.fall().await;
    // Twenty messages that nobody has met, while nobody answers.
    fail(&j, 500..1000).await;
    let words = [word(0), word(39)];
    eventually("failures that wait", async || {
        let (_, report) = j.get("/api/v1/failures?limit=200").await;
        let met =
            |word: &str| report["items"].as_array().unwrap().iter().any(|g| g["text"].as_str().unwrap().contains(word));
        words.iter().all(|word| met(word)).then_some(())
    })
    .await;
    server.rise().await;
    let counts = all_categorised(&j, 1000).await;
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [25; 40]);
    assert_eq!(messages_embedded_once(&server), 40);
    let batches = server.batches();
    assert!(batches.iter().all(|texts| *texts <= 16) && batches.contains(&16), "{batches:?}");
    let environment = std::fs::read_to_string(place.path().join("environment")).unwrap();
    assert!(environment.contains("JOBBER_JOB_ID=") && !environment.contains(KEY));
    assert!(!j.log().contains(KEY));
}

/// Two servers on the same queue and history: one stops while the other works on.
async fn two_servers_embed_nothing_twice(queue: Option<&str>) {
    let server = Embeddings::start().await;
    let place = Place::new();
    place.job("break", BREAK);
    let on_queue = |start: Start| match queue {
        Some(url) => start.at(&place).env("JOBBER_QUEUE_URL", url),
        None => start.at(&place),
    };
    let mut first = at_server(on_queue(Jobber::serve()), &server).start().await;
    let second = at_server(on_queue(Jobber::serve()), &server).start().await;
    let _work = at_server(on_queue(Jobber::work()), &server).arg("--cores").arg("4").start().await;
    fail(&first, 0..100).await;
    fail(&second, 100..200).await;
    // While messages are still on their way.
    eventually("some messages to be embedded", async || {
        server.embedded().keys().any(|text| text.contains(MARK)).then_some(())
    })
    .await;
    assert_eq!(first.stop().await, 0, "{}", first.log());
    fail(&second, 200..400).await;
    let counts = all_categorised(&second, 400).await;
    assert_eq!(counts.len(), 40);
    assert_eq!(messages_embedded_once(&server), 40);
}

#[tokio::test]
async fn two_servers_on_one_redis_embed_nothing_twice() {
    let redis = Arc::new(Redis::start());
    two_servers_embed_nothing_twice(Some(&redis.url())).await;
}

#[tokio::test]
async fn two_servers_on_one_directory_embed_nothing_twice() {
    two_servers_embed_nothing_twice(None).await;
}

#[tokio::test]
async fn a_key_that_is_refused_is_told_to_nobody() {
    let server = Embeddings::start().await;
    let quoted = format!(r#"{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}"#);
    server.next(vec![Manner::Status(401, Vec::new(), quoted); 1000]);
    let place = Place::new();
    place.job("break", BREAK);
    let j = at_server(Jobber::dev().at(&place), &server).start().await;
    fail(&j, 0..1).await;
    let failures = eventually("the failure to be counted", async || {
        let (_, report) = j.get("/api/v1/failures").await;
        (report["total"] == 1).then_some(report)
    })
    .await;
    assert_eq!(failures["items"][0]["category"], "pending", "nothing is lost: {failures}");
    eventually("the refusal to be logged", async || j.log().contains("Incorrect API key").then_some(())).await;
    let (_, answer) = j.post("/api/v1/categories:test", json!({"text": "anything"})).await;
    let out = j.cli(&["category", "test", "anything"]).await;
    let doctor = crate::harness::run(
        &["doctor"],
        &[("OPENAI_API_KEY", KEY), ("JOBBER_EMBEDDER_URL", "openai")],
        place.path(),
        "",
    )
    .await;
    for said in [j.log(), answer.to_string(), out.stdout, out.stderr, doctor.stdout, doctor.stderr] {
        assert!(!said.contains(KEY), "{said}");
    }
    let environment = std::fs::read_to_string(place.path().join("environment")).unwrap();
    assert!(environment.contains("JOBBER_JOB_ID=") && !environment.contains(KEY));
}
