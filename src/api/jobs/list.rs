//! Pages of jobs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::api::failures;
use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::{JobName, PageRequest, Timestamp};
use crate::store::JobFilter;
use crate::wire::{LARGEST_PAGE, Listing};

/// How many jobs a page has unless the client says so.
const USUAL: usize = 50;
/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `GET /api/v1/jobs`.
pub(in crate::api) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
    mut params: Params,
) -> Result<Response, ApiError> {
    let mut filter = JobFilter {
        states: params.list("state")?,
        name: params.with("name", JobName::parse)?,
        since: params.with("since", Timestamp::parse)?,
        until: params.with("until", Timestamp::parse)?,
        errors: Vec::new(),
    };
    let limit =
        params.number("limit", 1, u64::from(LARGEST_PAGE))?.map_or(USUAL, |n| usize::try_from(n).unwrap_or(USUAL));
    let cursor = params.text("cursor")?;
    let (category, fingerprint) = (params.text("category")?, params.text("fingerprint")?);
    params.done()?;
    filter.errors = failures::chosen_errors(&api, category.as_deref(), fingerprint.as_deref()).await?;
    let page = api.history.jobs(&filter, PageRequest { cursor, limit }).await?;
    let link = page.next.as_deref().map(|cursor| next_link(&uri, cursor));
    let mut response = axum::Json(Listing { items: page.items, next_cursor: page.next }).into_response();
    if let Some(link) = link.and_then(|l| l.parse().ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
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
