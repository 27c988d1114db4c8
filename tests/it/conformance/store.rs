//! What every store must do.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{
    AttemptNumber, AttemptReport, BuildDigest, Category, Clock, Day, Fingerprint, Job, JobBody, JobId, JobName,
    JobOptions, JobState, Outcome, OutcomeKind, PageRequest, RawJson, Timestamp, WorkerId,
};
use jobber::events::Cursor;
use jobber::projector::{contribution, shard_key};
use jobber::sqlite::{Durability, Sqlite};
use jobber::stats::builds::{BuildHistory, Fate, FirstAttempt};
use jobber::stats::{Counts, FailureCounts, Label, ShardKey, StatShard};
use jobber::store::couchbase::CouchbaseStore;
use jobber::store::embedded::EmbeddedStore;
use jobber::store::{
    AttemptRecord, Categories, Commit, DayRange, ErrorChoice, ErrorOutline, History, JobCount, JobFilter, JobRecord,
    Knowledge, Learned, Projection, Retention, Search, Sighting, StoreErrorKind, Term, Versioned, WantedErrors,
};

use crate::harness::couchbase::{Bucket, skipped};
use crate::harness::couchbase_double::CouchbaseDouble;

const TTL: Duration = Duration::from_secs(10);
const DAY_MS: i64 = 86_400_000;

/// One store, as two processes see it, and a clock that the test moves.
struct Stores {
    here: Store,
    there: Store,
    clock: Clock,
    /// Whether it can list jobs and scan: a Couchbase without query service can't.
    lists: bool,
    /// Whether it removes what has expired by itself, by the clock of its own server.
    expires_by_itself: bool,
    _behind: Box<dyn Send + Sync>,
}

struct Store {
    history: Arc<dyn History>,
    projection: Arc<dyn Projection>,
}

async fn embedded() -> Stores {
    let dir = tempfile::tempdir().unwrap();
    let open = || async {
        let db = Sqlite::open(&dir.path().join("jobber.db"), Durability::Process).unwrap();
        let store = EmbeddedStore::open(db).await.unwrap();
        Store { history: store.clone(), projection: store }
    };
    let clock = Clock::manual(Timestamp::from_millis(DAY_MS));
    Stores {
        here: open().await,
        there: open().await,
        clock,
        lists: true,
        expires_by_itself: false,
        _behind: Box::new(dir),
    }
}

/// The bucket of `JOBBER_TEST_COUCHBASE`, else the double.
async fn couchbase() -> Stores {
    couchbase_at(Bucket::to_test_on().await).await
}

async fn couchbase_key_value_only() -> Stores {
    couchbase_at(Bucket::of(CouchbaseDouble::key_value_only())).await
}

async fn couchbase_at(bucket: Bucket) -> Stores {
    let open = || async {
        let store = bucket.open().await;
        store.prepared().await;
        store
    };
    let (here, there): (Arc<CouchbaseStore>, Arc<CouchbaseStore>) = (open().await, open().await);
    let lists = here.has_query_service().await.unwrap();
    let clock = Clock::manual(Timestamp::from_millis(DAY_MS));
    let store = |store: Arc<CouchbaseStore>| Store { history: store.clone(), projection: bucket.noted(store) };
    let (here, there) = (store(here), store(there));
    Stores { here, there, clock, lists, expires_by_itself: true, _behind: Box::new(bucket) }
}

impl Stores {
    /// Whether the case can't run here; says so.
    fn is_skipped(&self) -> bool {
        if !self.lists {
            skipped("this Couchbase has no query service");
        }
        !self.lists
    }

    /// Whether the case is about a clock that this store does not go by.
    fn has_a_clock_of_its_own(&self) -> bool {
        if self.expires_by_itself {
            skipped("this store removes what has expired by a clock of its own");
        }
        self.expires_by_itself
    }

    async fn term(&self) -> Term {
        self.here.projection.lead("one", TTL, &self.clock).await.unwrap().expect("nobody else leads")
    }

    /// Lets time pass until `now`, as far as the expiry of records goes.
    async fn pass(&self, retention: Retention, now: Timestamp) {
        let term = self.term().await;
        // Two at a time, so that it takes several steps.
        while self.here.projection.expire(&term, retention, now, 2).await.unwrap() > 0 {}
    }

    /// Writes these records with the shards that they add up to, as a projector would.
    async fn with(self, records: &[JobRecord]) -> Self {
        let term = self.term().await;
        let mut shards: Vec<StatShard> = Vec::new();
        for record in records {
            let key = shard_key(record);
            match shards.iter_mut().find(|s| s.key == key) {
                Some(shard) => shard.counts.add(&contribution(record)),
                None => shards.push(StatShard { counts: contribution(record), ..StatShard::new(key) }),
            }
        }
        let commit = Commit {
            shards: shards.into_iter().map(new).collect(),
            jobs: records.iter().cloned().map(new).collect(),
            cursor: at(1),
            ..Commit::default()
        };
        self.here.projection.commit(&term, commit).await.unwrap();
        self
    }
}

impl Store {
    async fn job(&self, id: &str) -> Versioned<JobRecord> {
        let loaded = self.projection.load(&[JobId::parse(id).unwrap()], &[]).await.unwrap();
        loaded.jobs.into_iter().next().flatten().expect("the job is there")
    }

    /// The ids of the whole list, read page by page.
    async fn list(&self, filter: &JobFilter, limit: usize) -> Vec<String> {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.history.jobs(filter, PageRequest { cursor, limit }).await.unwrap();
            assert!(page.items.len() <= limit);
            ids.extend(page.items.iter().map(|job| job.id.to_string()));
            match page.next {
                Some(next) => cursor = Some(next),
                None => return ids,
            }
        }
    }
}

fn at(minor: u64) -> Cursor {
    Cursor { major: 0, minor }
}

fn name(text: &str) -> JobName {
    JobName::parse(text).unwrap()
}

fn record(id: &str, job_name: &str, ms: i64, state: JobState) -> JobRecord {
    let job = Job {
        id: JobId::parse(id).unwrap(),
        name: name(job_name),
        options: JobOptions::default(),
        submitted_at: Timestamp::from_millis(ms),
        trace: None,
    };
    JobRecord { state, applied: at(1), ..JobRecord::new(&job) }
}

fn new<T>(document: T) -> Versioned<T> {
    Versioned { document, version: None }
}

fn jobs(jobs: Vec<Versioned<JobRecord>>) -> Commit {
    Commit { jobs, ..Commit::default() }
}

async fn kind_of(result: impl Future<Output = Result<(), jobber::store::StoreError>>) -> Option<StoreErrorKind> {
    result.await.err().map(|e| e.kind)
}

async fn one_projector_leads_at_a_time(stores: Stores) {
    let (here, there, clock) = (&stores.here.projection, &stores.there.projection, &stores.clock);
    let term = here.lead("one", TTL, clock).await.unwrap().unwrap();
    assert_eq!(there.lead("two", TTL, clock).await.unwrap(), None);
    clock.advance(TTL / 2);
    assert_eq!(here.lead("one", TTL, clock).await.unwrap(), Some(term.clone()), "renewing keeps the number");
    clock.advance(TTL / 2 + Duration::from_secs(1));
    assert_eq!(there.lead("two", TTL, clock).await.unwrap(), None, "it was renewed");
    clock.advance(TTL);
    let next = there.lead("two", TTL, clock).await.unwrap().expect("the term has lapsed");
    assert!(next.number > term.number);
    assert_eq!(here.lead("one", TTL, clock).await.unwrap(), None);
}

async fn of_many_who_ask_at_once_one_wins(stores: Stores) {
    let (here, there) = (&stores.here.projection, &stores.there.projection);
    let asks = (0..20).map(|i| {
        let store = if i % 2 == 0 { here.clone() } else { there.clone() };
        let clock = stores.clock.clone();
        async move { store.lead(&format!("p{i}"), TTL, &clock).await.unwrap() }
    });
    let won = futures_util::future::join_all(asks).await;
    assert_eq!(won.iter().flatten().count(), 1);
}

