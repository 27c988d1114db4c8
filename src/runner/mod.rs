//! The runner: runs one attempt of a job as a supervised child process.
//!
//! Everything that can happen to the child is an [`crate::domain::Outcome`] in the report; an `Err` means that Jobber
//! could not do its own work. The files, in the order in which an attempt meets them: [`slots`] with [`allocator`] and
//! [`cpus`] (may it run, and where), `pool` (on which thread), `attempt` (from order to report), [`binary`] with `builds` and
//! `build_cache`, `environment`, `scratch`, `surroundings` (what it needs), `sandbox` (what it may touch), `spawn` and `launch`, `limits` and
//! `cgroup`, `supervise` with `tracer`, `capture`, `directives`, `stop` and `usage`, `crash` (where a signal ended it),
//! `orphans` (nothing is left), `exit` and `report` (what became of it); and [`guard`], should this process be killed
//! meanwhile.

mod alarm;
pub mod allocator;
mod attempt;
pub mod binary;
mod build_cache;
mod builds;
mod capture;
mod cgroup;
pub mod cpus;
mod crash;
mod debug;
mod directives;
mod environment;
mod exit;
pub mod gauge;
pub mod guard;
mod inputs;
mod launch;
mod limits;
mod memory;
pub mod order;
mod orphans;
mod outputs;
mod pool;
mod procfs;
mod ptrace;
mod report;
mod sandbox;
mod sanitizer;
mod scratch;
pub mod slots;
mod spawn;
mod stack;
mod stop;
mod supervise;
mod surroundings;
mod sys;
mod table;
#[cfg(test)]
mod tests;
mod tracer;
mod usage;

use std::collections::BTreeMap;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

pub use allocator::{Divided, SlotRequest};
pub use binary::BinaryError;
pub use cgroup::memory_cgroup;
pub use cpus::{CpuSet, CpuSetError};
pub use environment::is_secret_variable;
pub use gauge::{Running, RunningAttempt, RunningGauge};
pub use guard::{Guard, Presence, guarded_parent, run_guard};
pub use inputs::{FetchInputs, InputDirectory};
pub use memory::HostMemory;
pub use order::{OutputSink, RunOrder, RunnerSettings, StartLog, StopHandle, StopReason, StopSignal};
pub use outputs::{FoundFiles, OutputDirectory, OutputFile};
pub use sandbox::{SandboxSupport, check as check_sandboxes};
pub use slots::{Slot, Slots};

use crate::domain::{AttemptReport, Build, BuildDigest, Clock, JobName, Outcome, SandboxLevel, SpawnFailure};

