//! Compares the OpenAPI document with what the router really answers.

use std::collections::BTreeSet;

use super::Site;
use crate::api::failures::STATISTICS;
use crate::api::openapi::openapi;

/// The paths of the router, as they stand in its source.
fn routed_paths() -> Vec<&'static str> {
    include_str!("../mod.rs")
        .split(".route(")
        .skip(1)
        .map(|rest| match rest.trim_start() {
            rest if rest.starts_with("health::LIVE") => "/healthz",
            rest if rest.starts_with("health::READY") => "/readyz",
            rest if rest.starts_with("session::PATH") => "/api/v1/session",
            rest if rest.starts_with("openapi::PATH") => "/api/v1/openapi.json",
            rest if rest.starts_with("metrics::PATH") => "/metrics",
            rest => {
                rest.strip_prefix('"').and_then(|rest| rest.split('"').next()).expect("a route begins with its path")
            }
        })
        // The page is for people.
        .filter(|path| *path != "/" && !path.starts_with("/ui"))
        .collect()
}

/// A path of the router as it stands in the document, once for each verb.
fn expanded(path: &str, method: &str) -> Vec<String> {
    let verbs: &[&str] = match (path, method) {
        ("/api/v1/jobs/{id}", "POST") => &["cancel", "retry", "promote"],
        ("/api/v1/schedules/{id}", "POST") => &["trigger", "pause", "resume"],
        ("/api/v1/workers/{id}", "POST") => &["drain"],
        ("/api/v1/queues/{name}", "POST") => &["pause", "resume", "limit", "clean"],
        ("/api/v1/stats/{what}", _) => {
            return STATISTICS.iter().map(|what| format!("/api/v1/stats/{what}")).collect();
        }
        // OpenAPI knows no parameter that holds several parts of a path.
        _ => return vec![path.replace("{*path}", "{path}")],
    };
    verbs.iter().map(|verb| format!("{path}:{verb}")).collect()
}

#[tokio::test]
async fn document_and_router_have_the_same_operations() {
    let site = Site::start().await;
    let mut routed = BTreeSet::new();
    for path in routed_paths() {
        let concrete = path
            .replace("{id}", "x")
            .replace("{name}", "x")
            .replace("{n}", "1")
            .replace("{what}", "attempts")
            .replace("{*path}", "a")
            .replace("{sha256}", "x");
        let trace = "TRACE".parse().unwrap();
        let answer = site.http.request(trace, format!("{}{concrete}", site.base)).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{path}");
        let allowed = answer.headers()["allow"].to_str().unwrap().to_owned();
        for method in allowed.split(',').map(str::trim).filter(|method| *method != "HEAD") {
            routed.extend(expanded(path, method).into_iter().map(|path| (path, method.to_lowercase())));
        }
    }
    let document: serde_json::Value = serde_json::from_str(openapi()).unwrap();
    let methods = |(path, methods): (&String, &serde_json::Value)| -> Vec<(String, String)> {
        methods.as_object().unwrap().keys().map(|method| (path.clone(), method.clone())).collect()
    };
    let described: BTreeSet<_> = document["paths"].as_object().unwrap().iter().flat_map(methods).collect();
    assert_eq!(routed, described);
    site.end().await;
}
