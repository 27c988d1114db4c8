//! The actions on many jobs, which a request chooses by their ids or by conditions: cancel, retry, promote, remove.
//!
//! A request acts on a batch, and its answer says where the next one begins, so that a client can go through any number
//! of jobs and show how far it is. Each job is acted on as by an action on that job alone, and a client that goes away
//! meanwhile leaves each job either acted on or untouched.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::act::{JobAction, cancel_reason};
use super::filter::filter;
use crate::api::body::Json;
use crate::api::problem::ApiError;
use crate::api::state::Api;
use crate::domain::{JobId, JobState, PageRequest};
use crate::store::JobFilter;
use crate::wire::failures::RetriedFailed;
use crate::wire::{ActOnJobs, ActedOnJobs, FieldProblem, JobSelection};

/// The most jobs of one batch, and the most ids of a request.
const MOST: usize = 10_000;
/// The jobs of a batch unless the client says so.
const USUAL: usize = 1000;
/// Jobs that are looked up at once.
const PAGE: usize = 200;
/// Jobs that are acted on at the same time.
const AT_ONCE: usize = 16;
/// A batch that has taken so long ends before its limit.
const LONG: Duration = Duration::from_secs(20);

/// `POST /api/v1/jobs:cancel`: stops the chosen jobs, or says with `dry_run` which.
pub(in crate::api) async fn cancel_many(
    State(api): State<Arc<Api>>,
    body: Json<ActOnJobs>,
) -> Result<axum::Json<ActedOnJobs>, ApiError> {
    let mut asked = body.value;
    let reason = cancel_reason(asked.reason.take())?;
    act_on_batch(&api, asked, JobAction::Cancel { reason }).await.map(axum::Json)
}

/// `POST /api/v1/jobs:retry`: puts the chosen failed jobs back.
pub(in crate::api) async fn retry_many(
    State(api): State<Arc<Api>>,
    body: Json<ActOnJobs>,
) -> Result<axum::Json<RetriedFailed>, ApiError> {
    Ok(axum::Json(act_on_batch(&api, body.value, JobAction::Retry).await?.into()))
}

/// `POST /api/v1/jobs:promote`: makes the chosen delayed jobs ready now.
pub(in crate::api) async fn promote_many(
    State(api): State<Arc<Api>>,
    body: Json<ActOnJobs>,
) -> Result<axum::Json<ActedOnJobs>, ApiError> {
    act_on_batch(&api, body.value, JobAction::Promote).await.map(axum::Json)
}

/// `POST /api/v1/jobs:remove`: takes the chosen jobs out of the queue and the lists.
pub(in crate::api) async fn remove_many(
    State(api): State<Arc<Api>>,
    body: Json<ActOnJobs>,
) -> Result<axum::Json<ActedOnJobs>, ApiError> {
    act_on_batch(&api, body.value, JobAction::Remove).await.map(axum::Json)
}

/// The jobs that a request is about, page by page.
enum ChosenJobs {
    /// These; the cursor is how many of them come before the page.
    Ids(Vec<JobId>),
    /// Those that history lists, last submitted first.
    Listed(Box<JobFilter>),
}

impl ChosenJobs {
    async fn of(api: &Api, ids: Vec<JobId>, selection: JobSelection, action: &JobAction) -> Result<Self, ApiError> {
        let selection = with_implied_state(selection, action);
        if ids.is_empty() {
            return Ok(Self::Listed(Box::new(filter(api, selection).await?)));
        }
        let mut seen = HashSet::new();
        Ok(Self::Ids(ids.into_iter().filter(|id| seen.insert(id.clone())).collect()))
    }

