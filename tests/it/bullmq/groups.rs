//! What the limit of a group on Redis promises beyond the ports: no process has to survive.

use std::sync::Arc;

use jobber::domain::{AcceptedJob, Clock, JobId, JobOptions, JobState, NewJob, Verdict};
use jobber::queue::Queue;
use jobber::queue::bullmq::BullQueue;

use super::{claim, next, open, server, until};
use crate::harness::eventually;
use crate::harness::redis::{Redis, RedisOptions};

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
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(state(&queue, "a-0").await, JobState::Active);
    assert_eq!(state(&queue, "a-1").await, JobState::Delayed);
}
