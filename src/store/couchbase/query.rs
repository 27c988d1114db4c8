//! Lists of jobs: SQL++ finds the places, key-value reads the lines.
//!
//! Statements are fixed texts with named parameters, so that input is never part of one. An index alone
//! answers each, read backwards from where the page starts. It gives places, which contain the ids. The
//! lines themselves are read from the documents by key, so that a line is never older than the index.

use std::collections::BTreeSet;

use couchbase::error::{Error, ErrorKind};
use couchbase::options::query_options::{QueryOptions, ScanConsistency};
use futures_util::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Duration, timeout};

use super::CouchbaseSettings;
use super::documents::{self, LAST_PLACE, Layout, Room};
use super::session::Session;
use super::setup::Refusal;
use crate::domain::{Fingerprint, GroupName, JobId, JobState, Timestamp};
use crate::metrics::Operation;
use crate::store::{GroupTally, JobFilter, StoreError, StoreErrorKind};

/// A statement, with all its rows.
static QUERY: Operation = Operation::new("couchbase", "query");
/// How long a query may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an index may take to be made.
const INDEXING: Duration = Duration::from_secs(600);
/// How many ranges of a list are read at the same time.
const AT_ONCE: usize = 8;

/// An index. There is one for every combination of filters by name and state, one for filters by error, and two for
/// groups: by state, and by the place in the group.
pub(super) struct Index {
    pub(super) name: &'static str,
    fields: &'static str,
}

/// The indexes that Jobber makes.
pub(super) const INDEXES: [Index; 8] = [
    Index { name: "jobber_by_time", fields: "place DESC" },
    Index { name: "jobber_by_state", fields: "state, place DESC" },
    Index { name: "jobber_by_name", fields: "name, place DESC" },
    Index { name: "jobber_by_both", fields: "name, state, place DESC" },
    Index { name: "jobber_by_error", fields: "DISTINCT ARRAY e FOR e IN errors END, place DESC, state, name" },
    Index { name: "jobber_by_group", fields: "job_group, state, place DESC, finished_at, name" },
    Index { name: "jobber_by_index", fields: "job_group, group_order, place" },
    Index { name: "jobber_by_id", fields: "id, place" },
];

impl Index {
    /// The statement that makes the index. It has the whole name of the collection, so that it works in any context.
    pub(super) fn statement(&self, layout: Layout, settings: &CouchbaseSettings) -> String {
        let Self { name, fields } = self;
        let only = if self.name == "jobber_by_id" { "place IS NOT MISSING" } else { "removed = FALSE" };
        let bucket = &settings.bucket;
        let (scope, collection) = match layout {
            Layout::Collections => (settings.scope.as_str(), Room::Jobs.name()),
            Layout::Flat => ("_default", "_default"),
        };
        let copies = settings.num_replica.map(|n| format!(" WITH {{\"num_replica\": {n}}}")).unwrap_or_default();
        format!("CREATE INDEX `{name}` ON `{bucket}`.`{scope}`.`{collection}`({fields}) WHERE {only}{copies}")
    }
}

/// The collection that lists are read from, in the context of the scope.
fn keyspace(layout: Layout) -> &'static str {
    match layout {
        Layout::Collections => Room::Jobs.name(),
        Layout::Flat => "_default",
    }
}

/// A part of a list that one range of one index holds in order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Range {
    All,
    /// The jobs of one state.
    State(JobState),
    /// The jobs that failed with one error. The index has their states, too.
    Error(Fingerprint),
}

/// The ranges from which a list is merged: one for each state or error. For several at once the
/// service would have to sort all matching jobs, for each page anew.
pub(super) fn ranges(filter: &JobFilter) -> Vec<Range> {
    let errors: BTreeSet<_> = filter.errors.iter().copied().collect();
    let states: BTreeSet<_> = filter.states.iter().copied().collect();
    if !errors.is_empty() {
        errors.into_iter().map(Range::Error).collect()
    } else if filter.group.is_some() && states.is_empty() {
        JobState::ALL.map(Range::State).into()
    } else if !states.is_empty() {
        states.into_iter().map(Range::State).collect()
    } else {
        vec![Range::All]
    }
}

