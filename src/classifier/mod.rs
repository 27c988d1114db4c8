//! Finds the categories of new errors: beside the projector, in the process that leads, under the same term.
//!
//! ```text
//! projector ──errors seen──> cache, store ──unknown──> embed in batches ──> match ──> store ──> cache
//!           ──look again───> all errors that the aggregates name: match anew by their known vectors
//! ```
//! Neither a job nor the fold of history waits for it. While the embedder is away, errors stay unknown in
//! the store, which statistics show as pending; the classifier works them out when it is back. An error
//! is embedded once ever: its vector is kept, so that changed categories cost nothing but arithmetic.

mod pending;
mod rules;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::{Fingerprint, KnownError};
use crate::events::Cursor;
use crate::failures::categories::Matcher;
use crate::failures::{EmbedError, Embedder, ErrorCache};
use crate::logging::chain;
use crate::metrics::METRICS;
use crate::projector::{ErrorFeedReceiver, Lead};
use crate::reconnect::ReconnectBackoff;
use crate::store::{
    ErrorRecord, History, Knowledge, Learned, Projection, StoreError, StoreErrorKind, Term, all_errors,
};
use pending::{Pending, Unknown};
use rules::{MatcherParts, Rules};

/// How many errors are read from cache and store at once.
const AT_ONCE: usize = 256;
/// How many errors are remembered as known, to be spared a look when they are seen again.
const REMEMBERED: usize = 100_000;
/// The longest wait for an embedder that refuses: its operator may have put it right.
const REFUSED: Duration = Duration::from_secs(300);

/// How a classifier works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierSettings {
    /// How near an error must be to its nearest category, as a similarity, unless the categories
    /// set a threshold themselves.
    pub threshold: f32,
    /// How many texts are embedded at once, in one request. With more of them, a request that fails
    /// would take with it the vectors that others had got.
    pub batch: usize,
    /// The waits between tries to reach the embedder or the store: the first, and the longest.
    pub waits: (Duration, Duration),
}

impl ClassifierSettings {
    /// The usual settings, with waits of 1 second to 2 minutes.
    pub fn new(threshold: f32, batch: usize) -> Self {
        Self { threshold, batch, waits: (Duration::from_secs(1), Duration::from_secs(120)) }
    }
}

/// Finds the categories of errors.
pub struct Classifier {
    /// The store, for reading: errors, aggregates and categories.
    pub history: Arc<dyn History>,
    /// The store, for writing down what was learned of errors.
    pub projection: Arc<dyn Projection>,
    /// Keeps what was learned for all processes.
    pub cache: Arc<dyn ErrorCache>,
    /// Turns texts into vectors.
    pub embedder: Arc<dyn Embedder>,
    /// How near, how many at once, and how long to wait.
    pub settings: ClassifierSettings,
}

/// An error that interrupts the work under a term.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("history can't be used")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Embedder(#[from] EmbedError),
}

/// The reason why the classifier woke up.
enum ClassifierWakeup {
    Seen(Vec<Fingerprint>),
    Again,
    Due,
    Over,
}

impl Classifier {
    /// Works whenever the projector that `feed` listens to leads, until `stop`. No
    /// failure ends this function. At the stop it finishes the look in hand, and gives the embedder
    /// two seconds more for its answer. No [`crate::background::BackgroundLoop`]: a run lasts for a
    /// whole term, and waits for errors, for changed categories and for the embedder at once.
    pub async fn run(self, mut feed: ErrorFeedReceiver, stop: CancellationToken) {
        let (first, most) = self.settings.waits;
        let mut waits = ReconnectBackoff::new(first, most);
        loop {
            let lead = tokio::select! {
                () = stop.cancelled() => return,
                lead = feed.lead.wait_for(|lead| lead.term.is_some()) => match lead {
                    Ok(lead) => lead.clone(),
                    Err(_) => return,
                },
            };
            let Some(term) = lead.term.clone() else { continue };
            let mut term_work = TermWork { on: &self, term, lead, pending: Pending::default(), done: HashSet::new() };
            let ended = term_work.work(&mut feed, &stop, &mut waits).await;
            let pause = match ended {
                Ok(()) => continue,
                Err(Interrupted::Store(error)) if error.kind == StoreErrorKind::Fenced => first,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "errors can't be categorised; trying again");
                    waits.next_wait().max(retry_after(&error))
                }
            };
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }
}

