//! Why jobs fail: failures by error, their categories, and statistics.

mod builds;
mod categories;
mod csv;
mod groups;
mod stats;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::problem::ApiError;
use super::query::Params;
use super::state::Api;
use crate::domain::{Category, Day, Fingerprint, JobName, QueueName, Timestamp};
use crate::stats::trend::last_days;
use crate::stats::{
    CategoryLine, CategorySums, Counts, DailyTrends, ErrorFacts, JobStats, KnownErrors, Label, StatShard,
};
use crate::store::{
    Categories, DayRange, ErrorChoice, ErrorOutline, ErrorRecord, ShardReader, StoreError, WantedErrors,
};
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
    /// Reads the aggregates of these jobs, as far as they were submitted on these days.
    async fn read<'a>(&'a self, api: &'a Api, days: DayRange) -> Result<SpanReader<'a>, StoreError> {
        Ok(SpanReader { shards: ShardReader::open(&*api.history, days, self.name.as_ref()).await?, jobs: self })
    }
}

/// Reads the aggregates of a span some at a time.
struct SpanReader<'a> {
    shards: ShardReader<'a>,
    jobs: &'a SpanJobs,
}

impl SpanReader<'_> {
    /// Leaves out the counts by error and by queue.
    fn without_parts(self) -> Self {
        // Those of a queue are such a part.
        if self.jobs.queue.is_some() { self } else { Self { shards: self.shards.without_parts(), ..self } }
    }

    /// The next aggregates; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<StatShard>>, StoreError> {
        let Some(shards) = self.shards.next().await? else { return Ok(None) };
        let Some(queue) = &self.jobs.queue else { return Ok(Some(shards)) };
        let shards = shards.into_iter().map(|shard| shard.of_queue(queue.as_ref()));
        Ok(Some(shards.filter(|shard| !shard.counts.is_zero()).collect()))
    }

    /// Takes every aggregate, one at a time.
    async fn each(mut self, mut take: impl FnMut(StatShard)) -> Result<(), StoreError> {
        while let Some(shards) = self.next().await? {
            shards.into_iter().for_each(&mut take);
        }
        Ok(())
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

    async fn read<'a>(&'a self, api: &'a Api) -> Result<SpanReader<'a>, StoreError> {
        self.jobs.read(api, self.days).await
    }
}

/// How many errors are looked up at once.
const AT_ONCE: usize = 500;
/// The most days of a trend.
const MOST_DAYS: u64 = 90;

/// The failures of the last `count` days, whatever days the rest of the answer is about, before anything is counted.
fn trends_of<K: Ord + Clone>(api: &Api, count: u16) -> (DailyTrends<K>, DayRange) {
    let trends = DailyTrends::new(last_days(api.clock.now().day(), count));
    let (from, to) = trends.span();
    (trends, DayRange { from, to })
}

/// Takes `trend`: the number of days.
fn trend_days(params: &mut Params) -> Result<Option<u16>, ApiError> {
    Ok(params.number("trend", 1, MOST_DAYS)?.and_then(|days| u16::try_from(days).ok()))
}

/// The errors that an aggregate names.
fn errors_of(shards: &[StatShard]) -> BTreeSet<Fingerprint> {
    shards.iter().flat_map(|shard| shard.counts.failures.keys().copied()).collect()
}

/// Counts failed attempts by error.
async fn failures_by_error(shards: SpanReader<'_>) -> Result<HashMap<Fingerprint, i64>, StoreError> {
    let mut counts = HashMap::new();
    let add = |shard: StatShard| {
        for (error, failed) in &shard.counts.failures {
            *counts.entry(*error).or_insert(0) += failed.attempts;
        }
    };
    shards.each(add).await?;
    Ok(counts)
}

/// The records of these errors, some at a time, without their vectors.
async fn records(
    api: &Api,
    errors: &[Fingerprint],
    mut take: impl FnMut(Fingerprint, Option<ErrorRecord>),
) -> Result<(), StoreError> {
    for part in errors.chunks(AT_ONCE) {
        let found = api.history.errors_without_vectors(part).await?;
        part.iter().zip(found).for_each(|(error, record)| take(*error, record));
    }
    Ok(())
}

/// What history knows of errors, looked up as they come.
struct ErrorLabels<'a> {
    api: &'a Api,
    categories: Categories,
    known: KnownErrors,
}

impl<'a> ErrorLabels<'a> {
    /// The most errors that are kept in mind: more than a day has that recur on the next one.
    const MOST_KEPT: usize = 10_000;

