//! What a server knows of its backends, as of a moment ago. A background loop of the API refreshes it while
//! programs scrape; a scrape only reads it. So no scrape asks a backend, and one is answered while a backend is away.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::METRICS;
use super::bounded::{Bounded, OTHER};
use super::jobs::{JobResult, QUEUES};
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
    /// Each queue, by the label that it gets.
    pub queues: Option<Vec<(Arc<str>, QueueCounts)>>,
    /// Workers by state: take jobs, drain, can't start jobs.
    pub workers: Option<[u64; 3]>,
    /// Schedules by state: bring jobs, are paused, have come to a stop.
    pub schedules: Option<[u64; 3]>,
    /// Builds that do worse than those before them and were seen lately.
    pub regressions: Option<u64>,
    /// Entries that the event log holds, and may hold.
    pub log: Option<[u64; 2]>,
    /// How far history is behind the log.
    pub lag: Option<Lag>,
}

/// How many jobs a queue holds, or all queues that share a label.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QueueCounts {
    /// Jobs by state, in the order of [`QueueCounts::STATES`].
    pub jobs: [u64; 6],
    /// Whether the queue hands nothing out.
    pub paused: bool,
    /// For how long the first job that waits has been waiting, zero when none waits; `None` when that was not asked.
    pub oldest_waiting: Option<Duration>,
}

impl QueueCounts {
    /// The states, as the API calls them.
    pub const STATES: [&'static str; 6] = ["waiting", "delayed", "prioritized", "active", "completed", "failed"];

    /// Adds a queue that has no label of its own.
    fn add(&mut self, other: &Self) {
        self.jobs.iter_mut().zip(other.jobs).for_each(|(sum, jobs)| *sum += jobs);
        self.paused &= other.paused;
        self.oldest_waiting = None;
    }
}

/// The labels of queues: names, of which the first get one each and all others share one.
pub struct QueueLabels(Bounded<Arc<str>>);

impl Default for QueueLabels {
    fn default() -> Self {
        Self(Bounded::new(QUEUES))
    }
}

impl QueueLabels {
    /// The label of this queue; `None` for one that has none of its own.
    pub fn own(&self, queue: &str) -> Option<Arc<str>> {
        Some(self.0.get(queue, |label| label.into())).filter(|label| **label != *OTHER)
    }

    /// Gives each queue its label, and adds those up that have none of their own.
    pub fn label<'a>(&self, queues: impl IntoIterator<Item = (&'a str, QueueCounts)>) -> Vec<(Arc<str>, QueueCounts)> {
        let (mut labelled, mut others) = (Vec::new(), None::<QueueCounts>);
        for (name, counts) in queues {
            match (self.own(name), &mut others) {
                (Some(label), _) => labelled.push((label, counts)),
                (None, Some(others)) => others.add(&counts),
                (None, others) => *others = Some(QueueCounts { oldest_waiting: None, ..counts }),
            }
        }
        labelled.extend(others.map(|counts| (OTHER.into(), counts)));
        labelled
    }
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

/// Writes gauges of queues, one for each state or one for each queue.
fn of_queues<'a, N: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (&'a str, Option<&'static str>, N)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (queue, state, value) in values {
        let labels: Vec<_> = [("queue", queue)].into_iter().chain(state.map(|state| ("state", state))).collect();
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
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
        if let Some(queues) = &snapshot.queues {
            let jobs = queues.iter().flat_map(|(queue, counts)| {
                let states = QueueCounts::STATES.into_iter().zip(counts.jobs);
                states.map(|(state, jobs)| (&**queue, Some(state), jobs))
            });
            of_queues(to, "queue_jobs", "Jobs that a queue holds, by state.", jobs)?;
            let paused = queues.iter().map(|(queue, counts)| (&**queue, None, u64::from(counts.paused)));
            of_queues(to, "queue_paused", "Whether a queue hands nothing out.", paused)?;
            let help = "For how long the first job that waits has been ready; 0 when none waits.";
            let oldest = queues.iter().filter_map(|(queue, counts)| Some((&**queue, None, counts.oldest_waiting?)));
            let oldest = oldest.map(|(queue, state, age)| (queue, state, age.as_secs_f64()));
            of_queues(to, "queue_oldest_waiting_age_seconds", help, oldest)?;
        }
        if let Some(workers) = snapshot.workers {
            let states = ["taking", "draining", "unhealthy"];
            gauge(to, "workers", "Workers that were heard of lately, by state.", by_state(states, workers))?;
        }
        if let Some(schedules) = snapshot.schedules {
            let states = ["active", "paused", "stopped"];
            gauge(to, "schedules", "Schedules, by state.", by_state(states, schedules))?;
        }
        if let Some(regressions) = snapshot.regressions {
            let help = "Builds that do worse than those before them and were seen within a week.";
            gauge(to, "build_regressions", help, [(None, regressions)])?;
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
    pub(super) default_queue: String,
}

