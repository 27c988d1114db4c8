//! Counts what becomes of jobs and attempts, by job name.
//!
//! Only the leading projector counts here, as it commits. So the sums over all servers equal what the API counts, and no
//! event is counted by two servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Histograms;
use super::bounded::Bounded;
use crate::domain::outcome::signal_name;
use crate::domain::{Fingerprint, Job, JobId, JobName, Outcome, OutcomeKind, QueueName, Timestamp, Usage};

/// Job names with series of their own.
const NAMES: usize = 64;
/// Schedules with series of their own.
const SCHEDULES: usize = 200;
/// Queues with series of their own.
pub(super) const QUEUES: usize = 100;
/// Signals with series of their own: all that Linux has.
const SIGNALS: usize = 64;

/// Bounds of waits and durations, in seconds. Those of the semantic conventions end at 10 s, too short for jobs.
const SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];
/// Bounds of the memory of an attempt, in bytes: 1 MiB to 64 GiB.
const BYTES: [f64; 9] = [
    1048576.0,
    4194304.0,
    16777216.0,
    67108864.0,
    268435456.0,
    1073741824.0,
    4294967296.0,
    17179869184.0,
    68719476736.0,
];
/// Bounds of the number of attempts of a job.
const ATTEMPTS: [f64; 7] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0];
/// Bounds of the lateness of a schedule, in seconds.
const LATENESS: [f64; 10] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0];

/// Where a job came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The API of a server.
    Api,
    /// A schedule.
    Schedule,
    /// Another program that writes to the queue.
    Foreign,
}

