//! The port of the caches of known errors, and the caches: of one process, of the processes that share a data
//! directory, and of all.

pub mod embedded;
pub mod memory;
pub mod redis;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::{Category, Day, Fingerprint, JobId, KnownError, LimitScale};

/// Why the cache could not do its work. There is one kind: it can't be reached, and another try may work.
#[derive(Debug, thiserror::Error)]
#[error("the cache of known errors can't be reached")]
pub struct CacheError {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl CacheError {
    /// Unavailable, for this cause.
    pub fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: cause.into() }
    }
}

/// Knowledge of errors that all processes share. The cache forgets: whatever is missing can be
/// worked out again. So a caller that gets an error from it goes on as if nothing had been found.
#[async_trait]
pub trait ErrorCache: Send + Sync + 'static {
    /// Gets the knowledge of these errors, in the same order; `None` for an error that the cache does not have.
    ///
    /// # Errors
    /// When the cache can't be reached.
    async fn get(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<KnownError>>, CacheError>;

    /// Remembers these errors, in place of what was known of them.
    ///
    /// # Errors
    /// When the cache can't be reached; some of them may be remembered.
    async fn put(&self, errors: &[KnownError]) -> Result<(), CacheError>;

    /// The categories that were published last. Unlike errors they are not forgotten.
    ///
    /// # Errors
    /// When the cache can't be reached.
    async fn published(&self) -> Result<Option<PublishedCategories>, CacheError>;

    /// Publishes the categories, for processes that must decide at once and can't ask the store.
    ///
    /// # Errors
    /// When the cache can't be reached.
    async fn publish(&self, categories: &PublishedCategories) -> Result<(), CacheError>;

    /// How many times its usual limits the next attempt of this job gets, if that was noted.
    ///
    /// # Errors
    /// When the cache can't be reached.
    async fn limit_scale(&self, job: &JobId) -> Result<Option<LimitScale>, CacheError>;

    /// Notes how many times its usual limits the next attempt of this job gets, in place of an earlier note.
    ///
    /// # Errors
    /// When the cache can't be reached.
    async fn put_limit_scale(&self, job: &JobId, scale: LimitScale) -> Result<(), CacheError>;

    /// Takes so many texts out of the day's budget of embedded texts, which all processes share.
    /// Answers how many are left then; `None` when fewer are left than wanted, and then nothing is taken.
    ///
    /// # Errors
    /// When the cache can't be reached.
    async fn spend(&self, day: Day, texts: u64, budget: u64) -> Result<Option<u64>, CacheError>;
}

/// The categories by which errors are judged now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedCategories {
    /// The model whose vectors are compared.
    pub model: String,
    /// How near an error must be to its nearest category.
    pub threshold: f32,
    /// The categories, with their descriptions and examples.
    pub categories: Vec<Category>,
}
