//! Errors like another one: the vector index is used when it can be trusted, and the answers are the same without it.

use std::sync::Arc;

use jobber::domain::{Clock, Fingerprint, Timestamp};
use jobber::stats::{Counts, FailureCounts, ShardKey, StatShard};
use jobber::store::couchbase::{CouchbaseSettings, CouchbaseStore};
use jobber::store::{Commit, History, Knowledge, Learned, Projection, Sighting, Versioned};
use serde_json::json;

use super::TTL;
use crate::harness::couchbase::{Bucket, DIMENSION};
use crate::harness::couchbase_double::{CouchbaseDouble, Fault, Options, Rights, Service};
use crate::harness::{Jobber, Place, eventually};

const ERRORS: u8 = 30;
const WANTED: usize = 4;

fn fingerprint(n: u8) -> Fingerprint {
    Fingerprint::from_bytes([n; 32])
}

/// Where an error lies on the circle: no two are equally near to a third.
fn vector(n: u8) -> Vec<f32> {
    let angle = f32::from(n) * f32::from(n) * 0.731;
    vec![angle.cos(), angle.sin()]
}

/// Some errors of which a model knows the vectors.
async fn with_errors(store: &CouchbaseStore) {
    let term = store.lead("one", TTL, &Clock::system()).await.unwrap().unwrap();
    let at = Timestamp::from_millis(10);
    let key = ShardKey { day: at.day(), name: "n".parse().unwrap() };
    let (job, all) = (jobber::domain::JobId::parse("j").unwrap(), 0..ERRORS);
    let once = FailureCounts { attempts: 1, cpu_us: 0, wall_us: 0 };
    let failures = all.clone().map(|n| (fingerprint(n), once)).collect();
    let shard = StatShard { counts: Counts { failures, ..Counts::default() }, ..StatShard::new(key.clone()) };
    let sightings = all.clone().map(|n| Sighting::new(fingerprint(n), "it broke", at, &key.name, &job)).collect();
    let commit = Commit { sightings, shards: vec![Versioned { document: shard, version: None }], ..Commit::default() };
    store.commit(&term, commit).await.unwrap();
    let knowledge = |n| Knowledge {
        model: "m".to_owned(),
        vector: vector(n),
        category: None,
        similarity: 0.0,
        revision: Default::default(),
    };
    let learned: Vec<_> = all.map(|n| Learned { fingerprint: fingerprint(n), knowledge: knowledge(n) }).collect();
    store.learn(&term, &learned).await.unwrap();
}

/// What lies nearest to an error, as arithmetic has it.
fn expected(n: u8) -> Vec<u8> {
    let near = |other: u8| vector(n).iter().zip(vector(other)).map(|(a, b)| a * b).sum::<f32>();
    let mut all: Vec<u8> = (0..ERRORS).collect();
    all.sort_by(|a, b| near(*b).total_cmp(&near(*a)));
    all.truncate(WANTED);
    all
}

async fn found(store: &CouchbaseStore, n: u8) -> Vec<u8> {
    let near = store.similar_errors(&vector(n), "m", WANTED).await.unwrap();
    near.iter().map(|n| n.record.seen.fingerprint.as_bytes()[0]).collect()
}

/// How many documents it takes to find what is near, and that the answer is right.
async fn cost(bucket: &Bucket, store: &CouchbaseStore, n: u8) -> u64 {
    let before = bucket.double().seen(Service::KeyValue);
    assert_eq!(found(store, n).await, expected(n), "near {n}");
    bucket.double().seen(Service::KeyValue) - before
}

async fn open(bucket: &Bucket) -> Arc<CouchbaseStore> {
    let store = bucket.open().await;
    store.prepared().await;
    store
}

/// An index that is being built, or has fallen behind before it was ever complete, is not asked; one that holds all
/// errors is, and then nothing but what is near is read.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_used_once_it_holds_every_error() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = open(&bucket).await;
    with_errors(&store).await;
    bucket.double().let_search_lag(usize::from(ERRORS) - 1);
    for n in 0..3 {
        assert!(cost(&bucket, &store, n).await > u64::from(ERRORS), "all are compared");
    }
    bucket.double().let_search_lag(None);
    assert!(cost(&bucket, &store, 3).await > u64::from(ERRORS), "this shows that it is complete");
    for n in 4..ERRORS {
        // The configuration is polled now and then.
        assert!(cost(&bucket, &store, n).await <= WANTED as u64 + 3);
    }
}

