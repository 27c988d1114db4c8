//! `jobber bench`: every figure is there, a kept result is compared with, and a job asks for memory about as often as it
//! did when the committed figure was taken. Speeds are not judged: here they differ from minute to minute.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{self, Output, cpp_build_dir};

/// How often an event of a job asked for memory, from its append to the log until history has it: the least of rounds of
/// 2,000 events. When a change moves it on purpose, the new figure is committed with that change.
const EVENT: f64 = 27.3;
/// The same of a job of the whole pipeline, with nothing beside it. Where much else runs, fewer events are written and
/// folded together, which costs up to a third more.
const JOB: f64 = 320.0;

async fn bench(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let binary = cpp_build_dir().join("hello");
    let all: Vec<&str> =
        ["bench", "--binary", binary.to_str().unwrap()].into_iter().chain(args.iter().copied()).collect();
    harness::run(&all, &[], dir.path(), "").await
}

/// The figures of a result by name, each with its unit and median.
fn figures(report: &Value) -> BTreeMap<String, (String, f64)> {
    let figures = report["figures"].as_array().unwrap().iter();
    let read = |figure: &Value| {
        let text = |key: &str| figure[key].as_str().unwrap().to_owned();
        let number = |key: &str| figure[key].as_f64().unwrap();
        assert!(number("lowest") <= number("median") && number("median") <= number("highest"), "{figure}");
        (text("name"), (text("unit"), number("median")))
    };
    figures.map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_is_measured_and_compared_with_a_kept_result() {
    let small = ["--jobs", "60", "--rounds", "1", "--concurrency", "2"];
    let json = bench(&[&small[..], &["-o", "json"]].concat()).await;
    assert_eq!(json.code, 0, "{}", json.stderr);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&report["format"], &report["workload"]["jobs"]), (&1.into(), &60.into()));
    let figures = figures(&report);
    let of = |name: &str, unit: &str| {
        let (found, median) = figures.get(name).unwrap_or_else(|| panic!("no {name} among {figures:?}"));
        assert_eq!(found, unit, "{name}");
        *median
    };
    let (raw, whole) = (of("raw spawning, 2 at once", "jobs/s"), of("pipeline, 2 at once", "jobs/s"));
    assert!((of("pipeline over raw, 2 at once", "ratio") - whole / raw).abs() < 1e-6);
    let (health, single) =
        (of("GET /healthz, 64 connections", "requests/s"), of("POST /jobs, 64 connections", "requests/s"));
    assert!(health > single && single > 0.0 && of("POST /api/v1/jobs:bulk", "jobs/s") > 0.0);
    assert!(of("CPU of a job, pipeline, 2 at once", "us") > of("CPU of a job, raw, 2 at once", "us"));
    for what in ["idle", "loaded"] {
        assert!(of(&format!("dispatch, {what}, p50"), "ms") <= of(&format!("dispatch, {what}, p99"), "ms"));
    }
    assert!(of("projection", "events/s") > 0.0 && of("projection, lag", "ms") > 0.0);
    let (serve, guard) = (of("resident, idle: serve", "MiB"), of("resident, idle: guard", "MiB"));
    assert!(serve > guard && guard > 0.1, "{serve} {guard}");

    let kept = tempfile::NamedTempFile::new().unwrap();
    let slower = json.stdout.replacen("\"raw spawning, 2 at once\"", "\"gone\"", 1);
    std::fs::write(kept.path(), slower).unwrap();
    let against =
        bench(&[&small[..], &["--only", "history", "--against", kept.path().to_str().unwrap()]].concat()).await;
    assert_eq!(against.code, 0, "{}", against.stderr);
    let compared = against.stdout.split("figure ").last().unwrap();
    assert!(compared.contains("kept") && compared.contains("projection, lag"), "{}", against.stdout);
    assert!(
        !compared.contains("raw spawning") && !against.stdout.contains("The workloads differ"),
        "{}",
        against.stdout
    );
}

#[tokio::test]
async fn what_cannot_be_measured_or_compared_is_said() {
    let place = harness::Place::new();
    let other = place.path().join("notes.txt");
    std::fs::write(&other, "fast").unwrap();
    for (args, said) in [
        (vec!["--against", other.to_str().unwrap()], "this is no result of `jobber bench -o json`"),
        (vec!["--against", "/nowhere.json"], "/nowhere.json"),
        (vec!["--only", "luck"], "pipeline, http, dispatch, history, resident"),
        (vec!["--concurrency", "0"], "0 is not in 1..=1024"),
    ] {
        let refused = bench(&args).await;
        assert!(refused.code != 0 && refused.stderr.contains(said), "{args:?}: {}", refused.stderr);
    }
    // A program that tells no time beside one that does is no `clock`.
    place.job("lonely", "#!/bin/sh\necho hello\n");
    let lonely = place.jobs_dir().join("lonely");
    let refused =
        harness::run(&["bench", "--binary", lonely.to_str().unwrap(), "--only", "dispatch"], &[], place.path(), "")
            .await;
    assert!(refused.code != 0 && refused.stderr.contains("`clock` beside the binary"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_asks_for_memory_no_more_often_than_it_did() {
    let args = ["--jobs", "500", "--rounds", "3", "--concurrency", "2", "--only", "pipeline,history", "-o", "json"];
    let measured = bench(&args).await;
    assert_eq!(measured.code, 0, "{}", measured.stderr);
    let report: Value = serde_json::from_str(&measured.stdout).unwrap();
    let least = |name: &str| {
        let figure = report["figures"].as_array().unwrap().iter().find(|figure| figure["name"] == name).unwrap();
        figure["lowest"].as_f64().unwrap()
    };
    let event = least("allocations of an event");
    assert!((0.9..=1.1).contains(&(event / EVENT)), "{event:.1} requests an event, {EVENT} were committed");
    let job = least("allocations of a job, 2 at once");
    assert!((0.9..=1.5).contains(&(job / JOB)), "{job:.1} requests a job, {JOB} were committed; {}", measured.stderr);
}
