//! Looking at jobs, queue and workers, and changing what is queued.

use serde_json::json;

use super::parse;
use crate::harness::{Jobber, eventually, run};

#[tokio::test]
async fn a_job_is_listed_shown_and_explained() {
    let j = Jobber::dev().start().await;
    j.job("broken", "#!/bin/sh\nprintf 'bad \\033[31mpixel\\n' >&2\nexit 4\n");
    let id = j.cli(&["submit", "broken", "--attempts", "1", "--print-id"]).await.stdout.trim().to_owned();
    j.wait_final(&id).await;
    let line = eventually("the job in the list of failed jobs", async || {
        let out = j.cli(&["ls", "--state", "failed", "--name", "broken", "--since", "1h"]).await;
        out.stdout.lines().find(|line| line.starts_with(&id)).map(str::to_owned)
    })
    .await;
    assert!(line.contains("exit 4"), "{line}");

    let out = j.cli(&["show", &id]).await;
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stdout.contains("ATTEMPT") && out.stdout.contains("bad \\x1b[31mpixel"), "{out:?}");
    assert!(!out.stdout.contains('\u{1b}'), "{out:?}");
    let job = parse(&j.cli(&["show", &id, "-o", "json"]).await.stdout);
    assert_eq!(job["outcome"], json!({"kind": "exit", "code": 4}));
    assert!(job["attempts"][0]["report"]["usage"]["wall_us"].as_u64().unwrap() > 0);

    let out = j.cli(&["explain", &id]).await;
    assert!(out.code == 0 && out.stdout.contains("is failed"), "{out:?}");
    assert_eq!(j.cli(&["show", "no-such-job"]).await.code, 3);
    assert_eq!(j.cli(&["list", "--state", "asleep"]).await.code, 2);
}

#[tokio::test]
async fn pages_of_a_list_can_be_turned() {
    let j = Jobber::serve().start().await;
    j.job("quick", "#!/bin/sh\n");
    j.cli(&["submit", "quick", "--count", "7"]).await;
    let all = async || parse(&j.cli(&["list", "--all", "--limit", "3", "-o", "json"]).await.stdout)["items"].clone();
    eventually("seven jobs in the list", async || (all().await.as_array().unwrap().len() == 7).then_some(())).await;
    let first = j.cli(&["list", "--limit", "3", "-o", "json"]).await;
    assert!(first.stderr.starts_with("hint: there are more"), "{first:?}");
    let first = parse(&first.stdout);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = parse(&j.cli(&["list", "--limit", "3", "--cursor", cursor, "-o", "json"]).await.stdout);
    let all = all().await;
    assert_eq!(first["items"].as_array().unwrap()[..], all.as_array().unwrap()[..3]);
    assert_eq!(second["items"].as_array().unwrap()[..], all.as_array().unwrap()[3..6]);
}

#[tokio::test]
async fn a_failed_job_can_be_put_back_and_a_delayed_one_moved_up() {
    let j = Jobber::dev().start().await;
    let switch = j.place().path().join("switch");
    j.job("moody", "#!/bin/sh\n[ -e \"$1\" ]\n");
    let word = switch.to_str().unwrap();
    let id = j.cli(&["submit", "moody", "--attempts", "1", "--print-id", "--", word]).await.stdout.trim().to_owned();
    assert_eq!(j.cli(&["wait", &id]).await.code, 1);
    tokio::fs::write(&switch, "").await.unwrap();
    let out = j.cli(&["retry", &id, "-o", "json"]).await;
    assert_eq!((out.code, &parse(&out.stdout)["items"][0]["status"]), (0, &json!("retried")), "{out:?}");
    assert_eq!(j.cli(&["wait", &id]).await.code, 0);
    assert_eq!(j.cli(&["retry", &id]).await.code, 5);

    let id = j.cli(&["submit", "moody", "--delay", "1h", "--print-id", "--", word]).await.stdout.trim().to_owned();
    assert_eq!(j.cli(&["promote", &id]).await.code, 0);
    assert_eq!(j.cli(&["wait", &id]).await.code, 0);
}