/// Shows how the jobs of each queue ended, under the prefix of Jobber's metrics.
#[derive(Debug)]
pub(super) struct EndsCollector {
    pub(super) default_queue: String,
}

impl Collector for EndsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Jobs that have ended, by the queue in which they waited";
        let mut family = encoder.encode_descriptor("queue_jobs_finished", help, None, MetricType::Counter)?;
        for (queue, counts) in METRICS.jobs.ended_by_queue(&self.default_queue) {
            for ((_, result), count) in JobResult::ALL.into_iter().zip(counts) {
                ConstCounter::new(count).encode(family.encode_family(&[("queue", &*queue), ("result", result)])?)?;
            }
        }
        Ok(())
    }
}

impl Collector for BullMqCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        if let Some(queues) = METRICS.snapshot.latest().and_then(|snapshot| snapshot.queues) {
            let help = "Number of jobs in the queue by state";
            let jobs =
                queues.iter().flat_map(|(queue, counts)| bullmq_states(counts).map(|(s, n)| (&**queue, Some(s), n)));
            of_queues(&mut encoder, "bullmq_job_count", help, jobs)?;
        }
        let ended = METRICS.jobs.ended_by_queue(&self.default_queue);
        let completed: fn(&[u64; 3]) -> u64 = |counts| counts[JobResult::Completed as usize];
        let failed: fn(&[u64; 3]) -> u64 =
            |counts| counts[JobResult::Failed as usize] + counts[JobResult::Cancelled as usize];
        for (name, help, count) in [
            ("bullmq_job_completed", "Total number of completed jobs", completed),
            ("bullmq_job_failed", "Total number of failed jobs", failed),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (queue, counts) in &ended {
                ConstCounter::new(count(counts)).encode(family.encode_family(&[("queue", &**queue)])?)?;
            }
        }
        Ok(())
    }
}

/// How many jobs are in each state that BullMQ's exporter knows: the waiting ones of a paused queue are `paused`.
fn bullmq_states(counts: &QueueCounts) -> [(&'static str, u64); 7] {
    let [waiting, delayed, prioritized, active, completed, failed] = counts.jobs;
    let (waiting, paused) = if counts.paused { (0, waiting) } else { (waiting, 0) };
    [
        ("waiting", waiting),
        ("active", active),
        ("completed", completed),
        ("failed", failed),
        ("delayed", delayed),
        ("prioritized", prioritized),
        ("paused", paused),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_beyond_the_bound_are_shown_together() {
        let labels = QueueLabels::default();
        let names: Vec<String> = (0..QUEUES + 2).map(|n| format!("q{n:03}")).collect();
        let counts = |paused| QueueCounts { jobs: [1; 6], paused, oldest_waiting: Some(Duration::ZERO) };
        let shown = labels.label(names.iter().map(|name| (&**name, counts(*name != "q101"))));
        assert_eq!(shown.len(), QUEUES + 1);
        let (label, others) = &shown[QUEUES];
        assert_eq!((&**label, others.jobs, others.oldest_waiting), (OTHER, [2; 6], None));
        assert!(!others.paused, "one of them goes on");
        assert!(labels.own("q000").is_some() && labels.own("a-new-one").is_none());
    }
}