/// The statement for one page of a range.
fn listing(layout: Layout, filter: &JobFilter, range: Range) -> String {
    let name = if filter.name.is_some() { " AND j.name = $name" } else { "" };
    let group = if filter.group.is_some() { " AND j.job_group = $group" } else { "" };
    let range = match range {
        Range::All => "",
        Range::State(_) => " AND j.state = $state",
        Range::Error(_) if filter.states.is_empty() => " AND ANY e IN j.errors SATISFIES e = $error END",
        Range::Error(_) => " AND ANY e IN j.errors SATISFIES e = $error END AND j.state IN $states",
    };
    format!(
        "SELECT RAW j.place FROM `{}` AS j WHERE j.removed = FALSE{group}{name}{range} AND j.place >= $from \
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
    // On the heap, because the SDK's futures are large and deeply nested.
    let mut result = Box::pin(session.scope.query(statement, options)).await?;
    result.rows::<T>().try_collect().await
}

/// Whether the cluster runs queries.
pub(super) async fn is_offered(session: &Session) -> Result<bool, StoreError> {
    let answer = run::<u64>(session, "SELECT RAW 1", QueryOptions::new().read_only(true));
    match timeout(PATIENCE, answer).await {
        Ok(Err(e)) if matches!(e.kind(), ErrorKind::ServiceNotAvailable(_)) => Ok(false),
        Ok(Err(e)) => Err(failed("a query", e)),
        Ok(Ok(_)) => Ok(true),
        Err(_) => Ok(false),
    }
}

/// The places of the matching jobs before `start`, newest first: up to `wanted` of each range.
pub(super) async fn places(
    session: &Session,
    key_prefix: &str,
    filter: &JobFilter,
    start: Option<&str>,
    wanted: usize,
) -> Result<BTreeSet<String>, Error> {
    let until = filter.until.map(documents::place_from);
    let before = [start.map(str::to_owned), until].into_iter().flatten().min();
    let before = format!("{key_prefix}{}", before.as_deref().unwrap_or(LAST_PLACE));
    let from = format!("{key_prefix}{}", filter.since.map(documents::place_from).unwrap_or_default());
    let (from, before) = (&from, &before);
    let read = |range: Range| async move {
        let mut options = QueryOptions::new()
            .read_only(true)
            .scan_consistency(ScanConsistency::RequestPlus)
            .add_named_parameter("from", from)?
            .add_named_parameter("before", before)?
            .add_named_parameter("limit", wanted)?;
        if let Some(name) = &filter.name {
            options = options.add_named_parameter("name", name.as_str())?;
        }
        if let Some(group) = &filter.group {
            options = options.add_named_parameter("group", group.as_str())?;
        }
        match range {
            Range::All => {}
            Range::State(state) => options = options.add_named_parameter("state", state.as_str())?,
            Range::Error(error) => {
                options = options.add_named_parameter("error", error)?;
                if !filter.states.is_empty() {
                    let states: Vec<_> = filter.states.iter().map(|state| state.as_str()).collect();
                    options = options.add_named_parameter("states", states)?;
                }
            }
        }
        run::<String>(session, &listing(session.layout, filter, range), options).await
    };
    // Made before the first await, so that the future does not hold the closure.
    let pages: Vec<_> = ranges(filter).into_iter().map(read).collect();
    let pages: Vec<Vec<String>> = futures_util::stream::iter(pages).buffer_unordered(AT_ONCE).try_collect().await?;
    let places = pages.into_iter().flatten();
    Ok(places.filter_map(|place| Some(place.strip_prefix(key_prefix)?.to_owned())).collect())
}

/// The jobs of a group in one state.
#[derive(Debug, Deserialize)]
pub(super) struct GroupRow {
    state: JobState,
    count: u64,
    /// The place of the first that was submitted.
    first: Option<String>,
    last: Option<Timestamp>,
}

/// Counts the jobs of a group.
pub(super) async fn tally(session: &Session, key_prefix: &str, group: &GroupName) -> Result<GroupTally, Error> {
    let statement = format!(
        "SELECT j.state, COUNT(*) AS `count`, MIN(j.place) AS `first`, MAX(j.finished_at) AS `last` FROM `{}` AS j \
         WHERE j.removed = FALSE AND j.job_group = $group AND j.place >= $from AND j.place < $before GROUP BY j.state",
        keyspace(session.layout)
    );
    let options = of_group(key_prefix, group)?;
    let mut tally = GroupTally::default();
    for GroupRow { state, count, first, last } in run::<GroupRow>(session, &statement, options).await? {
        let first = first.and_then(|place| Some(documents::read_place(place.strip_prefix(key_prefix)?)?.0));
        tally.add(state, count, first, last);
    }
    Ok(tally)
}

/// Where a job stands in its group.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct GroupPlace {
    pub(super) order: i64,
    pub(super) place: String,
}

