//! The actions on a job: cancel, retry, promote, remove. Each goes to the queue and is recorded. [`super::bulk`] takes
//! them to many jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::view::Depth;
use crate::api::body::{OptionalJson, check_text};
use crate::api::problem::ApiError;
use crate::api::query::Segment;
use crate::api::state::Api;
use crate::domain::outcome::cancelled_because;
use crate::domain::{Event, EventKind, FinalState, Job, JobId, JobState, Outcome};
use crate::queue::{Cancellation, Change};
use crate::wire::{Acted, CancelRequest};

/// The longest reason, in bytes.
const LONGEST_REASON: usize = 4096;

/// What can be done to a job.
#[derive(Debug, Clone)]
pub(super) enum JobAction {
    /// Stops it.
    Cancel {
        /// Why, for history.
        reason: String,
    },
    /// Puts it back after it has failed.
    Retry,
    /// Makes it ready now.
    Promote,
    /// Takes it out of the queue and the lists.
    Remove,
}

impl JobAction {
    /// The word for it in routes and logs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel",
            Self::Retry => "retry",
            Self::Promote => "promote",
            Self::Remove => "remove",
        }
    }

    /// Acts on the job that the queue knows by this id. Answers what happened, as [`Acted::status`] has it.
    pub(super) async fn carry_out(&self, api: &Api, id: &JobId) -> Result<&'static str, ApiError> {
        match self {
            Self::Cancel { reason } => cancel(api, id, reason.clone()).await,
            Self::Retry => retry(api, id).await,
            Self::Promote => promote(api, id).await,
            Self::Remove => take_out(api, id).await,
        }
    }

    /// Finds out without acting whether [`JobAction::carry_out`] would act on the job as it stands, or why not. Only a
    /// deduplication key that another job holds is not foreseen.
    pub(super) async fn foresee(&self, api: &Api, id: &JobId) -> Result<(), ApiError> {
        let ids = std::slice::from_ref(id);
        let mut found = match self {
            // Tells of the jobs that it waits for, too.
            Self::Promote => api.queue.find(ids).await?,
            _ => api.queue.standing(ids).await?,
        };
        let Some(queued) = found.pop().flatten() else {
            return self.foresee_forgotten(api, id).await;
        };
        let state = queued.state;
        match self {
            Self::Cancel { .. } if state.is_final() => Err(ApiError::wrong_state(id, state, ENDED)),
            Self::Retry if state != JobState::Failed => Err(ApiError::wrong_state(id, state, NOT_FAILED)),
            Self::Promote if state != JobState::Delayed => Err(ApiError::wrong_state(id, state, NOT_DELAYED)),
            Self::Promote if !queued.waits_for.is_empty() => Err(ApiError::wrong_state(id, state, WAITS)),
            Self::Remove if state == JobState::Active => Err(ApiError::wrong_state(id, state, RUNS)),
            _ => Ok(()),
        }
    }

    /// The same of a job that the queue has forgotten or never knew.
    async fn foresee_forgotten(&self, api: &Api, id: &JobId) -> Result<(), ApiError> {
        let state = api.brief_snapshot(id).await?.view.state;
        match self {
            Self::Cancel { .. } if state.is_final() => Err(ApiError::wrong_state(id, state, ENDED)),
            Self::Cancel { .. } | Self::Retry => Err(not_in_queue(id)),
            Self::Promote => Err(ApiError::wrong_state(id, state, NOT_DELAYED)),
            Self::Remove => Ok(()),
        }
    }
}

const ENDED: &str = "only a job that has not ended can be cancelled";
const NOT_FAILED: &str = "only a failed job can be retried";
const NOT_DELAYED: &str = "only a delayed job can be promoted";
const WAITS: &str = "it waits for other jobs, and is ready when they have completed";
const RUNS: &str = "cancel it, and remove it when it has ended";

/// Checks the reason that a client gives for a cancellation, or makes one.
pub(super) fn cancel_reason(given: Option<String>) -> Result<String, ApiError> {
    let reason = given.filter(|r| !r.trim().is_empty()).unwrap_or_else(|| "on request".to_owned());
    check_text("/reason", &reason, LONGEST_REASON)?;
    Ok(reason)
}

/// `POST /api/v1/jobs/{id}:cancel`, `:retry`, `:promote`.
pub(in crate::api) async fn act(
    State(api): State<Arc<Api>>,
    segment: Segment,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, verb) = segment.verb()?;
    let id = JobId::parse(id)?;
    let action = match verb {
        "cancel" => {
            let OptionalJson(body) = OptionalJson::<CancelRequest>::from_request(request, &api).await?;
            JobAction::Cancel { reason: cancel_reason(body.reason)? }
        }
        "retry" => JobAction::Retry,
        "promote" => JobAction::Promote,
        _ => {
            let detail = format!("a job can't be told to {verb:?}, only to cancel, retry or promote");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_verb", detail));
        }
    };
    let acted = act_on(&api, id, action).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(acted)).into_response())
}

/// `DELETE /api/v1/jobs/{id}`.
pub(in crate::api) async fn remove(
    State(api): State<Arc<Api>>,
    segment: Segment,
) -> Result<axum::Json<Acted>, ApiError> {
    let acted = act_on(&api, JobId::parse(&segment.0)?, JobAction::Remove).await?;
    history_forgets(&api, &acted.id).await;
    Ok(axum::Json(acted))
}

