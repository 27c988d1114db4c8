//! Pages of jobs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::filter::{filter, selection};
use crate::api::failures;
use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::{JobId, PageRequest};
use crate::store::{JobCount, JobFilter, JobPage, JobSummary};
use crate::wire::{JobListing, LARGEST_PAGE};

/// How many jobs a page has unless the client says so.
const USUAL: usize = 50;
/// The most jobs that are counted.
const MOST_COUNTED: usize = 10_000;
/// The cursor of the page after a job that was found by its id: the list from its beginning, without that job.
const REST: &str = "rest";
/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `GET /api/v1/jobs`.
pub(in crate::api) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
    mut params: Params,
) -> Result<Response, ApiError> {
    let chosen = selection(&mut params)?;
    let limit =
        params.number("limit", 1, u64::from(LARGEST_PAGE))?.map_or(USUAL, |n| usize::try_from(n).unwrap_or(USUAL));
    let cursor = params.text("cursor")?;
    params.done()?;
    let asked_for = chosen.q.as_deref().and_then(|q| JobId::parse(q.trim()).ok());
    let filter = filter(&api, chosen).await?;
    let page = match (cursor, asked_for) {
        (None, Some(id)) => match found_at_once(&api, &filter, &id).await? {
            Some(job) => JobPage { items: vec![job], next: Some(REST.to_owned()), scanned: Some(1) },
            None => api.history.jobs(&filter, PageRequest { cursor: None, limit }).await?,
        },
        (cursor, asked_for) => {
            let cursor = cursor.filter(|cursor| asked_for.is_none() || cursor != REST);
            let mut page = api.history.jobs(&filter, PageRequest { cursor, limit }).await?;
            page.items.retain(|job| asked_for.as_ref() != Some(&job.id));
            page
        }
    };
    let link = page.next.as_deref().map(|cursor| next_link(&uri, cursor));
    let listing = JobListing { items: page.items, next_cursor: page.next, scanned: page.scanned };
    let mut response = axum::Json(listing).into_response();
    if let Some(link) = link.and_then(|l| l.parse().ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// The job whose id is the text of a search, if it meets the filter. It makes the first page alone, because the search
/// for the text in other jobs may have a long way to it. The pages after it leave it out.
async fn found_at_once(api: &Api, filter: &JobFilter, id: &JobId) -> Result<Option<JobSummary>, ApiError> {
    let Some(record) = api.history.job_without_result(id).await?.filter(|record| filter.takes(record)) else {
        return Ok(None);
    };
    if let Some(label) = &filter.label {
        let labels = failures::labels(api, record.errors().as_slice()).await?;
        if !labels.values().any(|its| its == label.as_str()) {
            return Ok(None);
        }
    }
    Ok(Some(record.summary()))
}

/// `GET /api/v1/jobs:count`.
pub(in crate::api) async fn count(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<axum::Json<JobCount>, ApiError> {
    let chosen = selection(&mut params)?;
    params.done()?;
    let filter = filter(&api, chosen).await?;
    Ok(axum::Json(api.history.count(&filter, MOST_COUNTED).await?))
}

/// The same list from `cursor` on, as RFC 8288 has it.
fn next_link(uri: &Uri, cursor: &str) -> String {
    let kept = uri.query().unwrap_or("").split('&').filter(|p| !p.is_empty() && !p.starts_with("cursor="));
    let cursor = format!("cursor={}", utf8_percent_encode(cursor, RESERVED));
    let query: Vec<_> = kept.chain([cursor.as_str()]).collect();
    format!("<{}?{}>; rel=\"next\"", uri.path(), query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_has_the_same_conditions() {
        let uri: Uri = "/api/v1/jobs?state=failed&cursor=old&limit=5".parse().unwrap();
        assert_eq!(next_link(&uri, "a+b"), "</api/v1/jobs?state=failed&limit=5&cursor=a%2Bb>; rel=\"next\"");
    }
}
