//! `deploy/couchbase-setup.sh` against a recorder of what it asks, which answers as a cluster manager does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

/// What is on the cluster.
#[derive(Debug, Clone, Default)]
struct Cluster {
    version: &'static str,
    is_made: bool,
    storage: String,
    has_bucket: bool,
    administrator: String,
    user: String,
}

/// Fields of a form, decoded.
fn form(body: &[u8]) -> BTreeMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://x/?{}", String::from_utf8_lossy(body))).unwrap();
    url.query_pairs().into_owned().collect()
}

async fn answer(
    State(cluster): State<Arc<Mutex<Cluster>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let cluster = &mut *cluster.lock().unwrap();
    let who = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Basic "));
    let who = who.map(|encoded| String::from_utf8(BASE64.decode(encoded).unwrap()).unwrap());
    let is_administrator = who == Some(format!("Administrator:{}", cluster.administrator));
    let form = form(&body);
    let field = |name: &str| form.get(name).cloned().unwrap_or_default();
    let refuse = |status: StatusCode| status.into_response();
    let ok = |body: serde_json::Value| (StatusCode::OK, body.to_string()).into_response();
    match (method.as_str(), uri.path()) {
        ("GET", "/pools") => ok(json!({
            "isEnterprise": !cluster.version.contains("community"),
            "implementationVersion": cluster.version,
        })),
        (_, path) if !cluster.is_made && path != "/clusterInit" => refuse(StatusCode::NOT_FOUND),
        ("POST", "/clusterInit") => {
            cluster.is_made = true;
            cluster.administrator = field("password");
            cluster.storage = field("indexerStorageMode");
            ok(json!({}))
        }
        _ if !is_administrator => refuse(StatusCode::UNAUTHORIZED),
        ("GET", "/pools/default") => ok(json!({})),
        ("GET", "/settings/indexes") => ok(json!({ "logLevel": "info", "storageMode": cluster.storage })),
        ("POST", "/settings/indexes") => {
            cluster.storage = field("storageMode");
            ok(json!({}))
        }
        ("GET", "/pools/default/buckets/jobber") if cluster.has_bucket => {
            (StatusCode::OK, r#"{"nodes":[{"status":"healthy"}]}"#).into_response()
        }
        ("POST", "/pools/default/buckets") => {
            cluster.has_bucket = true;
            refuse(StatusCode::ACCEPTED)
        }
        ("PUT", "/settings/rbac/users/local/jobber") => {
            cluster.user = field("password");
            ok(json!({}))
        }
        _ => refuse(StatusCode::NOT_FOUND),
    }
}

/// Runs the script on this cluster; how the cluster is afterwards, or what the script said.
async fn set_up(cluster: Cluster, administrator: &str, user: &str) -> Result<Cluster, String> {
    let state = Arc::new(Mutex::new(cluster));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(state.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let ran = tokio::process::Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/couchbase-setup.sh"))
        .env("COUCHBASE_NODE", node)
        .env("COUCHBASE_TRIES", "2")
        .env("COUCHBASE_ADMIN_PASSWORD", administrator)
        .env("COUCHBASE_PASSWORD", user)
        .output()
        .await
        .unwrap();
    serving.abort();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    if ran.status.success() { Ok(state.lock().unwrap().clone()) } else { Err(said) }
}

#[tokio::test]
async fn the_index_service_is_told_how_to_store_indexes_in_a_new_cluster_and_in_one_that_says_nothing() {
    for (version, storage) in [("7.6.4-5146-enterprise", "plasma"), ("7.6.2-3721-community", "forestdb")] {
        let new = Cluster { version, ..Cluster::default() };
        assert_eq!(set_up(new.clone(), "secret", "other").await.unwrap().storage, storage);
        let made = Cluster { is_made: true, administrator: "secret".to_owned(), ..new };
        assert_eq!(set_up(made.clone(), "secret", "other").await.unwrap().storage, storage);
        let chosen = Cluster { storage: "memory_optimized".to_owned(), ..made };
        assert_eq!(set_up(chosen, "secret", "other").await.unwrap().storage, "memory_optimized");
    }
}

#[tokio::test]
async fn passwords_arrive_as_they_are() {
    for password in [r#"a"b"#, r"a\b", r"\n\\", "a&b=c", "100%25", "a+b c", "@file", "pä$s#'`", r#"\"""#] {
        let new = Cluster { version: "7.6.4-5146-enterprise", ..Cluster::default() };
        let cluster = set_up(new, password, &format!("{password}2")).await.unwrap();
        assert_eq!((cluster.administrator.as_str(), cluster.user), (password, format!("{password}2")));
        assert!(cluster.has_bucket);
        // The cluster that is there now is entered with it.
        assert!(set_up(Cluster { user: String::new(), ..cluster }, password, "x").await.is_ok(), "{password}");
    }
    let refused = set_up(Cluster::default(), "one\ntwo", "x").await.unwrap_err();
    assert!(refused.contains("control character"), "{refused}");
}
