//! The projector as a whole: replays on a store that stops half-way, and the loop on the embedded adapters.

mod recount;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use jobber::domain::{
    AcceptedJob, AttemptNumber, AttemptReport, BuildDigest, Category, CategoryChange, CategoryEvent, Clock, Entry,
    Event, EventKind, FileBuild, FinalState, Fingerprint, Job, JobBody, JobId, JobName, JobOptions, JobState, Outcome,
    Timestamp, Usage, WorkerId,
};
use jobber::events::embedded::EmbeddedLog;
use jobber::events::{Cursor, EventSink, EventSource};
use jobber::projector::{
    FatalConfig, ProjectorOutputs, ProjectorSettings, compare, contribution, fold_batch, new_error_feed,
    new_missing_bodies, rebuild, recount, run,
};
use jobber::sqlite::{Durability, Sqlite};
use jobber::stats::builds::BuildHistory;
use jobber::stats::{Counts, QueueParts, ShardKey, StatShard};
use jobber::store::embedded::EmbeddedStore;
use jobber::store::{
    Categories, Commit, DayRange, ErrorRecord, History, JobRecord, Learned, Loaded, Projection, Retention, Sighting,
    StoreError, StoreErrorKind, Term, Versioned,
};
use proptest::prelude::*;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A store without transactions: writes one document after the other, and fails when told to.
#[derive(Default)]
struct HalfStore(Mutex<Half>);

#[derive(Default)]
struct Half {
    bodies: BTreeMap<JobId, JobBody>,
    jobs: BTreeMap<JobId, (u64, JobRecord)>,
    /// When records vanish, without anybody being told.
    expiries: BTreeMap<JobId, Timestamp>,
    shards: BTreeMap<ShardKey, (u64, StatShard)>,
    builds: BTreeMap<JobName, (u64, BuildHistory)>,
    errors: BTreeMap<Fingerprint, ErrorRecord>,
    categories: BTreeMap<(), (u64, Categories)>,
    cursor: Cursor,
    /// Writes until it fails; never when absent.
    writes_left: Option<usize>,
}

impl Half {
    fn write_one<K: Ord + Clone, T>(
        left: &mut Option<usize>,
        into: &mut BTreeMap<K, (u64, T)>,
        key: K,
        document: Versioned<T>,
    ) -> Result<(), StoreError> {
        Self::spend(left)?;
        let stored = into.get(&key).map(|(version, _)| *version);
        if stored != document.version {
            return Err(StoreError::new(StoreErrorKind::Conflict, "moved"));
        }
        into.insert(key, (stored.unwrap_or(0) + 1, document.document));
        Ok(())
    }

