//! Workers that can't start jobs, or not these: no job pays for that, and each goes on by itself.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::faults::check_attempts;
use crate::faults::fleet::{on, server};
use crate::harness::{Jobber, Place, Start, eventually};

/// Why the worker says that it can't start jobs, once it does.
async fn unhealthy(serve: &Jobber) -> String {
    eventually("the worker to say why it can't start jobs", async || {
        let (_, workers) = serve.get("/api/v1/workers").await;
        workers["items"][0]["unhealthy"].as_str().map(str::to_owned)
    })
    .await
}

async fn healthy(serve: &Jobber) {
    eventually("the worker to take jobs again", async || {
        let (_, workers) = serve.get("/api/v1/workers").await;
        let worker = workers["items"].as_array()?.first()?;
        worker.get("unhealthy").is_none().then_some(())
    })
    .await;
}

async fn submit(serve: &Jobber, count: usize) -> Vec<String> {
    let jobs = vec![json!({"name": "ok", "attempts": 1}); count];
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
    assert_eq!(status, 202, "{answer}");
    answer["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

/// All were completed by their first attempt, and history knows of no other.
async fn completed_at_once(serve: &Jobber, ids: &[String]) {
    for id in ids {
        let view = serve.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{view}");
        assert_eq!(view["attempts"].as_array().unwrap().len(), 1, "{view}");
        check_attempts(&view);
    }
}

/// A server and a worker of which `break_it` takes what it needs to start jobs, while jobs come; `mend_it` gives it back.
async fn goes_on(
    place: &Arc<Place>,
    start: impl Fn(Start) -> Start,
    break_it: impl FnOnce(u32),
    why: &str,
    mend_it: impl FnOnce(u32),
) {
    place.job("ok", "#!/bin/sh\necho ok\n");
    let serve = start(Jobber::serve()).start().await;
    let work = start(Jobber::work().arg("--cores").arg("2")).start().await;
    completed_at_once(&serve, &submit(&serve, 3).await).await;
    let pid = work.pid();
    break_it(pid);
    let ids = submit(&serve, 10).await;
    let said = unhealthy(&serve).await;
    assert!(said.contains(why), "{said}");
    let (status, ready) = serve.get("/readyz").await;
    assert_eq!((status, ready["status"].as_str()), (200, Some("degraded")), "{ready}");
    // In other words from one try to the next.
    let error = ready["components"]["workers"]["unhealthy"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains(why), "{ready}");
    let list = serve.cli(&["worker", "ls"]).await;
    assert!(list.stdout.contains("unhealthy: "), "{}", list.stdout);
    let explained = serve.cli(&["explain", ids.last().unwrap()]).await;
    assert!(explained.stdout.contains("no worker can start jobs now"), "{} {}", explained.stdout, explained.stderr);
    let (_, counts) = serve.get("/api/v1/queue").await;
    assert_eq!(counts["failed"], 0, "{counts}");
    mend_it(pid);
    completed_at_once(&serve, &ids).await;
    healthy(&serve).await;
    assert_eq!(serve.get("/readyz").await.1["status"], "ready");
}

/// Sets a limit of a process as a job of the same user, or an operator, can.
fn limit(pid: u32, limit: &str) {
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), limit]).status().unwrap();
    assert!(status.success(), "prlimit {limit}");
}

fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_descriptors_costs_no_attempt() {
    let place = Place::new();
    place.job("ok", "#!/bin/sh\necho ok\n");
    let serve = Jobber::serve().at(&place).start().await;
    let mut work = Jobber::work().at(&place).arg("--cores").arg("2").start().await;
    completed_at_once(&serve, &submit(&serve, 3).await).await;
    // The hard limit, too: only root may give that back.
    limit(work.pid(), "--nofile=10:10");
    let ids = submit(&serve, 10).await;
    let said = unhealthy(&serve).await;
    assert!(said.contains("Too many open files"), "{said}");
    assert_eq!(serve.get("/readyz").await.1["status"], "degraded");
    // Another worker takes them meanwhile.
    let _another = Jobber::work().at(&place).start().await;
    completed_at_once(&serve, &ids).await;
    work.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_descriptors_that_was_lowered_is_raised_again() {
    let place = Place::new();
    place.job("ok", "#!/bin/sh\necho ok\n");
    let dev = Jobber::dev().at(&place).start().await;
    limit(dev.pid(), "--nofile=10:");
    completed_at_once(&dev, &submit(&dev, 3).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_jobs_directory_is_away_costs_no_attempt() {
    let place = Place::new();
    let (there, away) = (place.jobs_dir(), place.path().join("away"));
    goes_on(&place, |start| start.at(&place), |_| rename(&there, &away), "jobs directory", |_| rename(&away, &there))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_a_worker_that_cannot_make_scratch_directories_costs_no_attempt() {
    let redis = server(false).await;
    let place = Place::new();
    let (there, away) = (place.data_dir().join("scratch"), place.path().join("away"));
    let break_it = |_| {
        rename(&there, &away);
        std::fs::write(&there, "in its place").unwrap();
    };
    let mend_it = |_| std::fs::remove_file(&there).unwrap();
    goes_on(&place, |start| on(redis.port(), &place, start), break_it, "scratch", mend_it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_directory_that_was_removed_is_made_again() {
    let place = Place::new();
    place.job("ok", "#!/bin/sh\necho ok > file && cat file\n");
    let dev = Jobber::dev().at(&place).start().await;
    let scratch = place.data_dir().join("scratch");
    for _ in 0..3 {
        completed_at_once(&dev, &submit(&dev, 5).await).await;
        std::fs::remove_dir_all(&scratch).unwrap();
    }
    completed_at_once(&dev, &submit(&dev, 5).await).await;
}

/// Whether a file can be made that not even root can remove.
fn immutable(path: &Path, on: bool) -> bool {
    let flag = if on { "+i" } else { "-i" };
    Command::new("chattr").arg(flag).arg(path).stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_that_cannot_be_removed_does_not_keep_the_rest() {
    let place = Place::new();
    // Where no file can be made immutable, a mount point of the job's own would do, but that needs more rights still.
    let trial = place.path().join("trial");
    std::fs::write(&trial, "").unwrap();
    if !immutable(&trial, true) {
        eprintln!("no file can be made immutable here; nothing was tried");
        return;
    }
    assert!(immutable(&trial, false));
    place.job(
        "hoard",
        "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do mkdir -p $i/a; echo x > $i/a/file; done\nchattr +i 4/a/file\n",
    );
    place.job("ok", "#!/bin/sh\necho ok\n");
    let dev = Jobber::dev().at(&place).start().await;
    let id = dev.submit(json!({"name": "hoard"})).await;
    assert_eq!(dev.wait_final(&id).await["state"], "completed");
    let files = || {
        let out = Command::new("find").arg(place.data_dir().join("scratch")).args(["-name", "file"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let left = eventually("all to be removed but one", async || Some(files()).filter(|files| files.len() == 1)).await;
    completed_at_once(&dev, &submit(&dev, 2).await).await;
    assert!(immutable(Path::new(&left[0]), false));
}

/// The soft and the hard limit of descriptors that a process has.
fn descriptors(limits: &str) -> Vec<String> {
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().skip(3).take(2).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_open_all_that_it_can_and_its_jobs_what_it_was_given() {
    let place = Place::new();
    place.job("limits", "#!/bin/sh\ncat /proc/self/limits\n");
    let dev = Jobber::dev().at(&place).by(&["prlimit", "--nofile=256:1000"]).start().await;
    let its = std::fs::read_to_string(format!("/proc/{}/limits", dev.pid())).unwrap();
    assert_eq!(descriptors(&its), ["1000", "1000"]);
    let id = dev.submit(json!({"name": "limits"})).await;
    let view = dev.wait_final(&id).await;
    assert_eq!(descriptors(view["attempts"][0]["report"]["stdout"]["text"].as_str().unwrap()), ["256", "1000"]);
}

/// A worker at `place` with jobs of another place.
fn work_with(start: impl Fn(Start) -> Start, jobs: &Place) -> Start {
    start(Jobber::work()).with_default_jobs_dir().arg("--jobs-dir").arg(jobs.jobs_dir().to_str().unwrap())
}

/// Two workers with different binaries: each job runs where its binary is.
async fn runs_where_its_binary_is(start: impl Fn(Start) -> Start) {
    let (one, two) = (Place::new(), Place::new());
    one.job("left", "#!/bin/sh\necho left\n");
    two.job("right", "#!/bin/sh\necho right\n");
    // Looks as if it could be run.
    one.job("broken", "\x7fELF nonsense");
    two.job("broken", "\x7fELF nonsense");
    let serve = start(Jobber::serve()).start().await;
    let patience = |start: Start| start.env("JOBBER_UNPLACEABLE_AFTER", "5s");
    let _one = patience(work_with(&start, &one).arg("--cores").arg("2")).start().await;
    let two_works = work_with(&start, &two).arg("--cores").arg("2").start().await;
    eventually("both to announce their binaries", async || {
        let (_, workers) = serve.get("/api/v1/workers").await;
        let workers = workers["items"].as_array()?;
        (workers.len() == 2 && workers.iter().all(|worker| worker["binaries"].is_array())).then_some(())
    })
    .await;
    let mut ids = Vec::new();
    for name in ["left", "right"].into_iter().cycle().take(20) {
        ids.push((name, serve.submit(json!({"name": name, "attempts": 1})).await));
    }
    for (name, id) in &ids {
        let view = serve.wait_final(id).await;
        assert_eq!((view["state"].as_str(), view["result"].as_str()), (Some("completed"), Some(*name)), "{view}");
        assert_eq!(view["attempts"].as_array().unwrap().len(), 1, "{view}");
        check_attempts(&view);
    }
    // What nobody has is refused, and what nobody can run fails: neither is passed around for ever.
    let (status, problem) = serve.post("/api/v1/jobs", json!({"name": "nowhere"})).await;
    assert_eq!((status, problem["code"].as_str()), (422, Some("unknown_binary")), "{problem}");
    let id = serve.submit(json!({"name": "broken", "attempts": 3})).await;
    let view = serve.wait_final(&id).await;
    assert_eq!(view["outcome"], json!({"kind": "spawn_error", "reason": "not_executable"}), "{view}");
    // A job whose binary leaves with its worker waits for another with it, and fails in the end.
    let id = serve.submit(json!({"name": "right", "delay_ms": 1500})).await;
    drop(two_works);
    let view = serve.wait_final(&id).await;
    assert_eq!(view["outcome"], json!({"kind": "spawn_error", "reason": "not_found"}), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_queue_a_job_runs_where_its_binary_is() {
    let place = Place::new();
    runs_where_its_binary_is(|start| start.at(&place)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_a_job_runs_where_its_binary_is() {
    let redis = server(false).await;
    let place = Place::new();
    runs_where_its_binary_is(|start| on(redis.port(), &place, start)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_checks_binaries_where_it_is_told_to() {
    let place = Place::new();
    place.job("ok", "#!/bin/sh\n:\n");
    let jobs = place.jobs_dir().to_str().unwrap().to_owned();
    let serve = Jobber::serve().at(&place).env("JOBBER_JOBS_DIR", "/nowhere").arg("--jobs-dir").arg(jobs).start().await;
    assert_eq!(serve.post("/api/v1/jobs", json!({"name": "ok"})).await.0, 202);
    let (status, problem) = serve.post("/api/v1/jobs", json!({"name": "nowhere"})).await;
    assert_eq!((status, problem["code"].as_str()), (422, Some("unknown_binary")), "{problem}");
}

/// A job that kills its worker, beside others, until all have ended; workers are started as a service manager does.
async fn killer_and_neighbours(place: &Arc<Place>, start: impl Fn(Start) -> Start) {
    place.job("killer", "#!/bin/sh\nsleep 0.1\nkill -9 $PPID\nsleep 1000\n");
    place.job("neighbour", "#!/bin/sh\nsleep 0.4\n");
    let serve = start(Jobber::serve()).start().await;
    let mut jobs = vec![json!({"name": "killer", "attempts": 3})];
    // More than there are slots: some are never started beside it.
    jobs.resize(7, json!({"name": "neighbour", "attempts": 1}));
    let (_, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
    let ids: Vec<_> = answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap().to_owned()).collect();
    let mut deaths = 0;
    let mut work = start(Jobber::work().arg("--cores").arg("4")).start().await;
    let views = eventually("all to end", async || {
        if !Path::new(&format!("/proc/{}/exe", work.pid())).exists() {
            deaths += 1;
            assert!(deaths <= 12, "workers die and die");
            work = start(Jobber::work().arg("--cores").arg("4")).start().await;
        }
        let mut views = Vec::new();
        for id in &ids {
            views.push(serve.get(&format!("/api/v1/jobs/{id}")).await.1);
        }
        views.iter().all(|view| view["finished_at"].is_string()).then_some(views)
    })
    .await;
    assert_eq!(views[0]["state"], "failed", "{}", views[0]);
    assert_eq!(views[0]["attempts"].as_array().unwrap().len(), 4, "{}", views[0]);
    for view in &views[1..] {
        assert_eq!(view["state"], "completed", "{view}");
        check_attempts(view);
        let lost = view["attempts"].as_array().unwrap().len() - 1;
        assert!(lost <= 2, "it was run beside the killer more often than it had to: {view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_queue_a_job_that_kills_its_worker_takes_no_neighbour_with_it() {
    let place = Place::new();
    killer_and_neighbours(&place, |start| start.at(&place)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_a_job_that_kills_its_worker_takes_no_neighbour_with_it() {
    let redis = server(false).await;
    let place = Place::new();
    killer_and_neighbours(&place, |start| on(redis.port(), &place, start)).await;
}

/// A worker that is killed again and again while it holds short jobs ahead of its slots.
async fn killed_with_leases_ahead(place: &Arc<Place>, start: impl Fn(Start) -> Start) -> Vec<Value> {
    place.job("short", "#!/bin/sh\n:\n");
    let serve = start(Jobber::serve()).start().await;
    let jobs = vec![json!({"name": "short", "attempts": 1}); 400];
    let (_, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
    let ids: Vec<_> = answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap().to_owned()).collect();
    let waiting = async || serve.get("/api/v1/queue").await.1["waiting"].as_u64().unwrap_or_default();
    for _ in 0..5 {
        let before = waiting().await;
        // More of them in a row than may be lost with their workers.
        let mut work = start(Jobber::work().arg("--cores").arg("2").env("JOBBER_CRASH_LIMIT", "1")).start().await;
        if before > 60 {
            eventually("some to be done", async || (waiting().await + 30 < before).then_some(())).await;
        }
        work.kill().await;
    }
    let _work = start(Jobber::work()).start().await;
    let mut views = Vec::new();
    for id in ids.iter().rev() {
        views.push(serve.wait_final(id).await);
    }
    views
}

fn no_holes(views: &[Value]) {
    for view in views {
        check_attempts(view);
        assert_eq!(view["state"], "completed", "a lease that started nothing is no crash: {view}");
    }
    let lost = views.iter().filter(|view| view["attempts"].as_array().unwrap().len() > 1).count();
    assert!(lost <= 5 * 4, "{lost} jobs were lost, though two run at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_queue_what_a_killed_worker_held_ahead_was_not_started() {
    let place = Place::new();
    no_holes(&killed_with_leases_ahead(&place, |start| start.at(&place)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_what_a_killed_worker_held_ahead_was_not_started() {
    let redis = server(false).await;
    let place = Place::new();
    no_holes(&killed_with_leases_ahead(&place, |start| on(redis.port(), &place, start)).await);
}
