//! Errors in, what is known of them out.
//!
//! A failed attempt's text becomes a [`fingerprint`], and once for each fingerprint a vector by an [`Embedder`] of its
//! [`gloss`]; the vector is put into one of the team's [`categories`].
//!
//! To work out what an error means costs an embedding; the [`ErrorCache`] saves it for errors that any process has met
//! lately.

pub mod cache;
pub mod categories;
pub mod embed;
pub mod evaluate;
pub mod fingerprint;
pub mod gloss;
pub mod library;
mod mask;
mod shapes;

use async_trait::async_trait;

pub use embed::{EmbedError, Embedder};

use crate::domain::{Fingerprint, KnownError};

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

/// What is known of errors, shared by all processes. It forgets: whatever is missing can be worked out again, so who
/// gets an error from it goes on as if nothing had been found.
#[async_trait]
pub trait ErrorCache: Send + Sync + 'static {
    /// What is known of these errors, in the same order.
    ///
    /// # Errors
    /// When the cache can't be reached.
    async fn get(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<KnownError>>, CacheError>;

    /// Remembers these, in place of what was known of them.
    ///
    /// # Errors
    /// When the cache can't be reached; some of them may be remembered.
    async fn put(&self, errors: &[KnownError]) -> Result<(), CacheError>;
}
