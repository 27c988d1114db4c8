//! What every store must do.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{Clock, Day, Job, JobId, JobName, JobOptions, JobState, Outcome, PageRequest, Timestamp};
use jobber::events::Cursor;
use jobber::projector::{contribution, shard_key};
use jobber::sqlite::{Durability, Sqlite};
use jobber::stats::{Counts, ShardKey, StatShard};
use jobber::store::couchbase::CouchbaseStore;
use jobber::store::embedded::EmbeddedStore;
use jobber::store::{
    Commit, DayRange, History, JobFilter, JobRecord, Projection, Retention, StoreErrorKind, Term, Versioned,
};

use crate::harness::couchbase::Bucket;
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
    couchbase_at(Bucket::to_test_on()).await
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
    let store = |store: Arc<CouchbaseStore>| Store { history: store.clone(), projection: store };
    Stores { here: store(here), there: store(there), clock, lists, expires_by_itself: true, _behind: Box::new(bucket) }
}

impl Stores {
    /// Whether the case can't run here; says so.
    fn is_skipped(&self) -> bool {
        if !self.lists {
            let case = std::thread::current().name().unwrap_or("?").to_owned();
            eprintln!("skipped: {case}: this Couchbase has no query service");
        }
        !self.lists
    }

    /// Whether the case is about a clock that this store does not go by.
    fn has_a_clock_of_its_own(&self) -> bool {
        if self.expires_by_itself {
            let case = std::thread::current().name().unwrap_or("?").to_owned();
            eprintln!("skipped: {case}: this store removes what has expired by a clock of its own");
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
        arguments: vec!["x".to_owned()],
        data: Some(serde_json::json!({"b": 1, "a": 2})),
        options: JobOptions::default(),
        submitted_at: Timestamp::from_millis(ms),
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
    let stores = stores.with(&[record("a", "n", 5, JobState::Waiting)]).await;
    let term = stores.term().await;
    let changes: [fn(&mut JobRecord); 4] = [
        |r| r.name = name("other"),
        |r| r.arguments.push("more".to_owned()),
        |r| r.data = None,
        |r| r.submitted_at = Timestamp::from_millis(6),
    ];
    for change in changes {
        let mut read = stores.here.job("a").await;
        change(&mut read.document);
        let result = kind_of(stores.here.projection.commit(&term, jobs(vec![read]))).await;
        assert_eq!(result, Some(StoreErrorKind::Rejected));
    }
    assert_eq!(stores.here.job("a").await.document, record("a", "n", 5, JobState::Waiting));
}

async fn documents_come_back_as_they_were_written(stores: Stores) {
    let written = JobRecord {
        outcome: Some(Outcome::Signal { signal: 11 }),
        error: Some("é\n\u{1}".to_owned()),
        ..record("a", "n", 5, JobState::Failed)
    };
    let stores = stores.with(std::slice::from_ref(&written)).await;
    assert_eq!(stores.there.history.job(&written.id).await.unwrap().as_ref(), Some(&written));
    let keys = [ShardKey { day: written.submitted_at.day(), name: name("none") }, shard_key(&written)];
    let ids = [JobId::parse("none").unwrap(), written.id.clone()];
    let loaded = stores.there.projection.load(&ids, &keys).await.unwrap();
    assert_eq!((&loaded.jobs[0], &loaded.shards[0]), (&None, &None));
    assert_eq!(loaded.jobs[1].as_ref().unwrap().document, written);
    assert_eq!(loaded.shards[1].as_ref().unwrap().document.counts, contribution(&written));
    assert_eq!(stores.there.history.job(&ids[0]).await.unwrap(), None);
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

conformance! {
    suite store {
        one_projector_leads_at_a_time,
        of_many_who_ask_at_once_one_wins,
        a_term_that_has_passed_is_fenced,
        resigning_ends_that_term_only,
        a_document_is_written_under_its_version_only,
        what_a_job_is_never_changes,
        documents_come_back_as_they_were_written,
        the_cursor_never_goes_back,
        lists_are_newest_first_without_gap_or_repeat,
        a_list_goes_on_where_it_was_while_jobs_arrive,
        filters_hold_together,
        a_list_follows_its_jobs,
        a_cursor_of_no_list_is_rejected,
        names_are_summed_up_in_order,
        shards_are_found_by_day_and_name,
        a_shard_is_replaced_whole,
        a_scan_finds_every_record_once,
        what_has_expired_goes_and_its_counts_stay,
        a_job_that_goes_on_no_longer_expires,
        nothing_expires_that_is_kept_for_ever,
        only_the_current_term_removes,
        a_store_that_is_there_answers,
    } for embedded, couchbase, couchbase_key_value_only
}
