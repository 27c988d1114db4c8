//! Knowledge of errors: fingerprints, categories, vectors.
//!
//! A failed attempt's text becomes a [`fingerprint`]. Once for each fingerprint an [`Embedder`]
//! makes a vector of the text with its [`codes`] in words, and the vector is put into one of the [`categories`].
//!
//! Working out what an error means costs an embedding. The [`ErrorCache`] saves that for errors
//! that any process has met lately.

pub mod cache;
pub mod categories;
pub mod codes;
pub mod embed;
pub mod evaluate;
pub mod fingerprint;
pub mod library;
mod mask;
mod shapes;

pub use cache::{CacheError, ErrorCache, PublishedCategories};
pub use embed::{EmbedError, Embedder};
