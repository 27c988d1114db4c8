//! What every cache of known errors must do.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{Fingerprint, KnownError};
use jobber::failures::ErrorCache;
use jobber::failures::cache::memory::MemoryCache;
use jobber::failures::cache::redis::RedisCache;
use jobber::redis::{Redis, RedisSettings};
use tokio_util::task::TaskTracker;

use crate::harness::redis as server;

/// One cache, as two holders see it.
struct Caches {
    here: Arc<dyn ErrorCache>,
    there: Arc<dyn ErrorCache>,
    _behind: Option<Arc<server::Redis>>,
}

async fn memory() -> Caches {
    let cache = MemoryCache::new(10_000);
    Caches { here: cache.clone(), there: cache, _behind: None }
}

async fn redis() -> Caches {
    let server = server::Redis::shared();
    let prefix = format!("test-{}", uuid::Uuid::new_v4());
    let open = || async {
        let settings = RedisSettings { url: server.url().parse().unwrap(), ca_file: None };
        let redis = Redis::connect(&settings, &TaskTracker::new()).await.unwrap();
        RedisCache::open(redis, &prefix, Duration::from_secs(600))
    };
    Caches { here: open().await, there: open().await, _behind: Some(server.clone()) }
}

fn fingerprint(n: u16) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Fingerprint::from_bytes(bytes)
}

fn error(n: u16) -> KnownError {
    KnownError {
        fingerprint: fingerprint(n),
        category: n.is_multiple_of(2).then(|| format!("category-{n}")),
        vector: vec![f32::from(n), -0.5, f32::MIN_POSITIVE],
        model: "a model".to_owned(),
    }
}

async fn nothing_is_known_at_first(caches: Caches) {
    assert_eq!(caches.here.get(&[fingerprint(1), fingerprint(2)]).await.unwrap(), [None, None]);
    assert_eq!(caches.here.get(&[]).await.unwrap(), []);
    caches.here.put(&[]).await.unwrap();
}

async fn what_one_has_put_another_gets(caches: Caches) {
    caches.here.put(&[error(1), error(2)]).await.unwrap();
    assert_eq!(caches.there.get(&[fingerprint(1), fingerprint(2)]).await.unwrap(), [Some(error(1)), Some(error(2))]);
}

async fn answers_stand_in_the_order_of_the_questions(caches: Caches) {
    caches.here.put(&[error(1), error(2), error(3)]).await.unwrap();
    let asked = [3, 9, 1, 3].map(fingerprint);
    assert_eq!(caches.there.get(&asked).await.unwrap(), [Some(error(3)), None, Some(error(1)), Some(error(3))]);
}

async fn the_last_one_put_counts(caches: Caches) {
    caches.here.put(&[error(1)]).await.unwrap();
    let newer = KnownError { category: Some("newer".to_owned()), model: "another".to_owned(), ..error(1) };
    caches.there.put(std::slice::from_ref(&newer)).await.unwrap();
    assert_eq!(caches.here.get(&[fingerprint(1)]).await.unwrap(), [Some(newer)]);
}

async fn a_thousand_at_once_are_kept(caches: Caches) {
    let all: Vec<_> = (0..1000).map(error).collect();
    caches.here.put(&all).await.unwrap();
    let asked: Vec<_> = all.iter().map(|e| e.fingerprint).collect();
    let known = caches.there.get(&asked).await.unwrap();
    assert_eq!(known, all.into_iter().map(Some).collect::<Vec<_>>());
}

conformance! {
    suite cache {
        nothing_is_known_at_first,
        what_one_has_put_another_gets,
        answers_stand_in_the_order_of_the_questions,
        the_last_one_put_counts,
        a_thousand_at_once_are_kept,
    } for memory, redis
}
