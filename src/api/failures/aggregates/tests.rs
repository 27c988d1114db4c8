//! Tests that what is kept equals what is read anew, whatever has happened in between.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::api::failures::sum_categories;
use crate::domain::{Category, CategoryId, Clock, Day, JobId, JobName, Timestamp};
use crate::events::Cursor;
use crate::sqlite::{Durability, Sqlite};
use crate::stats::{CategoryLine, CategorySums, Counts, ErrorSet, ErrorSetCounts};
use crate::store::embedded::EmbeddedStore;
use crate::store::{Commit, Knowledge, Learned, Projection, Sighting, Term, Versioned};

/// What happens to history.
#[derive(Debug, Clone)]
enum Step {
    /// A job of this day and name fails with these errors.
    Fails { day: u8, name: u8, errors: [u8; 2] },
    /// The classifier puts an error into a category, or into none.
    Learns { error: u8, category: u8 },
    /// A category is there with another name, or no longer.
    Edits { category: u8, is_there: bool },
    /// An aggregate is counted anew from its records, to what it was at first: its cursor stays as it is.
    Recounts { day: u8, name: u8 },
    /// An operator deletes an aggregate from the file. The projector may write it again with the same version.
    Loses { day: u8, name: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let (days, names, errors, categories) = (0u8..3, 0u8..2, 0u8..6, 0u8..4);
    prop_oneof![
        6 => (days.clone(), names.clone(), errors.clone(), errors.clone())
            .prop_map(|(day, name, a, b)| Step::Fails { day, name, errors: [a, b] }),
        4 => (errors, categories.clone()).prop_map(|(error, category)| Step::Learns { error, category }),
        2 => (categories, any::<bool>()).prop_map(|(category, is_there)| Step::Edits { category, is_there }),
        1 => (days.clone(), names.clone()).prop_map(|(day, name)| Step::Recounts { day, name }),
        1 => (days, names).prop_map(|(day, name)| Step::Loses { day, name }),
    ]
}

fn error(n: u8) -> Fingerprint {
    if n == 0 { Fingerprint::OTHER } else { Fingerprint::from_bytes([n; 32]) }
}

fn category(n: u8) -> CategoryId {
    format!("category-{n}").parse().unwrap()
}

fn key(day: u8, name: u8) -> ShardKey {
    let name = ["a", "b"][usize::from(name)].parse().unwrap();
    ShardKey { day: Timestamp::from_millis(i64::from(day) * 86_400_000).day(), name }
}

struct Site {
    store: Arc<EmbeddedStore>,
    db: Sqlite,
    term: Term,
    steps: u64,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        let clock = Clock::manual(Timestamp::from_millis(0));
        let term = store.lead("one", Duration::from_secs(1000), &clock).await.unwrap().unwrap();
        Self { store, db, term, steps: 0, _dir: dir }
    }

    async fn sql(&self, sql: String) {
        self.db.write(move |c| c.execute_batch(&sql)).await.unwrap();
    }

    async fn commit(&self, commit: Commit) {
        self.store.commit(&self.term, commit).await.unwrap();
    }

    async fn load(&self, key: ShardKey) -> Versioned<StatShard> {
        let found = self.store.load(&[], std::slice::from_ref(&key)).await.unwrap().shards.remove(0);
        found.unwrap_or_else(|| Versioned { document: StatShard::new(key), version: None })
    }

    async fn run(&mut self, step: Step) {
        self.steps += 1;
        match step {
            Step::Fails { day, name, errors } => {
                let mut shard = self.load(key(day, name)).await;
                let errors = ErrorSet::new(errors.map(error));
                let counts = &mut shard.document.counts;
                counts.cpu_us_failed += 7;
                *counts.failed_by_attempts.entry(1).or_insert(0) += 1;
                for error in errors.as_slice() {
                    let failed = counts.failures.entry(*error).or_default();
                    failed.attempts += 1;
                    failed.cpu_us += 7;
                }
                let jobs = counts.jobs_by_errors.entry(errors.clone()).or_default();
                *jobs = ErrorSetCounts { jobs: jobs.jobs + 1, failed: jobs.failed + 1, ..*jobs };
                let (at, id) = (Timestamp::from_millis(self.steps.cast_signed()), JobId::parse("j").unwrap());
                let name = shard.document.key.name.clone();
                let seen = |error: &Fingerprint| Sighting::new(*error, &error.to_string(), at, &name, &id);
                let sightings = errors.as_slice().iter().map(seen).collect();
                self.commit(Commit { sightings, shards: vec![shard], ..Commit::default() }).await;
            }
            Step::Learns { error: n, category: of } => {
                let knowledge = Knowledge {
                    model: "m".to_owned(),
                    vector: vec![1.0],
                    category: (of > 0).then(|| category(of)),
                    similarity: 0.5,
                    revision: Cursor::START,
                };
                let learned = [Learned { fingerprint: error(n), knowledge }];
                self.store.learn(&self.term, &learned).await.unwrap();
            }
            Step::Edits { category: n, is_there } => {
                let before = self.store.load_categories().await.unwrap();
                let mut categories =
                    before.unwrap_or_else(|| Versioned { document: Categories::seeded(vec![]), version: None });
                categories.document.categories.retain(|known| known.id != category(n));
                let name = format!("name {}", self.steps);
                let new = Category { id: category(n), name, description: String::new(), examples: vec![] };
                categories.document.categories.extend(is_there.then_some(new));
                self.commit(Commit { categories: Some(categories), ..Commit::default() }).await;
            }
            Step::Recounts { day, name } => {
                let mut shard = self.load(key(day, name)).await;
                shard.document.counts = Counts::default();
                self.commit(Commit { shards: vec![shard], ..Commit::default() }).await;
            }
            Step::Loses { day, name } => {
                let ShardKey { day, name } = key(day, name);
                let day = day.start().as_millis();
                self.sql(format!("DELETE FROM history_shards WHERE day = {day} AND name = '{name}'")).await;
            }
        }
    }

