//! One job, now or when it has ended.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use crate::api::failures;
use crate::api::problem::ApiError;
use crate::api::query::{self, Params, Segment};
use crate::api::state::Api;
use crate::domain::JobId;
use crate::wire::JobView;

/// The longest wait, in seconds.
const LONGEST: u64 = 60;

/// `GET /api/v1/jobs/{id}`.
pub(in crate::api) async fn show(
    State(api): State<Arc<Api>>,
    segment: Segment,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let id = JobId::parse(&segment.0)?;
    let preferred = preferred_wait(&headers)?;
    let asked = params.number("wait", 0, 86_400)?;
    params.done()?;
    let wait = asked.or(preferred).unwrap_or(0).min(LONGEST);
    let mut view = if wait == 0 { as_it_is(&api, &id).await? } else { wait_for_end(&api, &id, wait).await? };
    view.id = id;
    let errors: Vec<_> = view.attempts.iter().filter_map(|attempt| attempt.fingerprint).collect();
    match failures::labels(&api, &errors).await {
        Ok(labels) => view.categories = labels,
        Err(error) => {
            view.incomplete.get_or_insert(format!("history can't be asked ({error}): categories are missing"));
        }
    }
    // Without history nothing is known of builds, and the view says already that it is away.
    view.regression = failures::regression_of(&api, &view.name, &view.attempts).await.unwrap_or_default();
    let mut response = axum::Json(view).into_response();
    if asked.is_none() && preferred.is_some() {
        const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
        if let Ok(value) = HeaderValue::from_str(&format!("wait={wait}")) {
            response.headers_mut().insert(APPLIED, value);
        }
    }
    Ok(response)
}

/// The seconds in `Prefer: wait=N` (RFC 7240). The RFC demands that unknown preferences are ignored.
fn preferred_wait(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(text) = query::header(headers, "prefer")? else { return Ok(None) };
    let mut words = text.split([',', ';']).filter_map(|p| p.split_once('='));
    let Some((_, value)) = words.find(|(name, _)| name.trim().eq_ignore_ascii_case("wait")) else { return Ok(None) };
    match value.trim().trim_matches('"').parse() {
        Ok(seconds) => Ok(Some(seconds)),
        Err(_) => Err(ApiError::bad_request("invalid_header", "Prefer: wait=N takes a whole number of seconds")),
    }
}

/// The job as it is now. If it has just ended, waits for history to know the end, because a client
/// that saw or caused the end asks for that next.
async fn as_it_is(api: &Api, id: &JobId) -> Result<JobView, ApiError> {
    /// History is a few milliseconds late, unless it stands still.
    const MOMENT: Duration = Duration::from_secs(1);
    let snapshot = api.snapshot(id).await?;
    if snapshot.settled || snapshot.view.incomplete.is_some() || !snapshot.view.state.is_final() {
        return Ok(snapshot.view);
    }
    // The view so far is better than an error.
    Ok(catch_up(api, &snapshot.pinned(), Instant::now() + MOMENT).await.unwrap_or(snapshot.view))
}

/// Returns when the job has ended and history knows how, when `wait` seconds have passed, or when the server stops.
async fn wait_for_end(api: &Api, id: &JobId, wait: u64) -> Result<JobView, ApiError> {
    /// After news the queue may lag behind history for a moment; without news it is looked at now and then, in case
    /// the log can't be reached.
    const FIRST: Duration = Duration::from_millis(10);
    const RARELY: Duration = Duration::from_secs(2);
    /// How long the end of a job waits for history to be back and tell all of it.
    const ABSENCE: Duration = Duration::from_secs(5);
    let mut ended_at = None;
    let deadline = Instant::now() + Duration::from_secs(wait);
    let mut pause = FIRST;
    let first = api.snapshot(id).await?;
    if first.settled {
        return Ok(first.view);
    }
    let (id, own_id) = (first.pinned(), first.own_id.clone());
    // The client's job is not held in memory while the request waits.
    drop(first);
    let mut watch = api.feed.watch(&own_id).await;
    loop {
        let snapshot = api.brief_snapshot(&id).await?;
        if snapshot.settled || api.stopping.is_cancelled() || Instant::now() >= deadline {
            break;
        }
        if snapshot.view.state.is_final() {
            if snapshot.view.incomplete.is_none() {
                return catch_up(api, &id, deadline).await;
            }
            if ended_at.get_or_insert_with(Instant::now).elapsed() >= ABSENCE {
                break;
            }
        }
        tokio::select! {
            () = api.stopping.cancelled() => break,
            () = tokio::time::sleep_until(deadline) => break,
            news = watch.changed() => {
                api.folded(news, deadline.min(Instant::now() + RARELY)).await;
                pause = FIRST;
            }
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RARELY),
        }
    }
    Ok(api.snapshot(&id).await?.view)
}

/// Waits for history when the queue has the job as ended. The end was recorded before, so history
/// knows it once it has come that far. If it then does not, no part ever recorded it.
async fn catch_up(api: &Api, id: &JobId, deadline: Instant) -> Result<JobView, ApiError> {
    let written = api.source.span().await?.last;
    api.folded(written, deadline).await;
    Ok(api.snapshot(id).await?.view)
}

impl Api {
    /// Returns when history has been folded through `cursor`, at `deadline`, or when the server stops.
    pub(in crate::api) async fn folded(&self, cursor: crate::events::Cursor, deadline: Instant) {
        tokio::select! {
            () = self.feed.folded(cursor, deadline) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preference_is_found_among_others() {
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(text));
            preferred_wait(&headers).map_err(|e| e.status.as_u16())
        };
        assert_eq!(wait("respond-async, wait=10"), Ok(Some(10)));
        assert_eq!(wait("Wait=\"7\""), Ok(Some(7)));
        assert_eq!(wait("respond-async"), Ok(None));
        assert_eq!(wait("wait=soon"), Err(400));
    }
}