#[tokio::test]
async fn what_a_command_did_is_seen_by_the_next() {
    let j = Jobber::serve().start().await;
    j.job("quick", "#!/bin/sh\n");
    for _ in 0..10 {
        let id = j.cli(&["submit", "quick", "--delay", "1h", "--print-id"]).await.stdout.trim().to_owned();
        assert_eq!(j.cli(&["cancel", &id, "--reason", "not wanted"]).await.code, 0);
        let job = parse(&j.cli(&["show", &id, "-o", "json"]).await.stdout);
        assert_eq!((&job["state"], &job["outcome"]), (&json!("failed"), &json!({"kind": "cancelled"})), "{job}");
        assert_eq!(job["error"], "cancelled: not wanted", "{job}");
    }
}

#[tokio::test]
async fn verbs_are_tried_on_every_job() {
    let j = Jobber::serve().start().await;
    j.job("quick", "#!/bin/sh\n");
    let ids = j.cli(&["submit", "quick", "--count", "2", "--print-id"]).await.stdout;
    let ids: Vec<&str> = ids.lines().collect();
    let out = j.cli(&["rm", ids[0], "no-such-job", ids[1], "-o", "json"]).await;
    assert_eq!(out.code, 3, "{out:?}");
    assert_eq!(parse(&out.stdout)["items"].as_array().unwrap().len(), 2, "{out:?}");
}

#[tokio::test]
async fn a_paused_queue_hands_nothing_out_and_is_cleaned() {
    let j = Jobber::dev().start().await;
    j.job("quick", "#!/bin/sh\n");
    let out = j.cli(&["queue", "pause", "-o", "json"]).await;
    assert_eq!((out.code, &parse(&out.stdout)["paused"]), (0, &json!(true)), "{out:?}");
    let id = j.cli(&["submit", "quick", "--print-id"]).await.stdout.trim().to_owned();
    assert_eq!(j.cli(&["wait", &id, "--timeout", "300ms"]).await.code, 125);
    assert!(j.cli(&["explain", &id]).await.stdout.contains("paused"));
    assert_eq!(j.cli(&["queue", "resume"]).await.code, 0);
    assert_eq!(j.cli(&["wait", &id]).await.code, 0);
    let out = j.cli(&["queue", "clean", "--state", "completed", "-o", "json"]).await;
    assert_eq!(parse(&out.stdout), json!({"removed": 1}), "{out:?}");
}

