//! What only the embedded queue promises; what every queue promises is tested by the conformance suite.

mod conclude;
mod growth;
mod model;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::domain::{AcceptedJob, Deduplication, Entry, JobOptions, NewJob, Timestamp, Verdict};
use crate::events::embedded::EmbeddedLog;
use crate::events::{Cursor, EventSource};
use crate::queue::QueueRetention;
use crate::sqlite::Durability;
use crate::sqlite::work::WorkCounter;

/// A queue that nobody else has, on a clock that the test moves.
pub(super) struct Bench {
    pub(super) queue: Arc<EmbeddedQueue>,
    pub(super) clock: Clock,
    pub(super) dir: tempfile::TempDir,
    tasks: TaskTracker,
    /// What SQLite does for the writes of the queue.
    work: WorkCounter,
}

impl Bench {
    pub(super) async fn with(settings: QueueSettings) -> Self {
        Self::with_log_of(settings, async |_, _| None).await
    }

    /// A queue with an event log in its file.
    async fn with_log(cap: u64) -> (Self, Arc<EmbeddedLog>) {
        let mut opened = None;
        let open = async |db, dir: &Path| {
            let log = EmbeddedLog::open(db, dir, cap).await.unwrap();
            opened = Some(log.clone());
            Some(log as Arc<dyn Appender<Event>>)
        };
        let bench = Self::with_log_of(QueueSettings::default(), open).await;
        (bench, opened.unwrap())
    }

    async fn with_log_of(
        settings: QueueSettings,
        open_log: impl AsyncFnOnce(Sqlite, &Path) -> Option<Arc<dyn Appender<Event>>>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        let tasks = TaskTracker::new();
        let (db, work) = Sqlite::open_counted(&dir.path().join("q.db"), Durability::Process).unwrap();
        let log = open_log(db.clone(), dir.path()).await;
        let queue = EmbeddedQueue::open(db, dir.path(), settings, log, clock.clone(), tasks.clone()).await.unwrap();
        Self { queue, clock, dir, tasks, work }
    }

    /// One pass of the sweep, now.
    pub(super) async fn sweep(&self) {
        sweep::pass(&self.queue.inner, &CancellationToken::new()).await.unwrap();
    }

    pub(super) fn job(&self, change: impl FnOnce(&mut JobOptions)) -> AcceptedJob {
        let mut options = JobOptions::default();
        change(&mut options);
        let new = NewJob { id: None, name: "job".to_owned(), arguments: vec![], data: None, options };
        new.accept(self.clock.now()).unwrap()
    }

    pub(super) async fn submit(&self, job: AcceptedJob) -> Submission {
        self.queue.submit(vec![job], None).await.unwrap().remove(0)
    }

    pub(super) async fn claim(&self, worker: &str, concurrency: usize) -> Claims {
        let worker = WorkerId::parse(worker).unwrap();
        self.queue.claim(ClaimOptions::new(worker, concurrency, 4)).await.unwrap()
    }

    /// Submits `n` jobs and completes them one millisecond after the other.
    async fn complete(&self, n: usize) -> Vec<JobId> {
        let jobs: Vec<_> = (0..n).map(|_| self.job(|_| {})).collect();
        self.queue.submit(jobs.clone(), None).await.unwrap();
        let mut claims = self.claim("w", 1).await;
        for _ in 0..n {
            claims.next().await.unwrap().settle(Verdict::Complete { result: None }).await;
            self.clock.advance(Duration::from_millis(1));
        }
        jobs.iter().map(|j| j.job.id.clone()).collect()
    }

    /// Changes the tables behind the queue's back.
    async fn change(&self, sql: &str) {
        let sql = sql.to_owned();
        self.queue.inner.db.write(move |c| c.execute(&sql, [])).await.unwrap();
    }

    async fn renewed_until(&self) -> i64 {
        let until =
            self.queue.inner.db.read(|c| c.query_row("SELECT until_ms FROM queue_claims", [], |row| row.get(0)));
        until.await.unwrap()
    }

    async fn rows(&self, table: &'static str) -> i64 {
        let rows = self
            .queue
            .inner
            .db
            .read(move |c| c.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)));
        rows.await.unwrap()
    }
}

