//! Builds of a binary: how each fares, which do worse, and what the newest ones brought.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::JobName;
use crate::stats::builds::{BuildHistory, BuildsReport, ErrorTexts, Regression};
use crate::store::{AttemptRecord, StoreError};
use crate::wire::failures::{NewFailures, NewFailuresReport, RegressionsReport};

/// `GET /api/v1/stats/builds?name=`: the builds of one name.
pub(in crate::api) async fn builds(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<Json<BuildsReport>, ApiError> {
    let name = params.with("name", JobName::parse)?;
    params.done()?;
    let Some(name) = name else {
        return Err(ApiError::bad_request("invalid_query", "name: say which binary's builds"));
    };
    let history = api.history.builds(Some(&name)).await?.pop().unwrap_or_else(|| BuildHistory::new(name));
    let texts = texts(&api, std::slice::from_ref(&history)).await?;
    Ok(Json(history.report(&texts)))
}

/// `GET /api/v1/stats/regressions`: builds that do worse than those before them.
pub(in crate::api) async fn regressions(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<Json<RegressionsReport>, ApiError> {
    let name = params.with("name", JobName::parse)?;
    params.done()?;
    Ok(Json(RegressionsReport { items: known_regressions(&api, name.as_ref()).await? }))
}

/// `GET /api/v1/failures/new`: errors that the newest build of each name brought.
pub(in crate::api) async fn new(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<Json<NewFailuresReport>, ApiError> {
    let name = params.with("name", JobName::parse)?;
    params.done()?;
    let histories = api.history.builds(name.as_ref()).await?;
    let texts = texts(&api, &histories).await?;
    let brought = |history: &BuildHistory| {
        let (build, failures) = history.new_failures(&texts).filter(|(_, failures)| !failures.is_empty())?;
        let attempts = build.total().ended();
        Some(NewFailures {
            name: history.name.clone(),
            build: build.digest.clone(),
            first_seen: build.first_seen,
            attempts,
            failures,
        })
    };
    Ok(Json(NewFailuresReport { items: histories.iter().filter_map(brought).collect() }))
}

/// The builds that do worse, of one name or all, those that were first seen last at the head.
pub(in crate::api) async fn known_regressions(
    api: &Api,
    name: Option<&JobName>,
) -> Result<Vec<Regression>, StoreError> {
    let mut histories = api.history.builds(name).await?;
    histories.retain(BuildHistory::has_regression);
    let texts = texts(api, &histories).await?;
    let mut regressions: Vec<_> = histories.iter().flat_map(|history| history.regressions(&texts)).collect();
    regressions.sort_by_key(|regression| std::cmp::Reverse(regression.first_seen));
    Ok(regressions)
}

/// What is known of the last build that these attempts of a job ran, if it does worse than those before it.
pub(in crate::api) async fn regression_of(
    api: &Api,
    name: &JobName,
    attempts: &[AttemptRecord],
) -> Result<Option<Regression>, StoreError> {
    let ran = |attempt: &AttemptRecord| match &attempt.report {
        Some(report) => report.build.as_ref().map(|build| build.digest.clone()),
        None => attempt.build.as_ref().map(|place| place.digest.clone()),
    };
    let Some(last) = attempts.iter().rev().find_map(ran) else { return Ok(None) };
    Ok(known_regressions(api, Some(name)).await?.into_iter().find(|regression| regression.build == last))
}

/// What the errors that these histories name have said.
async fn texts(api: &Api, histories: &[BuildHistory]) -> Result<ErrorTexts, StoreError> {
    let mut errors: Vec<_> = histories.iter().flat_map(BuildHistory::errors).collect();
    errors.sort_unstable();
    errors.dedup();
    if errors.is_empty() {
        return Ok(ErrorTexts::new());
    }
    super::texts(&*api.history, &errors).await
}
