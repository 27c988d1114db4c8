//! Endpoints for vectors that fail in every way they can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobber::domain::{Clock, Secret};
use jobber::failures::cache::memory::MemoryCache;
use jobber::failures::embed::openai::{Budget, OpenAi, OpenAiSettings};
use jobber::failures::{EmbedError, Embedder};

use crate::harness::embeddings::{DIMENSION, Embeddings, Manner};

const KEY: &str = "sk-this-is-secret";

fn settings(url: &str) -> OpenAiSettings {
    OpenAiSettings {
        url: url.to_owned(),
        model: "a-model".to_owned(),
        dimension: DIMENSION,
        api_key: Some(Secret::new(KEY)),
        batch: 16,
        concurrency: 2,
        timeout: Duration::from_secs(30),
        tries: 3,
        first_wait: Duration::from_millis(5),
    }
}

fn embedder(settings: OpenAiSettings) -> Arc<OpenAi> {
    OpenAi::new(settings, None, Clock::system()).unwrap()
}

fn texts(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("error {i}")).collect()
}

fn status(status: u16) -> Manner {
    Manner::Status(status, Vec::new(), "no".to_owned())
}

/// No error may tell the key, in any form in which it can be printed.
fn told(error: &EmbedError) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(KEY), "{text}");
    text
}

#[tokio::test]
async fn texts_go_in_batches_with_the_key_and_few_at_a_time() {
    let server = Embeddings::start().await;
    let vectors = embedder(settings(server.url())).embed(&texts(40)).await.unwrap();
    assert_eq!(vectors.len(), 40);
    let mut batches = server.batches();
    batches.sort_unstable();
    assert_eq!(batches, [8, 16, 16]);
    assert!(server.most_running() <= 2);
    for (headers, body) in server.requests() {
        assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
        assert_eq!((&body["model"], body.get("dimensions")), (&"a-model".into(), None));
    }
}

#[tokio::test]
async fn the_third_generation_is_asked_for_its_length_and_a_query_is_kept() {
    let server = Embeddings::start().await;
    let url = format!("{}/?api-version=2024-02-01", server.url());
    let third = OpenAiSettings { model: "text-embedding-3-small".to_owned(), dimension: 32, ..settings(&url) };
    assert_eq!(embedder(third).embed(&texts(1)).await.unwrap()[0].len(), 32);
    let (headers, body) = server.requests().remove(0);
    assert_eq!(body["dimensions"], 32);
    assert_eq!(headers["api-key"], KEY);
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let server = Embeddings::start().await;
    let embedder = embedder(settings(server.url()));
    for manner in [status(429), status(500), status(503), status(408), Manner::Die] {
        server.next([manner.clone(), manner.clone()]);
        assert!(embedder.embed(&texts(1)).await.is_ok(), "{manner:?}");
    }
    assert_eq!(server.requests().len(), 15);
}

#[tokio::test]
async fn a_wish_to_be_asked_later_is_honoured() {
    let server = Embeddings::start().await;
    let embedder = embedder(settings(server.url()));
    let later = |text: &str| Manner::Status(429, vec![("retry-after", text.to_owned())], String::new());
    server.next([later("1")]);
    let began = Instant::now();
    embedder.embed(&texts(1)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    server.next([later("3600")]);
    let error = embedder.embed(&texts(1)).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)), "too long to wait for: {error}");
    server.next([later("Sun, 06 Nov 1994 08:49:37 GMT")]);
    embedder.embed(&texts(1)).await.unwrap();
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_given_up() {
    let server = Embeddings::start().await;
    server.next([Manner::Hang, Manner::Hang]);
    let hasty = OpenAiSettings { timeout: Duration::from_millis(300), tries: 2, ..settings(server.url()) };
    let error = embedder(hasty).embed(&texts(1)).await.unwrap_err();
    assert!(matches!(error, EmbedError::Away { .. }), "{error:?}");
    assert!(told(&error).contains("tried 2 times"));
}

