//! Decides by the category of a failure what follows on it: no other attempt, another wait, or more
//! time or memory for the next attempt.
//!
//! A rule applies when the worker knows the category in time: because the cache knows the error, or
//! because an embedder within this process finds it with the published categories. The worker never
//! waits for a network embedder here, and for the cache no longer than [`PATIENCE`]. Without an
//! answer it retries the job as if there were no rules.
//!
//! The next attempt may run on any worker. So the cache keeps, by job, how much more it gets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::policy_classifier::PolicyClassifier;
use crate::domain::{AttemptReport, Category, CategoryId, CategoryRule, JobId, LimitScale, Outcome, RetryPolicy};
use crate::failures::{Embedder, ErrorCache, PublishedCategories, fingerprint};

/// How long the worker waits for each answer of the cache.
const PATIENCE: Duration = Duration::from_millis(250);

/// The rules by category, and where to find the category of an error.
pub struct Policies {
    rules: BTreeMap<CategoryId, CategoryRule>,
    cache: Arc<dyn ErrorCache>,
    /// Only with an embedder that answers at once.
    classifier: Option<PolicyClassifier>,
}

impl Policies {
    /// Makes the policies from `rules`; `None` if there are none. An embedder that is not local is
    /// not asked. Until a classifier has published categories, those of a new installation apply:
    /// `seeds`, with this `threshold`.
    pub fn new(
        rules: BTreeMap<CategoryId, CategoryRule>,
        cache: Arc<dyn ErrorCache>,
        embedder: Arc<dyn Embedder>,
        seeds: Vec<Category>,
        threshold: f32,
    ) -> Option<Arc<Self>> {
        let classifier = embedder.is_local().then(|| {
            let unpublished = PublishedCategories { model: embedder.model().to_owned(), threshold, categories: seeds };
            PolicyClassifier::new(cache.clone(), embedder, unpublished)
        });
        (!rules.is_empty()).then(|| Arc::new(Self { rules, cache, classifier }))
    }

    /// Gets ready to decide. The worker takes no job before, so that even the first failure follows the rules.
    pub(super) async fn prepare(&self) {
        if let Some(classifier) = &self.classifier {
            classifier.prepare().await;
        }
    }

    /// Follows the changes of the categories until `stop`.
    pub(super) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        if let Some(classifier) = &self.classifier {
            classifier.follow(stop).await;
        }
    }

    /// The rule for the category of an attempt's error, if the category is known and has a rule.
    pub(super) async fn rule(&self, report: &AttemptReport) -> Option<&CategoryRule> {
        if report.outcome.is_success() || matches!(report.outcome, Outcome::Lost | Outcome::Cancelled) {
            return None;
        }
        let text = fingerprint::canonical_text(&report.outcome, report.error.as_deref(), report.crash.as_deref());
        self.rules.get(&self.category(&text).await?)
    }

    async fn category(&self, text: &str) -> Option<CategoryId> {
        let fingerprint = [fingerprint::of(text)];
        let cached = tokio::time::timeout(PATIENCE, self.cache.get(&fingerprint)).await;
        let known = cached.ok().and_then(Result::ok).and_then(|mut known| known.pop().flatten());
        match (known, &self.classifier) {
            (Some(known), _) => known.category.and_then(|id| id.parse().ok()),
            (None, Some(classifier)) => classifier.category(&fingerprint::without_place(text)).await,
            (None, None) => None,
        }
    }

    /// The scale of the time and memory limits of the job's next attempt.
    pub(super) async fn limit_scale(&self, job: &JobId) -> LimitScale {
        if !self.rules.values().any(CategoryRule::scales_limits) {
            return LimitScale::default();
        }
        let known = tokio::time::timeout(PATIENCE, self.cache.limit_scale(job)).await;
        known.ok().and_then(Result::ok).flatten().unwrap_or_default()
    }

    /// Raises the limits of the job's next attempt, if the rule says so.
    pub(super) async fn give_more(&self, job: &JobId, rule: &CategoryRule) {
        if !rule.scales_limits() {
            return;
        }
        let more = self.limit_scale(job).await.by(rule);
        let noted = tokio::time::timeout(PATIENCE, self.cache.put_limit_scale(job, more)).await;
        if !matches!(noted, Ok(Ok(()))) {
            tracing::warn!(%job, "the next attempt runs under the usual limits: more could not be noted");
        }
    }
}

