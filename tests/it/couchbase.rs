//! The Couchbase adapter beyond what every store must do: faults, outages, rights, TLS, and that what it keeps equals what
//! SQLite keeps.

mod durability;
mod indexes;
mod lists;
mod live;
mod logs;
mod loss;
mod similar;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jobber::domain::{
    AttemptNumber, AttemptReport, BuildDigest, Clock, Entry, Event, EventKind, FileBuild, FinalState, Job, JobBody,
    JobId, JobName, JobOptions, JobState, Outcome, RawJson, Secret, Timestamp, Usage, WorkerId,
};
use jobber::events::Cursor;
use jobber::projector::{compare, fold_batch};
use jobber::sqlite::{Durability, Sqlite};
use jobber::store::couchbase::{CouchbaseSettings, CouchbaseStore};
use jobber::store::embedded::EmbeddedStore;
use jobber::store::{
    Commit, History, JobFilter, JobRecord, Projection, Retention, StoreErrorKind, Term, Versioned, codec,
};

use serde_json::{Value, json};

use crate::harness::couchbase::{Bucket, skipped};
use crate::harness::couchbase_double::wire::{opcode, status};
use crate::harness::couchbase_double::{CouchbaseDouble, Fault, Options, Rights, Service};
use crate::harness::{Jobber, eventually};

const TTL: Duration = Duration::from_secs(10);

/// The events of `jobs` jobs, see [`Events`].
fn events(jobs: u64) -> Vec<(Cursor, Entry)> {
    Events::new().next(jobs)
}

/// Events of jobs, three names on three days, side by side as they come in real life: every third job fails once and is
/// tried again, every seventh fails for good.
struct Events {
    /// Jobs so far.
    jobs: u64,
    /// Events so far.
    events: u64,
    now: i64,
}

impl Events {
    fn new() -> Self {
        Self { jobs: 0, events: 0, now: 1_000_000_000_000 }
    }

    /// Those of the next jobs.
    fn next(&mut self, jobs: u64) -> Vec<(Cursor, Entry)> {
        const SIDE_BY_SIDE: u64 = 50;
        let mut all = Vec::new();
        let end = self.jobs + jobs;
        while self.jobs < end {
            let group = self.jobs..(self.jobs + SIDE_BY_SIDE).min(end);
            self.jobs = group.end;
            let made: Vec<_> = group.map(|n| (n, job(n, self.now))).collect();
            let mut say = |job: &Arc<Job>, kind| {
                self.now += 100;
                self.events += 1;
                let mut event = Event::new(Timestamp::from_millis(self.now), job.clone(), kind);
                event.body = matches!(event.kind, EventKind::Submitted).then(|| body_of(&job.id));
                all.push((Cursor { major: 0, minor: self.events }, Entry::Job(event)));
            };
            for (_, job) in &made {
                say(job, EventKind::Submitted);
            }
            for (n, job) in &made {
                let bad = if n % 7 == 0 { 2 } else { u32::from(n % 3 == 0) };
                let attempts = if bad == 0 { 1 } else { 2 };
                for attempt in 1..=attempts {
                    let fails = attempt <= bad;
                    say(job, started(*n, attempt));
                    say(job, ended(*n, attempt, fails));
                }
                let state = if bad == 2 { FinalState::Failed } else { FinalState::Completed };
                let outcome = Outcome::Exit { code: i32::from(bad == 2) };
                let error = (bad == 2).then(|| format!("no such file {n}"));
                let attempt = Some(AttemptNumber(attempts));
                say(job, EventKind::Finished { attempt, state, outcome, result: None, error });
            }
        }
        all
    }
}

fn body_of(id: &JobId) -> JobBody {
    let data = RawJson::from(&serde_json::json!({"z": id, "a": ["é", null, 1.5]}));
    JobBody::new(vec!["--size".to_owned(), id.to_string()], Some(&data))
}

