//! Failures in, categories out: projector and classifier together on the embedded adapters, with an embedder that counts
//! what it is asked and fails as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jobber::classifier::{Classifier, ClassifierSettings};
use jobber::domain::{
    AttemptNumber, AttemptReport, Category, CategoryChange, CategoryEvent, Clock, Event, EventKind, FinalState,
    Fingerprint, Job, JobId, JobOptions, Outcome, Timestamp, WorkerId,
};
use jobber::events::embedded::EmbeddedLog;
use jobber::events::{Cursor, EventSink};
use jobber::failures::cache::embedded::EmbeddedCache;
use jobber::failures::{EmbedError, Embedder, ErrorCache};
use jobber::projector::{ProjectorOutputs, ProjectorSettings, new_error_feed, new_missing_bodies, run};
use jobber::sqlite::{Durability, Sqlite};
use jobber::store::embedded::EmbeddedStore;
use jobber::store::{DayRange, ErrorRecord, History};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::eventually;

/// What an embedder does instead of answering.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Refuses, and says when to come back: 429.
    TooMany,
    /// Breaks: 500.
    Broken,
    /// Gives no answer until its caller has lost patience.
    Hangs,
    /// Gives vectors of no use.
    Garbage,
}

/// Tells texts apart by their words.
#[derive(Default)]
struct Counting {
    troubles: Mutex<VecDeque<Trouble>>,
    /// How often each text was embedded, and how many texts at once.
    embedded: Mutex<BTreeMap<String, u32>>,
    batches: Mutex<Vec<usize>>,
}

impl Counting {
    fn failing(troubles: impl IntoIterator<Item = Trouble>) -> Arc<Self> {
        Arc::new(Self { troubles: Mutex::new(troubles.into_iter().collect()), ..Self::default() })
    }

    /// Texts of failures, without those of categories.
    fn failures(&self) -> BTreeMap<String, u32> {
        self.embedded
            .lock()
            .unwrap()
            .iter()
            .filter(|(text, _)| text.contains("token"))
            .map(|(t, n)| (t.clone(), *n))
            .collect()
    }

    fn vector(text: &str) -> Vec<f32> {
        let about = |words: &[&str]| if words.iter().any(|word| text.contains(word)) { 1.0 } else { 0.0 };
        let raw = [about(&["disk", "space"]), about(&["network", "route"]), about(&["pixel", "image"]), 0.3];
        let length = raw.iter().map(|x: &f32| x * x).sum::<f32>().sqrt();
        raw.iter().map(|x| x / length).collect()
    }
}

#[async_trait]
impl Embedder for Counting {
    fn model(&self) -> &str {
        "counting"
    }

    fn dimension(&self) -> usize {
        4
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let trouble = self.troubles.lock().unwrap().pop_front();
        let away = |problem: &str, after| EmbedError::Away { problem: problem.to_owned(), after };
        match trouble {
            Some(Trouble::TooMany) => return Err(away("429", Some(Duration::from_millis(30)))),
            Some(Trouble::Broken) => return Err(away("500", None)),
            Some(Trouble::Hangs) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                return Err(away("no answer", None));
            }
            Some(Trouble::Garbage) => return Err(EmbedError::Garbage { problem: "wrong dimension".to_owned() }),
            None => {}
        }
        self.batches.lock().unwrap().push(texts.len());
        let mut embedded = self.embedded.lock().unwrap();
        texts.iter().for_each(|text| *embedded.entry(text.clone()).or_insert(0) += 1);
        Ok(texts.iter().map(|text| Self::vector(text)).collect())
    }
}

/// One process: a projector and a classifier on a shared directory.
struct Process {
    log: Arc<EmbeddedLog>,
    store: Arc<EmbeddedStore>,
    cache: Arc<EmbeddedCache>,
    stop: CancellationToken,
    tasks: TaskTracker,
    handles: Vec<tokio::task::JoinHandle<()>>,
}

