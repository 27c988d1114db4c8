//! Reads which jobs a request is about, from a query or a body, and makes the store's filter of it.

use crate::api::failures;
use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::outcome::signal_number;
use crate::domain::{GroupName, JobName, JobOptions, QueueName, Timestamp, WorkerId};
use crate::store::{ErrorChoice, JobFilter, Search};
use crate::wire::JobSelection;

/// The longest text to look for, in characters.
pub(in crate::api) const LONGEST_TEXT: usize = 500;
/// The longest time that a run can be asked about, in milliseconds: ten years.
pub(in crate::api) const LONGEST_RUN_MS: u64 = JobOptions::MAX_DURATION.as_secs() * 1000;
/// The largest number of a signal on Linux.
const LAST_SIGNAL: i32 = 64;

/// Takes the conditions on jobs out of a query. A signal may be given by name, too.
pub(in crate::api) fn selection(params: &mut Params) -> Result<JobSelection, ApiError> {
    let signal = |text: &str| signal_number(text).ok_or_else(|| format!("{text:?} is no signal"));
    Ok(JobSelection {
        state: params.list("state")?,
        name: params.with("name", JobName::parse)?,
        queue: params.with("queue", QueueName::parse)?,
        group: params.with("group", GroupName::parse)?,
        since: params.with("since", Timestamp::parse)?,
        until: params.with("until", Timestamp::parse)?,
        category: params.text("category")?,
        fingerprint: params.text("fingerprint")?,
        q: params.text("q")?,
        outcome: params.list("outcome")?,
        exit_code: params.number("exit_code", 0, 255)?.and_then(|n| u8::try_from(n).ok()),
        signal: params.with("signal", signal)?,
        worker: params.with("worker", WorkerId::parse)?,
        longer_than_ms: params.number("longer_than_ms", 0, LONGEST_RUN_MS)?,
        shorter_than_ms: params.number("shorter_than_ms", 0, LONGEST_RUN_MS)?,
    })
}

/// Makes the store's filter of a selection. It looks up the errors of a category or a fingerprint.
///
/// # Errors
/// 400 when a text is too long or a signal has no such number, 404 when there is no such category or error.
pub(in crate::api) async fn filter(api: &Api, selection: JobSelection) -> Result<JobFilter, ApiError> {
    let wrong = |problem: String| Err(ApiError::bad_request("invalid_query", problem));
    let text = selection.q.map(|q| q.trim().to_lowercase()).filter(|q| !q.is_empty());
    if text.as_ref().is_some_and(|text| text.chars().count() > LONGEST_TEXT) {
        return wrong(format!("q: must have at most {LONGEST_TEXT} characters"));
    }
    if selection.signal.is_some_and(|signal| !(1..=LAST_SIGNAL).contains(&signal)) {
        return wrong(format!("signal: must be 1 to {LAST_SIGNAL}"));
    }
    let (category, fingerprint) = (selection.category.as_deref(), selection.fingerprint.as_deref());
    let (errors, label) = match failures::chosen_errors(api, category, fingerprint).await? {
        None => (Vec::new(), None),
        Some(ErrorChoice::These(errors)) => (errors, None),
        Some(ErrorChoice::AllOf(label)) => (Vec::new(), Some(label)),
    };
    Ok(JobFilter {
        errors,
        label,
        states: selection.state,
        name: selection.name,
        group: selection.group,
        since: selection.since,
        until: selection.until,
        search: Search {
            text,
            outcomes: selection.outcome,
            exit_code: selection.exit_code,
            signal: selection.signal,
            worker: selection.worker,
            queue: selection.queue.map(|queue| api.settings.named(queue)),
            longer_than_ms: selection.longer_than_ms,
            shorter_than_ms: selection.shorter_than_ms,
        },
    })
}
