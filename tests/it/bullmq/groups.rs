//! What the limit of a group on Redis promises beyond the ports: no process has to survive.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{AcceptedJob, Clock, JobId, JobOptions, JobState, NewJob, Verdict, WorkerId};
use jobber::queue::bullmq::{BullQueue, BullSettings};
use jobber::queue::{ClaimOptions, JobSource, Queue};
use jobber::redis::RedisSettings;
use tokio_util::task::TaskTracker;

use super::{claim, next, open, server, until};
use crate::harness::redis::{Redis, RedisOptions};
use crate::harness::{PATIENCE, eventually};

const LINE: &str = "bull:my-job-queue:jobber:group:g:parked";
const WINDOW: &str = "bull:my-job-queue:jobber:group:g:open";

fn limited(id: &str) -> AcceptedJob {
    let options = JobOptions { group: Some("g".parse().unwrap()), group_limit: Some(1), ..JobOptions::default() };
    let new = NewJob { id: Some(id.to_owned()), name: "dummy-job".to_owned(), arguments: vec![], data: None, options };
    new.accept(Clock::system().now()).unwrap()
}

/// A queue with the jobs `a-0` to `a-3`, of which one may run at once.
async fn filled(redis: &Redis) -> Arc<BullQueue> {
    let queue = open(redis).await;
    let jobs = (0..4).map(|n| limited(&format!("a-{n}"))).collect();
    eventually("the queue to be there", async || queue.ping().await.ok()).await;
    queue.submit(jobs, None).await.unwrap();
    queue
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_the_limit_of_a_group_holds() {
    let nodes = tokio::task::spawn_blocking(Redis::cluster).await.unwrap();
    let url = format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}", nodes[0].port(), nodes[1].port());
    let redis = RedisSettings { url: url.parse().unwrap(), ca_file: None };
    let settings = BullSettings { redis, prefix: "{bull}".to_owned(), patience: PATIENCE, ..BullSettings::default() };
    let queue = BullQueue::open(settings, Clock::system(), TaskTracker::new()).await.unwrap();
    eventually("the queue to be there", async || queue.ping().await.ok()).await;
    queue.submit((0..4).map(|n| limited(&format!("a-{n}"))).collect(), None).await.unwrap();
    let options = ClaimOptions::new(WorkerId::generate("host"), 4, 1);
    let mut claims = queue.claim(options).await.unwrap();
    for n in 0..4 {
        let lease = next(&mut claims).await;
        assert_eq!(lease.job().id.as_str(), format!("a-{n}"));
        assert!(tokio::time::timeout(Duration::from_millis(300), claims.next()).await.is_err(), "one at once");
        lease.settle(Verdict::Complete { result: None }).await;
    }
    let left = || nodes.iter().any(|node| node.cli(&["--raw", "keys", "*jobber:group:*"]).contains("group"));
    eventually("nothing to be left of the group", async || (!left()).then_some(())).await;
}

async fn state(queue: &BullQueue, id: &str) -> JobState {
    let id = JobId::parse(id).unwrap();
    queue.find(&[id]).await.unwrap().remove(0).unwrap().state
}

/// All keys of groups.
fn keys(redis: &Redis) -> String {
    redis.cli(&["--raw", "keys", "bull:my-job-queue:jobber:group*"]).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_left_half_done_is_found() {
    let redis = server(RedisOptions::default()).await;
    let queue = filled(&redis).await;
    assert_eq!(state(&queue, "a-0").await, JobState::Waiting);
    let parked = queue.find(&[JobId::parse("a-1").unwrap()]).await.unwrap().remove(0).unwrap();
    assert_eq!((parked.state, parked.due_at), (JobState::Delayed, None));
    // A process died when it had let `a-1` in, and before it promoted it.
    redis.cli(&["zrem", LINE, "1:a-1"]);
    redis.cli(&["zadd", WINDOW, "1", "a-1"]);
    until(&queue, &JobId::parse("a-1").unwrap(), JobState::Waiting).await;
    assert_eq!(state(&queue, "a-2").await, JobState::Delayed);
    // One died before it added a job of the line, and one after it had added it: the others don't wait for long.
    redis.cli(&["zadd", LINE, "2", "1:never-added"]);
    redis.cli(&["zadd", WINDOW, "1", "gone"]);
    for _ in 0..4 {
        let mut claims = claim(&queue).await;
        next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
        claims.close().await;
    }
    for n in 0..4 {
        assert_eq!(state(&queue, &format!("a-{n}")).await, JobState::Completed);
    }
    eventually("nothing to be left of the group", async || keys(&redis).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_end_lets_no_second_job_in() {
    let redis = server(RedisOptions::default()).await;
    let queue = filled(&redis).await;
    let mut claims = claim(&queue).await;
    let lost = next(&mut claims).await;
    // Its lock is another's by now: what its holder says of its end does not count.
    redis.cli(&["set", "bull:my-job-queue:a-0:lock", "another", "px", "60000"]);
    lost.settle(Verdict::Complete { result: None }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(&queue, "a-0").await, JobState::Active);
    assert_eq!(state(&queue, "a-1").await, JobState::Delayed);
}
