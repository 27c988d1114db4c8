//! The queue: from configuration to its ports.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::config::{Config, QueueUrl};
use crate::domain::Clock;
use crate::events::embedded::EmbeddedLog;
use crate::queue::bullmq::{BullQueues, BullSettings};
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::{ChangeFeed, JobSource, Operator, Queue, QueueError, QueueRetention, QueueSettings, Scheduler};
use crate::redis::{Redis, RedisSettings};
use crate::sqlite::Sqlite;

/// How much of a job's output is kept in the queue with the job, as a multiple of what history keeps of a stream.
const WATCHED: usize = 4;

/// How both clients reach the configured Redis. `None` without one.
pub(super) fn redis_settings(config: &Config) -> Option<RedisSettings> {
    match &config.queue.url {
        QueueUrl::Redis(url) => Some(RedisSettings { url: url.clone(), ca_file: config.queue.tls_ca.clone() }),
        QueueUrl::Embedded => None,
    }
}

/// The queue's name among the keys of its Redis.
pub(super) fn log_name(config: &Config) -> String {
    format!("{}:{}", config.queue.prefix, config.queue.name)
}

/// The sides of a queue.
pub(super) struct QueuePorts {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) operator: Arc<dyn Operator>,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) change_feed: Arc<dyn ChangeFeed>,
    pub(super) jobs: Arc<dyn JobSource>,
}

impl QueuePorts {
    fn of<Q: Queue + Operator + Scheduler + ChangeFeed + JobSource>(queue: Arc<Q>) -> Self {
        Self {
            queue: queue.clone(),
            operator: queue.clone(),
            scheduler: queue.clone(),
            change_feed: queue.clone(),
            jobs: queue,
        }
    }
}

/// Whether there can be queues of the names in the configuration: it is better to say so at the start than at their first
/// job.
///
/// # Errors
/// When a cluster could not keep the keys of one together.
pub fn check_queue_names(config: &Config) -> Result<(), QueueError> {
    let Some(redis) = redis_settings(config) else { return Ok(()) };
    let settings = BullSettings { redis, prefix: config.queue.prefix.clone(), ..BullSettings::default() };
    let served = config.worker.queues.iter().map(|share| &share.queue);
    let rules = [&config.defaults].into_iter().chain(config.jobs.values());
    let named = served.chain(rules.filter_map(|rules| rules.queue.as_ref()));
    [&config.queue.name].into_iter().chain(named).try_for_each(|name| settings.check_queue(name))
}

/// Opens the queue that the configuration names, with all of its sides. `log` is the event log that lies in `db`, if one does.
pub(super) async fn open_queue(
    config: &Config,
    db: &Sqlite,
    log: Option<Arc<EmbeddedLog>>,
    clock: &Clock,
    tasks: &TaskTracker,
) -> Result<QueuePorts, QueueError> {
    check_queue_names(config)?;
    let wanted = &config.queue;
    let settings = QueueSettings {
        queue: wanted.name.clone(),
        lease: wanted.lease,
        completed: QueueRetention { age: Some(wanted.completed_age), count: wanted.completed_count },
        failed: QueueRetention { age: Some(wanted.failed_age), count: wanted.failed_count },
        heartbeat: crate::worker::HEARTBEAT,
        output_bytes: config.worker.spool_bytes,
        kept_output_bytes: config.worker.output_bytes.saturating_mul(WATCHED),
    };
    match redis_settings(config) {
        None => {
            let (clock, tasks) = (clock.clone(), tasks.clone());
            let log = log.map(|log| log as Arc<_>);
            let queue = EmbeddedQueue::open(db.clone(), &config.data_dir, settings, log, clock, tasks).await?;
            Ok(QueuePorts::of(queue))
        }
        Some(redis) => {
            let settings = BullSettings {
                redis,
                prefix: wanted.prefix.clone(),
                common: settings,
                defaults: config.defaults.clone(),
                jobs: config.jobs.clone(),
                ..BullSettings::default()
            };
            let queue = BullQueues::open(settings, clock.clone(), tasks.clone()).await?;
            Ok(QueuePorts::of(queue))
        }
    }
}

/// Removes everything of the configured queue and the named ones from its Redis, if it is there; nothing may use them
/// any more.
///
/// # Errors
/// When Redis does not do it.
pub async fn forget_queue(config: &Config) -> anyhow::Result<()> {
    let Some(settings) = redis_settings(config) else { return Ok(()) };
    let redis = Redis::connect(&settings, &TaskTracker::new()).await?;
    let queue = log_name(config);
    for name in redis.members(&format!("{queue}:jobber:queues")).await? {
        redis.remove_below(&format!("{}:{name}:", config.queue.prefix)).await?;
    }
    for start in [format!("{queue}:"), format!("jobber:{queue}:"), format!("jobber:{{{queue}}}:")] {
        redis.remove_below(&start).await?;
    }
    Ok(())
}
