//! Failures by error, and errors that are similar to a text.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;

use super::{ErrorLabels, LastDays, Span, errors_of, trend_days, wanted_label};
use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::Fingerprint;
use crate::stats::KnownErrors;
use crate::store::ErrorRecord;
use crate::wire::failures::{FailureGroup, FailuresReport};

/// The most groups in one answer.
const MOST: u64 = 1000;
const USUAL: u64 = 100;
/// The longest text for which similar errors are looked up, in characters.
pub(in crate::api) const LONGEST_TEXT: usize = 4096;

/// `GET /api/v1/failures`: failed attempts by error, the most frequent first.
pub(in crate::api) async fn groups(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<axum::Json<FailuresReport>, ApiError> {
    let span = Span::from_params(&api, &mut params)?;
    let days = trend_days(&mut params)?;
    let category = params.text("category")?;
    let digits = params.with("fingerprint", first_digits)?;
    let limit = params.number("limit", 1, MOST)?.unwrap_or(USUAL);
    params.done()?;
    let shards = span.shards(&api).await?;
    let labels = ErrorLabels::open(&api, &errors_of(&shards)).await?;
    let known_errors = labels.known_errors();
    let wanted = category.map(|text| wanted_label(&known_errors, &text)).transpose()?;
    let mut counts: BTreeMap<Fingerprint, i64> = BTreeMap::new();
    for (error, failed) in shards.iter().flat_map(|shard| &shard.counts.failures) {
        *counts.entry(*error).or_insert(0) += failed.attempts;
    }
    let mut items: Vec<FailureGroup> = counts
        .into_iter()
        .filter(|(error, _)| wanted.as_ref().is_none_or(|label| known_errors.label(error) == *label))
        .filter(|(error, _)| digits.as_ref().is_none_or(|digits| error.to_string().starts_with(digits)))
        .map(|(error, count)| group(error, count, labels.records.get(&error), &known_errors))
        .collect();
    items.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| b.last_seen.cmp(&a.last_seen)));
    let total = items.len();
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if let Some(days) = days {
        let trends = LastDays::read(&api, days, &span.jobs).await?.trends(|error| *error);
        items.iter_mut().for_each(|group| group.trend = Some(trends.get(&group.fingerprint)));
    }
    Ok(axum::Json(FailuresReport { items, total }))
}

fn group(
    fingerprint: Fingerprint,
    count: i64,
    record: Option<&ErrorRecord>,
    known_errors: &KnownErrors,
) -> FailureGroup {
    let label = known_errors.label(&fingerprint);
    let seen = record.map(|record| &record.seen);
    FailureGroup {
        fingerprint,
        category: label.as_str().to_owned(),
        category_name: known_errors.name(&label),
        count,
        text: seen.map(|seen| seen.text.clone()).unwrap_or_default(),
        first_seen: seen.map(|seen| seen.first_seen),
        last_seen: seen.map(|seen| seen.last_seen),
        names: seen.map(|seen| seen.names.iter().cloned().collect()).unwrap_or_default(),
        samples: seen.map(|seen| seen.samples.iter().map(|s| s.job.clone()).collect()).unwrap_or_default(),
        similarity: record.and_then(|record| record.knowledge.as_ref()).map(|known| known.similarity),
        trend: None,
    }
}

/// Reads the first digits of a fingerprint.
fn first_digits(text: &str) -> Result<String, &'static str> {
    let is_some = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_some { Ok(text.to_ascii_lowercase()) } else { Err("must be 1 to 64 hexadecimal digits") }
}

/// `GET /api/v1/failures/similar?text=`: known errors, the nearest first.
pub(in crate::api) async fn similar(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<axum::Json<FailuresReport>, ApiError> {
    let text = params.text("text")?.filter(|text| !text.trim().is_empty());
    let limit = params.number("limit", 1, 100)?.unwrap_or(10);
    params.done()?;
    if text.as_ref().is_some_and(|text| text.chars().count() > LONGEST_TEXT) {
        let detail = format!("text: must have at most {LONGEST_TEXT} characters");
        return Err(ApiError::bad_request("invalid_query", detail));
    }
    let Some(text) = text else { return Err(ApiError::bad_request("invalid_query", "text: say what to look for")) };
    let preview = &api.settings.category_preview;
    let vector = preview.vector(&text).await?;
    let limit = usize::try_from(limit).unwrap_or(10);
    let near = api.history.similar_errors(&vector, preview.model(), limit).await?;
    let errors: Vec<_> = near.iter().map(|n| n.record.seen.fingerprint).collect();
    let known_errors = ErrorLabels::open(&api, &errors).await?.known_errors();
    let shards = api.history.shards(crate::store::DayRange::default(), None).await?;
    let count = |error: &Fingerprint| {
        shards.iter().filter_map(|shard| shard.counts.failures.get(error)).map(|failed| failed.attempts).sum()
    };
    let items: Vec<_> = near
        .iter()
        .map(|neighbour| {
            let error = neighbour.record.seen.fingerprint;
            let group = group(error, count(&error), Some(&neighbour.record), &known_errors);
            FailureGroup { similarity: Some(neighbour.similarity), ..group }
        })
        .collect();
    let total = items.len();
    Ok(axum::Json(FailuresReport { items, total }))
}
