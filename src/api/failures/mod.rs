//! Why jobs fail: failures by error, their categories, and statistics.

mod builds;
mod categories;
mod csv;
mod groups;
mod stats;

use std::collections::{BTreeMap, BTreeSet};

use super::problem::ApiError;
use super::query::Params;
use super::state::Api;
use crate::domain::{Day, Fingerprint, JobName, QueueName, Timestamp};
use crate::stats::trend::last_days;
use crate::stats::{DailyTrends, ErrorFacts, KnownErrors, Label, StatShard};
use crate::store::{Categories, DayRange, ErrorRecord, StoreError};
pub(super) use builds::{builds, known_regressions, new, regression_of, regressions};
pub(super) use categories::{add, edit, list, measure, presets, remove, set_threshold, test};
pub(super) use groups::{groups, similar};
#[cfg(test)]
pub(super) use stats::STATISTICS;
pub(super) use stats::{stats, throughput};

/// The days, the job name and the queue that statistics are about.
struct Span {
    days: DayRange,
    jobs: SpanJobs,
}

/// The jobs that statistics are about, on any day.
struct SpanJobs {
    name: Option<JobName>,
    /// Only those of this queue: `Some(None)` is the default one.
    queue: Option<Option<QueueName>>,
}

impl SpanJobs {
    /// The aggregates of these jobs, as far as they were submitted on these days.
    async fn shards(&self, api: &Api, days: DayRange) -> Result<Vec<StatShard>, StoreError> {
        let shards = api.history.shards(days, self.name.as_ref()).await?;
        let Some(queue) = &self.queue else { return Ok(shards) };
        let shards = shards.into_iter().map(|shard| shard.of_queue(queue.as_ref()));
        Ok(shards.filter(|shard| !shard.counts.is_zero()).collect())
    }
}

impl Span {
    /// Takes `name`, `queue`, `since` and `until`. The last two are days or moments. Aggregates are by day of
    /// submission, so a `since` within a day includes all of that day, and an `until` excludes the day that
    /// it begins. An `until` within a day is refused, because it would have to count a part of that day.
    fn from_params(api: &Api, params: &mut Params) -> Result<Self, ApiError> {
        let moment = |text: &str| Day::parse(text).map(Day::start).or_else(|_| Timestamp::parse(text));
        let name = params.with("name", JobName::parse)?;
        let queue = params.with("queue", QueueName::parse)?.map(|queue| api.settings.named(queue));
        let from = params.with("since", moment)?.map(Timestamp::day);
        let boundary = |text: &str| {
            let until = moment(text).map_err(|error| error.to_string())?;
            if until == until.day().start() {
                return Ok(until);
            }
            Err(format!(
                "{text:?} lies within a day, and statistics are by day of submission (UTC): give a day such as {}",
                until.day()
            ))
        };
        let to = params.with("until", boundary)?.map(|until| (until - std::time::Duration::from_millis(1)).day());
        Ok(Self { days: DayRange { from, to }, jobs: SpanJobs { name, queue } })
    }

    async fn shards(&self, api: &Api) -> Result<Vec<StatShard>, StoreError> {
        self.jobs.shards(api, self.days).await
    }
}

/// The most days of a trend.
const MOST_DAYS: u64 = 90;

/// The last days, for which each group of failures has its count of each day.
struct LastDays {
    days: Vec<Day>,
    shards: Vec<StatShard>,
}

impl LastDays {
    /// Reads the aggregates of the last `count` days, whatever days the rest of the answer is about.
    async fn read(api: &Api, count: u16, jobs: &SpanJobs) -> Result<Self, StoreError> {
        let today = api.clock.now().day();
        let days = last_days(today, count);
        let range = DayRange { from: days.first().copied(), to: Some(today) };
        Ok(Self { days, shards: jobs.shards(api, range).await? })
    }

    /// Counts them by what `key` makes of an error.
    fn trends<K: Ord + Clone>(self, key: impl Fn(&Fingerprint) -> K) -> DailyTrends<K> {
        DailyTrends::of(self.days, &self.shards, key)
    }
}

/// Takes `trend`: the number of days.
fn trend_days(params: &mut Params) -> Result<Option<u16>, ApiError> {
    Ok(params.number("trend", 1, MOST_DAYS)?.and_then(|days| u16::try_from(days).ok()))
}

/// All errors that these aggregates name.
fn errors_of(shards: &[StatShard]) -> Vec<Fingerprint> {
    let all: BTreeSet<_> = shards.iter().flat_map(|shard| shard.counts.failures.keys().copied()).collect();
    all.into_iter().collect()
}

