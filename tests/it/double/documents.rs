//! Whole documents through the SDK.

use std::time::Duration;

use couchbase::durability_level::DurabilityLevel;
use couchbase::error::ErrorKind;
use couchbase::options::kv_binary_options::{DecrementOptions, IncrementOptions};
use couchbase::options::kv_options::{GetOptions, InsertOptions, RemoveOptions, ReplaceOptions, UpsertOptions};
use serde_json::{Value, json};

use super::{collection, connect, exists, kind, within};
use crate::harness::couchbase_double::wire::{feature, opcode};
use crate::harness::couchbase_double::{CouchbaseDouble, Options};

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_written_read_and_removed() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let document = json!({ "name": "resize", "size": 3 });

    assert_eq!(kind(documents.get("a", None).await), ErrorKind::DocumentNotFound);
    assert_eq!(kind(documents.replace("a", &document, None).await), ErrorKind::DocumentNotFound);
    assert_eq!(kind(documents.remove("a", None).await), ErrorKind::DocumentNotFound);
    assert!(!exists(&documents, "a").await);

    let inserted = documents.insert("a", &document, None).await.unwrap();
    assert_eq!(kind(documents.insert("a", &document, None).await), ErrorKind::DocumentExists);
    let found = documents.get("a", None).await.unwrap();
    assert_eq!((found.cas(), found.content_as::<Value>().unwrap()), (inserted.cas(), document));

    let upserted = documents.upsert("a", json!([1, 2]), None).await.unwrap();
    assert!(upserted.cas() > inserted.cas());
    let (before, after) = (inserted.mutation_token().unwrap(), upserted.mutation_token().unwrap());
    assert_ne!(before, after);
    assert_eq!(documents.exists("a", None).await.unwrap().cas(), upserted.cas());

    documents.remove("a", None).await.unwrap();
    assert_eq!(kind(documents.get("a", None).await), ErrorKind::DocumentNotFound);
    assert!(!exists(&documents, "a").await);
    documents.insert("a", json!(1), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_with_an_old_version_changes_nothing() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let first = documents.upsert("a", json!(1), None).await.unwrap().cas();
    let second = documents.replace("a", json!(2), ReplaceOptions::new().cas(first)).await.unwrap().cas();

    let stale = ReplaceOptions::new().cas(first);
    assert_eq!(kind(documents.replace("a", json!(3), stale).await), ErrorKind::CasMismatch);
    assert_eq!(kind(documents.remove("a", RemoveOptions::new().cas(first)).await), ErrorKind::CasMismatch);
    assert_eq!(documents.get("a", None).await.unwrap().content_as::<Value>().unwrap(), json!(2));
    documents.remove("a", RemoveOptions::new().cas(second)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_with_the_same_version_one_wins() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let cas = documents.upsert("a", json!(0), None).await.unwrap().cas();
    let writes = (0..50).map(|n| documents.replace("a", json!(n), ReplaceOptions::new().cas(cas)));
    let results = futures_util::future::join_all(writes).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_expire() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let hour = Duration::from_secs(3600);
    documents.upsert("short", json!(1), UpsertOptions::new().expiry(hour)).await.unwrap();
    documents.upsert("long", json!(1), UpsertOptions::new().expiry(hour * 24 * 60)).await.unwrap();
    documents.upsert("kept", json!(1), UpsertOptions::new().expiry(hour)).await.unwrap();
    documents.upsert("kept", json!(2), UpsertOptions::new().preserve_expiry(true)).await.unwrap();
    documents.upsert("lifted", json!(1), UpsertOptions::new().expiry(hour)).await.unwrap();
    documents.upsert("lifted", json!(2), None).await.unwrap();
    documents.upsert("touched", json!(1), UpsertOptions::new().expiry(hour)).await.unwrap();
    documents.touch("touched", hour * 3, None).await.unwrap();

    let found = documents.get("kept", GetOptions::new().expiry(true)).await.unwrap();
    let expiry = found.expiry_time().unwrap().timestamp();
    double.advance(hour + Duration::from_secs(2));
    for (name, there) in [("short", false), ("long", true), ("kept", false), ("lifted", true), ("touched", true)] {
        assert_eq!(exists(&documents, name).await, there, "{name}");
    }
    assert!(expiry > 0);
    let found = documents.get_and_touch("touched", hour, None).await.unwrap();
    assert_eq!(found.content_as::<Value>().unwrap(), json!(1));
    double.advance(hour + Duration::from_secs(2));
    assert_eq!(kind(documents.get("touched", None).await), ErrorKind::DocumentNotFound);
    documents.insert("short", json!(1), InsertOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_document_is_its_lockers_alone() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    documents.upsert("a", json!(1), None).await.unwrap();
    let lock = Duration::from_secs(10);
    let held = documents.get_and_lock("a", lock, None).await.unwrap().cas();

    assert_eq!(kind(documents.get_and_lock("a", lock, None).await), ErrorKind::DocumentLocked);
    assert_eq!(kind(documents.upsert("a", json!(2), None).await), ErrorKind::DocumentLocked);
    assert_eq!(kind(documents.remove("a", None).await), ErrorKind::DocumentLocked);
    let seen = documents.get("a", None).await.unwrap();
    assert_eq!(seen.cas(), u64::MAX);
    assert_eq!(kind(documents.unlock("a", held + 1, None).await), ErrorKind::CasMismatch);
    documents.unlock("a", held, None).await.unwrap();
    assert_eq!(kind(documents.unlock("a", held, None).await), ErrorKind::DocumentNotLocked);

    let held = documents.get_and_lock("a", lock, None).await.unwrap().cas();
    documents.replace("a", json!(3), ReplaceOptions::new().cas(held)).await.unwrap();
    documents.get_and_lock("a", lock, None).await.unwrap();
    double.advance(lock + Duration::from_secs(1));
    documents.upsert("a", json!(4), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_and_pieces() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let counters = documents.binary();
    assert_eq!(kind(counters.increment("n", None).await), ErrorKind::DocumentNotFound);
    let initial = IncrementOptions::new().initial(5);
    assert_eq!(counters.increment("n", initial).await.unwrap().content(), 5);
    assert_eq!(counters.increment("n", IncrementOptions::new().delta(3)).await.unwrap().content(), 8);
    assert_eq!(counters.decrement("n", DecrementOptions::new().delta(100)).await.unwrap().content(), 0);

    documents.upsert("text", json!("no number"), None).await.unwrap();
    assert!(counters.increment("text", None).await.is_err());

    documents.upsert_raw("raw", b"b", 0, None).await.unwrap();
    counters.append("raw", b"c", None).await.unwrap();
    counters.prepend("raw", b"a", None).await.unwrap();
    assert_eq!(documents.get("raw", None).await.unwrap().content_as_raw().0, b"abc");
    assert!(counters.append("none", b"c", None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_writes_are_written() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    for level in [DurabilityLevel::MAJORITY, DurabilityLevel::PERSIST_TO_MAJORITY] {
        documents.upsert("a", json!(1), UpsertOptions::new().durability_level(level)).await.unwrap();
    }
    assert_eq!(documents.get("a", None).await.unwrap().content_as::<Value>().unwrap(), json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_documents_and_long_names_have_limits() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    // Repeats itself, so that the SDK sends it compressed.
    let large = "x".repeat(1 << 20);
    documents.upsert("large", &large, None).await.unwrap();
    assert_eq!(documents.get("large", None).await.unwrap().content_as::<String>().unwrap(), large);
    let compressed = double.bucket(|bucket| bucket.collection(0).all(|(_, document)| document.compressed));
    assert!(compressed, "the SDK compresses what shrinks");
    let too_large = "x".repeat(20 << 20);
    assert_eq!(kind(within(documents.upsert("too", &too_large, None)).await), ErrorKind::ValueTooLarge);
    assert!(documents.upsert("k".repeat(250), json!(1), None).await.is_ok());
    assert!(documents.upsert("k".repeat(251), json!(1), None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_fewer_features_serves_too() {
    let without = vec![feature::SNAPPY, feature::SNAPPY_EVERYWHERE, feature::MUTATION_TOKENS, feature::TRACING];
    let double = CouchbaseDouble::with(Options { without, vbuckets: 1024, ..Options::default() });
    let documents = collection(&double).await;
    let written = documents.upsert("a", "y".repeat(4096), None).await.unwrap();
    assert!(written.mutation_token().is_none());
    assert_eq!(documents.get("a", None).await.unwrap().content_as::<String>().unwrap().len(), 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_follow_the_vbuckets_to_another_node() {
    let double = CouchbaseDouble::with(Options { nodes: 2, ..Options::default() });
    let cluster = connect(&double).await;
    let documents = cluster.bucket("jobber").default_collection();
    for n in 0..20 {
        within(documents.upsert(format!("k{n}"), json!(n), None)).await.unwrap();
    }
    double.move_all_to(1);
    for n in 0..20 {
        let found = within(documents.get(format!("k{n}"), None)).await.unwrap();
        assert_eq!(found.content_as::<Value>().unwrap(), json!(n));
    }
    double.move_all_to(0);
    assert!(exists(&documents, "k1").await);
    assert!(double.seen_of(opcode::GET) >= 20);
}
