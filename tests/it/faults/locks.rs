//! Workers that are stopped, killed and continued at random, and their guards killed: no job ever runs beside another copy
//! of itself, and none begins once its successor has.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::check_attempts;
use super::fleet::{on, server};
use crate::harness::{Jobber, Place, Start, eventually};

/// In each round the jobs are caught in other moments of their lives.
const ROUNDS: usize = 8;
const JOBS: usize = 125;
const LEASE: Duration = Duration::from_secs(3);

/// Says that it begins, takes the lock of its job as long as anything of it lives, and holds it for some milliseconds.
const LOCKS: &str = "#!/bin/sh\ncd \"$1\"\necho $JOBBER_JOB_ID $JOBBER_ATTEMPT >> begins\n\
    exec 9>lock.$JOBBER_JOB_ID\nflock -n 9 || { echo $JOBBER_JOB_ID $JOBBER_ATTEMPT >> both; exit 9; }\n\
    sleep 0.00$(($$ % 10))\n";

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_no_lock_of_a_job_is_ever_found_taken() {
    let redis = server(false).await;
    let (one, two) = (Place::new(), Place::new());
    storm([&one, &two], |place, start| on(redis.port(), place, start)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_queue_no_lock_of_a_job_is_ever_found_taken() {
    let place = Place::new();
    storm([&place, &place], |place, start| start.at(place).env("JOBBER_LEASE", "3s")).await;
}

/// What happens to one of two workers in a round.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// It is stopped until the other has done everything, and goes on beside new jobs.
    Stop,
    Kill,
    /// Its guard is killed, and then it is itself.
    KillBoth,
}

/// A storm of blows on two workers, each at a place, while they run short jobs; `on` starts a process.
async fn storm(places: [&Arc<Place>; 2], on: impl Fn(&Arc<Place>, Start) -> Start) {
    let files = places[0].path().to_owned();
    for place in places {
        place.job("locks", LOCKS);
    }
    // Two slots each, however many cores there are.
    let work = async |i: usize| on(places[i], Jobber::work().arg("--cores").arg("2")).start().await;
    let serve = on(places[0], Jobber::serve()).start().await;
    let mut workers = [work(0).await, work(1).await];
    let mut dice = Dice::new();
    let mut ids = Vec::new();
    let mut stopped = None;
    for round in 0..ROUNDS {
        let jobs = vec![json!({"name": "locks", "arguments": [files], "attempts": 1}); JOBS];
        let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
        assert_eq!(status, 202, "{answer}");
        ids.extend(answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap().to_owned()));
        // Whoever was stopped goes on with what it had in hand, beside those who took it over.
        if let Some(i) = stopped.take() {
            let worker: &Jobber = &workers[i];
            worker.signal(Signal::CONT);
        }
        eventually("some of the round's jobs to be done", async || {
            (begun(&files).len() > ids.len() - JOBS).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(dice.below(150))).await;
        let (i, blow) = (round % 2, [Blow::Stop, Blow::Stop, Blow::Kill, Blow::KillBoth][round / 2]);
        match blow {
            Blow::Stop => {
                workers[i].signal(Signal::STOP);
                stopped = Some(i);
            }
            Blow::Kill => workers[i].kill().await,
            Blow::KillBoth => {
                kill_guard(workers[i].pid());
                tokio::time::sleep(Duration::from_millis(dice.below(20))).await;
                workers[i].kill().await;
            }
        }
        if !matches!(blow, Blow::Stop) {
            workers[i] = work(i).await;
        }
        let is_empty = async || {
            let (_, queue) = serve.get("/api/v1/queue").await;
            ["waiting", "delayed", "prioritized", "active"].iter().all(|state| queue[state] == 0).then_some(())
        };
        // One that is stopped in the middle of a write to SQLite holds up all: then it goes on before it is missed.
        let stuck = Instant::now() + LEASE * 3;
        while is_empty().await.is_none() && Instant::now() < stuck {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Some(i) = stopped.filter(|_| Instant::now() >= stuck) {
            workers[i].signal(Signal::CONT);
            stopped = None;
        }
        eventually("the queue to be empty", is_empty).await;
    }
    if let Some(i) = stopped {
        workers[i].signal(Signal::CONT);
    }
    assert!(!files.join("both").exists(), "{}", std::fs::read_to_string(files.join("both")).unwrap());
    let begun = begun(&files);
    for id in &ids {
        let attempts = begun.get(id).map_or(&[][..], Vec::as_slice);
        assert!(!attempts.is_empty(), "job {id} never began");
        assert!(attempts.is_sorted_by(|a, b| a < b), "job {id} began after its successor: {attempts:?}");
        let view = serve.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{view}");
        check_attempts(&view);
        let known: Vec<_> =
            view["attempts"].as_array().unwrap().iter().map(|a| a["number"].as_u64().unwrap()).collect();
        assert!(attempts.iter().all(|n| known.contains(n)), "a start is missing from history: {attempts:?} {view}");
    }
}

/// The attempts of each job that have begun, in the order in which they did.
fn begun(files: &Path) -> HashMap<String, Vec<u64>> {
    let mut begun: HashMap<String, Vec<u64>> = HashMap::new();
    for line in std::fs::read_to_string(files.join("begins")).unwrap_or_default().lines() {
        let (id, attempt) = line.split_once(' ').unwrap();
        begun.entry(id.to_owned()).or_default().push(attempt.parse().unwrap());
    }
    begun
}

/// Kills the guard of a worker: the child whose command is `guard`.
fn kill_guard(worker: u32) {
    let children = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap().flatten();
    let children = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    for pid in children.flat_map(|list| list.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()) {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.split(|b| *b == 0).nth(1) == Some(b"guard") {
            let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
            // One that has just ended needs no killing.
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// Moments that differ from run to run; the seed is printed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = u64::from(std::process::id()) ^ std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}
