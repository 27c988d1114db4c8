//! `jobber category` with the categories that come with Jobber.

use serde_json::{Value, json};

use crate::harness::{Jobber, eventually};

/// Where a text belongs, once there are so many categories.
async fn category_of(j: &Jobber, categories: usize, text: &str) -> String {
    eventually("the categories to be there", async || {
        let (_, listed) = j.get("/api/v1/categories").await;
        (listed["items"].as_array().unwrap().len() == categories).then_some(())
    })
    .await;
    let (status, tested) = j.post("/api/v1/categories:test", json!({"text": text})).await;
    assert_eq!(status, 200, "{tested}");
    tested["category"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_preset_makes_a_category_that_finds_its_errors() {
    let j = Jobber::dev().env("JOBBER_FAILURES_SEED", "original").start().await;
    let full = "cp: error writing '/mnt/out': No space left on device";
    assert_eq!(category_of(&j, 6, full).await, "uncategorised");
    let out = j.cli(&["category", "presets", "-o", "json"]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    let presets: Value = serde_json::from_str(&out.stdout).unwrap();
    assert!(presets["items"].as_array().unwrap().iter().any(|p| p["name"] == "Licence error"), "{presets}");
    let out = j.cli(&["category", "add", "--preset", "disk-full"]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(category_of(&j, 7, full).await, "disk-or-filesystem-error");
    let out = j.cli(&["category", "add", "Seats", "--preset", "licence", "--example", "no seat left"]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(category_of(&j, 8, "license checkout failed: all seats are taken").await, "seats");
    let (_, listed) = j.get("/api/v1/categories").await;
    let seats = listed["items"].as_array().unwrap().iter().find(|c| c["id"] == "seats").unwrap();
    assert!(seats["examples"].as_array().unwrap().contains(&json!("no seat left")), "{seats}");
}

#[tokio::test]
async fn an_unknown_preset_and_a_category_without_a_name_are_refused() {
    let j = Jobber::dev().start().await;
    let out = j.cli(&["category", "add", "--preset", "weather"]).await;
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("categories:presets"), "{}", out.stderr);
    let (status, answer) = j.post("/api/v1/categories", json!({"description": "no name"})).await;
    assert_eq!(status, 400, "{answer}");
}

/// A new installation tells them apart by itself.
#[tokio::test]
async fn a_new_installation_tells_the_causes_of_failed_cpp_jobs_apart() {
    let j = Jobber::dev().env("JOBBER_FAILURES_SEED", "library").start().await;
    let (_, presets) = j.get("/api/v1/categories:presets").await;
    let presets = presets["items"].as_array().unwrap();
    for (text, category) in [
        ("write error: No space left on device", "disk-or-filesystem-error"),
        ("could not open mesh file wing.msh: No such file or directory", "missing-file"),
        ("connect to 10.0.0.7:5432: Connection refused", "network-error"),
        ("open /var/lib/out.bin: Permission denied", "permission-denied"),
        ("job: grid.cpp:17: void step(): Assertion `dt > 0' failed.", "assertion-failed"),
        ("CUDA error: no CUDA-capable device is detected", "gpu-error"),
        ("License checkout failed: license server is down", "licence-error"),
        ("Floating point exception (core dumped)", "numerical-error"),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
            "memory-quota-exceeded",
        ),
        (
            "./job: error while loading shared libraries: libmesh.so.3: cannot open shared object file",
            "child-process-spawn-failed",
        ),
        ("Segmentation fault (core dumped)", "segmentation-fault"),
    ] {
        assert_eq!(category_of(&j, presets.len(), text).await, category, "{text}");
    }
}

#[tokio::test]
async fn an_installation_without_seeds_starts_with_no_category_and_keeps_what_it_is_given() {
    let mut j = Jobber::dev().env("JOBBER_FAILURES_SEED", "none").start().await;
    let ids = async |j: &Jobber| {
        let (_, listed) = j.get("/api/v1/categories").await;
        let ids: Vec<_> = listed["items"].as_array().unwrap().iter().map(|c| c["id"].clone()).collect();
        ids
    };
    let out = j.cli(&["category", "add", "Beamline"]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    eventually("the category to be there", async || (ids(&j).await == ["beamline"]).then_some(())).await;
    j.stop().await;
    let again = Jobber::dev().at(j.place()).start().await;
    again.job("bad", "#!/bin/sh\nexit 3\n");
    let id = again.submit(json!({"name": "bad", "attempts": 1})).await;
    again.wait_final(&id).await;
    assert_eq!(ids(&again).await, ["beamline"]);
}