async fn a_term_that_has_passed_is_fenced(stores: Stores) {
    let old = stores.term().await;
    stores.clock.advance(TTL * 2);
    let current = stores.there.projection.lead("two", TTL, &stores.clock).await.unwrap().unwrap();
    let commit = || jobs(vec![new(record("a", "n", 0, JobState::Waiting))]);
    assert_eq!(kind_of(stores.here.projection.commit(&old, commit())).await, Some(StoreErrorKind::Fenced));
    assert_eq!(stores.here.history.job(&JobId::parse("a").unwrap()).await.unwrap(), None);
    assert_eq!(kind_of(stores.there.projection.commit(&current, commit())).await, None);
}

async fn resigning_ends_that_term_only(stores: Stores) {
    let (here, there, clock) = (&stores.here.projection, &stores.there.projection, &stores.clock);
    let old = stores.term().await;
    here.resign(&old).await.unwrap();
    assert_eq!(kind_of(here.commit(&old, Commit::default())).await, Some(StoreErrorKind::Fenced));
    let next = there.lead("two", TTL, clock).await.unwrap().expect("free at once");
    assert!(next.number > old.number);
    // Late, and about a term that is over.
    here.resign(&old).await.unwrap();
    assert_eq!(kind_of(there.commit(&next, Commit::default())).await, None);
    assert_eq!(here.lead("one", TTL, clock).await.unwrap(), None);
}

async fn a_document_is_written_under_its_version_only(stores: Stores) {
    let stores = stores.with(&[record("a", "n", 0, JobState::Waiting)]).await;
    let term = stores.term().await;
    let projection = &stores.there.projection;
    let read = stores.here.job("a").await;
    let changed = Versioned { document: JobRecord { retries: 1, ..read.document.clone() }, ..read.clone() };
    projection.commit(&term, jobs(vec![changed.clone()])).await.unwrap();
    for stale in [changed, new(read.document.clone())] {
        assert_eq!(kind_of(projection.commit(&term, jobs(vec![stale]))).await, Some(StoreErrorKind::Conflict));
    }
    let key = shard_key(&read.document);
    let stale = Commit { shards: vec![new(StatShard::new(key.clone()))], ..Commit::default() };
    assert_eq!(kind_of(projection.commit(&term, stale)).await, Some(StoreErrorKind::Conflict));
    let unknown = Versioned { document: record("b", "n", 0, JobState::Waiting), version: Some(1) };
    assert_eq!(kind_of(projection.commit(&term, jobs(vec![unknown]))).await, Some(StoreErrorKind::Conflict));
    assert_eq!(stores.here.job("a").await.document.retries, 1);
}

async fn what_a_job_is_never_changes(stores: Stores) {
    let stores = stores.with(&[record("a", "n", 5, JobState::Waiting), of_the_first_format("old")]).await;
    let term = stores.term().await;
    let changes: [fn(&mut JobRecord); 4] = [
        |r| r.name = name("other"),
        |r| r.submitted_at = Timestamp::from_millis(6),
        // Of a record of the first format, what the job is given stands in the record.
        |r| r.arguments.get_or_insert_default().push("more".to_owned()),
        |r| r.data = None,
    ];
    for (id, changes) in [("a", &changes[..2]), ("old", &changes)] {
        for change in changes {
            let mut read = stores.here.job(id).await;
            change(&mut read.document);
            let result = kind_of(stores.here.projection.commit(&term, jobs(vec![read]))).await;
            assert_eq!(result, Some(StoreErrorKind::Rejected), "{id}");
        }
    }
    assert_eq!(stores.here.job("a").await.document, record("a", "n", 5, JobState::Waiting));
    assert_eq!(stores.here.job("old").await.document, of_the_first_format("old"));
}

