//! Streams everything that happens to any job, as it happens.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse;
use tokio::sync::mpsc;

use super::problem::ApiError;
use super::query::{self, Params};
use super::repeats::Repeats;
use super::state::Api;
use crate::domain::{Entry, Event, EventKind};
use crate::events::{Cursor, EventError};
use crate::logging::chain;
use crate::wire::JobEventView;

/// `GET /api/v1/events`: the events after `Last-Event-ID` or `?after=`, else from now on.
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let after: Option<Cursor> = params.with("after", str::parse)?;
    params.done()?;
    let last = match query::header(&headers, "last-event-id")?.filter(|id| !id.is_empty()) {
        Some(id) => Some(id.parse().map_err(|e: String| ApiError::bad_request("invalid_header", e))?),
        None => None,
    };
    let after = match last.or(after) {
        Some(after) => after,
        None => api.source.span().await?.last,
    };
    let (out, events) = mpsc::channel(super::sse::WAITING);
    let shared = api.clone();
    api.tasks.spawn(async move {
        tokio::select! {
            () = shared.stopping.cancelled() => {}
            () = out.closed() => {}
            ended = pass_on(&shared, after, &out) => if let Err(error) = ended {
                tracing::warn!(cause = chain(&error), "an event stream broke off");
            }
        }
    });
    Ok(super::sse::answer("events", events))
}

/// Reads the log for one client, so that each client can start anywhere and read slowly.
async fn pass_on(api: &Api, mut at: Cursor, out: &mpsc::Sender<sse::Event>) -> Result<(), EventError> {
    const AT_ONCE: usize = 256;
    const WAIT: Duration = Duration::from_secs(20);
    let mut repeats = Repeats::default();
    loop {
        for (cursor, entry) in api.source.read_without_bodies(at, AT_ONCE, WAIT).await? {
            at = cursor;
            let Entry::Job(event) = entry else { continue };
            if !repeats.is_new(&event) {
                continue;
            }
            let happening = describe(event);
            let data = serde_json::to_string(&happening).expect("a happening has only strings and numbers");
            let event = sse::Event::default().id(cursor.to_string()).event(happening.kind).data(data);
            if out.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn describe(event: Event) -> JobEventView {
    let kind = event.key().kind.to_owned();
    let attempt = Some(event.key().attempt).filter(|n| *n > 0);
    let mut happening = JobEventView {
        kind,
        at: event.at,
        job: event.job.id.clone(),
        name: event.job.name.clone(),
        attempt,
        state: None,
        outcome: None,
        worker: None,
        due_at: None,
        reason: None,
    };
    match event.kind {
        EventKind::AttemptStarted { worker, .. } | EventKind::AttemptWithdrawn { worker, .. } => {
            happening.worker = Some(worker)
        }
        EventKind::AttemptFinished { worker, report, next_at, .. } => {
            happening.worker = Some(worker);
            happening.outcome = Some(report.outcome);
            happening.due_at = next_at;
        }
        EventKind::Finished { state, outcome, .. } => {
            happening.state = Some(state.into());
            happening.outcome = Some(outcome);
        }
        EventKind::Cancelled { reason } => happening.reason = Some(reason),
        EventKind::Submitted | EventKind::Retried { .. } | EventKind::Removed => {}
    }
    happening
}
