//! Indexes are made as soon as they can be, whatever comes up late, and said to be missing until then.

use jobber::domain::PageRequest;
use jobber::store::couchbase::CouchbaseStore;
use jobber::store::{History, JobFilter};
use serde_json::json;

use crate::harness::couchbase::Bucket;
use crate::harness::couchbase_double::{CouchbaseDouble, Fault, Options, Service};
use crate::harness::{Jobber, eventually};

const ALL: usize = 8;

async fn lists_work(store: &CouchbaseStore) {
    eventually("lists to work", async || {
        store.jobs(&JobFilter::default(), PageRequest::first(5)).await.ok().filter(|_| store.lacks().is_none())
    })
    .await;
}

/// The query service hears of a collection a while after it was made.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_made_when_the_query_service_has_heard_of_the_collection() {
    let double = CouchbaseDouble::with(Options { query_lag: 20, ..Options::default() });
    let bucket = Bucket::of(double);
    let store = bucket.open().await;
    let lack = eventually("the lack to be told", async || store.lacks()).await;
    assert!(lack.contains("jobber_by_time") && lack.contains("Keyspace not found"), "{lack}");
    lists_work(&store).await;
    assert_eq!(bucket.double().indexes().len(), ALL);
}

/// The query service is up after the documents: it is not in the cluster's map, or in it and does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_made_when_the_query_service_comes_up_late() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let services = bucket.double().without_query();
    let jobber = Jobber::dev().env("JOBBER_STORE_URL", &bucket.double().url()).start().await;
    let ready = eventually("the server to be degraded", async || {
        let (status, ready) = jobber.get("/readyz").await;
        (status == 200 && ready["components"]["store"]["status"] == "degraded").then_some(ready)
    })
    .await;
    assert_eq!(ready["status"], "degraded", "{ready}");
    assert!(ready["components"]["store"]["error"].as_str().unwrap().contains("no query service"), "{ready}");
    assert_eq!(jobber.cli(&["health"]).await.code, 0);
    assert_eq!(jobber.get("/api/v1/jobs").await.0, 503);

    let broken = bucket.double().fault(Fault::Disconnect.at(Service::Query).times(3));
    bucket.double().with_services(services);
    eventually("the server to be ready", async || {
        let (_, ready) = jobber.get("/readyz").await;
        (ready["status"] == "ready").then_some(())
    })
    .await;
    assert_eq!(broken.count(), 3);
    assert_eq!(jobber.get("/api/v1/jobs").await.0, 200);
}

/// The index service refuses all indexes of a cluster that was never told how to store them.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_made_when_the_index_service_has_been_told_how_to_store_them() {
    let bucket = Bucket::of(CouchbaseDouble::with(Options { storage_mode: String::new(), ..Options::default() }));
    let store = bucket.open().await;
    store.prepared().await;
    let lack = store.lacks().unwrap_or_default();
    assert!(lack.contains("Storage Mode"), "{lack}");
    bucket.double().set_storage_mode("plasma");
    lists_work(&store).await;
}

/// Dropped by somebody, or with the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_gone_is_made_again() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    lists_work(&store).await;
    super::lists::query(bucket.double(), "DROP INDEX `jobber_by_time` ON jobs").await;
    let gone = store.jobs(&JobFilter::default(), PageRequest::first(5)).await;
    assert!(gone.unwrap_err().to_string().contains("index"));
    lists_work(&store).await;
}

/// The statement can be copied to where nothing says which bucket and scope are meant; copies of indexes are asked for.
#[tokio::test(flavor = "multi_thread")]
async fn the_hint_names_the_whole_keyspace() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let jobber = Jobber::dev()
        .env("JOBBER_STORE_URL", &bucket.double().url())
        .env("JOBBER_STORE_SCOPE", "team")
        .env("JOBBER_STORE_NUM_REPLICA", "1")
        .start()
        .await;
    let statement = eventually("the hint", async || {
        let log = jobber.log();
        let at = log.find("CREATE INDEX `jobber_by_time`")?;
        Some(log[at..].split(';').next().unwrap().to_owned())
    })
    .await;
    let whole = "CREATE INDEX `jobber_by_time` ON `jobber`.`team`.`jobs`(place DESC) WHERE removed = FALSE";
    assert_eq!(statement, format!("{whole} WITH {{\"num_replica\": 1}}"));
    assert!(jobber.log().contains("replica count of 1"), "the reason");
    super::lists::query(bucket.double(), whole).await;
    assert_eq!(bucket.double().indexes(), ["jobber_by_time"]);
}

/// The community edition: no vectors, one copy of each index; and with fewer services still.
#[tokio::test(flavor = "multi_thread")]
async fn the_community_edition_has_all_but_vectors() {
    let bucket = Bucket::of(CouchbaseDouble::with(Options {
        enterprise: false,
        storage_mode: "forestdb".into(),
        ..Options::default()
    }));
    let jobber = bucket.environment().iter().fold(Jobber::dev(), |start, (key, value)| start.env(key, value));
    let jobber = jobber.start().await;
    jobber.job("bad", "#!/bin/sh\necho no such file >&2\nexit 3\n");
    let id = jobber.submit(json!({"name": "bad", "attempts": 1})).await;
    jobber.wait_final(&id).await;
    eventually("the server to be ready", async || (jobber.get("/readyz").await.1["status"] == "ready").then_some(()))
        .await;
    assert_eq!(jobber.get("/api/v1/jobs").await.0, 200);
    eventually("the error to be found", async || {
        let (status, similar) = jobber.get("/api/v1/failures/similar?text=file").await;
        (status == 200 && similar["items"][0]["similarity"].is_number()).then_some(())
    })
    .await;
    eventually("the log to say so", async || {
        jobber.log().contains("errors like another one are found by").then_some(())
    })
    .await;
}
