//! The query service through the SDK.

use couchbase::error::ErrorKind;
use couchbase::options::query_index_mgmt_options::{CreatePrimaryQueryIndexOptions, CreateQueryIndexOptions};
use couchbase::options::query_options::QueryOptions;
use couchbase::scope::Scope;
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::{Held, connect, kind, within};
use crate::harness::couchbase_double::{CouchbaseDouble, Fault, Options, Rights, Service};

/// The default scope of a double, with a collection `jobs` of some documents and no index.
async fn jobs(double: &CouchbaseDouble) -> Held<Scope> {
    let cluster = connect(double).await;
    let bucket = cluster.bucket("jobber");
    within(bucket.collections().create_collection("_default", "jobs", None, None)).await.unwrap();
    let jobs = bucket.collection("jobs");
    let documents = [
        json!({ "id": "a", "name": "resize", "state": "failed", "place": 1, "errors": ["e1", "e2"], "size": 1.5 }),
        json!({ "id": "b", "name": "resize", "state": "completed", "place": 2, "errors": [], "size": null }),
        json!({ "id": "c", "name": "render", "state": "failed", "place": 3, "errors": ["e2"], "nested": { "deep": [1] } }),
        json!({ "id": "d", "name": "It's \"odd\"", "state": "waiting", "place": 10, "errors": [] }),
    ];
    for document in documents {
        within(jobs.upsert(format!("job:{}", document["id"].as_str().unwrap()), &document, None)).await.unwrap();
    }
    Held { held: bucket.scope("_default"), _cluster: cluster }
}

