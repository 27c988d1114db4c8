//! What the runner is told: the order, the settings it runs under, how to stop, where output goes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::inputs::InputDirectory;
use super::outputs::OutputDirectory;
use crate::domain::{AttemptNumber, HostRulesByName, Job, JobBody, Progress, Stream, TraceContext, Validity, WorkerId};

/// One attempt to run, with every limit decided.
#[derive(Debug, Clone)]
pub struct RunOrder {
    /// The job to run; what its run options left open is filled in from the worker's configuration.
    pub job: Arc<Job>,
    /// Attempt number, counting from 1.
    pub attempt: AttemptNumber,
    /// Stops it when it runs longer; `None` for no limit.
    pub timeout: Option<Duration>,
    /// The grace period: the time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Memory limit in bytes; `None` for no limit.
    pub memory_bytes: Option<u64>,
    /// Exit codes that mean something to the job: none of them is taken for a lack of memory.
    pub no_retry_exit_codes: Vec<u8>,
    /// The time until which the attempt may run, as its lease says. The guard kills it then, even
    /// if the worker itself is stopped (SIGSTOP). `None` for no such limit.
    pub validity: Option<Validity>,
    /// The results of the job's parents, by their ids. The runner writes them to a file for the
    /// job, unless there are none.
    pub results_before: serde_json::Map<String, serde_json::Value>,
    /// Writes the start down before the runner spawns the process; `None` for an attempt without a history.
    pub start_log: Option<Arc<dyn StartLog>>,
    /// What the job is given: arguments, and data for its standard input.
    pub body: JobBody,
    /// What it finds as its inputs.
    pub inputs: Option<Arc<InputDirectory>>,
    /// The span that the job's own spans continue, for its environment (`TRACEPARENT`, `TRACESTATE`).
    pub trace: Option<TraceContext>,
}

/// What is the same for every attempt of a worker.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// Where the binaries are.
    pub jobs_dir: PathBuf,
    /// Where scratch directories are made.
    pub scratch_dir: PathBuf,
    /// The worker's id. It stands in every child's environment (`JOBBER_WORKER`), so that
    /// leftovers can be found.
    pub worker: WorkerId,
    /// Names of variables that children inherit when they are set (a trailing `*` matches any ending).
    pub pass_environment: Vec<String>,
    /// Variables that children get besides.
    pub set_environment: Vec<(String, String)>,
    /// How much of the end of each stream is kept, in bytes.
    pub output_bytes: usize,
    /// How much lower than the supervisor children are prioritised (added to the nice value), 0 to 19.
    pub nice: u8,
    /// Whether children are pinned to their slot's CPUs.
    pub pin: bool,
    /// How long pipes are drained when the leader has exited but something else still holds them open.
    pub drain: Duration,
    /// How long a process that crashes may be made to wait while its stack is read.
    pub crash_patience: Duration,
    /// What this host demands of its jobs, by their names.
    pub host_rules: HostRulesByName,
    /// Files and directories that no sandbox of *strict* may lead to: Jobber's own database and secrets.
    pub hidden: Vec<PathBuf>,
}

/// Why an attempt is stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A caller cancelled the job: the outcome is `cancelled`.
    Cancelled,
    /// The worker ends: the outcome is `lost`.
    Lost,
    /// The lease was lost, and another worker may run the job any moment: the outcome is `lost`,
    /// and the grace period is cut short.
    Lapsed,
}

/// Stops one attempt, from any thread.
#[derive(Debug, Clone)]
pub struct StopHandle(pub(super) Arc<StopState>);

/// The runner's end of a [`StopHandle`].
#[derive(Debug)]
pub struct StopSignal(pub(super) Arc<StopState>);

#[derive(Debug)]
pub(super) struct StopState {
    pub(super) reason: std::sync::OnceLock<StopReason>,
    /// Readable once `reason` is set, so that a poll wakes up.
    pub(super) event: std::os::fd::OwnedFd,
}

impl StopHandle {
    /// Makes a handle and the signal at its other end.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<(StopHandle, StopSignal)> {
        let event =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?;
        let state = Arc::new(StopState { reason: std::sync::OnceLock::new(), event });
        Ok((StopHandle(state.clone()), StopSignal(state)))
    }

    /// Asks the attempt to stop: SIGTERM, the grace period, SIGKILL. The first reason counts.
    pub fn stop(&self, reason: StopReason) {
        if self.0.reason.set(reason).is_ok() {
            // An eventfd takes 2^64 - 2 of these before it would block.
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
        }
    }
}

impl StopSignal {
    /// Why the attempt is to stop, once it is.
    pub fn reason(&self) -> Option<StopReason> {
        self.0.reason.get().copied()
    }
}

/// Writes the start of an attempt down, once the attempt has its slot.
pub trait StartLog: std::fmt::Debug + Send + Sync {
    /// Begins to write, while the runner makes ready what the process needs. Must not block: the thread
    /// that hands the slot over may call it, and the attempt's own. Only the first call counts.
    fn begin(&self);

    /// Waits until the start is written, on the attempt's own thread. Answers false when it won't
    /// be, and the process must not be started.
    fn is_written(&self) -> bool;
}

/// Takes the output and the progress of a running job. The attempt's own thread calls it: it must
/// be quick and must not block.
pub trait OutputSink: Send + Sync {
    /// Bytes of a stream as they were read, directive lines of stdout left out.
    fn output(&self, stream: Stream, bytes: &[u8]);

    /// Whether it can take more: while it can't, the job's pipes are left alone. Must come true by itself before long.
    fn has_room(&self) -> bool {
        true
    }

    /// There is no more output.
    fn end(&self) {}

    /// The job has left files. Comes before the report, when nothing of the job runs any more. To drop them removes
    /// them.
    fn files(&self, _: OutputDirectory) {}

    /// Takes the progress that a `::progress` line of the job tells.
    fn progress(&self, progress: Progress);
}