/// The records of errors in history, and the categories.
struct ErrorLabels {
    records: BTreeMap<Fingerprint, ErrorRecord>,
    categories: Categories,
}

impl ErrorLabels {
    async fn open(api: &Api, errors: &[Fingerprint]) -> Result<Self, StoreError> {
        const AT_ONCE: usize = 500;
        let mut records = BTreeMap::new();
        for part in errors.chunks(AT_ONCE) {
            let found = api.history.errors_without_vectors(part).await?;
            records.extend(found.into_iter().flatten().map(|record| (record.seen.fingerprint, record)));
        }
        Ok(Self { records, categories: api.history.categories().await? })
    }

    fn label(&self, record: &ErrorRecord) -> Label {
        if record.seen.fingerprint == Fingerprint::OTHER {
            return Label::Uncategorised;
        }
        match &record.knowledge {
            None => Label::Pending,
            // A category that was just removed no longer counts.
            Some(known) => match known.category.as_ref().filter(|id| self.categories.get(id).is_some()) {
                Some(id) => Label::Category(id.clone()),
                None => Label::Uncategorised,
            },
        }
    }

    fn known_errors(&self) -> KnownErrors {
        let facts = |record: &ErrorRecord| ErrorFacts {
            label: self.label(record),
            text: record.seen.text.clone(),
            first_seen: record.seen.first_seen,
            last_seen: record.seen.last_seen,
        };
        KnownErrors {
            errors: self.records.iter().map(|(fingerprint, record)| (*fingerprint, facts(record))).collect(),
            names: self.categories.categories.iter().map(|c| (c.id.clone(), c.name.clone())).collect(),
        }
    }
}

/// Looks up in history the errors that these aggregates name.
pub(super) async fn known_errors(api: &Api, shards: &[StatShard]) -> Result<KnownErrors, StoreError> {
    Ok(ErrorLabels::open(api, &errors_of(shards)).await?.known_errors())
}

/// The categories of these errors, as JSON names them.
pub(super) async fn labels(api: &Api, errors: &[Fingerprint]) -> Result<BTreeMap<Fingerprint, String>, StoreError> {
    if errors.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known_errors = ErrorLabels::open(api, errors).await?.known_errors();
    Ok(errors.iter().map(|error| (*error, known_errors.label(error).as_str().to_owned())).collect())
}

/// The errors that a client selects: by category, by the first digits of a fingerprint, or by both.
/// Empty when it gives neither. If it gives either and no error matches, that is the client's mistake.
pub(super) async fn chosen_errors(
    api: &Api,
    category: Option<&str>,
    fingerprint: Option<&str>,
) -> Result<Vec<Fingerprint>, ApiError> {
    if category.is_none() && fingerprint.is_none() {
        return Ok(Vec::new());
    }
    let shards = api.history.shards(DayRange::default(), None).await?;
    let known_errors = known_errors(api, &shards).await?;
    let label = category.map(|text| wanted_label(&known_errors, text)).transpose()?;
    let digits = fingerprint.map(str::to_ascii_lowercase);
    let mut chosen = errors_of(&shards);
    chosen.retain(|error| label.as_ref().is_none_or(|label| known_errors.label(error) == *label));
    chosen.retain(|error| digits.as_ref().is_none_or(|digits| error.to_string().starts_with(digits)));
    if chosen.is_empty() {
        let detail = match fingerprint {
            Some(digits) => format!("no attempt has failed with an error {digits:?}; see GET /api/v1/failures"),
            None => format!("no attempt has failed with an error of the category {:?}", category.unwrap_or_default()),
        };
        return Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, "unknown_error", detail));
    }
    if digits.is_some_and(|digits| digits.len() < 4) {
        return Err(ApiError::bad_request("invalid_query", "fingerprint: give at least its first 4 digits"));
    }
    Ok(chosen)
}

/// A category by id or name, `uncategorised` or `pending`.
fn wanted_label(known_errors: &KnownErrors, text: &str) -> Result<Label, ApiError> {
    if let Some(label) = [Label::Uncategorised, Label::Pending].into_iter().find(|label| label.as_str() == text) {
        return Ok(label);
    }
    let found = known_errors.names.iter().find(|(id, name)| id.as_str() == text || name.eq_ignore_ascii_case(text));
    found.map(|(id, _)| Label::Category(id.clone())).ok_or_else(|| {
        let detail = format!("there is no category {text:?}; see GET /api/v1/categories");
        ApiError::new(axum::http::StatusCode::NOT_FOUND, "unknown_category", detail)
    })
}
