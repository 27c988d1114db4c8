//! Whether it lives, and whether it can work.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::problem::ApiError;
use super::state::Api;
use crate::logging::chain;
use crate::queue::QueueError;

/// The path of [`live`].
pub(super) const LIVE: &str = "/healthz";
/// The path of [`ready`].
pub(super) const READY: &str = "/readyz";

/// In the words of an event log that holds what only a newer Jobber can read.
const NEWER: &str = "run a newer jobber";

/// Whether a path is asked for by machines, again and again: open to all, and not worth a line in the log.
pub(super) fn is_probe(path: &str) -> bool {
    path == LIVE || path == READY
}

/// `GET /healthz`: the process answers.
pub(super) async fn live(State(api): State<Arc<Api>>) -> Response {
    axum::Json(json!({"status": "ok", "version": api.settings.version})).into_response()
}

/// `GET /readyz`: jobs can be accepted: the queue can be written to, the event log has room, and the server is not
/// stopping. A store that is away or can't do everything is degraded, and so are workers that can't start jobs: the server
/// is ready all the same, for a load balancer must not take the last one out.
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
        // What can't be read is set aside; what a newer Jobber wrote is not, and history waits for one.
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
    // Without the store jobs are accepted and run all the same; what becomes of them waits in the log.
    let takes_jobs = queue.is_ok() && log.is_ok();
    let has_history = store.is_ok() && folded.is_ok();
    let lacks = api.history.lacks();
    // A queue that is away tells of no workers; its own component says so.
    let unhealthy: Vec<_> = workers
        .unwrap_or_default()
        .into_iter()
        .filter_map(|worker| Some(json!({"id": worker.id, "host": worker.host, "error": worker.unhealthy?})))
        .collect();
    let stops = api.stopping.is_cancelled() || api.draining.is_cancelled();
    let status = match (takes_jobs, stops) {
        (true, false) if !has_history || lacks.is_some() || !unhealthy.is_empty() => "degraded",
        (true, false) => "ready",
        (_, true) => "stopping",
        (false, false) => "unavailable",
    };
    let mut body = json!({
        "status": status,
        "components": {"queue": component(&queue), "store": component(&store.and(folded.clone())), "events": component(&log)},
    });
    if let (Some(lacks), "ok") = (lacks, body["components"]["store"]["status"].as_str().unwrap_or_default()) {
        body["components"]["store"] = json!({"status": "degraded", "error": lacks});
    }
    if !unhealthy.is_empty() {
        body["components"]["workers"] = json!({"status": "degraded", "unhealthy": unhealthy});
    }
    // With the store away too: how much there is to catch up with is in the log.
    if let Ok(log) = log {
        let folded = folded.ok();
        body["history"] = json!({
            "log": log.last,
            "store": folded,
            "caught_up": folded.is_some_and(|folded| folded >= log.last),
            "log_length": log.length,
            "log_cap": log.cap,
            // Events that could not be read: they lie aside, and history is without them.
            "parked": parked.ok(),
        });
    }
    let code = if status == "ready" || status == "degraded" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, axum::Json(body)).into_response()
}

/// Makes a small write in the queue. It costs more than a read, so those who ask often share one.
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

fn component<T>(answer: &Result<T, String>) -> Value {
    match answer {
        Ok(_) => json!({"status": "ok"}),
        Err(error) => json!({"status": "unavailable", "error": error}),
    }
}
