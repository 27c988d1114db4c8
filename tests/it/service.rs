//! What a service owes those who run it: it says what it waits for, answers while others hold what it needs, keeps its
//! files to itself, and goes down in order.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;
use tokio::process::{Child, Command};

use crate::harness::redis::Redis;
use crate::harness::{Jobber, Place, binary, eventually, run};

/// A command that goes on, with what it writes in files.
struct Going {
    child: Child,
    dir: tempfile::TempDir,
}

impl Going {
    fn start(args: &[&str], env: &[(&str, &str)], dir: &Path) -> Self {
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str| Stdio::from(std::fs::File::create(files.path().join(name)).unwrap());
        let mut command = Command::new(binary());
        command.args(args).current_dir(dir).envs(env.iter().copied()).kill_on_drop(true);
        let child = command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).spawn().unwrap();
        Self { child, dir: files }
    }

    fn client(args: &[&str], of: &Jobber) -> Self {
        Self::start(args, &[("JOBBER_SERVER", of.base())], of.place().path())
    }

    fn err(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("err")).unwrap()
    }

    fn out(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    async fn says(&self, text: &str) {
        eventually(&format!("{text:?} in {:?}", self.err()), async || self.err().contains(text).then_some(())).await;
    }

    async fn code(mut self) -> (i32, Self) {
        let status = tokio::time::timeout(crate::harness::PATIENCE, self.child.wait()).await.unwrap().unwrap();
        (status.code().unwrap_or(-1), self)
    }
}

