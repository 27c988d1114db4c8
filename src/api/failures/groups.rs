//! Failures by error, and errors that are similar to a text.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::State;

use super::aggregates::Part;
use super::{Span, SpanJobs, Wanted, records, trend_days, trends_of, wanted_label};
use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::{Fingerprint, Timestamp};
use crate::stats::{Label, attempts_by_error};
use crate::store::{Categories, DayRange, ErrorRecord};
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
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut shards = span.aggregates(&api, Wanted::Times).await?;
    let categories = shards.categories().clone();
    let wanted = category.map(|text| wanted_label(&categories, &text)).transpose()?;
    let mut met = HashMap::new();
    while let Some(part) = shards.next().await? {
        add_errors(&mut met, &part, wanted.as_ref());
    }
    // Other answers need not wait for the rest of this one.
    drop(shards);
    met.retain(|error, _| digits.as_ref().is_none_or(|digits| error.to_string().starts_with(digits)));
    let total = met.len();
    let shown = most_frequent(met, limit);
    let errors: Vec<_> = shown.iter().map(|(error, _)| *error).collect();
    let (mut items, mut counts) = (Vec::with_capacity(errors.len()), shown.iter().map(|(_, met)| met.count));
    let take = |error, record: Option<ErrorRecord>| {
        let label = categories.label(&error, record.as_ref());
        items.extend(counts.next().map(|count| group(error, count, record.as_ref(), label, &categories)));
    };
    records(&*api.history, &errors, take).await?;
    if let Some(days) = days {
        let (mut trends, range) = trends_of(&api, days);
        let shown: HashSet<_> = errors.into_iter().collect();
        let mut shards = span.jobs.aggregates(&api, range, Wanted::Counts).await?;
        while let Some(part) = shards.next().await? {
            for shard in part.shards {
                for (error, attempts) in shard.failures() {
                    let error = part.known.fingerprint(error);
                    if shown.contains(&error) {
                        trends.add(error, shard.key.day, attempts);
                    }
                }
            }
        }
        items.iter_mut().for_each(|group| group.trend = Some(trends.get(&group.fingerprint)));
    }
    Ok(axum::Json(FailuresReport { items, total }))
}

/// How often attempts failed with an error.
#[derive(Default)]
struct Met {
    count: i64,
    last_seen: Option<Timestamp>,
}

/// Counts failed attempts by error, of one label or all.
fn add_errors(met: &mut HashMap<Fingerprint, Met>, part: &Part<'_>, wanted: Option<&Label>) {
    let Part { shards, known } = part;
    let is_wanted = |error| wanted.is_none_or(|wanted| known.labels()[known.label_of(error)] == *wanted);
    for (error, attempts) in attempts_by_error(shards, known) {
        if is_wanted(error) {
            let met = met.entry(known.fingerprint(error)).or_default();
            met.count += attempts;
            met.last_seen = known.seen(error).map(|(_, last)| last);
        }
    }
}

/// The most frequent errors, and of equally frequent ones those that were seen last.
fn most_frequent(met: HashMap<Fingerprint, Met>, limit: usize) -> Vec<(Fingerprint, Met)> {
    let mut met: Vec<_> = met.into_iter().collect();
    let place = |(error, met): &(Fingerprint, Met)| (Reverse(met.count), Reverse(met.last_seen), *error);
    if limit < met.len() {
        met.select_nth_unstable_by_key(limit, place);
        met.truncate(limit);
    }
    met.sort_unstable_by_key(place);
    met
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
    let mut counts: HashMap<_, i64> = near.iter().map(|near| (near.record.seen.fingerprint, 0)).collect();
    let mut shards = SpanJobs::ALL.aggregates(&api, DayRange::default(), Wanted::Counts).await?;
    while let Some(part) = shards.next().await? {
        for (error, attempts) in part.shards.iter().flat_map(|shard| shard.failures()) {
            if let Some(count) = counts.get_mut(&part.known.fingerprint(error)) {
                *count += attempts;
            }
        }
    }
    drop(shards);
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