/// Why Jobber could not do its own work.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The jobs directory is given relative to a working directory that is gone.
    #[error("couldn't tell where the jobs directory is")]
    JobsDir(#[source] io::Error),
    /// The scratch directory can't be used.
    #[error("couldn't prepare the scratch directory")]
    Scratch(#[source] io::Error),
    /// A sandbox would lead to what no job may see.
    #[error("{0}")]
    Sandbox(String),
    /// No process can be started here now, whatever the job: nothing was started.
    #[error("{0}")]
    Impeded(String),
    /// The process could not be waited for; it was killed.
    #[error("couldn't supervise a process")]
    Supervise(#[source] io::Error),
    /// A bug: the attempt's thread panicked; its process was killed.
    #[error("the thread of an attempt has panicked; please report this")]
    Panicked,
}

/// Whether a process of this user can be traced here, by running `program` so. To be called on a thread that does nothing
/// else afterwards.
///
/// # Errors
/// What keeps it from being traced, for people.
pub fn probe_tracing(program: &std::path::Path) -> Result<(), String> {
    attempt::probe_tracing(program)
}

/// Runs the attempts of a worker as supervised child processes.
pub struct Runner {
    shared: Arc<attempt::Shared>,
    pool: pool::Pool,
}

impl Runner {
    /// Makes a runner with these settings. `environment` is that of this process: jobs inherit the
    /// variables that the settings name. `guard` ends the running attempts if this process is
    /// killed. `gauge` counts the attempts that run at the same time. Removes the scratch
    /// directories of dead workers, and makes this process the one to which the kernel gives
    /// orphans below it. Only warns of a jobs directory that can't be read: it may come later.
    ///
    /// # Errors
    /// [`RunnerError::JobsDir`] when a relative path means nothing, [`RunnerError::Scratch`] when
    /// the scratch directory can't be made, [`RunnerError::Sandbox`] when one would lead to what is hidden.
    pub fn new(
        settings: RunnerSettings,
        environment: Vec<(String, String)>,
        clock: Clock,
        guard: Option<&Guard>,
        gauge: RunningGauge,
    ) -> Result<Self, RunnerError> {
        sys::close_descriptors_on_exec();
        sys::catch_ignored_signals();
        // Attempts run in working directories of their own: a relative path would mean another place there.
        let jobs_dir = std::path::absolute(&settings.jobs_dir).map_err(RunnerError::JobsDir)?;
        let settings = RunnerSettings { jobs_dir, ..settings };
        if let Err(error) = fs_err::read_dir(&settings.jobs_dir) {
            tracing::warn!(%error, "the jobs directory can't be read; every job will fail until it can");
        }
        let shared = attempt::Shared {
            environment: environment::Environment::new(
                environment,
                &settings.pass_environment,
                &settings.set_environment,
            ),
            binaries: binary::Binaries::new(settings.jobs_dir.clone()),
            scratch: Arc::new(
                scratch::Scratch::create(&settings.scratch_dir, &settings.worker).map_err(RunnerError::Scratch)?,
            ),
            guard: guard.map(Guard::table),
            presence: guard.map(Guard::presence),
            limits: limits::Limits::detect(guard.map(Guard::table).as_ref()),
            orphans: orphans::Orphans::adopt(),
            gauge,
            clock,
            sandboxes: sandbox::Sandboxes::new(&settings.host_rules, &settings.hidden, SandboxSupport::detect())
                .map_err(RunnerError::Sandbox)?,
            settings,
        };
        Ok(Self { shared: Arc::new(shared), pool: pool::Pool::default() })
    }

    /// Runs one attempt. The slot is free again when its process and all that the process left are
    /// gone. Dropping the future stops the attempt as lost. An attempt that is not started at all
    /// is reported like one that was stopped.
    ///
    /// # Errors
    /// [`RunnerError`] when Jobber could not do its own work; whatever the job does is an outcome in the report.
    pub async fn run(
        &self,
        slot: Slot,
        order: RunOrder,
        stop: StopSignal,
        sink: Arc<dyn OutputSink>,
    ) -> Result<AttemptReport, RunnerError> {
        let state = stop.0.clone();
        let report = match self.start(slot, order, stop, sink).report().await {
            Err(RunnerError::Impeded(why)) => {
                let (now, outcome) = (self.shared.clock.now(), Outcome::SpawnError { reason: SpawnFailure::System });
                Some(AttemptReport::bare(outcome, now, now, why))
            }
            report => report?,
        };
        Ok(report.unwrap_or_else(|| attempt::never_started(state.reason.get().copied(), self.shared.clock.now())))
    }

    /// Runs the program of an attempt in gdb, on the terminal of this process, and blocks until gdb has ended. The program gets
    /// the attempt's arguments, environment, directories and standard input; it is not supervised, and no limit and no
    /// sandbox holds it. gdb itself gets the variables of `terminal` besides.
    ///
    /// # Errors
    /// [`RunnerError::Impeded`] when there is no such binary, or no gdb.
    pub fn debug(
        &self,
        slot: &Slot,
        order: &RunOrder,
        terminal: &[(String, String)],
    ) -> Result<ExitStatus, RunnerError> {
        debug::debug(&self.shared, slot, order, terminal)
    }

    /// Starts one attempt on a thread of the pool, and returns at once.
    pub fn start(&self, slot: Slot, order: RunOrder, stop: StopSignal, sink: Arc<dyn OutputSink>) -> Attempt {
        let abandoned = StopIfDropped(Some(StopHandle(stop.0.clone())));
        let shared = self.shared.clone();
        let work = move |thread: &mut pool::SpawnThreadState| attempt::run(&shared, thread, slot, &order, &stop, &sink);
        Attempt { turn: None, answer: self.pool.run(work), abandoned }
    }

    /// Whether processes can be started here: tries what every attempt needs (a thread, descriptors, a scratch
    /// directory, the jobs directory) and mends what can be mended.
    ///
    /// # Errors
    /// [`RunnerError::Impeded`] with a sentence that says what is missing.
    pub async fn probe(&self) -> Result<(), RunnerError> {
        let shared = self.shared.clone();
        let (sender, answer) = tokio::sync::oneshot::channel();
        // A new thread: those of the pool may be there from better times.
        let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
            // The caller is gone when the worker ends.
            let _ = sender.send(attempt::probe(&shared));
        });
        thread.map_err(no_thread)?;
        answer.await.map_err(|_| RunnerError::Panicked)?.map_err(RunnerError::Impeded)
    }

    /// Makes a directory for the inputs of one attempt. Blocks.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn make_input_directory(&self) -> io::Result<InputDirectory> {
        InputDirectory::make(self.shared.scratch.clone())
    }

    /// Whether there is no binary of this name that this machine could execute, though there is a jobs directory, or the
    /// machine can't do what the sandbox of such jobs says.
    pub fn lacks(&self, name: &JobName) -> bool {
        self.shared.sandboxes.lacks(name) || self.shared.binaries.lacks(name)
    }

    /// Whether there is something of this name in the jobs directory that this machine can't execute.
    pub fn has_unusable(&self, name: &JobName) -> bool {
        self.shared.binaries.has_unusable(name)
    }

    /// The strictest sandbox that this host can do in full.
    pub fn sandbox_level(&self) -> SandboxLevel {
        self.shared.sandboxes.support().level()
    }

    /// The jobs that can be run here, by the files in the jobs directory and by their sandboxes. `None` when the directory
    /// can't be read, or holds more than `most` jobs.
    pub fn job_names(&self, most: usize) -> Option<Vec<JobName>> {
        let mut names = self.shared.binaries.names(most)?;
        names.retain(|name| !self.shared.sandboxes.lacks(name));
        Some(names)
    }

    /// Which builds the binaries of these jobs are, those left out whose build can't be told. May read all of them, and ends
    /// with what it has when `goes_on` says no.
    pub fn builds(&self, names: &[JobName], goes_on: &dyn Fn() -> bool) -> BTreeMap<JobName, Build> {
        self.shared.binaries.builds(names, goes_on)
    }

    /// Which build the binary of this job is now, if that is known or found out at once.
    pub fn build_now(&self, name: &JobName) -> Option<BuildDigest> {
        Some(self.shared.binaries.build_now(name)?.now()?.digest)
    }

    /// Starts one attempt when its turn has come and cores are free. The thread that frees the cores
    /// goes on with this attempt at once, so that no thread has to be woken between two short attempts.
    pub fn start_in_turn(
        &self,
        slots: &Slots,
        request: SlotRequest,
        order: RunOrder,
        stop: StopSignal,
        sink: Arc<dyn OutputSink>,
    ) -> Attempt {
        let abandoned = StopIfDropped(Some(StopHandle(stop.0.clone())));
        let (shared, pool) = (self.shared.clone(), self.pool.clone());
        let (sender, answer) = tokio::sync::oneshot::channel();
        let turn = slots.in_turn(request, move |slot| {
            // The thread that freed the slot still has to tidy up its last attempt: the
            // start log writes meanwhile.
            attempt::begin(&shared, &order, &stop);
            let work =
                move |thread: &mut pool::SpawnThreadState| attempt::run(&shared, thread, slot, &order, &stop, &sink);
            pool.start(pool::prepare(work, sender));
        });
        Attempt { turn: Some(turn), answer, abandoned }
    }
}