/// Whatever happens to the index and its service, the answers stay the same; it is used again when it is well.
#[tokio::test(flavor = "multi_thread")]
async fn answers_stay_the_same_without_the_index() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = open(&bucket).await;
    with_errors(&store).await;
    let partial = json!({
        "status": { "total": 6, "failed": 2, "successful": 4, "errors": { "pindex_1": "context deadline exceeded" } },
        "hits": [], "total_hits": 0, "max_score": 0.0, "took": 1, "facets": null,
    });
    let faults: [(&str, Fault); 6] = [
        ("a part does not answer", Fault::RefuseWith(200, partial.to_string())),
        ("forbidden", Fault::RefuseWith(403, json!({ "error": "forbidden", "status": "fail" }).to_string())),
        (
            "no index",
            Fault::RefuseWith(400, json!({ "error": "rest_auth: preparePerms, err: index not found" }).to_string()),
        ),
        ("not planned yet", Fault::RefuseWith(500, json!({ "error": "no planPIndexes for indexName" }).to_string())),
        ("nonsense", Fault::RefuseWith(200, "<html>".to_owned())),
        ("no answer", Fault::Ignore),
    ];
    for (what, fault) in faults {
        found(&store, 1).await;
        assert!(cost(&bucket, &store, 1).await <= WANTED as u64 + 3, "the index is used before: {what}");
        let hits = bucket.double().fault(fault.at(Service::Search).containing("/query"));
        for n in 2..4 {
            assert_eq!(found(&store, n).await, expected(n), "{what}");
        }
        assert!(hits.count() > 0, "{what}");
        bucket.double().heal();
    }
}

/// Documents of other histories and other models in the same collection are in the same index.
#[tokio::test(flavor = "multi_thread")]
async fn histories_side_by_side_do_not_find_each_others_errors() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = open(&bucket).await;
    with_errors(&store).await;
    let neighbour = CouchbaseSettings { key_prefix: "other:".to_owned(), ..bucket.settings() };
    let neighbour = CouchbaseStore::open(neighbour, &bucket.tasks).await.unwrap();
    neighbour.prepared().await;
    for n in 0..3 {
        assert_eq!(neighbour.similar_errors(&vector(n), "m", WANTED).await.unwrap(), []);
        assert_eq!(store.similar_errors(&vector(n), "another", WANTED).await.unwrap(), []);
        assert_eq!(found(&store, n).await, expected(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_other_vectors_is_not_used() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    // What is under the name of the index that this store would make.
    let longer = CouchbaseSettings { dimension: Some(DIMENSION + 1), ..bucket.settings() };
    CouchbaseStore::open(longer, &bucket.tasks).await.unwrap().prepared().await;
    let http = reqwest::Client::new();
    let at = |n| {
        let search = bucket.double().http(Service::Search);
        format!("{search}/api/bucket/jobber/scope/_default/index/jobber_errors_{n}")
    };
    let shown = http.get(at(DIMENSION + 1)).basic_auth("jobber", Some("secret")).send().await.unwrap();
    let shown: serde_json::Value = shown.error_for_status().unwrap().json().await.unwrap();
    let mut other = shown["indexDef"].clone();
    let fields = other.as_object_mut().unwrap();
    fields.remove("uuid");
    fields.remove("name");
    let made = http.put(at(DIMENSION)).basic_auth("jobber", Some("secret")).json(&other).send().await.unwrap();
    made.error_for_status().unwrap();
    let store = open(&bucket).await;
    with_errors(&store).await;
    for n in 0..3 {
        assert_eq!(found(&store, n).await, expected(n));
    }
}

/// What a starting server says of the index.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_what_it_made_and_what_is_missing() {
    let full = Rights { collections: true, indexes: true, search: true };
    let cases = [
        (Options::default(), "made the vector search index jobber_errors_"),
        (Options { search: false, ..Options::default() }, "Couchbase has no search service"),
        (
            Options { rights: Rights { search: false, ..full }, ..Options::default() },
            "by a user with the role fts_admin",
        ),
    ];
    for (options, words) in cases {
        let double = CouchbaseDouble::with(options);
        let place = Place::new();
        let serve = || Jobber::serve().at(&place).env("JOBBER_STORE_URL", &double.url());
        let mut jobber = serve().start().await;
        eventually(words, async || jobber.log().contains(words).then_some(())).await;
        if !words.starts_with("made") {
            assert!(jobber.log().contains("which reads them all"), "it says what that costs: {}", jobber.log());
        }
        jobber.stop().await;
        // Another start finds it there.
        let again = serve().start().await;
        eventually("it to be ready", async || (again.get("/readyz").await.0 == 200).then_some(())).await;
        assert!(!again.log().contains("made the vector"), "{}", again.log());
    }
}
