//! The search service through the SDK.

use std::collections::HashMap;

use couchbase::error::ErrorKind;
use couchbase::management::search::index::SearchIndex;
use couchbase::options::search_options::SearchOptions;
use couchbase::scope::Scope;
use couchbase::search::queries::{Query, TermQuery};
use couchbase::search::request::SearchRequest;
use couchbase::search::vector::{VectorQuery, VectorSearch};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::{Held, connect, kind, within};
use crate::harness::couchbase_double::{CouchbaseDouble, Options, Rights};

fn definition() -> SearchIndex {
    let vector = json!({ "name": "vector", "type": "vector", "dims": 3, "similarity": "dot_product", "index": true });
    let properties = json!({
        "knowledge": { "enabled": true, "properties": { "vector": { "enabled": true, "fields": [vector] } } }
    });
    let mapping = json!({
        "default_mapping": { "enabled": false },
        "types": { "_default.errors": { "enabled": true, "dynamic": false, "properties": properties } },
    });
    let params = HashMap::from([
        ("doc_config".to_owned(), json!({ "mode": "scope.collection.type_field", "type_field": "type" })),
        ("mapping".to_owned(), mapping),
    ]);
    SearchIndex::new("similar", "fulltext-index")
        .source_type("gocbcore".to_owned())
        .source_name("jobber".to_owned())
        .params(params)
}

async fn errors(double: &CouchbaseDouble) -> Held<Scope> {
    let cluster = connect(double).await;
    let bucket = cluster.bucket("jobber");
    within(bucket.collections().create_collection("_default", "errors", None, None)).await.unwrap();
    let errors = bucket.collection("errors");
    let vectors = [("x", [1.0, 0.0, 0.0]), ("y", [0.0, 1.0, 0.0]), ("xy", [0.8, 0.6, 0.0]), ("z", [0.0, 0.0, 1.0])];
    for (name, vector) in vectors {
        let document = json!({ "text": format!("error {name}"), "knowledge": { "vector": vector } });
        within(errors.upsert(name, &document, None)).await.unwrap();
    }
    within(errors.upsert("pending", json!({ "text": "error" }), None)).await.unwrap();
    within(errors.upsert("other", json!({ "knowledge": { "vector": [1.0, 1.0] } }), None)).await.unwrap();
    Held { held: bucket.scope("_default"), _cluster: cluster }
}

async fn near(scope: &Scope, vector: &[f32], k: u32) -> Result<Vec<(String, f64)>, couchbase::error::Error> {
    let query = VectorQuery::with_vector("knowledge.vector", vector.to_vec()).num_candidates(k);
    let request = SearchRequest::with_vector_search(VectorSearch::new(vec![query], None));
    let mut result = within(scope.search("similar", request, SearchOptions::new().limit(k))).await?;
    let rows: Vec<_> = within(result.rows().try_collect()).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.score)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_are_found_best_first() {
    let double = CouchbaseDouble::start();
    let scope = errors(&double).await;
    within(scope.search_indexes().upsert_index(definition(), None)).await.unwrap();
    let found = near(&scope, &[1.0, 0.0, 0.0], 3).await.unwrap();
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["x", "xy"]);
    assert!((found[0].1 - 1.0).abs() < 1e-6 && (found[1].1 - 0.8).abs() < 1e-6, "{found:?}");
    assert_eq!(near(&scope, &[0.0, 0.0, 1.0], 1).await.unwrap()[0].0, "z");
    assert!(near(&scope, &[1.0, 0.0], 3).await.is_err(), "of another length");
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_made_shown_and_dropped() {
    let double = CouchbaseDouble::start();
    let scope = errors(&double).await;
    let manager = scope.search_indexes();
    assert_eq!(kind(within(manager.get_index("similar", None)).await), ErrorKind::IndexNotFound);
    assert_eq!(kind(near(&scope, &[1.0, 0.0, 0.0], 3).await), ErrorKind::IndexNotFound);
    within(manager.upsert_index(definition(), None)).await.unwrap();
    let shown = within(manager.get_index("similar", None)).await.unwrap();
    let mapping = &shown.params.as_ref().unwrap()["mapping"]["types"]["_default.errors"];
    assert_eq!(mapping["properties"]["knowledge"]["properties"]["vector"]["fields"][0]["dims"], Value::from(3));
    // The SDK calls this one not found too; what the service said is in the text.
    let again = within(manager.upsert_index(definition(), None)).await.unwrap_err();
    assert!(again.to_string().contains("already exists"), "{again}");
    let changed = definition().uuid(shown.uuid.clone());
    within(manager.upsert_index(changed, None)).await.unwrap();
    assert_eq!(within(manager.get_all_indexes(None)).await.unwrap().len(), 1);
    within(manager.drop_index("similar", None)).await.unwrap();
    assert_eq!(kind(within(manager.drop_index("similar", None)).await), ErrorKind::IndexNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_an_index_is_told() {
    let rights = Rights { collections: true, indexes: true, search: false };
    let double = CouchbaseDouble::with(Options { rights, ..Options::default() });
    let scope = errors(&double).await;
    let refused = within(scope.search_indexes().upsert_index(definition(), None)).await.unwrap_err();
    assert!(refused.to_string().contains("fts_admin"), "{refused}");
}

/// An index follows its documents at its own pace, and no answer tells.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lags_finds_less() {
    let double = CouchbaseDouble::start();
    let scope = errors(&double).await;
    within(scope.search_indexes().upsert_index(definition(), None)).await.unwrap();
    double.let_search_lag(0);
    assert_eq!(near(&scope, &[1.0, 0.0, 0.0], 3).await.unwrap(), []);
    double.let_search_lag(None);
    assert_eq!(near(&scope, &[1.0, 0.0, 0.0], 3).await.unwrap().len(), 3);
}

/// Only documents that pass the filter are compared, so that `k` of them are found.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_met_before_neighbours_are_counted() {
    let double = CouchbaseDouble::start();
    let scope = errors(&double).await;
    within(scope.search_indexes().upsert_index(definition(), None)).await.unwrap();
    let only = Query::Term(TermQuery::new("error z").field("text"));
    let query = VectorQuery::with_vector("knowledge.vector", vec![1.0, 0.0, 0.0]).num_candidates(1).prefilter(only);
    let request = SearchRequest::with_vector_search(VectorSearch::new(vec![query], None));
    let mut result = within(scope.search("similar", request, None)).await.unwrap();
    let rows: Vec<_> = within(result.rows().try_collect()).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["z"]);
}