/// The places of a group's jobs in order, up to `wanted` after `after`.
pub(super) async fn group_places(
    session: &Session,
    key_prefix: &str,
    group: &GroupName,
    after: Option<&GroupPlace>,
    wanted: usize,
) -> Result<Vec<GroupPlace>, Error> {
    // Two ranges of the index, because one condition over both of its fields would be none that it can be entered by.
    let read = async |order: &str, from: i64, place: &str| {
        let statement = format!(
            "SELECT j.group_order AS `order`, j.place FROM `{}` AS j WHERE j.removed = FALSE \
             AND j.job_group = $group AND j.group_order {order} $order AND j.place > $after AND j.place < $before \
             ORDER BY j.group_order, j.place LIMIT $limit",
            keyspace(session.layout)
        );
        let options = of_group(key_prefix, group)?
            .add_named_parameter("order", from)?
            .add_named_parameter("after", format!("{key_prefix}{place}"))?
            .add_named_parameter("limit", wanted)?;
        run::<GroupPlace>(session, &statement, options).await
    };
    let mut places = match after {
        Some(after) => read("=", after.order, &after.place).await?,
        None => Vec::new(),
    };
    if places.len() < wanted {
        places.extend(read(">", after.map_or(i64::from(i32::MIN), |after| after.order), "").await?);
    }
    places.truncate(wanted);
    let own = places.into_iter().filter_map(|GroupPlace { order, place }| {
        Some(GroupPlace { order, place: place.strip_prefix(key_prefix)?.to_owned() })
    });
    Ok(own.collect())
}

/// The options of a query for the jobs of a group.
fn of_group(key_prefix: &str, group: &GroupName) -> Result<QueryOptions, Error> {
    QueryOptions::new()
        .read_only(true)
        .scan_consistency(ScanConsistency::RequestPlus)
        .add_named_parameter("group", group.as_str())?
        .add_named_parameter("from", key_prefix)?
        .add_named_parameter("before", format!("{key_prefix}{LAST_PLACE}"))
}

/// The ids of all jobs in order, removed ones too: up to `limit` ids after `after`.
pub(super) async fn ids(session: &Session, key_prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, Error> {
    let options = of_all(key_prefix, limit)?.add_named_parameter("after", after)?;
    run(session, &ids_where(session.layout, "j.id > $after"), options).await
}

/// The ids that begin with `prefix`, in order, removed ones too: up to `limit`.
pub(super) async fn ids_from(
    session: &Session,
    key_prefix: &str,
    prefix: &str,
    limit: usize,
) -> Result<Vec<String>, Error> {
    let options = of_all(key_prefix, limit)?
        .add_named_parameter("prefix", prefix)?
        .add_named_parameter("beyond", JobId::beyond_prefix(prefix))?;
    run(session, &ids_where(session.layout, "j.id >= $prefix AND j.id < $beyond"), options).await
}

fn ids_where(layout: Layout, condition: &str) -> String {
    format!(
        "SELECT RAW j.id FROM `{}` AS j WHERE j.place IS NOT MISSING AND j.place >= $from AND j.place < $before \
         AND {condition} ORDER BY j.id LIMIT $limit",
        keyspace(layout)
    )
}

/// The options of a query for ids among those of all jobs.
fn of_all(key_prefix: &str, limit: usize) -> Result<QueryOptions, Error> {
    QueryOptions::new()
        .read_only(true)
        .scan_consistency(ScanConsistency::RequestPlus)
        .add_named_parameter("from", key_prefix)?
        .add_named_parameter("before", format!("{key_prefix}{LAST_PLACE}"))?
        .add_named_parameter("limit", limit)
}

/// Waits for a query's answer, up to [`PATIENCE`].
pub(super) async fn bounded<T>(query: impl Future<Output = Result<T, Error>>, what: &str) -> Result<T, StoreError> {
    match QUERY.time(timeout(PATIENCE, query)).await {
        Ok(answer) => answer.map_err(|e| failed(what, e)),
        Err(e) => {
            let message = format!("{what}: Couchbase's query service does not answer");
            Err(StoreError::new(StoreErrorKind::Unavailable, message).caused_by(e))
        }
    }
}

/// Whether a query failed because an index is missing.
pub(super) fn misses_an_index(error: &StoreError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Error>());
    cause.is_some_and(|cause| is_missing_index(cause.kind()))
}

