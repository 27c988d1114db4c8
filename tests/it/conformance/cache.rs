//! What every cache of known errors must do.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{Category, Day, Fingerprint, JobId, KnownError, LimitScale};
use jobber::failures::cache::embedded::EmbeddedCache;
use jobber::failures::cache::memory::MemoryCache;
use jobber::failures::cache::redis::RedisCache;
use jobber::failures::{ErrorCache, PublishedCategories};
use jobber::redis::{Redis, RedisSettings};
use jobber::sqlite::{Durability, Sqlite};
use tokio_util::task::TaskTracker;

use crate::harness::redis as server;

/// One cache, as two holders see it.
struct Caches {
    here: Arc<dyn ErrorCache>,
    there: Arc<dyn ErrorCache>,
    _behind: Box<dyn Send>,
}

async fn memory() -> Caches {
    let cache = MemoryCache::new(10_000);
    Caches { here: cache.clone(), there: cache, _behind: Box::new(()) }
}

async fn embedded() -> Caches {
    let dir = tempfile::tempdir().unwrap();
    let open = || async {
        let db = Sqlite::open(&dir.path().join("jobber.db"), Durability::Process).unwrap();
        EmbeddedCache::open(db, 10_000).await.unwrap()
    };
    Caches { here: open().await, there: open().await, _behind: Box::new(dir) }
}

async fn redis() -> Caches {
    let server = server::Redis::shared();
    let prefix = format!("test-{}", uuid::Uuid::new_v4());
    let open = || async {
        let settings = RedisSettings { url: server.url().parse().unwrap(), ca_file: None };
        let redis = Redis::connect(&settings, &TaskTracker::new()).await.unwrap();
        RedisCache::open(redis, &prefix, Duration::from_secs(600))
    };
    Caches { here: open().await, there: open().await, _behind: Box::new(server.clone()) }
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

async fn the_categories_published_last_are_told(caches: Caches) {
    assert_eq!(caches.here.published().await.unwrap(), None);
    let category = Category {
        id: "disk".parse().unwrap(),
        name: "Disk \u{e9}".to_owned(),
        description: String::new(),
        examples: vec!["full".to_owned()],
    };
    let first = PublishedCategories { model: "m".to_owned(), threshold: 0.5, categories: vec![category] };
    caches.here.publish(&first).await.unwrap();
    assert_eq!(caches.there.published().await.unwrap().as_ref(), Some(&first));
    let second = PublishedCategories { categories: vec![], threshold: 0.25, ..first };
    caches.there.publish(&second).await.unwrap();
    assert_eq!(caches.here.published().await.unwrap(), Some(second));
}

async fn what_a_job_gets_more_is_told(caches: Caches) {
    let (a, b) = (JobId::parse("a").unwrap(), JobId::parse("repeat:b:1").unwrap());
    assert_eq!(caches.here.limit_scale(&a).await.unwrap(), None);
    for scale in [LimitScale { timeout: 2.0, memory: 1.5 }, LimitScale { timeout: 0.1, memory: 64.0 }] {
        caches.here.put_limit_scale(&a, scale).await.unwrap();
        assert_eq!(caches.there.limit_scale(&a).await.unwrap(), Some(scale));
    }
    assert_eq!(caches.there.limit_scale(&b).await.unwrap(), None);
}

async fn a_days_budget_is_one_for_all(caches: Caches) {
    let (today, tomorrow) = (Day::parse("2026-11-24").unwrap(), Day::parse("2026-11-25").unwrap());
    assert_eq!(caches.here.spend(today, 16, 20).await.unwrap(), Some(4));
    assert_eq!(caches.there.spend(today, 5, 20).await.unwrap(), None);
    assert_eq!(caches.there.spend(today, 4, 20).await.unwrap(), Some(0), "what was refused has taken nothing");
    assert_eq!(caches.here.spend(today, 1, 20).await.unwrap(), None);
    assert_eq!(caches.here.spend(tomorrow, 20, 20).await.unwrap(), Some(0));
    assert_eq!(caches.there.spend(tomorrow, 1, 20).await.unwrap(), None);
}

conformance! {
    suite cache {
        nothing_is_known_at_first,
        what_one_has_put_another_gets,
        answers_stand_in_the_order_of_the_questions,
        the_last_one_put_counts,
        a_thousand_at_once_are_kept,
        the_categories_published_last_are_told,
        what_a_job_gets_more_is_told,
        a_days_budget_is_one_for_all,
    } for memory, embedded, redis
}
