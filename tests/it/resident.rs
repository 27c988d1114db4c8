//! How much memory the processes hold that nothing asks anything of. Only what is each process's own counts (`RssAnon`):
//! all share the code, and of that a debug build has more.

use crate::harness::{Jobber, eventually};

const MIB: u64 = 1 << 20;

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?.trim().to_owned())
}

/// The memory that only this process has, in bytes.
fn own_memory(pid: u32) -> Option<u64> {
    status(pid, "RssAnon")?.strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The guard of a worker, once it guards.
fn guard_of(worker: u32) -> Option<u32> {
    let of_worker = |pid: &u32| status(*pid, "PPid").is_some_and(|parent| parent == worker.to_string());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(of_worker)
        .find(|pid| status(*pid, "Name").is_some_and(|name| name == "jobber-guard"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_has_little_memory_of_its_own() {
    let worker = Jobber::work().start().await;
    let is_small = async || own_memory(worker.pid()).filter(|memory| *memory < 4 * MIB);
    eventually("a worker that has less than 4 MiB", is_small).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_has_next_to_no_memory_of_its_own() {
    let jobber = Jobber::work().start().await;
    let guard = eventually("a guard", async || guard_of(jobber.pid())).await;
    let memory = own_memory(guard).unwrap();
    assert!(memory < MIB, "{memory} bytes");
}
