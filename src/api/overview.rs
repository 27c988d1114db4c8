//! The overview: one snapshot a second for all who look, made only while any of them does.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response, sse};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::failures::{failing_categories, known_regressions};
use super::problem::ApiError;
use super::query::{self, Params};
use super::snapshots::{STEP, Snapshot};
use super::state::Api;
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{Entry, JobState, PageRequest, QueueName, Timestamp};
use crate::events::{Cursor, LogSpan};
use crate::queue::{QueueError, QueuedJob, WorkerInfo};
use crate::stats::builds::Regression;
use crate::store::{DayRange, StoreError};
use crate::wire::{
    Component, ComponentStatus, Components, FailingCategory, HistoryLag, OldestWaiting, Overview, WorkersTotal,
};

/// Looking has no effect: a look is dropped at the stop.
const LOOKS: BackgroundLoop = BackgroundLoop::new("overview", Period::WakeUp).drop_run();
/// How long one question to a part may take. All are asked at the same time.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long the failing categories are shown before they are counted anew: that reads every aggregate of two days.
const FAILING_STEP: Duration = Duration::from_secs(10);
/// How many categories are shown, and how many builds.
const MOST_FAILING: usize = 5;
/// A build that was not seen for longer is not shown.
const RECENT: Duration = Duration::from_secs(7 * 86_400);

/// Makes snapshots while anyone watches them. Ends at `stopping`.
pub(super) async fn make_overviews(api: &Api) {
    let overviews = &api.overviews;
    let mut failing = None;
    let mut step = async || {
        if overviews.latest.receiver_count() == 0 {
            return Ok(NextRun::Idle);
        }
        let begun = Instant::now();
        let overview = look(api, &mut failing).await;
        let json = serde_json::to_string(&overview)?;
        overviews.latest.send_replace(Some(Arc::new(Snapshot { made_at: Instant::now(), json })));
        sleep_until(begun + STEP).await;
        Ok(NextRun::AtOnce)
    };
    let mut turns = LOOKS.start(&api.stopping);
    while turns.run_woken(overviews.wanted.notified(), step()).await {}
}

