//! The operations of queues.

use serde_json::{Value, json};

use super::operation::{Operation, QUEUES, page_of};
use super::problems::QUEUE;
use crate::domain::QueueLimit;
use crate::queue::StateCounts;
use crate::wire::{CleanBody, Cleaned, QueueView};

/// What a client can do with the name of a queue.
const LINKS: [(&str, &str); 3] =
    [("getQueueByName", "name"), ("pauseQueueByName", "name"), ("resumeQueueByName", "name")];

fn clean() -> Value {
    json!({"state": "completed", "older_than_ms": 86_400_000, "limit": 1000})
}

/// All of them, in the order of the document.
pub(super) fn all() -> Vec<Operation> {
    vec![
        Operation::new(QUEUES, "get", "/api/v1/queue", "getQueue", "How many jobs are in each state, in all queues")
            .answer(200, "The counts, and whether every queue is paused", |s| s.of::<StateCounts>())
            .refuses(&[QUEUE]),
        Operation::new(QUEUES, "post", "/api/v1/queue:pause", "pauseQueue", "Hand out no more jobs, of any queue")
            .about("Running jobs go on.")
            .answer(200, "All queues are paused", |s| s.of::<StateCounts>())
            .refuses(&[QUEUE, "queue_full"]),
        Operation::new(QUEUES, "post", "/api/v1/queue:resume", "resumeQueue", "Hand out jobs of all queues again")
            .answer(200, "All queues go on", |s| s.of::<StateCounts>())
            .refuses(&[QUEUE, "queue_full"]),
        Operation::new(QUEUES, "post", "/api/v1/queue:clean", "cleanQueue", "Take ended jobs out of all queues")
            .about("Their history stays.")
            .body(|s| s.of::<CleanBody>(), clean())
            .answer(200, "How many were taken out", |s| s.of::<Cleaned>())
            .refuses(&[QUEUE, "queue_full"]),
        Operation::new(QUEUES, "get", "/api/v1/queues", "listQueues", "List the queues, by name")
            .about(
                "The default queue, and those that had a job or were told something. Each `backlog` is estimated by \
                 fewer jobs than that of a single queue.",
            )
            .answer(200, "The queues", page_of::<QueueView>)
            .leads_to("/items/0/name", &LINKS)
            .refuses(&[QUEUE]),
        Operation::new(QUEUES, "get", "/api/v1/queues/{name}", "getQueueByName", "Show a queue")
            .about(
                "`backlog` tells how much there is to do, so that a script can start workers. Its core-seconds are an \
                 estimate by the first 1,000 ready jobs and by what attempts of their names took on the last 7 days.",
            )
            .answer(200, "What it holds", |s| s.of::<QueueView>())
            .refuses(&["unknown_queue", QUEUE]),
        Operation::new(
            QUEUES,
            "post",
            "/api/v1/queues/{name}:pause",
            "pauseQueueByName",
            "Hand out no more of its jobs",
        )
        .about("Running jobs go on. The queue need not be there yet.")
        .answer(200, "It is paused", |s| s.of::<QueueView>())
        .refuses(&["unknown_queue", QUEUE, "queue_full"]),
        Operation::new(QUEUES, "post", "/api/v1/queues/{name}:resume", "resumeQueueByName", "Hand out its jobs again")
            .answer(200, "It goes on", |s| s.of::<QueueView>())
            .refuses(&["unknown_queue", QUEUE, "queue_full"]),
        Operation::new(
            QUEUES,
            "post",
            "/api/v1/queues/{name}:limit",
            "limitQueueByName",
            "Bound how much of it may run",
        )
        .about("In all workers together, in place of what was set before; what is absent has no limit.")
        .body(|s| s.of::<QueueLimit>(), json!({"concurrency": 8, "rate": {"jobs": 100, "per_ms": 60_000}}))
        .answer(200, "It is limited", |s| s.of::<QueueView>())
        .refuses(&["unknown_queue", QUEUE, "queue_full"]),
        Operation::new(
            QUEUES,
            "post",
            "/api/v1/queues/{name}:clean",
            "cleanQueueByName",
            "Take ended jobs out of a queue",
        )
        .about("Their history stays.")
        .body(|s| s.of::<CleanBody>(), clean())
        .answer(200, "How many were taken out", |s| s.of::<Cleaned>())
        .refuses(&[QUEUE, "queue_full"]),
    ]
}
