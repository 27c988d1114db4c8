//! Finds similar errors by the vector index of the search service, or by comparing with all errors.
//!
//! An index has vectors of one length, which is in its name, so that two embedders do not fight for
//! one. It follows the documents at its own pace and does not tell when it has seen all of them. So
//! it is asked only after it has once held as many vectors as there are. Errors that it finds are
//! read by key and compared here, so a similarity is never the index's own score. In any doubt (no
//! service, no index, a part that did not answer, fewer errors than wanted) the answer comes from
//! comparing with all errors.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use couchbase::error::{Error, ErrorKind};
use couchbase::management::search::index::SearchIndex;
use couchbase::options::search_options::SearchOptions;
use couchbase::search::queries::{Query, TermQuery};
use couchbase::search::request::SearchRequest;
use couchbase::search::vector::{VectorQuery, VectorSearch};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::documents::{Layout, Room, space};
use super::query::MissingIndexes;
use super::session::{Connector, Session};
use super::{CouchbaseSettings, errors, history};
use crate::domain::Fingerprint;
use crate::store::{DayRange, ErrorRecord, Neighbour, StoreError, codec};

/// How long a search may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The length of a fingerprint, with which the key of an error ends.
const HEX_DIGITS: usize = 64;
/// How long an index may take to be made.
const MAKING: Duration = Duration::from_secs(60);