fn no_thread(error: io::Error) -> RunnerError {
    RunnerError::Impeded(format!("couldn't start a thread: {error} (ulimit -u, or the pids limit of its cgroup)"))
}

/// An attempt that was started, or will be when its turn comes. Dropping it stops it as lost.
pub struct Attempt {
    turn: Option<slots::Turn>,
    answer: tokio::sync::oneshot::Receiver<pool::Outcome<Result<Option<AttemptReport>, RunnerError>>>,
    abandoned: StopIfDropped,
}

impl Attempt {
    /// Takes the attempt back. Answers false when its turn has come already.
    pub fn withdraw(&self) -> bool {
        self.turn.as_ref().is_some_and(slots::Turn::withdraw)
    }

    /// Waits for the report of the attempt. `None` when its process was not started: it was stopped
    /// before, its start could not be written down, or its lease was over. To be called once.
    ///
    /// # Errors
    /// [`RunnerError`] when Jobber could not do its own work.
    pub async fn report(&mut self) -> Result<Option<AttemptReport>, RunnerError> {
        let report = (&mut self.answer).await;
        self.abandoned.0 = None;
        report.map_err(|_| RunnerError::Panicked)?.map_err(no_thread)?
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Stops an attempt as lost when its caller drops it before its report.
struct StopIfDropped(Option<StopHandle>);

impl Drop for StopIfDropped {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.stop(StopReason::Lost);
        }
    }
}
