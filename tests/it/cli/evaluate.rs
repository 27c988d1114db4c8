//! `jobber category evaluate`: no server, a file in, figures out.

use serde_json::{Value, json};

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
