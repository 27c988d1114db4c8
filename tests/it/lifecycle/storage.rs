//! The disk fills up, the data directory goes away, others share it: nothing that was accepted is lost.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Jobber, Place, eventually, run};

/// A small file system of its own for a data directory. Must live longer than the place.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// Twelve MiB of tmpfs; `None`, and a word about it, where this user may not mount.
    fn mount() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("jobber-disk-").tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "none"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { dir });
        }
        eprintln!("SKIPPED: this test mounts a small file system, which this user may not do");
        None
    }

    /// A place whose data directory is on this disk.
    fn place(&self) -> Arc<Place> {
        let (place, data) = (Place::new(), self.dir.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, place.data_dir()).unwrap();
        place
    }

    fn fill(&self) {
        let full = std::fs::write(self.dir.path().join("fill"), vec![0; 16 << 20]);
        assert!(full.is_err(), "more fits than the disk is large");
    }

    fn free(&self) {
        std::fs::remove_file(self.dir.path().join("fill")).unwrap();
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.dir.path()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may not be gone yet.
        Command::new("umount").arg("--lazy").arg(self.dir.path()).status().ok();
    }
}

/// A job that ends, with more output than fits into free pages of the database, once its file `go` is there.
fn noisy(place: &Place) {
    let script = "#!/bin/sh\ntouch $0.started\nwhile [ ! -e $0.go ]; do sleep 0.05; done\n\
                  head -c 45000 /dev/urandom | base64 -w 0\n";
    place.job("noisy", script);
}

fn go(place: &Place) {
    std::fs::write(place.jobs_dir().join("noisy.go"), "").unwrap();
}

async fn started(place: &Place) {
    eventually("the start", async || place.jobs_dir().join("noisy.started").exists().then_some(())).await;
}

/// Submits until there is no room, not even in pages of the log that are free again; the refusal.
async fn refused(dev: &Jobber) -> (u16, Value) {
    eventually("a refusal", async || {
        let data = "x".repeat(100_000);
        let (status, answer) = dev.post("/api/v1/jobs", json!({"name": "noisy", "data": data})).await;
        (status != 202).then_some((status, answer))
    })
    .await
}

#[tokio::test]
async fn a_full_disk_refuses_jobs_and_loses_none() {
    let Some(disk) = Disk::mount() else { return };
    let place = disk.place();
    noisy(&place);
    let dev = Jobber::dev().at(&place).arg("--cores").arg("1").start().await;
    let running = dev.submit(json!({"name": "noisy", "attempts": 1})).await;
    let waiting = dev.submit(json!({"name": "noisy", "attempts": 1})).await;
    started(&place).await;
    disk.fill();
    let refused = refused(&dev).await;
    assert_eq!((refused.0, &refused.1["code"]), (507, &Value::from("queue_full")), "{}", refused.1);
    assert!(refused.1["detail"].as_str().unwrap().contains("free some disk space"), "{}", refused.1);
    go(&place);
    eventually("the worker to hold its report", async || dev.log().contains("waiting for room").then_some(())).await;
    disk.free();
    for id in [running, waiting] {
        let view = dev.wait_final(&id).await;
        assert_eq!((&view["state"], view["attempts"].as_array().unwrap().len()), (&json!("completed"), 1), "{view}");
    }
}

#[tokio::test]
async fn a_limit_on_file_sizes_is_like_a_full_disk() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let serve = Jobber::serve().start().await;
    serve.job("quick", "#!/bin/sh\n");
    let pid = Pid::from_raw(i32::try_from(serve.pid()).unwrap());
    let limit = |bytes| prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    limit(Some(4096));
    let (status, answer) = serve.post("/api/v1/jobs", json!({"name": "quick"})).await;
    assert_eq!((status, &answer["code"]), (507, &Value::from("queue_full")), "{answer}");
    limit(None);
    serve.submit(json!({"name": "quick"})).await;
}