    async fn open(api: &'a Api) -> Result<ErrorLabels<'a>, StoreError> {
        let categories = api.history.categories().await?;
        let names = categories.categories.iter().map(|c| (c.id.clone(), c.name.clone())).collect();
        Ok(Self { api, categories, known: KnownErrors { errors: HashMap::new(), names } })
    }

    /// Looks these errors up, unless they are in mind. What it answers has all of them that are known.
    async fn know(&mut self, errors: &BTreeSet<Fingerprint>) -> Result<&KnownErrors, StoreError> {
        if self.known.errors.len() + errors.len() > Self::MOST_KEPT {
            self.known.errors.retain(|error, _| errors.contains(error));
        }
        let new: Vec<_> = errors.iter().filter(|error| !self.known.errors.contains_key(*error)).copied().collect();
        for part in new.chunks(AT_ONCE) {
            let found = self.api.history.outlines(part).await?;
            self.known.errors.extend(part.iter().zip(found).filter_map(|(error, outline)| {
                let ErrorOutline { first_seen, last_seen, category } = outline?;
                let label = self.categories.label_of(error, category.as_ref().map(Option::as_ref));
                Some((*error, ErrorFacts { label, first_seen, last_seen }))
            }));
        }
        Ok(&self.known)
    }
}

/// What the aggregates of these days say of each category.
pub(super) async fn failing_categories(api: &Api, days: DayRange) -> Result<Vec<CategoryLine>, StoreError> {
    let jobs = SpanJobs { name: None, queue: None };
    sum_categories(api, &mut jobs.read(api, days).await?, CategorySums::default(), |_| ()).await
}

/// Adds aggregates up by category. `also` takes each of them afterwards.
async fn sum_categories(
    api: &Api,
    shards: &mut SpanReader<'_>,
    mut sums: CategorySums,
    mut also: impl FnMut(StatShard),
) -> Result<Vec<CategoryLine>, StoreError> {
    let mut labels = ErrorLabels::open(api).await?;
    while let Some(part) = shards.next().await? {
        let known = labels.know(&errors_of(&part)).await?;
        part.iter().for_each(|shard| sums.add(shard, known));
        part.into_iter().for_each(&mut also);
    }
    Ok(sums.lines(&labels.known, &texts(api, &sums.examples()).await?))
}

/// What these errors say.
async fn texts(api: &Api, errors: &[Fingerprint]) -> Result<BTreeMap<Fingerprint, String>, StoreError> {
    let mut texts = BTreeMap::new();
    let take = |error, record: Option<ErrorRecord>| texts.extend(record.map(|record| (error, record.seen.text)));
    records(api, errors, take).await?;
    Ok(texts)
}

/// The statistics of all jobs together, with the original's names.
pub(super) async fn job_stats(api: &Api) -> Result<JobStats, StoreError> {
    let jobs = SpanJobs { name: None, queue: None };
    let mut counts = Counts::default();
    let mut shards = jobs.read(api, DayRange::default()).await?;
    let add = |shard: StatShard| counts.add(&shard.counts.without_parts());
    let lines = sum_categories(api, &mut shards, CategorySums::default(), add).await?;
    Ok(JobStats::of(&counts, lines))
}

/// The categories of these errors, as JSON names them.
pub(super) async fn labels(api: &Api, errors: &[Fingerprint]) -> Result<BTreeMap<Fingerprint, String>, StoreError> {
    if errors.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut labels = ErrorLabels::open(api).await?;
    let known = labels.know(&errors.iter().copied().collect()).await?;
    Ok(errors.iter().map(|error| (*error, known.label(error).as_str().to_owned())).collect())
}

/// The errors that a client selects: by category, by the first digits of a fingerprint, or by both; `None` when it gives
/// neither. If it gives either and no error matches, that is the client's mistake.
pub(super) async fn chosen_errors(
    api: &Api,
    category: Option<&str>,
    fingerprint: Option<&str>,
) -> Result<Option<ErrorChoice>, ApiError> {
    if category.is_none() && fingerprint.is_none() {
        return Ok(None);
    }
    let label = match category {
        Some(text) => Some(wanted_label(&api.history.categories().await?, text)?),
        None => None,
    };
    let wanted = WantedErrors { label, digits: fingerprint.map(str::to_ascii_lowercase) };
    let chosen = api.history.choose_errors(&wanted).await?;
    if chosen == ErrorChoice::These(Vec::new()) {
        let detail = match fingerprint {
            Some(digits) => format!("no attempt has failed with an error {digits:?}; see GET /api/v1/failures"),
            None => format!("no attempt has failed with an error of the category {:?}", category.unwrap_or_default()),
        };
        return Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, "unknown_error", detail));
    }
    if fingerprint.is_some_and(|digits| digits.len() < 4) {
        return Err(ApiError::bad_request("invalid_query", "fingerprint: give at least its first 4 digits"));
    }
    match (fingerprint, &chosen) {
        (Some(digits), ErrorChoice::These(found)) if found.len() > 1 => Err(ambiguous(digits, found)),
        _ => Ok(Some(chosen)),
    }
}

/// The refusal of digits with which several fingerprints begin: a request that means one error must not reach the jobs of another.
fn ambiguous(digits: &str, found: &[Fingerprint]) -> ApiError {
    const SHOWN: usize = 8;
    let length = digits.len() + 4;
    let shown = found.iter().take(SHOWN).map(|one| one.to_string().chars().take(length.max(12)).collect::<String>());
    let more = if found.len() > SHOWN { " and others" } else { "" };
    let shown = shown.collect::<Vec<_>>().join(", ");
    ApiError::bad_request(
        "invalid_query",
        format!("fingerprint: {digits} may be any of {shown}{more}: give more of its digits"),
    )
}

/// A category by id or name, `uncategorised` or `pending`.
fn wanted_label(categories: &Categories, text: &str) -> Result<Label, ApiError> {
    if let Some(label) = [Label::Uncategorised, Label::Pending].into_iter().find(|label| label.as_str() == text) {
        return Ok(label);
    }
    let is_it = |c: &&Category| c.id.as_str() == text || c.name.eq_ignore_ascii_case(text);
    categories.categories.iter().find(is_it).map(|found| Label::Category(found.id.clone())).ok_or_else(|| {
        let detail = format!("there is no category {text:?}; see GET /api/v1/categories");
        ApiError::new(axum::http::StatusCode::NOT_FOUND, "unknown_category", detail)
    })
}
