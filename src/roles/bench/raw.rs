//! The limit that Jobber is held against: nothing but starting processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{bail, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::time::Instant;

use crate::runner;

/// Jobs per second when nothing happens but `posix_spawn`, reading the output, and waiting. Each thread, with the processes
/// that it starts, stays on a CPU of its own as far as there are enough, as the slots of a worker do: left alone, the
/// kernel sometimes keeps all of them on one, and the limit is half of what it was in the round before.
pub(super) fn spawn_all(binary: &Path, jobs: usize, concurrency: u32) -> anyhow::Result<f64> {
    let cpus = runner::CpuSet::detect(None, None)?.into_vec();
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let threads: Vec<_> = (0..concurrency as usize)
        .map(|n| {
            let (next, binary, cpu) = (next.clone(), binary.to_owned(), cpus[n % cpus.len()]);
            std::thread::spawn(move || spawn_in_turn(&next, jobs, &binary, cpu))
        })
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a spawning thread panicked"),
        }
    }
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}

fn spawn_in_turn(next: &AtomicUsize, jobs: usize, binary: &PathBuf, cpu: u32) -> anyhow::Result<()> {
    let mut own = CpuSet::new();
    own.set(cpu as usize);
    sched_setaffinity(None, &own)?;
    while next.fetch_add(1, Ordering::Relaxed) < jobs {
        #[expect(clippy::disallowed_methods, reason = "the limit that Jobber is held against")]
        let output = Command::new(binary).stdin(Stdio::null()).output()?;
        ensure!(output.status.success() && !output.stdout.is_empty(), "{} failed", binary.display());
    }
    Ok(())
}