impl Source {
    const ALL: [(Source, &'static str); 3] =
        [(Source::Api, "api"), (Source::Schedule, "schedule"), (Source::Foreign, "foreign")];
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobResult {
    /// It completed.
    Completed,
    /// It failed by itself, or was lost.
    Failed,
    /// A caller stopped it.
    Cancelled,
}

impl JobResult {
    pub(super) const ALL: [(JobResult, &'static str); 3] =
        [(JobResult::Completed, "completed"), (JobResult::Failed, "failed"), (JobResult::Cancelled, "cancelled")];
}

/// Something that has happened to a job, and that history has committed.
#[derive(Debug, Clone, PartialEq)]
pub struct JobFact {
    /// The job.
    pub job: Arc<Job>,
    /// What happened to it.
    pub kind: JobFactKind,
}

/// The facts that are counted.
#[derive(Debug, Clone, PartialEq)]
pub enum JobFactKind {
    /// History heard of the job for the first time.
    Submitted(Source),
    /// So many attempts were started, the last of them after this wait; `None` when it is not known since when it was
    /// due.
    Started {
        /// The attempts.
        attempts: usize,
        /// From the time at which it was due to its start.
        wait: Option<Duration>,
    },
    /// An attempt has ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// What it used; `None` when no process ran, or that was lost.
        usage: Option<Usage>,
        /// The fingerprint of what it said, if it failed.
        error: Option<Fingerprint>,
        /// Whether another attempt was scheduled.
        is_retried: bool,
    },
    /// So many attempts were lost with their workers.
    Lost(usize),
    /// The job has ended.
    Finished {
        /// How.
        result: JobResult,
        /// After so many attempts.
        attempts: usize,
        /// Whether it failed because its attempts were spent.
        is_exhausted: bool,
    },
    /// An operator put the failed job back.
    PutBack,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfJob {
    job_name: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSource {
    job_name: Arc<str>,
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    job_name: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    job_name: Arc<str>,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMode {
    job_name: Arc<str>,
    mode: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSignal {
    signal: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSchedule {
    schedule: Arc<str>,
}

/// A counter of seconds.
type Seconds = Counter<f64, AtomicU64>;

/// The series of one job name: an event changes atomics, and looks up one name.
struct NameSeries {
    submitted: [Counter; 3],
    finished: [Counter; 3],
    put_back: Counter,
    started: Counter,
    ended: [Counter; 8],
    retried: Counter,
    exhausted: Counter,
    wait: Histogram,
    /// Of attempts that completed, and of those that did not; the next likewise.
    duration: [Histogram; 2],
    user: [Seconds; 2],
    system: [Seconds; 2],
    memory: Histogram,
}

/// Attempts that completed, and all others.
const ATTEMPT_RESULTS: [&str; 2] = ["completed", "failed"];
const OUTCOMES: [&str; 8] = ["completed", "exit", "signal", "timeout", "cancelled", "oom", "spawn_error", "lost"];

fn outcome_index(outcome: &Outcome) -> usize {
    match outcome.kind() {
        _ if outcome.is_success() => 0,
        OutcomeKind::Exit => 1,
        OutcomeKind::Signal => 2,
        OutcomeKind::Timeout => 3,
        OutcomeKind::Cancelled => 4,
        OutcomeKind::Oom => 5,
        OutcomeKind::SpawnError => 6,
        OutcomeKind::Lost => 7,
    }
}

/// What is counted of jobs and attempts.
pub struct JobMetrics {
    names: Bounded<Arc<NameSeries>>,
    schedules: Bounded<Counter>,
    skips: Bounded<Counter>,
    signals: Bounded<Counter>,
    submitted: Family<OfSource, Counter>,
    finished: Family<OfResult, Counter>,
    put_back: Family<OfJob, Counter>,
    started: Family<OfJob, Counter>,
    ended: Family<OfOutcome, Counter>,
    signalled: Family<OfSignal, Counter>,
    retried: Family<OfJob, Counter>,
    exhausted: Family<OfJob, Counter>,
    wait: Histograms<OfJob>,
    duration: Histograms<OfResult>,
    cpu: Family<OfMode, Seconds>,
    memory: Histograms<OfJob>,
    attempts: Histogram,
    fired: Family<OfSchedule, Counter>,
    skipped: Family<OfSchedule, Counter>,
    lateness: Histogram,
    /// Jobs that have ended, by queue and result. The default queue, of which a job does not tell the name, has none here.
    ended_by_queue: Bounded<Arc<[AtomicU64; 3]>>,
}

impl Default for JobMetrics {
    fn default() -> Self {
        Self {
            names: Bounded::new(NAMES),
            schedules: Bounded::new(SCHEDULES),
            skips: Bounded::new(SCHEDULES),
            signals: Bounded::new(SIGNALS),
            submitted: Family::default(),
            finished: Family::default(),
            put_back: Family::default(),
            started: Family::default(),
            ended: Family::default(),
            signalled: Family::default(),
            retried: Family::default(),
            exhausted: Family::default(),
            wait: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            cpu: Family::default(),
            memory: Family::new_with_constructor(|| Histogram::new(BYTES)),
            attempts: Histogram::new(ATTEMPTS),
            fired: Family::default(),
            skipped: Family::default(),
            lateness: Histogram::new(LATENESS),
            ended_by_queue: Bounded::new(QUEUES),
        }
    }
}

impl JobMetrics {
    pub(super) fn register(&self, to: &mut Registry) {
        to.register(
            "jobs_submitted",
            "Jobs that history has heard of, by where they came from",
            self.submitted.clone(),
        );
        to.register("jobs_finished", "Jobs that have ended; one that is put back may end again", self.finished.clone());
        to.register("jobs_put_back", "Failed jobs that were put back into the queue", self.put_back.clone());
        to.register("attempts_started", "Attempts that were started", self.started.clone());
        to.register("attempts_finished", "Attempts that have ended, by outcome", self.ended.clone());
        to.register("attempts_signalled", "Attempts that a signal not of Jobber's ended", self.signalled.clone());
        to.register("retries_scheduled", "Failed attempts after which another was scheduled", self.retried.clone());
        to.register("retries_exhausted", "Jobs that failed because their attempts were spent", self.exhausted.clone());
        to.register("job_wait_seconds", "From the time when an attempt was due to its start", self.wait.clone());
        to.register(
            "attempt_duration_seconds",
            "From the start of an attempt's process to its end",
            self.duration.clone(),
        );
        to.register("attempt_cpu_seconds", "CPU time of attempts", self.cpu.clone());
        to.register(
            "attempt_peak_memory_bytes",
            "The largest resident set of an attempt's processes",
            self.memory.clone(),
        );
        to.register("job_attempts", "Attempts of a job when it ended", self.attempts.clone());
        to.register("schedule_fired", "Jobs that a schedule has brought", self.fired.clone());
        to.register("schedule_skipped", "Times of a schedule that brought no job", self.skipped.clone());
        to.register(
            "schedule_lateness_seconds",
            "From the time of a schedule until its job was queued",
            self.lateness.clone(),
        );
    }

    /// Counts a fact that was committed.
    pub fn count(&self, fact: &JobFact) {
        let series = self.series(&fact.job.name);
        match &fact.kind {
            JobFactKind::Submitted(source) => {
                series.submitted[*source as usize].inc();
                if let Some((schedule, due)) = scheduled(&fact.job.id) {
                    self.fired(schedule).inc();
                    self.lateness.observe(fact.job.submitted_at.since(due).as_secs_f64());
                }
            }
            JobFactKind::Started { attempts, wait } => {
                series.started.inc_by(*attempts as u64);
                if let Some(wait) = wait {
                    series.wait.observe(wait.as_secs_f64());
                }
            }
            JobFactKind::Ended { outcome, usage, error: _, is_retried } => {
                self.ended(&series, outcome, usage.as_ref());
                if *is_retried {
                    series.retried.inc();
                }
            }
            JobFactKind::Lost(attempts) => {
                series.ended[outcome_index(&Outcome::Lost)].inc_by(*attempts as u64);
            }
            JobFactKind::Finished { result, attempts, is_exhausted } => {
                series.finished[*result as usize].inc();
                let queue = fact.job.options.queue.as_ref().map_or("", QueueName::as_str);
                self.ended_by_queue.get(queue, |_| Arc::default())[*result as usize].fetch_add(1, Ordering::Relaxed);
                self.attempts.observe(*attempts as f64);
                if *is_exhausted {
                    series.exhausted.inc();
                }
            }
            JobFactKind::PutBack => {
                series.put_back.inc();
            }
        }
    }

    fn ended(&self, series: &NameSeries, outcome: &Outcome, usage: Option<&Usage>) {
        series.ended[outcome_index(outcome)].inc();
        if let Outcome::Signal { signal } = outcome {
            let label = || signal_name(*signal).map_or_else(|| signal.to_string(), |name| format!("SIG{name}"));
            let make = |signal: &str| self.signalled.get_or_create_owned(&OfSignal { signal: signal.into() });
            self.signals.get(&label(), make).inc();
        }
        if let Some(usage) = usage {
            let result = usize::from(!outcome.is_success());
            let seconds = |us: u64| us as f64 / 1e6;
            series.duration[result].observe(seconds(usage.wall_us));
            series.user[result].inc_by(seconds(usage.user_us));
            series.system[result].inc_by(seconds(usage.system_us));
            series.memory.observe(usage.peak_rss_bytes as f64);
        }
    }

    /// Counts the times of a schedule that have passed without a job.
    pub fn skipped(&self, schedule: &str, times: u64) {
        let make = |schedule: &str| self.skipped.get_or_create_owned(&OfSchedule { schedule: schedule.into() });
        self.skips.get(schedule, make).inc_by(times);
    }

    fn fired(&self, schedule: &str) -> Counter {
        let make = |schedule: &str| self.fired.get_or_create_owned(&OfSchedule { schedule: schedule.into() });
        self.schedules.get(schedule, make)
    }

    /// How many jobs of each queue have completed, failed and been cancelled, where `default` is the default queue.
    pub(super) fn ended_by_queue(&self, default: &str) -> BTreeMap<Box<str>, [u64; 3]> {
        let mut ended: BTreeMap<Box<str>, [u64; 3]> = BTreeMap::from([(default.into(), [0; 3])]);
        for (queue, counts) in self.ended_by_queue.all() {
            let sums = ended.entry(if queue.is_empty() { default.into() } else { queue }).or_default();
            sums.iter_mut().zip(&*counts).for_each(|(sum, count)| *sum += count.load(Ordering::Relaxed));
        }
        ended
    }

    fn series(&self, name: &JobName) -> Arc<NameSeries> {
        self.names.get(name.as_str(), |name| Arc::new(self.new_series(name)))
    }

    fn new_series(&self, name: &str) -> NameSeries {
        let job_name: Arc<str> = name.into();
        let job = || OfJob { job_name: job_name.clone() };
        let result = |result| OfResult { job_name: job_name.clone(), result };
        let cpu = |mode, result| self.cpu.get_or_create_owned(&OfMode { job_name: job_name.clone(), mode, result });
        NameSeries {
            submitted: Source::ALL.map(|(_, source)| {
                self.submitted.get_or_create_owned(&OfSource { job_name: job_name.clone(), source })
            }),
            finished: JobResult::ALL.map(|(_, name)| self.finished.get_or_create_owned(&result(name))),
            put_back: self.put_back.get_or_create_owned(&job()),
            started: self.started.get_or_create_owned(&job()),
            ended: OUTCOMES
                .map(|outcome| self.ended.get_or_create_owned(&OfOutcome { job_name: job_name.clone(), outcome })),
            retried: self.retried.get_or_create_owned(&job()),
            exhausted: self.exhausted.get_or_create_owned(&job()),
            wait: self.wait.get_or_create_owned(&job()),
            duration: ATTEMPT_RESULTS.map(|name| self.duration.get_or_create_owned(&result(name))),
            user: ATTEMPT_RESULTS.map(|result| cpu("user", result)),
            system: ATTEMPT_RESULTS.map(|result| cpu("system", result)),
            memory: self.memory.get_or_create_owned(&job()),
        }
    }
}

/// The schedule that has brought the job of this id, and the time for which it was due.
fn scheduled(id: &JobId) -> Option<(&str, Timestamp)> {
    let (schedule, due) = id.as_str().strip_prefix("repeat:")?.rsplit_once(':')?;
    Some((schedule, Timestamp::from_millis(due.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobOptions;

    fn job(id: &str, name: &str) -> Arc<Job> {
        let id = JobId::parse(id).unwrap();
        let (name, submitted_at) = (JobName::parse(name).unwrap(), Timestamp::from_millis(5_000));
        Arc::new(Job { id, name, options: JobOptions::default(), submitted_at, trace: None })
    }

    fn text(metrics: &JobMetrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn the_labels_are_in_the_order_of_their_enums() {
        assert!(Source::ALL.iter().enumerate().all(|(i, (source, _))| *source as usize == i));
        assert!(JobResult::ALL.iter().enumerate().all(|(i, (result, _))| *result as usize == i));
        let outcomes = [
            (Outcome::Exit { code: 0 }, "completed"),
            (Outcome::Exit { code: 1 }, "exit"),
            (Outcome::Signal { signal: 9 }, "signal"),
            (Outcome::Oom, "oom"),
            (Outcome::Lost, "lost"),
        ];
        assert!(outcomes.iter().all(|(outcome, name)| OUTCOMES[outcome_index(outcome)] == *name));
    }

    #[test]
    fn a_job_of_a_schedule_is_late_by_the_time_from_its_id() {
        let metrics = JobMetrics::default();
        let job = job("repeat:night:ly:3000", "a");
        metrics.count(&JobFact { job, kind: JobFactKind::Submitted(Source::Schedule) });
        let text = text(&metrics);
        assert!(text.contains("schedule_fired_total{schedule=\"night:ly\"} 1\n"), "{text}");
        assert!(text.contains("schedule_lateness_seconds_sum 2.0\n"), "{text}");
        assert!(text.contains("jobs_submitted_total{job_name=\"a\",source=\"schedule\"} 1\n"), "{text}");
    }

    #[test]
    fn names_signals_and_schedules_stay_bounded() {
        let metrics = JobMetrics::default();
        for n in 0..500 {
            let job = job(&format!("repeat:s{n}:1000"), &format!("name-{n}"));
            let ended = |outcome| JobFactKind::Ended { outcome, usage: None, error: None, is_retried: false };
            metrics.count(&JobFact { job: job.clone(), kind: JobFactKind::Submitted(Source::Api) });
            metrics.count(&JobFact { job, kind: ended(Outcome::Signal { signal: n }) });
            metrics.skipped(&format!("s{n}"), 1);
        }
        let text = text(&metrics);
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!((5_000..7_500).contains(&series), "{series}");
        assert!(text.contains("attempts_signalled_total{signal=\"_other\"} 436\n"), "{text}");
        assert!(text.contains("jobs_submitted_total{job_name=\"_other\",source=\"api\"} 436\n"));
    }
}