/// As version 0.1.0 wrote it.
fn of_the_first_format(id: &str) -> JobRecord {
    let data = RawJson::parse(r#"{"b":1.5,"a":2}"#).unwrap();
    JobRecord {
        schema: 1,
        arguments: Some(vec!["x".to_owned()]),
        data: Some(data),
        ..record(id, "n", 5, JobState::Waiting)
    }
}

async fn what_a_job_is_given_is_kept_beside_its_record_and_written_once(stores: Stores) {
    let (given, later) = (JobBody::new(vec!["x".to_owned()], None), JobBody::new(vec!["y".to_owned()], None));
    let stores = stores.with(&[of_the_first_format("old")]).await;
    let term = stores.term().await;
    let has_body = JobRecord { has_body: true, ..record("a", "n", 5, JobState::Waiting) };
    let bodies = vec![(has_body.id.clone(), given.clone())];
    let commit = Commit { bodies, ..jobs(vec![new(has_body.clone()), new(record("b", "n", 5, JobState::Waiting))]) };
    stores.here.projection.commit(&term, commit).await.unwrap();
    // A replay writes it again.
    let bodies = vec![(has_body.id.clone(), later)];
    let retried = Versioned { document: JobRecord { retries: 1, ..has_body }, ..stores.here.job("a").await };
    stores.here.projection.commit(&term, Commit { bodies, ..jobs(vec![retried]) }).await.unwrap();
    let ids = ["a", "b", "none", "old"].map(|id| JobId::parse(id).unwrap());
    let found = stores.there.history.bodies(&ids).await.unwrap();
    assert_eq!(found, [Some(given), None, None, of_the_first_format("old").body_within()]);
    let old = stores.there.history.bodies(&ids[3..]).await.unwrap().remove(0).unwrap();
    assert_eq!(old.as_str(), r#"{"arguments":["x"],"data":{"b":1.5,"a":2}}"#);
    // What changes in an old record leaves what the job is given where it is.
    let old = stores.here.job("old").await;
    let retried = Versioned { document: JobRecord { retries: 1, ..old.document }, ..old };
    stores.here.projection.commit(&term, jobs(vec![retried])).await.unwrap();
    assert_eq!(stores.there.history.bodies(&ids[3..]).await.unwrap(), [of_the_first_format("old").body_within()]);
}

async fn documents_come_back_as_they_were_written(stores: Stores) {
    let written = JobRecord {
        outcome: Some(Outcome::Signal { signal: 11 }),
        error: Some("é\n\u{1}".to_owned()),
        ..record("a", "n", 5, JobState::Failed)
    };
    let written = JobRecord { result: Some(serde_json::json!(["much"])), ..written };
    let stores = stores.with(std::slice::from_ref(&written)).await;
    assert_eq!(stores.there.history.job(&written.id).await.unwrap().as_ref(), Some(&written));
    let bare = JobRecord { result: None, ..written.clone() };
    assert_eq!(stores.there.history.job_without_result(&written.id).await.unwrap(), Some(bare));
    let keys = [ShardKey { day: written.submitted_at.day(), name: name("none") }, shard_key(&written)];
    let ids = [JobId::parse("none").unwrap(), written.id.clone()];
    let loaded = stores.there.projection.load(&ids, &keys).await.unwrap();
    assert_eq!((&loaded.jobs[0], &loaded.shards[0]), (&None, &None));
    assert_eq!(loaded.jobs[1].as_ref().unwrap().document, written);
    assert_eq!(loaded.shards[1].as_ref().unwrap().document.counts, contribution(&written));
    assert_eq!(stores.there.history.job(&ids[0]).await.unwrap(), None);
    assert_eq!(stores.there.history.job_without_result(&ids[0]).await.unwrap(), None);
}

async fn the_cursor_never_goes_back(stores: Stores) {
    assert_eq!(stores.here.history.cursor().await.unwrap(), Cursor::START);
    let term = stores.term().await;
    for (written, expected) in
        [(at(7), at(7)), (at(3), at(7)), (Cursor { major: 1, minor: 0 }, Cursor { major: 1, minor: 0 })]
    {
        stores.here.projection.commit(&term, Commit { cursor: written, ..Commit::default() }).await.unwrap();
        assert_eq!(stores.there.history.cursor().await.unwrap(), expected);
        assert_eq!(stores.there.projection.position().await.unwrap(), expected);
    }
}

async fn lists_are_newest_first_without_gap_or_repeat(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    // Three share every moment, so that pages end among equals.
    let records: Vec<_> =
        (0..40).map(|i| record(&format!("j{i:02}"), "n", DAY_MS + i / 3, JobState::Waiting)).collect();
    let stores = stores.with(&records).await;
    let expected: Vec<_> = records.iter().rev().map(|r| r.id.to_string()).collect();
    for limit in [1, 2, 3, 7, 40, 100] {
        assert_eq!(stores.here.list(&JobFilter::default(), limit).await, expected, "by {limit}");
    }
}

async fn a_list_goes_on_where_it_was_while_jobs_arrive(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let stores = stores.with(&[record("a", "n", 1, JobState::Waiting), record("b", "n", 2, JobState::Waiting)]).await;
    let page = stores.here.history.jobs(&JobFilter::default(), PageRequest::first(1)).await.unwrap();
    let term = stores.term().await;
    let arrived = jobs(vec![new(record("c", "n", 3, JobState::Waiting))]);
    stores.here.projection.commit(&term, arrived).await.unwrap();
    let request = PageRequest { cursor: page.next, limit: 10 };
    let rest = stores.there.history.jobs(&JobFilter::default(), request).await.unwrap();
    let ids = |items: &[jobber::store::JobSummary]| items.iter().map(|j| j.id.to_string()).collect::<Vec<_>>();
    assert_eq!((ids(&page.items), ids(&rest.items)), (vec!["b".to_owned()], vec!["a".to_owned()]));
}

async fn filters_hold_together(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let mut records = Vec::new();
    for (i, state) in JobState::ALL.iter().cycle().take(36).enumerate() {
        records.push(record(&format!("j{i:02}"), ["a", "b"][i % 2], 1000 + i as i64 * 10, *state));
    }
    records[5].removed = true;
    records[17].removed = true;
    let stores = stores.with(&records).await;
    let state_sets = [vec![], vec![JobState::Failed], vec![JobState::Active, JobState::Waiting, JobState::Active]];
    for states in &state_sets {
        for job_name in [None, Some(name("a")), Some(name("none"))] {
            for (since, until) in [(None, None), (Some(1100), None), (None, Some(1200)), (Some(1100), Some(1200))] {
                let filter = JobFilter {
                    states: states.clone(),
                    name: job_name.clone(),
                    since: since.map(Timestamp::from_millis),
                    until: until.map(Timestamp::from_millis),
                    ..JobFilter::default()
                };
                let expected: Vec<_> = records
                    .iter()
                    .rev()
                    .filter(|r| !r.removed)
                    .filter(|r| states.is_empty() || states.contains(&r.state))
                    .filter(|r| job_name.as_ref().is_none_or(|n| *n == r.name))
                    .filter(|r| filter.since.is_none_or(|t| r.submitted_at >= t))
                    .filter(|r| filter.until.is_none_or(|t| r.submitted_at < t))
                    .map(|r| r.id.to_string())
                    .collect();
                assert_eq!(stores.here.list(&filter, 4).await, expected, "{filter:?}");
            }
        }
    }
}

/// A record of a job of a group.
fn grouped(id: &str, group: &str, index: Option<u32>, ms: i64, state: JobState) -> JobRecord {
    let mut record = record(id, "sim", ms, state);
    (record.options.group, record.options.array_index) = (Some(group.parse().unwrap()), index);
    if state.is_final() {
        record.finished_at = Some(Timestamp::from_millis(ms + 500));
    }
    record
}

async fn a_group_is_listed_counted_and_read_in_the_order_of_its_indices(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let mut records = vec![record("alone", "sim", 1000, JobState::Waiting)];
    // As text, 10 comes before 9.
    for index in 0..12 {
        let state = JobState::ALL[index as usize % 6];
        records.push(grouped(&format!("a-{index}"), "a", Some(index), 1000, state));
    }
    records.push(grouped("early", "a", None, 900, JobState::Completed));
    records.push(grouped("other", "b", Some(3), 1000, JobState::Failed));
    records[4].removed = true;
    let stores = stores.with(&records).await;
    let group = |name: &str| name.parse().unwrap();

    let tally = stores.there.history.group(&group("a")).await.unwrap();
    let counts = JobState::ALL.map(|state| tally.count(state));
    assert_eq!((counts, tally.total()), ([2, 2, 2, 1, 3, 2], 12), "{:?}", JobState::ALL);
    let span = [tally.submitted_at, tally.finished_at].map(|at| at.map(Timestamp::as_millis));
    assert_eq!(span, [Some(900), Some(1500)]);
    assert_eq!(stores.here.history.group(&group("nobody")).await.unwrap().total(), 0);

    for limit in [1, 2, 5, 12, 100] {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let request = PageRequest { cursor, limit };
            let page = stores.here.history.group_jobs(&group("a"), request).await.unwrap();
            assert!(page.items.len() <= limit);
            ids.extend(page.items.into_iter().map(|job| job.id.to_string()));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let expected = ["early".to_owned()].into_iter().chain((0..12).filter(|i| *i != 3).map(|i| format!("a-{i}")));
        assert_eq!(ids, expected.collect::<Vec<_>>(), "by {limit}");
    }
    let wrong = PageRequest { cursor: Some("x".to_owned()), limit: 1 };
    assert_eq!(stores.here.history.group_jobs(&group("a"), wrong).await.unwrap_err().kind, StoreErrorKind::Rejected);

    for states in [vec![], vec![JobState::Failed], vec![JobState::Waiting, JobState::Completed]] {
        for job_name in [None, Some(name("sim")), Some(name("none"))] {
            let filter = JobFilter {
                group: Some(group("a")),
                states: states.clone(),
                name: job_name.clone(),
                since: Some(Timestamp::from_millis(950)),
                ..JobFilter::default()
            };
            let mut expected: Vec<_> = records.iter().filter(|record| filter.takes(record)).collect();
            expected.sort_by_key(|record| std::cmp::Reverse((record.submitted_at, record.id.clone())));
            let expected: Vec<_> = expected.into_iter().map(|record| record.id.to_string()).collect();
            assert_eq!(expected.is_empty(), job_name == Some(name("none")));
            assert_eq!(stores.here.list(&filter, 3).await, expected, "{filter:?}");
            let count = stores.here.history.count(&filter, 100).await.unwrap();
            assert_eq!(count.count, expected.len() as u64);
        }
    }
}

async fn a_group_follows_its_jobs(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let stores = stores.with(&[grouped("a-0", "a", Some(0), 1000, JobState::Active)]).await;
    let mut job = stores.here.job("a-0").await;
    job.document.state = JobState::Failed;
    job.document.finished_at = Some(Timestamp::from_millis(2000));
    let term = stores.term().await;
    stores.here.projection.commit(&term, jobs(vec![job])).await.unwrap();
    let tally = stores.here.history.group(&"a".parse().unwrap()).await.unwrap();
    assert_eq!((tally.count(JobState::Active), tally.count(JobState::Failed)), (0, 1));
    assert_eq!(tally.finished_at.map(Timestamp::as_millis), Some(2000));
}

/// A record of a job whose one attempt ended like this, by this worker, after `ran` milliseconds.
fn tried_once(id: &str, job_name: &str, outcome: Outcome, worker: &str, ran: i64, error: Option<&str>) -> JobRecord {
    let state = if outcome.is_success() { JobState::Completed } else { JobState::Failed };
    let job = failed_with(&[1], record(id, job_name, id.len() as i64, state));
    let (start, end) = (job.submitted_at, Timestamp::from_millis(job.submitted_at.as_millis() + ran));
    let mut report = AttemptReport::bare(outcome, start, end, error.unwrap_or_default());
    report.error = error.map(str::to_owned);
    let mut attempts = job.attempts;
    attempts[0].worker = WorkerId::parse(worker).unwrap();
    attempts[0].report = Some(report);
    JobRecord {
        attempts,
        outcome: Some(outcome),
        error: error.map(str::to_owned),
        finished_at: Some(end),
        ..record(id, job_name, id.len() as i64, state)
    }
}

async fn a_search_looks_into_each_job(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let stores = stores
        .with(&[
            record("a", "resize", 1, JobState::Waiting),
            tried_once("bb", "resize", Outcome::Exit { code: 0 }, "w-1", 10, None),
            tried_once("ccc", "Encode", Outcome::Exit { code: 3 }, "w-1", 500, Some("Disk FULL\nsecond line")),
            tried_once("dddd", "encode", Outcome::Signal { signal: 11 }, "w-2", 2000, Some("it broke: ÄRGER")),
            tried_once("eeeee", "encode", Outcome::Timeout, "w-2", 9000, Some("disk full")),
        ])
        .await;
    let failed = vec![JobState::Failed];
    let search = Search::default;
    let text = |text: &str| Search { text: Some(text.to_owned()), ..search() };
    let cases: Vec<(Search, Vec<JobState>, &[&str])> = vec![
        (text("disk full"), vec![], &["eeeee", "ccc"]),
        (text("ärger"), vec![], &["dddd"]),
        (text("second"), vec![], &[]),
        (text("size"), vec![], &["bb", "a"]),
        (text("ddd"), vec![], &["dddd"]),
        (text("encode"), failed.clone(), &["eeeee", "dddd", "ccc"]),
        (
            Search { outcomes: vec![OutcomeKind::Exit, OutcomeKind::Timeout], ..search() },
            vec![],
            &["eeeee", "ccc", "bb"],
        ),
        (Search { outcomes: vec![OutcomeKind::Exit], ..search() }, failed, &["ccc"]),
        (Search { exit_code: Some(0), ..search() }, vec![], &["bb"]),
        (Search { signal: Some(11), ..search() }, vec![], &["dddd"]),
        (Search { worker: Some(WorkerId::parse("w-1").unwrap()), ..search() }, vec![], &["ccc", "bb"]),
        (Search { longer_than_ms: Some(500), ..search() }, vec![], &["eeeee", "dddd"]),
        (Search { shorter_than_ms: Some(500), ..search() }, vec![], &["bb"]),
        (
            Search { longer_than_ms: Some(9), shorter_than_ms: Some(501), exit_code: Some(3), ..search() },
            vec![],
            &["ccc"],
        ),
    ];
    for (search, states, expected) in cases {
        let filter = JobFilter { search, states, ..JobFilter::default() };
        for limit in [1, 2, 10] {
            assert_eq!(stores.here.list(&filter, limit).await, expected, "{filter:?} by {limit}");
        }
        let count = stores.here.history.count(&filter, 100).await.unwrap();
        assert_eq!(count, JobCount { count: expected.len() as u64, capped: false }, "{filter:?}");
    }
    let filter = JobFilter { search: text("disk"), ..JobFilter::default() };
    let page = stores.here.history.jobs(&filter, PageRequest::first(10)).await.unwrap();
    assert_eq!((page.scanned, page.next), (Some(5), None));
    let all = stores.here.history.jobs(&JobFilter::default(), PageRequest::first(10)).await.unwrap();
    assert_eq!(all.scanned, None, "a list without a search looks at none");
}

async fn a_count_ends_at_its_limit(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let records: Vec<_> = (0..40)
        .map(|i| {
            failed_with(&[i % 3, 9], record(&format!("j{i:02}"), "n", i.into(), JobState::ALL[usize::from(i) % 6]))
        })
        .collect();
    let stores = stores.with(&records).await;
    let waiting = JobFilter { states: vec![JobState::Waiting, JobState::Active], ..JobFilter::default() };
    let with_errors = JobFilter { errors: [0, 9].map(fingerprint).to_vec(), ..JobFilter::default() };
    for (filter, whole) in [(JobFilter::default(), 40), (waiting, 14), (with_errors, 40)] {
        for (most, count, capped) in [(100, whole, false), (whole, whole, false), (whole - 1, whole - 1, true)] {
            let counted = stores.here.history.count(&filter, usize::try_from(most).unwrap()).await.unwrap();
            assert_eq!(counted, JobCount { count, capped }, "{filter:?} up to {most}");
        }
    }
}

async fn a_list_follows_its_jobs(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let stores = stores.with(&[record("a", "n", 1, JobState::Waiting)]).await;
    let term = stores.term().await;
    let in_state = |state| JobFilter { states: vec![state], ..JobFilter::default() };
    let mut read = stores.here.job("a").await;
    read.document.state = JobState::Completed;
    stores.here.projection.commit(&term, jobs(vec![read])).await.unwrap();
    assert_eq!(stores.there.list(&in_state(JobState::Waiting), 9).await, [""; 0]);
    assert_eq!(stores.there.list(&in_state(JobState::Completed), 9).await, ["a"]);

    let mut read = stores.here.job("a").await;
    read.document.removed = true;
    let id = read.document.id.clone();
    stores.here.projection.commit(&term, jobs(vec![read])).await.unwrap();
    assert_eq!(stores.there.list(&JobFilter::default(), 9).await, [""; 0]);
    assert!(stores.there.history.job(&id).await.unwrap().is_some(), "out of the lists, not out of history");
}

async fn a_cursor_of_no_list_is_rejected(stores: Stores) {
    for cursor in ["", "x", "12", "12-zz", "-", "1-6", "1-ff", "9999999999999999999999-61"] {
        let request = PageRequest { cursor: Some(cursor.to_owned()), limit: 10 };
        let error = stores.here.history.jobs(&JobFilter::default(), request).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Rejected, "{cursor:?}");
    }
}

async fn names_are_summed_up_in_order(stores: Stores) {
    let mut records = vec![
        record("b1", "b", 10, JobState::Completed),
        record("a1", "a", 20, JobState::Active),
        record("a2", "a", 30, JobState::Delayed),
        record("a3", "a", DAY_MS * 3, JobState::Active),
        record("a4", "a", DAY_MS * 3 + 1, JobState::Failed),
        record("a5", "a", DAY_MS * 3 + 2, JobState::Completed),
        record("c1", "c", 10, JobState::Failed),
    ];
    records[5].removed = true;
    records[6].removed = true;
    let stores = stores.with(&records).await;
    let names = stores.there.history.job_names().await.unwrap();
    assert_eq!(names.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["a", "b"], "all of c was removed");
    let a = &names[0];
    assert_eq!((a.waiting, a.active, a.completed, a.failed), (1, 2, 1, 1));
    assert_eq!(a.latest, records[4].submitted_at);
    let text = |ids: &[JobId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (text(&a.recent), text(&a.running)),
        (["a4", "a3", "a2", "a1"].map(String::from).to_vec(), ["a3", "a1"].map(String::from).to_vec(),)
    );
}

async fn shards_are_found_by_day_and_name(stores: Stores) {
    let mut records = Vec::new();
    for day in 1..5 {
        for job_name in ["a", "b"] {
            records.push(record(&format!("{job_name}-{day}"), job_name, DAY_MS * day, JobState::Failed));
        }
    }
    let stores = stores.with(&records).await;
    let day = |n: i64| -> Day { Timestamp::from_millis(DAY_MS * n).day() };
    let found = async |from: Option<i64>, to: Option<i64>, job_name: Option<&str>| {
        let range = DayRange { from: from.map(day), to: to.map(day) };
        let shards = stores.there.history.shards(range, job_name.map(name).as_ref()).await.unwrap();
        shards.iter().map(|s| format!("{}{}", s.key.name, s.key.day.start().as_millis() / DAY_MS)).collect::<Vec<_>>()
    };
    assert_eq!(found(None, None, None).await.len(), 8);
    assert_eq!(found(Some(2), Some(3), None).await, ["a2", "b2", "a3", "b3"]);
    assert_eq!(found(Some(4), None, None).await, ["a4", "b4"]);
    assert_eq!(found(None, Some(2), Some("b")).await, ["b1", "b2"]);
    assert_eq!(found(None, None, Some("none")).await, [""; 0]);
    let keys = stores.there.projection.shard_keys().await.unwrap();
    assert_eq!(keys.len(), 8);
}

async fn a_shard_is_replaced_whole(stores: Stores) {
    let stores = stores.with(&[record("a", "n", 1, JobState::Waiting)]).await;
    let term = stores.term().await;
    let key = shard_key(&record("a", "n", 1, JobState::Waiting));
    let loaded = stores.here.projection.load(&[], std::slice::from_ref(&key)).await.unwrap();
    let mut shard = loaded.shards.into_iter().next().flatten().unwrap();
    shard.document.counts = Counts { active: 3, ..Counts::default() };
    shard.document.applied = at(9);
    let expected = shard.document.clone();
    stores.here.projection.commit(&term, Commit { shards: vec![shard], ..Commit::default() }).await.unwrap();
    assert_eq!(stores.there.history.shards(DayRange::default(), None).await.unwrap(), [expected]);
    assert_eq!(stores.there.history.job_names().await.unwrap()[0].active, 3);
}

async fn the_builds_of_a_name_are_written_under_their_version_and_found(stores: Stores) {
    let records = ["a", "b"].map(|n| record(&format!("of-{n}"), n, 1, JobState::Waiting));
    let stores = stores.with(&records).await;
    let term = stores.term().await;
    let history = |n: &str, events: u64| {
        let (mut history, digest) = (BuildHistory::new(name(n)), BuildDigest::of_build_id(&[7; 8]));
        for minor in 1..=events {
            let (place, now) = (Cursor { major: 0, minor }, Timestamp::from_millis(5));
            let cell = history.place(place, &digest, now).map(|place| place.cell);
            let running = FirstAttempt { build: digest.clone(), cell, fate: Fate::Running { since: now } };
            assert!(history.apply(place, now, (None, Some(&running)), now, None));
        }
        history
    };
    let write = |document: BuildHistory, version: Option<u64>| {
        let commit = Commit { builds: vec![Versioned { document, version }], ..Commit::default() };
        stores.here.projection.commit(&term, commit)
    };
    assert!(stores.there.history.builds(None).await.unwrap().is_empty());
    for n in ["b", "a"] {
        write(history(n, 2), None).await.unwrap();
    }
    assert_eq!(kind_of(write(history("a", 3), None)).await, Some(StoreErrorKind::Conflict));
    let names = [name("b"), name("none"), name("a")];
    let loaded = stores.there.projection.load_builds(&names).await.unwrap();
    assert!(loaded[1].is_none());
    let read = loaded[2].clone().unwrap();
    assert_eq!(read.document, history("a", 2));
    write(history("a", 4), read.version).await.unwrap();
    assert_eq!(kind_of(write(history("a", 5), read.version)).await, Some(StoreErrorKind::Conflict));
    assert_eq!(stores.there.history.builds(None).await.unwrap(), [history("a", 4), history("b", 2)]);
    assert_eq!(stores.there.history.builds(Some(&name("b"))).await.unwrap(), [history("b", 2)]);
    assert!(stores.there.history.builds(Some(&name("none"))).await.unwrap().is_empty());
    assert_eq!(stores.there.projection.build_names().await.unwrap(), [name("a"), name("b")]);
}

async fn a_scan_finds_every_record_once(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let mut records: Vec<_> = (0..25).map(|i| record(&format!("j{i:02}"), "n", 100 - i, JobState::Waiting)).collect();
    records[3].removed = true;
    let stores = stores.with(&records).await;
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let some = stores.there.projection.scan(after.as_ref(), 4).await.unwrap();
        assert!(some.len() <= 4);
        let Some(last) = some.last() else { break };
        after = Some(last.id.clone());
        found.extend(some);
    }
    assert_eq!(found, records);
    for (prefix, limit, from, to) in
        [("j", 4, 0, 4), ("j0", 100, 0, 10), ("j1", 100, 10, 20), ("j24", 9, 24, 25), ("k", 9, 0, 0)]
    {
        let ids = stores.there.history.ids_from(prefix, limit).await.unwrap();
        let expected: Vec<_> = records[from..to].iter().map(|record| record.id.clone()).collect();
        assert_eq!(ids, expected, "{prefix}");
    }
}

