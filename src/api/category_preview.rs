//! Finds the category of a text for a client that asks.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::problem::ApiError;
use crate::failures::categories::{DEFAULT_THRESHOLD, Matcher};
use crate::failures::codes::expand_codes;
use crate::failures::{EmbedError, Embedder};
use crate::store::Categories;

/// A matcher, and the categories that it was made of.
type Made = (Categories, Arc<Matcher>);

/// The embedder, if this server has one, and a matcher for the categories.
#[derive(Clone)]
pub struct CategoryPreview {
    embedder: Option<Arc<dyn Embedder>>,
    /// How near an error must be to its nearest category, unless a client has set a threshold.
    pub(super) threshold: f32,
    matcher: Arc<Mutex<Option<Made>>>,
}

impl Default for CategoryPreview {
    fn default() -> Self {
        Self { embedder: None, threshold: DEFAULT_THRESHOLD, matcher: Arc::default() }
    }
}

impl CategoryPreview {
    /// Uses this embedder and this threshold.
    pub fn new(embedder: Arc<dyn Embedder>, threshold: f32) -> Self {
        Self { embedder: Some(embedder), threshold, ..Self::default() }
    }

    /// The model whose vectors it compares; empty without an embedder.
    pub(super) fn model(&self) -> &str {
        self.embedder.as_ref().map_or("", |embedder| embedder.model())
    }

    /// The vector of a text.
    pub(super) async fn vector(&self, text: &str) -> Result<Vec<f32>, ApiError> {
        let mut vectors = self.vectors(&[text.to_owned()]).await?;
        vectors.pop().ok_or_else(|| ApiError::internal("the embedder gave no vector"))
    }

    pub(super) async fn vectors(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, ApiError> {
        const AT_ONCE: usize = 64;
        let Some(embedder) = &self.embedder else {
            return Err(ApiError::internal("this server was started without an embedder"));
        };
        let texts: Vec<String> = texts.iter().map(|text| expand_codes(text).into_owned()).collect();
        let mut vectors = Vec::with_capacity(texts.len());
        for part in texts.chunks(AT_ONCE) {
            vectors.extend(embedder.embed(part).await?);
        }
        if vectors.len() == texts.len() { Ok(vectors) } else { Err(ApiError::internal("the embedder miscounted")) }
    }

    /// Returns a matcher of these categories. Makes a new one only when they have changed.
    pub(super) async fn matcher(&self, categories: &Categories) -> Result<Arc<Matcher>, ApiError> {
        let mut known = self.matcher.lock().await;
        if let Some((of, matcher)) = &*known
            && of == categories
        {
            return Ok(matcher.clone());
        }
        let vectors = self.vectors(&Matcher::texts(&categories.categories)).await?;
        let threshold = self.threshold_of(categories);
        let fitted = Matcher::fit(categories.categories.clone(), vectors, threshold).await;
        let matcher = Arc::new(fitted.ok_or_else(|| ApiError::internal("the categories could not be compared"))?);
        *known = Some((categories.clone(), matcher.clone()));
        Ok(matcher)
    }

    /// How near an error must be to its nearest category.
    pub(super) fn threshold_of(&self, categories: &Categories) -> f32 {
        categories.threshold.unwrap_or(self.threshold)
    }
}

impl From<EmbedError> for ApiError {
    fn from(error: EmbedError) -> Self {
        match error {
            EmbedError::Away { .. } | EmbedError::Budget { .. } => Self::unavailable("embedder_unavailable", &error),
            EmbedError::Refused { .. } | EmbedError::Garbage { .. } => Self::internal(error.to_string()),
        }
    }
}