/// Changes the policy as the rule demands.
pub(super) fn lay_over(policy: &mut RetryPolicy, rule: &CategoryRule) {
    if !rule.retry {
        policy.attempts = 0;
    }
    if let Some(backoff) = &rule.backoff {
        policy.backoff.clone_from(backoff);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry::decide;
    use crate::domain::{Backoff, BackoffKind, KnownError, Timestamp, Verdict};
    use crate::failures::EmbedError;
    use crate::failures::cache::memory::MemoryCache;

    /// An embedder that tells two meanings apart: about disks, or not.
    struct Disks;

    #[async_trait::async_trait]
    impl Embedder for Disks {
        fn model(&self) -> &str {
            "disks"
        }
        fn dimension(&self) -> usize {
            2
        }
        fn is_local(&self) -> bool {
            true
        }
        async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
            Ok(texts.iter().map(|t| if t.contains("disk") { vec![1.0, 0.0] } else { vec![0.0, 1.0] }).collect())
        }
    }

    fn report(error: &str) -> AttemptReport {
        let t = Timestamp::from_millis(0);
        AttemptReport::bare(Outcome::Exit { code: 1 }, t, t, error)
    }

    fn rule() -> CategoryRule {
        CategoryRule { retry: false, timeout_factor: 2.0, ..CategoryRule::default() }
    }

    fn category(description: &str) -> Category {
        Category {
            id: "disk".parse().unwrap(),
            name: "It".to_owned(),
            description: description.to_owned(),
            examples: vec![],
        }
    }

    fn published(description: &str) -> PublishedCategories {
        PublishedCategories { model: "disks".to_owned(), threshold: 0.5, categories: vec![category(description)] }
    }

    fn policies(cache: &Arc<MemoryCache>) -> Arc<Policies> {
        let rules = [("disk".parse().unwrap(), rule())].into();
        let seeds = vec![category("a disk is broken")];
        Policies::new(rules, cache.clone(), Arc::new(Disks), seeds, 0.5).unwrap()
    }

    #[tokio::test]
    async fn a_rule_holds_as_soon_as_the_category_is_known() {
        let cache = MemoryCache::new(100);
        let policies = policies(&cache);
        policies.prepare().await;
        assert_eq!(
            policies.rule(&report("disk is full")).await,
            Some(&rule()),
            "of a new installation, by the embedder"
        );
        assert_eq!(policies.rule(&report("segmentation fault")).await, None);
        let text = fingerprint::canonical_text(&Outcome::Exit { code: 1 }, Some("odd"), None);
        let (fingerprint, category) = (fingerprint::of(&text), Some("disk".to_owned()));
        let known = KnownError { fingerprint, category, vector: vec![], model: "any".to_owned() };
        cache.put(&[known]).await.unwrap();
        assert_eq!(policies.rule(&report("odd")).await, Some(&rule()), "by the cache");
        let lost = AttemptReport { outcome: Outcome::Lost, ..report("odd") };
        assert_eq!(policies.rule(&lost).await, None, "a lost attempt is no failure of the job");
    }

    #[tokio::test(start_paused = true)]
    async fn changed_categories_are_followed() {
        let cache = MemoryCache::new(100);
        cache.publish(&published("about a disk")).await.unwrap();
        let policies = policies(&cache);
        policies.prepare().await;
        assert_eq!(policies.rule(&report("disk is full")).await, Some(&rule()), "as published");
        let (stop, tasks) = (CancellationToken::new(), tokio_util::task::TaskTracker::new());
        tasks.spawn(policies.clone().follow(stop.clone()));
        let until_gone = async |text: &str| {
            let gone = async {
                while policies.rule(&report(text)).await.is_some() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the change is followed");
        };
        cache.publish(&published("about anything else")).await.unwrap();
        until_gone("disk is full").await;
        assert_eq!(policies.rule(&report("anything")).await, Some(&rule()), "by the new ones");
        let other = PublishedCategories { model: "another".to_owned(), ..published("about anything else") };
        cache.publish(&other).await.unwrap();
        until_gone("anything").await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn more_is_given_from_attempt_to_attempt() {
        let cache = MemoryCache::new(100);
        let (first, second) = (policies(&cache), policies(&cache));
        let job = JobId::parse("a").unwrap();
        assert_eq!(first.limit_scale(&job).await, LimitScale::default());
        let rule = CategoryRule { timeout_factor: 2.0, memory_factor: 1.5, ..CategoryRule::default() };
        first.give_more(&job, &rule).await;
        assert_eq!(second.limit_scale(&job).await, LimitScale { timeout: 2.0, memory: 1.5 }, "on another worker");
        second.give_more(&job, &rule).await;
        assert_eq!(first.limit_scale(&job).await, LimitScale { timeout: 4.0, memory: 2.25 });
    }

    #[test]
    fn a_rule_ends_retries_or_changes_the_wait() {
        let policy = RetryPolicy { attempts: 3, backoff: Backoff::default(), no_retry_exit_codes: vec![] };
        let mut ended = policy.clone();
        lay_over(&mut ended, &rule());
        assert!(matches!(decide(&ended, 0, &report("x"), 0.0), Verdict::Fail { .. }));
        let mut slower = policy;
        let backoff = Backoff { kind: BackoffKind::Fixed, delay: Duration::from_secs(60), ..Backoff::default() };
        lay_over(&mut slower, &CategoryRule { backoff: Some(backoff), ..CategoryRule::default() });
        let verdict = decide(&slower, 0, &report("x"), 0.0);
        assert!(matches!(verdict, Verdict::Retry { after, .. } if after == Duration::from_secs(60)));
    }
}
