//! Failures by error, and errors that are similar to a text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;

use super::{Span, failures_by_error, records, trend_days, trends_of, wanted_label};
use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::Fingerprint;
use crate::stats::{Label, StatShard};
use crate::store::{Categories, DayRange, ErrorRecord, ShardReader};
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
    let categories = api.history.categories().await?;
    let wanted = category.map(|text| wanted_label(&categories, &text)).transpose()?;
    let counts = failures_by_error(span.read(&api).await?).await?;
    let mut errors: Vec<_> = counts.keys().copied().collect();
    errors.retain(|error| digits.as_ref().is_none_or(|digits| error.to_string().starts_with(digits)));
    errors.sort_unstable();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut items, mut total) = (Vec::new(), 0);
    let take = |error, record: Option<ErrorRecord>| {
        let label = categories.label(&error, record.as_ref());
        if wanted.as_ref().is_none_or(|wanted| *wanted == label) {
            total += 1;
            items.push(group(error, counts[&error], record.as_ref(), label, &categories));
        }
        // Those that will not be shown are not kept.
        if items.len() >= 2 * limit {
            keep_first(&mut items, limit);
        }
    };
    records(&api, &errors, take).await?;
    keep_first(&mut items, limit);
    if let Some(days) = days {
        let (mut trends, range) = trends_of(&api, days);
        let shown: BTreeSet<_> = items.iter().map(|group| group.fingerprint).collect();
        let add = |shard: StatShard| trends.add(&shard, |error| shown.get(error).copied());
        span.jobs.read(&api, range).await?.each(add).await?;
        items.iter_mut().for_each(|group| group.trend = Some(trends.get(&group.fingerprint)));
    }
    Ok(axum::Json(FailuresReport { items, total }))
}

/// Keeps the most frequent groups, and of equally frequent ones those that were seen last.
fn keep_first(items: &mut Vec<FailureGroup>, limit: usize) {
    items.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| b.last_seen.cmp(&a.last_seen)));
    items.truncate(limit);
}

fn group(
    fingerprint: Fingerprint,
    count: i64,
    record: Option<&ErrorRecord>,
    label: Label,
    categories: &Categories,
) -> FailureGroup {
    let category_name = match &label {
        Label::Category(id) => categories.get(id).map_or_else(|| id.to_string(), |category| category.name.clone()),
        other => other.as_str().to_owned(),
    };
    let seen = record.map(|record| &record.seen);
    FailureGroup {
        fingerprint,
        category: label.as_str().to_owned(),
        category_name,
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
    let mut counts: BTreeMap<_, i64> = near.iter().map(|near| (near.record.seen.fingerprint, 0)).collect();
    let add = |shard: StatShard| {
        for (error, count) in &mut counts {
            *count += shard.counts.failures.get(error).map_or(0, |failed| failed.attempts);
        }
    };
    ShardReader::open(&*api.history, DayRange::default(), None).await?.each(add).await?;
    let categories = api.history.categories().await?;
    let items: Vec<_> = near
        .iter()
        .map(|neighbour| {
            let (error, record) = (neighbour.record.seen.fingerprint, Some(&neighbour.record));
            let group = group(error, counts[&error], record, categories.label(&error, record), &categories);
            FailureGroup { similarity: Some(neighbour.similarity), ..group }
        })
        .collect();
    let total = items.len();
    Ok(axum::Json(FailuresReport { items, total }))
}