fn job(n: u64, now: i64) -> Arc<Job> {
    Arc::new(Job {
        id: JobId::parse(&id_of(n)).unwrap(),
        name: JobName::parse(["resize", "mandelbrot", "word-count"][n as usize % 3]).unwrap(),
        options: JobOptions::default(),
        submitted_at: Timestamp::from_millis(now + (n as i64 % 3) * 86_400_000),
        trace: None,
    })
}

/// A new one now and then. Some attempts do not tell of theirs, and some run another one than they were started with.
fn build_of(n: u64) -> BuildDigest {
    BuildDigest::of_build_id(&[u8::try_from(n / 2100).unwrap_or(u8::MAX); 8])
}

fn started(n: u64, attempt: u32) -> EventKind {
    let worker = WorkerId::parse("w").unwrap();
    let build = (attempt == 1 && !n.is_multiple_of(11)).then(|| build_of(n));
    EventKind::AttemptStarted { attempt: AttemptNumber(attempt), worker, host: "h".into(), build }
}

fn ended(n: u64, attempt: u32, fails: bool) -> EventKind {
    let at = Timestamp::from_millis(1_000_000_000_000);
    let mut report = AttemptReport::bare(Outcome::Exit { code: i32::from(fails) }, at, at, "no such file");
    report.error = fails.then(|| format!("no such file {n}"));
    report.peak_beside = n as u32 % 4;
    report.usage = Some(Usage { wall_us: 1000 + n, user_us: 7, system_us: 3, peak_rss_bytes: 9999 });
    let digest = build_of(if n.is_multiple_of(13) { 0 } else { n });
    report.build = Some(FileBuild { digest, bytes: 48, modified_at: at });
    report.stdout.text = format!("line {n}\n").repeat(3);
    let worker = WorkerId::parse("w").unwrap();
    EventKind::AttemptFinished { attempt: AttemptNumber(attempt), worker, report: Box::new(report), next_at: None }
}

