//! Why jobs fail: failures by error, their categories, and statistics.

mod aggregates;
mod builds;
mod categories;
mod csv;
mod groups;
mod stats;

use std::collections::BTreeMap;

use super::problem::ApiError;
use super::query::Params;
use super::state::Api;
use crate::domain::{Category, Day, Fingerprint, JobName, QueueName, Timestamp};
use crate::stats::trend::last_days;
use crate::stats::{
    CategoryLine, CategorySums, Counts, DailyTrends, JobStats, KnownErrors, Label, SlimShard, StatShard,
};
use crate::store::{Categories, DayRange, ErrorChoice, ErrorRecord, History, ShardReader, StoreError, WantedErrors};
pub(super) use aggregates::KeptAggregates;
use aggregates::{AggregateReader, Wanted, look_up};
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
    /// All jobs.
    const ALL: Self = Self { name: None, queue: None };

    /// Reads the aggregates of these jobs, as far as they were submitted on these days.
    async fn read<'a>(&'a self, history: &'a dyn History, days: DayRange) -> Result<SpanReader<'a>, StoreError> {
        Ok(SpanReader { shards: ShardReader::open(history, days, self.name.as_ref()).await?, jobs: self })
    }

    /// The same with what is known of their errors.
    async fn aggregates<'a>(
        &'a self,
        api: &'a Api,
        days: DayRange,
        wanted: Wanted,
    ) -> Result<AggregateReader<'a>, StoreError> {
        AggregateReader::open(&*api.history, &api.kept_aggregates, self, days, wanted).await
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

    async fn aggregates<'a>(&'a self, api: &'a Api, wanted: Wanted) -> Result<AggregateReader<'a>, StoreError> {
        self.jobs.aggregates(api, self.days, wanted).await
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

/// The records of these errors, some at a time, without their vectors.
async fn records(
    history: &dyn History,
    errors: &[Fingerprint],
    mut take: impl FnMut(Fingerprint, Option<ErrorRecord>),
) -> Result<(), StoreError> {
    for part in errors.chunks(AT_ONCE) {
        let found = history.errors_without_vectors(part).await?;
        part.iter().zip(found).for_each(|(error, record)| take(*error, record));
    }
    Ok(())
}

/// What the aggregates of these days say of each category.
pub(super) async fn failing_categories(api: &Api, days: DayRange) -> Result<Vec<CategoryLine>, StoreError> {
    let shards = SpanJobs::ALL.aggregates(api, days, Wanted::Labels).await?;
    sum_categories(shards, CategorySums::default(), |_| ()).await
}

/// Adds aggregates up by category. `also` takes each of them, too.
async fn sum_categories(
    mut shards: AggregateReader<'_>,
    mut sums: CategorySums,
    mut also: impl FnMut(&SlimShard),
) -> Result<Vec<CategoryLine>, StoreError> {
    while let Some(part) = shards.next().await? {
        sums.add(&part.shards, part.known);
        part.shards.into_iter().for_each(&mut also);
    }
    let (history, names) = (shards.history(), shards.categories().names());
    // Other answers need not wait for the texts.
    drop(shards);
    Ok(sums.lines(&names, &texts(history, &sums.examples()).await?))
}

/// What these errors say.
async fn texts(history: &dyn History, errors: &[Fingerprint]) -> Result<BTreeMap<Fingerprint, String>, StoreError> {
    let mut texts = BTreeMap::new();
    let take = |error, record: Option<ErrorRecord>| texts.extend(record.map(|record| (error, record.seen.text)));
    records(history, errors, take).await?;
    Ok(texts)
}

/// The statistics of all jobs together, with the original's names.
pub(super) async fn job_stats(api: &Api) -> Result<JobStats, StoreError> {
    let mut counts = Counts::default();
    let shards = SpanJobs::ALL.aggregates(api, DayRange::default(), Wanted::Labels).await?;
    let lines = sum_categories(shards, CategorySums::default(), |shard| counts.add(&shard.counts)).await?;
    Ok(JobStats::of(&counts, lines))
}

/// The categories of these errors, as JSON names them.
pub(super) async fn labels(api: &Api, errors: &[Fingerprint]) -> Result<BTreeMap<Fingerprint, String>, StoreError> {
    if errors.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut known = KnownErrors::default();
    look_up(&*api.history, &api.history.categories().await?, &mut known, errors.to_vec()).await?;
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