/// What a start on some address says, in the log, until it is ready.
async fn said_at_start(place: &Arc<Place>, args: &[&str], env: &[(&str, &str)]) -> String {
    let data = place.data_dir();
    let mut command = Command::new(binary());
    command.args(["serve", "--ready-fd", "1", "--data-dir"]).arg(data).args(args).envs(env.iter().copied());
    let err = place.path().join("said");
    command.stdin(Stdio::null()).stderr(std::fs::File::create(&err).unwrap()).stdout(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut ready = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(crate::harness::PATIENCE, ready.next_line()).await.unwrap().unwrap();
    let said = std::fs::read_to_string(err).unwrap();
    assert!(line.is_some(), "{said}");
    rustix::process::kill_process(rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap(), Signal::TERM)
        .unwrap();
    assert!(child.wait().await.unwrap().success());
    said
}

async fn readiness(of: &Jobber) -> u16 {
    of.get("/readyz").await.0
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn while_another_process_holds_the_database_the_server_is_not_ready_and_its_callers_wait_together() {
    let serve = Jobber::serve().start().await;
    serve.job("quick", "#!/bin/sh\n");
    assert_eq!(readiness(&serve).await, 200);
    let other = rusqlite::Connection::open(serve.place().data_dir().join("jobber.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    eventually("a server that is not ready", async || (readiness(&serve).await == 503).then_some(())).await;
    let began = Instant::now();
    let (_, answer) = serve.get("/readyz").await;
    assert_eq!(answer["components"]["queue"]["status"], "unavailable", "{answer}");
    // The answer takes about a second; a write of the database's own would wait for ten.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let posts = (0..20).map(|_| serve.post("/api/v1/jobs", json!({"name": "quick"})));
    let release = async {
        // Reads go on; a second read stands behind the posts.
        assert_eq!(serve.get("/api/v1/jobs").await.0, 200);
        other.execute_batch("COMMIT").unwrap();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(posts), release);
    assert!(answers.iter().all(|(status, _)| *status == 202), "{answers:?}");
    assert_eq!(readiness(&serve).await, 200);
}

#[tokio::test]
async fn a_database_that_is_held_past_a_lease_costs_no_attempt() {
    let place = Place::new();
    place.job("long", "#!/bin/sh\necho begun\nwhile [ ! -e $0.go ]; do sleep 0.05; done\necho ended\n");
    let serve = Jobber::serve().at(&place).env("JOBBER_LEASE", "3s").start().await;
    let _work = Jobber::work().at(&place).env("JOBBER_LEASE", "3s").start().await;
    let id = serve.submit(json!({"name": "long", "attempts": 1})).await;
    serve.wait_state(&id, "active").await;
    let other = rusqlite::Connection::open(place.data_dir().join("jobber.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Nothing to wait for: what is shown is that nothing happens.
    tokio::time::sleep(Duration::from_secs(6)).await;
    std::fs::write(place.jobs_dir().join("long.go"), "").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    other.execute_batch("COMMIT").unwrap();
    let view = serve.wait_final(&id).await;
    assert_eq!((&view["state"], view["attempts"].as_array().unwrap().len()), (&json!("completed"), 1), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_writes_is_not_ready() {
    let redis = Arc::new(tokio::task::spawn_blocking(Redis::start).await.unwrap());
    let serve = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let ready = async |status: u16| {
        eventually(&format!("readiness {status}"), async || (readiness(&serve).await == status).then_some(())).await;
    };
    ready(200).await;
    for (off, on) in [
        (&["config", "set", "maxmemory", "1"][..], &["config", "set", "maxmemory", "0"][..]),
        (&["replicaof", "127.0.0.1", "1"], &["replicaof", "no", "one"]),
        (&["config", "set", "min-replicas-to-write", "1"], &["config", "set", "min-replicas-to-write", "0"]),
    ] {
        redis.cli(off);
        ready(503).await;
        redis.cli(on);
        ready(200).await;
    }
}

/// Fifty submissions at once; the longest that one of them took. All are refused.
async fn fifty_refused(serve: &Jobber) -> Duration {
    let client = serve.http();
    let post = async || {
        let began = Instant::now();
        let post = client.post(serve.url("/api/v1/jobs")).json(&json!({"name": "quick"}));
        assert_eq!(post.send().await.unwrap().status(), 503);
        began.elapsed()
    };
    let times = futures_util::future::join_all((0..50).map(|_| post())).await;
    times.into_iter().max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_of_redis_fifty_submissions_get_their_answer_together() {
    let redis = Arc::new(tokio::task::spawn_blocking(Redis::start).await.unwrap());
    let serve = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    serve.job("quick", "#!/bin/sh\n");
    eventually("readiness", async || (readiness(&serve).await == 200).then_some(())).await;
    // Each has its answer in about a second; one after the other they took twenty and fifty.
    redis.signal("STOP");
    let stalled = fifty_refused(&serve).await;
    redis.signal("CONT");
    assert!(stalled < Duration::from_secs(8), "{stalled:?}");
    eventually("readiness", async || (readiness(&serve).await == 200).then_some(())).await;
    redis.kill();
    let killed = fifty_refused(&serve).await;
    assert!(killed < Duration::from_secs(8), "{killed:?}");
}

#[tokio::test]
async fn the_api_serves_until_the_last_job_has_drained() {
    let place = Place::new();
    place.job("slow", "#!/bin/sh\necho going\nwhile [ ! -e $0.go ]; do sleep 0.05; done\nexit 7\n");
    let mut dev = Jobber::dev().at(&place).arg("--cores").arg("2").start().await;
    let run = Going::client(&["run", "slow", "--attempts", "1"], &dev);
    eventually("its output", async || run.out().contains("going").then_some(())).await;
    let hung = dev.submit(json!({"name": "slow", "attempts": 1})).await;
    dev.wait_state(&hung, "active").await;
    dev.signal(Signal::TERM);
    let refused = eventually("a refusal", async || {
        let (status, answer) = dev.post("/api/v1/jobs", json!({"name": "slow"})).await;
        (status != 202).then_some((status, answer))
    })
    .await;
    assert_eq!((refused.0, &refused.1["code"]), (503, &json!("stopping")), "{}", refused.1);
    let (status, ready) = dev.get("/readyz").await;
    assert_eq!((status, &ready["status"]), (503, &json!("stopping")));
    assert_eq!(dev.get("/healthz").await.0, 200);
    let (status, answer) = dev.post(&format!("/api/v1/jobs/{hung}:cancel"), json!({})).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(dev.wait_final(&hung).await["outcome"]["kind"], "cancelled");
    std::fs::write(place.jobs_dir().join("slow.go"), "").unwrap();
    let (code, run) = run.code().await;
    assert_eq!(code, 7, "{}", run.err());
    assert_eq!(dev.ended().await, 0, "{}", dev.log());
}

#[tokio::test]
async fn to_drain_the_worker_of_dev_leaves_the_api() {
    let mut dev = Jobber::dev().start().await;
    dev.job("quick", "#!/bin/sh\n");
    let id = eventually("its worker", async || {
        dev.get("/api/v1/workers").await.1["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(dev.cli(&["worker", "drain", &id]).await.code, 0);
    eventually("the worker's end", async || dev.log().contains("the API serves on").then_some(())).await;
    let id = dev.submit(json!({"name": "quick"})).await;
    assert_eq!(dev.get(&format!("/api/v1/jobs/{id}")).await.1["state"], "waiting");
    assert_eq!(dev.stop().await, 0, "{}", dev.log());
}

#[tokio::test]
async fn those_who_wait_are_told_why_and_told_again_when_that_changes() {
    let place = Place::new();
    place.job("quick", "#!/bin/sh\n");
    let serve = Jobber::serve().at(&place).start().await;
    let id = serve.submit(json!({"name": "quick"})).await;
    let waiting = [
        Going::client(&["run", "quick"], &serve),
        Going::client(&["wait", &id], &serve),
        Going::client(&["submit", "quick", "--wait"], &serve),
    ];
    for command in &waiting {
        command.says("no worker is running").await;
    }
    assert_eq!(serve.cli(&["queue", "pause"]).await.code, 0);
    for command in &waiting {
        command.says("the queue is paused").await;
    }
    let _work = Jobber::work().at(&place).start().await;
    assert_eq!(serve.cli(&["queue", "resume"]).await.code, 0);
    for command in waiting {
        let (code, command) = command.code().await;
        assert_eq!(code, 0, "{}", command.err());
        // Said once while it held, though the number of jobs ahead changed.
        assert_eq!(command.err().matches("is waiting: no worker is running").count(), 1, "{}", command.err());
    }
}

#[tokio::test]
async fn the_data_is_for_this_user_alone_and_risky_addresses_are_warned_of() {
    let place = Place::new();
    let said = said_at_start(&place, &["--listen", "0.0.0.0:0", "--insecure"], &[]).await;
    assert!(said.contains("everybody who reaches this address may run programs"), "{said}");
    assert!(!said.contains("data directory"), "{said}");
    assert_eq!(mode(&place.data_dir()), 0o700);
    for file in std::fs::read_dir(place.data_dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().unwrap().to_string_lossy().starts_with("jobber.db") {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }
    // As an older Jobber left it.
    let database = place.data_dir().join("jobber.db");
    std::fs::set_permissions(&database, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::set_permissions(place.data_dir(), PermissionsExt::from_mode(0o755)).unwrap();
    let said = said_at_start(&place, &["--listen", "0.0.0.0:0"], &[("JOBBER_TOKEN", "a-token-of-the-test")]).await;
    assert!(said.contains("sent in the clear"), "{said}");
    assert!(said.contains("chmod 700"), "{said}");
    assert_eq!(mode(&database), 0o600);
    let said = said_at_start(&place, &["--listen", "127.0.0.1:0"], &[("JOBBER_TOKEN", "a-token-of-the-test")]).await;
    assert!(!said.contains("in the clear") && !said.contains("--insecure"), "{said}");
}

#[tokio::test]
async fn every_list_has_one_shape_and_all_its_pages() {
    let dev = Jobber::dev().start().await;
    dev.job("quick", "#!/bin/sh\necho bad >&2\nexit 1\n");
    let json = async |args: &[&str]| -> Value {
        let out = dev.cli(&[args, &["-o", "json"]].concat()).await;
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {out:?}"))
    };
    let id = dev.submit(json!({"name": "quick", "attempts": 1})).await;
    dev.wait_final(&id).await;
    let delayed = json(&["submit", "quick", "--delay", "1h", "--count", "450"]).await;
    let delayed = delayed["items"][0]["id"].as_str().unwrap();
    for args in [
        &["list"][..],
        &["worker", "ls"],
        &["schedule", "ls"],
        &["category", "ls"],
        &["category", "presets"],
        &["failures"],
        &["stats", "attempts"],
        &["stats", "durations"],
        &["logs", &id],
        &["wait", &id],
        &["cancel", delayed],
    ] {
        let listed = json(args).await;
        assert!(listed["items"].is_array(), "{args:?}: {listed}");
    }
    eventually("all of history", async || {
        (json(&["list", "--all"]).await["items"].as_array()?.len() == 451).then_some(())
    })
    .await;
}

#[tokio::test]
async fn lines_for_the_journal_have_no_time_of_their_own_but_their_level() {
    let place = Place::new();
    let err = place.path().join("journal");
    let file = std::fs::File::create(&err).unwrap();
    let meta = file.metadata().unwrap();
    let stream = format!("{}:{}", meta.dev(), meta.ino());
    let mut command = Command::new(binary());
    command.args(["serve", "--listen", "0.0.0.0:0", "--insecure", "--data-dir"]).arg(place.data_dir());
    command.env("JOURNAL_STREAM", stream).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let lines = eventually("its first lines", async || {
        let text = std::fs::read_to_string(&err).unwrap();
        text.contains("serving").then_some(text)
    })
    .await;
    for line in lines.lines() {
        assert!(line.starts_with("<6> INFO") || line.starts_with("<4> WARN"), "{lines}");
    }
    assert!(lines.contains("<4> WARN"), "{lines}");
    child.kill().await.unwrap();
    // A log that goes anywhere else has its times.
    let mut elsewhere = Jobber::serve().env("JOURNAL_STREAM", "1:1").start().await;
    assert_eq!(elsewhere.stop().await, 0);
    assert!(elsewhere.log().lines().all(|line| line.starts_with("20")), "{}", elsewhere.log());
}

#[tokio::test]
async fn many_processes_may_be_the_first_on_a_data_directory() {
    let place = Place::new();
    let data = place.data_dir();
    let data = data.to_str().unwrap();
    let args = ["work", "--burst", "--data-dir", data, "--jobs-dir", "jobs"];
    let starts = (0..8).map(|_| run(&args, &[], place.path(), ""));
    for end in futures_util::future::join_all(starts).await {
        assert_eq!(end.code, 0, "{}", end.stderr);
    }
}
