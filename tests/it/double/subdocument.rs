//! Parts of documents through the SDK.

use couchbase::collection::Collection;
use couchbase::error::ErrorKind;
use couchbase::options::kv_options::{GetOptions, LookupInOptions, MutateInOptions, StoreSemantics};
use couchbase::subdoc::lookup_in_specs::{GetSpecOptions, LookupInSpec};
use couchbase::subdoc::macros::MutateInMacros;
use couchbase::subdoc::mutate_in_specs::{
    ArrayAddUniqueSpecOptions, IncrementSpecOptions, InsertSpecOptions, MutateInSpec, UpsertSpecOptions,
};
use serde_json::{Value, json};

use super::{collection, kind};
use crate::harness::couchbase_double::CouchbaseDouble;

async fn read(documents: &Collection, key: &str) -> Value {
    documents.get(key, None).await.unwrap().content_as().unwrap()
}

fn get(path: &str) -> LookupInSpec {
    LookupInSpec::get(path, None)
}

fn upsert(path: &str, value: impl serde::Serialize) -> MutateInSpec {
    MutateInSpec::upsert(path, value, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_answer_path_by_path() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let document = json!({ "a": { "b": [10, 20, { "c": "deep" }] }, "dot.ted": null, "n": 1 });
    documents.upsert("d", &document, None).await.unwrap();
    let specs = [
        get("a.b[2].c"),
        get("a.b[-1]"),
        get("`dot.ted`"),
        LookupInSpec::count("a.b", None),
        LookupInSpec::count("", None),
        LookupInSpec::exists("n", None),
        LookupInSpec::exists("m", None),
        get("m"),
        get("n.x"),
        get("a.b.c"),
        get("a..b"),
        get("a.b[9]"),
        get(""),
    ];
    let found = documents.lookup_in("d", &specs, None).await.unwrap();
    let value = |index: usize| found.content_as::<Value>(index);
    assert_eq!(value(0).unwrap(), json!("deep"));
    assert_eq!(value(1).unwrap(), json!({ "c": "deep" }));
    assert_eq!(value(2).unwrap(), Value::Null);
    assert_eq!((value(3).unwrap(), value(4).unwrap()), (json!(3), json!(3)));
    assert_eq!((found.exists(5).unwrap(), found.exists(6).unwrap()), (true, false));
    assert_eq!(kind(value(7)), ErrorKind::PathNotFound);
    assert_eq!(kind(value(8)), ErrorKind::PathMismatch);
    assert_eq!(kind(value(9)), ErrorKind::PathMismatch);
    assert_eq!(kind(value(10)), ErrorKind::PathInvalid);
    assert_eq!(kind(value(11)), ErrorKind::PathNotFound);
    assert_eq!(value(12).unwrap(), document);
    assert_eq!(kind(documents.lookup_in("none", &[get("a")], None).await), ErrorKind::DocumentNotFound);

    documents.upsert_raw("raw", b"\x01\x02", 0, None).await.unwrap();
    let found = documents.lookup_in("raw", &[get("a")], LookupInOptions::new()).await.unwrap();
    assert_eq!(kind(found.content_as::<Value>(0)), ErrorKind::DocumentNotJSON);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_are_done_together_or_not_at_all() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    documents.upsert("d", json!({ "n": 1, "list": [1, 2], "old": true }), None).await.unwrap();
    let done = documents
        .mutate_in(
            "d",
            &[
                upsert("n2", 5),
                MutateInSpec::insert("new", "x", None).unwrap(),
                MutateInSpec::replace("n", 2, None).unwrap(),
                MutateInSpec::remove("old", None),
                MutateInSpec::array_append("list", &[3, 4], None).unwrap(),
                MutateInSpec::array_prepend("list", &[0], None).unwrap(),
                MutateInSpec::array_insert("list[1]", &["in"], None).unwrap(),
                MutateInSpec::array_add_unique("list", 9, None).unwrap(),
                MutateInSpec::increment("n2", 2, None).unwrap(),
                MutateInSpec::decrement("n2", 10, None).unwrap(),
                MutateInSpec::upsert("made.on.the.way", 1, UpsertSpecOptions::new().create_path(true)).unwrap(),
            ],
            None,
        )
        .await
        .unwrap();
    assert_eq!((done.content_as::<i64>(8).unwrap(), done.content_as::<i64>(9).unwrap()), (7, -3));
    assert!(done.mutation_token().is_some());
    let expected = json!({
        "n": 2, "list": [0, "in", 1, 2, 3, 4, 9], "n2": -3, "new": "x", "made": { "on": { "the": { "way": 1 } } }
    });
    assert_eq!(read(&documents, "d").await, expected);

    let failing = [
        (MutateInSpec::insert("n", 1, None).unwrap(), ErrorKind::PathExists),
        (MutateInSpec::replace("m", 1, None).unwrap(), ErrorKind::PathNotFound),
        (MutateInSpec::remove("m", None), ErrorKind::PathNotFound),
        (upsert("x.y.z", 1), ErrorKind::PathNotFound),
        (upsert("list.x", 1), ErrorKind::PathMismatch),
        (upsert("list[0]", 1), ErrorKind::PathInvalid),
        (upsert("a[", 1), ErrorKind::PathInvalid),
        (MutateInSpec::array_append("n", &[1], None).unwrap(), ErrorKind::PathMismatch),
        (MutateInSpec::array_insert("list[99]", &[1], None).unwrap(), ErrorKind::PathNotFound),
        (MutateInSpec::array_add_unique("list", 9, None).unwrap(), ErrorKind::PathExists),
        (MutateInSpec::increment("new", 1, None).unwrap(), ErrorKind::PathMismatch),
        (upsert(&vec!["p"; 33].join("."), 1), ErrorKind::PathTooBig),
    ];
    for (spec, expected) in failing {
        let specs = [upsert("n", 100), spec];
        assert_eq!(kind(documents.mutate_in("d", &specs, None).await), expected, "{specs:?}");
    }
    assert_eq!(read(&documents, "d").await, expected);
    let many: Vec<_> = (0..17).map(|n| upsert(&format!("k{n}"), n)).collect();
    assert!(documents.mutate_in("d", &many, None).await.is_err(), "at most 16 paths");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_made_by_their_parts() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    let semantics = |semantics| MutateInOptions::new().store_semantics(semantics);
    let specs = [upsert("a.b", 1)];
    assert_eq!(kind(documents.mutate_in("d", &specs, None).await), ErrorKind::DocumentNotFound);
    documents.mutate_in("d", &specs, semantics(StoreSemantics::Upsert)).await.unwrap();
    documents.mutate_in("d", &[upsert("c", 2)], semantics(StoreSemantics::Upsert)).await.unwrap();
    assert_eq!(read(&documents, "d").await, json!({ "a": { "b": 1 }, "c": 2 }));
    // The SDK calls both a mismatch of versions and a document that is already there by the same name.
    let exists = documents.mutate_in("d", &specs, semantics(StoreSemantics::Insert)).await;
    assert_eq!(kind(exists), ErrorKind::CasMismatch);
    documents.mutate_in("e", &specs, semantics(StoreSemantics::Insert)).await.unwrap();
    let list = [MutateInSpec::array_append("", &[1, 2], None).unwrap()];
    documents.mutate_in("list", &list, semantics(StoreSemantics::Upsert)).await.unwrap();
    assert_eq!(read(&documents, "list").await, json!([1, 2]));

    let cas = documents.get("e", None).await.unwrap().cas();
    documents.mutate_in("e", &specs, MutateInOptions::new().cas(cas)).await.unwrap();
    assert_eq!(kind(documents.mutate_in("e", &specs, MutateInOptions::new().cas(cas)).await), ErrorKind::CasMismatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_may_be_32_levels_deep() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    documents.upsert("d", json!({}), None).await.unwrap();
    let deep = (0..31).fold(json!(1), |inner, _| json!([inner]));
    documents.mutate_in("d", &[upsert("x", &deep)], None).await.unwrap();
    let deeper = json!([deep]);
    assert_eq!(kind(documents.mutate_in("d", &[upsert("x", &deeper)], None).await), ErrorKind::ValueTooDeep);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_lie_beside_the_body() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    documents.upsert("d", json!({ "body": 1 }), None).await.unwrap();
    let xattr = || UpsertSpecOptions::new().xattr(true).create_path(true);
    let specs = [
        MutateInSpec::upsert("meta.who", "me", xattr()).unwrap(),
        MutateInSpec::upsert("meta.cas", MutateInMacros::CAS, xattr()).unwrap(),
        upsert("body", 2),
    ];
    let written = documents.mutate_in("d", &specs, None).await.unwrap();
    let shown = |path: &str| LookupInSpec::get(path, GetSpecOptions::new().xattr(true));
    let specs = [shown("meta.who"), shown("meta.cas"), shown("$document.CAS"), shown("$document.exptime"), get("body")];
    let found = documents.lookup_in("d", &specs, None).await.unwrap();
    assert_eq!(found.content_as::<Value>(0).unwrap(), json!("me"));
    assert_eq!(found.content_as::<String>(1).unwrap(), format!("{:#018x}", written.cas().swap_bytes()));
    assert_eq!(found.content_as::<String>(2).unwrap(), format!("{:#018x}", written.cas()));
    assert_eq!((found.content_as::<u64>(3).unwrap(), found.content_as::<Value>(4).unwrap()), (0, json!(2)));
    assert_eq!(read(&documents, "d").await, json!({ "body": 2 }));

    documents.upsert("d", json!({ "body": 3 }), None).await.unwrap();
    let found = documents.lookup_in("d", &[shown("meta.who")], None).await.unwrap();
    assert_eq!(found.content_as::<Value>(0).unwrap(), json!("me"), "a new body leaves the attributes");
    let two = [MutateInSpec::upsert("one", 1, xattr()).unwrap(), MutateInSpec::upsert("two", 1, xattr()).unwrap()];
    assert_eq!(kind(documents.mutate_in("d", &two, None).await), ErrorKind::XattrInvalidKeyCombo);
    let of_server = [MutateInSpec::upsert("$document.CAS", 1, xattr()).unwrap()];
    assert_eq!(kind(documents.mutate_in("d", &of_server, None).await), ErrorKind::XattrCannotModifyVirtualAttribute);
    let found = documents.get("d", GetOptions::new().projections(vec!["body".into()])).await.unwrap();
    assert_eq!(found.content_as::<Value>().unwrap(), json!({ "body": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_mutations_lose_nothing() {
    let double = CouchbaseDouble::start();
    let documents = collection(&double).await;
    documents.upsert("d", json!({ "n": 0, "seen": {} }), None).await.unwrap();
    let changes = (0..100).map(|n| {
        let documents = documents.clone();
        async move {
            let specs = [
                MutateInSpec::increment("n", 1, IncrementSpecOptions::new()).unwrap(),
                MutateInSpec::insert(format!("seen.k{n}"), n, InsertSpecOptions::new()).unwrap(),
                MutateInSpec::array_add_unique("list", n, ArrayAddUniqueSpecOptions::new().create_path(true)).unwrap(),
            ];
            documents.mutate_in("d", &specs, None).await.unwrap();
        }
    });
    futures_util::future::join_all(changes).await;
    let found = read(&documents, "d").await;
    assert_eq!(found["n"], 100);
    assert_eq!((found["seen"].as_object().unwrap().len(), found["list"].as_array().unwrap().len()), (100, 100));
}