/// Writes these records under this retention, as [`Stores::with`] does.
async fn written(stores: Stores, records: &[JobRecord], retention: Retention) -> Stores {
    let stores = stores.with(records).await;
    let term = stores.term().await;
    for record in records {
        let job = stores.here.job(record.id.as_str()).await;
        let commit = Commit { jobs: vec![job], retention, ..Commit::default() };
        stores.here.projection.commit(&term, commit).await.unwrap();
    }
    stores
}

fn week() -> Retention {
    Retention::new(Some(Duration::from_millis(7 * DAY_MS as u64)))
}

/// What became of six jobs of the first and the second day, a week later.
fn ended() -> Vec<JobRecord> {
    let ended = |id: &str, submitted: i64, ended: i64| JobRecord {
        finished_at: Some(Timestamp::from_millis(ended)),
        ..record(id, "n", submitted, JobState::Failed)
    };
    vec![
        ended("on-the-first-day", 5, DAY_MS - 1),
        ended("on-the-second-day", 5, DAY_MS),
        JobRecord { removed: true, ..record("removed", "n", 5, JobState::Delayed) },
        record("waits", "n", 5, JobState::Waiting),
        record("runs", "n", 5, JobState::Active),
        ended("of-the-second-day", DAY_MS, DAY_MS),
    ]
}

