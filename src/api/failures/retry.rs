//! Puts many failed jobs back, selected by why they failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;

use super::chosen_errors;
use crate::api::body::Json;
use crate::api::jobs;
use crate::api::problem::ApiError;
use crate::api::state::Api;
use crate::domain::{JobState, PageRequest};
use crate::store::JobFilter;
use crate::wire::failures::{RetriedFailed, RetryFailed};

/// The most jobs that one request puts back.
const MOST: usize = 10_000;
const USUAL: usize = 1000;

/// `POST /api/v1/jobs:retry`: puts the selected jobs back, or lists them with `dry_run`.
pub(in crate::api) async fn retry(
    State(api): State<Arc<Api>>,
    body: Json<RetryFailed>,
) -> Result<axum::Json<RetriedFailed>, ApiError> {
    let asked = body.value;
    if asked.category.is_none() && asked.fingerprint.is_none() {
        return Err(ApiError::bad_request("invalid_body", "say which: category, fingerprint, or both"));
    }
    let errors = chosen_errors(&api, asked.category.as_deref(), asked.fingerprint.as_deref()).await?;
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad_request("invalid_body", format!("limit: must be 1 to {MOST}")));
    }
    let filter = JobFilter {
        states: vec![JobState::Failed],
        name: asked.name,
        since: asked.since,
        until: asked.until,
        errors,
        ..JobFilter::default()
    };
    let dry_run = asked.dry_run;
    let shared = api.clone();
    let done = api.to_the_end(async move { put_back(&shared, &filter, limit, dry_run).await }).await?;
    tracing::info!(retried = done.retried.len(), skipped = done.skipped.len(), dry_run, "retried by error");
    Ok(axum::Json(done))
}

async fn put_back(api: &Api, filter: &JobFilter, limit: usize, dry_run: bool) -> Result<RetriedFailed, ApiError> {
    let mut done = RetriedFailed { retried: Vec::new(), skipped: BTreeMap::new(), more: false, dry_run };
    let mut page = PageRequest::first(limit);
    let mut left = limit;
    loop {
        let found = api.history.jobs(filter, page).await?;
        left -= found.items.len();
        for job in found.items {
            let retried = if dry_run { Ok(()) } else { jobs::put_back(api, &job.id).await };
            match retried {
                Ok(()) => done.retried.push(job.id),
                Err(error) => {
                    done.skipped.insert(job.id, error.detail().to_owned());
                }
            }
        }
        done.more = found.next.is_some();
        match found.next {
            Some(next) if left > 0 => page = PageRequest { cursor: Some(next), ..PageRequest::first(left) },
            _ => return Ok(done),
        }
    }
}
