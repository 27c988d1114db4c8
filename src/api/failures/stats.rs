//! `GET /api/v1/stats/{what}`: as JSON or, with `Accept: text/csv` or `?format=csv`, as CSV lines.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::csv::csv;
use super::{Span, Wanted, sum_categories, trend_days, trends_of};
use crate::api::problem::ApiError;
use crate::api::query::{self, Params, Segment};
use crate::api::state::Api;
use crate::api::throughput::MOST_MINUTES;
use crate::domain::JobOptions;
use crate::stats::{CategorySums, CostSums, DailyTrends, NameSums, Trend, co_running, sizing, survival};
use crate::store::StoreError;
use crate::wire::failures::{AttemptsReport, CategoriesReport, CostReport, DurationsReport};

/// The statistics that there are: the last part of the path.
pub(in crate::api) const STATISTICS: [&str; 5] = ["attempts", "concurrency", "categories", "cost", "durations"];

/// `GET /api/v1/stats/{attempts,concurrency,categories,cost,durations}`.
pub(in crate::api) async fn stats(
    State(api): State<Arc<Api>>,
    segment: Segment,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let what = segment.0.as_str();
    let span = Span::from_params(&api, &mut params)?;
    let form = Form::from_request(&headers, &mut params)?;
    let asked = if what == "attempts" { params.number("attempts", 1, JobOptions::MAX_ATTEMPTS.into())? } else { None };
    let days = if what == "categories" { trend_days(&mut params)? } else { None };
    params.done()?;
    if !STATISTICS.contains(&what) {
        let detail = format!(
            "there are no statistics of {what:?}, but of attempts, concurrency, categories, cost, durations, throughput, builds \
             and regressions"
        );
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", detail));
    }
    let mut names = NameSums::default();
    if what == "categories" {
        let shards = span.aggregates(&api, Wanted::Times).await?;
        let mut items = sum_categories(shards, CategorySums::with_examples(), |_| ()).await?;
        if let Some(days) = days {
            let trends = category_trends(&api, days, &span).await?;
            items.iter_mut().for_each(|line| line.trend = Trend::Daily(trends.get(&line.category)));
        }
        return form.answer(&items.clone(), CategoriesReport { items });
    }
    if what == "cost" {
        let (mut sums, mut shards) = (CostSums::default(), span.aggregates(&api, Wanted::Labels).await?);
        while let Some(part) = shards.next().await? {
            for shard in part.shards {
                sums.add(shard, part.known);
                names.add_slim(shard);
            }
        }
        let items = sums.lines(&names.0);
        return form.answer(&items.clone(), CostReport { items, sizes: sizing::sizes(&names.0) });
    }
    let mut shards = span.aggregates(&api, Wanted::Totals).await?;
    while let Some(part) = shards.next().await? {
        part.shards.into_iter().for_each(|shard| names.add_slim(shard));
    }
    drop(shards);
    let names = names.0;
    match what {
        "attempts" => {
            let items = survival::attempts(&names);
            let asked = asked.and_then(|n| u32::try_from(n).ok()).unwrap_or(5);
            let worth = survival::is_worth(&items, asked);
            form.answer(&items.clone(), AttemptsReport { items, worth, caveat: survival::caveat(&names) })
        }
        "concurrency" => {
            let report = co_running::beside(&names);
            form.answer(&report.levels.clone(), report)
        }
        _ => {
            let items = sizing::durations(&names);
            form.answer(&items.clone(), DurationsReport { items })
        }
    }
}

/// Failures of each of the last days by category.
async fn category_trends(api: &Api, days: u16, span: &Span) -> Result<DailyTrends<String>, StoreError> {
    let (mut trends, range) = trends_of(api, days);
    let mut shards = span.jobs.aggregates(api, range, Wanted::Labels).await?;
    while let Some(part) = shards.next().await? {
        for shard in part.shards {
            for (label, failed) in shard.failures_by_label(part.known) {
                trends.add(label.as_str().to_owned(), shard.key.day, failed.attempts);
            }
        }
    }
    Ok(trends)
}

/// `GET /api/v1/stats/throughput`: what happened in each of the last minutes.
pub(in crate::api) async fn throughput(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    const USUAL: u64 = 60;
    let minutes = params.number("minutes", 1, MOST_MINUTES)?.unwrap_or(USUAL);
    let form = Form::from_request(&headers, &mut params)?;
    params.done()?;
    api.throughput.ask().await;
    let report = api.throughput.report(minutes, api.clock.now());
    form.answer(&report.items.clone(), report)
}

/// The format of the answer.
enum Form {
    Json,
    Csv,
}

impl Form {
    fn from_request(headers: &HeaderMap, params: &mut Params) -> Result<Self, ApiError> {
        let asked = params.with("format", |text| match text {
            "json" => Ok(Form::Json),
            "csv" => Ok(Form::Csv),
            other => Err(format!("{other:?} is neither json nor csv")),
        })?;
        let accepted = query::header(headers, "accept")?.unwrap_or_default();
        let wants_csv = accepted.contains("text/csv") && !accepted.contains("application/json");
        Ok(asked.unwrap_or(if wants_csv { Form::Csv } else { Form::Json }))
    }

    fn answer<R: Serialize>(&self, rows: &[R], report: impl Serialize) -> Result<Response, ApiError> {
        match self {
            Form::Json => Ok(axum::Json(report).into_response()),
            Form::Csv => {
                let text = csv(rows).map_err(|e| ApiError::internal(e.to_string()))?;
                Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
            }
        }
    }
}