async fn what_has_expired_goes_and_its_counts_stay(stores: Stores) {
    if stores.has_a_clock_of_its_own() {
        return;
    }
    let stores = written(stores, &ended(), week()).await;
    let before = stores.here.history.shards(DayRange::default(), None).await.unwrap();
    let all = async |stores: &Stores| {
        let records = stores.there.projection.scan(None, 100).await.unwrap();
        records.iter().map(|r| r.id.to_string()).collect::<Vec<_>>()
    };
    let everything = all(&stores).await;
    stores.pass(week(), Timestamp::from_millis(8 * DAY_MS - 1)).await;
    assert_eq!(all(&stores).await, everything, "nothing goes before its time");
    stores.pass(week(), Timestamp::from_millis(8 * DAY_MS)).await;
    assert_eq!(all(&stores).await, ["of-the-second-day", "on-the-second-day", "runs", "waits"]);
    stores.pass(week(), Timestamp::from_millis(9 * DAY_MS)).await;
    assert_eq!(all(&stores).await, ["runs", "waits"]);
    stores.pass(week(), Timestamp::from_millis(900 * DAY_MS)).await;
    assert_eq!(all(&stores).await, ["runs", "waits"], "what has not ended stays for ever");
    assert_eq!(stores.there.list(&JobFilter::default(), 10).await, ["waits", "runs"]);
    let after = stores.here.history.shards(DayRange::default(), None).await.unwrap();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.counts, after.counts);
    }
}

async fn a_job_that_goes_on_no_longer_expires(stores: Stores) {
    if stores.has_a_clock_of_its_own() {
        return;
    }
    let stores = written(stores, &ended(), week()).await;
    let term = stores.term().await;
    let mut job = stores.here.job("on-the-first-day").await;
    job.document = JobRecord { state: JobState::Waiting, finished_at: None, ..job.document };
    let commit = Commit { jobs: vec![job], retention: week(), ..Commit::default() };
    stores.here.projection.commit(&term, commit).await.unwrap();
    stores.pass(week(), Timestamp::from_millis(900 * DAY_MS)).await;
    assert_eq!(stores.here.job("on-the-first-day").await.document.state, JobState::Waiting);
}

async fn nothing_expires_that_is_kept_for_ever(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let stores = written(stores, &ended(), Retention::FOREVER).await;
    stores.pass(Retention::FOREVER, Timestamp::from_millis(90_000 * DAY_MS)).await;
    assert_eq!(stores.there.projection.scan(None, 100).await.unwrap().len(), ended().len());
}

