//! The categories of now as a matcher: their texts embedded, each once.

use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::domain::{Fingerprint, KnownError};
use crate::events::Cursor;
use crate::failures::categories::Matcher;
use crate::failures::codes::expand_codes;
use crate::failures::{EmbedError, Embedder, ErrorCache, PublishedCategories};
use crate::store::Categories;

/// The categories as errors are judged by them.
pub(super) struct Rules {
    categories: Categories,
    threshold: f32,
    matcher: OnceCell<Matcher>,
}

/// What a matcher is made with.
pub(super) struct MatcherParts<'a> {
    pub(super) embedder: &'a dyn Embedder,
    pub(super) cache: &'a dyn ErrorCache,
    /// How many texts are embedded at once.
    pub(super) batch: usize,
}

impl Rules {
    /// Rules of these categories, which are published to the processes that decide without the store.
    pub(super) async fn publish(categories: Categories, threshold: f32, model: &str, cache: &dyn ErrorCache) -> Self {
        let published =
            PublishedCategories { model: model.to_owned(), threshold, categories: categories.categories.clone() };
        if let Err(error) = cache.publish(&published).await {
            tracing::debug!(%error, "the categories could not be published; policies by category wait for the next time");
        }
        Self { categories, threshold, matcher: OnceCell::new() }
    }

    /// The cursor of the state of the categories that these rules are of.
    pub(super) fn revision(&self) -> Cursor {
        self.categories.revision
    }

    /// The matcher. The first call makes it, which takes a moment of all that a core can do, and the texts of the
    /// categories embedded, each once: not for a server on which nothing fails.
    ///
    /// # Errors
    /// Those of the embedder.
    pub(super) async fn matcher(&self, with: MatcherParts<'_>) -> Result<&Matcher, EmbedError> {
        self.matcher.get_or_try_init(|| make(&self.categories, self.threshold, with)).await
    }
}

/// Makes a matcher of the categories: embeds the texts that the cache does not have.
async fn make(
    categories: &Categories,
    threshold: f32,
    MatcherParts { embedder, cache, batch }: MatcherParts<'_>,
) -> Result<Matcher, EmbedError> {
    let texts: Vec<String> =
        Matcher::texts(&categories.categories).iter().map(|text| expand_codes(text).into_owned()).collect();
    let keys: Vec<_> = texts.iter().map(|text| key(text)).collect();
    let model = embedder.model();
    let cached = cache.get(&keys).await.unwrap_or_else(|_| vec![None; keys.len()]);
    let mut vectors: Vec<Option<Vec<f32>>> =
        cached.into_iter().map(|known| known.filter(|k| k.model == model).map(|k| k.vector)).collect();
    let missing: Vec<usize> = (0..texts.len()).filter(|i| vectors[*i].is_none()).collect();
    for part in missing.chunks(batch.max(1)) {
        let asked: Vec<String> = part.iter().map(|i| texts[*i].clone()).collect();
        let got = embedder.embed(&asked).await?;
        if got.len() != asked.len() {
            let problem = "it gave another number of vectors than it got texts".to_owned();
            return Err(EmbedError::Garbage { problem });
        }
        let known = part.iter().zip(&got).map(|(i, vector)| KnownError {
            fingerprint: keys[*i],
            category: None,
            vector: vector.clone(),
            model: model.to_owned(),
        });
        // Without the cache these texts are embedded again next time.
        let _ = cache.put(&known.collect::<Vec<_>>()).await;
        part.iter().zip(got).for_each(|(i, vector)| vectors[*i] = Some(vector));
    }
    let vectors: Vec<Vec<f32>> = vectors.into_iter().flatten().collect();
    let fitted = Matcher::fit(categories.categories.clone(), vectors, threshold).await;
    fitted.ok_or_else(|| EmbedError::Garbage { problem: "its vectors could not be compared".to_owned() })
}

/// The key of a category's text in the cache. No error has this fingerprint, since it is the
/// digest of another text.
fn key(text: &str) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(format!("text of a category\0{text}")).into())
}
