//! `jobber category evaluate`: no server, a file in, figures out.

use serde_json::{Value, json};

use crate::harness::embeddings::{Embeddings, Manner};
use crate::harness::run;

const LINES: &str = r#"{"text": "terminate called after throwing an instance of 'std::bad_alloc'", "category": "Memory exhausted"}
{"text": "fork: Cannot allocate memory", "category": "Memory exhausted", "also": ["Child process spawn failed"]}
{"text": "deadline exceeded while waiting for the solver", "category": "Timeout"}
{"text": "SocketTimeoutException: Read timed out", "category": "Timeout"}
{"text": "the residual is not a number", "category": "none", "source": "made up"}
{"text": "unheard-of trouble with the frobnicator", "category": "Frobnication"}
"#;

#[tokio::test]
async fn labelled_messages_are_measured_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("labelled.jsonl"), LINES).unwrap();
    let nowhere = [("JOBBER_SERVER", "http://127.0.0.1:9")];
    let output = run(&["category", "evaluate", "labelled.jsonl", "--json"], &nowhere, dir.path(), "").await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&report["messages"], &report["categories"], &report["none"]), (&json!(6), &json!(3), &json!(1)));
    assert_eq!(report["undescribed"], json!(["Frobnication"]));
    let scores = report["scores"].as_array().unwrap();
    for model in ["lexical hashing", "static model"] {
        let of_model = scores.iter().filter(|s| s["model"] == model);
        let top1: Vec<f64> = of_model.map(|s| s["top1"].as_f64().unwrap()).collect();
        assert!(top1.len() >= 4 && top1.iter().all(|part| (0.0..=1.0).contains(part)), "{model}: {top1:?}");
    }
    assert!(report["costs"]["embed_us"].as_f64().unwrap() > 0.0);
    let size = report["costs"]["model_bytes"].as_u64().unwrap();
    assert!((1_000_000..5_000_000).contains(&size), "{size}");

    let output = run(&["category", "evaluate", "labelled.jsonl"], &nowhere, dir.path(), "").await;
    assert!(output.stdout.contains("WITH NONE") && output.stdout.contains("static model"), "{}", output.stdout);
}

#[tokio::test]
async fn a_file_that_is_none_is_refused_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.jsonl"), format!("{LINES}{{\"text\": 1}}\n")).unwrap();
    let output = run(&["category", "evaluate", "bad.jsonl"], &[], dir.path(), "").await;
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("bad.jsonl") && output.stderr.contains("line 7"), "{}", output.stderr);
    let output = run(&["category", "evaluate", "missing.jsonl"], &[], dir.path(), "").await;
    assert!(output.code == 2 && output.stderr.contains("missing.jsonl"), "{}", output.stderr);
}

/// Is the endpoint worth its price? Beside the offline models, with what it was asked for.
#[tokio::test]
async fn the_configured_endpoint_is_measured_beside_the_offline_models() {
    let server = Embeddings::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("labelled.jsonl"), LINES).unwrap();
    let environment = [
        ("JOBBER_SERVER", "http://127.0.0.1:9"),
        ("JOBBER_EMBEDDER_URL", server.url()),
        ("JOBBER_EMBEDDER_MODEL", "dear-one"),
        ("JOBBER_EMBEDDER_DIMENSION", "8"),
        ("JOBBER_EMBEDDER_DAILY_BUDGET", "1"),
    ];
    let output = run(&["category", "evaluate", "labelled.jsonl", "--json"], &environment, dir.path(), "").await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let scores = report["scores"].as_array().unwrap();
    let of = |model: &str| scores.iter().filter(|s| s["model"].as_str().unwrap().contains(model)).count();
    assert_eq!((of("dear-one"), of("static model")), (of("lexical hashing"), of("lexical hashing")));
    let costs = &report["endpoint"];
    assert!(costs["model"].as_str().unwrap().contains("dear-one"), "{costs}");
    // Each text once: every message, and what describes the categories.
    let embedded = server.embedded();
    assert!(embedded.values().all(|times| *times == 1), "{embedded:?}");
    assert_eq!(costs["texts"].as_u64(), Some(embedded.len() as u64));
    assert!(costs["characters"].as_u64().unwrap() > 100 && costs["embed_us"].as_f64().unwrap() > 0.0, "{costs}");

    let asked = server.requests().len();
    let offline = ["category", "evaluate", "labelled.jsonl", "--offline", "--json"];
    let output = run(&offline, &environment, dir.path(), "").await;
    assert!(output.code == 0 && !output.stdout.contains("dear-one"), "{output:?}");
    assert_eq!(server.requests().len(), asked);

    server.next([Manner::Status(401, vec![], "no such key".to_owned())]);
    let output = run(&["category", "evaluate", "labelled.jsonl"], &environment, dir.path(), "").await;
    assert!(output.code != 0 && output.stderr.contains("--offline"), "{output:?}");
}