fn is_missing_index(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::IndexNotFound | ErrorKind::PlanningFailure | ErrorKind::IndexFailure)
}

/// The error to return when a query fails.
fn failed(what: &str, error: Error) -> StoreError {
    let message = match error.kind() {
        ErrorKind::ServiceNotAvailable(_) => {
            format!("{what} needs Couchbase's query service, which this cluster has not")
        }
        kind if is_missing_index(kind) => {
            format!("{what} needs an index that is missing in Couchbase, or is being made")
        }
        ErrorKind::AuthenticationFailure => format!("{what} needs the role query_select on the bucket"),
        _ => format!("{what} failed in Couchbase"),
    };
    StoreError::new(StoreErrorKind::Unavailable, message).caused_by(error)
}

/// The reason why indexes are missing.
#[derive(Debug)]
pub(super) struct MissingIndexes {
    /// What does not work, for callers that ask whether everything does.
    pub(super) lack: String,
    /// The same with what an operator can do, for the log.
    pub(super) log: String,
    /// Whether waiting alone does not help, as a rule.
    pub(super) may_last: bool,
}

/// Makes the missing indexes for lists.
///
/// # Errors
/// The indexes that are still missing, and why.
pub(super) async fn make_indexes(session: &Session, settings: &CouchbaseSettings) -> Result<(), MissingIndexes> {
    let (mut made, mut missing, mut last) = (Vec::new(), Vec::new(), None);
    for index in INDEXES {
        let statement = index.statement(session.layout, settings);
        let made_it = timeout(INDEXING, run::<Value>(session, &statement, QueryOptions::new())).await;
        match made_it {
            Ok(Ok(_)) => made.push(index.name),
            Ok(Err(e)) if *e.kind() == ErrorKind::IndexExists => {}
            Ok(Err(e)) if matches!(e.kind(), ErrorKind::ServiceNotAvailable(_)) => {
                let lack = "Couchbase has no query service: lists of jobs, `rebuild` and `export` do not work";
                let log = format!("{lack}; single jobs, GET /jobs and statistics do. Looked for again now and then");
                return Err(MissingIndexes { lack: lack.to_owned(), log, may_last: true });
            }
            Ok(Err(e)) => {
                missing.push((index.name, statement));
                last = Some(Refusal::Refused(e));
            }
            Err(e) => {
                missing.push((index.name, statement));
                last = Some(Refusal::Silence(e));
            }
        }
    }
    if !made.is_empty() {
        tracing::info!("made the indexes {} in Couchbase", made.join(", "));
    }
    let Some(reason) = last else { return Ok(()) };
    let (names, statements): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    let may_last = matches!(&reason, Refusal::Refused(e) if *e.kind() == ErrorKind::AuthenticationFailure);
    let names = names.join(", ");
    Err(MissingIndexes {
        lack: format!("lists of jobs need indexes that are missing in Couchbase ({names}): {reason}"),
        log: format!(
            "the indexes {names} are missing in Couchbase and could not be made, tried again until they are: lists of \
             jobs that need them fail. If that lasts, have them made by a user with the role query_manage_index: {}. \
             The reason: {reason}",
            statements.join("; ")
        ),
        may_last,
    })
}
