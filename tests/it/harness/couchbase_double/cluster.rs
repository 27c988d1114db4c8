//! What a cluster tells of itself: nodes and their ports, the map of vbuckets, the error map.

use serde_json::{Map, Value, json};

use super::documents::Bucket;
use super::wire::status;

/// The ports of a node; zero: the service is not there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    pub kv: u16,
    pub kv_tls: u16,
    pub management: u16,
    pub management_tls: u16,
    pub query: u16,
    pub query_tls: u16,
    pub search: u16,
    pub search_tls: u16,
}

/// The version of a configuration: it is newer if the pair is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version {
    pub epoch: i64,
    pub revision: i64,
}

impl Version {
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&self.revision.to_be_bytes());
        bytes
    }
}

/// The configuration as node `this` gives it out, of a bucket or of the cluster alone. `$HOST` stands for the name under
/// which the client reached the node.
pub fn config(nodes: &[Ports], this: usize, version: Version, bucket: Option<&Bucket>) -> Value {
    let mut nodes_ext: Vec<_> = nodes.iter().enumerate().map(|(node, ports)| node_ext(ports, node == this)).collect();
    if nodes.len() > 1 {
        // A cluster of one does not know the name under which others reach it; one of several must.
        nodes_ext.iter_mut().for_each(|node| node["hostname"] = json!("127.0.0.1"));
    }
    let has = |port: fn(&Ports) -> u16| nodes.iter().any(|ports| port(ports) != 0);
    let mut capabilities = Map::new();
    if has(|ports| ports.query) {
        capabilities.insert("n1ql".into(), json!(["enhancedPreparedStatements"]));
    }
    if has(|ports| ports.search) {
        capabilities.insert("search".into(), json!(["vectorSearch", "scopedSearchIndex"]));
    }
    let mut config = json!({
        "rev": version.revision,
        "revEpoch": version.epoch,
        "nodesExt": nodes_ext,
        "clusterCapabilitiesVer": [1, 0],
        "clusterCapabilities": capabilities,
    });
    let Some(bucket) = bucket else { return config };
    let name = &bucket.name;
    let list = |port: fn(&Ports) -> u16| nodes.iter().map(|ports| format!("$HOST:{}", port(ports))).collect::<Vec<_>>();
    let terse = nodes.iter().map(|ports| {
        json!({
            "couchApiBase": format!("http://$HOST:{}/{name}", ports.management),
            "hostname": format!("$HOST:{}", ports.management),
            "ports": { "direct": ports.kv },
        })
    });
    let of_bucket = json!({
        "name": name,
        "uuid": bucket.uuid,
        "nodeLocator": "vbucket",
        "uri": format!("/pools/default/buckets/{name}?bucket_uuid={}", bucket.uuid),
        "streamingUri": format!("/pools/default/bucketsStreaming/{name}?bucket_uuid={}", bucket.uuid),
        "bucketCapabilitiesVer": "",
        "bucketCapabilities": [
            "collections", "durableWrite", "subdoc.ReplaceBodyWithXattr", "subdoc.DocumentMacroSupport",
            "preserveExpiry", "cbhello", "touch", "cccp", "nodesExt", "xattr",
        ],
        "collectionsManifestUid": format!("{:x}", bucket.manifest.uid),
        "ddocs": { "uri": format!("/pools/default/buckets/{name}/ddocs") },
        "nodes": terse.collect::<Vec<_>>(),
        "vBucketServerMap": {
            "hashAlgorithm": "CRC",
            "numReplicas": 0,
            "serverList": list(|ports| ports.kv),
            "vBucketMap": bucket.vbuckets.iter().map(|node| [node]).collect::<Vec<_>>(),
        },
    });
    if let (Value::Object(config), Value::Object(of_bucket)) = (&mut config, of_bucket) {
        config.extend(of_bucket);
    }
    config
}

fn node_ext(ports: &Ports, this: bool) -> Value {
    let services = [
        ("kv", ports.kv),
        ("kvSSL", ports.kv_tls),
        ("mgmt", ports.management),
        ("mgmtSSL", ports.management_tls),
        ("n1ql", ports.query),
        ("n1qlSSL", ports.query_tls),
        ("fts", ports.search),
        ("ftsSSL", ports.search_tls),
    ];
    let services: Map<_, _> = services
        .into_iter()
        .filter(|(_, port)| *port != 0)
        .map(|(name, port)| (name.to_owned(), json!(port)))
        .collect();
    let mut node = json!({ "services": services });
    if this {
        node["thisNode"] = json!(true);
    }
    node
}