/// `GET /api/v1/overview`: one snapshot or, with `Accept: text/event-stream`, one a second.
pub(super) async fn overview(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    /// Longer than a snapshot can take.
    const LONGEST: Duration = Duration::from_secs(5);
    params.done()?;
    let mut snapshots = api.overviews.watch();
    if query::header(&headers, "accept")?.is_some_and(|accepted| accepted.contains("text/event-stream")) {
        let (out, events) = mpsc::channel(1);
        let stopping = api.stopping.clone();
        api.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = out.closed() => {}
                () = pass_on(snapshots, &out) => {}
            }
        });
        return Ok(super::sse::answer("overview", events));
    }
    let is_fresh = |latest: &Option<Arc<Snapshot>>| latest.as_ref().is_some_and(|snapshot| snapshot.is_fresh());
    let fresh = match timeout(LONGEST, snapshots.wait_for(is_fresh)).await {
        Ok(Ok(latest)) => latest.as_ref().map(|snapshot| snapshot.json.clone()),
        Ok(Err(_)) | Err(_) => None,
    };
    let json = fresh.ok_or_else(|| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server made no overview in time")
    })?;
    Ok(([(axum::http::header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// Sends every snapshot. A slow client misses those that come while it reads one.
async fn pass_on(mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>, out: &mpsc::Sender<sse::Event>) {
    loop {
        let latest = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = latest.filter(|snapshot| snapshot.is_fresh()) {
            let event = sse::Event::default().event("overview").data(&snapshot.json);
            if out.send(event).await.is_err() {
                return;
            }
        }
        // The sender lives as long as the API.
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// The failing categories, and when they were counted.
type Counted = Option<(Instant, (Vec<FailingCategory>, Vec<Regression>))>;

/// Asks every part, each for a bounded time.
async fn look(api: &Api, failing: &mut Counted) -> Overview {
    let now = api.clock.now();
    let (counts, oldest, workers, log, folded, parked, failing, ()) = tokio::join!(
        asked(api.queue.counts()),
        asked(oldest_ready(api, None)),
        asked(api.queue.workers()),
        asked(api.source.span()),
        asked(api.history.cursor()),
        asked(api.source.parked()),
        count_failing(api, now, failing),
        api.throughput.ask(),
    );
    let (failing, regressions) = failing.unzip();
    let history = match &log {
        Ok(log) => Some(lag(api, log, folded.as_ref().ok().copied(), parked.ok(), now).await),
        Err(_) => None,
    };
    let events = match &log {
        Ok(log) if log.length >= log.cap => {
            Component::ill(ComponentStatus::Unavailable, ApiError::log_full(log).detail())
        }
        log => Component::of(log),
    };
    let store = match (&folded, api.history.lacks()) {
        (Ok(_), Some(lacks)) => Component::ill(ComponentStatus::Degraded, lacks),
        (folded, _) => Component::of(folded),
    };
    Overview {
        at: now,
        version: api.settings.version.to_string(),
        rates: log.as_ref().ok().and_then(|_| api.throughput.rates(now)),
        components: Components { queue: Component::of(&counts), store, events },
        queue: counts.ok(),
        oldest_waiting: oldest.ok().flatten().map(|job| OldestWaiting {
            id: job.job.id.clone(),
            name: job.job.name.clone(),
            since: job.ready_since(),
        }),
        workers: workers.ok().map(|workers| together(&workers)),
        failing,
        regressions,
        history,
    }
}

/// Waits for an answer, but not for long.
async fn asked<T, E: std::error::Error>(call: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} ms", PATIENCE.as_millis())),
    }
}

/// Of the first ready job without a priority and the first with one, that which is ready for longer.
pub(super) async fn oldest_ready(api: &Api, queue: Option<&QueueName>) -> Result<Option<QueuedJob>, QueueError> {
    let first = |state| api.queue.page(queue, state, PageRequest::first(1));
    let (waiting, prioritized) = tokio::try_join!(first(JobState::Waiting), first(JobState::Prioritized))?;
    Ok(waiting.items.into_iter().chain(prioritized.items).min_by_key(QueuedJob::ready_since))
}

fn together(workers: &[WorkerInfo]) -> WorkersTotal {
    let mut total = WorkersTotal::default();
    for worker in workers {
        total.total += 1;
        total.taking += u64::from(worker.takes_jobs());
        total.draining += u64::from(worker.draining);
        total.unhealthy += u64::from(worker.unhealthy.is_some());
        total.slots += u64::from(worker.slots);
        total.running += u64::from(worker.running);
        total.cores += u64::from(worker.cores);
        // A worker divides its cores evenly among its slots.
        let busy = u64::from(worker.running) * u64::from(worker.cores) / u64::from(worker.slots.max(1));
        total.cores_busy += busy.min(u64::from(worker.cores));
    }
    total
}

/// How far history is behind the log. The oldest event that it lacks tells the time.
async fn lag(api: &Api, log: &LogSpan, folded: Option<Cursor>, parked: Option<u64>, now: Timestamp) -> HistoryLag {
    let caught_up = folded.is_some_and(|folded| folded >= log.last);
    let lag_ms = match folded {
        Some(_) if caught_up => Some(0),
        Some(folded) => {
            let next = asked(api.source.read_without_bodies(folded, 1, Duration::ZERO)).await.ok();
            let at = next.and_then(|entries| entries.into_iter().next()).map(|(_, entry)| match entry {
                Entry::Job(event) => event.at,
                Entry::Categories(event) => event.at,
            });
            at.map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX))
        }
        None => None,
    };
    HistoryLag { caught_up, log_length: log.length, log_cap: log.cap, parked, lag_ms }
}

/// The categories with the most failed attempts, and the builds that do worse, counted anew now and then; `None` while history can't be asked.
async fn count_failing(
    api: &Api,
    now: Timestamp,
    counted: &mut Counted,
) -> Option<(Vec<FailingCategory>, Vec<Regression>)> {
    if counted.as_ref().is_none_or(|(at, _)| at.elapsed() >= FAILING_STEP) {
        *counted = asked(failing(api, now)).await.ok().map(|failing| (Instant::now(), failing));
    }
    counted.as_ref().map(|(_, failing)| failing.clone())
}

async fn failing(api: &Api, now: Timestamp) -> Result<(Vec<FailingCategory>, Vec<Regression>), StoreError> {
    let yesterday = (now.day().start() - Duration::from_millis(1)).day();
    let days = DayRange { from: Some(yesterday), to: None };
    let lines = failing_categories(api, days).await?;
    let failing = lines.into_iter().filter(|line| line.failures > 0).take(MOST_FAILING);
    let category = |line: crate::stats::CategoryLine| FailingCategory {
        category: line.category,
        category_name: line.name,
        count: line.failures,
    };
    let mut regressions = recent_regressions(api, now).await?;
    regressions.truncate(MOST_FAILING);
    Ok((failing.map(category).collect(), regressions))
}

/// The builds that do worse than those before them and were seen within a week.
pub(super) async fn recent_regressions(api: &Api, now: Timestamp) -> Result<Vec<Regression>, StoreError> {
    let mut regressions = known_regressions(api, None).await?;
    regressions.retain(|regression| now.since(regression.last_seen) < RECENT);
    Ok(regressions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes;

    #[test]
    fn workers_are_added_up() {
        let worker = |running, slots, draining| WorkerInfo { slots, cores: 8, running, draining, ..fakes::worker() };
        let unhealthy = WorkerInfo { unhealthy: Some("no binary".to_owned()), ..worker(0, 8, false) };
        let total = together(&[worker(1, 4, false), worker(3, 2, true), unhealthy]);
        let expected = WorkersTotal {
            total: 3,
            taking: 1,
            draining: 1,
            unhealthy: 1,
            slots: 14,
            running: 4,
            cores: 24,
            cores_busy: 10,
        };
        assert_eq!(total, expected);
    }
}
