//! What can be set on every queue, with the defaults.

use std::time::Duration;

use crate::domain::QueueName;

/// What can be set on every queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// The default queue: of jobs that name none.
    pub queue: QueueName,
    /// How long a lease lasts unless it is renewed, which is done every third of it; on Redis at least a second. A
    /// worker that hangs for longer loses its jobs to others.
    pub lease: Duration,
    /// How long completed jobs stay.
    pub completed: QueueRetention,
    /// How long failed jobs stay.
    pub failed: QueueRetention,
    /// How much of the end of a job's output is kept for clients that watch, in bytes (in SQLite a quarter more for a
    /// while), as long as the job runs and for about a minute after its end or after it was last read. On Redis all
    /// jobs of a worker together may have at most four times as much: Redis has it in memory.
    pub output_bytes: usize,
    /// How much of it is kept for as long as the job is in the queue, in bytes; on Redis as log lines of BullMQ's.
    pub kept_output_bytes: usize,
    /// How often workers are expected to call [`JobSource::heartbeat`](super::JobSource::heartbeat); a worker that
    /// missed three is not listed.
    pub heartbeat: Duration,
}

impl QueueSettings {
    /// A worker that was not heard of for so long is not listed any more: it missed three heartbeats.
    pub(super) fn worker_timeout(&self) -> Duration {
        const MISSED_HEARTBEATS: u32 = 3;
        self.heartbeat * MISSED_HEARTBEATS
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            queue: QueueName::parse("my-job-queue").expect("it is a name"),
            lease: Duration::from_secs(30),
            completed: QueueRetention { age: Some(Duration::from_secs(3600)), count: Some(1000) },
            failed: QueueRetention { age: Some(Duration::from_secs(24 * 3600)), count: None },
            output_bytes: 64 << 20,
            kept_output_bytes: 256 << 10,
            heartbeat: Duration::from_secs(5),
        }
    }
}

/// How long ended jobs stay in the queue. Their history stays in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRetention {
    /// Not longer than this after their end, on Redis in whole seconds; `None` for no limit.
    pub age: Option<Duration>,
    /// Only so many, the last ended; `None` for no limit.
    pub count: Option<u64>,
}