/// What a client should make of a status that it does not know. The format's second version has more attributes.
pub fn error_map(version: u16) -> Value {
    let throttled: &[&str] =
        if version < 2 { &["item-only", "retry-later"] } else { &["rate-limit", "item-only", "retry-later"] };
    let errors: &[(u16, &str, &str, &[&str])] = &[
        (status::SUCCESS, "SUCCESS", "Success", &["success"]),
        (status::KEY_NOT_FOUND, "KEY_ENOENT", "Not Found", &["item-only"]),
        (status::KEY_EXISTS, "KEY_EEXISTS", "key already exists, or CAS mismatch", &["item-only"]),
        (status::TOO_BIG, "E2BIG", "Value is too big", &["item-only", "invalid-input"]),
        (status::INVALID_ARGUMENTS, "EINVAL", "Invalid packet", &["internal", "invalid-input"]),
        (status::NOT_STORED, "NOT_STORED", "Not Stored", &["item-only"]),
        (status::BAD_DELTA, "DELTA_BADVAL", "Existing document not a number", &["item-only", "invalid-input"]),
        (status::NOT_MY_VBUCKET, "NOT_MY_VBUCKET", "Server does not know about this vBucket", &["fetch-config"]),
        (status::NO_BUCKET, "NO_BUCKET", "Not connected to any bucket", &["conn-state-invalidated"]),
        (status::LOCKED, "LOCKED", "Requested resource is locked", &["item-locked", "item-only", "retry-now"]),
        (status::NOT_LOCKED, "NOT_LOCKED", "Requested resource is not locked", &["item-only"]),
        (status::AUTH_ERROR, "AUTH_ERROR", "Authentication failed", &["conn-state-invalidated", "auth"]),
        (status::NO_ACCESS, "EACCESS", "Not authorized for command", &["support", "auth"]),
        (status::RATE_LIMITED_MAX_COMMANDS, "RATE_LIMITED_MAX_COMMANDS", "Too many commands", throttled),
        (status::UNKNOWN_COMMAND, "UNKNOWN_COMMAND", "Unknown command", &["support"]),
        (status::OUT_OF_MEMORY, "ENOMEM", "No memory available to store item", &["temp", "retry-later"]),
        (status::NOT_SUPPORTED, "NOT_SUPPORTED", "Operation not supported", &["support"]),
        (
            status::INTERNAL,
            "EINTERNAL",
            "Internal error. Reason may be in the log",
            &["internal", "conn-state-invalidated"],
        ),
        (status::BUSY, "EBUSY", "Server too busy", &["temp", "retry-later"]),
        (status::TEMPORARY_FAILURE, "ETMPFAIL", "Temporary failure", &["temp", "retry-later"]),
        (status::UNKNOWN_COLLECTION, "UNKNOWN_COLLECTION", "Operation specified an unknown collection", &["item-only"]),
        (status::UNKNOWN_SCOPE, "UNKNOWN_SCOPE", "Operation specified an unknown scope", &["item-only"]),
        (
            status::DURABILITY_IMPOSSIBLE,
            "DURABILITY_IMPOSSIBLE",
            "The durability can't be had",
            &["item-only", "retry-later"],
        ),
        (
            status::SYNC_WRITE_IN_PROGRESS,
            "SYNC_WRITE_IN_PROGRESS",
            "A write is under way",
            &["item-only", "retry-later"],
        ),
        (status::SYNC_WRITE_AMBIGUOUS, "SYNC_WRITE_AMBIGUOUS", "It is unknown whether it was written", &["item-only"]),
    ];
    let errors: Map<_, _> = errors
        .iter()
        .map(|(code, name, text, attributes)| {
            (format!("{code:x}"), json!({ "name": name, "desc": text, "attrs": attributes }))
        })
        .collect();
    json!({ "version": version.clamp(1, 2), "revision": 1, "errors": errors })
}
