//! Finds the category of an error at once, with a matcher made of the published categories.
//!
//! A matcher takes long to make, so no attempt ever waits for one. The worker makes it before it takes its
//! first job, and anew beside the attempts when the categories change. Until then the old one applies.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::CategoryId;
use crate::failures::categories::Matcher;
use crate::failures::codes::expand_codes;
use crate::failures::{Embedder, ErrorCache, PublishedCategories};
use crate::reconnect::ReconnectBackoff;

/// The time between two looks at whether the categories have changed.
const EVERY: Duration = Duration::from_secs(3);
/// How long a worker waits for the categories before it works without.
const PREPARATION: Duration = Duration::from_secs(10);

/// A matcher that is only half made changes nothing.
const REFRESH: BackgroundLoop = BackgroundLoop::new("policy categories", Period::Every(EVERY))
    .debug("the categories can't be read; those known last hold", "the categories can be read again")
    .drop_run();

/// Finds categories with an embedder that answers at once.
pub(super) struct PolicyClassifier {
    cache: Arc<dyn ErrorCache>,
    embedder: Arc<dyn Embedder>,
    /// The categories of a new installation, which apply until a classifier has published others.
    unpublished: PublishedCategories,
    now: RwLock<Option<Arc<CompiledCategories>>>,
}

/// The categories as they were published, and the matcher made of them.
struct CompiledCategories {
    published: PublishedCategories,
    /// `None` when the categories are for the vectors of another model.
    matcher: Option<Matcher>,
}

impl PolicyClassifier {
    pub(super) fn new(
        cache: Arc<dyn ErrorCache>,
        embedder: Arc<dyn Embedder>,
        unpublished: PublishedCategories,
    ) -> Self {
        Self { cache, embedder, unpublished, now: RwLock::default() }
    }

    /// The category of an attempt's error. `None` also while the worker doesn't know the categories.
    pub(super) async fn category(&self, text: &str) -> Option<CategoryId> {
        let known = self.now()?;
        let matcher = known.matcher.as_ref()?;
        let vector = self.embedder.embed(&[expand_codes(text).into_owned()]).await.ok()?.pop()?;
        matcher.nearest(&vector).category
    }

    /// Reads the categories. Gives up when they can't be read for [`PREPARATION`].
    pub(super) async fn prepare(&self) {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(200), Duration::from_secs(2));
        let learned = async {
            while let Err(error) = self.refresh().await {
                tracing::debug!(error, "the categories can't be read; trying again");
                tokio::time::sleep(waits.next_wait()).await;
            }
        };
        if tokio::time::timeout(PREPARATION, learned).await.is_err() {
            tracing::warn!("the categories can't be read; until they can, retries follow no policy by category");
        }
    }

    /// Follows the changes of the categories until `stop`.
    pub(super) async fn follow(&self, stop: CancellationToken) {
        let mut turns = REFRESH.start(&stop);
        while turns.run(async { Ok(self.refresh().await.map(|()| NextRun::InTurn)?) }).await {}
    }

    fn now(&self) -> Option<Arc<CompiledCategories>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the published categories, and makes a matcher if they have changed.
    async fn refresh(&self) -> Result<(), String> {
        let published = self.cache.published().await.map_err(|e| e.to_string())?;
        let published = published.unwrap_or_else(|| self.unpublished.clone());
        if self.now().is_some_and(|known| known.published == published) {
            return Ok(());
        }
        let known = if published.model == self.embedder.model() {
            self.fit(published).await?
        } else {
            tracing::warn!(
                published = published.model,
                own = self.embedder.model(),
                "the categories are for another model; only errors that the cache knows follow policies by category"
            );
            CompiledCategories { published, matcher: None }
        };
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
        Ok(())
    }

    async fn fit(&self, published: PublishedCategories) -> Result<CompiledCategories, String> {
        let texts: Vec<String> =
            Matcher::texts(&published.categories).iter().map(|text| expand_codes(text).into_owned()).collect();
        let vectors = self.embedder.embed(&texts).await.map_err(|e| e.to_string())?;
        if vectors.len() != texts.len() {
            return Err("the embedder gave another number of vectors than it got texts".to_owned());
        }
        let fitted = Matcher::fit(published.categories.clone(), vectors, published.threshold).await;
        let matcher = fitted.ok_or("the vectors of the categories could not be compared")?;
        Ok(CompiledCategories { published, matcher: Some(matcher) })
    }
}