    fn spend(left: &mut Option<usize>) -> Result<(), StoreError> {
        match left {
            Some(0) => Err(StoreError::new(StoreErrorKind::Unavailable, "crashed")),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn versioned<T: Clone>(stored: Option<&(u64, T)>) -> Option<Versioned<T>> {
    stored.map(|(version, document)| Versioned { document: document.clone(), version: Some(*version) })
}

#[async_trait]
impl Projection for HalfStore {
    async fn lead(&self, holder: &str, _: Duration, _: &Clock) -> Result<Option<Term>, StoreError> {
        Ok(Some(Term { holder: holder.to_owned(), number: 1 }))
    }

    async fn resign(&self, _: &Term) -> Result<(), StoreError> {
        Ok(())
    }

    async fn load(&self, jobs: &[JobId], shards: &[ShardKey]) -> Result<Loaded, StoreError> {
        let half = self.0.lock().unwrap();
        Ok(Loaded {
            jobs: jobs.iter().map(|id| versioned(half.jobs.get(id))).collect(),
            shards: shards.iter().map(|key| versioned(half.shards.get(key))).collect(),
        })
    }

    async fn load_builds(&self, names: &[JobName]) -> Result<Vec<Option<Versioned<BuildHistory>>>, StoreError> {
        let half = self.0.lock().unwrap();
        Ok(names.iter().map(|name| versioned(half.builds.get(name))).collect())
    }

    async fn build_names(&self) -> Result<Vec<JobName>, StoreError> {
        Ok(self.0.lock().unwrap().builds.keys().cloned().collect())
    }

    async fn load_categories(&self) -> Result<Option<Versioned<Categories>>, StoreError> {
        Ok(versioned(self.0.lock().unwrap().categories.get(&())))
    }

    async fn learn(&self, _: &Term, learned: &[Learned]) -> Result<(), StoreError> {
        let errors = &mut self.0.lock().unwrap().errors;
        for Learned { fingerprint, knowledge } in learned {
            if let Some(error) = errors.get_mut(fingerprint) {
                error.knowledge = Some(knowledge.clone());
            }
        }
        Ok(())
    }

    async fn position(&self) -> Result<Cursor, StoreError> {
        Ok(self.0.lock().unwrap().cursor)
    }

    async fn commit(&self, _: &Term, commit: Commit) -> Result<(), StoreError> {
        let Half { bodies, jobs, expiries, shards, builds, errors, categories, cursor, writes_left } =
            &mut *self.0.lock().unwrap();
        if let Some(changed) = commit.categories {
            Half::write_one(writes_left, categories, (), changed)?;
        }
        for seen in commit.sightings {
            Half::spend(writes_left)?;
            errors.entry(seen.fingerprint).or_insert_with(|| ErrorRecord::new(seen.clone())).seen.merge(&seen);
        }
        for shard in commit.shards {
            Half::write_one(writes_left, shards, shard.document.key.clone(), shard)?;
        }
        for history in commit.builds {
            Half::write_one(writes_left, builds, history.document.name.clone(), history)?;
        }
        for (id, body) in commit.bodies {
            Half::spend(writes_left)?;
            bodies.entry(id).or_insert(body);
        }
        for job in commit.jobs {
            let (id, expiry) = (job.document.id.clone(), commit.retention.expiry(&job.document));
            Half::write_one(writes_left, jobs, id.clone(), job)?;
            match expiry {
                Some(expiry) => expiries.insert(id, expiry),
                None => expiries.remove(&id),
            };
        }
        Half::spend(writes_left)?;
        *cursor = commit.cursor.max(*cursor);
        Ok(())
    }

    async fn expire(&self, _: &Term, _: Retention, now: Timestamp, _: usize) -> Result<u64, StoreError> {
        let Half { jobs, expiries, .. } = &mut *self.0.lock().unwrap();
        jobs.retain(|id, _| expiries.get(id).is_none_or(|expiry| *expiry > now));
        Ok(0)
    }

    async fn scan(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobRecord>, StoreError> {
        let half = self.0.lock().unwrap();
        let behind = half.jobs.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        Ok(behind.take(limit).map(|(_, (_, record))| record.clone()).collect())
    }

    async fn shard_keys(&self) -> Result<Vec<ShardKey>, StoreError> {
        Ok(self.0.lock().unwrap().shards.keys().cloned().collect())
    }
}

/// The store above never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the double never waits")
}

/// A moment at which nothing has expired.
const EARLY: Timestamp = Timestamp::EPOCH;

/// The shards that differ from a recount.
fn differing(store: &HalfStore) -> Vec<ShardKey> {
    let compared = now(compare(store, EARLY)).unwrap();
    assert_eq!(compared.builds, [], "builds differ from a recount");
    compared.differing
}

fn term() -> Term {
    Term { holder: "test".into(), number: 1 }
}

/// The numbers from which an event is made.
type Draw = (u8, u8, u32, u8);

fn job(which: u8, twist: u8) -> Arc<Job> {
    // Three jobs of two names on two days. A twist gives an id to a different job: one of them has an id that may come
    // again so, with the others nobody should do it.
    let name = if (which + twist).is_multiple_of(3) { "a" } else { "b" };
    Arc::new(Job {
        id: JobId::parse(&if which == 2 { "2".to_owned() } else { format!("job-{which}") }).unwrap(),
        name: JobName::parse(name).unwrap(),
        options: JobOptions {
            priority: u32::from(which == 1),
            queue: (which == 1).then(|| "encode".parse().unwrap()),
            ..JobOptions::default()
        },
        submitted_at: Timestamp::from_millis(i64::from(which + twist) * 50_000_000),
        trace: None,
    })
}

fn outcome(dice: u8) -> Outcome {
    match dice % 5 {
        0 | 1 => Outcome::Exit { code: 0 },
        2 => Outcome::Exit { code: 1 },
        3 => Outcome::Lost,
        _ => Outcome::Timeout,
    }
}

fn attempt_finished(n: u32, dice: u8, at: Timestamp, next_at: Option<Timestamp>) -> EventKind {
    let outcome = outcome(dice);
    let why =
        ["disk full", "bad pixel", "out of range", "no route to host", "assertion failed"][usize::from(dice / 7 % 5)];
    let mut report = AttemptReport::bare(outcome, at - Duration::from_secs(1), at, why);
    report.peak_beside = u32::from(dice % 3);
    let wall_us = 1000 * u64::from(dice) + 1;
    report.usage =
        (outcome != Outcome::Lost).then_some(Usage { wall_us, user_us: 7, system_us: 3, peak_rss_bytes: 9999 });
    report.build = report.usage.and_then(|_| build(dice));
    let worker = WorkerId::parse("w").unwrap();
    EventKind::AttemptFinished { attempt: AttemptNumber(n), worker, report: Box::new(report), next_at }
}

/// One of two builds, or none.
fn build(dice: u8) -> Option<FileBuild> {
    let digest = BuildDigest::of_build_id(&[dice % 4 / 2; 4]);
    (!dice.is_multiple_of(4)).then_some(FileBuild { digest, bytes: 1, modified_at: Timestamp::EPOCH })
}

fn attempt_started(n: u32, dice: u8) -> EventKind {
    attempt_started_by("w", n, dice)
}

fn attempt_started_by(worker: &str, n: u32, dice: u8) -> EventKind {
    EventKind::AttemptStarted {
        attempt: AttemptNumber(n),
        worker: WorkerId::parse(worker).unwrap(),
        host: "h".into(),
        build: build(dice / 3).filter(|_| n == 1).map(|build| build.digest),
    }
}

fn finished(attempt: Option<u32>, dice: u8) -> EventKind {
    let outcome = outcome(dice);
    let state = if outcome.is_success() { FinalState::Completed } else { FinalState::Failed };
    EventKind::Finished { attempt: attempt.map(AttemptNumber), state, outcome, result: None, error: None }
}

/// Any event at any time, of any attempt, sometimes of a job that can't be.
fn implausible(draws: &[Draw]) -> Vec<Event> {
    let event = |(i, (which, kind, attempt, dice)): (usize, &Draw)| {
        let at = Timestamp::from_millis(100_000_000 + i as i64 * 700);
        let next_at = (dice % 2 == 0).then(|| at + Duration::from_secs(u64::from(dice % 3)));
        let kind = match kind % 7 {
            0 => EventKind::Submitted,
            1 => attempt_started_by(if dice.is_multiple_of(5) { "v" } else { "w" }, *attempt, *dice),
            2 => attempt_finished(*attempt, *dice, at, next_at),
            3 => finished((dice % 4 > 0).then_some(*attempt), *dice),
            4 => EventKind::Cancelled { reason: format!("reason {dice}") },
            5 => EventKind::Retried { attempts: *attempt },
            _ => EventKind::Removed,
        };
        let body = matches!(kind, EventKind::Submitted).then(|| JobBody::new(vec![format!("{which}")], None));
        Event { body, ..Event::new(at, job(which % 3, u8::from(dice.is_multiple_of(16))), kind) }
    };
    draws.iter().enumerate().map(event).collect()
}

/// What workers and people do to three jobs: every draw moves one of them a step on.
fn plausible(draws: &[Draw]) -> Vec<Event> {
    #[derive(Clone, Copy, Default)]
    struct Now {
        submitted: bool,
        running: bool,
        ended: Option<bool>,
        starts: u32,
    }
    let mut jobs = [Now::default(); 3];
    let mut events = Vec::new();
    for (i, (which, choice, _, dice)) in draws.iter().enumerate() {
        let at = Timestamp::from_millis(100_000_000 + i as i64 * 700);
        let job = job(which % 3, 0);
        let now = &mut jobs[usize::from(which % 3)];
        let mut add = |kind| events.push(Event::new(at, job.clone(), kind));
        match (now.submitted, now.ended, now.running) {
            (false, ..) => {
                now.submitted = true;
                add(EventKind::Submitted);
            }
            (true, Some(true), _) => add(EventKind::Removed),
            (true, Some(false), _) => {
                now.ended = None;
                add(EventKind::Retried { attempts: now.starts });
            }
            // Waiting, or its worker has just died.
            (true, None, running) if !running || choice % 5 == 0 => {
                now.starts += 1;
                now.running = true;
                add(attempt_started(now.starts, *dice));
            }
            (true, None, _) => {
                let outcome = outcome(*dice);
                let is_last = outcome.is_success() || (choice % 2 == 0 && outcome != Outcome::Lost);
                let next_at = (!is_last && outcome != Outcome::Lost).then_some(at + Duration::from_secs(1));
                now.running = false;
                add(attempt_finished(now.starts, *dice, at, next_at));
                if is_last {
                    add(finished(Some(now.starts), *dice));
                    now.ended = Some(outcome.is_success());
                }
            }
        }
    }
    events
}

fn as_log(events: impl IntoIterator<Item = Event>) -> Vec<(Cursor, Entry)> {
    (1..).map(|minor| Cursor { major: 0, minor }).zip(events.into_iter().map(Entry::Job)).collect()
}

type Documents = (Vec<JobRecord>, BTreeMap<ShardKey, Counts>, Vec<Sighting>);

/// Everything but the cursors of shards, which tell only where their last effect stood.
fn documents(store: &HalfStore) -> Documents {
    let half = store.0.lock().unwrap();
    let shards = half.shards.iter().filter(|(_, (_, s))| !s.counts.is_zero());
    (
        half.jobs.values().map(|(_, record)| record.clone()).collect(),
        shards.map(|(key, (_, shard))| (key.clone(), shard.counts.clone())).collect(),
        half.errors.values().map(|error| error.seen.clone()).collect(),
    )
}

/// Folded one event at a time, without any failure.
fn folded(log: &[(Cursor, Entry)]) -> Documents {
    let store = HalfStore::default();
    for one in log.chunks(1) {
        now(fold_batch(&store, &term(), one, Retention::FOREVER)).unwrap();
        assert_eq!(differing(&store), []);
    }
    documents(&store)
}

/// Folded in batches of these sizes; some commits stop after so many writes.
fn folded_with_crashes(store: &HalfStore, log: &[(Cursor, Entry)], steps: &[(usize, Option<usize>)]) {
    folded_by_several(store, log, steps, &[Retention::FOREVER]);
}

/// The same, each batch by a process that keeps records for another time.
fn folded_by_several(
    store: &HalfStore,
    log: &[(Cursor, Entry)],
    steps: &[(usize, Option<usize>)],
    retentions: &[Retention],
) {
    let steps = steps.iter().chain(std::iter::repeat(&(7, None)));
    for ((size, crash), retention) in steps.zip(retentions.iter().cycle()) {
        let position = now(store.position()).unwrap();
        let rest: Vec<_> = log.iter().filter(|(at, _)| *at > position).take(*size).cloned().collect();
        if rest.is_empty() {
            return;
        }
        store.0.lock().unwrap().writes_left = *crash;
        let _ = now(fold_batch(store, &term(), &rest, *retention));
        store.0.lock().unwrap().writes_left = None;
    }
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec((any::<u8>(), any::<u8>(), 1u32..5, any::<u8>()), 1..60)
}

fn steps() -> impl Strategy<Value = Vec<(usize, Option<usize>)>> {
    prop::collection::vec((1usize..20, prop::option::weighted(0.7, 0usize..12)), 0..40)
}

proptest! {
    #[test]
    fn crashes_and_replays_change_nothing(draws in draws(), steps in steps(), is_plausible: bool) {
        let log = as_log(if is_plausible { plausible(&draws) } else { implausible(&draws) });
        let store = HalfStore::default();
        folded_with_crashes(&store, &log, &steps);
        prop_assert_eq!(documents(&store), folded(&log));
        prop_assert_eq!(documents(&store).1, now(recount(&store)).unwrap());
    }

    #[test]
    fn a_rebuild_in_the_middle_of_a_replay_changes_nothing(draws in draws(), steps in steps(), writes in 0usize..12) {
        let log = as_log(implausible(&draws));
        let (early, _) = steps.split_at(steps.len() / 2);
        let store = HalfStore::default();
        folded_with_crashes(&store, &log[..log.len() / 2], early);
        store.0.lock().unwrap().writes_left = Some(writes);
        let _ = now(fold_batch(&store, &term(), &log[log.len() / 2..], Retention::FOREVER));
        store.0.lock().unwrap().writes_left = None;
        now(rebuild(&store, &term(), EARLY)).unwrap();
        prop_assert_eq!(differing(&store), []);
        folded_with_crashes(&store, &log, &steps);
        prop_assert_eq!(documents(&store), folded(&log));
    }

    #[test]
    fn what_expires_leaves_the_counts_as_they_are(
        draws in draws(), steps in steps(), ages in prop::collection::vec(prop::option::of(0u64..3), 1..4), hours in 0u64..200,
    ) {
        const DAY: u64 = 86_400;
        let log = as_log(plausible(&draws));
        let retentions: Vec<_> =
            ages.iter().map(|days| Retention::new(days.map(|n| Duration::from_secs(n * DAY)))).collect();
        let store = HalfStore::default();
        folded_by_several(&store, &log, &steps, &retentions);
        let (all, counts, errors) = folded(&log);
        prop_assert_eq!(documents(&store), (all.clone(), counts.clone(), errors));

        let later = EARLY + Duration::from_secs(hours * 3600);
        now(store.expire(&term(), Retention::FOREVER, later, 0)).unwrap();
        let left = documents(&store).0;
        for gone in all.iter().filter(|record| !left.contains(record)) {
            prop_assert!(gone.ended_at().is_some_and(|end| end.day() < later.day()));
        }
        let compared = now(compare(&store, later)).unwrap();
        prop_assert_eq!((compared.differing, compared.builds), (vec![], vec![]));
        now(rebuild(&store, &term(), later)).unwrap();
        prop_assert_eq!(documents(&store).1, counts);
    }

    #[test]
    fn events_written_twice_change_nothing(draws in draws(), twice in prop::collection::vec((any::<prop::sample::Index>(), 0usize..20), 0..20)) {
        let events = plausible(&draws);
        let mut doubled: Vec<_> = events.iter().cloned().map(|e| vec![e]).collect();
        for (index, distance) in twice {
            let i = index.index(events.len());
            // Without an attempt nothing tells a repetition from the same thing done once more: it must follow at once.
            let later = if events[i].key().attempt > 0 { (i + distance).min(events.len() - 1) } else { i };
            doubled[later].push(events[i].clone());
        }
        let without_cursors = |(records, shards, errors): Documents| {
            let records: Vec<_> = records.into_iter().map(|r| JobRecord { applied: Cursor::START, ..r }).collect();
            (records, shards, errors)
        };
        let (once, again) = (folded(&as_log(events)), folded(&as_log(doubled.into_iter().flatten())));
        prop_assert_eq!(without_cursors(once), without_cursors(again));
    }

    #[test]
    fn only_the_last_attempt_of_an_active_job_is_open(draws in draws()) {
        for record in folded(&as_log(implausible(&draws))).0 {
            let (last, before) = record.attempts.split_last().map_or((None, &[][..]), |(l, b)| (Some(l), b));
            prop_assert!(before.iter().all(|a| a.report.is_some()));
            prop_assert!(record.attempts.is_sorted_by(|a, b| a.number < b.number));
            prop_assert!(record.state == JobState::Active || last.is_none_or(|a| a.report.is_some()));
            prop_assert_eq!(record.state.is_final(), record.finished_at.is_some());
        }
    }

    #[test]
    fn counts_add_up_in_any_grouping(draws in draws()) {
        let (records, ..) = folded(&as_log(implausible(&draws)));
        let parts: Vec<_> = records.iter().map(contribution).collect();
        let sum = |parts: &[&Counts]| {
            parts.iter().fold(Counts::default(), |mut sum, part| { sum.add(part); sum })
        };
        if let [a, b, c] = &parts[..] {
            prop_assert_eq!(sum(&[&sum(&[a, b]), c]), sum(&[a, &sum(&[b, c])]));
            prop_assert_eq!(sum(&[a, b, c]), sum(&[c, a, b]));
        }
    }
}

/// The first of them changes no count, as its job was put back before: what it changes must be kept all the same.
#[test]
fn a_start_that_is_told_after_its_job_was_put_back_keeps_its_place_among_its_build() {
    let log = as_log(implausible(&[(28, 159, 1, 1), (199, 162, 1, 78), (190, 233, 1, 59), (0, 1, 1, 80)]));
    let whole = folded(&log);
    for batch in 1..=log.len() {
        let store = HalfStore::default();
        folded_with_crashes(&store, &log, &vec![(batch, None); log.len()]);
        assert_eq!(documents(&store), whole);
        assert_eq!(differing(&store), []);
    }
}

/// Three hundred jobs of one shard that each fail twice with words of their own, then some that fail as those before.
fn babel() -> Vec<Event> {
    let word = |mut n: usize| {
        let mut text = String::new();
        while n > 0 {
            text.push(char::from(b'a' + (n % 26) as u8));
            n /= 26;
        }
        format!("could not {text}!")
    };
    let mut events = Vec::new();
    for i in 0..320 {
        let job = Arc::new(Job { id: JobId::parse(&format!("job-{i}")).unwrap(), ..Job::clone(&job(0, 0)) });
        for attempt in 1..=2 {
            let at = Timestamp::from_millis(100_000_000 + i * 700 + i64::from(attempt));
            let text = word(if i < 300 { i as usize * 2 + attempt as usize } else { 2 * attempt as usize });
            let mut report = AttemptReport::bare(Outcome::Exit { code: 1 }, at, at, text);
            report.usage = Some(Usage { wall_us: 5, user_us: 3, system_us: 1, peak_rss_bytes: 1 });
            let worker = WorkerId::parse("w").unwrap();
            let (attempt, report) = (AttemptNumber(attempt), Box::new(report));
            let kind = EventKind::AttemptFinished { attempt, worker, report, next_at: None };
            events.push(Event::new(at, job.clone(), kind));
        }
    }
    events
}

#[test]
fn a_shard_stays_small_whatever_its_jobs_say_and_a_replay_decides_alike() {
    let log = as_log(babel());
    let whole = HalfStore::default();
    folded_with_crashes(&whole, &log, &[]);
    let halves = HalfStore::default();
    let steps: Vec<_> = (0..90).map(|i| (1 + i * 7 % 23, (i % 3 > 0).then_some(i * 11 % 29))).collect();
    folded_with_crashes(&halves, &log, &steps);
    assert_eq!(documents(&halves), documents(&whole));
    assert_eq!(differing(&halves), []);
    let (_, shards, errors) = documents(&whole);
    let counts = &shards.values().next().unwrap();
    assert!(counts.jobs_by_errors.len() <= 2 * StatShard::MOST_SETS, "{}", counts.jobs_by_errors.len());
    assert!(counts.failures[&Fingerprint::OTHER].attempts > 200);
    assert_eq!(counts.failures.values().map(|f| f.attempts).sum::<i64>(), 640);
    assert_eq!(counts.jobs_by_errors.values().map(|j| j.jobs).sum::<i64>(), 320);
    let other = errors.iter().find(|e| e.fingerprint == Fingerprint::OTHER).unwrap();
    assert_eq!(other.text, Fingerprint::OTHER_TEXT);
    assert!(errors.iter().all(|e| counts.failures.contains_key(&e.fingerprint)));
}

#[test]
fn a_shard_stays_small_however_many_queues_its_jobs_come_from_and_a_replay_decides_alike() {
    const QUEUES: usize = 50;
    let events = (0..200).flat_map(|i| {
        let mut job = Job::clone(&job(0, 0));
        job.id = JobId::parse(&format!("job-{i}")).unwrap();
        job.options.queue = Some(format!("q{}", i * 7 % QUEUES).parse().unwrap());
        let (job, at) = (Arc::new(job), Timestamp::from_millis(100_000_000 + i as i64));
        [EventKind::Submitted, finished(Some(1), 0)].map(|kind| Event::new(at, job.clone(), kind))
    });
    let log = as_log(events.collect::<Vec<_>>());
    let whole = HalfStore::default();
    folded_with_crashes(&whole, &log, &[]);
    let halves = HalfStore::default();
    let steps: Vec<_> = (0..90).map(|i| (1 + i * 7 % 23, (i % 3 > 0).then_some(i * 11 % 29))).collect();
    folded_with_crashes(&halves, &log, &steps);
    assert_eq!(documents(&halves), documents(&whole));
    assert_eq!(differing(&halves), []);
    let shard = whole.0.lock().unwrap().shards.values().next().unwrap().1.clone();
    let completed = |queue: usize| {
        let queue = format!("q{queue}").parse().unwrap();
        shard.clone().of_queue(Some(&queue)).counts.completed()
    };
    let told: Vec<_> = (0..QUEUES).map(completed).collect();
    assert_eq!(told.iter().filter(|completed| **completed == 4).count(), QueueParts::MOST, "{told:?}");
    assert_eq!(told.iter().sum::<i64>(), 4 * QueueParts::MOST as i64, "the others are told together");
    assert_eq!((shard.counts.completed(), shard.of_queue(None).counts), (200, Counts::default()));
}

#[test]
fn an_id_that_bullmq_gives_again_is_another_job() {
    let end = |twist| Event::new(Timestamp::from_millis(1), job(2, twist), finished(Some(1), 0));
    let (records, _, _) = folded(&as_log([end(0), end(1), end(0)]));
    let ids: Vec<_> = records.iter().map(|record| record.id.to_string()).collect();
    assert_eq!(ids, ["2".to_owned(), format!("2~{}", job(2, 1).submitted_at.as_millis())]);
    assert_eq!(
        records.iter().map(|r| r.submitted_at).collect::<Vec<_>>(),
        [job(2, 0), job(2, 1)].map(|j| j.submitted_at)
    );
}

#[test]
fn changes_of_categories_are_folded_once_and_in_order() {
    let category = |id: &str, name: &str| Category {
        id: id.parse().unwrap(),
        name: name.to_owned(),
        description: String::new(),
        examples: vec![],
    };
    let changes = [
        CategoryChange::Added { category: category("a", "first") },
        CategoryChange::Added { category: category("b", "second") },
        CategoryChange::Added { category: category("a", "too late") },
        CategoryChange::Edited { category: category("b", "renamed") },
        CategoryChange::Edited { category: category("c", "not there") },
        CategoryChange::ThresholdSet { threshold: Some(0.5) },
        CategoryChange::Removed { id: "a".parse().unwrap() },
    ];
    let mut log = as_log(plausible(&[(0, 1, 1, 2); 9]));
    for (i, change) in (100..).zip(changes) {
        let event = CategoryEvent { at: Timestamp::from_millis(5), change };
        log.push((Cursor { major: 0, minor: i }, Entry::Categories(event)));
    }
    for crash in [None, Some(0), Some(1), Some(2), Some(3)] {
        let store = HalfStore::default();
        folded_with_crashes(&store, &log, &[(12, crash), (3, crash), (4, crash)]);
        let found = now(store.load_categories()).unwrap().unwrap().document;
        assert_eq!(found.categories, [category("b", "renamed")]);
        assert_eq!((found.threshold, found.revision), (Some(0.5), Cursor { major: 0, minor: 106 }));
        assert_eq!(documents(&store), folded(&log));
    }
}

/// A log and a store in a directory of their own.
struct Rig {
    _dir: tempfile::TempDir,
    db: Sqlite,
    log: Arc<EmbeddedLog>,
    store: Arc<EmbeddedStore>,
    tasks: TaskTracker,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        let tasks = TaskTracker::new();
        let log = EmbeddedLog::open(db.clone(), dir.path(), 1_000_000).await.unwrap();
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        Self { _dir: dir, db, log, store, tasks }
    }

    fn start(&self, projection: Arc<dyn Projection>, settings: ProjectorSettings) -> Running {
        let stop = CancellationToken::new();
        let (progress, committed) = watch::channel(Cursor::START);
        let (error_feed, _) = new_error_feed();
        let outputs =
            ProjectorOutputs { progress, error_feed, missing_bodies: new_missing_bodies().0, announcer: None };
        let run = run(self.log.clone(), projection, settings, Clock::system(), stop.clone(), outputs);
        Running { task: self.tasks.spawn(run), stop, committed }
    }
}

struct Running {
    task: tokio::task::JoinHandle<Result<(), FatalConfig>>,
    stop: CancellationToken,
    committed: watch::Receiver<Cursor>,
}

impl Running {
    async fn reaches(&mut self, cursor: Cursor) {
        let reached = self.committed.wait_for(|c| *c >= cursor);
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect("in time").expect("it runs");
    }

    async fn stopped(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn one_job(id: &str) -> Vec<Event> {
    let job = Arc::new(Job { id: JobId::parse(id).unwrap(), ..Job::clone(&job(0, 0)) });
    let at = job.submitted_at;
    let event = |kind| Event::new(at, job.clone(), kind);
    vec![
        Event::submitted(AcceptedJob { job: job.clone(), body: JobBody::new(vec![id.to_owned()], None) }),
        event(attempt_started(1, 3)),
        event(attempt_finished(1, 0, at, None)),
        event(finished(Some(1), 0)),
    ]
}

#[tokio::test]
async fn what_is_appended_becomes_history_and_the_term_is_given_back() {
    let rig = Rig::new().await;
    let mut running = rig.start(rig.store.clone(), ProjectorSettings::new("one"));
    let last = rig.log.append(&one_job("x")).await.unwrap();
    running.reaches(last).await;
    let record = rig.store.job(&JobId::parse("x").unwrap()).await.unwrap().unwrap();
    assert_eq!((record.state, record.attempts.len()), (JobState::Completed, 1));
    assert_eq!(compare(&*rig.store, EARLY).await.unwrap().differing, []);

    running.stopped().await;
    let won = rig.store.lead("two", Duration::from_secs(1), &Clock::system()).await.unwrap();
    assert!(won.is_some(), "the term was given back");
}

#[tokio::test]
async fn a_store_without_categories_gets_the_first_ones_and_is_counted_anew() {
    let rig = Rig::new().await;
    let mut running = rig.start(rig.store.clone(), ProjectorSettings::new("one"));
    running.reaches(rig.log.append(&one_job("x")).await.unwrap()).await;
    running.stopped().await;
    // As an older Jobber left it.
    let old = "DELETE FROM history_categories; UPDATE history_shards SET document =
        CAST(json_remove(CAST(document AS TEXT), '$.counts.completed_by_failures') AS BLOB)";
    rig.db.write(move |c| c.execute_batch(old)).await.unwrap();
    assert_eq!(compare(&*rig.store, EARLY).await.unwrap().differing.len(), 1);
    let seeds = jobber::failures::categories::seeds(jobber::domain::Seed::Library);
    let settings = ProjectorSettings { categories: seeds.clone(), ..ProjectorSettings::new("two") };
    let mut running = rig.start(rig.store.clone(), settings);
    running.reaches(rig.log.append(&one_job("y")).await.unwrap()).await;
    assert_eq!(compare(&*rig.store, EARLY).await.unwrap().differing, []);
    assert_eq!(rig.store.categories().await.unwrap(), Categories::seeded(seeds));
    running.stopped().await;
}

#[tokio::test]
async fn what_an_older_version_counted_is_counted_anew() {
    let rig = Rig::new().await;
    let seeds = jobber::failures::categories::seeds(jobber::domain::Seed::Original);
    let settings = |holder: &str| ProjectorSettings { categories: seeds.clone(), ..ProjectorSettings::new(holder) };
    let mut running = rig.start(rig.store.clone(), settings("one"));
    let encode = "encode".parse().unwrap();
    let mut events = one_job("x");
    events.iter_mut().for_each(|event| {
        let options = JobOptions { queue: Some(Clone::clone(&encode)), ..event.job.options.clone() };
        event.job = Arc::new(Job { options, ..Job::clone(&event.job) });
    });
    running.reaches(rig.log.append(&events).await.unwrap()).await;
    running.stopped().await;
    // As version 1 of the aggregates left it: budgets, first attempts and queues were not counted yet.
    let old = "UPDATE history_shards SET document = CAST(json_set(json_remove(CAST(document AS TEXT),
        '$.counts.jobs_by_budget', '$.counts.first_attempts_unknown', '$.counts.by_queue'),
        '$.schema', 1) AS BLOB)";
    rig.db.write(move |c| c.execute_batch(old)).await.unwrap();
    assert_eq!(compare(&*rig.store, EARLY).await.unwrap().differing.len(), 1);
    let mut running = rig.start(rig.store.clone(), settings("two"));
    running.reaches(rig.log.append(&one_job("y")).await.unwrap()).await;
    assert_eq!(compare(&*rig.store, EARLY).await.unwrap().differing, []);
    let shards = rig.store.shards(DayRange::default(), None).await.unwrap();
    assert!(shards.iter().all(|shard| shard.schema == StatShard::SCHEMA));
    let completed = |queue| shards.iter().map(|shard| shard.clone().of_queue(queue).counts.completed()).sum::<i64>();
    assert_eq!([completed(Some(&encode)), completed(None)], [1, 1]);
    running.stopped().await;
}

#[tokio::test]
async fn a_dead_projector_is_replaced() {
    let rig = Rig::new().await;
    let quick = |holder| ProjectorSettings {
        ttl: Duration::from_millis(300),
        margin: Duration::from_millis(100),
        retry: Duration::from_millis(50),
        ..ProjectorSettings::new(holder)
    };
    let mut first = rig.start(rig.store.clone(), quick("first"));
    first.reaches(rig.log.append(&one_job("x")).await.unwrap()).await;
    let mut second = rig.start(rig.store.clone(), quick("second"));
    // Dies without a word.
    first.task.abort();
    second.reaches(rig.log.append(&one_job("y")).await.unwrap()).await;
    assert!(rig.store.job(&JobId::parse("y").unwrap()).await.unwrap().is_some());
    second.stopped().await;
}

#[tokio::test]
async fn an_unreadable_event_is_set_aside_and_history_goes_on() {
    let rig = Rig::new().await;
    rig.log.append(&one_job("x")).await.unwrap();
    rig.db.write(|c| c.execute("UPDATE events SET body = x'00' WHERE seq = 2", [])).await.unwrap();
    let last = rig.log.append(&one_job("y")).await.unwrap();
    let mut running = rig.start(rig.store.clone(), ProjectorSettings::new("one"));
    running.reaches(last).await;
    for id in ["x", "y"] {
        let record = rig.store.job(&JobId::parse(id).unwrap()).await.unwrap().unwrap();
        assert_eq!(record.state, JobState::Completed, "{id}");
    }
    let parked: i64 =
        rig.db.read(|c| c.query_row("SELECT count(*) FROM events_parked", [], |r| r.get(0))).await.unwrap();
    assert_eq!(parked, 1);
    running.stopped().await;
}

#[tokio::test]
async fn an_event_of_a_newer_jobber_is_waited_for() {
    let rig = Rig::new().await;
    let last = rig.log.append(&one_job("x")).await.unwrap();
    let newer = "UPDATE events SET body = CAST(replace(CAST(body AS TEXT), ?1, ?2) AS BLOB) WHERE seq = 2";
    let changed = rig.db.write(move |c| c.execute(newer, [r#"{"v":2"#, r#"{"v":3"#])).await.unwrap();
    assert_eq!(changed, 1);
    let mut running = rig.start(rig.store.clone(), ProjectorSettings::new("one"));
    running.reaches(Cursor { major: 0, minor: 1 }).await;
    rig.db.write(move |c| c.execute(newer, [r#"{"v":3"#, r#"{"v":2"#])).await.unwrap();
    running.reaches(last).await;
    let record = rig.store.job(&JobId::parse("x").unwrap()).await.unwrap().unwrap();
    assert_eq!(record.attempts[0].host, "h", "the event in question was folded");
    running.stopped().await;
}

#[tokio::test]
async fn an_outage_of_the_store_loses_nothing() {
    let rig = Rig::new().await;
    let store = Arc::new(HalfStore::default());
    store.0.lock().unwrap().writes_left = Some(1);
    let mut running = rig.start(store.clone(), ProjectorSettings::new("one"));
    let last = rig.log.append(&one_job("x")).await.unwrap();
    // Its first write reaches the store, then none does for a while.
    while store.0.lock().unwrap().writes_left != Some(0) {
        tokio::task::yield_now().await;
    }
    store.0.lock().unwrap().writes_left = None;
    running.reaches(last).await;
    assert_eq!(differing(&store), []);
    assert_eq!(documents(&store), folded(&as_log(one_job("x"))));
    running.stopped().await;
}

#[tokio::test]
async fn the_log_is_trimmed_but_for_the_last_events() {
    let rig = Rig::new().await;
    for i in 0..50 {
        rig.log.append(&one_job(&format!("old-{i}"))).await.unwrap();
    }
    let settings = || ProjectorSettings { keep: 40, batch: 10, ..ProjectorSettings::new("one") };
    let mut running = rig.start(rig.store.clone(), settings());
    let last = rig.log.append(&one_job("x")).await.unwrap();
    running.reaches(last).await;
    running.stopped().await;
    let length = rig.log.span().await.unwrap().length;
    assert!((40..=60).contains(&length), "{length}");

    // What was left by one that kept more is trimmed by the next.
    let mut running = rig.start(rig.store.clone(), ProjectorSettings { keep: 20, ..settings() });
    let last = rig.log.append(&one_job("y")).await.unwrap();
    running.reaches(last).await;
    running.stopped().await;
    let length = rig.log.span().await.unwrap().length;
    assert!((20..=34).contains(&length), "{length}");
}

#[tokio::test]
async fn jobs_that_ended_long_ago_go_and_the_statistics_stay() {
    let rig = Rig::new().await;
    let settings = || ProjectorSettings {
        retention: Retention::new(Some(Duration::from_secs(86_400))),
        ..ProjectorSettings::new("one")
    };
    let ended = rig.log.append(&one_job("ended")).await.unwrap();
    let mut running = rig.start(rig.store.clone(), settings());
    running.reaches(ended).await;
    running.stopped().await;
    let waiting = rig.log.append(&one_job("waiting")[..1]).await.unwrap();

    let mut running = rig.start(rig.store.clone(), settings());
    running.reaches(waiting).await;
    let job = async |id: &str| rig.store.job(&JobId::parse(id).unwrap()).await.unwrap();
    crate::harness::eventually("the job to expire", async || job("ended").await.is_none().then_some(())).await;
    assert!(job("waiting").await.is_some());
    let shards = rig.store.shards(DayRange::default(), None).await.unwrap();
    let (completed, waiting) = (shards[0].counts.completed(), shards[0].counts.waiting);
    assert_eq!((shards.len(), completed, waiting), (1, 1, 1));
    assert!(!shards[0].is_whole(Clock::system().now()));
    running.stopped().await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let rig = Rig::new().await;
    let settings = ProjectorSettings { margin: Duration::from_secs(9), ..ProjectorSettings::new("one") };
    assert!(rig.start(rig.store.clone(), settings).task.await.unwrap().is_err());
}