async fn only_the_current_term_removes(stores: Stores) {
    let stores = written(stores, &ended(), Retention::FOREVER).await;
    let old = stores.term().await;
    stores.here.projection.resign(&old).await.unwrap();
    let result = stores.here.projection.expire(&old, week(), Timestamp::from_millis(900 * DAY_MS), 10).await;
    assert_eq!(result.unwrap_err().kind, StoreErrorKind::Fenced);
}

async fn a_store_that_is_there_answers(stores: Stores) {
    stores.here.history.ping().await.unwrap();
    assert_eq!(stores.here.history.job_names().await.unwrap(), []);
}

fn fingerprint(n: u8) -> Fingerprint {
    Fingerprint::from_bytes([n; 32])
}

fn failed_with(errors: &[u8], record: JobRecord) -> JobRecord {
    let attempt = |(i, n): (usize, &u8)| AttemptRecord {
        number: AttemptNumber(i as u32 + 1),
        worker: WorkerId::parse("w").unwrap(),
        host: "h".to_owned(),
        started_at: record.submitted_at,
        report: None,
        fingerprint: Some(fingerprint(*n)),
        build: None,
    };
    JobRecord { attempts: errors.iter().enumerate().map(attempt).collect(), ..record.clone() }
}

async fn jobs_are_found_by_their_errors(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let mut records = Vec::new();
    for (i, errors) in [&[1][..], &[2], &[], &[1, 2], &[2, 1, 2], &[3]].iter().cycle().take(36).enumerate() {
        let state = [JobState::Failed, JobState::Completed, JobState::Active][i / 2 % 3];
        let record = record(&format!("j{i:02}"), ["a", "b"][i % 2], 1000 + (i as i64 / 3) * 10, state);
        records.push(failed_with(errors, record));
    }
    records[4].removed = true;
    let stores = stores.with(&records).await;
    for errors in [vec![1], vec![2, 1], vec![9], vec![3, 3], vec![9, 2]] {
        let errors: Vec<_> = errors.into_iter().map(fingerprint).collect();
        for states in [vec![], vec![JobState::Failed, JobState::Active]] {
            for (job_name, since, until) in [(None, None, None), (Some("a"), Some(1030), Some(1090))] {
                let filter = JobFilter {
                    states: states.clone(),
                    name: job_name.map(name),
                    since: since.map(Timestamp::from_millis),
                    until: until.map(Timestamp::from_millis),
                    errors: errors.clone(),
                    ..JobFilter::default()
                };
                let expected: Vec<_> = records
                    .iter()
                    .rev()
                    .filter(|r| !r.removed)
                    .filter(|r| r.errors().as_slice().iter().any(|f| errors.contains(f)))
                    .filter(|r| states.is_empty() || states.contains(&r.state))
                    .filter(|r| filter.name.as_ref().is_none_or(|n| *n == r.name))
                    .filter(|r| filter.since.is_none_or(|t| r.submitted_at >= t))
                    .filter(|r| filter.until.is_none_or(|t| r.submitted_at < t))
                    .map(|r| r.id.to_string())
                    .collect();
                for limit in [3, 100] {
                    assert_eq!(stores.there.list(&filter, limit).await, expected, "{filter:?}");
                }
            }
        }
    }
}

async fn errors_are_chosen_by_their_group_and_their_digits(stores: Stores) {
    let term = stores.term().await;
    let (here, there) = (&stores.here.projection, &stores.there.history);
    let day = Timestamp::from_millis(DAY_MS).day();
    let mut shard = StatShard::new(ShardKey { day, name: name("a") });
    let count = |n| (fingerprint(n), FailureCounts { attempts: 1, ..FailureCounts::default() });
    shard.counts.failures = (1..=120).map(count).collect();
    let category = |id: &str| Category {
        id: id.parse().unwrap(),
        name: id.to_owned(),
        description: String::new(),
        examples: Vec::new(),
    };
    let commit = Commit {
        categories: Some(new(Categories::seeded(vec![category("few"), category("many")]))),
        shards: vec![new(shard)],
        ..sightings((1..=120).map(|n| seen(n, 10, "a")))
    };
    here.commit(&term, commit).await.unwrap();
    let of = |category: Option<&str>| Knowledge {
        category: category.map(|id| id.parse().unwrap()),
        ..knowledge(vec![1.0, 0.0], 1)
    };
    for n in 1..=110 {
        let category = match n {
            1..=100 => Some("many"),
            101..=103 => Some("few"),
            104 => Some("gone"),
            _ => None,
        };
        here.learn(&term, &learned(n, &of(category))).await.unwrap();
    }
    let choose = async |label: Option<Label>, digits: Option<String>| match there
        .choose_errors(&WantedErrors { label, digits })
        .await
        .unwrap()
    {
        ErrorChoice::These(mut errors) => {
            errors.sort_unstable();
            Some(errors)
        }
        ErrorChoice::AllOf(_) => None,
    };
    let these = |numbers: std::ops::RangeInclusive<u8>| {
        let mut errors: Vec<_> = numbers.map(fingerprint).collect();
        errors.sort_unstable();
        errors
    };
    let category = |id: &str| Some(Label::Category(id.parse().unwrap()));
    assert_eq!(choose(category("few"), None).await, Some(these(101..=103)));
    assert_eq!(choose(Some(Label::Uncategorised), None).await, Some(these(104..=110)), "a category that is no more");
    assert_eq!(choose(Some(Label::Pending), None).await, Some(these(111..=120)));
    assert_eq!(choose(category("gone"), None).await, Some(Vec::new()));
    if let Some(all) = choose(category("many"), None).await {
        assert_eq!(all, these(1..=100));
    }
    for n in [1, 102] {
        let digits = fingerprint(n).to_string();
        for length in [5, 64] {
            assert_eq!(choose(None, Some(digits[..length].to_owned())).await, Some(these(n..=n)), "{digits} {length}");
        }
        let few = if n == 102 { these(n..=n) } else { Vec::new() };
        assert_eq!(choose(category("few"), Some(digits)).await, Some(few));
    }
    for digits in ["0000000", "xyz", "é"] {
        assert_eq!(choose(None, Some(digits.to_owned())).await, Some(Vec::new()), "{digits}");
    }
}

async fn jobs_are_found_by_the_group_of_their_errors(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let errors = [&[1][..], &[2], &[], &[1, 2], &[3]];
    let records: Vec<_> = (0..30)
        .map(|i| {
            let state = [JobState::Failed, JobState::Completed][i / 5 % 2];
            failed_with(errors[i % 5], record(&format!("j{i:02}"), ["a", "b"][i % 2], 1000 + i as i64, state))
        })
        .collect();
    let stores = stores.with(&records).await;
    let term = stores.term().await;
    let here = &stores.here.projection;
    let key = shard_key(&records[0]);
    let loaded = here.load(&[], std::slice::from_ref(&key)).await.unwrap();
    let mut shard = loaded.shards.into_iter().next().flatten().unwrap();
    let count = |n| (fingerprint(n), FailureCounts { attempts: 1, ..FailureCounts::default() });
    shard.document.counts.failures = (1..=3).map(count).collect();
    here.commit(&term, Commit { shards: vec![shard], ..sightings((1..=3).map(|n| seen(n, 10, "a"))) }).await.unwrap();
    let known = Knowledge { category: None, ..knowledge(vec![1.0, 0.0], 1) };
    for n in [1, 2] {
        here.learn(&term, &learned(n, &known)).await.unwrap();
    }
    for (label, of) in [(Label::Uncategorised, &[0, 1, 3][..]), (Label::Pending, &[4])] {
        for states in [vec![], vec![JobState::Completed]] {
            for job_name in [None, Some(name("b"))] {
                let filter = JobFilter {
                    label: Some(label.clone()),
                    states: states.clone(),
                    name: job_name.clone(),
                    ..JobFilter::default()
                };
                let is_it = |(i, r): &(usize, &JobRecord)| {
                    of.contains(&(i % 5))
                        && (states.is_empty() || states.contains(&r.state))
                        && job_name.as_ref().is_none_or(|name| *name == r.name)
                };
                let expected: Vec<_> =
                    records.iter().enumerate().filter(is_it).map(|(_, r)| r.id.to_string()).rev().collect();
                for limit in [2, 100] {
                    assert_eq!(stores.there.list(&filter, limit).await, expected, "{filter:?}");
                }
                let count = stores.there.history.count(&filter, 100).await.unwrap();
                assert_eq!(count.count, expected.len() as u64);
            }
        }
    }
    let none = JobFilter { label: Some(Label::Category("none".parse().unwrap())), ..JobFilter::default() };
    assert_eq!(stores.there.list(&none, 9).await, [""; 0]);
}