#[tokio::test]
async fn a_worker_on_a_full_disk_can_be_stopped_and_its_job_runs_again() {
    let Some(disk) = Disk::mount() else { return };
    let place = disk.place();
    noisy(&place);
    let dev = Jobber::dev().at(&place).env("JOBBER_SHUTDOWN_GRACE", "1s").env("JOBBER_DRAIN_TIMEOUT", "100ms");
    let mut dev = dev.arg("--cores").arg("1").start().await;
    let id = dev.submit(json!({"name": "noisy", "attempts": 1})).await;
    started(&place).await;
    disk.fill();
    refused(&dev).await;
    go(&place);
    eventually("the worker to hold its report", async || dev.log().contains("waiting for room").then_some(())).await;
    assert_eq!(dev.stop().await, 1, "{}", dev.log());
    assert!(dev.log().contains("ended before the event log took these events"), "{}", dev.log());
    disk.free();
    let dev = Jobber::dev().at(&place).start().await;
    let view = dev.wait_final(&id).await;
    assert_eq!(view["state"], "completed", "{view}");
    assert_eq!(view["attempts"][0]["report"]["outcome"]["kind"], "lost", "{view}");
}

#[tokio::test]
async fn a_read_only_data_directory_is_a_clear_error() {
    let Some(disk) = Disk::mount() else { return };
    let place = disk.place();
    let mut dev = Jobber::dev().at(&place).start().await;
    assert_eq!(dev.stop().await, 0);
    disk.remount("ro");
    let data = place.data_dir();
    for role in ["serve", "work"] {
        let out = run(&[role, "--data-dir", data.to_str().unwrap()], &[("PORT", "0")], place.path(), "").await;
        assert_eq!(out.code, 1, "{out:?}");
        assert!(out.stderr.contains("jobber.db") && out.stderr.contains("may be written"), "{out:?}");
    }
    disk.remount("rw");
}

#[tokio::test]
async fn a_data_directory_that_goes_away_takes_nothing_with_it_that_was_promised() {
    let place = Place::new();
    place.job("quick", "#!/bin/sh\necho ok\n");
    let mut dev = Jobber::dev().at(&place).start().await;
    let id = dev.submit(json!({"name": "quick"})).await;
    dev.wait_final(&id).await;
    std::fs::rename(place.data_dir(), place.path().join("elsewhere")).unwrap();
    // From now on a job is refused, or there is nobody left to accept it.
    for _ in 0..3 {
        let request = dev.http().post(dev.url("/api/v1/jobs")).json(&json!({"name": "quick"})).send().await;
        if let Ok(response) = request {
            assert_eq!(response.status().as_u16(), 500);
        }
    }
    assert_eq!(dev.ended().await, 1, "{}", dev.log());
    assert!(dev.log().contains("was removed or replaced while in use"), "{}", dev.log());
    std::fs::rename(place.path().join("elsewhere"), place.data_dir()).unwrap();
    let dev = Jobber::dev().at(&place).start().await;
    let (status, view) = dev.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!((status, &view["state"]), (200, &json!("completed")), "{view}");
}

#[tokio::test]
async fn two_of_all_in_one_share_a_queue_and_each_other_s_work() {
    let place = Place::new();
    place.job("who", "#!/bin/sh\nsleep 0.1\necho $JOBBER_WORKER\n");
    let mut first = Jobber::dev().at(&place).arg("--cores").arg("1").start().await;
    let second = Jobber::dev().at(&place).arg("--cores").arg("1").start().await;
    let mut workers = std::collections::BTreeSet::new();
    let mut ids = Vec::new();
    for i in 0..10 {
        ids.push(if i % 2 == 0 { &first } else { &second }.submit(json!({"name": "who"})).await);
    }
    for id in &ids {
        workers.insert(second.wait_final(id).await["result"].as_str().unwrap().to_owned());
    }
    assert_eq!(workers.len(), 2);
    let id = first.submit(json!({"name": "who"})).await;
    first.kill().await;
    let view = tokio::time::timeout(Duration::from_secs(60), second.wait_final(&id)).await.unwrap();
    assert_eq!(view["state"], "completed", "{view}");
}
