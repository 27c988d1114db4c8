//! Each fault, and what the SDK makes of it.

use std::time::Duration;

use couchbase::error::ErrorKind;
use couchbase::options::kv_options::UpsertOptions;
use serde_json::{Value, json};

use super::{collection, connect, exists, kind, never, unanswered, within};
use crate::harness::couchbase_double::wire::{opcode, status};
use crate::harness::couchbase_double::{CouchbaseDouble, Fault, Service};
use crate::harness::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_the_right_kind_of_error() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    documents.upsert("a", json!(1), None).await.unwrap();
    let refusals = [
        (status::TEMPORARY_FAILURE, ErrorKind::TemporaryFailure),
        (status::KEY_EXISTS, ErrorKind::CasMismatch),
        (status::LOCKED, ErrorKind::DocumentLocked),
        (status::DURABILITY_IMPOSSIBLE, ErrorKind::DurabilityImpossible),
        (status::SYNC_WRITE_IN_PROGRESS, ErrorKind::DurabilityWriteInProgress),
        (status::SYNC_WRITE_AMBIGUOUS, ErrorKind::DurabilityAmbiguous),
        (status::RATE_LIMITED_MAX_COMMANDS, ErrorKind::RateLimitedFailure),
        (status::TOO_BIG, ErrorKind::ValueTooLarge),
        (status::NO_ACCESS, ErrorKind::AuthenticationFailure),
    ];
    for (status, expected) in refusals {
        let hits = double.fault(Fault::Refuse(status).times(1));
        assert_eq!(kind(within(documents.upsert("a", json!(2), None)).await), expected, "{status:#x}");
        assert_eq!(hits.count(), 1);
    }
    for status in [status::BUSY, status::OUT_OF_MEMORY, status::INTERNAL] {
        double.fault(Fault::Refuse(status).times(1));
        let error = within(documents.upsert("a", json!(2), None)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::OtherFailure(_)), "{status:#x}: {error}");
    }
    assert_eq!(documents.get("a", None).await.unwrap().content_as::<Value>().unwrap(), json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_that_tries_again_gets_through() {
    let double = CouchbaseDouble::start();
    let cluster = connect(&double).await;
    let documents = cluster.bucket("jobber").default_collection();
    for status in [status::TEMPORARY_FAILURE, status::BUSY, status::NOT_MY_VBUCKET, status::UNKNOWN_COLLECTION] {
        let hits = double.fault(Fault::Refuse(status).on(&[opcode::SET]).times(3));
        within(documents.upsert("a", json!(status), None)).await.unwrap();
        assert_eq!(hits.count(), 3, "{status:#x}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_write_may_have_been_written() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let durable = || UpsertOptions::new().durability_level(couchbase::durability_level::DurabilityLevel::MAJORITY);
    double.fault(Fault::DoAndRefuse(status::SYNC_WRITE_AMBIGUOUS).times(1));
    let result = within(documents.upsert("a", json!(1), durable())).await;
    assert_eq!(kind(result), ErrorKind::DurabilityAmbiguous);
    assert!(exists(&documents, "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_stay_without_an_answer() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let hits = double.fault(Fault::Ignore.times(1));
    unanswered("a request to be ignored", documents.insert("a", json!(1), None), || hits.count() == 1).await;
    assert!(!exists(&documents, "a").await);
    let hits = double.fault(Fault::DoAndIgnore.times(1));
    unanswered("a request to be done", documents.insert("a", json!(1), None), || hits.count() == 1).await;
    assert!(exists(&documents, "a").await);
    double.fault(Fault::Delay(Duration::from_millis(200)).times(1));
    within(documents.get("a", None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_is_made_again() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    double.fault(Fault::Disconnect.times(1));
    let cut = |error: &couchbase::error::Error| error.to_string().contains("Closed in flight");
    let error = within(documents.insert("a", json!(1), None)).await.unwrap_err();
    assert!(cut(&error), "{error}");
    // What the SDK hands to a connection that is just being lost, it may never answer: so each try has its time.
    let second = Duration::from_secs(1);
    let hits = double.fault(Fault::DoAndDisconnect.on(&[opcode::ADD]).times(1));
    eventually("a connection that writes and then drops", async || {
        tokio::time::timeout(second, documents.insert("b", json!(1), None)).await.ok();
        (hits.count() == 1).then_some(())
    })
    .await;
    eventually("the written document", async || {
        tokio::time::timeout(second, documents.get("b", None)).await.ok()?.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn away_and_back_keeps_documents_and_ports() {
    let double = CouchbaseDouble::start();
    let cluster = connect(&double).await;
    let documents = cluster.bucket("jobber").default_collection();
    within(documents.upsert("a", json!("kept"), None)).await.unwrap();
    let address = double.connection_string();
    for _ in 0..3 {
        double.away();
        let refused = tokio::net::TcpStream::connect(("127.0.0.1", double.port())).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        never(documents.get("a", None)).await;
        double.back();
        let found = within(documents.get("a", None)).await.unwrap();
        assert_eq!(found.content_as::<Value>().unwrap(), json!("kept"));
    }
    assert_eq!(double.connection_string(), address);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_over_http_fail_too() {
    let double = CouchbaseDouble::start();
    let cluster = connect(&double).await;
    let bucket = cluster.bucket("jobber");
    let manager = bucket.collections();
    double.fault(Fault::RefuseWith(500, "broken".into()).at(Service::Management).times(1));
    assert!(within(manager.create_scope("s", None)).await.unwrap_err().to_string().contains("broken"));
    double.fault(Fault::Disconnect.at(Service::Management).containing("/scopes").times(1));
    assert!(within(manager.get_all_scopes(None)).await.is_err() || double.seen(Service::Management) > 2);
    let hits = double.fault(Fault::Ignore.at(Service::Management).times(1));
    unanswered("a request to be ignored", manager.get_all_scopes(None), || hits.count() == 1).await;
    within(manager.create_scope("s", None)).await.unwrap();
}
