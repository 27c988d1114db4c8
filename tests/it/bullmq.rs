//! What the queue on Redis promises beyond the ports: other BullMQ programs share it, and no fault of the server or of
//! the crate beneath goes unnoticed.

mod cluster;
mod groups;
mod queues;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobber::domain::{Clock, JobId, JobState, NewJob, RawJson, Verdict, WorkerId};
use jobber::queue::bullmq::{BullQueue, BullSettings};
use jobber::queue::{
    Cancellation, ClaimOptions, Claims, JobSource, Lease, LeaseLoss, Operator, Queue, QueueErrorKind, QueueSettings,
    QueuedJob,
};
use jobber::redis::RedisSettings;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::harness::PATIENCE;
use crate::harness::proxy::Proxy;
use crate::harness::redis::{Redis, RedisOptions};

/// Short, so that a loss comes soon.
const LEASE: Duration = Duration::from_secs(3);

async fn server(options: RedisOptions) -> Arc<Redis> {
    Arc::new(tokio::task::spawn_blocking(|| Redis::with(options)).await.unwrap())
}

async fn open(redis: &Redis) -> Arc<BullQueue> {
    open_by(redis, &redis.url(), BullSettings::default().patience).await
}

/// By another way than the server's own, which may be long.
async fn open_by(redis: &Redis, url: &str, patience: Duration) -> Arc<BullQueue> {
    let ca_file = url.starts_with("rediss").then(|| redis.tls().ca);
    let redis = RedisSettings { url: url.parse().unwrap(), ca_file };
    let common = QueueSettings { lease: LEASE, ..QueueSettings::default() };
    let settings = BullSettings { redis, common, patience, ..BullSettings::default() };
    BullQueue::open(settings, Clock::system(), TaskTracker::new()).await.unwrap()
}

/// As a program that knows nothing of Jobber.
pub async fn foreign(redis: &Redis) -> bullmq::Queue {
    let connection = bullmq::options::RedisConnectionOptions::new().url(redis.url());
    let options = bullmq::QueueOptions::new().connection(connection);
    bullmq::Queue::with_options("my-job-queue", options).await.unwrap()
}

async fn claim(queue: &BullQueue) -> Claims {
    let options = ClaimOptions::new(WorkerId::generate("host"), 1, 1);
    queue.claim(options).await.unwrap()
}

async fn next(claims: &mut Claims) -> Lease {
    tokio::time::timeout(PATIENCE, claims.next()).await.expect("should have come long ago").unwrap()
}

async fn until(queue: &BullQueue, id: &JobId, state: JobState) -> QueuedJob {
    crate::harness::eventually("the job's state", async || {
        let found = queue.find(std::slice::from_ref(id)).await.ok()?.pop().flatten();
        found.filter(|job| job.state == state)
    })
    .await
}

