//! Bodies about failures, their categories, and the statistics of both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ActedOnJobs;
use crate::domain::{BuildDigest, Category, CategoryId, Fingerprint, JobId, JobName, Timestamp};
pub use crate::stats::builds::BuildsReport;
use crate::stats::builds::{BuildFailure, Regression};
use crate::stats::{AttemptLine, BesideStats, CategoryLine, CostLine, DayCount, DurationLine, SizeLine, WorthIt};

/// `GET /api/v1/stats/attempts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptsReport {
    /// One row for each attempt number.
    pub items: Vec<AttemptLine>,
    /// Whether it is worth it to allow as many attempts as were asked about.
    pub worth: WorthIt,
    /// What is missing from the numbers, if it may mislead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caveat: Option<String>,
}

/// `GET /api/v1/stats/concurrency`.
pub type ConcurrencyReport = BesideStats;

/// `GET /api/v1/stats/categories`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CategoriesReport {
    /// By category, most failures first.
    pub items: Vec<CategoryLine>,
}

/// `GET /api/v1/stats/cost`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostReport {
    /// What failed attempts took, by job name and category.
    pub items: Vec<CostLine>,
    /// What jobs were given and what they used, by job name.
    pub sizes: Vec<SizeLine>,
}

/// `GET /api/v1/stats/durations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DurationsReport {
    /// By job name.
    pub items: Vec<DurationLine>,
}

/// `GET /api/v1/failures`: attempts that failed with the same error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailureGroup {
    /// The fingerprint of the error.
    pub fingerprint: Fingerprint,
    /// The category's id, `uncategorised` or `pending`.
    pub category: String,
    /// What people call it.
    pub category_name: String,
    /// Attempts.
    pub count: i64,
    /// What it says, of the first attempt that failed with it.
    pub text: String,
    /// When it was first seen; absent when it was counted and its document is gone
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Timestamp>,
    /// and when last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Binaries that failed with it.
    pub names: Vec<JobName>,
    /// The jobs that failed with it last, newest first.
    pub samples: Vec<JobId>,
    /// How near it is to its nearest category or, in `GET /api/v1/failures/similar`, to the text asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f32>,
    /// Failures on each of the last days, by the day (UTC) on which their jobs were submitted; only when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trend: Option<Vec<DayCount>>,
}

/// A list of failures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailuresReport {
    /// The groups.
    pub items: Vec<FailureGroup>,
    /// How many there are in all.
    pub total: usize,
}

/// `GET /api/v1/stats/regressions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegressionsReport {
    /// The builds, those that were first seen last at the head.
    pub items: Vec<Regression>,
}

/// `GET /api/v1/failures/new`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewFailuresReport {
    /// The binaries whose newest build brought errors, by name.
    pub items: Vec<NewFailures>,
}

/// Errors that the newest build of a binary brought: no build that is known before it has failed with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewFailures {
    /// The binary.
    pub name: JobName,
    /// Its newest build.
    pub build: BuildDigest,
    /// When the build's first attempt was started.
    pub first_seen: Timestamp,
    /// First attempts of this build that succeeded or failed.
    pub attempts: i64,
    /// The errors, most frequent first.
    pub failures: Vec<BuildFailure>,
}

/// The answer to `POST /api/v1/jobs:retry`: [`ActedOnJobs`] by its older name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RetriedFailed {
    /// Jobs that were put back, or would be.
    pub retried: Vec<JobId>,
    /// Jobs that could not be, and why.
    pub skipped: BTreeMap<JobId, String>,
    /// Whether there are more than the limit.
    pub more: bool,
    /// Give it back as `cursor` for the next batch; null after the last.
    pub next_cursor: Option<String>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

impl From<ActedOnJobs> for RetriedFailed {
    fn from(acted: ActedOnJobs) -> Self {
        let ActedOnJobs { done, skipped, more, next_cursor, dry_run } = acted;
        Self { retried: done, skipped, more, next_cursor, dry_run }
    }
}

/// `GET /api/v1/categories`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CategoryListing {
    /// All categories.
    pub items: Vec<CategoryView>,
    /// How near an error must be to its nearest category.
    pub threshold: f32,
    /// Whether the threshold comes from the configuration.
    pub threshold_is_configured: bool,
    /// Different errors that are near to none.
    pub uncategorised: usize,
    /// Different errors that the classifier has not worked out yet.
    pub pending: usize,
}

/// One category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CategoryView {
    /// The category itself.
    #[serde(flatten)]
    pub category: Category,
    /// Different errors in it.
    pub errors: usize,
}

/// `POST /api/v1/categories`. A preset gives what is not given; its examples come before those that are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCategory {
    /// One of the categories that come with Jobber, by any of its names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Made from the name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CategoryId>,
    /// For people; needed without a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Messages that belong to it.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// `GET /api/v1/categories:presets`: the categories that come with Jobber.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PresetListing {
    /// The presets.
    pub items: Vec<Preset>,
}

/// A category to choose, with other names that it goes by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Preset {
    /// The category that it makes.
    #[serde(flatten)]
    pub category: Category,
    /// Other names for the same.
    pub aliases: Vec<String>,
}

/// `PUT /api/v1/categories/{id}`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CategoryBody {
    /// May be absent, or the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CategoryId>,
    /// The name that people read.
    pub name: String,
    /// What belongs to it.
    #[serde(default)]
    pub description: String,
    /// Messages that belong to it.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// `POST /api/v1/categories:threshold`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ThresholdBody {
    /// -1 to 1; null leaves it to the configuration.
    pub threshold: Option<f32>,
}

/// The answer to a change of the categories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CategoryChanged {
    /// Which category; absent when it was the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CategoryId>,
    /// `added`, `edited`, `removed` or `set`.
    pub status: String,
    /// Its place in the event log.
    pub cursor: String,
    /// When it takes effect, in words.
    pub takes_effect: String,
}

/// `POST /api/v1/categories:test`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestBody {
    /// What an attempt might say.
    pub text: String,
}

/// Where a text belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tested {
    /// The category's id, or `uncategorised`.
    pub category: String,
    /// The nearest category, however far.
    pub nearest: Option<CategoryId>,
    /// How near that is.
    pub similarity: f32,
    /// How near it must be.
    pub threshold: f32,
    /// The fingerprint that an attempt with this text would have.
    pub fingerprint: Fingerprint,
    /// The text as it is told from others: what varies is masked.
    pub masked: String,
}

/// `POST /api/v1/categories:calibrate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrateBody {
    /// Messages of which it is known where they belong.
    pub labelled: Vec<LabelledText>,
}

/// A message of which it is known where it belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelledText {
    /// What it says.
    pub text: String,
    /// The id or the name of its category; absent, null or `none` when it belongs to none.
    #[serde(default)]
    pub category: Option<String>,
}