impl Process {
    async fn start(dir: &Path, name: &str, embedder: Arc<Counting>) -> Self {
        let db = Sqlite::open(&dir.join("t.db"), Durability::Process).unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let log = EmbeddedLog::open(db.clone(), dir, 1_000_000).await.unwrap();
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        let cache = EmbeddedCache::open(db, 10_000).await.unwrap();
        let (error_feed, errors_seen) = new_error_feed();
        let settings = ProjectorSettings {
            ttl: Duration::from_millis(800),
            margin: Duration::from_millis(200),
            retry: Duration::from_millis(50),
            categories: vec![category("disk", "no space on disk"), category("network", "no route, network")],
            ..ProjectorSettings::new(name)
        };
        let (progress, _) = tokio::sync::watch::channel(Cursor::START);
        let outputs =
            ProjectorOutputs { progress, error_feed, missing_bodies: new_missing_bodies().0, announcer: None };
        let projector = run(log.clone(), store.clone(), settings, Clock::system(), stop.clone(), outputs);
        let waits = (Duration::from_millis(10), Duration::from_millis(50));
        let classifier = Classifier {
            history: store.clone(),
            projection: store.clone(),
            cache: cache.clone(),
            embedder,
            settings: ClassifierSettings { waits, ..ClassifierSettings::new(0.6, 16) },
        };
        let handles = vec![
            tasks.spawn(async move { projector.await.unwrap() }),
            tasks.spawn(classifier.run(errors_seen, stop.clone())),
        ];
        Self { log, store, cache, stop, tasks, handles }
    }

    /// Every error that the aggregates name.
    async fn errors(&self) -> Vec<ErrorRecord> {
        let shards = self.store.shards(DayRange::default(), None).await.unwrap();
        let all: BTreeSet<Fingerprint> = shards.iter().flat_map(|s| s.counts.failures.keys().copied()).collect();
        let all: Vec<_> = all.into_iter().collect();
        self.store.errors(&all).await.unwrap().into_iter().flatten().collect()
    }