async fn rows(
    scope: &Scope,
    statement: &str,
    parameters: &[(&str, Value)],
) -> Result<Vec<Value>, couchbase::error::Error> {
    let mut options = QueryOptions::new();
    for (name, value) in parameters {
        options = options.add_named_parameter(*name, value).unwrap();
    }
    let mut result = within(scope.query(statement, options)).await?;
    within(result.rows::<Value>().try_collect()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_found_by_what_is_in_them() {
    let double = CouchbaseDouble::with(Options { query_lag: 0, ..Options::default() });
    let scope = jobs(&double).await;
    rows(&scope, "CREATE PRIMARY INDEX ON `jobs`", &[]).await.unwrap();
    let cases = [
        ("SELECT RAW META(j).id FROM jobs AS j WHERE j.nested.deep[0] = 1", json!(["job:c"])),
        ("SELECT RAW id FROM jobs WHERE size IS MISSING ORDER BY id", json!(["c", "d"])),
        ("SELECT RAW id FROM jobs WHERE size IS NULL", json!(["b"])),
        ("SELECT RAW id FROM jobs WHERE size IS NOT NULL", json!(["a"])),
        ("SELECT RAW id FROM jobs WHERE NOT (size = 1.5)", json!([])),
        ("SELECT RAW id FROM jobs WHERE name LIKE 're%' AND place BETWEEN 2 AND 3 ORDER BY id", json!(["b", "c"])),
        ("SELECT RAW id FROM jobs WHERE name = \"It's \\\"odd\\\"\"", json!(["d"])),
        ("SELECT RAW id FROM jobs WHERE name = 'It''s \"odd\"'", json!(["d"])),
        ("SELECT RAW id FROM jobs WHERE state IN ['waiting', 'failed'] ORDER BY id OFFSET 1", json!(["c", "d"])),
        ("SELECT RAW id FROM jobs WHERE place = 1 OR place > 3 ORDER BY id", json!(["a", "d"])),
        ("SELECT RAW id FROM jobs WHERE EVERY e IN errors SATISFIES e = 'e2' END ORDER BY id", json!(["b", "c", "d"])),
        ("SELECT COUNT(*) AS n, MAX(place) AS top FROM jobs", json!([{ "n": 4, "top": 10 }])),
        (
            "SELECT state, COUNT(*) AS n FROM jobs GROUP BY state HAVING COUNT(*) > 0 ORDER BY n DESC, state",
            json!([
                { "state": "failed", "n": 2 }, { "state": "completed", "n": 1 }, { "state": "waiting", "n": 1 }
            ]),
        ),
        ("SELECT DISTINCT RAW name FROM jobs WHERE place < 3", json!(["resize"])),
        (
            "SELECT j.* FROM jobs AS j WHERE j.id = 'b'",
            json!([{
                "id": "b", "name": "resize", "state": "completed", "place": 2, "errors": [], "size": null
            }]),
        ),
        ("SELECT id, place + 1 AS next FROM jobs USE KEYS ['job:a', 'job:none']", json!([{ "id": "a", "next": 2 }])),
        ("SELECT RAW LOWER(name) || '!' FROM `jobber`.`_default`.`jobs` WHERE id = 'c'", json!(["render!"])),
        ("SELECT 1 + 1 AS two", json!([{ "two": 2 }])),
    ];
    for (statement, expected) in cases {
        let found = rows(&scope, statement, &[]).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        assert_eq!(Value::Array(found), expected, "{statement}");
    }
    let newest =
        "SELECT RAW j.id FROM `jobs` AS j WHERE j.state = $state AND j.place < $before ORDER BY j.place DESC LIMIT $n";
    let parameters = [("state", json!("failed")), ("before", json!(9)), ("n", json!(5))];
    assert_eq!(rows(&scope, newest, &parameters).await.unwrap(), ["c", "a"]);
    let by_error = "SELECT RAW j.id FROM jobs j WHERE ANY e IN j.errors SATISFIES e IN $errors END ORDER BY j.place";
    assert_eq!(rows(&scope, by_error, &[("errors", json!(["e2"]))]).await.unwrap(), ["a", "c"]);
    let text = "x' OR TRUE OR name = 'x";
    let spliced = rows(&scope, "SELECT RAW id FROM jobs WHERE name = $name", &[("name", json!(text))]).await.unwrap();
    assert!(spliced.is_empty(), "a parameter is a value whatever it says");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_statement_is_told() {
    let double = CouchbaseDouble::with(Options { query_lag: 0, ..Options::default() });
    let scope = jobs(&double).await;
    let refused = async |statement: &str| kind(rows(&scope, statement, &[]).await);
    assert_eq!(refused("SELECT RAW FROM WHERE").await, ErrorKind::ParsingFailure);
    assert_eq!(refused("SELECT 'open").await, ErrorKind::ParsingFailure);
    assert_eq!(refused("DELETE FROM jobs").await, ErrorKind::ParsingFailure);
    assert_eq!(refused("SELECT * FROM nothing").await, ErrorKind::CollectionNotFound);
    // No index at all, and then one that is not about what is asked for.
    assert_eq!(refused("SELECT * FROM jobs WHERE place = 1").await, ErrorKind::PlanningFailure);
    rows(&scope, "CREATE INDEX by_name ON jobs(name)", &[]).await.unwrap();
    assert_eq!(refused("SELECT * FROM jobs WHERE place = 1").await, ErrorKind::PlanningFailure);
    assert_eq!(rows(&scope, "SELECT RAW id FROM jobs WHERE name = 'render'", &[]).await.unwrap(), [json!("c")]);
    assert!(rows(&scope, "SELECT RAW id FROM jobs WHERE name = $missing", &[]).await.is_err());
    let readonly = QueryOptions::new().read_only(true);
    assert!(within(scope.query("CREATE INDEX other ON jobs(name)", readonly)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_serves_the_queries_that_it_covers() {
    let double = CouchbaseDouble::with(Options { query_lag: 0, ..Options::default() });
    let scope = jobs(&double).await;
    let make = "CREATE INDEX `by_place` IF NOT EXISTS ON `jobs`(`place`, `name`) WHERE removed = FALSE";
    rows(&scope, make, &[]).await.unwrap();
    rows(&scope, make, &[]).await.unwrap();
    let query = async |condition: &str| {
        rows(&scope, &format!("SELECT RAW j.id FROM jobs AS j WHERE {condition}"), &[]).await.is_ok()
    };
    assert!(query("j.removed = FALSE AND j.place >= 1").await);
    assert!(!query("j.place >= 1").await, "documents that are not in the index");
    assert!(!query("j.removed = FALSE AND j.name = 'a'").await, "not what it is ordered by");
    rows(&scope, "CREATE INDEX by_error ON jobs(DISTINCT ARRAY e FOR e IN errors END)", &[]).await.unwrap();
    assert!(query("ANY e IN j.errors SATISFIES e = 'e1' END").await);

    rows(&scope, "CREATE INDEX later ON jobs(state) WITH {\"defer_build\": true}", &[]).await.unwrap();
    assert!(!query("j.state = 'failed'").await, "not built yet");
    let states = "SELECT name, state FROM system:indexes WHERE keyspace_id = 'jobs' AND name = 'later'";
    assert_eq!(rows(&scope, states, &[]).await.unwrap(), [json!({ "name": "later", "state": "deferred" })]);
    rows(&scope, "BUILD INDEX ON jobs(later)", &[]).await.unwrap();
    assert!(query("j.state = 'failed'").await);
    rows(&scope, "DROP INDEX later IF EXISTS ON jobs", &[]).await.unwrap();
    assert_eq!(kind(rows(&scope, "DROP INDEX later ON jobs", &[]).await), ErrorKind::IndexNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_manager_of_indexes_works() {
    let double = CouchbaseDouble::with(Options { query_lag: 0, ..Options::default() });
    let scope = jobs(&double).await;
    let collection = scope.collection("jobs");
    let manager = collection.query_indexes();
    let fields = || vec!["place".to_owned(), "name".to_owned()];
    within(manager.create_index("one".to_owned(), fields(), None)).await.unwrap();
    assert_eq!(kind(within(manager.create_index("one".to_owned(), fields(), None)).await), ErrorKind::IndexExists);
    let lenient = CreateQueryIndexOptions::new().ignore_if_exists(true);
    within(manager.create_index("one".to_owned(), fields(), lenient)).await.unwrap();
    within(manager.create_primary_index(CreatePrimaryQueryIndexOptions::new().deferred(true))).await.unwrap();
    within(manager.build_deferred_indexes(None)).await.unwrap();
    let names: Vec<_> =
        within(manager.get_all_indexes(None)).await.unwrap().iter().map(|index| index.name().to_owned()).collect();
    assert_eq!(names, ["#primary", "one"]);
    within(manager.drop_index("one".to_owned(), None)).await.unwrap();
    within(manager.drop_primary_index(None)).await.unwrap();
    assert!(within(manager.get_all_indexes(None)).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rights_or_service_it_says_so() {
    let rights = Rights { collections: true, indexes: false, search: true };
    let double = CouchbaseDouble::with(Options { rights, query_lag: 0, ..Options::default() });
    let scope = jobs(&double).await;
    let refused = rows(&scope, "CREATE PRIMARY INDEX ON jobs", &[]).await.unwrap_err();
    assert!(refused.to_string().contains("query_manage_index"), "{refused}");

    let double = CouchbaseDouble::key_value_only();
    let scope = jobs(&double).await;
    // The SDK waits for the service to appear for as long as it is let.
    super::never(rows(&scope, "SELECT 1", &[])).await;
    assert_eq!(double.seen(Service::Query), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_fails_on_demand() {
    let double = CouchbaseDouble::with(Options { query_lag: 0, ..Options::default() });
    let scope = jobs(&double).await;
    let body = r#"{"errors":[{"code":1080,"msg":"Timeout 1s exceeded"}],"status":"timeout"}"#;
    double.fault(Fault::RefuseWith(503, body.into()).at(Service::Query).times(1));
    assert_eq!(kind(rows(&scope, "SELECT 1", &[]).await), ErrorKind::ServerTimeout);
    assert_eq!(rows(&scope, "SELECT RAW 1", &[]).await.unwrap(), [json!(1)]);
}