/// The reason why the index does not answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("{0}")]
    Failed(#[from] Error),
    #[error("the search service does not answer")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("{failed} of {all} parts of the index did not answer")]
    Partial { failed: u64, all: u64 },
    #[error("it finds {found} errors, fewer than the {wanted} that were asked for")]
    Few { found: usize, wanted: usize },
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Finds errors near to a vector.
#[derive(Default)]
pub(super) struct VectorIndex {
    /// The model all of whose vectors the index was seen to hold.
    held: Mutex<Option<String>>,
}

impl VectorIndex {
    /// The `k` nearest errors of this model, the best first.
    pub(super) async fn nearest(
        &self,
        connector: &Connector,
        vector: &[f32],
        model: &str,
        k: usize,
    ) -> Result<Vec<Neighbour>, StoreError> {
        if self.is_held(model) {
            match by_index(connector, vector, model, k).await {
                Ok(found) => return Ok(found),
                Err(Unanswered::Few { .. }) => {}
                Err(reason) => {
                    tracing::warn!("errors are compared one by one, the vector search index was of no use: {reason}");
                    self.set_held(None);
                }
            }
        }
        let (compared, held) =
            tokio::join!(by_comparing(connector, vector, model, k), count(connector, vector.len(), model));
        let (nearest, all) = compared?;
        match held {
            Ok(held) if held >= all => self.set_held(Some(model)),
            Ok(held) => tracing::debug!(held, of = all, "the vector search index is being built"),
            Err(reason) => tracing::debug!("the vector search index is of no use: {reason}"),
        }
        Ok(nearest)
    }

    fn is_held(&self, model: &str) -> bool {
        self.held.lock().expect("no thread panics while it holds the lock").as_deref() == Some(model)
    }

    fn set_held(&self, model: Option<&str>) {
        *self.held.lock().expect("no thread panics while it holds the lock") = model.map(str::to_owned);
    }
}

/// Compares with every error that the aggregates name: exact, by key-value reads alone, some of them at a time. Answers
/// the nearest ones, and how many it has compared with.
async fn by_comparing(
    connector: &Connector,
    vector: &[f32],
    model: &str,
    k: usize,
) -> Result<(Vec<Neighbour>, u64), StoreError> {
    const AT_ONCE: usize = 32;
    let (mut seen, mut all) = (BTreeSet::new(), 0);
    let mut nearest = Vec::new();
    for keys in history::keys(connector, DayRange::default(), None).await?.chunks(AT_ONCE) {
        let shards = history::shards(connector, keys, codec::shard).await?;
        let errors = shards.iter().flat_map(|s| s.counts.failures.keys().copied());
        let new: BTreeSet<_> = errors.filter(|error| seen.insert(*error)).collect();
        let compared = compared(connector, new, vector, model).await?;
        all += compared.len() as u64;
        nearest.extend(compared);
        nearest.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        nearest.truncate(k);
    }
    Ok((nearest, all))
}

/// Of these errors, those that the model knows, the best first.
async fn compared(
    connector: &Connector,
    errors: BTreeSet<Fingerprint>,
    vector: &[f32],
    model: &str,
) -> Result<Vec<Neighbour>, StoreError> {
    let records = errors::errors(connector, &errors.into_iter().collect::<Vec<_>>()).await?;
    let near = |record: ErrorRecord| {
        let known = record.knowledge.as_ref().filter(|known| known.model == model)?;
        let similarity =
            (known.vector.len() == vector.len()).then(|| known.vector.iter().zip(vector).map(|(a, b)| a * b).sum())?;
        Some(Neighbour { record, similarity })
    };
    let mut found: Vec<_> = records.into_iter().flatten().filter_map(near).collect();
    found.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    Ok(found)
}

async fn by_index(connector: &Connector, vector: &[f32], model: &str, k: usize) -> Result<Vec<Neighbour>, Unanswered> {
    let session = connector.session().await?;
    let wanted = u32::try_from(k).unwrap_or(u32::MAX);
    let nearest = VectorQuery::with_vector(VECTOR, vector.to_vec()).num_candidates(wanted);
    let nearest = nearest.prefilter(of_model(connector, model));
    let request = SearchRequest::with_vector_search(VectorSearch::new(vec![nearest], None));
    let (keys, _) = timeout(PATIENCE, search(&session, vector.len(), request, wanted)).await??;
    // A service that knows no filters may also find keys of other histories.
    let fingerprint = |key: &String| {
        let error = key.get(key.len().checked_sub(HEX_DIGITS)?..)?.parse::<Fingerprint>().ok()?;
        (session.key(Room::Errors, &error.to_string()) == *key).then_some(error)
    };
    let found = compared(connector, keys.iter().filter_map(fingerprint).collect(), vector, model).await?;
    if found.len() < k { Err(Unanswered::Few { found: found.len(), wanted: k }) } else { Ok(found) }
}

/// How many vectors of this model the index holds.
async fn count(connector: &Connector, dimension: usize, model: &str) -> Result<u64, Unanswered> {
    let session = connector.session().await?;
    let request = SearchRequest::with_search_query(of_model(connector, model));
    Ok(timeout(PATIENCE, search(&session, dimension, request, 0)).await??.1)
}

fn of_model(connector: &Connector, model: &str) -> Query {
    Query::Term(TermQuery::new(space(&connector.settings().key_prefix, model)).field("space"))
}

/// The keys that the index finds, and the number of all hits.
async fn search(
    session: &Session,
    dimension: usize,
    request: SearchRequest,
    limit: u32,
) -> Result<(Vec<String>, u64), Unanswered> {
    let options = SearchOptions::new().limit(limit).server_timeout(PATIENCE);
    // On the heap, because the SDK's futures are large and deeply nested.
    let mut result = Box::pin(session.scope.search(index_name(dimension), request, options)).await?;
    let keys = result.rows().map_ok(|row| row.id).try_collect().await?;
    let metrics = result.metadata()?.metrics;
    match metrics.failed_partition_count {
        0 => Ok((keys, metrics.total_hits)),
        failed => Err(Unanswered::Partial { failed, all: metrics.total_partition_count }),
    }
}

/// The path of the vector in an error's document.
const VECTOR: &str = "knowledge.vector";

fn index_name(dimension: usize) -> String {
    format!("jobber_errors_{dimension}")
}

/// The definition of the index for the search service.
fn definition(session: &Session, bucket: &str, dimension: usize) -> SearchIndex {
    let collection = match session.layout {
        Layout::Collections => Room::Errors.name(),
        Layout::Flat => "_default",
    };
    let vector = json!({
        "name": "vector", "type": "vector", "dims": dimension, "similarity": "dot_product",
        "vector_index_optimized_for": "recall", "index": true,
    });
    let space = json!({ "name": "space", "type": "text", "analyzer": "keyword", "index": true });
    let properties = json!({
        "space": { "enabled": true, "dynamic": false, "fields": [space] },
        "knowledge": {
            "enabled": true, "dynamic": false,
            "properties": { "vector": { "enabled": true, "dynamic": false, "fields": [vector] } },
        },
    });
    let kind = format!("{}.{collection}", session.scope.name());
    let mapping = json!({
        "default_mapping": { "enabled": false, "dynamic": false },
        "types": { kind: { "enabled": true, "dynamic": false, "properties": properties } },
    });
    let params = HashMap::from([
        ("doc_config".to_owned(), json!({ "mode": "scope.collection.type_field", "type_field": "type" })),
        ("mapping".to_owned(), mapping),
        // From this version on, segments can hold vectors.
        ("store".to_owned(), json!({ "indexType": "scorch", "segmentVersion": 16 })),
    ]);
    SearchIndex::new(index_name(dimension), "fulltext-index")
        .source_type("gocbcore".to_owned())
        .source_name(bucket.to_owned())
        .params(params)
}

/// The length of the vectors in an index, wherever its definition has that.
fn dimension_of(value: &Value) -> Option<u64> {
    match value {
        Value::Object(fields) => {
            fields.get("dims").and_then(Value::as_u64).or_else(|| fields.values().find_map(dimension_of))
        }
        Value::Array(items) => items.iter().find_map(dimension_of),
        _ => None,
    }
}

/// Makes the index for vectors as long as the embedder's, if it is missing.
///
/// What is missing and what that costs, where another try may help. What can't change while this
/// process runs is logged here, once.
pub(super) async fn prepare(session: &Session, settings: &CouchbaseSettings) -> Result<(), MissingIndexes> {
    const COST: &str = "errors like another one are found by comparing it with every known error, which reads them all";
    let Some(dimension) = settings.dimension else { return Ok(()) };
    let (name, bucket) = (index_name(dimension), &settings.bucket);
    let problem = |log: String, may_last| Err(MissingIndexes { lack: COST.to_owned(), log, may_last });
    match timeout(MAKING, make(session, bucket, dimension)).await {
        Ok(Ok(Made::New)) => tracing::info!("made the vector search index {name} in Couchbase"),
        Ok(Ok(Made::StandingBefore)) => {}
        Ok(Ok(Made::Other(found))) => tracing::warn!(
            "the vector search index {name} in Couchbase is of vectors of {found} numbers, the embedder's have \
             {dimension}; drop it and start again. Until then {COST}"
        ),
        Ok(Err(e)) => match e.kind() {
            ErrorKind::ServiceNotAvailable(_) => {
                return problem(format!("Couchbase has no search service: {COST}"), true);
            }
            ErrorKind::FeatureNotAvailable(_) => tracing::warn!(
                error = %e,
                "this Couchbase has no vector search (the enterprise edition has, from 7.6 on): {COST}"
            ),
            kind => {
                let may_last = *kind == ErrorKind::AuthenticationFailure;
                let log = format!(
                    "the vector search index {name} is missing in Couchbase and could not be made, tried again until it \
                     is: {COST}. If that lasts, have it made in the scope {} by a user with the role fts_admin: {}. The \
                     reason: {e}",
                    session.scope.name(),
                    serde_json::to_string(&definition(session, bucket, dimension)).unwrap_or_default()
                );
                return problem(log, may_last);
            }
        },
        Err(_) => return problem(format!("the vector search index {name} was not made in time: {COST}"), false),
    }
    Ok(())
}

/// The index that was made or found.
enum Made {
    New,
    StandingBefore,
    /// There is one of this name with vectors of another length.
    Other(u64),
}

async fn make(session: &Session, bucket: &str, dimension: usize) -> Result<Made, Error> {
    let manager = session.scope.search_indexes();
    let name = index_name(dimension);
    let look = || async { manager.get_index(&name, None).await.map(|known| is_of(&known, dimension)) };
    match look().await {
        Err(e) if *e.kind() == ErrorKind::IndexNotFound => {}
        found => return found,
    }
    match manager.upsert_index(definition(session, bucket, dimension), None).await {
        Ok(()) => Ok(Made::New),
        // Another process that starts at the same time may have made it.
        Err(e) => look().await.map_err(|_| e),
    }
}

fn is_of(index: &SearchIndex, dimension: usize) -> Made {
    match index.params.iter().flat_map(HashMap::values).find_map(dimension_of) {
        Some(found) if found != dimension as u64 => Made::Other(found),
        _ => Made::StandingBefore,
    }
}