    /// Waits until `are_done` holds for all errors.
    async fn until(&self, what: &str, are_done: impl Fn(&[ErrorRecord]) -> bool) -> Vec<ErrorRecord> {
        let patience = Duration::from_secs(60);
        let found = tokio::time::timeout(patience, async {
            loop {
                let errors = self.errors().await;
                if are_done(&errors) {
                    return errors;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("in time: {what}"))
    }

    async fn stopped(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Dies without a word.
    fn dies(self) {
        self.handles.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn category(id: &str, description: &str) -> Category {
    Category { id: id.parse().unwrap(), name: id.to_owned(), description: description.to_owned(), examples: vec![] }
}

/// A failed job that says this.
fn failure(n: usize, text: &str) -> [Event; 2] {
    let at = Timestamp::from_millis(1_000_000 + n as i64);
    let job = Arc::new(Job {
        id: JobId::parse(&format!("job-{n}")).unwrap(),
        name: "a".parse().unwrap(),
        options: JobOptions::default(),
        submitted_at: at,
        trace: None,
    });
    let outcome = Outcome::Exit { code: 1 };
    let (attempt, worker) = (AttemptNumber(1), WorkerId::parse("w").unwrap());
    let report = Box::new(AttemptReport::bare(outcome, at, at, text));
    let event = |kind| Event::new(at, job.clone(), kind);
    [
        event(EventKind::AttemptFinished { attempt, worker, report, next_at: None }),
        event(EventKind::Finished {
            attempt: Some(attempt),
            state: FinalState::Failed,
            outcome,
            result: None,
            error: Some(text.to_owned()),
        }),
    ]
}

/// One of forty texts, with a number that varies from job to job.
fn text(n: usize) -> String {
    let about =
        ["no space left on disk", "no route in the network", "bad pixel in the image", "a token was odd"][n % 4];
    let word = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"][n / 4 % 10];
    format!("{about}: token of {word} (pid {})", 1000 + n)
}

async fn append(process: &Process, range: std::ops::Range<usize>) {
    for n in range {
        process.log.append(&failure(n, &text(n))).await.unwrap();
    }
}

fn all_known(count: usize) -> impl Fn(&[ErrorRecord]) -> bool {
    move |errors| errors.len() == count && errors.iter().all(|error| error.knowledge.is_some())
}

fn by_category(errors: &[ErrorRecord]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for error in errors {
        let category = error.knowledge.as_ref().and_then(|known| known.category.as_ref());
        *counts.entry(category.map_or("none".to_owned(), ToString::to_string)).or_insert(0) += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_failures_of_forty_kinds_cost_forty_embeddings_whatever_goes_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let troubles =
        [Trouble::TooMany, Trouble::Broken, Trouble::Hangs, Trouble::Garbage, Trouble::TooMany, Trouble::Broken];
    let embedder = Counting::failing(troubles);
    let process = Process::start(dir.path(), "one", embedder.clone()).await;
    append(&process, 0..1000).await;
    let errors = process.until("all are known", all_known(40)).await;
    assert_eq!(
        by_category(&errors),
        [("disk", 10), ("network", 10), ("none", 20)].map(|(c, n)| (c.to_owned(), n)).into()
    );
    let embedded = embedder.failures();
    assert_eq!((embedded.len(), embedded.values().sum::<u32>()), (40, 40), "each kind once: {embedded:?}");
    assert!(embedder.batches.lock().unwrap().iter().any(|n| *n > 1), "in batches");
    assert!(embedder.troubles.lock().unwrap().is_empty(), "all went wrong that should");
    let fingerprints: Vec<_> = errors.iter().map(|error| error.seen.fingerprint).collect();
    eventually("the cache to have what the store has", async || {
        let cached = process.cache.get(&fingerprints).await.unwrap();
        cached.iter().all(Option::is_some).then_some(())
    })
    .await;
    process.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_embed_nothing_twice_and_a_dead_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let embedder = Counting::failing([]);
    let first = Process::start(dir.path(), "first", embedder.clone()).await;
    append(&first, 0..20).await;
    first.until("the first does its part", all_known(20)).await;
    let second = Process::start(dir.path(), "second", embedder.clone()).await;
    append(&second, 0..20).await;
    second.until("nothing is new", all_known(20)).await;
    first.dies();
    append(&second, 20..100).await;
    second.until("the second takes over", all_known(40)).await;
    let embedded = embedder.failures();
    assert_eq!((embedded.len(), embedded.values().sum::<u32>()), (40, 40), "{embedded:?}");
    second.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_categories_hold_for_the_past_and_cost_no_embedding_of_errors() {
    let dir = tempfile::tempdir().unwrap();
    let embedder = Counting::failing([]);
    let process = Process::start(dir.path(), "one", embedder.clone()).await;
    append(&process, 0..40).await;
    process.until("all are known", all_known(40)).await;
    let change = async |change| {
        let at = Timestamp::from_millis(5);
        process.log.append_change(&CategoryEvent { at, change }).await.unwrap();
    };
    let expected =
        |counts: &[(&str, usize)]| counts.iter().map(|(c, n)| ((*c).to_owned(), *n)).collect::<BTreeMap<_, _>>();
    change(CategoryChange::Added { category: category("image", "broken pixel, image") }).await;
    let counts = expected(&[("disk", 10), ("image", 10), ("network", 10), ("none", 10)]);
    process.until("the new one has its errors", |errors| by_category(errors) == counts).await;
    change(CategoryChange::Removed { id: "disk".parse().unwrap() }).await;
    let counts = expected(&[("image", 10), ("network", 10), ("none", 20)]);
    process.until("the old one has none", |errors| by_category(errors) == counts).await;
    change(CategoryChange::ThresholdSet { threshold: Some(0.9999) }).await;
    process
        .until("nothing is near enough", |errors| {
            errors.iter().all(|e| e.knowledge.as_ref().is_some_and(|k| k.category.is_none() || k.similarity >= 0.9999))
        })
        .await;
    assert_eq!(embedder.failures().values().sum::<u32>(), 40);
    process.stopped().await;
}