#[tokio::test]
async fn workers_are_listed_and_drained() {
    let j = Jobber::serve().start().await;
    let mut worker = Jobber::work().at(j.place()).start().await;
    let id = eventually("the worker in the list", async || {
        let workers = parse(&j.cli(&["worker", "ls", "-o", "json"]).await.stdout);
        workers["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let table = j.cli(&["worker", "ls"]).await.stdout;
    let line = table.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("{table}"));
    assert!(line.contains(&host) && line.contains(env!("CARGO_PKG_VERSION")), "{table}");
    // The beginning of its id is enough, as long as it is the only one that begins so.
    assert_eq!(j.cli(&["worker", "drain", &id[..id.len() - 3]]).await.code, 0);
    assert_eq!(worker.ended().await, 0);
    assert_eq!(j.cli(&["worker", "drain", "no-such-worker"]).await.code, 3);
}

#[tokio::test]
async fn a_worker_tells_what_runs_on_its_cores() {
    let j = Jobber::dev().start().await;
    j.job("sleeps", "#!/bin/sh\nexec sleep 60\n");
    std::fs::write(j.place().jobs_dir().join("notes.txt"), "").unwrap();
    let id = j.cli(&["submit", "sleeps", "--cores", "1", "--print-id"]).await.stdout.trim().to_owned();
    let worker = eventually("the job among those of the worker, with its memory", async || {
        let workers = parse(&j.cli(&["worker", "ls", "-o", "json"]).await.stdout);
        let worker = workers["items"][0].clone();
        (worker["jobs"][0]["memory_bytes"].as_u64() > Some(0)).then_some(worker)
    })
    .await;
    let job = &worker["jobs"][0];
    assert_eq!((&job["job"], &job["name"], &job["attempt"]), (&json!(id), &json!("sleeps"), &json!(1)), "{worker}");
    assert!(worker["cpus"].as_array().unwrap().contains(&job["cpus"][0]), "{worker}");
    assert!(worker["memory_bytes"].as_u64() >= worker["memory_available_bytes"].as_u64(), "{worker}");
    let shown = j.cli(&["worker", "show", worker["id"].as_str().unwrap()]).await.stdout;
    assert!(shown.contains(&format!("sleeps  {id}")), "{shown}");
    assert_eq!(j.cli(&["worker", "show", "no-such-worker"]).await.code, 3);

    // The worker looks into its jobs directory every few seconds.
    let listing = eventually("the worker to announce its binary", async || {
        let listing = parse(&j.cli(&["binaries", "-o", "json"]).await.stdout);
        (listing["items"][1]["workers"] == 1).then_some(listing)
    })
    .await;
    assert_eq!(listing["complete"], true, "{listing}");
    let trouble = listing["items"][0]["trouble"].as_str().unwrap_or_default();
    assert!(listing["items"][0]["name"] == "notes.txt" && trouble.contains("not executable"), "{listing}");
    let item = &listing["items"][1];
    assert_eq!((&item["name"], &item["workers"], item.get("trouble")), (&json!("sleeps"), &json!(1), None));
    assert_eq!(j.cli(&["cancel", &id]).await.code, 0);
}

#[tokio::test]
async fn a_token_is_asked_for_and_taken() {
    let j = Jobber::serve().env("JOBBER_TOKEN", "hunter2-hunter2").start().await;
    let server = [("JOBBER_SERVER", j.base())];
    let with_token = [("JOBBER_SERVER", j.base()), ("JOBBER_TOKEN", "hunter2-hunter2")];
    let file = j.place().path().join("token");
    tokio::fs::write(&file, "hunter2-hunter2\n").await.unwrap();
    let out = run(&["queue", "status"], &with_token, j.place().path(), "").await;
    assert_eq!(out.code, 0, "{out:?}");
    let out = run(&["queue", "status", "--token-file", "token"], &server, j.place().path(), "").await;
    assert_eq!(out.code, 0, "{out:?}");
    let out = run(&["queue", "status", "--token", "wrong"], &server, j.place().path(), "").await;
    assert_eq!(out.code, 4, "{out:?}");
    assert!(out.stderr.contains("hint: set JOBBER_TOKEN"), "{out:?}");
}

#[tokio::test]
async fn without_a_server_there_is_a_code_and_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    // A port that was free a moment ago: nothing listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("http://{address}");
    let env = [("JOBBER_SERVER", server.as_str())];
    let out = run(&["list"], &env, dir.path(), "").await;
    assert_eq!(out.code, 6, "{out:?}");
    assert!(out.stderr.contains(&server) && out.stderr.contains("hint: ") && out.stderr.contains("jobber dev"));
    assert_eq!(run(&["run", "a"], &env, dir.path(), "").await.code, 125);
    assert_eq!(run(&["frobnicate"], &env, dir.path(), "").await.code, 2);
    assert_eq!(run(&["--help"], &env, dir.path(), "").await.code, 0);
    assert_eq!(run(&["completions", "bash"], &env, dir.path(), "").await.code, 0);
}

#[tokio::test]
async fn a_reader_that_has_had_enough_is_no_error() {
    let j = Jobber::serve().start().await;
    let script = "\"$1\" completions zsh | head -c 1 >/dev/null; \"$1\" list | true";
    let out = tokio::process::Command::new("/bin/bash")
        .args(["-o", "pipefail", "-e", "-c", script, "sh", crate::harness::binary()])
        .env("JOBBER_SERVER", j.base())
        .output()
        .await
        .unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}
