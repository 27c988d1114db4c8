//! The categories of now as a matcher: their texts embedded, each once.

use sha2::{Digest, Sha256};

use crate::domain::{Fingerprint, KnownError};
use crate::events::Cursor;
use crate::failures::categories::Matcher;
use crate::failures::codes::expand_codes;
use crate::failures::{EmbedError, Embedder, ErrorCache, PublishedCategories};
use crate::store::Categories;

/// The categories as errors are judged by them.
pub(super) struct Rules {
    pub(super) matcher: Matcher,
    /// The cursor of the state of the categories that these rules were made from.
    pub(super) revision: Cursor,
}

/// Makes rules of the categories: embeds the texts that the cache does not have, and publishes the
/// categories to the processes that decide without the store.
///
/// # Errors
/// Those of the embedder.
pub(super) async fn make(
    categories: Categories,
    threshold: f32,
    embedder: &dyn Embedder,
    cache: &dyn ErrorCache,
    batch: usize,
) -> Result<Rules, EmbedError> {
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
    let published = PublishedCategories { model: model.to_owned(), threshold, categories: categories.categories };
    let fitted = Matcher::fit(published.categories.clone(), vectors, threshold).await;
    let matcher =
        fitted.ok_or_else(|| EmbedError::Garbage { problem: "its vectors could not be compared".to_owned() })?;
    if let Err(error) = cache.publish(&published).await {
        tracing::debug!(%error, "the categories could not be published; policies by category wait for the next time");
    }
    Ok(Rules { matcher, revision: categories.revision })
}

/// The key of a category's text in the cache. No error has this fingerprint, since it is the
/// digest of another text.
fn key(text: &str) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(format!("text of a category\0{text}")).into())
}
