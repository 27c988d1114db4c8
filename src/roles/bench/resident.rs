//! The memory of a server and of a worker that have nothing to do, and of the worker's guard.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::domain::QueueName;
use crate::metrics::resident_memory_of;

/// How long a process is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a process may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Resident memory in MiB, as `VmRSS` tells it.
pub(super) struct Resident {
    pub(super) serve: f64,
    pub(super) work: f64,
    pub(super) guard: f64,
}

/// Starts `jobber serve` and `jobber work` in a directory of their own, and looks at them when they have settled. Blocks.
pub(super) fn look(dir: &Path, queue: &QueueName) -> anyhow::Result<Resident> {
    let data_dir = dir.join("idle");
    let serve = Running::start("serve", &["--listen", "127.0.0.1:0"], &data_dir, dir, queue)?;
    let work = Running::start("work", &[], &data_dir, dir, queue)?;
    let guard = until("the worker's guard", || work.guard())?;
    std::thread::sleep(SETTLE);
    let resident = |pid: u32| {
        let bytes = resident_memory_of(&pid.to_string());
        #[expect(clippy::cast_precision_loss, reason = "no process has so much memory")]
        bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)).context("/proc does not tell the memory of a process")
    };
    Ok(Resident { serve: resident(serve.0.id())?, work: resident(work.0.id())?, guard: resident(guard)? })
}

/// A role in a process of its own, which is ended with this value.
struct Running(Child);

impl Running {
    fn start(role: &str, args: &[&str], data_dir: &Path, dir: &Path, queue: &QueueName) -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "this is Jobber itself, and no job")]
        let child = Command::new(std::env::current_exe()?)
            .arg(role)
            .args(args)
            .env("JOBBER_DATA_DIR", data_dir)
            .env("JOBBER_JOBS_DIR", dir.join("jobs"))
            .env("JOBBER_QUEUE_NAME", queue.as_str())
            .env_remove("JOBBER_TOKEN")
            .env_remove("JOBBER_LISTEN")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn guard(&self) -> Option<u32> {
        // A child belongs to the thread that started it. An idle worker has no other child than its guard.
        let threads = fs_err::read_dir(format!("/proc/{}/task", self.0.id())).ok()?;
        threads.flatten().find_map(|thread| {
            let children = fs_err::read_to_string(thread.path().join("children")).ok()?;
            children.split_ascii_whitespace().next()?.parse().ok()
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what} did not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
}
