//! Tells whether the server lives, and whether it can work.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::problem::ApiError;
use super::state::Api;
use crate::logging::chain;
use crate::queue::QueueError;
use crate::wire::{
    Component, ComponentStatus, Health, HistoryPlace, Readiness, ReadyComponents, ReadyStatus, UnhealthyWorker,
    UnhealthyWorkers,
};

/// The path of [`live`].
pub(super) const LIVE: &str = "/healthz";
/// The path of [`ready`].
pub(super) const READY: &str = "/readyz";

/// The words by which an event log says that only a newer Jobber can read an entry.
const NEWER: &str = "run a newer jobber";

/// Whether programs ask for this path again and again. Such a path needs no token, and a request
/// for it is not worth a line in the log.
pub(super) fn is_probe(path: &str) -> bool {
    path == LIVE || path == READY
}

/// `GET /healthz`: answers as long as the process can.
pub(super) async fn live(State(api): State<Arc<Api>>) -> Response {
    axum::Json(Health { status: "ok".to_owned(), version: api.settings.version.clone() }).into_response()
}

/// `GET /readyz`: the server is ready when it can accept jobs: the queue takes writes, the event
/// log has room, and the server is not stopping. A store that is away or can't do everything makes
/// it degraded, and so do workers that can't start jobs. A degraded server is ready all the same,
/// because a load balancer must not take the last one out.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let (queue, store, log, folded, parked, workers) = tokio::join!(
        probe(ping_queue(&api)),
        probe(api.history.ping()),
        probe(api.source.span()),
        probe(api.history.cursor()),
        probe(api.source.parked()),
        probe(api.queue.workers()),
    );
    let log = match (log, &folded) {
        // The projector parks events that it can't read. It does not park those that a newer Jobber
        // wrote: history waits for a newer projector.
        (Ok(log), Ok(folded)) if *folded < log.last => {
            match probe(api.source.read_without_bodies(*folded, 1, Duration::ZERO)).await {
                Err(why) if why.contains(NEWER) => Err(why),
                _ => Ok(log),
            }
        }
        (log, _) => log,
    };
    let log = log
        .and_then(|log| if log.length < log.cap { Ok(log) } else { Err(ApiError::log_full(&log).detail().to_owned()) });
    // Without the store the server accepts jobs, and workers run them. Their events wait in the log.
    let takes_jobs = queue.is_ok() && log.is_ok();
    let has_history = store.is_ok() && folded.is_ok();
    let lacks = api.history.lacks();
    // If the queue is away there are no workers to list. Its own component says that it is away.
    let unhealthy: Vec<_> = workers
        .unwrap_or_default()
        .into_iter()
        .filter_map(|worker| Some(UnhealthyWorker { id: worker.id, host: worker.host, error: worker.unhealthy? }))
        .collect();
    let stops = api.stopping.is_cancelled() || api.draining.is_cancelled();
    let status = match (takes_jobs, stops) {
        (true, false) if !has_history || lacks.is_some() || !unhealthy.is_empty() => ReadyStatus::Degraded,
        (true, false) => ReadyStatus::Ready,
        (_, true) => ReadyStatus::Stopping,
        (false, false) => ReadyStatus::Unavailable,
    };
    let store = match (Component::of(&store.and(folded.clone())), lacks) {
        (store, Some(lacks)) if store == Component::OK => Component::ill(ComponentStatus::Degraded, lacks),
        (store, _) => store,
    };
    let components = ReadyComponents {
        queue: Component::of(&queue),
        store,
        events: Component::of(&log),
        workers: (!unhealthy.is_empty()).then_some(UnhealthyWorkers { status: ComponentStatus::Degraded, unhealthy }),
    };
    // This is useful with the store away too: it shows how much history has to catch up with.
    let history = log.ok().map(|log| {
        let folded = folded.ok();
        HistoryPlace {
            log: log.last.to_string(),
            store: folded.map(|folded| folded.to_string()),
            caught_up: folded.is_some_and(|folded| folded >= log.last),
            log_length: log.length,
            log_cap: log.cap,
            parked: parked.ok(),
        }
    });
    let code = if status.takes_jobs() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, axum::Json(Readiness { status, components, history })).into_response()
}

/// Makes a small write in the queue. That costs more than a read, so frequent requests share one write.
async fn ping_queue(api: &Api) -> Result<(), QueueError> {
    const TRUSTED: Duration = Duration::from_secs(1);
    let last = || api.queue_written.lock().expect("nothing panics while it holds the lock");
    if last().is_some_and(|at| at.elapsed() < TRUSTED) {
        return Ok(());
    }
    let asked_at = Instant::now();
    api.queue.ping().await?;
    *last() = Some(asked_at);
    Ok(())
}

async fn probe<T, E: std::error::Error + 'static>(call: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    const PATIENCE: Duration = Duration::from_secs(2);
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|e| {
            tracing::warn!(cause = chain(&e), "not ready");
            e.to_string()
        }),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
