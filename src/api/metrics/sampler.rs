//! Asks the backends for what scrapes show, while there are scrapes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::overview::{oldest_ready, recent_regressions};
use crate::api::state::Api;
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{ScheduleId, Timestamp, Timing};
use crate::events::{Cursor, LogSpan};
use crate::metrics::{Lag, METRICS, QueueCounts, QueueLabels, Snapshot};
use crate::queue::{QueueError, QueueStanding, ScheduleStanding, StateCounts, WorkerInfo};

/// With [`PATIENCE`] short enough that no snapshot is older than 5 s. Readers ask again, so the run in hand is dropped.
const LOOK: BackgroundLoop = BackgroundLoop::new("metrics snapshot", Period::Every(Duration::from_secs(2))).drop_run();
/// How long a backend may take to answer; a longer time counts as no answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long an answer about schedules or builds is shown: there may be thousands, which are read one by one.
const SCHEDULES_EVERY: Duration = Duration::from_secs(30);
/// How many events are counted one by one, where places do not tell their number.
const COUNTED: usize = 1000;
/// How many times of a schedule between two of its jobs are counted.
const SKIPPED: u64 = 1000;

/// Refreshes the snapshot for scrapes until `stop`. Asks nothing while no program scrapes.
pub(in crate::api) async fn keep_snapshot(api: &Api, stop: &CancellationToken) {
    let (mut schedules, labels) = (Schedules::default(), QueueLabels::default());
    // It has its label before all others.
    labels.own(api.settings.default_queue.as_str());
    let mut regressions: Option<(Instant, u64)> = None;
    let mut look = async || {
        if !METRICS.snapshot.is_wanted() {
            return Ok(NextRun::Idle);
        }
        let asked_at = Instant::now();
        let (snapshot, states) = tokio::join!(sample(api, &labels), schedules.states(api));
        let schedules = states.filter(|_| snapshot.queues.is_some());
        if regressions.is_none_or(|(asked_at, _)| asked_at.elapsed() >= SCHEDULES_EVERY) {
            let known = ask(recent_regressions(api, api.clock.now())).await;
            regressions = known.map(|known| (asked_at, known.len() as u64));
        }
        let regressions = regressions.map(|(_, count)| count);
        METRICS.snapshot.set(asked_at, Snapshot { schedules, regressions, ..snapshot });
        Ok(NextRun::InTurn)
    };
    let mut turns = LOOK.start(stop);
    while turns.run_woken(METRICS.snapshot.wanted(), look()).await {}
}

/// The answer, if there is one in time.
async fn ask<T, E>(question: impl Future<Output = Result<T, E>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, question).await.ok()?.ok()
}

/// What the backends say of all but schedules.
async fn sample(api: &Api, labels: &QueueLabels) -> Snapshot {
    let (queues, workers, span, (cursor, lag)) =
        tokio::join!(ask(look_at_queues(api, labels)), ask(api.queue.workers()), ask(api.source.span()), behind(api),);
    let [queue, store] = api.settings.exposition.backends();
    let (queue_up, store_up) = (queues.is_some() && span.is_some(), cursor.is_some());
    let backends =
        if queue == store { vec![(queue, queue_up && store_up)] } else { vec![(queue, queue_up), (store, store_up)] };
    Snapshot {
        backends,
        queues,
        workers: workers.map(|workers| worker_states(&workers)),
        schedules: None,
        regressions: None,
        log: span.map(|LogSpan { length, cap, .. }| [length, cap]),
        lag,
    }
}

/// What the queues hold. For how long a job has waited is asked only of those with a label of their own, so there are not
/// more questions than labels.
async fn look_at_queues(api: &Api, labels: &QueueLabels) -> Result<Vec<(Arc<str>, QueueCounts)>, QueueError> {
    let now = api.clock.now();
    let look = async |standing: QueueStanding| {
        let is_shown = labels.own(standing.name.as_str()).is_some();
        let has_ready = standing.counts.waiting + standing.counts.prioritized > 0;
        let oldest = if is_shown && has_ready { oldest_ready(api, Some(&standing.name)).await? } else { None };
        let age = oldest.map_or(Duration::ZERO, |job| now.since(job.ready_since()));
        let counts = queue_counts(&standing.counts, is_shown.then_some(age));
        Ok::<_, QueueError>((standing.name, counts))
    };
    let queues = try_join_all(api.queue.queues().await?.into_iter().map(look)).await?;
    Ok(labels.label(queues.iter().map(|(name, counts)| (name.as_str(), *counts))))
}

fn queue_counts(counts: &StateCounts, oldest_waiting: Option<Duration>) -> QueueCounts {
    let StateCounts { waiting, delayed, prioritized, active, completed, failed, paused } = *counts;
    QueueCounts { jobs: [waiting, delayed, prioritized, active, completed, failed], paused, oldest_waiting }
}