async fn open(dir: &Path, settings: QueueSettings, clock: &Clock, tasks: &TaskTracker) -> Arc<EmbeddedQueue> {
    let db = Sqlite::open(&dir.join("q.db"), Durability::Process).unwrap();
    EmbeddedQueue::open(db, dir, settings, None, clock.clone(), tasks.clone()).await.unwrap()
}

fn retention(age: Option<Duration>, count: Option<u64>) -> QueueSettings {
    QueueSettings { completed: QueueRetention { age, count }, ..QueueSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "needs a process that dies, not a job")]
async fn jobs_of_a_dead_process_are_recovered_long_before_their_lease_expires() {
    let bench = Bench::with(QueueSettings::default()).await;
    for _ in 0..3 {
        bench.submit(bench.job(|_| {})).await;
    }
    let mut of_the_dead = bench.claim("dead", 2).await;
    let held = [of_the_dead.next().await.unwrap(), of_the_dead.next().await.unwrap()];
    let mut of_the_living = bench.claim("living", 1).await;
    let third = of_the_living.next().await.unwrap();
    assert!(held[0].publisher().started().await);

    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let process = process::Process::at(i32::try_from(child.id()).unwrap()).unwrap();
    let process = schema::to_json(&process);
    let posing = bench
        .queue
        .inner
        .db
        .write(move |c| c.execute("UPDATE queue_workers SET process = ?1 WHERE id = 'dead'", [&process]));
    assert_eq!(posing.await.unwrap(), 1, "a claim registers its worker before the first heartbeat");
    bench.sweep().await;
    assert_eq!(bench.queue.counts().await.unwrap().active, 3, "while it lives, its leases are its own");

    child.kill().unwrap();
    child.wait().unwrap();
    bench.sweep().await;
    let counts = bench.queue.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.active), (2, 1));
    third.settle(Verdict::Complete { result: None }).await;
    let again = of_the_living.next().await.unwrap();
    assert_eq!((again.job(), again.attempt().0, again.crashes()), (held[0].job(), 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_judged_keeps_its_lease_until_it_expires() {
    let bench = Bench::with(QueueSettings { lease: Duration::from_secs(12), ..Default::default() }).await;
    bench.submit(bench.job(|_| {})).await;
    let mut claims = bench.claim("elsewhere", 1).await;
    let _lease = claims.next().await.unwrap();
    let elsewhere = process::Process {
        pid: i32::MAX,
        started: 1,
        boot: "another machine".to_owned(),
        namespace: "pid:[1]".to_owned(),
    };
    let elsewhere = schema::to_json(&elsewhere);
    let posing = bench.queue.inner.db.write(move |c| c.execute("UPDATE queue_workers SET process = ?1", [&elsewhere]));
    posing.await.unwrap();
    bench.sweep().await;
    assert_eq!(bench.queue.counts().await.unwrap().active, 1);
    // Overdue, and doubted for a grace: as if no renewal came.
    bench
        .change(
            "CREATE TRIGGER unrenewed AFTER UPDATE OF until_ms ON queue_claims WHEN new.until_ms > 0 BEGIN
                 UPDATE queue_claims SET until_ms = 0, doubt = old.doubt WHERE id = new.id;
             END",
        )
        .await;
    bench.change("UPDATE queue_claims SET until_ms = 0").await;
    let began = std::time::Instant::now();
    while bench.queue.counts().await.unwrap().active > 0 {
        bench.sweep().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() >= expiry::grace(Duration::from_secs(12)), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lease_is_lost_while_another_process_holds_the_database() {
    let lease = Duration::from_millis(1200);
    let settings = QueueSettings { lease, ..QueueSettings::default() };
    let bench = Bench::with(settings.clone()).await;
    // Another process of this machine, which sweeps too.
    let others = open(bench.dir.path(), settings, &bench.clock, &bench.tasks).await;
    bench.submit(bench.job(|_| {})).await;
    let mut claims = bench.claim("w", 1).await;
    let held = claims.next().await.unwrap();
    let holder = rusqlite::Connection::open(bench.dir.path().join("q.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let lost = tokio::time::timeout(lease * 3, held.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    assert!(!held.validity().unwrap().is_over(), "whoever ends its processes knows too");
    holder.execute_batch("COMMIT").unwrap();
    // Renewals get through again before a doubt of the others has its time.
    let lost = tokio::time::timeout(lease * 2, held.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    held.settle(Verdict::Complete { result: None }).await;
    assert_eq!(others.counts().await.unwrap().completed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_the_wall_clock_costs_no_lease() {
    let lease = Duration::from_secs(3);
    let bench = Bench::with(QueueSettings { lease, ..QueueSettings::default() }).await;
    bench.submit(bench.job(|_| {})).await;
    let mut claims = bench.claim("w", 1).await;
    let held = claims.next().await.unwrap();
    let before = bench.renewed_until().await;
    bench.clock.advance(Duration::from_secs(3600));
    bench.sweep().await;
    while bench.renewed_until().await == before {
        tokio::task::yield_now().await;
    }
    let lost = tokio::select! {
        biased;
        lost = held.lost() => Some(lost),
        () = std::future::ready(()) => None,
    };
    assert_eq!(lost, None);
    bench.submit(bench.job(|_| {})).await;
    held.settle(Verdict::Complete { result: None }).await;
    let next = claims.next().await.unwrap();
    assert_eq!(next.attempt().0, 1, "the claim goes on");
    assert_eq!(bench.queue.counts().await.unwrap().completed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_ends_every_lease() {
    let bench = Bench::with(QueueSettings::default()).await;
    bench.submit(bench.job(|_| {})).await;
    let mut claims = bench.claim("w", 1).await;
    let _lease = claims.next().await.unwrap();
    bench.change("UPDATE queue_claims SET boot = 'an earlier one', until_ms = until_ms + 1000000000").await;
    bench.change("UPDATE queue_workers SET process = NULL").await;
    bench.sweep().await;
    assert_eq!(bench.queue.counts().await.unwrap().active, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_an_older_version_go_by_the_wall_clock() {
    let bench = Bench::with(QueueSettings::default()).await;
    bench.submit(bench.job(|_| {})).await;
    let mut claims = bench.claim("w", 1).await;
    let _lease = claims.next().await.unwrap();
    let soon = bench.clock.now() + Duration::from_secs(30);
    let older = format!("UPDATE queue_claims SET boot = NULL, until_ms = NULL, expires_at = {}", soon.as_millis());
    bench.change(&older).await;
    bench.clock.advance(Duration::from_secs(20));
    bench.sweep().await;
    assert_eq!(bench.queue.counts().await.unwrap().active, 1);
    bench.change(&older).await;
    bench.clock.advance(Duration::from_secs(11));
    bench.sweep().await;
    assert_eq!(bench.queue.counts().await.unwrap().active, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_missed_its_heartbeats_is_not_listed_but_keeps_its_jobs() {
    let settings = QueueSettings { lease: Duration::from_secs(3600), ..QueueSettings::default() };
    let bench = Bench::with(settings).await;
    let now = bench.clock.now();
    let info = WorkerInfo { started_at: now, last_seen: now, ..WorkerInfo::bare("w") };
    bench.queue.heartbeat(&info).await.unwrap();
    bench.submit(bench.job(|_| {})).await;
    let mut claims = bench.claim("w", 1).await;
    let lease = claims.next().await.unwrap();
    bench.clock.advance(Duration::from_secs(15));
    assert_eq!(bench.queue.workers().await.unwrap().len(), 1);
    bench.clock.advance(Duration::from_secs(1));
    bench.sweep().await;
    assert_eq!(bench.queue.workers().await.unwrap(), []);
    assert_eq!((bench.rows("queue_workers").await, bench.queue.counts().await.unwrap().active), (1, 1));
    drop(lease);
    claims.close().await;
    while bench.rows("queue_claims").await > 0 {
        tokio::task::yield_now().await;
    }
    bench.sweep().await;
    assert_eq!(bench.rows("queue_workers").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_are_kept_up_to_a_count() {
    let bench = Bench::with(retention(None, Some(3))).await;
    let ids = bench.complete(5).await;
    bench.sweep().await;
    let left: Vec<_> = bench.queue.find(&ids).await.unwrap().iter().map(Option::is_some).collect();
    assert_eq!(left, [false, false, true, true, true], "the last ended stay");
    assert_eq!(bench.rows("queue_payloads").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_are_kept_up_to_an_age() {
    let bench = Bench::with(retention(Some(Duration::from_secs(60)), None)).await;
    let old = bench.complete(2).await;
    bench.clock.advance(Duration::from_secs(59));
    let young = bench.complete(1).await;
    bench.sweep().await;
    assert_eq!(bench.queue.counts().await.unwrap().completed, 3);
    bench.clock.advance(Duration::from_secs(1));
    bench.sweep().await;
    assert_eq!(bench.queue.find(&old).await.unwrap(), [None, None]);
    assert!(bench.queue.find(&young).await.unwrap()[0].is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_removes_in_batches_until_nothing_is_left_to_remove() {
    let bench = Bench::with(retention(Some(Duration::ZERO), Some(0))).await;
    let jobs: Vec<_> = (0..admin::BATCH + 1).map(|_| bench.job(|_| {})).collect();
    bench.queue.submit(jobs, None).await.unwrap();
    let end = bench.queue.inner.db.write(|c| c.execute("UPDATE queue_jobs SET state = 4, finished_at = 1", []));
    end.await.unwrap();
    bench.sweep().await;
    assert_eq!((bench.rows("queue_jobs").await, bench.rows("queue_payloads").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_forgotten_when_their_time_is_over() {
    let bench = Bench::with(QueueSettings::default()).await;
    let ttl = Duration::from_secs(10);
    let keyed = bench.job(|o| o.deduplication = Some(Deduplication { key: "k".to_owned(), ttl: Some(ttl) }));
    let idempotency = Idempotency { key: "i".to_owned(), request: [0; 32], ttl };
    bench.queue.submit(vec![keyed], Some(idempotency)).await.unwrap();
    bench.sweep().await;
    assert_eq!((bench.rows("queue_dedup").await, bench.rows("queue_idempotency").await), (1, 1));
    bench.clock.advance(ttl);
    bench.sweep().await;
    assert_eq!((bench.rows("queue_dedup").await, bench.rows("queue_idempotency").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn doubted_leases_are_lost_when_the_database_cannot_be_written_to_until_they_expire() {
    let settings = QueueSettings { lease: Duration::from_millis(900), ..QueueSettings::default() };
    let bench = Bench::with(settings).await;
    let id = bench.submit(bench.job(|_| {})).await.id;
    let mut claims = bench.claim("w", 1).await;
    let lease = claims.next().await.unwrap();
    // Another process doubts the claim, then sits on the database: no renewal wipes the mark away.
    let path = bench.dir.path().join("q.db");
    let blocker = rusqlite::Connection::open(path).unwrap();
    blocker.busy_timeout(Duration::from_secs(60)).unwrap();
    loop {
        blocker.execute_batch("UPDATE queue_claims SET doubt = 7; BEGIN IMMEDIATE").unwrap();
        let marked = blocker.query_row("SELECT doubt IS NOT NULL FROM queue_claims", [], |row| row.get(0)).unwrap();
        if marked {
            break;
        }
        blocker.execute_batch("ROLLBACK").unwrap();
    }
    let loss = tokio::time::timeout(Duration::from_secs(60), lease.lost()).await.unwrap();
    assert_eq!(loss, super::super::LeaseLoss::Expired);
    blocker.execute_batch("ROLLBACK").unwrap();
    // The worker goes on under a new claim.
    drop(lease);
    let again = claims.next().await.unwrap();
    assert_eq!(again.job().id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_a_restart_and_no_task_outlives_its_queue() {
    let bench = Bench::with(QueueSettings::default()).await;
    let id = bench.submit(bench.job(|o| o.priority = 2)).await.id;
    bench.queue.set_paused(None, true).await.unwrap();
    let claims = bench.claim("w", 1).await;
    let before = bench.queue.find(std::slice::from_ref(&id)).await.unwrap();
    let Bench { queue, clock, dir, tasks, .. } = bench;
    claims.close().await;
    drop(queue);
    tasks.close();
    tokio::time::timeout(Duration::from_secs(60), tasks.wait()).await.unwrap();
    let tasks = TaskTracker::new();
    let queue = open(dir.path(), QueueSettings::default(), &clock, &tasks).await;
    assert_eq!(queue.find(&[id]).await.unwrap(), before);
    assert!(queue.counts().await.unwrap().paused);
    queue.stop();
    tasks.close();
    tokio::time::timeout(Duration::from_secs(60), tasks.wait()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_taken_wholly_or_not_at_all() {
    let bench = Bench::with(QueueSettings::default()).await;
    let trip = bench.queue.inner.db.write(|c| {
        c.execute_batch(
            "CREATE TRIGGER trip BEFORE INSERT ON queue_jobs WHEN NEW.priority = 7
             BEGIN SELECT RAISE(ABORT, 'tripped'); END",
        )
    });
    trip.await.unwrap();
    let jobs = vec![bench.job(|_| {}), bench.job(|o| o.priority = 7), bench.job(|_| {})];
    let idempotency = Idempotency { key: "i".to_owned(), request: [0; 32], ttl: Duration::from_secs(60) };
    bench.queue.submit(jobs, Some(idempotency)).await.unwrap_err();
    assert_eq!((bench.rows("queue_jobs").await, bench.rows("queue_idempotency").await), (0, 0));
}

/// Cursors of lists, leases and whatever else is kept in memory name jobs by their numbers.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_a_job_is_never_that_of_another_whatever_was_removed() {
    let bench = Bench::with(QueueSettings::default()).await;
    let three: Vec<_> = (0..3).map(|_| bench.job(|_| {})).collect();
    bench.queue.submit(three.clone(), None).await.unwrap();
    let page = bench.queue.page(None, JobState::Waiting, PageRequest::first(2)).await.unwrap();
    // The highest last, and the highest first.
    for order in [[0, 1, 2], [2, 1, 0]] {
        for job in order {
            bench.queue.remove(&three[job].job.id).await.unwrap();
        }
        let others: Vec<_> = (0..2).map(|_| bench.job(|_| {})).collect();
        bench.queue.submit(others.clone(), None).await.unwrap();
        let rest = PageRequest { cursor: page.next.clone(), limit: 9 };
        let found = bench.queue.page(None, JobState::Waiting, rest).await.unwrap().items;
        let ids = |jobs: &[AcceptedJob]| jobs.iter().map(|job| job.job.id.clone()).collect::<Vec<_>>();
        assert_eq!(found.iter().map(|found| found.job.id.clone()).collect::<Vec<_>>(), ids(&others));
        for job in &others {
            bench.queue.remove(&job.job.id).await.unwrap();
        }
        bench.queue.submit(three.clone(), None).await.unwrap();
    }
}

/// A worker's leases hang on one claim, so the number of the job is what tells two first starts apart.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_late_of_a_removed_job_is_not_said_of_the_next() {
    let bench = Bench::with(QueueSettings::default()).await;
    let mut claims = bench.claim("w", 1).await;
    let mut starts = Vec::new();
    for _ in 0..2 {
        let job = bench.submit(bench.job(|_| {})).await.id;
        let lease = claims.next().await.unwrap();
        let start = |c: &rusqlite::Connection| {
            c.query_row("SELECT seq, claim, attempts_started FROM queue_jobs WHERE state = 3", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })
        };
        starts.push(bench.queue.inner.db.read(start).await.unwrap());
        lease.settle(Verdict::Complete { result: None }).await;
        assert!(matches!(bench.queue.remove(&job).await.unwrap(), Change::Done(..)));
    }
    assert_ne!(starts[0], starts[1], "one lease could be taken for the other");
}

/// The jobs of all events in the log, which are submissions.
async fn announced(log: &EmbeddedLog) -> Vec<AcceptedJob> {
    let entries = log.read(Cursor::START, 20_000, Duration::ZERO).await.unwrap();
    let of = |(_, entry)| match entry {
        Entry::Job(event) => {
            assert_eq!(
                event,
                Event::submitted(AcceptedJob { job: event.job.clone(), body: event.body.clone().unwrap() })
            );
            AcceptedJob { job: event.job, body: event.body.unwrap() }
        }
        Entry::Categories(change) => panic!("{change:?}"),
    };
    entries.into_iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_without_a_temporary_database_that_each_later_commit_would_begin_and_end() {
    let bench = Bench::with(QueueSettings::default()).await;
    let databases = |c: &rusqlite::Connection| {
        c.prepare("SELECT name FROM pragma_database_list")?.query_map([], |row| row.get::<_, String>(0))?.collect()
    };
    let databases: Vec<String> = bench.queue.inner.db.write(databases).await.unwrap();
    assert_eq!(databases, ["main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_and_its_event_are_one_commit() {
    let (bench, log) = Bench::with_log(100).await;
    let (mut jobs, mut commits) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let job = bench.job(|_| {});
        jobs.push(job.clone());
        let before = bench.work.runs("COMMIT");
        assert!(bench.submit(job).await.announced);
        commits.push(bench.work.runs("COMMIT") - before);
    }
    commits.sort_unstable();
    assert_eq!(commits[20], 1, "the median, since the queue's own tasks write too");
    assert_eq!(announced(&log).await, jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readers_of_the_log_are_woken_by_a_submission_even_if_its_caller_has_gone_away() {
    let (bench, log) = Bench::with_log(100).await;
    for is_abandoned in [false, true] {
        let last = log.span().await.unwrap().last;
        let read = log.read(last, 1, Duration::from_secs(600));
        let submission = async {
            let mut submission = Box::pin(bench.submit(bench.job(|_| {})));
            if is_abandoned {
                // Polled once, so that the write is queued, and then dropped.
                let _ = futures_util::future::poll_immediate(&mut submission).await;
            } else {
                submission.await;
            }
        };
        let (events, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(60), read), submission);
        assert_eq!(events.unwrap().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_announced_once_however_often_it_is_submitted() {
    let (bench, log) = Bench::with_log(100).await;
    let keyed = |bench: &Bench| bench.job(|o| o.deduplication = Some(Deduplication { key: "k".to_owned(), ttl: None }));
    let (plain, first) = (bench.job(|_| {}), keyed(&bench));
    let all = vec![plain.clone(), plain.clone(), first.clone(), keyed(&bench)];
    let idempotency = Idempotency { key: "i".to_owned(), request: [0; 32], ttl: Duration::from_secs(60) };
    for is_new in [true, false] {
        let submissions = bench.queue.submit(all.clone(), Some(idempotency.clone())).await.unwrap();
        let news: Vec<_> = submissions.iter().map(|submission| submission.announced).collect();
        assert_eq!(news, [is_new, false, is_new, false]);
    }
    assert!(!bench.submit(plain.clone()).await.announced);
    assert_eq!(announced(&log).await, [plain, first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_jobs_are_announced_in_their_order() {
    let (bench, log) = Bench::with_log(20_000).await;
    let jobs: Vec<_> = (0..10_000).map(|_| bench.job(|_| {})).collect();
    bench.queue.submit(jobs.clone(), None).await.unwrap();
    let mut found = Vec::new();
    let mut last = Cursor::START;
    while let Ok(entries) = log.read(last, 20_000, Duration::ZERO).await
        && !entries.is_empty()
    {
        last = entries[entries.len() - 1].0;
        found.extend(entries.into_iter().map(|(_, entry)| match entry {
            Entry::Job(event) => event.job,
            Entry::Categories(change) => panic!("{change:?}"),
        }));
    }
    assert!(found.iter().eq(jobs.iter().map(|job| &job.job)), "{} are not the jobs", found.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_submitted_is_not_announced_either() {
    let (bench, log) = Bench::with_log(100).await;
    let idempotency = Idempotency { key: "i".to_owned(), request: [0; 32], ttl: Duration::from_secs(60) };
    // Undone after its event was written.
    bench
        .change("CREATE TRIGGER trip BEFORE INSERT ON queue_idempotency BEGIN SELECT RAISE(ABORT, 'tripped'); END")
        .await;
    bench.queue.submit(vec![bench.job(|_| {})], Some(idempotency)).await.unwrap_err();
    let orphan = bench.job(|o| o.after = vec![JobId::generate()]);
    assert_eq!(bench.queue.submit(vec![orphan], None).await.unwrap_err().kind, QueueErrorKind::Rejected);
    assert_eq!((bench.rows("queue_jobs").await, bench.rows("events").await), (0, 0));
    // The other way round: no job is there without its event.
    bench.change("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'tripped'); END").await;
    bench.queue.submit(vec![bench.job(|_| {})], None).await.unwrap_err();
    bench.change("DROP TRIGGER full").await;
    let job = bench.job(|_| {});
    bench.submit(job.clone()).await;
    assert_eq!((bench.rows("queue_jobs").await, announced(&log).await), (1, vec![job]));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_for_which_the_log_has_no_room_are_left_to_the_caller_to_announce() {
    let (bench, log) = Bench::with_log(3).await;
    let two = || vec![bench.job(|_| {}), bench.job(|_| {})];
    for has_room in [true, false] {
        let submissions = bench.queue.submit(two(), None).await.unwrap();
        assert!(submissions.iter().all(|submission| submission.announced == has_room && !submission.duplicate));
    }
    assert_eq!((bench.rows("queue_jobs").await, announced(&log).await.len()), (4, 2));
}
