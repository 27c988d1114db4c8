//! Which builds of a job's binary the workers have, and how they fare.

mod regressions;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Jobber, Place, eventually};

/// Makes a program with this build id.
fn link(place: &Place, name: &str, id: &str) {
    let new = place.path().join("new");
    let mut compiler = Command::new("c++")
        .args(["-x", "c++", "-", "-s", &format!("-Wl,--build-id=0x{id}"), "-o"])
        .arg(&new)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(b"int main() {}").unwrap();
    assert!(compiler.wait().unwrap().success());
    std::fs::rename(new, place.jobs_dir().join(name)).unwrap();
}

/// The builds of each name, once there are as many of each.
async fn builds(serve: &Jobber, counts: &[(&str, usize)]) -> Value {
    eventually("the builds to be told", async || {
        let (_, listing) = serve.get("/api/v1/binaries").await;
        let items = listing["items"].as_array()?;
        let builds: serde_json::Map<_, _> =
            items.iter().map(|item| (item["name"].as_str().unwrap().to_owned(), item["builds"].clone())).collect();
        let count = |name: &str| builds.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        let workers =
            |name: &str| builds[name].as_array().unwrap().iter().map(|b| b["workers"].as_u64().unwrap()).sum::<u64>();
        let is_told = counts.iter().all(|(name, wanted)| count(name) == *wanted && workers(name) == 2);
        is_told.then(|| Value::Object(builds.clone()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_one_name_that_differ_are_told_with_who_has_them() {
    let (server, one, two) = (Place::new(), Place::new(), Place::new());
    link(&one, "resize", "0123456789abcdef01234567");
    link(&two, "resize", "fedcba9876543210fedcba98");
    for place in [&one, &two] {
        place.job("script", "#!/bin/sh\n");
    }
    let serve = Jobber::serve().at(&server).start().await;
    let work = |jobs: &Place| {
        let start = Jobber::work().at(&server).with_default_jobs_dir().arg("--cores").arg("1");
        start.arg("--jobs-dir").arg(jobs.jobs_dir().to_str().unwrap())
    };
    let _workers = (work(&one).start().await, work(&two).start().await);

    let told = builds(&serve, &[("resize", 2), ("script", 1)]).await;
    let mut digests: Vec<_> =
        told["resize"].as_array().unwrap().iter().map(|build| build["digest"].as_str().unwrap()).collect();
    digests.sort_unstable();
    assert_eq!(digests, ["0123456789abcdef01234567", "fedcba9876543210fedcba98"]);
    let script = &told["script"][0];
    assert!(script["digest"].as_str().unwrap().starts_with("sha256:") && script["bytes"] == 10, "{script}");
    assert_eq!(script["worker_ids"].as_array().unwrap().len(), 2, "{script}");

    let (_, workers) = serve.get("/api/v1/workers").await;
    let holder = |digest: &str| {
        let has = |worker: &&Value| worker["builds"]["resize"]["digest"] == digest;
        workers["items"].as_array().unwrap().iter().find(has).unwrap()["id"].as_str().unwrap()
    };
    let (first, second) = (holder(digests[0]), holder(digests[1]));
    let shown = serve.cli(&["binaries"]).await;
    assert!(shown.stdout.contains("2 builds"), "{}", shown.stdout);
    for part in ["2 builds of resize", &format!("0123456789ab on {first}"), &format!("fedcba987654 on {second}")] {
        assert!(shown.stderr.contains(part), "{part}: {}", shown.stderr);
    }
    let shown = serve.cli(&["worker", "show", second]).await.stdout;
    assert!(shown.contains("fedcba987654"), "{shown}");

    // A file that is replaced is noticed.
    link(&two, "resize", "0123456789abcdef01234567");
    let told = builds(&serve, &[("resize", 1), ("script", 1)]).await;
    assert_eq!(told["resize"][0]["digest"], json!(digests[0]));
    let shown = serve.cli(&["binaries"]).await;
    assert!(!shown.stderr.contains("builds of") && shown.stdout.contains("0123456789ab ("), "{}", shown.stdout);
}
