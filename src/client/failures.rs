//! Calls about failures, their categories, and statistics.

use reqwest::Method;
use serde::de::DeserializeOwned;

use super::transport::encode;
use super::{Client, ClientError};
use crate::domain::{QueueName, Timestamp};
use crate::wire::failures::{
    BuildsReport, CalibrateBody, CategoryBody, CategoryChanged, CategoryListing, FailuresReport, NewCategory,
    NewFailuresReport, PresetListing, RegressionsReport, TestBody, Tested, ThresholdBody,
};

/// Which jobs statistics and failures are about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StatsQuery {
    /// Only jobs of this binary.
    pub name: Option<String>,
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Only jobs submitted on this day or later.
    pub since: Option<Timestamp>,
    /// Only jobs submitted before this day begins (UTC).
    pub until: Option<Timestamp>,
    /// The other parameters of the route, by name.
    pub more: Vec<(&'static str, String)>,
}

impl StatsQuery {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = self.more.clone();
        pairs.extend(self.name.iter().map(|name| ("name", name.clone())));
        pairs.extend(self.queue.iter().map(|queue| ("queue", queue.to_string())));
        pairs.extend(self.since.map(|t| ("since", t.to_string())));
        pairs.extend(self.until.map(|t| ("until", t.to_string())));
        pairs
    }
}

impl Client {
    /// Gets statistics. `what` is `attempts`, `concurrency`, `categories`, `cost` or `durations`.
    ///
    /// # Errors
    /// `Rejected` when the query makes no sense.
    pub async fn stats<T: DeserializeOwned>(&self, what: &str, query: &StatsQuery) -> Result<T, ClientError> {
        self.answer(self.api(Method::GET, &format!("stats/{what}")).query(&query.pairs())).await
    }

    /// Gets the statistics of [`Client::stats`] as comma-separated values.
    ///
    /// # Errors
    /// Those of [`Client::stats`].
    pub async fn stats_csv(&self, what: &str, query: &StatsQuery) -> Result<Vec<u8>, ClientError> {
        let request = self.api(Method::GET, &format!("stats/{what}")).query(&query.pairs());
        self.send(request.query(&[("format", "csv")])).await
    }

    /// Lists the builds of a binary.
    ///
    /// # Errors
    /// `Rejected` when it is no name.
    pub async fn builds(&self, name: &str) -> Result<BuildsReport, ClientError> {
        self.answer(self.api(Method::GET, "stats/builds").query(&[("name", name)])).await
    }

    /// Lists the builds that do worse than those before them, of one binary or all.
    ///
    /// # Errors
    /// `Rejected` when it is no name.
    pub async fn regressions(&self, name: Option<&str>) -> Result<RegressionsReport, ClientError> {
        let query: Vec<_> = name.iter().map(|name| ("name", *name)).collect();
        self.answer(self.api(Method::GET, "stats/regressions").query(&query)).await
    }

    /// Lists the errors that the newest build of each binary brought, of one binary or all.
    ///
    /// # Errors
    /// `Rejected` when it is no name.
    pub async fn new_failures(&self, name: Option<&str>) -> Result<NewFailuresReport, ClientError> {
        let query: Vec<_> = name.iter().map(|name| ("name", *name)).collect();
        self.answer(self.api(Method::GET, "failures/new").query(&query)).await
    }

    /// Counts failed attempts by their errors.
    ///
    /// # Errors
    /// `NotFound` when there is no such category.
    pub async fn failures(&self, query: &StatsQuery) -> Result<FailuresReport, ClientError> {
        self.answer(self.api(Method::GET, "failures").query(&query.pairs())).await
    }

    /// Finds at most `limit` known errors that are similar to a text.
    ///
    /// # Errors
    /// `Server` when the embedder is away.
    pub async fn similar(&self, text: &str, limit: u16) -> Result<FailuresReport, ClientError> {
        let query = [("text", text.to_owned()), ("limit", limit.to_string())];
        self.answer(self.api(Method::GET, "failures/similar").query(&query)).await
    }

    /// Lists all categories.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn categories(&self) -> Result<CategoryListing, ClientError> {
        self.answer(self.api(Method::GET, "categories")).await
    }

    /// Lists the categories that come with Jobber.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn presets(&self) -> Result<PresetListing, ClientError> {
        self.answer(self.api(Method::GET, "categories:presets")).await
    }

    /// Adds a category.
    ///
    /// # Errors
    /// `Rejected` when it is not acceptable, `Conflict` when there is one with its id or name.
    pub async fn add_category(&self, body: &NewCategory) -> Result<CategoryChanged, ClientError> {
        self.answer(self.api(Method::POST, "categories").json(body)).await
    }

    /// Replaces a category.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Rejected` when it is not acceptable.
    pub async fn edit_category(&self, id: &str, body: &CategoryBody) -> Result<CategoryChanged, ClientError> {
        self.answer(self.api(Method::PUT, &format!("categories/{}", encode(id))).json(body)).await
    }

    /// Removes a category.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn remove_category(&self, id: &str) -> Result<CategoryChanged, ClientError> {
        self.answer(self.api(Method::DELETE, &format!("categories/{}", encode(id)))).await
    }

    /// Finds the category of a text.
    ///
    /// # Errors
    /// `Server` when the embedder is away.
    pub async fn test_category(&self, text: &str) -> Result<Tested, ClientError> {
        self.answer(self.api(Method::POST, "categories:test").json(&TestBody { text: text.to_owned() })).await
    }

    /// Finds the threshold that puts most messages into the categories of their labels.
    ///
    /// # Errors
    /// `NotFound` when a label is no category.
    pub async fn calibrate<T: DeserializeOwned>(&self, body: &CalibrateBody) -> Result<T, ClientError> {
        self.answer(self.api(Method::POST, "categories:calibrate").json(body)).await
    }

    /// Sets how near an error must be to its category, from -1 to 1. `None` goes back to the configured value.
    ///
    /// # Errors
    /// `Rejected` when it is not -1 to 1.
    pub async fn set_threshold(&self, threshold: Option<f32>) -> Result<CategoryChanged, ClientError> {
        self.answer(self.api(Method::POST, "categories:threshold").json(&ThresholdBody { threshold })).await
    }
}
