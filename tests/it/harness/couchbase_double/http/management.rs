//! The cluster manager: configuration, buckets, scopes and collections.

use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::cluster;
use super::super::collections::Refusal;
use super::super::documents::Bucket;
use super::super::{Shared, State};
use super::{Call, json};

pub fn answer(shared: &Shared, call: &Call) -> Response {
    let parts = call.parts();
    let state = &mut *shared.state();
    match (&call.method, parts.as_slice()) {
        (&Method::GET, []) => StatusCode::OK.into_response(),
        (&Method::GET, ["pools"]) => json(200, &pools(state)),
        (&Method::GET, ["pools", "default"]) => json(200, &whole_cluster(state)),
        (&Method::GET, ["pools", "default", "nodeServices"]) => {
            json(200, &cluster::config(&state.nodes, call.node, state.version, None))
        }
        (&Method::GET, ["pools", "default", "buckets"]) => {
            let open = state.buckets.values().filter(|bucket| call.user.may_use(&bucket.name));
            json(200, &Value::Array(open.map(settings).collect()))
        }
        (_, ["pools", "default", "b" | "bs" | "buckets", name, ..])
            if !state.buckets.contains_key(*name) || !call.user.may_use(name) =>
        {
            (StatusCode::NOT_FOUND, "Requested resource not found.\r\n").into_response()
        }
        (&Method::GET, ["pools", "default", "b", name]) => {
            json(200, &cluster::config(&state.nodes, call.node, state.version, state.buckets.get(*name)))
        }
        (&Method::GET, ["pools", "default", "bs", name]) => streaming(state, call.node, name),
        (&Method::GET, ["pools", "default", "buckets", name]) => json(200, &settings(&state.buckets[*name])),
        (_, ["pools", "default", "buckets", name, "scopes", rest @ ..]) => scopes(shared, state, call, name, rest),
        _ => (StatusCode::NOT_FOUND, "Requested resource not found.\r\n").into_response(),
    }
}

/// Scopes and collections below a bucket.
fn scopes(shared: &Shared, state: &mut State, call: &Call, bucket: &str, rest: &[&str]) -> Response {
    let found = state.buckets.get_mut(bucket).expect("it was looked for");
    if call.method == Method::GET && rest.is_empty() {
        return json(200, &found.manifest.to_json());
    }
    if !call.user.rights.collections {
        let permission = format!("cluster.bucket[{bucket}].collections!write");
        let body = json!({
            "message": "Forbidden. User needs the following permissions",
            "permissions": [permission],
        });
        return json(403, &body);
    }
    let result = change(found, call, rest);
    match result {
        Ok(Some(uid)) => {
            shared.reconfigured(state);
            json(200, &json!({ "uid": format!("{uid:x}") }))
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(Refusal::Invalid(field, text)) => json(400, &json!({ "errors": { field: text } })),
        Err(Refusal::NotFound(text)) => json(404, &json!({ "errors": { "_": text } })),
    }
}

/// A change of the manifest: its new uid, or `None` if there is no such request.
fn change(bucket: &mut Bucket, call: &Call, rest: &[&str]) -> Result<Option<u64>, Refusal> {
    let manifest = &mut bucket.manifest;
    let name = || call.field("name").ok_or_else(|| Refusal::Invalid("name", "The value must be supplied".into()));
    // Less than zero: for ever, whatever the bucket says; and the bucket says the same.
    let number = |field| match call.field(field).map(str::parse::<i64>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(u32::try_from(number).unwrap_or(0))),
        Some(Err(_)) => Err(Refusal::Invalid("maxTTL", "The value must be an integer".into())),
    };
    let flag = |field| call.field(field).map(|text| text == "true");
    Ok(Some(match (&call.method, rest) {
        (&Method::POST, []) => manifest.create_scope(name()?)?,
        (&Method::DELETE, [scope]) => {
            let (uid, gone) = manifest.drop_scope(scope)?;
            gone.into_iter().for_each(|id| bucket.forget(id));
            uid
        }
        (&Method::POST, [scope, "collections"]) => {
            let max_ttl = number("maxTTL")?.unwrap_or(0);
            manifest.create_collection(scope, name()?, max_ttl, flag("history").unwrap_or(false))?
        }
        (&Method::PATCH, [scope, "collections", collection]) => {
            manifest.change_collection(scope, collection, number("maxTTL")?, flag("history"))?
        }
        (&Method::DELETE, [scope, "collections", collection]) => {
            let (uid, gone) = manifest.drop_collection(scope, collection)?;
            bucket.forget(gone);
            uid
        }
        _ => return Ok(None),
    }))
}

fn pools(state: &State) -> Value {
    let edition = if state.enterprise { "enterprise" } else { "community" };
    json!({
        "isAdminCreds": false,
        "isEnterprise": state.enterprise,
        "implementationVersion": format!("7.6.2-0000-{edition}"),
        "uuid": "0000000000000000000000000000d0b1",
        "pools": [{ "name": "default", "uri": "/pools/default", "streamingUri": "/poolsStreaming/default" }],
    })
}

fn whole_cluster(state: &State) -> Value {
    let nodes = state.nodes.iter().map(|ports| {
        let mut services = vec!["kv"];
        services.extend((ports.query != 0).then_some("n1ql"));
        services.extend((ports.query != 0).then_some("index"));
        services.extend((ports.search != 0).then_some("fts"));
        json!({
            "clusterMembership": "active",
            "status": "healthy",
            "hostname": format!("127.0.0.1:{}", ports.management),
            "version": "7.6.2-0000-enterprise",
            "services": services,
            "ports": { "direct": ports.kv },
        })
    });
    let names = state.buckets.values().map(|bucket| json!({ "bucketName": bucket.name, "uuid": bucket.uuid }));
    json!({ "name": "default", "nodes": nodes.collect::<Vec<_>>(), "bucketNames": names.collect::<Vec<_>>() })
}

fn settings(bucket: &Bucket) -> Value {
    json!({
        "name": bucket.name,
        "uuid": bucket.uuid,
        "bucketType": "membase",
        "storageBackend": "couchstore",
        "nodeLocator": "vbucket",
        "replicaIndex": false,
        "replicaNumber": 0,
        "quota": { "ram": 268_435_456, "rawRAM": 268_435_456 },
        "evictionPolicy": "valueOnly",
        "durabilityMinLevel": "none",
        "conflictResolutionType": "seqno",
        "maxTTL": 0,
        "compressionMode": "passive",
        "controllers": {},
    })
}

/// The configuration, and whatever follows it: an answer that never ends. Who reads it sees the first one; newer ones
/// come over key-value.
fn streaming(state: &State, node: usize, name: &str) -> Response {
    use futures_util::StreamExt;
    let config = cluster::config(&state.nodes, node, state.version, state.buckets.get(name));
    let first = Bytes::from(format!("{config}\n\n\n\n"));
    let first = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(first) });
    Body::from_stream(first.chain(futures_util::stream::pending())).into_response()
}