fn retry_after(error: &Interrupted) -> Duration {
    match error {
        Interrupted::Store(_) => Duration::ZERO,
        Interrupted::Embedder(error) => error.retry_after().unwrap_or(REFUSED),
    }
}

/// Work under one term.
struct TermWork<'a> {
    on: &'a Classifier,
    term: Term,
    lead: Lead,
    pending: Pending,
    /// Errors whose knowledge is in the store and of the current rules.
    done: HashSet<Fingerprint>,
}

impl TermWork<'_> {
    /// Works until the term ends or `stop`.
    async fn work(
        &mut self,
        feed: &mut ErrorFeedReceiver,
        stop: &CancellationToken,
        waits: &mut ReconnectBackoff,
    ) -> Result<(), Interrupted> {
        loop {
            // The reads below see every change that was announced before this line.
            self.lead = feed.lead.borrow_and_update().clone();
            if self.lead.term.as_ref() != Some(&self.term) {
                return Ok(());
            }
            let rules = self.rules().await?;
            if !self.on.embedder.is_local() {
                // A server that can't be asked is to be known from the start, not from the first failure.
                self.matcher(&rules, stop).await?;
            }
            self.done.clear();
            self.categorise(&self.all().await?, &rules, stop).await?;
            waits.reset();
            if self.follow(&rules, feed, stop, waits).await? {
                return Ok(());
            }
        }
    }

    /// Follows the feed. Answers false when everything must be looked at again, and true when
    /// the term is over.
    async fn follow(
        &mut self,
        rules: &Rules,
        feed: &mut ErrorFeedReceiver,
        stop: &CancellationToken,
        waits: &mut ReconnectBackoff,
    ) -> Result<bool, Interrupted> {
        let mut due = Instant::now();
        loop {
            METRICS.server.set_pending_errors(self.pending.len());
            match self.next_wakeup(feed, stop, due).await {
                ClassifierWakeup::Over => return Ok(true),
                ClassifierWakeup::Again => return Ok(false),
                ClassifierWakeup::Seen(errors) => self.categorise(&errors, rules, stop).await?,
                ClassifierWakeup::Due => match self.embed(rules, stop).await? {
                    None => {
                        waits.reset();
                        due = Instant::now();
                    }
                    Some(error) => {
                        let pause = waits.next_wait().max(error.retry_after().unwrap_or(REFUSED));
                        let seconds = pause.as_secs();
                        tracing::warn!(
                            error = chain(&error),
                            pending = self.pending.len(),
                            seconds,
                            "errors wait for the embedder"
                        );
                        due = Instant::now() + pause;
                    }
                },
            }
        }
    }

    async fn next_wakeup(
        &self,
        feed: &mut ErrorFeedReceiver,
        stop: &CancellationToken,
        due: Instant,
    ) -> ClassifierWakeup {
        let (ours, rounds) = (&self.term, self.lead.rounds);
        tokio::select! {
            biased;
            () = stop.cancelled() => ClassifierWakeup::Over,
            lead = feed.lead.wait_for(|lead| lead.term.as_ref() != Some(ours) || lead.rounds != rounds) => match lead {
                Ok(lead) if lead.term.as_ref() == Some(ours) => ClassifierWakeup::Again,
                _ => ClassifierWakeup::Over,
            },
            errors = received(&mut feed.errors) => ClassifierWakeup::Seen(errors),
            () = tokio::time::sleep_until(due), if !self.pending.is_empty() => ClassifierWakeup::Due,
        }
    }

    async fn rules(&self) -> Result<Rules, StoreError> {
        let categories = self.on.history.categories().await?;
        let threshold = categories.threshold.unwrap_or(self.on.settings.threshold);
        Ok(Rules::publish(categories, threshold, self.on.embedder.model(), &*self.on.cache).await)
    }

    async fn matcher<'r>(&self, rules: &'r Rules, stop: &CancellationToken) -> Result<&'r Matcher, EmbedError> {
        let on = self.on;
        let with = MatcherParts { embedder: &*on.embedder, cache: &*on.cache, batch: on.settings.batch };
        unless_stopped(stop, rules.matcher(with)).await
    }

    /// Every error that an aggregate names.
    async fn all(&self) -> Result<Vec<Fingerprint>, StoreError> {
        Ok(all_errors(&*self.on.history).await?.into_iter().collect())
    }

    /// Matches the errors that have a vector with the categories of now, and notes the others as pending.
    async fn categorise(
        &mut self,
        errors: &[Fingerprint],
        rules: &Rules,
        stop: &CancellationToken,
    ) -> Result<(), Interrupted> {
        let is_new = |f: &&Fingerprint| **f != Fingerprint::OTHER && !self.done.contains(*f) && !self.pending.holds(f);
        let new: Vec<_> = errors.iter().filter(is_new).copied().collect();
        for chunk in new.chunks(AT_ONCE) {
            let cached = self.cached(chunk).await;
            let records = self.on.history.errors(chunk).await?;
            let mut with_vectors = Vec::new();
            for (record, cached) in records.into_iter().zip(cached) {
                // The projector names the error again when it is in the store.
                let Some(record) = record else { continue };
                match self.vector(&record, cached) {
                    Some(vector) => with_vectors.push((record, vector)),
                    None => self.pending.add(Unknown::new(&record.seen)),
                }
            }
            let mut learned = Vec::new();
            if !with_vectors.is_empty() {
                let matcher = self.matcher(rules, stop).await?;
                let reconsider = |(record, vector)| self.reconsider(&record, vector, matcher, rules.revision());
                learned.extend(with_vectors.into_iter().filter_map(reconsider));
            }
            self.learn(learned).await?;
            self.remember(chunk.iter().copied());
        }
        Ok(())
    }

    /// What the cache knows of these errors; nothing when it is away.
    async fn cached(&self, errors: &[Fingerprint]) -> Vec<Option<KnownError>> {
        match self.on.cache.get(errors).await {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(error = chain(&error), "the cache of errors is away");
                vec![None; errors.len()]
            }
        }
    }

    /// The error's vector of the current model, if the cache or the store has it.
    fn vector(&self, record: &ErrorRecord, cached: Option<KnownError>) -> Option<Vec<f32>> {
        let model = self.on.embedder.model();
        let cached = cached.filter(|known| known.model == model).map(|known| known.vector);
        let stored =
            || record.knowledge.as_ref().filter(|known| known.model == model).map(|known| known.vector.clone());
        cached.or_else(stored)
    }

    /// What there is to learn of an error that has a vector; nothing when the store knows it already.
    fn reconsider(
        &self,
        record: &ErrorRecord,
        vector: Vec<f32>,
        matcher: &Matcher,
        revision: Cursor,
    ) -> Option<Learned> {
        let learned = self.judge(record.seen.fingerprint, vector, matcher, revision);
        let is_known = record.knowledge.as_ref().is_some_and(|known| {
            let Knowledge { model, category, similarity, .. } = &learned.knowledge;
            known.model == *model && known.category == *category && (known.similarity - similarity).abs() < 1e-6
        });
        (!is_known).then_some(learned)
    }

    fn judge(&self, fingerprint: Fingerprint, vector: Vec<f32>, matcher: &Matcher, revision: Cursor) -> Learned {
        let found = matcher.nearest(&vector);
        METRICS.failures.classified(fingerprint, found.category.as_ref().map(|category| category.as_str()));
        let model = self.on.embedder.model().to_owned();
        let (category, similarity) = (found.category, found.similarity);
        Learned { fingerprint, knowledge: Knowledge { model, vector, category, similarity, revision } }
    }

    /// Embeds the errors that have waited longest. Answers the error when the embedder could not do that.
    async fn embed(&mut self, rules: &Rules, stop: &CancellationToken) -> Result<Option<EmbedError>, StoreError> {
        let batch = self.pending.next(self.on.settings.batch);
        let texts: Vec<String> = batch.iter().map(|unknown| unknown.text.clone()).collect();
        let matcher = match self.matcher(rules, stop).await {
            Ok(matcher) => matcher,
            Err(error) => {
                self.pending.put_back(batch);
                return Ok(Some(error));
            }
        };
        let vectors = match unless_stopped(stop, self.on.embedder.embed(&texts)).await {
            Ok(vectors) if vectors.len() == texts.len() => vectors,
            Ok(_) => {
                let problem = "it gave another number of vectors than it got texts".to_owned();
                self.pending.put_back(batch);
                return Ok(Some(EmbedError::Garbage { problem }));
            }
            Err(error) => {
                self.pending.put_back(batch);
                return Ok(Some(error));
            }
        };
        let judge =
            |(unknown, vector): (&Unknown, _)| self.judge(unknown.fingerprint, vector, matcher, rules.revision());
        let judged = batch.iter().zip(vectors).map(judge);
        let learned: Vec<_> = judged.collect();
        if let Err(error) = self.learn(learned.clone()).await {
            // The next classifier that tries finds the vectors in the cache, and need not pay for them again.
            self.put(&learned).await;
            return Err(error);
        }
        self.pending.has_passed();
        self.remember(batch.into_iter().map(|unknown| unknown.fingerprint));
        Ok(None)
    }

    /// Writes to the store first: the cache forgets, and with it what only the cache had.
    async fn learn(&self, learned: Vec<Learned>) -> Result<(), StoreError> {
        for part in learned.chunks(AT_ONCE) {
            self.on.projection.learn(&self.term, part).await?;
            self.put(part).await;
        }
        Ok(())
    }

    async fn put(&self, learned: &[Learned]) {
        let known = learned.iter().map(|Learned { fingerprint, knowledge }| KnownError {
            fingerprint: *fingerprint,
            category: knowledge.category.as_ref().map(ToString::to_string),
            vector: knowledge.vector.clone(),
            model: knowledge.model.clone(),
        });
        if let Err(error) = self.on.cache.put(&known.collect::<Vec<_>>()).await {
            tracing::debug!(error = chain(&error), "the cache of errors is away");
        }
    }

    fn remember(&mut self, errors: impl Iterator<Item = Fingerprint>) {
        if self.done.len() > REMEMBERED {
            self.done.clear();
        }
        let pending = &self.pending;
        self.done.extend(errors.filter(|f| !pending.holds(f)));
    }
}

/// Waits for the embedder, but not long once the process is to stop: vectors that are paid
/// for should be used.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    embedding: impl Future<Output = Result<T, EmbedError>>,
) -> Result<T, EmbedError> {
    const GRACE: Duration = Duration::from_secs(2);
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        done = embedding => done,
        () = over => Err(EmbedError::Away { problem: "this process stops".to_owned(), after: None }),
    }
}

/// Receives the next errors, with all that have come meanwhile, each once.
async fn received(errors: &mut mpsc::Receiver<Vec<Fingerprint>>) -> Vec<Fingerprint> {
    let Some(mut all) = errors.recv().await else { return std::future::pending().await };
    while let Ok(more) = errors.try_recv() {
        all.extend(more);
    }
    all.sort_unstable();
    all.dedup();
    all
}
