//! The C++ jobs, run through the whole pipeline.

use serde_json::json;

use crate::harness::{Jobber, Place, eventually};

#[tokio::test]
async fn the_originals_quick_start_works() {
    let j = Jobber::dev().start().await;
    j.place().cpp_jobs();
    let body = r#"{"name":"dummy-job","data":{"message":"Hello from Jobber!"}}"#;
    let (status, answer) = j.post_raw("/jobs", "application/json", body).await;
    assert_eq!((status, &answer["status"]), (202, &json!("queued")), "{answer}");
    let first = answer["jobId"].as_str().unwrap().to_owned();
    let (status, answer) =
        j.post_raw("/jobs", "application/json", r#"{"jobName":"dummy-job","arguments":["a","b"]}"#).await;
    assert_eq!((status, &answer["status"]), (202, &json!("queued")), "{answer}");
    let second = answer["jobId"].as_str().unwrap().to_owned();
    for id in [&first, &second] {
        let view = j.wait_final(id).await;
        assert!(!view["attempts"].as_array().unwrap().is_empty(), "{view}");
    }
    let (status, jobs) = j.get("/jobs").await;
    assert_eq!(status, 202);
    let group = &jobs["jobs"][0];
    assert_eq!(group["jobName"], "dummy-job");
    assert_eq!(group["allJobIds"].as_array().unwrap().len(), 2);
    assert_eq!(group["completedCount"].as_u64().unwrap() + group["failedCount"].as_u64().unwrap(), 2);
    let (status, stats) = j.get("/stats").await;
    assert_eq!(status, 202);
    assert!(stats["jobStats"]["perAttemptsStats"].is_array(), "{stats}");
    assert!(stats["jobStats"]["perConcurrentJobsStats"].is_array(), "{stats}");
    assert!(stats["jobStats"]["errorCategorySuccessRate"].is_array(), "{stats}");
}

#[tokio::test]
async fn run_passes_on_how_the_job_ended() {
    let j = Jobber::dev().start().await;
    j.place().cpp_jobs();
    let cases: &[(&[&str], i32)] = &[
        (&["run", "faulty", "--attempts", "1", "--", "exit", "0"], 0),
        (&["run", "faulty", "--attempts", "1", "--", "exit", "7"], 7),
        (&["run", "faulty", "--attempts", "1", "--", "segfault"], 139),
        (&["run", "faulty", "--attempts", "1", "--", "abort"], 134),
        (&["run", "faulty", "--attempts", "1", "--timeout", "300ms", "--grace", "200ms", "--", "ignore-term"], 124),
        (&["run", "faulty", "--attempts", "1", "--timeout", "300ms", "--", "exit-on-term", "0"], 124),
        (&["run", "faulty", "--attempts", "1", "--memory", "64M", "--", "allocate"], 137),
        (&["run", "no-such-binary"], 127),
    ];
    for (args, code) in cases {
        let out = j.cli(args).await;
        assert_eq!(out.code, *code, "{args:?}\n{}{}\n{}", out.stdout, out.stderr, j.log());
    }
}

#[tokio::test]
async fn a_job_is_as_nice_as_it_says_or_as_its_worker_is_told() {
    let place = Place::new();
    std::fs::write(place.path().join("jobber.toml"), "[worker]\nnice = 3\n[jobs.polite]\nnice = 9\n").unwrap();
    for name in ["plain", "polite"] {
        place.job(name, "#!/bin/sh\nexec nice\n");
    }
    let j = Jobber::dev().at(&place).start().await;
    let own = std::process::Command::new("nice").output().unwrap().stdout;
    let own: u32 = String::from_utf8(own).unwrap().trim().parse().unwrap();
    for (args, more) in [
        (&["run", "plain"][..], 3),
        (&["run", "polite"], 9),
        (&["run", "plain", "--nice", "12"], 12),
        (&["run", "polite", "--nice", "0"], 0),
    ] {
        let out = j.cli(args).await;
        assert_eq!(
            (out.code, out.stdout.trim()),
            (0, (own + more).min(19).to_string().as_str()),
            "{args:?}: {}",
            out.stderr
        );
    }
    let out = j.cli(&["run", "plain", "--nice", "20"]).await;
    assert!(out.code != 0 && out.stderr.contains("must be 0 to 19"), "{}", out.stderr);
}

#[tokio::test]
async fn mandelbrot_reports_progress_and_where_its_image_is() {
    let j = Jobber::dev().start().await;
    j.place().cpp_jobs();
    let image = j.place().path().join("image.ppm");
    let data = json!({"width": 800, "height": 600, "iterations": 5000, "output": image});
    let out = j.cli(&["run", "mandelbrot", "--data", &data.to_string()]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stderr.contains("100"), "progress is shown: {}", out.stderr);
    assert!(std::fs::read(&image).unwrap().starts_with(b"P6"));
    let (_, list) = j.get("/api/v1/jobs?name=mandelbrot").await;
    let (_, view) = j.get(&format!("/api/v1/jobs/{}", list["items"][0]["id"].as_str().unwrap())).await;
    assert_eq!(view["result"]["path"], json!(image), "{view}");
    assert!(view["attempts"][0]["report"]["usage"]["user_us"].as_u64().unwrap() > 0, "{view}");
}

#[tokio::test]
async fn the_seven_outcomes_are_told_apart() {
    let j = Jobber::dev().arg("--cores").arg("4").start().await;
    j.place().cpp_jobs();
    let submit = async |arguments: &[&str], extra: serde_json::Value| {
        let mut body = json!({"name": "faulty", "arguments": arguments, "attempts": 1});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        j.submit(body).await
    };
    let exit = submit(&["exit", "3"], json!({})).await;
    let signal = submit(&["abort"], json!({})).await;
    let timeout = submit(&["hang"], json!({"timeout_ms": 200})).await;
    let oom = submit(&["allocate"], json!({"memory_bytes": 64 << 20})).await;
    let cancelled = submit(&["hang"], json!({})).await;
    j.wait_state(&cancelled, "active").await;
    let (status, answer) = j.post(&format!("/api/v1/jobs/{cancelled}:cancel"), json!({"reason": "a test"})).await;
    assert_eq!(status, 202, "{answer}");
    let (mut kinds, mut attempts) = (Vec::new(), Vec::new());
    for id in [&exit, &signal, &timeout, &oom, &cancelled] {
        let view = j.wait_final(id).await;
        assert_eq!(view["state"], "failed", "{view}");
        assert!(view["error"].as_str().is_some_and(|e| !e.is_empty()), "{view}");
        kinds.push(view["outcome"]["kind"].as_str().unwrap().to_owned());
        attempts.push(view["attempts"].clone());
    }
    assert_eq!(kinds, ["exit", "signal", "timeout", "oom", "cancelled"], "{attempts:?}");
}

#[tokio::test]
async fn nothing_that_a_job_leaves_behind_survives_it() {
    let j = Jobber::dev().arg("--cores").arg("4").start().await;
    j.place().cpp_jobs();
    let mut ids = Vec::new();
    for arguments in [
        vec!["fork-children", "3"],
        vec!["fork-children", "3", "--setsid"],
        vec!["hold-pipe", "100"],
        vec!["hold-pipe", "100", "--setsid"],
    ] {
        ids.push(j.submit(json!({"name": "faulty", "arguments": arguments, "attempts": 1})).await);
    }
    ids.push(
        j.submit(
            json!({"name": "faulty", "arguments": ["ignore-term"], "attempts": 1, "timeout_ms": 200, "grace_ms": 200}),
        )
        .await,
    );
    for id in &ids {
        j.wait_final(id).await;
    }
    // The supervisor itself stays, in the same directory; nothing else does.
    eventually("every leftover to be gone", async || {
        let scratch = j.place().data_dir().join("scratch");
        let others: Vec<_> = j.place().leftovers().into_iter().filter(|p| p.contains("faulty")).collect();
        let empty = walk(&scratch).iter().all(|p| !p.is_file());
        (others.is_empty() && empty).then_some(())
    })
    .await;
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        found.extend(walk(&entry.path()));
    }
    found
}

#[tokio::test]
async fn floods_cost_no_more_memory_than_the_buffers() {
    let j = Jobber::dev().arg("--cores").arg("4").start().await;
    j.place().cpp_jobs();
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", j.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let warm = j.submit(json!({"name": "faulty", "arguments": ["flood", "1M"]})).await;
    j.wait_final(&warm).await;
    let before = peak();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(j.submit(json!({"name": "faulty", "arguments": ["flood", "50M"], "attempts": 1})).await);
    }
    for id in ids {
        let view = j.wait_final(&id).await;
        assert_eq!(view["state"], "completed", "{}", view["error"]);
        let stdout = &view["attempts"][0]["report"]["stdout"];
        assert_eq!((stdout["truncated"].as_bool(), stdout["total_bytes"].as_u64()), (Some(true), Some(50 << 20)));
    }
    // 20 x 50 MiB went through; the buffers are 64 KiB a stream. The rest is the database's cache and the allocator.
    assert!(peak() < before + 64 * 1024, "{} KiB before, {} KiB after", before, peak());
}