async fn submit(queue: &BullQueue, arguments: &[&str], data: Option<Value>) -> JobId {
    let new = NewJob {
        id: None,
        name: "dummy-job".to_owned(),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        data: data.as_ref().map(RawJson::from),
        options: jobber::domain::JobOptions::default(),
    };
    let job = new.accept(Clock::system().now()).unwrap();
    queue.submit(vec![job.clone()], None).await.unwrap();
    job.job.id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_its_way_to_a_claim_that_ends_is_given_back() {
    let redis = server(RedisOptions::default()).await;
    let proxy = Proxy::slow(redis.port(), Duration::from_millis(100)).await;
    let far = open_by(&redis, &format!("redis://127.0.0.1:{}", proxy.port()), PATIENCE).await;
    let near = open(&redis).await;
    let mut claims = claim(&far).await;
    let first = submit(&near, &[], None).await;
    next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
    until(&near, &first, JobState::Completed).await;
    let second = submit(&near, &[], None).await;
    until(&near, &second, JobState::Active).await;
    proxy.cut();
    claims.close().await;
    // Longer than a claim with nothing to do takes to end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.restore();
    until(&near, &second, JobState::Waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_other_producers_are_run_or_failed_with_a_reason() {
    let redis = server(RedisOptions::default()).await;
    let (queue, producer) = (open(&redis).await, foreign(&redis).await);
    let mut claims = claim(&queue).await;
    for (data, arguments, stdin) in [
        (json!(["-n", "3"]), vec!["-n", "3"], None),
        (json!({}), vec![], None),
        (json!(null), vec![], None),
        (json!({"arguments": ["a"], "data": {"k": 1}}), vec!["a"], Some(json!({"k": 1}))),
        (json!({"rows": 5}), vec![], Some(json!({"rows": 5}))),
        (json!([1, 2]), vec![], Some(json!([1, 2]))),
        (json!("text"), vec![], Some(json!("text"))),
    ] {
        let added = producer.add("dummy-job", data.clone()).await.unwrap();
        let lease = next(&mut claims).await;
        assert_eq!(lease.job().id.as_str(), added.id(), "a number of BullMQ's own");
        assert_eq!(
            lease.body().parts(),
            (arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), stdin.as_ref().map(RawJson::from)),
            "{data}"
        );
        assert_eq!(lease.job().options.attempts, 1, "BullMQ's default");
        lease.settle(Verdict::Complete { result: Some(json!("out")) }).await;
    }
    // What can't be run is lent out only to be written down and failed.
    for (name, data, listed, word) in [
        ("../etc/passwd", json!([]), "invalid-job-name", "job name"),
        ("dummy-job", json!({"arguments": [1]}), "dummy-job", "arguments"),
    ] {
        let added = producer.add(name, data).attempts(5).await.unwrap();
        let lease = next(&mut claims).await;
        assert_eq!((lease.job().id.as_str(), lease.job().name.as_str()), (added.id(), listed));
        let why = lease.barred().expect("it can't be run").to_owned();
        assert!(why.contains(word), "{why}");
        lease.settle(Verdict::Fail { error: why }).await;
    }
    // Of one whose id is none to us, nothing could be written down.
    let nameless = producer.add("dummy-job", json!([])).job_id("a/b").await.unwrap();
    let failed = crate::harness::eventually("the job fails", async || {
        let job = producer.get_job(nameless.id()).await.ok()??;
        Some(job.failed_reason().to_owned()).filter(|reason| !reason.is_empty())
    })
    .await;
    assert!(failed.contains("job id"), "{failed}");
    // The worker has come to no harm.
    producer.add("dummy-job", json!([])).await.unwrap();
    next(&mut claims).await.settle(Verdict::Fail { error: "exit 2".to_owned() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_what_the_original_wrote() {
    let redis = server(RedisOptions::default()).await;
    let (queue, reader) = (open(&redis).await, foreign(&redis).await);
    let plain = submit(&queue, &["-x", "1"], None).await;
    let job = reader.get_job(plain.as_str()).await.unwrap().unwrap();
    assert_eq!((job.name(), job.data()), ("dummy-job", &json!(["-x", "1"])));
    assert_eq!(job.opts().attempts, Some(3));
    let mut claims = claim(&queue).await;
    next(&mut claims).await.settle(Verdict::Complete { result: Some(json!("42")) }).await;
    until(&queue, &plain, JobState::Completed).await;
    let job = reader.get_job(plain.as_str()).await.unwrap().unwrap();
    let returned: Value = serde_json::from_str(job.returnvalue()).unwrap();
    assert_eq!(returned, json!({"success": true, "result": "42"}));
    // What must not be retried is final, whatever attempts are left.
    let failing = submit(&queue, &[], Some(json!({"a": 1}))).await;
    next(&mut claims).await.settle(Verdict::Fail { error: "exit code 2".to_owned() }).await;
    until(&queue, &failing, JobState::Failed).await;
    assert_eq!(reader.get_job(failing.as_str()).await.unwrap().unwrap().failed_reason(), "exit code 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_else_holds_is_noticed() {
    let redis = server(RedisOptions::default()).await;
    let queue = open(&redis).await;
    let mut claims = claim(&queue).await;
    let id = submit(&queue, &[], None).await;
    let lease = next(&mut claims).await;
    redis.cli(&["set", &format!("bull:my-job-queue:{id}:lock"), "another"]);
    let lost = tokio::time::timeout(PATIENCE, lease.lost()).await.expect("the crate itself would never tell");
    assert_eq!(lost, LeaseLoss::Expired);
    lease.settle(Verdict::Complete { result: None }).await;
    assert_eq!(until(&queue, &id, JobState::Active).await.attempts_finished, 0, "the other holder decides");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_stop_is_told_and_not_found_by_looking() {
    let alone = server(RedisOptions::default()).await;
    let nodes = tokio::task::spawn_blocking(Redis::cluster).await.unwrap();
    // The two listen at different nodes.
    let cluster =
        |one: &Redis, two: &Redis| format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}", one.port(), two.port());
    for (mine, theirs, prefix) in
        [(alone.url(), alone.url(), "bull"), (cluster(&nodes[0], &nodes[1]), cluster(&nodes[2], &nodes[1]), "{bull}")]
    {
        let open = async |url: String| {
            let look_again = Duration::from_secs(24 * 3600);
            let (prefix, patience) = (prefix.to_owned(), PATIENCE);
            let redis = RedisSettings { url: url.parse().unwrap(), ca_file: None };
            let settings = BullSettings { redis, prefix, patience, look_again, ..BullSettings::default() };
            BullQueue::open(settings, Clock::system(), TaskTracker::new()).await.unwrap()
        };
        let (here, there) = (open(mine).await, open(theirs).await);
        // One that waits needs nobody to be told.
        let id = submit(&here, &[], None).await;
        assert!(matches!(there.cancel(&id, "no").await.unwrap(), Cancellation::Ended(_)));
        assert_eq!(until(&here, &id, JobState::Failed).await.attempts_started, 0);
        let mut claims = claim(&here).await;
        // Of the first, the look with which listening begins may have told.
        for word in ["first", "second", "third"] {
            let id = submit(&here, &[], None).await;
            let lease = next(&mut claims).await;
            let answer = there.cancel(&id, word).await.unwrap();
            assert_eq!(answer, Cancellation::Signalled(lease.job().clone()));
            let loss = tokio::time::timeout(PATIENCE, lease.lost()).await.expect("a message");
            assert_eq!(loss, LeaseLoss::Cancelled(word.to_owned()));
            lease.settle(Verdict::Fail { error: "stopped".to_owned() }).await;
            until(&here, &id, JobState::Failed).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_cannot_be_confirmed_is_lost_and_calls_do_not_hang() {
    let redis = server(RedisOptions::default()).await;
    let queue = open(&redis).await;
    let mut claims = claim(&queue).await;
    submit(&queue, &[], None).await;
    let lease = next(&mut claims).await;
    assert!(lease.publisher().started().await);
    // Renewed for longer than it would have lasted.
    assert!(tokio::time::timeout(LEASE * 4 / 3, lease.lost()).await.is_err());
    redis.signal("STOP");
    let began = Instant::now();
    let error = queue.counts().await.unwrap_err();
    assert_eq!(error.kind, QueueErrorKind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(10), "patience is below a second");
    assert_eq!(tokio::time::timeout(PATIENCE, lease.lost()).await.unwrap(), LeaseLoss::Expired);
    redis.signal("CONT");
    drop(lease);
    // Given back by the look for stalled jobs, and counted as what it was.
    let lease = next(&mut claims).await;
    assert_eq!((lease.attempt().0, lease.crashes(), lease.attempts_finished()), (2, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_late_or_restarts_is_found_again() {
    let redis = server(RedisOptions { durable: true, ..RedisOptions::default() }).await;
    redis.kill();
    let queue = open(&redis).await;
    let began = Instant::now();
    assert_eq!(queue.ping().await.unwrap_err().kind, QueueErrorKind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(10), "patience is below a second");
    let mut claims = claim(&queue).await;
    let again = redis.clone();
    tokio::task::spawn_blocking(move || again.restart()).await.unwrap();
    crate::harness::eventually("the queue answers", async || queue.ping().await.ok()).await;
    let first = submit(&queue, &["a"], None).await;
    let lease = next(&mut claims).await;
    assert_eq!(lease.job().id, first);
    assert!(lease.publisher().started().await);
    // Away while the job ends: once that is noticed, the verdict waits for it.
    redis.kill();
    let settling = lease.settle(Verdict::Complete { result: None });
    let again = redis.clone();
    let restarting = tokio::task::spawn_blocking(move || again.restart());
    let (_, restarted) = tokio::join!(settling, restarting);
    restarted.unwrap();
    // At the very moment of the cut the crate may lose the verdict without a word; then the lease expires, and the job
    // comes once more.
    let rerun = async {
        loop {
            let lease = next(&mut claims).await;
            assert_eq!((&lease.job().id, lease.crashes()), (&first, 1));
            lease.settle(Verdict::Complete { result: None }).await;
        }
    };
    tokio::select! {
        _ = until(&queue, &first, JobState::Completed) => {}
        () = rerun => {}
    }
    let second = crate::harness::eventually("a submission is taken", async || {
        queue.ping().await.ok()?;
        Some(submit(&queue, &["b"], None).await)
    })
    .await;
    assert_eq!(next(&mut claims).await.job().id, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_users_and_tls_are_spoken() {
    for options in [
        RedisOptions { password: Some("p-1".to_owned()), ..RedisOptions::default() },
        RedisOptions { user: Some(("jobber".to_owned(), "p-2".to_owned())), ..RedisOptions::default() },
        RedisOptions { tls: true, ..RedisOptions::default() },
    ] {
        let redis = server(options).await;
        let queue = open(&redis).await;
        let mut claims = claim(&queue).await;
        crate::harness::eventually("the queue answers", async || queue.ping().await.ok()).await;
        let id = submit(&queue, &[], None).await;
        assert_eq!(next(&mut claims).await.job().id, id);
    }
}

#[tokio::test]
async fn settings_that_cannot_be_meant_are_refused_without_showing_the_password() {
    use QueueErrorKind::{Rejected, UnfitQueue};
    for (url, prefix, kind) in [
        ("redis-sentinel://u:hidden@localhost?sentinelServiceName=main", "q", Rejected),
        ("redis-cluster://u:hidden@localhost", "q", UnfitQueue),
        ("redis://u:hidden@localhost", "a:b", Rejected),
        ("redis://u:hidden@localhost", "", Rejected),
    ] {
        let redis = RedisSettings { url: url.parse().unwrap(), ca_file: None };
        let settings = BullSettings { redis, prefix: prefix.to_owned(), ..BullSettings::default() };
        let Err(error) = BullQueue::open(settings, Clock::system(), TaskTracker::new()).await else {
            panic!("{url} {prefix} was taken")
        };
        assert_eq!(error.kind, kind);
        assert!(!format!("{error} {error:?}").contains("hidden"));
    }
}
