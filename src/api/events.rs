//! Streams everything that happens to any job, as it happens.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse;
use tokio::sync::mpsc;

use super::problem::ApiError;
use super::query::{self, Params};
use super::state::Api;
use crate::domain::{Entry, Event, EventKey, EventKind, JobId, Timestamp};
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

/// Recognises an event that is in the log twice. A writer repeats an append when it did not get the answer.
#[derive(Default)]
pub(super) struct Repeats {
    recent: VecDeque<(Timestamp, EventKey)>,
    known: HashSet<(Timestamp, EventKey)>,
}

impl Repeats {
    /// How many events back a repeat is recognised. A repeated append follows within moments.
    const KEPT: usize = 4096;

    /// Whether the event differs from those before it.
    pub(super) fn is_new(&mut self, event: &Event) -> bool {
        // A job may be cancelled, put back or removed more than once, and each time is news.
        if !matches!(
            event.kind,
            EventKind::Submitted
                | EventKind::AttemptStarted { .. }
                | EventKind::AttemptFinished { .. }
                | EventKind::Finished { .. }
        ) {
            // After a job was put back, or a start withdrawn, events that look the same are new ones.
            if let EventKind::Retried { .. } | EventKind::AttemptWithdrawn { .. } = event.kind {
                self.forget(&event.job.id);
            }
            return true;
        }
        // The job's id may come again for another job.
        let key = (event.job.submitted_at, event.key());
        if !self.known.insert(key.clone()) {
            return false;
        }
        self.recent.push_back(key);
        if self.recent.len() > Self::KEPT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    fn forget(&mut self, job: &JobId) {
        self.recent.retain(|(_, key)| key.job != *job);
        self.known.retain(|(_, key)| key.job != *job);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::job;
    use crate::domain::{AttemptNumber, FinalState, Outcome};

    #[test]
    fn an_end_that_was_written_several_times_is_told_once() {
        let finished = |attempt| {
            let kind = EventKind::Finished {
                attempt: Some(AttemptNumber(attempt)),
                state: FinalState::Failed,
                outcome: Outcome::Timeout,
                result: None,
                error: None,
            };
            Event::new(Timestamp::from_millis(1), job("j"), kind)
        };
        let retried = Event { kind: EventKind::Retried { attempts: 1 }, ..finished(1) };
        let mut repeats = Repeats::default();
        let told = [finished(1), finished(1), finished(1), retried.clone(), retried, finished(2), finished(2)]
            .map(|event| repeats.is_new(&event));
        assert_eq!(told, [true, false, false, true, true, true, false]);
    }
}