/// Folds them all, as a projector does: a batch that fails is given again, under a term that may be a new one.
async fn fold(store: &dyn Projection, events: &[(Cursor, Entry)], batch: usize) {
    let clock = Clock::system();
    let mut term: Option<Term> = None;
    let began = std::time::Instant::now();
    let mut position = Cursor::START;
    while position < events.last().unwrap().0 {
        assert!(began.elapsed() < Duration::from_secs(600), "stuck at {position}");
        let Some(held) = &term else {
            if let Ok(won) = store.lead("one", TTL, &clock).await {
                term = won;
                position = store.position().await.unwrap_or(position);
            }
            continue;
        };
        let next = events.partition_point(|(at, _)| *at <= position);
        let part = &events[next..(next + batch).min(events.len())];
        match fold_batch(store, held, part, Retention::FOREVER).await {
            Ok(committed) => position = committed.through.unwrap(),
            Err(error) => {
                eprintln!("at {position}: {error}");
                term = None;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Everything that a store keeps of these events, as bytes: documents by key.
async fn kept(store: &(impl Projection + History), events: &[(Cursor, Entry)]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let ids: BTreeSet<_> = events.iter().filter_map(|(_, entry)| Some(entry.job()?.job.id.clone())).collect();
    let read = |id: JobId| async move { store.job(&id).await.unwrap().unwrap_or_else(|| panic!("{id} is missing")) };
    let mut records = futures_util::stream::iter(ids).map(read).buffered(32);
    while let Some(record) = records.next().await {
        all.insert(format!("job {}", record.id), codec::encode(&record));
    }
    drop(records);
    for shard in store.shards(Default::default(), None).await.unwrap() {
        all.insert(format!("shard {:?}", shard.key), codec::encode(&shard));
    }
    for builds in store.builds(None).await.unwrap() {
        all.insert(format!("builds of {}", builds.name), codec::encode(&builds));
    }
    let names = store.job_names().await.unwrap();
    all.insert("names".to_owned(), codec::encode(&names));
    all.insert("cursor".to_owned(), store.position().await.unwrap().to_string().into_bytes());
    all
}

async fn sqlite() -> (tempfile::TempDir, Arc<EmbeddedStore>) {
    let dir = tempfile::tempdir().unwrap();
    let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
    (dir, EmbeddedStore::open(db).await.unwrap())
}

/// Both stores keep the same, to the byte, and the aggregates are what the documents add up to.
async fn same_as_in_sqlite(bucket: &Bucket, events: &[(Cursor, Entry)]) {
    let (_dir, expected) = sqlite().await;
    fold(&*expected, events, 500).await;
    // Another process looks.
    let store = bucket.open().await;
    store.prepared().await;
    let (expected, found) = (kept(&*expected, events).await, kept(&*store, events).await);
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (key, document) in &expected {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&found[key]), text(document), "{key}");
    }
    if store.has_query_service().await.unwrap() {
        let found = compare(&*store, Timestamp::from_millis(0)).await.unwrap();
        assert_eq!(
            (found.jobs, found.differing, found.builds),
            (expected.keys().filter(|key| key.starts_with("job ")).count() as u64, vec![], vec![])
        );
    } else {
        skipped("adding all jobs up needs the query service");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_equals_sqlite() {
    let bucket = Bucket::to_test_on().await;
    let events = events(300);
    fold(&*bucket.open().await, &events, 97).await;
    same_as_in_sqlite(&bucket, &events).await;
}

/// 10,000 jobs while the server goes away for a while in the middle, and answers some writes that it has done with
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_in_the_middle_of_many_jobs_loses_and_doubles_nothing() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let events = events(10_000);
    let store = bucket.open().await;
    let double = bucket.double();
    let disturb = async {
        while store.position().await.unwrap_or_default().minor < events.len() as u64 / 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        double.fault(Fault::DoAndDisconnect.on(&[opcode::REPLACE, opcode::SUBDOC_MULTI_MUTATION]).times(5));
        tokio::time::sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| double.away());
        let away = std::env::var("JOBBER_TEST_AWAY_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
        tokio::time::sleep(Duration::from_secs(away)).await;
        tokio::task::block_in_place(|| double.back());
        double.fault(Fault::Refuse(status::TEMPORARY_FAILURE).times(50));
    };
    tokio::join!(fold(&*store, &events, 500), disturb);
    same_as_in_sqlite(&bucket, &events).await;
}

/// Every write is done, but its answer gets lost, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_get_lost_change_nothing() {
    for (name, codes) in
        [("insert", [opcode::ADD]), ("replace", [opcode::REPLACE]), ("change", [opcode::SUBDOC_MULTI_MUTATION])]
    {
        let bucket = Bucket::of(CouchbaseDouble::start());
        let store = bucket.open().await;
        let hits = bucket.double().fault(Fault::DoAndDisconnect.on(&codes).after(5).times(3));
        let events = events(60);
        fold(&*store, &events, 30).await;
        assert!(hits.count() > 0, "{name}");
        same_as_in_sqlite(&bucket, &events).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_waited_for() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    bucket.double().fault(Fault::Refuse(status::TEMPORARY_FAILURE).times(40));
    bucket.double().fault(Fault::Refuse(status::NOT_MY_VBUCKET).times(5));
    let events = events(50);
    fold(&*store, &events, 50).await;
    bucket.double().heal();
    same_as_in_sqlite(&bucket, &events).await;
}

/// A server that is not there yet does not keep the store from being opened, and is used when it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_late_is_used() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    tokio::task::block_in_place(|| bucket.double().away());
    let store = bucket.open().await;
    assert_eq!(store.ping().await.unwrap_err().kind, StoreErrorKind::Unavailable);
    tokio::task::block_in_place(|| bucket.double().back());
    let events = events(20);
    fold(&*store, &events, 10).await;
    same_as_in_sqlite(&bucket, &events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_is_said_at_the_start() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let settings = bucket.settings();
    let mut wrong_password = settings.clone();
    wrong_password.password = Secret::new("wrong");
    let mut wrong_bucket = settings.clone();
    wrong_bucket.bucket = "none".to_owned();
    for (settings, word) in [(wrong_password, "password"), (wrong_bucket, "no bucket \"none\"")] {
        let error = CouchbaseStore::open(settings, &bucket.tasks).await.err().expect("refused");
        assert_eq!(error.kind, StoreErrorKind::Rejected, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// Without the right to make collections, everything that needs only key-value works in the default collection, and goes
/// on there when the collections have been made by somebody.
#[tokio::test(flavor = "multi_thread")]
async fn fewer_rights_are_enough() {
    let rights = Rights { collections: false, indexes: false, search: false };
    let bucket = Bucket::of(CouchbaseDouble::with(Options { rights, ..Options::default() }));
    let store = bucket.open().await;
    let events = events(20);
    fold(&*store, &events, 10).await;
    let reader = bucket.open().await;
    assert_eq!(reader.position().await.unwrap(), events.last().unwrap().0);
    assert_eq!(reader.job_names().await.unwrap().len(), 3);
    let id = &events[0].1.job().unwrap().job.id;
    assert!(reader.job(id).await.unwrap().unwrap().has_body);
    assert_eq!(reader.bodies(std::slice::from_ref(id)).await.unwrap(), [Some(body_of(id))]);
    // No index could be made.
    let listed = reader.jobs(&JobFilter::default(), jobber::domain::PageRequest::first(5)).await;
    assert!(listed.unwrap_err().to_string().contains("index"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked_against_the_file_of_authorities() {
    let bucket = Bucket::of(CouchbaseDouble::with(Options { tls: true, ..Options::default() }));
    let store = bucket.open().await;
    let events = events(10);
    fold(&*store, &events, 10).await;
    same_as_in_sqlite(&bucket, &events).await;

    // The right file is of another authority.
    let other = CouchbaseDouble::with(Options { tls: true, ..Options::default() });
    let mut settings = bucket.settings();
    settings.ca_file = Some(other.ca());
    let error = CouchbaseStore::open(settings, &bucket.tasks).await.err().expect("refused");
    assert!(error.kind == StoreErrorKind::Rejected && error.to_string().contains("not trusted"), "{error}");

    // Without a file, what counts are the well-known authorities, and nobody knows this one.
    let settings = CouchbaseSettings { ca_file: None, ..bucket.settings() };
    let error = CouchbaseStore::open(settings, &bucket.tasks).await.err().expect("refused");
    assert!(error.kind == StoreErrorKind::Rejected && error.to_string().contains("set store.tls_ca"), "{error}");
}

/// A wrong password and a missing bucket are told apart from slowness, with TLS too.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_is_said_with_tls_too() {
    let bucket = Bucket::of(CouchbaseDouble::with(Options { tls: true, ..Options::default() }));
    let wrong_password = CouchbaseSettings { password: Secret::new("wrong"), ..bucket.settings() };
    let wrong_bucket = CouchbaseSettings { bucket: "none".to_owned(), ..bucket.settings() };
    for (settings, word) in [(wrong_password, "with this password"), (wrong_bucket, "no bucket \"none\"")] {
        let error = CouchbaseStore::open(settings, &bucket.tasks).await.err().expect("refused");
        assert_eq!(error.kind, StoreErrorKind::Rejected, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// The double counts what it is asked: reading one job, all names and the statistics costs the same however many jobs
/// there are, and asks no query.
#[tokio::test(flavor = "multi_thread")]
async fn reading_costs_the_same_however_many_jobs_there_are() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    store.prepared().await;
    let events = events(2000);
    let few = events.partition_point(|(_, e)| e.job().unwrap().job.id.as_str() < id_of(200).as_str());
    let mut costs = Vec::new();
    for part in [&events[..few], &events[few..]] {
        let all = if part[0].0.minor == 1 { part } else { &events[..] };
        fold(&*store, all, 500).await;
        let before = bucket.double().seen(Service::KeyValue);
        store.job(&events[0].1.job().unwrap().job.id).await.unwrap().unwrap();
        store.job_names().await.unwrap();
        store.shards(Default::default(), None).await.unwrap();
        costs.push(bucket.double().seen(Service::KeyValue) - before);
    }
    // The configuration is polled now and then.
    assert!(costs[1].abs_diff(costs[0]) <= 3 && costs[0] < 60, "{costs:?}");
}

/// The server removes what has expired, and not what went on after it had ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_removes_what_has_expired() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    let term = store.lead("one", TTL, &Clock::system()).await.unwrap().unwrap();
    let week = Retention::new(Some(Duration::from_secs(7 * 86_400)));
    let now = Clock::system().now();
    let (gone, kept) = (job(1, now.as_millis()), job(2, now.as_millis()));
    let ended = |job: &Job| JobRecord { state: JobState::Failed, finished_at: Some(now), ..JobRecord::new(job) };
    let new = |document| Versioned { document, version: None };
    let commit = |jobs| Commit { jobs, retention: week, ..Commit::default() };
    store.commit(&term, commit(vec![new(ended(&gone)), new(ended(&kept))])).await.unwrap();
    let read = store.load(std::slice::from_ref(&kept.id), &[]).await.unwrap().jobs[0].clone().unwrap();
    let again = JobRecord { state: JobState::Waiting, finished_at: None, retries: 1, ..read.document };
    store.commit(&term, commit(vec![Versioned { document: again, version: read.version }])).await.unwrap();
    bucket.double().advance(Duration::from_secs(6 * 86_400));
    assert!(store.job(&gone.id).await.unwrap().is_some());
    bucket.double().advance(Duration::from_secs(9 * 86_400));
    assert!(store.job(&gone.id).await.unwrap().is_none());
    assert_eq!(store.job(&kept.id).await.unwrap().unwrap().state, JobState::Waiting);
}

/// Jobs are accepted and run with Couchbase away, and their history follows.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_while_couchbase_is_away() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let jobber = Jobber::dev().env("JOBBER_STORE_URL", &bucket.double().url()).start().await;
    let marks = jobber.place().path().join("marks");
    jobber.job("mark", &format!("#!/bin/sh\necho $JOBBER_JOB_ID >> {}\n", marks.display()));
    let first = jobber.submit(json!({"name": "mark"})).await;
    jobber.wait_final(&first).await;

    tokio::task::block_in_place(|| bucket.double().away());
    let mut ids = vec![first];
    for _ in 0..20 {
        ids.push(jobber.submit(json!({"name": "mark"})).await);
    }
    let ran = || std::fs::read_to_string(&marks).unwrap_or_default().lines().count();
    eventually("all jobs to run without Couchbase", async || (ran() == ids.len()).then_some(())).await;
    let (status, ready) = jobber.get("/readyz").await;
    assert_eq!((status, &ready["status"]), (200, &json!("degraded")), "{ready}");
    assert_eq!(ready["components"]["store"]["status"], json!("unavailable"), "{ready}");
    // What the queue knows is told all the same, with a word of what is missing.
    let last = jobber.wait_final(&ids[20]).await;
    assert_eq!(last["state"], json!("completed"), "{last}");
    let lacks = |view: &Value| {
        view["incomplete"].as_str().is_some_and(|lack| lack.contains("attempts, outcome and categories"))
    };
    assert!(lacks(&last), "{last}");
    jobber.job("talks", "#!/bin/sh\necho here I am\nexec sleep 1000\n");
    let talker = jobber.submit(json!({"name": "talks"})).await;
    let operator = async {
        jobber.wait_state(&talker, "active").await;
        let shown = jobber.cli(&["show", &talker]).await;
        assert!(shown.stdout.contains("active") && shown.stdout.contains("incomplete"), "{}", shown.stdout);
        eventually("its output", async || {
            let said = jobber.cli(&["logs", &talker]).await;
            (said.stdout == "here I am\n").then_some(())
        })
        .await;
        let (status, answer) = jobber.post(&format!("/api/v1/jobs/{talker}:cancel"), json!({})).await;
        assert_eq!((status, &answer["status"]), (202, &json!("cancelling")), "{answer}");
    };
    let follow = ["logs", "-f", &talker];
    let (followed, ()) = tokio::join!(jobber.cli(&follow), operator);
    assert_eq!((followed.code, followed.stdout.as_str()), (0, "here I am\n"), "{}", followed.stderr);
    let view = jobber.wait_final(&talker).await;
    assert!(view["state"] == "failed" && view["error"] == "cancelled: on request" && lacks(&view), "{view}");
    assert_eq!(ready["history"]["caught_up"], json!(false), "{ready}");
    assert!(ready["history"]["log_length"].as_u64().unwrap() > 0, "{ready}");

    tokio::task::block_in_place(|| bucket.double().back());
    eventually("history to catch up", async || {
        let (status, ready) = jobber.get("/readyz").await;
        (status == 200 && ready["history"]["caught_up"] == json!(true)).then_some(())
    })
    .await;
    let (_, names) = jobber.get("/jobs").await;
    assert_eq!(names["jobs"][0]["completedCount"].as_u64(), Some(ids.len() as u64), "{names}");
    for id in &ids {
        let view = jobber.wait_final(id).await;
        assert_eq!((&view["state"], &view["incomplete"]), (&json!("completed"), &Value::Null), "{view}");
        assert_eq!(view["attempts"].as_array().unwrap().len(), 1, "{view}");
    }
    assert_eq!(ran(), ids.len(), "nothing ran twice");
    assert_eq!(jobber.wait_final(&talker).await["outcome"]["kind"], "cancelled");
}

/// What projection costs as jobs grow, into SQLite and into the double, and what reading costs then. Sizes in
/// `JOBBER_BENCH_JOBS`; see docs/development/couchbase.md.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn projection_speed() {
    let sizes = std::env::var("JOBBER_BENCH_JOBS").unwrap_or_else(|_| "1000,20000".to_owned());
    let sizes: Vec<u64> = sizes.split(',').map(|n| n.trim().parse().unwrap()).collect();
    let (_dir, embedded) = sqlite().await;
    measure("sqlite", &*embedded, &sizes, u64::MAX).await;
    let bucket = Bucket::to_test_on().await;
    let store = bucket.open().await;
    store.prepared().await;
    // The double has no order to read an index in: a page costs it a look at every job.
    let listed = if bucket.double.is_some() { 10_000 } else { u64::MAX };
    measure("couchbase", &*store, &sizes, listed).await;
}

/// Measures at these sizes, lists up to that of `listed` jobs. Never holds the events of more than some jobs.
async fn measure(name: &str, store: &(impl Projection + History), sizes: &[u64], listed: u64) {
    const MEASURED: u64 = 1000;
    const AT_ONCE: u64 = 10_000;
    let mut stream = Events::new();
    for size in sizes {
        while stream.jobs + MEASURED < *size {
            let part = stream.next(AT_ONCE.min(size - MEASURED - stream.jobs));
            fold(store, &part, 500).await;
        }
        let part = stream.next(size - stream.jobs);
        let began = std::time::Instant::now();
        fold(store, &part, 500).await;
        let per_event = began.elapsed().as_secs_f64() / part.len() as f64;
        let mut line =
            format!("{name}: at {size} jobs {:.0} events/s, {:.1} us each", 1.0 / per_event, per_event * 1e6);
        line += &format!(", names {:.1} ms", time(|| store.job_names()).await);
        line += &format!(", shards {:.1} ms", time(|| store.shards(Default::default(), None)).await);
        if *size <= listed {
            let newest = JobFilter::default();
            let list = time(|| store.jobs(&newest, jobber::domain::PageRequest::first(50))).await;
            line += &format!(", list {list:.1} ms");
        }
        eprintln!("{line}");
    }
}

/// The median of some calls, in milliseconds.
async fn time<T, F: Future<Output = Result<T, jobber::store::StoreError>>>(call: impl Fn() -> F) -> f64 {
    let mut times = Vec::new();
    for _ in 0..9 {
        let began = std::time::Instant::now();
        call().await.unwrap();
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times[4]
}

fn id_of(n: u64) -> String {
    format!("job-{n:07}")
}
