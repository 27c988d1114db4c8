//! A cache within the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{CacheError, ErrorCache, PublishedCategories};
use crate::domain::{Day, Fingerprint, JobId, KnownError, LimitScale};

type Generation = HashMap<Fingerprint, Arc<KnownError>>;

/// Remembers the errors used last, in two generations. When the young one is full it becomes the old
/// one, and the former old one is forgotten: everything in use has moved to the young one by then.
pub struct MemoryCache {
    /// How many errors one generation has at most.
    half: usize,
    generations: Mutex<Generations>,
    published: Mutex<Option<PublishedCategories>>,
    limit_scales: Mutex<HashMap<JobId, LimitScale>>,
    /// The texts that were embedded on the day that was asked about last.
    embedded: Mutex<Option<(Day, u64)>>,
}

#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

impl MemoryCache {
    /// A cache of at most `cap` errors, which keeps at least the `cap / 2` that were used last. A cap under 2 counts as
    /// 2.
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self {
            half: (cap / 2).max(1),
            generations: Mutex::default(),
            published: Mutex::default(),
            limit_scales: Mutex::default(),
            embedded: Mutex::default(),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Generations) -> T) -> T {
        // Each change is whole before the next, so what a panicking thread left can be used.
        act(&mut self.generations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn find(&mut self, fingerprint: &Fingerprint, half: usize) -> Option<Arc<KnownError>> {
        if let Some(error) = self.young.get(fingerprint) {
            return Some(error.clone());
        }
        let error = self.old.remove(fingerprint)?;
        self.insert(error.clone(), half);
        Some(error)
    }

    fn insert(&mut self, error: Arc<KnownError>, half: usize) {
        if self.young.len() >= half && !self.young.contains_key(&error.fingerprint) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&error.fingerprint);
        self.young.insert(error.fingerprint, error);
    }
}

#[async_trait]
impl ErrorCache for MemoryCache {
    async fn get(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<KnownError>>, CacheError> {
        let found: Vec<_> = self.with(|g| fingerprints.iter().map(|f| g.find(f, self.half)).collect());
        Ok(found.into_iter().map(|error| error.map(|e| KnownError::clone(&e))).collect())
    }

    async fn put(&self, errors: &[KnownError]) -> Result<(), CacheError> {
        let errors: Vec<_> = errors.iter().cloned().map(Arc::new).collect();
        self.with(|g| errors.into_iter().for_each(|error| g.insert(error, self.half)));
        Ok(())
    }

    async fn published(&self) -> Result<Option<PublishedCategories>, CacheError> {
        Ok(self.published.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn publish(&self, categories: &PublishedCategories) -> Result<(), CacheError> {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(categories.clone());
        Ok(())
    }

    async fn limit_scale(&self, job: &JobId) -> Result<Option<LimitScale>, CacheError> {
        Ok(self.limit_scales.lock().unwrap_or_else(PoisonError::into_inner).get(job).copied())
    }

    async fn put_limit_scale(&self, job: &JobId, scale: LimitScale) -> Result<(), CacheError> {
        let mut limit_scales = self.limit_scales.lock().unwrap_or_else(PoisonError::into_inner);
        if limit_scales.len() >= self.half * 2 {
            limit_scales.clear();
        }
        limit_scales.insert(job.clone(), scale);
        Ok(())
    }

    async fn spend(&self, day: Day, texts: u64, budget: u64) -> Result<Option<u64>, CacheError> {
        let mut embedded = self.embedded.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = embedded.filter(|(of, _)| *of == day).map_or(0, |(_, spent)| spent);
        let left = budget.checked_sub(spent.saturating_add(texts));
        if left.is_some() {
            *embedded = Some((day, spent + texts));
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(n: u8) -> KnownError {
        let fingerprint = Fingerprint::from_bytes([n; 32]);
        KnownError { fingerprint, category: None, vector: vec![1.0], model: "m".into() }
    }

    #[tokio::test]
    async fn it_is_bounded_and_keeps_what_is_used() {
        let cache = MemoryCache::new(10);
        cache.put(&[error(0)]).await.unwrap();
        for n in 1..100 {
            cache.put(&[error(n)]).await.unwrap();
            assert!(cache.with(|g| g.young.len() + g.old.len()) <= 10);
            assert_eq!(cache.get(&[error(0).fingerprint]).await.unwrap(), [Some(error(0))], "used after {n}");
        }
        let known: Vec<u8> = (0..100u8)
            .filter(|n| {
                cache.with(|g| {
                    g.young.contains_key(&error(*n).fingerprint) || g.old.contains_key(&error(*n).fingerprint)
                })
            })
            .collect();
        assert!((97..100).all(|n| known.contains(&n)), "{known:?}");
    }
}