async fn a_job_is_found_by_an_error_of_a_later_attempt(stores: Stores) {
    if stores.is_skipped() {
        return;
    }
    let stores = stores.with(&[failed_with(&[1], record("a", "n", 1, JobState::Active))]).await;
    let term = stores.term().await;
    let by = |n| JobFilter { errors: vec![fingerprint(n)], ..JobFilter::default() };
    assert_eq!(stores.there.list(&by(2), 9).await, [""; 0]);
    let mut read = stores.here.job("a").await;
    read.document = failed_with(&[1, 2], read.document);
    stores.here.projection.commit(&term, jobs(vec![read])).await.unwrap();
    assert_eq!(stores.there.list(&by(2), 9).await, ["a"]);
    assert_eq!(stores.there.list(&by(1), 9).await, ["a"]);
}

fn seen(n: u8, ms: i64, job: &str) -> Sighting {
    let (at, id) = (Timestamp::from_millis(ms), JobId::parse(job).unwrap());
    Sighting::new(fingerprint(n), &format!("error {n} at {ms}: \u{e9}\n"), at, &name(job), &id)
}

fn sightings(sightings: impl IntoIterator<Item = Sighting>) -> Commit {
    Commit { sightings: sightings.into_iter().collect(), ..Commit::default() }
}

async fn what_is_seen_of_an_error_adds_up(stores: Stores) {
    let term = stores.term().await;
    assert_eq!(stores.here.history.errors(&[fingerprint(1)]).await.unwrap(), [None]);
    assert_eq!(stores.here.history.errors(&[]).await.unwrap(), []);
    let all: Vec<_> = (0..8).map(|i| seen(1, 500 + (i * 3 % 8) * 10, &format!("j{i}"))).collect();
    let mut merged = all[0].clone();
    all.iter().for_each(|s| merged.merge(s));
    let commits = [&all[..3], &all[2..], &all[..1]];
    for part in commits {
        // One at a time and the same ones again: as replays do.
        for one in part {
            stores.here.projection.commit(&term, sightings([one.clone(), seen(2, 7, "x")])).await.unwrap();
        }
    }
    let found = stores.there.history.errors(&[2, 9, 1, 2].map(fingerprint)).await.unwrap();
    assert_eq!((&found[1], &found[0]), (&None, &found[3]));
    assert_eq!(found[2].as_ref().map(|r| (&r.seen, &r.knowledge)), Some((&merged, &None)));
    assert_eq!(found[0].as_ref().unwrap().seen, seen(2, 7, "x"));
}

fn knowledge(vector: Vec<f32>, revision: u64) -> Knowledge {
    let category = (revision > 1).then(|| format!("c-{revision}").parse().unwrap());
    Knowledge { model: "m".to_owned(), vector, category, similarity: 0.1 * revision as f32, revision: at(revision) }
}

fn learned(n: u8, knowledge: &Knowledge) -> Vec<Learned> {
    vec![Learned { fingerprint: fingerprint(n), knowledge: knowledge.clone() }]
}

async fn what_is_known_and_what_is_seen_of_an_error_lie_side_by_side(stores: Stores) {
    let term = stores.term().await;
    let (here, there) = (&stores.here.projection, &stores.there);
    here.commit(&term, sightings([seen(1, 10, "a"), seen(2, 10, "a")])).await.unwrap();
    let known = knowledge(vec![0.1, -1.0, f32::MIN_POSITIVE], 1);
    here.learn(&term, &[learned(1, &known), learned(9, &known)].concat()).await.unwrap();
    here.commit(&term, sightings([seen(1, 20, "b")])).await.unwrap();
    let mut merged = seen(1, 10, "a");
    merged.merge(&seen(1, 20, "b"));
    let found = there.history.errors(&[1, 2, 9].map(fingerprint)).await.unwrap();
    let outlines = there.history.outlines(&[1, 2, 9].map(fingerprint)).await.unwrap();
    assert_eq!(outlines, found.iter().cloned().map(|record| record.map(ErrorOutline::from)).collect::<Vec<_>>());
    let first = found[0].as_ref().unwrap();
    assert_eq!((&first.seen, first.knowledge.as_ref()), (&merged, Some(&known)));
    assert_eq!(found[1].as_ref().unwrap().knowledge, None);
    assert_eq!(found[2], None, "nothing is known of what was never seen");
}

async fn later_knowledge_of_an_error_counts(stores: Stores) {
    let term = stores.term().await;
    let here = &stores.here.projection;
    here.commit(&term, sightings([seen(1, 10, "a")])).await.unwrap();
    let found = async || stores.there.history.errors(&[fingerprint(1)]).await.unwrap()[0].clone().unwrap().knowledge;
    for (written, expected) in [(2, 2), (3, 3), (2, 3), (3, 3)] {
        here.learn(&term, &learned(1, &knowledge(vec![1.0], written))).await.unwrap();
        assert_eq!(found().await, Some(knowledge(vec![1.0], expected)));
    }
    let same_revision = Knowledge { model: "other".to_owned(), category: None, ..knowledge(vec![0.5, 0.5], 3) };
    here.learn(&term, &learned(1, &same_revision)).await.unwrap();
    assert_eq!(found().await, Some(same_revision));
}

async fn who_has_no_term_learns_nothing(stores: Stores) {
    let old = stores.term().await;
    stores.here.projection.commit(&old, sightings([seen(1, 10, "a")])).await.unwrap();
    stores.clock.advance(TTL * 2);
    stores.there.projection.lead("two", TTL, &stores.clock).await.unwrap().unwrap();
    let known = learned(1, &knowledge(vec![1.0], 1));
    assert_eq!(kind_of(stores.here.projection.learn(&old, &known)).await, Some(StoreErrorKind::Fenced));
    assert_eq!(stores.here.history.errors(&[fingerprint(1)]).await.unwrap()[0].as_ref().unwrap().knowledge, None);
}

async fn the_nearest_errors_of_a_model_are_found_in_order(stores: Stores) {
    let term = stores.term().await;
    let here = &stores.here.projection;
    // As ever, an aggregate names every error that there is.
    let one = FailureCounts { attempts: 1, cpu_us: 0, wall_us: 0 };
    let failures = (1..=7).map(|n| (fingerprint(n), one)).collect();
    let key = shard_key(&record("a", "a", 10, JobState::Failed));
    let shard = StatShard { counts: Counts { failures, ..Counts::default() }, ..StatShard::new(key) };
    let errors = sightings((1..=7).map(|n| seen(n, 10, "a")));
    here.commit(&term, Commit { shards: vec![new(shard)], ..errors }).await.unwrap();
    let vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]];
    for (n, vector) in (1..).zip(vectors) {
        here.learn(&term, &learned(n, &knowledge(vector.to_vec(), 1))).await.unwrap();
    }
    let other = Knowledge { model: "other".to_owned(), ..knowledge(vec![1.0, 0.0], 1) };
    here.learn(&term, &learned(6, &other)).await.unwrap();
    let found = async |k: usize| -> Vec<(u8, f32)> {
        let near = stores.there.history.similar_errors(&[1.0, 0.0], "m", k).await.unwrap();
        near.iter().map(|n| (n.record.seen.fingerprint.as_bytes()[0], (n.similarity * 100.0).round())).collect()
    };
    assert_eq!(found(3).await, [(1, 100.0), (2, 80.0), (5, 60.0)]);
    assert_eq!(found(99).await.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 5, 3, 4]);
    assert_eq!(stores.there.history.similar_errors(&[1.0, 0.0], "none", 3).await.unwrap(), []);
    let best = stores.there.history.similar_errors(&[0.0, 1.0], "m", 1).await.unwrap();
    assert_eq!(best[0].record.knowledge, Some(knowledge(vec![0.0, 1.0], 1)));
}