    /// At most `limit` jobs from the cursor on, and the cursor of those that follow.
    async fn page(
        &self,
        api: &Api,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<(Vec<JobId>, Option<String>), ApiError> {
        match self {
            Self::Ids(ids) => {
                let from = match cursor {
                    None => 0,
                    Some(cursor) => cursor.parse().ok().filter(|from| *from <= ids.len()).ok_or_else(|| {
                        let detail =
                            "the cursor is not one of these ids; give back the `next_cursor` of the batch before";
                        invalid("/cursor", detail)
                    })?,
                };
                let to = (from + limit).min(ids.len());
                Ok((ids[from..to].to_vec(), (to < ids.len()).then(|| to.to_string())))
            }
            Self::Listed(filter) => {
                let page = api.history.jobs(filter, PageRequest { cursor, limit }).await?;
                Ok((page.items.into_iter().map(|job| job.id).collect(), page.next))
            }
        }
    }
}

/// Jobs on which the action has no effect are not even chosen, unless the request names their states.
fn with_implied_state(mut selection: JobSelection, action: &JobAction) -> JobSelection {
    use JobState::{Active, Delayed, Failed, Prioritized, Waiting};
    if selection.state.is_empty() {
        selection.state = match action {
            JobAction::Cancel { .. } => vec![Waiting, Delayed, Prioritized, Active],
            JobAction::Retry => vec![Failed],
            JobAction::Promote => vec![Delayed],
            JobAction::Remove => Vec::new(),
        };
    }
    selection
}

fn invalid(pointer: &str, detail: impl Into<String>) -> ApiError {
    let problem = FieldProblem { pointer: pointer.to_owned(), detail: detail.into() };
    ApiError::invalid_fields("invalid_body", vec![problem])
}

async fn act_on_batch(api: &Arc<Api>, mut asked: ActOnJobs, action: JobAction) -> Result<ActedOnJobs, ApiError> {
    // A text of nothing but spaces is no condition.
    asked.selection.q = asked.selection.q.filter(|q| !q.trim().is_empty());
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(invalid("/limit", format!("must be 1 to {MOST}")));
    }
    if asked.reason.is_some() {
        return Err(invalid("/reason", "only a cancellation has a reason"));
    }
    match (asked.ids.len(), asked.selection.is_empty()) {
        (0, true) => {
            let detail = "say which jobs: ids, or at least one condition; no request acts on all jobs";
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "empty_filter", detail));
        }
        (1.., false) => return Err(invalid("/ids", "must not be given together with conditions")),
        (ids, _) if ids > MOST => return Err(invalid("/ids", format!("must be at most {MOST}"))),
        _ => {}
    }
    if asked.ids.is_empty() && asked.cursor.is_none() {
        catch_up(api).await;
    }
    let chosen = ChosenJobs::of(api, asked.ids, asked.selection, &action).await?;
    let mut acted = ActedOnJobs { dry_run: asked.dry_run, ..ActedOnJobs::default() };
    let (mut cursor, mut left, until) = (asked.cursor, limit, Instant::now() + LONG);
    loop {
        let (ids, next) = match chosen.page(api, cursor.clone(), PAGE.min(left)).await {
            Ok(page) => page,
            // What was done already must be told. The next request meets the error.
            Err(_) if left < limit && cursor.is_some() => {
                acted.next_cursor = cursor;
                break;
            }
            Err(error) => return Err(error),
        };
        left -= ids.len();
        let is_away = act_on_page(api, &action, ids, &mut acted).await;
        if next.is_none() || left == 0 || is_away || Instant::now() >= until {
            acted.next_cursor = next;
            break;
        }
        cursor = next;
    }
    acted.more = acted.next_cursor.is_some();
    let (done, skipped, dry_run) = (acted.done.len(), acted.skipped.len(), acted.dry_run);
    tracing::info!(action = action.word(), done, skipped, dry_run, "acted on many jobs");
    Ok(acted)
}

/// Waits a moment for history to know the jobs that were submitted before the request.
async fn catch_up(api: &Api) {
    const MOMENT: Duration = Duration::from_secs(1);
    // If the log can't be asked, history is taken as it is.
    if let Ok(span) = api.source.span().await {
        api.folded(span.last, Instant::now() + MOMENT).await;
    }
}

/// Acts on these jobs, or with `dry_run` only finds out what would become of each. Answers whether a part of Jobber
/// could not be reached.
async fn act_on_page(api: &Arc<Api>, action: &JobAction, ids: Vec<JobId>, acted: &mut ActedOnJobs) -> bool {
    let dry_run = acted.dry_run;
    let each = ids.into_iter().map(|id| act_on_one(api.clone(), action.clone(), id, dry_run));
    let mut results = futures_util::stream::iter(each).buffered(AT_ONCE);
    let mut is_away = false;
    while let Some((id, result)) = results.next().await {
        match result {
            Ok(()) => acted.done.push(id),
            Err(error) => {
                is_away |= error.status.is_server_error();
                acted.skipped.insert(id, error.detail().to_owned());
            }
        }
    }
    is_away
}

async fn act_on_one(api: Arc<Api>, action: JobAction, id: JobId, dry_run: bool) -> (JobId, Result<(), ApiError>) {
    let act = async {
        let own_id = api.in_queue(id.clone()).await?;
        if dry_run {
            return action.foresee(&api, &own_id).await;
        }
        let shared = api.clone();
        // Its steps belong together, whatever becomes of the request.
        api.to_the_end(async move { action.carry_out(&shared, &own_id).await.map(drop) }).await
    };
    let result = act.await;
    (id, result)
}
