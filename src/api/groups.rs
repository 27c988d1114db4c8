//! Groups of jobs: how far they are, and what their jobs gave back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::Instant;

use super::caller::Caller;
use super::problem::ApiError;
use super::query::{Params, Segment};
use super::state::Api;
use crate::domain::{GroupName, Page, PageRequest};
use crate::store::{JobRecord, StoreError};
use crate::wire::{GroupResult, GroupView};

/// How long an answer waits for history to know what had happened before the request.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Jobs whose results are in memory at once.
const PAGE: usize = 100;

/// `GET /api/v1/groups/{group}`.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    segment: Segment,
    params: Params,
) -> Result<axum::Json<GroupView>, ApiError> {
    let group = GroupName::parse(&segment.0)?;
    params.done()?;
    let behind = !caught_up(&api).await?;
    let tally = api.history.group(&group).await?;
    let view = GroupView::of(group, &tally, behind);
    // What is not known yet may be on its way.
    if view.total == 0 && !behind {
        return Err(unknown(&view.group));
    }
    Ok(axum::Json(view))
}

/// `GET /api/v1/groups/{group}/results`: each job of the group as a line of JSON, in the order of their indices. An answer
/// that could not be completed breaks off.
pub(super) async fn results(
    State(api): State<Arc<Api>>,
    caller: Caller,
    segment: Segment,
    params: Params,
) -> Result<Response, ApiError> {
    let group = GroupName::parse(&segment.0)?;
    params.done()?;
    let is_current = caught_up(&api).await?;
    let first = page(&api, &group, None).await?;
    if first.items.is_empty() && first.next.is_none() && is_current {
        return Err(unknown(&group));
    }
    let pages = stream::try_unfold(Some(first), move |page| {
        let (api, group) = (api.clone(), group.clone());
        async move {
            let Some(Page { items, next }) = page else { return Ok::<_, io::Error>(None) };
            let text = lines(items, caller.hides_data);
            let next = match next {
                Some(_) if api.stopping.is_cancelled() => return Err(io::Error::other("the server stops")),
                Some(cursor) => Some(self::page(&api, &group, Some(cursor)).await.map_err(io::Error::other)?),
                None => None,
            };
            Ok(Some((text, next)))
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(pages)).into_response())
}

async fn page(api: &Api, group: &GroupName, cursor: Option<String>) -> Result<Page<JobRecord>, StoreError> {
    api.history.group_jobs(group, PageRequest { cursor, limit: PAGE }).await
}

fn lines(records: Vec<JobRecord>, hides_data: bool) -> Bytes {
    let mut text = Vec::new();
    for record in records {
        let mut line = GroupResult::from(record);
        if hides_data {
            line.result = None;
        }
        serde_json::to_writer(&mut text, &line).expect("a line has only text keys and finite numbers");
        text.push(b'\n');
    }
    text.into()
}

fn unknown(group: &GroupName) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "unknown_group", format!("there is no job of the group {group}"))
}

/// Waits a moment for history to know what has happened so far; answers whether it does.
async fn caught_up(api: &Api) -> Result<bool, ApiError> {
    // If the log can't be asked, history is taken as it is.
    let Ok(span) = api.source.span().await else { return Ok(false) };
    api.folded(span.last, Instant::now() + CATCH_UP).await;
    Ok(api.history.cursor().await? >= span.last)
}