/// Whichever way a store finds them, and when it changes its ways.
async fn the_same_errors_are_near_however_often_one_asks(stores: Stores) {
    let term = stores.term().await;
    // On a circle, no two equally near to a third.
    let angle = |n: u8| f32::from(n) * f32::from(n) * 0.731;
    let vector = |n: u8| vec![angle(n).cos(), angle(n).sin()];
    let one = FailureCounts { attempts: 1, cpu_us: 0, wall_us: 0 };
    let failures = (0..40).map(|n| (fingerprint(n), one)).collect();
    let key = shard_key(&record("a", "a", 10, JobState::Failed));
    let shard = StatShard { counts: Counts { failures, ..Counts::default() }, ..StatShard::new(key) };
    let errors = sightings((0..40).map(|n| seen(n, 10, "a")));
    let here = &stores.here.projection;
    here.commit(&term, Commit { shards: vec![new(shard)], ..errors }).await.unwrap();
    let all: Vec<_> = (0..40).flat_map(|n| learned(n, &knowledge(vector(n), 1))).collect();
    here.learn(&term, &all).await.unwrap();
    for n in 0..40 {
        let near = |other: u8| vector(n).iter().zip(vector(other)).map(|(a, b)| a * b).sum::<f32>();
        let mut expected: Vec<u8> = (0..40).collect();
        expected.sort_by(|a, b| near(*b).total_cmp(&near(*a)));
        let found = stores.there.history.similar_errors(&vector(n), "m", 5).await.unwrap();
        let names: Vec<_> = found.iter().map(|n| n.record.seen.fingerprint.as_bytes()[0]).collect();
        assert_eq!(names, expected[..5], "near {n}");
        assert!(found.iter().zip(&expected).all(|(found, other)| (found.similarity - near(*other)).abs() < 1e-5));
    }
}

async fn categories_are_written_under_their_version_only(stores: Stores) {
    assert_eq!(stores.there.projection.load_categories().await.unwrap(), None);
    assert_eq!(stores.there.history.categories().await.unwrap(), Categories::default());
    let term = stores.term().await;
    let category = |id: &str| Category {
        id: id.parse().unwrap(),
        name: format!("{id} \u{e9}"),
        description: "d".to_owned(),
        examples: vec!["one".to_owned(), "two\n".to_owned()],
    };
    let commit = |categories| Commit { categories: Some(categories), ..Commit::default() };
    let first = Categories::seeded(vec![category("a"), category("b")]);
    let projection = &stores.here.projection;
    projection.commit(&term, commit(new(first.clone()))).await.unwrap();
    assert_eq!(stores.there.history.categories().await.unwrap(), first);
    assert_eq!(kind_of(projection.commit(&term, commit(new(first.clone())))).await, Some(StoreErrorKind::Conflict));
    let read = stores.there.projection.load_categories().await.unwrap().unwrap();
    let second = Categories { threshold: Some(0.5), revision: at(4), categories: vec![category("b")], ..first };
    let changed = Versioned { document: second.clone(), ..read };
    projection.commit(&term, commit(changed.clone())).await.unwrap();
    assert_eq!(stores.there.history.categories().await.unwrap(), second);
    assert_eq!(kind_of(projection.commit(&term, commit(changed))).await, Some(StoreErrorKind::Conflict));
}

async fn whatever_may_change_a_label_or_an_aggregate_moves_a_mark(stores: Stores) {
    let (term, projection) = (stores.term().await, &stores.here.projection);
    let key = |day: i64| ShardKey { day: Timestamp::from_millis(day * 86_400_000).day(), name: name("a") };
    let shards = vec![new(StatShard::new(key(0))), new(StatShard::new(key(1)))];
    let first = Commit { shards, ..sightings([seen(1, 5, "x"), seen(2, 6, "x")]) };
    projection.commit(&term, first).await.unwrap();
    let marks = async || stores.there.history.marks(DayRange::default(), None).await.unwrap();
    // Nothing of a store without marks is ever kept.
    let Some(mut last) = marks().await else { return };
    assert_eq!(last.shards.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [key(0), key(1)]);
    let mut moved = async || {
        let before = std::mem::replace(&mut last, marks().await.unwrap());
        let moved: Vec<_> = before.shards.iter().zip(&last.shards).map(|(before, now)| now.1 > before.1).collect();
        (before.labels != last.labels, moved)
    };
    assert_eq!(moved().await, (false, vec![false, false]));
    // A pending error becomes known, and then belongs elsewhere.
    for revision in [1, 2, 3] {
        projection.learn(&term, &learned(1, &knowledge(vec![1.0], revision))).await.unwrap();
        assert_eq!(moved().await, (true, vec![false, false]), "{revision}");
    }
    let seeded = Commit { categories: Some(new(Categories::seeded(vec![]))), ..Commit::default() };
    projection.commit(&term, seeded).await.unwrap();
    assert_eq!(moved().await, (true, vec![false, false]));
    let categories = projection.load_categories().await.unwrap();
    projection.commit(&term, Commit { categories, ..Commit::default() }).await.unwrap();
    assert_eq!(moved().await, (true, vec![false, false]));
    // Written once more, with the cursor that it had.
    let mut shards: Vec<_> = projection.load(&[], &[key(1)]).await.unwrap().shards.into_iter().flatten().collect();
    shards[0].document.counts.waiting = 1;
    projection.commit(&term, Commit { shards, ..sightings([seen(1, 7, "y")]) }).await.unwrap();
    assert_eq!(moved().await, (false, vec![false, true]));
}

conformance! {
    suite store {
        one_projector_leads_at_a_time,
        of_many_who_ask_at_once_one_wins,
        a_term_that_has_passed_is_fenced,
        resigning_ends_that_term_only,
        a_document_is_written_under_its_version_only,
        what_a_job_is_never_changes,
        what_a_job_is_given_is_kept_beside_its_record_and_written_once,
        documents_come_back_as_they_were_written,
        the_cursor_never_goes_back,
        lists_are_newest_first_without_gap_or_repeat,
        a_list_goes_on_where_it_was_while_jobs_arrive,
        filters_hold_together,
        a_group_is_listed_counted_and_read_in_the_order_of_its_indices,
        a_group_follows_its_jobs,
        a_search_looks_into_each_job,
        a_count_ends_at_its_limit,
        a_list_follows_its_jobs,
        a_cursor_of_no_list_is_rejected,
        names_are_summed_up_in_order,
        shards_are_found_by_day_and_name,
        a_shard_is_replaced_whole,
        the_builds_of_a_name_are_written_under_their_version_and_found,
        a_scan_finds_every_record_once,
        what_has_expired_goes_and_its_counts_stay,
        a_job_that_goes_on_no_longer_expires,
        nothing_expires_that_is_kept_for_ever,
        only_the_current_term_removes,
        a_store_that_is_there_answers,
        jobs_are_found_by_their_errors,
        errors_are_chosen_by_their_group_and_their_digits,
        jobs_are_found_by_the_group_of_their_errors,
        a_job_is_found_by_an_error_of_a_later_attempt,
        what_is_seen_of_an_error_adds_up,
        what_is_known_and_what_is_seen_of_an_error_lie_side_by_side,
        later_knowledge_of_an_error_counts,
        who_has_no_term_learns_nothing,
        the_nearest_errors_of_a_model_are_found_in_order,
        the_same_errors_are_near_however_often_one_asks,
        categories_are_written_under_their_version_only,
        whatever_may_change_a_label_or_an_aggregate_moves_a_mark,
    } for embedded, couchbase, couchbase_key_value_only
}
