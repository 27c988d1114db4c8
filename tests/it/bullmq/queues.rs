//! What named queues on Redis promise beyond the ports.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{
    AcceptedJob, Clock, JobId, JobOptions, NewJob, QueueName, QueueShare, Schedule, ScheduleId, Template, Timing,
    WorkerId,
};
use jobber::queue::bullmq::{BullQueues, BullSettings};
use jobber::queue::{ClaimOptions, JobSource, Operator, Queue, QueueErrorKind, Scheduler};
use jobber::redis::RedisSettings;
use tokio_util::task::TaskTracker;

use super::{next, server};
use crate::harness::redis::{Redis, RedisOptions};

async fn open(redis: &Redis) -> Arc<BullQueues> {
    let redis = RedisSettings { url: redis.url().parse().unwrap(), ca_file: None };
    let settings = BullSettings { redis, patience: crate::harness::PATIENCE, ..BullSettings::default() };
    BullQueues::open(settings, Clock::system(), TaskTracker::new()).await.unwrap()
}

fn job(queue: Option<&str>, after: Vec<JobId>) -> AcceptedJob {
    let options =
        JobOptions { queue: queue.map(|name| QueueName::parse(name).unwrap()), after, ..JobOptions::default() };
    let new = NewJob { id: None, name: "dummy-job".to_owned(), arguments: vec![], data: None, options };
    new.accept(Clock::system().now()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_comes_after_jobs_of_its_own_queue_only() {
    let redis = server(RedisOptions::default()).await;
    let queue = open(&redis).await;
    let first = job(Some("a"), vec![]);
    let id = first.job.id.clone();
    let refused = queue.submit(vec![first.clone(), job(None, vec![id.clone()])], None).await.unwrap_err();
    assert_eq!(refused.kind, QueueErrorKind::Rejected);
    assert!(queue.find(std::slice::from_ref(&id)).await.unwrap()[0].is_none(), "nothing of the call is there");
    queue.submit(vec![first], None).await.unwrap();
    let refused = queue.submit(vec![job(Some("b"), vec![id.clone()])], None).await.unwrap_err();
    assert!(refused.kind == QueueErrorKind::Rejected && refused.to_string().contains("another queue"), "{refused}");
    queue.submit(vec![job(Some("a"), vec![id])], None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_the_claims_of_all_queues_that_the_worker_serves() {
    let redis = server(RedisOptions::default()).await;
    let (queue, operator) = (open(&redis).await, open(&redis).await);
    let worker = WorkerId::generate("host");
    redis.cli(&["set", &format!("bull:my-job-queue:jobber:worker:{worker}"), "{}"]);
    let queues = ["a", "b"].map(|share| QueueShare::parse(share).unwrap()).to_vec();
    let mut claims = queue.claim(ClaimOptions { queues, ..ClaimOptions::new(worker.clone(), 2, 1) }).await.unwrap();
    queue.submit(vec![job(Some("a"), vec![])], None).await.unwrap();
    let _held = next(&mut claims).await;
    assert!(operator.drain_worker(&worker).await.unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    queue.submit(vec![job(Some("a"), vec![]), job(Some("b"), vec![])], None).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(1500), claims.next()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_goes_to_the_queue_that_its_job_names() {
    let redis = server(RedisOptions::default()).await;
    let queue = open(&redis).await;
    let put = async |name: Option<&str>| {
        let timing = Timing::every(Duration::from_secs(3600)).unwrap();
        let job = Template::of(job(name, vec![])).unwrap();
        queue.put_schedule(Arc::new(Schedule { id: ScheduleId::parse("nightly").unwrap(), timing, job })).await.unwrap()
    };
    assert!(put(None).await);
    let id = ScheduleId::parse("nightly").unwrap();
    assert!(queue.pause_schedule(&id, true).await.unwrap());
    for name in ["a", "b"] {
        assert!(!put(Some(name)).await, "it is no new one");
        let all = open(&redis).await.schedules().await.unwrap();
        let found: Vec<_> = all.iter().map(|one| (one.schedule.job.options.queue.clone(), one.paused)).collect();
        assert_eq!(found, [(Some(QueueName::parse(name).unwrap()), true)]);
    }
    assert!(queue.remove_schedule(&id).await.unwrap());
    assert!(queue.schedules().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_redis_has_lost_come_back() {
    let redis = server(RedisOptions::default()).await;
    let queue = open(&redis).await;
    queue.submit(vec![job(Some("a"), vec![])], None).await.unwrap();
    redis.cli(&["flushall"]);
    let names = async |queue: Arc<BullQueues>| queue.queues().await.unwrap().len();
    assert_eq!(names(queue.clone()).await, 2);
    assert_eq!(names(open(&redis).await).await, 2);
}
