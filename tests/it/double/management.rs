//! Logging in, and the cluster manager.

use std::time::Duration;

use couchbase::authenticator::PasswordAuthenticator;
use couchbase::cluster::Cluster;
use couchbase::error::ErrorKind;
use couchbase::management::collections::collection_settings::CreateCollectionSettings;
use couchbase::options::cluster_options::{ClusterOptions, TlsOptions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::{collection, connect, exists, kind, never, options, unanswered, within};
use crate::harness::couchbase_double::wire::opcode;
use crate::harness::couchbase_double::{CouchbaseDouble, Options, Rights, Service};

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_a_wrong_password_is_not_let_in() {
    let double = CouchbaseDouble::start();
    for (user, password) in [("jobber", "wrong"), ("nobody", "secret")] {
        let options = ClusterOptions::new(PasswordAuthenticator::new(user, password).into());
        // The SDK itself tries for ever; what it is told is in the log of the double.
        let before = double.seen_of(opcode::SASL_STEP);
        let connecting = Cluster::connect(double.connection_string(), options);
        unanswered("a password to be refused", connecting, || double.seen_of(opcode::SASL_STEP) > before).await;
        assert_eq!(double.seen_of(opcode::GET_CLUSTER_CONFIG), 0);
    }
    connect(&double).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_only_who_trusts_the_authority_gets_through() {
    let double = CouchbaseDouble::with(Options { tls: true, ..Options::default() });
    let ca = CertificateDer::from_pem_file(double.ca()).unwrap();
    let trusting = options(&double).tls_options(TlsOptions::new().add_ca_certificate(ca));
    let cluster = within(Cluster::connect(double.connection_string(), trusting)).await.unwrap();
    let bucket = cluster.bucket("jobber");
    within(bucket.default_collection().upsert("a", json!(1), None)).await.unwrap();
    within(bucket.collections().create_scope("s", None)).await.unwrap();

    // The SDK tries for ever with a certificate of an authority that it does not know.
    let other = CouchbaseDouble::with(Options { tls: true, ..Options::default() });
    never(Cluster::connect(other.connection_string(), options(&other))).await;
    assert_eq!(other.seen(Service::KeyValue), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_never_ready() {
    let double = CouchbaseDouble::start();
    let cluster = connect(&double).await;
    let bucket = cluster.bucket("nowhere");
    never(bucket.wait_until_ready(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_and_collections_are_made_and_dropped() {
    let double = CouchbaseDouble::start();
    let cluster = connect(&double).await;
    let bucket = cluster.bucket("jobber");
    let manager = bucket.collections();
    let made = |scope: &'static str, name: &'static str| manager.create_collection(scope, name, None, None);

    within(manager.create_scope("shop", None)).await.unwrap();
    within(made("shop", "jobs")).await.unwrap();
    within(made("_default", "jobs")).await.unwrap();
    assert_eq!(kind(within(manager.create_scope("shop", None)).await), ErrorKind::ScopeExists);
    assert_eq!(kind(within(made("shop", "jobs")).await), ErrorKind::CollectionExists);
    assert_eq!(kind(within(made("none", "jobs")).await), ErrorKind::ScopeNotFound);
    assert!(within(made("shop", "_hidden")).await.is_err());

    // The same key in two collections is two documents.
    let (here, there) = (bucket.scope("shop").collection("jobs"), bucket.collection("jobs"));
    within(here.upsert("a", json!("here"), None)).await.unwrap();
    within(there.upsert("a", json!("there"), None)).await.unwrap();
    assert_eq!(within(here.get("a", None)).await.unwrap().content_as::<Value>().unwrap(), json!("here"));
    assert!(within(here.upsert("k".repeat(246), json!(1), None)).await.is_ok());
    assert!(within(here.upsert("k".repeat(247), json!(1), None)).await.is_err());

    let scopes = within(manager.get_all_scopes(None)).await.unwrap();
    let names: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
    assert_eq!(names, ["_default", "shop"]);

    within(manager.drop_collection("shop", "jobs", None)).await.unwrap();
    assert_eq!(kind(within(manager.drop_collection("shop", "jobs", None)).await), ErrorKind::CollectionNotFound);
    within(made("shop", "jobs")).await.unwrap();
    let again = within(bucket.scope("shop").collection("jobs").get("a", None)).await;
    assert_eq!(kind(again), ErrorKind::DocumentNotFound);
    within(manager.drop_scope("shop", None)).await.unwrap();
    assert_eq!(kind(within(manager.drop_scope("shop", None)).await), ErrorKind::ScopeNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_limits_the_life_of_its_documents() {
    let double = CouchbaseDouble::start();
    let cluster = connect(&double).await;
    let bucket = cluster.bucket("jobber");
    let settings = CreateCollectionSettings::new().max_expiry(
        couchbase::management::collections::collection_settings::MaxExpiryValue::Seconds(Duration::from_secs(60)),
    );
    within(bucket.collections().create_collection("_default", "short", settings, None)).await.unwrap();
    let short = bucket.collection("short");
    within(short.upsert("a", json!(1), None)).await.unwrap();
    double.advance(Duration::from_secs(62));
    assert!(!exists(&short, "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_collections_is_told() {
    let rights = Rights { collections: false, indexes: false, search: false };
    let double = CouchbaseDouble::with(Options { rights, ..Options::default() });
    let cluster = connect(&double).await;
    let refused = within(cluster.bucket("jobber").collections().create_scope("s", None)).await.unwrap_err();
    assert!(refused.to_string().contains("collections!write"), "{refused}");
    let documents = collection(&double).await;
    documents.upsert("a", json!(1), None).await.unwrap();
}