/// How many workers take jobs, drain, and can't start jobs.
fn worker_states(workers: &[WorkerInfo]) -> [u64; 3] {
    let mut states = [0; 3];
    for worker in workers {
        let state = if worker.draining { 1 } else { usize::from(worker.unhealthy.is_some()) * 2 };
        states[state] += 1;
    }
    states
}

/// How many schedules bring jobs, are paused, and have come to a stop.
fn schedule_states(schedules: &[ScheduleStanding], now: Timestamp) -> [u64; 3] {
    let mut states = [0; 3];
    for standing in schedules {
        let has_trouble = || standing.schedule.timing.trouble(standing.next_at, now).is_some();
        let state = if standing.paused { 1 } else { usize::from(has_trouble()) * 2 };
        states[state] += 1;
    }
    states
}

/// How far history has been folded, and how far it is behind the log, each if it is known. History is asked first, so
/// that what is folded meanwhile does not count.
async fn behind(api: &Api) -> (Option<Cursor>, Option<Lag>) {
    let Some(cursor) = ask(api.history.cursor()).await else { return (None, None) };
    let lag = async {
        let span = ask(api.source.span()).await?;
        if cursor >= span.last {
            return Some(Lag::default());
        }
        let has_numbers = cursor.major == 0 && span.last.major == 0;
        let limit = if has_numbers { 1 } else { COUNTED };
        let next = ask(api.source.read_without_bodies(cursor, limit, Duration::ZERO)).await?;
        let Some((_, first)) = next.first() else { return Some(Lag::default()) };
        let events = match next.len() as u64 {
            _ if has_numbers => span.last.minor - cursor.minor,
            // Of a log that tells no numbers, all that is not kept for those who watch.
            found if next.len() == COUNTED => found.max(span.length.saturating_sub(api.settings.events_keep)),
            found => found,
        };
        Some(Lag { events, age: api.clock.now().since(first.at()) })
    };
    // The store has taken its time, so the log gets its own.
    (Some(cursor), tokio::time::timeout(PATIENCE, lag).await.ok().flatten())
}

/// What was seen of schedules last.
#[derive(Default)]
struct Schedules {
    /// When the queue was last asked, and how many were in each state; `None` when it did not answer.
    states: Option<(Instant, [u64; 3])>,
    /// When the last job of each was due, to notice the times that have passed without one.
    last_times: HashMap<ScheduleId, Timestamp>,
}

impl Schedules {
    async fn states(&mut self, api: &Api) -> Option<[u64; 3]> {
        if self.states.is_none_or(|(asked_at, _)| asked_at.elapsed() >= SCHEDULES_EVERY) {
            let asked_at = Instant::now();
            self.states = ask(api.scheduler.schedules()).await.map(|all| {
                self.note(&all, METRICS.server.leads());
                (asked_at, schedule_states(&all, api.clock.now()))
            });
        }
        self.states.map(|(_, states)| states)
    }

    /// Counts the times that were skipped since the last look, if this process leads: so one process counts each. Times
    /// that pass while a schedule is paused are not skipped.
    fn note(&mut self, schedules: &[ScheduleStanding], leads: bool) {
        let before = std::mem::take(&mut self.last_times);
        for standing in schedules.iter().filter(|standing| !standing.paused) {
            let (id, Some(last)) = (&standing.schedule.id, standing.last_at) else { continue };
            if let Some(before) = before.get(id)
                && leads
            {
                METRICS.jobs.skipped(id.as_str(), skipped(&standing.schedule.timing, *before, last));
            }
            self.last_times.insert(id.clone(), last);
        }
    }
}

/// How many times of a schedule lie between two times of its jobs, at most [`SKIPPED`].
fn skipped(timing: &Timing, from: Timestamp, to: Timestamp) -> u64 {
    let (mut at, mut times) = (from, 0);
    while let Some(next) = timing.next(Some(at), at).filter(|next| *next > at && *next < to) {
        (at, times) = (next, times + 1);
        if times == SKIPPED {
            break;
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_two_jobs_of_a_schedule_are_skipped_ones() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let minute = Timing::every(Duration::from_secs(60)).unwrap();
        assert_eq!(skipped(&minute, at("2026-03-01T10:00:00Z"), at("2026-03-01T10:01:00Z")), 0);
        assert_eq!(skipped(&minute, at("2026-03-01T10:00:00Z"), at("2026-03-01T10:05:00Z")), 4);
        assert_eq!(skipped(&minute, at("2026-03-01T10:00:00Z"), at("2027-03-01T10:05:00Z")), SKIPPED);
        let daily = Timing::cron("30 4 * * *", None, at("2026-03-01T10:00:00Z")).unwrap();
        assert_eq!(skipped(&daily, at("2026-03-01T04:30:00Z"), at("2026-03-04T04:30:00Z")), 2);
    }
}