    /// Everything that is told by category, of all aggregates and of some.
    async fn answers(&self, kept: &KeptAggregates) -> Result<Vec<(Vec<CategoryLine>, Counts)>, StoreError> {
        let mut answers = Vec::new();
        for (days, name) in spans() {
            let jobs = SpanJobs { name, queue: None };
            for (sums, wanted) in
                [(CategorySums::default(), Wanted::Labels), (CategorySums::with_examples(), Wanted::Times)]
            {
                let shards = AggregateReader::open(&*self.store, kept, &jobs, days, wanted).await?;
                let mut counts = Counts::default();
                let lines = sum_categories(shards, sums, |shard| counts.add(&shard.counts)).await?;
                answers.push((lines, counts));
            }
        }
        Ok(answers)
    }
}

fn spans() -> [(DayRange, Option<JobName>); 4] {
    let day = |n: u8| -> Option<Day> { Some(key(n, 0).day) };
    [
        (DayRange { from: day(1), to: None }, None),
        (DayRange { from: day(2), to: day(2) }, Some(key(0, 1).name)),
        (DayRange::default(), Some(key(0, 0).name)),
        (DayRange::default(), None),
    ]
}

/// Keeps nothing.
fn nothing() -> KeptAggregates {
    KeptAggregates { most_bytes: 0, ..KeptAggregates::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_kept_equals_what_is_read_anew(
        steps in prop::collection::vec((step(), any::<bool>()), 1..24), most_bytes in prop_oneof![Just(MOST_BYTES), 0usize..30_000],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut site = Site::new().await;
            let kept = KeptAggregates { most_bytes, ..KeptAggregates::default() };
            for (step, is_asked) in steps {
                site.run(step).await;
                if is_asked {
                    let (warm, anew) = (site.answers(&kept).await.unwrap(), site.answers(&nothing()).await.unwrap());
                    prop_assert_eq!(warm, anew);
                }
            }
            let taken = kept.kept.lock().await;
            prop_assert!(taken.bytes + taken.known.count() * KnownErrors::BYTES <= most_bytes);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_warm_answer_reads_no_aggregate_and_looks_no_error_up() {
    let mut site = Site::new().await;
    for n in 1..5 {
        site.run(Step::Edits { category: n, is_there: true }).await;
        site.run(Step::Fails { day: n % 3, name: n % 2, errors: [n, n + 1] }).await;
        site.run(Step::Learns { error: n, category: n }).await;
    }
    let kept = KeptAggregates::default();
    let jobs = SpanJobs { name: None, queue: None };
    let answer = async |kept: &KeptAggregates, wanted| {
        let shards = AggregateReader::open(&*site.store, kept, &jobs, DayRange::default(), wanted).await?;
        sum_categories(shards, CategorySums::default(), |_| ()).await
    };
    let before = answer(&kept, Wanted::Times).await.unwrap();
    assert_eq!(before.iter().map(|line| line.failures).sum::<i64>(), 8);
    // Nothing of this can be read any more, and no mark says so.
    let spoil = "DROP TRIGGER history_shards_written_unmarked; UPDATE history_shards SET document = x'00';
                 UPDATE history_errors SET seen = x'00';";
    site.sql(spoil.to_owned()).await;
    assert_eq!(answer(&kept, Wanted::Times).await.unwrap(), before);
    assert!(answer(&KeptAggregates::default(), Wanted::Labels).await.is_err(), "who keeps nothing must read");
    // An aggregate that moves is the only one to be read again, and its errors are known.
    let moves = "UPDATE history_shards SET version = version + 1 WHERE rowid = (SELECT min(rowid) FROM history_shards)";
    site.sql(moves.to_owned()).await;
    assert!(answer(&kept, Wanted::Labels).await.is_err());
    let key = site.store.shard_keys_of(DayRange::default(), None).await.unwrap();
    let lost: Vec<_> = kept.kept.lock().await.shards.keys().cloned().collect();
    assert_eq!(lost, key, "what could not be read leaves the others in place");
}

#[tokio::test]
async fn each_change_of_a_label_is_seen_by_its_mark_alone() {
    let steps = [
        (Step::Learns { error: 1, category: 1 }, "errors_learned"),
        (Step::Learns { error: 2, category: 1 }, "errors_relabelled"),
        (Step::Learns { error: 2, category: 0 }, "errors_relabelled"),
        (Step::Edits { category: 2, is_there: false }, "categories_changed"),
        (Step::Loses { day: 0, name: 0 }, "shards_removed"),
    ];
    for (step, trigger) in steps {
        for is_marked in [true, false] {
            let mut site = Site::new().await;
            site.run(Step::Edits { category: 1, is_there: true }).await;
            site.run(Step::Edits { category: 2, is_there: true }).await;
            site.run(Step::Fails { day: 0, name: 0, errors: [1, 2] }).await;
            site.run(Step::Learns { error: 2, category: 2 }).await;
            let kept = KeptAggregates::default();
            site.answers(&kept).await.unwrap();
            if !is_marked {
                site.sql(format!("DROP TRIGGER history_{trigger}")).await;
            }
            site.run(step.clone()).await;
            // It comes back with the version that it had.
            if matches!(step, Step::Loses { .. }) {
                site.run(Step::Fails { day: 0, name: 0, errors: [3, 4] }).await;
            }
            let (warm, anew) = (site.answers(&kept).await.unwrap(), site.answers(&nothing()).await.unwrap());
            assert_eq!(warm == anew, is_marked, "{step:?}");
        }
    }
}
