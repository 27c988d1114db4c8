//! Lists of jobs: SQL++ finds the places, key-value reads the lines.
//!
//! Statements are fixed texts with named parameters: nothing that anybody gave is ever part of one. Each is answered by
//! an index alone, read backwards from where the page starts; it gives places, from which the ids follow. The lines
//! themselves come from the documents by key, so that a line is never older than the index.

use std::collections::BTreeSet;

use couchbase::error::{Error, ErrorKind};
use couchbase::options::query_options::{QueryOptions, ScanConsistency};
use futures_util::TryStreamExt;
use serde::de::DeserializeOwned;

use super::documents::{self, LAST_PLACE, Room};
use super::session::Session;
use super::setup::Layout;
use crate::domain::JobState;
use crate::store::{JobFilter, StoreError, StoreErrorKind};

/// How long a query may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// An index. There is one for every combination of filters by name and state, and one for those by error.
pub(super) struct Index {
    pub(super) name: &'static str,
    fields: &'static str,
}

/// Those that Jobber makes.
pub(super) const INDEXES: [Index; 6] = [
    Index { name: "jobber_by_time", fields: "place DESC" },
    Index { name: "jobber_by_state", fields: "state, place DESC" },
    Index { name: "jobber_by_name", fields: "name, place DESC" },
    Index { name: "jobber_by_both", fields: "name, state, place DESC" },
    Index { name: "jobber_by_error", fields: "DISTINCT ARRAY e FOR e IN errors END, place DESC, state, name" },
    Index { name: "jobber_by_id", fields: "id, place" },
];

impl Index {
    pub(super) fn statement(&self, layout: Layout) -> String {
        let Self { name, fields } = self;
        let only = if self.name == "jobber_by_id" { "place IS NOT MISSING" } else { "removed = FALSE" };
        format!("CREATE INDEX `{name}` ON `{}`({fields}) WHERE {only}", keyspace(layout))
    }
}

fn keyspace(layout: Layout) -> &'static str {
    match layout {
        Layout::Collections => Room::Jobs.name(),
        Layout::Flat => "_default",
    }
}

/// The statement for one page of jobs of one state, or of any.
fn listing(layout: Layout, filter: &JobFilter, state: Option<JobState>) -> String {
    let name = if filter.name.is_some() { " AND j.name = $name" } else { "" };
    let state = if state.is_some() { " AND j.state = $state" } else { "" };
    let errors = if filter.errors.is_empty() { "" } else { " AND ANY e IN j.errors SATISFIES e IN $errors END" };
    format!(
        "SELECT RAW j.place FROM `{}` AS j WHERE j.removed = FALSE{name}{state}{errors} AND j.place >= $from \
         AND j.place < $before ORDER BY j.place DESC LIMIT $limit",
        keyspace(layout)
    )
}

/// Runs a statement and collects its rows.
pub(super) async fn run<T: DeserializeOwned + Send>(
    session: &Session,
    statement: &str,
    options: QueryOptions,
) -> Result<Vec<T>, Error> {
    // On the heap: the SDK's futures are large, and deep.
    let mut result = Box::pin(session.scope.query(statement, options)).await?;
    result.rows::<T>().try_collect().await
}

/// Whether the cluster runs queries.
pub(super) async fn is_offered(session: &Session) -> Result<bool, StoreError> {
    let answer = run::<u64>(session, "SELECT RAW 1", QueryOptions::new().read_only(true));
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Err(e)) if matches!(e.kind(), ErrorKind::ServiceNotAvailable(_)) => Ok(false),
        Ok(Err(e)) => Err(failed("a query", e)),
        Ok(Ok(_)) => Ok(true),
        Err(_) => Ok(false),
    }
}

/// The places of the jobs that the filter lets through, from before `start` on, newest first: up to `wanted` of each
/// state.
pub(super) async fn places(
    session: &Session,
    key_prefix: &str,
    filter: &JobFilter,
    start: Option<&str>,
    wanted: usize,
) -> Result<BTreeSet<String>, Error> {
    let states: BTreeSet<JobState> = filter.states.iter().copied().collect();
    let every = if states.is_empty() { vec![None] } else { states.into_iter().map(Some).collect() };
    let until = filter.until.map(documents::place_from);
    let before = [start.map(str::to_owned), until].into_iter().flatten().min();
    let before = format!("{key_prefix}{}", before.as_deref().unwrap_or(LAST_PLACE));
    let from = format!("{key_prefix}{}", filter.since.map(documents::place_from).unwrap_or_default());
    let mut found = BTreeSet::new();
    for state in every {
        // One range of an index for each state, then merged: a range is in order for a single state only.
        let mut options = QueryOptions::new()
            .read_only(true)
            .scan_consistency(ScanConsistency::RequestPlus)
            .add_named_parameter("from", &from)?
            .add_named_parameter("before", &before)?
            .add_named_parameter("limit", wanted)?;
        if let Some(name) = &filter.name {
            options = options.add_named_parameter("name", name.as_str())?;
        }
        if !filter.errors.is_empty() {
            options = options.add_named_parameter("errors", &filter.errors)?;
        }
        if let Some(state) = state {
            options = options.add_named_parameter("state", state.as_str())?;
        }
        let rows: Vec<String> = run(session, &listing(session.layout, filter, state), options).await?;
        found.extend(rows.into_iter().filter_map(|place| Some(place.strip_prefix(key_prefix)?.to_owned())));
    }
    Ok(found)
}

/// The ids of all jobs in order, removed ones too: up to `limit` after `after`.
pub(super) async fn ids(session: &Session, key_prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, Error> {
    let statement = format!(
        "SELECT RAW j.id FROM `{}` AS j WHERE j.place IS NOT MISSING AND j.place >= $from AND j.place < $before \
         AND j.id > $after ORDER BY j.id LIMIT $limit",
        keyspace(session.layout)
    );
    let options = QueryOptions::new()
        .read_only(true)
        .scan_consistency(ScanConsistency::RequestPlus)
        .add_named_parameter("from", key_prefix)?
        .add_named_parameter("before", format!("{key_prefix}{LAST_PLACE}"))?
        .add_named_parameter("after", after)?
        .add_named_parameter("limit", limit)?;
    run(session, &statement, options).await
}

/// Waits for a query's answer, for a while.
pub(super) async fn bounded<T>(query: impl Future<Output = Result<T, Error>>, what: &str) -> Result<T, StoreError> {
    match tokio::time::timeout(PATIENCE, query).await {
        Ok(answer) => answer.map_err(|e| failed(what, e)),
        Err(e) => {
            let message = format!("{what}: Couchbase's query service does not answer");
            Err(StoreError::new(StoreErrorKind::Unavailable, message).caused_by(e))
        }
    }
}

/// What to tell when a query fails.
fn failed(what: &str, error: Error) -> StoreError {
    let message = match error.kind() {
        ErrorKind::ServiceNotAvailable(_) => {
            format!("{what} needs Couchbase's query service, which this cluster has not")
        }
        ErrorKind::IndexNotFound | ErrorKind::PlanningFailure | ErrorKind::IndexFailure => {
            format!("{what} needs an index that is missing in Couchbase, or is being made")
        }
        ErrorKind::AuthenticationFailure => format!("{what} needs the role query_select on the bucket"),
        _ => format!("{what} failed in Couchbase"),
    };
    StoreError::new(StoreErrorKind::Unavailable, message).caused_by(error)
}
