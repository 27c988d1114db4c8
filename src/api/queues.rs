//! The queues: what they hold, pausing and cleaning. Once for all of them together, and once for each.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;

use super::backlog::{SAMPLE, backlog, sample_of_each};
use super::body::Json;
use super::problem::ApiError;
use super::query::Segment;
use super::state::Api;
use crate::domain::{JobOptions, QueueLimit, QueueName};
use crate::queue::{CleanRequest, QueueErrorKind, QueueStanding, StateCounts, WorkerInfo};
use crate::wire::{CleanBody, Cleaned, FieldProblem, Listing, QueueView};

/// `GET /api/v1/queue`: how many jobs are in each state, and whether every queue is paused.
pub(super) async fn counts(State(api): State<Arc<Api>>) -> Result<axum::Json<StateCounts>, ApiError> {
    Ok(axum::Json(api.queue.counts().await?))
}

/// `POST /api/v1/queue:pause`: lets workers claim no more jobs.
pub(super) async fn pause_all(State(api): State<Arc<Api>>) -> Result<axum::Json<StateCounts>, ApiError> {
    set_paused(&api, None, true).await?;
    counts(State(api)).await
}

/// `POST /api/v1/queue:resume`: lets workers claim jobs again.
pub(super) async fn resume_all(State(api): State<Arc<Api>>) -> Result<axum::Json<StateCounts>, ApiError> {
    set_paused(&api, None, false).await?;
    counts(State(api)).await
}

/// `POST /api/v1/queue:clean`: removes ended jobs from all queues.
pub(super) async fn clean_all(
    State(api): State<Arc<Api>>,
    body: Json<CleanBody>,
) -> Result<axum::Json<Cleaned>, ApiError> {
    clean(&api, None, body.value).await
}

/// `GET /api/v1/queues`: the queues, by name.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<axum::Json<Listing<QueueView>>, ApiError> {
    let (queues, workers) = standings(&api).await?;
    let sample = sample_of_each(queues.len());
    let items = try_join_all(queues.into_iter().map(|view| with_backlog(&api, view, &workers, sample))).await?;
    Ok(axum::Json(Listing { items, next_cursor: None }))
}

/// `GET /api/v1/queues/{name}`.
pub(super) async fn show(State(api): State<Arc<Api>>, segment: Segment) -> Result<axum::Json<QueueView>, ApiError> {
    find(&api, &QueueName::parse(&segment.0)?).await.map(axum::Json)
}

/// `POST /api/v1/queues/{name}:pause`, `:resume`, `:limit` and `:clean`.
pub(super) async fn act(State(api): State<Arc<Api>>, segment: Segment, request: Request) -> Result<Response, ApiError> {
    let (name, verb) = segment.verb()?;
    let name = QueueName::parse(name)?;
    match verb {
        "pause" | "resume" => {
            set_paused(&api, Some(&name), verb == "pause").await?;
            Ok(axum::Json(find(&api, &name).await?).into_response())
        }
        "clean" => {
            let body = Json::from_request(request, &api).await?;
            Ok(clean(&api, Some(name), body.value).await?.into_response())
        }
        "limit" => {
            let limit: QueueLimit = Json::from_request(request, &api).await?.value;
            limit.check().map_err(|(pointer, detail)| {
                ApiError::invalid_fields("invalid_body", vec![FieldProblem { pointer: pointer.to_owned(), detail }])
            })?;
            api.operator.set_limit(&name, limit).await.map_err(|error| match error.kind {
                QueueErrorKind::Rejected => {
                    let problem = FieldProblem { pointer: "/fair".to_owned(), detail: error.to_string() };
                    ApiError::invalid_fields("invalid_body", vec![problem])
                }
                _ => error.into(),
            })?;
            tracing::info!(queue = %name, ?limit, "a queue was limited");
            Ok(axum::Json(find(&api, &name).await?).into_response())
        }
        _ => {
            let detail = format!("a queue can't be told to {verb:?}, only to pause, resume, limit or clean");
            Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_verb", detail))
        }
    }
}

/// The queues, without their backlogs, and the workers.
async fn standings(api: &Api) -> Result<(Vec<QueueView>, Vec<WorkerInfo>), ApiError> {
    let (queues, workers) = tokio::try_join!(api.queue.queues(), api.queue.workers())?;
    let default = &api.settings.default_queue;
    let view = |QueueStanding { name, counts, limit }| {
        let serving = workers.iter().filter(|worker| worker.serves(&name, default));
        let workers = serving.filter(|worker| worker.takes_jobs()).count();
        let workers = u64::try_from(workers).unwrap_or(u64::MAX);
        QueueView { is_default: name == *default, workers, name, counts, limit, backlog: None }
    };
    let views = queues.into_iter().map(view).collect();
    Ok((views, workers))
}

async fn find(api: &Api, name: &QueueName) -> Result<QueueView, ApiError> {
    let (views, workers) = standings(api).await?;
    let found = views.into_iter().find(|view| view.name == *name).ok_or_else(|| {
        let detail = format!("there is no queue {name}: it comes with its first job");
        ApiError::new(StatusCode::NOT_FOUND, "unknown_queue", detail)
    })?;
    with_backlog(api, found, &workers, SAMPLE).await
}

async fn with_backlog(
    api: &Api,
    view: QueueView,
    workers: &[WorkerInfo],
    sample: usize,
) -> Result<QueueView, ApiError> {
    let serves = |worker: &&WorkerInfo| worker.takes_jobs() && worker.serves(&view.name, &api.settings.default_queue);
    let serving: Vec<_> = workers.iter().filter(serves).collect();
    let backlog = backlog(api, &view.name, &view.counts, &serving, sample).await?;
    Ok(QueueView { backlog: Some(backlog), ..view })
}

async fn set_paused(api: &Api, queue: Option<&QueueName>, paused: bool) -> Result<(), ApiError> {
    api.operator.set_paused(queue, paused).await?;
    match queue {
        Some(queue) => tracing::info!(%queue, paused, "a queue was paused or resumed"),
        None => tracing::info!(paused, "all queues were paused or resumed"),
    }
    Ok(())
}

async fn clean(api: &Api, queue: Option<QueueName>, body: CleanBody) -> Result<axum::Json<Cleaned>, ApiError> {
    const MOST: usize = 100_000;
    let CleanBody { state, older_than_ms, limit } = body;
    let older_than = Duration::from_millis(older_than_ms);
    let wrong = |pointer: &str, detail: String| {
        ApiError::invalid_fields("invalid_body", vec![FieldProblem { pointer: pointer.to_owned(), detail }])
    };
    if !state.is_final() {
        return Err(wrong("/state", format!("must be completed or failed, not {state}")));
    }
    if older_than > JobOptions::MAX_DURATION {
        return Err(wrong("/older_than_ms", "must be at most ten years".to_owned()));
    }
    if !(1..=MOST).contains(&limit) {
        return Err(wrong("/limit", format!("must be 1 to {MOST}")));
    }
    let removed = api.operator.clean(CleanRequest { queue, state, older_than, limit }).await?;
    tracing::info!(%state, removed, "ended jobs were taken out of the queue");
    Ok(axum::Json(Cleaned { removed }))
}
