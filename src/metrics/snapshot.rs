//! What a server knows of its backends, as of a moment ago. A background loop of the API refreshes it while
//! programs scrape; a scrape only reads it. So no scrape asks a backend, and one is answered while a backend is away.

use std::fmt::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::METRICS;
use crate::interest::Interest;

/// An older snapshot is not shown.
const OLDEST: Duration = Duration::from_secs(5);
/// For how long after a scrape snapshots are made.
const WANTED_FOR: Duration = Duration::from_secs(300);
/// How long a scrape waits for the first snapshot after a time without scrapes.
const PATIENCE: Duration = Duration::from_millis(40);

/// What the backends said. A part whose backend did not answer is `None`, and its gauges are absent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Each backend (`sqlite`, `redis`, `couchbase`), and whether it answered.
    pub backends: Vec<(&'static str, bool)>,
    /// The queue.
    pub queue: Option<QueueCounts>,
    /// Workers by state: take jobs, drain, can't start jobs.
    pub workers: Option<[u64; 3]>,
    /// Schedules by state: bring jobs, are paused, have come to a stop.
    pub schedules: Option<[u64; 3]>,
    /// Entries that the event log holds, and may hold.
    pub log: Option<[u64; 2]>,
    /// How far history is behind the log.
    pub lag: Option<Lag>,
}

/// How many jobs the queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QueueCounts {
    /// Jobs by state, in the order of [`QueueCounts::STATES`].
    pub jobs: [u64; 6],
    /// Whether the queue hands nothing out.
    pub paused: bool,
    /// For how long the first job that waits has been waiting; zero when none waits.
    pub oldest_waiting: Duration,
}

impl QueueCounts {
    /// The states, as the API calls them.
    pub const STATES: [&'static str; 6] = ["waiting", "delayed", "prioritized", "active", "completed", "failed"];
}

/// How far history is behind the event log.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Lag {
    /// Events that are not folded yet.
    pub events: u64,
    /// The age of the first of them.
    pub age: Duration,
}

/// The last snapshot, and when it was last asked for.
#[derive(Default)]
pub struct SnapshotCell {
    latest: Mutex<Option<(Instant, Snapshot)>>,
    scrapes: Interest,
    made: Notify,
}

impl SnapshotCell {
    /// Keeps a snapshot for which the backends were asked at `asked_at`.
    pub fn set(&self, asked_at: Instant, snapshot: Snapshot) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked_at, snapshot));
        self.made.notify_waiters();
    }

    /// Whether there was a scrape lately.
    pub fn is_wanted(&self) -> bool {
        self.scrapes.is_within(WANTED_FOR)
    }

    /// Returns at the next scrape that finds no snapshot.
    pub async fn wanted(&self) {
        self.scrapes.woken().await;
    }

    /// Notes a scrape. The first after a while waits a moment for a snapshot, and goes without if none comes.
    pub async fn scraped(&self) {
        self.scrapes.note();
        let made = self.made.notified();
        if self.latest().is_none() {
            self.scrapes.wake();
            let _ = tokio::time::timeout(PATIENCE, made).await;
        }
    }

    fn latest(&self) -> Option<Snapshot> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().filter(|(at, _)| at.elapsed() <= OLDEST).map(|(_, snapshot)| snapshot.clone())
    }
}

/// Writes gauges, one with a label's values or without.
pub(super) fn gauge<N: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Option<(&'static str, &'static str)>, N)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (label, value) in values {
        let value = ConstGauge::new(value);
        match label {
            Some(label) => value.encode(family.encode_family(&[label])?)?,
            None => value.encode(family.encode_family(&Vec::<(String, String)>::new())?)?,
        }
    }
    Ok(())
}

fn by_state<const N: usize>(
    states: [&'static str; N],
    counts: [u64; N],
) -> impl Iterator<Item = (Option<(&'static str, &'static str)>, u64)> {
    states.into_iter().zip(counts).map(|(state, count)| (Some(("state", state)), count))
}

/// Shows the last snapshot, under the prefix of Jobber's metrics.
#[derive(Debug)]
pub(super) struct SnapshotCollector;

impl Collector for SnapshotCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(snapshot) = METRICS.snapshot.latest() else { return Ok(()) };
        let to = &mut encoder;
        let up = snapshot.backends.iter().map(|(name, up)| (Some(("backend", *name)), u64::from(*up)));
        gauge(to, "backend_up", "Whether the backend answered at the last look.", up)?;
        if let Some(queue) = snapshot.queue {
            let jobs = by_state(QueueCounts::STATES, queue.jobs);
            gauge(to, "queue_jobs", "Jobs that the queue holds, by state.", jobs)?;
            let help = "Whether the queue hands nothing out.";
            gauge(to, "queue_paused", help, [(None, u64::from(queue.paused))])?;
            let help = "For how long the first job that waits has been ready; 0 when none waits.";
            gauge(to, "queue_oldest_waiting_age_seconds", help, [(None, queue.oldest_waiting.as_secs_f64())])?;
        }
        if let Some(workers) = snapshot.workers {
            let states = ["taking", "draining", "unhealthy"];
            gauge(to, "workers", "Workers that were heard of lately, by state.", by_state(states, workers))?;
        }
        if let Some(schedules) = snapshot.schedules {
            let states = ["active", "paused", "stopped"];
            gauge(to, "schedules", "Schedules, by state.", by_state(states, schedules))?;
        }
        if let Some([length, cap]) = snapshot.log {
            gauge(to, "event_log_entries", "Entries that the event log holds.", [(None, length)])?;
            let help = "Entries that the event log may hold; at this many, no job is accepted.";
            gauge(to, "event_log_capacity_entries", help, [(None, cap)])?;
        }
        if let Some(lag) = snapshot.lag {
            let help = "Events that history has not folded yet.";
            gauge(to, "projector_lag_events", help, [(None, lag.events)])?;
            let help = "The age of the first event that history has not folded yet; 0 when there is none.";
            gauge(to, "projector_lag_seconds", help, [(None, lag.age.as_secs_f64())])?;
        }
        Ok(())
    }
}

/// Shows the three metrics of BullMQ's own exporter, so that boards made for it work.
#[derive(Debug)]
pub(super) struct BullMqCollector {
    pub(super) queue: String,
}

impl Collector for BullMqCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let queue = self.queue.as_str();
        if let Some(counts) = METRICS.snapshot.latest().and_then(|snapshot| snapshot.queue) {
            let help = "Number of jobs in the queue by state";
            let mut family = encoder.encode_descriptor("bullmq_job_count", help, None, MetricType::Gauge)?;
            let [waiting, delayed, prioritized, active, completed, failed] = counts.jobs;
            let (waiting, paused) = if counts.paused { (0, waiting) } else { (waiting, 0) };
            let states = [
                ("waiting", waiting),
                ("active", active),
                ("completed", completed),
                ("failed", failed),
                ("delayed", delayed),
                ("prioritized", prioritized),
                ("paused", paused),
            ];
            for (state, count) in states {
                ConstGauge::new(count).encode(family.encode_family(&[("queue", queue), ("state", state)])?)?;
            }
        }
        let [completed, failed] = METRICS.jobs.totals();
        for (name, help, count) in [
            ("bullmq_job_completed", "Total number of completed jobs", completed),
            ("bullmq_job_failed", "Total number of failed jobs", failed),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(family.encode_family(&[("queue", queue)])?)?;
        }
        Ok(())
    }
}