#[tokio::test]
async fn a_dead_endpoint_is_away_and_then_left_alone() {
    let url = Embeddings::start().await.die().await;
    let embedder = embedder(OpenAiSettings { tries: 1, ..settings(&url) });
    for _ in 0..5 {
        let error = embedder.embed(&texts(1)).await.unwrap_err();
        assert!(matches!(error, EmbedError::Away { .. }), "{error:?}");
        told(&error);
    }
    let error = embedder.embed(&texts(1)).await.unwrap_err();
    assert!(told(&error).contains("left alone"), "{error}");
    assert!(error.retry_after().unwrap() > Duration::from_secs(1));
}

#[tokio::test]
async fn refusals_are_passed_on_at_once_without_the_key() {
    let server = Embeddings::start().await;
    let embedder = embedder(settings(server.url()));
    for (code, says) in [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "embedder.model"), (400, "wrong key")]
    {
        let body = format!(r#"{{"error": {{"message": "wrong key {KEY}"}}}}"#);
        server.next([Manner::Status(code, Vec::new(), body)]);
        let error = embedder.embed(&texts(1)).await.unwrap_err();
        assert!(matches!(error, EmbedError::Refused { .. }) && error.retry_after().is_none(), "{error:?}");
        assert!(told(&error).contains(says), "{error}");
    }
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn answers_of_no_use_are_named() {
    let server = Embeddings::start().await;
    let embedder = embedder(settings(server.url()));
    for (body, says) in [
        ("<html>it works</html>", "can't be read"),
        (r#"{"data": []}"#, "0 vectors for 1 texts"),
        (r#"{"data": [{"index": 0, "embedding": [1, 2, 3]}]}"#, "embedder.dimension"),
        (r#"{"data": [{"index": 0, "embedding": [0, 0, 0, 0, 0, 0, 0, 0]}]}"#, "no direction"),
    ] {
        server.next([Manner::Say(body.to_owned())]);
        let error = embedder.embed(&texts(1)).await.unwrap_err();
        assert!(matches!(error, EmbedError::Garbage { .. }), "{error:?}");
        assert!(told(&error).contains(says), "{error}");
    }
    server.next([Manner::Say("x".repeat(4 << 20))]);
    assert!(told(&embedder.embed(&texts(1)).await.unwrap_err()).contains("no end"));
}

#[tokio::test]
async fn the_days_budget_is_kept_over_restarts() {
    let server = Embeddings::start().await;
    let clock = Clock::manual(jobber::domain::Timestamp::parse("2026-03-01T18:00:00Z").unwrap());
    let cache = MemoryCache::new(10);
    let start = || {
        let budget = Budget::new(cache.clone(), 20);
        OpenAi::new(settings(server.url()), Some(budget), clock.clone()).unwrap()
    };
    start().embed(&texts(16)).await.unwrap();
    let again = start();
    let error = again.embed(&texts(5)).await.unwrap_err();
    assert!(matches!(error, EmbedError::Budget { budget: 20, .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(6 * 3600)));
    again.embed(&texts(4)).await.unwrap();
    clock.advance(Duration::from_secs(6 * 3600));
    again.embed(&texts(16)).await.unwrap();
    assert_eq!(server.batches(), [16, 4, 16]);
}

#[test]
fn addresses_and_keys_that_cannot_be_used_are_refused() {
    for (url, key) in [("not a url", "k"), ("ftp://x/v1", "k"), ("http://localhost/v1", "line\nbreak")] {
        let settings = OpenAiSettings { api_key: Some(Secret::new(key)), ..settings(url) };
        assert!(!format!("{settings:?}").contains(key) || key == "k");
        let error = OpenAi::new(settings, None, Clock::system()).err().unwrap();
        assert!(matches!(error, EmbedError::Refused { .. }), "{url}: {error:?}");
    }
}
