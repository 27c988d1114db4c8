//! What every embedder must do.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::Clock;
use jobber::failures::Embedder;
use jobber::failures::embed::StaticModel;
use jobber::failures::embed::openai::{OpenAi, OpenAiSettings};

use crate::harness::embeddings::{DIMENSION, Embeddings};

struct Fixture {
    embedder: Arc<dyn Embedder>,
    _server: Option<Embeddings>,
}

async fn built_in() -> Fixture {
    Fixture { embedder: StaticModel::built_in(), _server: None }
}

async fn openai() -> Fixture {
    let server = Embeddings::start().await;
    let settings = OpenAiSettings {
        url: server.url().to_owned(),
        model: "a-model".to_owned(),
        dimension: DIMENSION,
        api_key: None,
        batch: 7,
        concurrency: 3,
        timeout: Duration::from_secs(30),
        tries: 2,
        first_wait: Duration::from_millis(10),
    };
    Fixture { embedder: OpenAi::new(settings, None, Clock::system()).unwrap(), _server: Some(server) }
}

fn texts(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("error {} while reading", "x".repeat(i))).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

async fn vectors_have_the_length_that_it_says(fixture: Fixture) {
    let vectors = fixture.embedder.embed(&texts(3)).await.unwrap();
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        assert_eq!(vector.len(), fixture.embedder.dimension());
        assert!((dot(&vector, &vector) - 1.0).abs() < 1e-3, "of length 1");
    }
    assert!(!fixture.embedder.model().is_empty());
}

async fn the_same_text_gives_the_same_vector_whatever_is_beside_it(fixture: Fixture) {
    let all = texts(40);
    let together = fixture.embedder.embed(&all).await.unwrap();
    assert_eq!(together.len(), all.len());
    for at in [0, 6, 7, 20, 39] {
        let alone = fixture.embedder.embed(&all[at..=at]).await.unwrap();
        assert!(dot(&alone[0], &together[at]) > 0.999, "text {at}");
    }
}

async fn strange_texts_are_embedded_too(fixture: Fixture) {
    let strange =
        ["", " \n\t", "\u{0}\u{1}", "日本語のエラー", &"long ".repeat(20_000), &"é".repeat(9_000)].map(str::to_owned);
    let vectors = fixture.embedder.embed(&strange).await.unwrap();
    assert_eq!(vectors.len(), strange.len());
    assert!(vectors.iter().flatten().all(|x| x.is_finite()));
}

async fn no_texts_give_no_vectors(fixture: Fixture) {
    assert!(fixture.embedder.embed(&[]).await.unwrap().is_empty());
}

async fn many_callers_are_served_at_once(fixture: Fixture) {
    let calls = (0..8).map(|i| {
        let embedder = fixture.embedder.clone();
        tokio::spawn(async move { embedder.embed(&texts(10 + i)).await.unwrap().len() })
    });
    for (i, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), 10 + i);
    }
}

conformance! {
    suite embedder {
        vectors_have_the_length_that_it_says,
        the_same_text_gives_the_same_vector_whatever_is_beside_it,
        strange_texts_are_embedded_too,
        no_texts_give_no_vectors,
        many_callers_are_served_at_once,
    } for built_in, openai
}
