//! Notices: what waits, what was given up, and tests of the targets.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::body::Json;
use super::problem::ApiError;
use super::query::Params;
use super::state::Api;
use crate::notices::{NoticeState, Notices, OutboxPage, OutboxQuery, OutboxRow, Sent, TestResult};
use crate::sqlite::SqliteError;
use crate::wire::{
    ChooseNotices, ChosenNotices, Listing, NoticeTargetView, NoticeTested, NoticeView, TestNotices, TestedNotices,
};

/// How many notices a page has, unless asked for another number, and at most.
const PAGE: (usize, u64) = (100, 1000);

/// `GET /api/v1/notices`: the dead letters, or what waits; the last that came first.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<axum::Json<Listing<NoticeView>>, ApiError> {
    let state = params.with("state", |text| match text {
        "dead" => Ok(NoticeState::Dead),
        "waiting" => Ok(NoticeState::Waiting),
        _ => Err(format!("{text:?} is neither dead nor waiting")),
    })?;
    let query = OutboxQuery {
        target: params.text("target")?,
        state: state.unwrap_or(NoticeState::Dead),
        before: params.with("cursor", |text| text.parse().map_err(|_| "is not one of this list"))?,
        limit: params.number("limit", 1, PAGE.1)?.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE.0),
    };
    params.done()?;
    let page = match &api.settings.notices {
        Some(notices) => notices.list(query).await.map_err(unavailable)?,
        None => OutboxPage { rows: Vec::new(), next: None },
    };
    let items = page.rows.into_iter().map(view).collect();
    Ok(axum::Json(Listing { items, next_cursor: page.next.map(|next| next.to_string()) }))
}

/// `GET /api/v1/notices/targets`: the targets, with how much waits for each.
pub(super) async fn targets(State(api): State<Arc<Api>>) -> Result<axum::Json<Listing<NoticeTargetView>>, ApiError> {
    let mut items: Vec<NoticeTargetView> = Vec::new();
    if let Some(notices) = &api.settings.notices {
        items.extend(notices.targets().map(|target| NoticeTargetView {
            name: target.name.clone(),
            to: target.destination.shown(),
            on: target.on.clone(),
            waiting: 0,
            oldest_waiting: None,
            dead: 0,
            configured: true,
        }));
        for counts in notices.counts().await.map_err(unavailable)? {
            let place = items.iter().position(|item| item.name == counts.target).unwrap_or_else(|| {
                items.push(NoticeTargetView {
                    name: counts.target.clone(),
                    to: String::new(),
                    on: Vec::new(),
                    waiting: 0,
                    oldest_waiting: None,
                    dead: 0,
                    configured: false,
                });
                items.len() - 1
            });
            let item = &mut items[place];
            (item.waiting, item.oldest_waiting, item.dead) = (counts.waiting, counts.oldest, counts.dead);
        }
    }
    Ok(axum::Json(Listing { items, next_cursor: None }))
}

/// `POST /api/v1/notices:retry`: lets dead letters be tried again.
pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    body: Json<ChooseNotices>,
) -> Result<axum::Json<ChosenNotices>, ApiError> {
    let (notices, chosen) = choose(&api, body.value)?;
    let ids = match notices {
        Some(notices) => notices.retry(&chosen.ids, chosen.target.as_deref()).await.map_err(unavailable)?,
        None => Vec::new(),
    };
    tracing::info!(count = ids.len(), "dead letters are tried again");
    Ok(axum::Json(done(&chosen, ids)))
}

/// `POST /api/v1/notices:drop`: forgets dead letters.
pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    body: Json<ChooseNotices>,
) -> Result<axum::Json<ChosenNotices>, ApiError> {
    let (notices, chosen) = choose(&api, body.value)?;
    let ids = match notices {
        Some(notices) => notices.forget(&chosen.ids, chosen.target.as_deref()).await.map_err(unavailable)?,
        None => Vec::new(),
    };
    tracing::info!(count = ids.len(), "dead letters were dropped");
    Ok(axum::Json(done(&chosen, ids)))
}

/// `POST /api/v1/notices:test`: sends a sample to a target, or to all.
pub(super) async fn test(
    State(api): State<Arc<Api>>,
    body: Json<TestNotices>,
) -> Result<axum::Json<TestedNotices>, ApiError> {
    let target = body.value.target;
    let items = match &api.settings.notices {
        Some(notices) => notices.test(target.as_deref()).await.into_iter().map(tested).collect(),
        None => Vec::new(),
    };
    if let (Some(target), true) = (target, items.is_empty()) {
        let detail = format!("the configuration has no [[notify]] of the name {target}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_target", detail));
    }
    Ok(axum::Json(TestedNotices { items }))
}

/// Checks that the body says which letters are meant.
fn choose(api: &Api, chosen: ChooseNotices) -> Result<(Option<&Notices>, ChooseNotices), ApiError> {
    if chosen.ids.is_empty() && chosen.target.is_none() && !chosen.all {
        let detail = "say which: give ids, a target, or all = true";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "empty_filter", detail));
    }
    Ok((api.settings.notices.as_deref(), chosen))
}

fn done(chosen: &ChooseNotices, ids: Vec<String>) -> ChosenNotices {
    let is_done: BTreeSet<&String> = ids.iter().collect();
    let skipped = chosen.ids.iter().filter(|id| !is_done.contains(id)).cloned().collect();
    ChosenNotices { count: ids.len() as u64, skipped, ids }
}

fn view(row: OutboxRow) -> NoticeView {
    let is_dead = row.state == NoticeState::Dead;
    NoticeView {
        id: row.notice.id.clone(),
        target: row.notice.target.clone(),
        event: row.notice.event,
        state: if is_dead { "dead" } else { "waiting" }.to_owned(),
        at: row.notice.at,
        since: row.since,
        next_at: (!is_dead).then_some(row.due_at),
        dead_at: is_dead.then_some(row.due_at),
        tries: row.tries,
        problem: row.problem,
        notice: row.notice,
    }
}

fn tested(result: TestResult) -> NoticeTested {
    let (word, detail) = match result.sent {
        Sent::Delivered { answer } => ("delivered", answer),
        Sent::Later { problem, .. } => ("failed", problem),
        Sent::Refused { problem } => ("refused", problem),
    };
    NoticeTested {
        target: result.target,
        id: result.id,
        result: word.to_owned(),
        detail,
        took_ms: u64::try_from(result.took.as_millis()).unwrap_or(u64::MAX),
    }
}

fn unavailable(error: SqliteError) -> ApiError {
    ApiError::unavailable("outbox_unavailable", &error)
}