/// Waits until history has learned that the job was removed, which takes a moment: a client that asks at once should not be
/// shown it. A history that is late or away is not waited for.
async fn history_forgets(api: &Api, id: &JobId) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let forgotten = async {
        let mut wait = Duration::from_millis(2);
        while let Ok(Some(record)) = api.remembered(id, Depth::Standing).await
            && !record.removed
        {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    };
    if !api.feed.is_history_away() {
        let _ = tokio::time::timeout(PATIENCE, forgotten).await;
    }
}

/// Acts on one job, to the end even if the client goes away: the steps of an action belong together.
async fn act_on(api: &Arc<Api>, id: JobId, action: JobAction) -> Result<Acted, ApiError> {
    let id = api.in_queue(id).await?;
    let (shared, job) = (api.clone(), id.clone());
    let status = api.to_the_end(async move { action.carry_out(&shared, &job).await }).await?;
    tracing::info!(job = %id, status, "acted on a job");
    Ok(Acted { id, status: status.to_owned() })
}

async fn cancel(api: &Api, id: &JobId, reason: String) -> Result<&'static str, ApiError> {
    let snapshot = api.brief_snapshot(id).await?;
    if snapshot.view.state.is_final() {
        return Err(ApiError::wrong_state(id, snapshot.view.state, ENDED));
    }
    let Some(queued) = api.queue.find(std::slice::from_ref(id)).await?.pop().flatten() else {
        return Err(not_in_queue(id));
    };
    // Recorded first: if the log can't be written, nothing has happened yet.
    append(api, &queued.job, EventKind::Cancelled { reason: reason.clone() }).await?;
    match api.operator.cancel(id, &reason).await? {
        Cancellation::Ended(job) => {
            let end = EventKind::Finished {
                attempt: None,
                state: FinalState::Failed,
                outcome: Outcome::Cancelled,
                result: None,
                error: Some(cancelled_because(&reason)),
            };
            append_surely(api, &job, end).await;
            Ok("cancelled")
        }
        Cancellation::Signalled(_) => Ok("cancelling"),
        Cancellation::AlreadyFinal(state) => Err(ApiError::wrong_state(id, state, ENDED)),
        Cancellation::NotFound => Err(not_in_queue(id)),
    }
}

async fn retry(api: &Api, id: &JobId) -> Result<&'static str, ApiError> {
    match api.operator.retry(id).await? {
        Change::Done(job, attempts) => {
            append_surely(api, &job, EventKind::Retried { attempts }).await;
            Ok("retried")
        }
        Change::WrongState(state) => Err(ApiError::wrong_state(id, state, NOT_FAILED)),
        Change::KeyTaken(holder) => Err(key_taken(id, &holder)),
        Change::NotFound => {
            api.brief_snapshot(id).await?;
            Err(not_in_queue(id))
        }
    }
}

async fn promote(api: &Api, id: &JobId) -> Result<&'static str, ApiError> {
    match api.operator.promote(id).await? {
        // There is no event for this: history learns of the job's start.
        Change::Done(..) => Ok("promoted"),
        Change::WrongState(JobState::Delayed) => Err(ApiError::wrong_state(id, JobState::Delayed, WAITS)),
        Change::WrongState(state) => Err(ApiError::wrong_state(id, state, NOT_DELAYED)),
        Change::KeyTaken(holder) => Err(key_taken(id, &holder)),
        Change::NotFound => {
            let snapshot = api.brief_snapshot(id).await?;
            Err(ApiError::wrong_state(id, snapshot.view.state, NOT_DELAYED))
        }
    }
}

async fn take_out(api: &Api, id: &JobId) -> Result<&'static str, ApiError> {
    match api.operator.remove(id).await? {
        Change::Done(job, _) => append_surely(api, &job, EventKind::Removed).await,
        Change::WrongState(state) => return Err(ApiError::wrong_state(id, state, RUNS)),
        Change::KeyTaken(holder) => return Err(key_taken(id, &holder)),
        // The queue has forgotten the job, but the lists still have it.
        Change::NotFound => match api.remembered(id, Depth::Whole).await? {
            Some(record) if !record.removed => append(api, &Arc::new(record.job()), EventKind::Removed).await?,
            _ => return Err(ApiError::unknown_job(id)),
        },
    }
    Ok("removed")
}

fn key_taken(id: &JobId, holder: &JobId) -> ApiError {
    let detail = format!("job {holder} holds the deduplication key of job {id}; retry it when that one has ended");
    ApiError::new(StatusCode::CONFLICT, "deduplication_key_taken", detail)
}

fn not_in_queue(id: &JobId) -> ApiError {
    let detail = format!("job {id} has ended and the queue has let go of it; submit it again");
    ApiError::new(StatusCode::CONFLICT, "not_in_queue", detail)
}

async fn append(api: &Api, job: &Arc<Job>, kind: EventKind) -> Result<(), ApiError> {
    let event = Event::new(api.clock.now(), job.clone(), kind);
    api.sink.append(std::slice::from_ref(&event)).await?;
    Ok(())
}

/// Records what the queue has done already. Tries for some seconds, because no other part would record it.
async fn append_surely(api: &Api, job: &Arc<Job>, kind: EventKind) {
    const PAUSES: [u64; 6] = [20, 100, 500, 1000, 2000, 4000];
    let event = Event::new(api.clock.now(), job.clone(), kind);
    for pause in PAUSES {
        let Err(error) = api.sink.append(std::slice::from_ref(&event)).await else { return };
        tracing::warn!(job = %job.id, %error, "could not write down what was done to a job; trying again");
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    if let Err(error) = api.sink.append(std::slice::from_ref(&event)).await {
        tracing::error!(job = %job.id, kind = event.key().kind, %error, "history lacks what was done to a job");
    }
}
