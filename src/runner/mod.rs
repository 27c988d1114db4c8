//! An order in, a report out: runs one attempt of a job as a supervised child process.
//!
//! Everything that can happen to the child is an [`crate::domain::Outcome`] in the report; an `Err` means that Jobber
//! could not do its own work. The files, in the order in which an attempt meets them: [`slots`] (may it run, and where),
//! `pool` (on which thread), `attempt` (from order to report), [`binary`], `environment`, `scratch` (what it needs),
//! `spawn` and `launch`, `limits` and `cgroup`, `supervise` with `capture`, `directives`, `stop` and `memory`, `orphans` (nothing is
//! left), `exit` and `report` (what became of it); and [`guard`], should this process be killed meanwhile.

mod attempt;
pub mod binary;
mod capture;
mod cgroup;
mod directives;
mod environment;
mod exit;
pub mod gauge;
pub mod guard;
mod launch;
mod limits;
mod memory;
pub mod order;
mod orphans;
mod pool;
mod procfs;
mod report;
mod scratch;
pub mod slots;
mod spawn;
mod stop;
mod supervise;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

pub use binary::BinaryError;
pub use cgroup::memory_cgroup;
pub use gauge::{Running, RunningGauge};
pub use guard::{Guard, run_guard};
pub use order::{OutputSink, RunOrder, RunnerSettings, StopHandle, StopReason, StopSignal};
pub use slots::{CpuSet, CpuSetError, Slot, Slots};

use crate::domain::{AttemptReport, Clock};

/// Why Jobber could not do its own work.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The jobs directory is given relative to a working directory that is gone.
    #[error("couldn't tell where the jobs directory is")]
    JobsDir(#[source] io::Error),
    /// The scratch directory can't be used.
    #[error("couldn't prepare the scratch directory")]
    Scratch(#[source] io::Error),
    /// The system has no thread left.
    #[error("couldn't start a thread for an attempt")]
    Thread(#[source] io::Error),
    /// The process could not be waited for; it was killed.
    #[error("couldn't supervise a process")]
    Supervise(#[source] io::Error),
    /// A bug: the attempt's thread panicked; its process was killed.
    #[error("the thread of an attempt has panicked; please report this")]
    Panicked,
}

/// Runs attempts.
pub struct Runner {
    shared: Arc<attempt::Shared>,
    pool: pool::Pool,
}

impl Runner {
    /// A runner with these settings. `environment` is that of this process, of which jobs inherit what the settings
    /// name; `guard` ends what runs should this process be killed; `gauge` counts what runs at the same time. Removes the scratch directories of dead workers, and
    /// makes this process the one that orphans below it are given to. A jobs directory that can't be read is only
    /// warned of: it may come later.
    ///
    /// # Errors
    /// [`RunnerError::JobsDir`] when a relative path means nothing, [`RunnerError::Scratch`] when the scratch directory can't be made.
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
            scratch: scratch::Scratch::create(&settings.scratch_dir, &settings.worker).map_err(RunnerError::Scratch)?,
            guard: guard.map(Guard::table),
            limits: limits::Limits::detect(),
            orphans: orphans::Orphans::adopt(guard.map(Guard::pid)),
            gauge,
            clock,
            settings,
        };
        Ok(Self { shared: Arc::new(shared), pool: pool::Pool::default() })
    }

    /// Runs one attempt; the slot is free again when its process and all that it left behind are gone. If the future is
    /// dropped, the attempt is stopped as lost.
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
        self.start(slot, order, stop, sink)?.report().await
    }

    /// Starts one attempt.
    ///
    /// # Errors
    /// [`RunnerError::Thread`] when the system has no thread left.
    pub fn start(
        &self,
        slot: Slot,
        order: RunOrder,
        stop: StopSignal,
        sink: Arc<dyn OutputSink>,
    ) -> Result<Attempt, RunnerError> {
        let abandoned = StopIfDropped(Some(StopHandle(stop.0.clone())));
        let shared = self.shared.clone();
        let work = move |bench: &mut pool::Workbench| attempt::run(&shared, bench, slot, &order, &stop, &sink);
        let answer = self.pool.run(work).map_err(RunnerError::Thread)?;
        Ok(Attempt { turn: None, answer, abandoned })
    }

    /// Starts one attempt when its turn has come and cores are free. The thread that frees them goes on with it at once,
    /// so that between two short attempts nobody has to be woken.
    pub fn start_in_turn(
        &self,
        slots: &Slots,
        cores: Option<u32>,
        order: RunOrder,
        stop: StopSignal,
        sink: Arc<dyn OutputSink>,
    ) -> Attempt {
        let abandoned = StopIfDropped(Some(StopHandle(stop.0.clone())));
        let (shared, pool) = (self.shared.clone(), self.pool.clone());
        let (sender, answer) = tokio::sync::oneshot::channel();
        let turn = slots.in_turn(cores, move |slot| {
            let work = move |bench: &mut pool::Workbench| attempt::run(&shared, bench, slot, &order, &stop, &sink);
            if let Err(error) = pool.start(pool::prepare(work, sender)) {
                tracing::error!(%error, "no thread could be started for an attempt");
            }
        });
        Attempt { turn: Some(turn), answer, abandoned }
    }
}

/// An attempt that was started, or will be when its turn comes. Dropping it stops it as lost.
pub struct Attempt {
    turn: Option<slots::Turn>,
    answer: tokio::sync::oneshot::Receiver<io::Result<AttemptReport>>,
    abandoned: StopIfDropped,
}

impl Attempt {
    /// Takes it back; false when it has been started.
    pub fn withdraw(&self) -> bool {
        self.turn.as_ref().is_some_and(slots::Turn::withdraw)
    }

    /// What became of it. Once.
    ///
    /// # Errors
    /// [`RunnerError`] when Jobber could not do its own work.
    pub async fn report(&mut self) -> Result<AttemptReport, RunnerError> {
        let report = (&mut self.answer).await;
        self.abandoned.0 = None;
        report.map_err(|_| RunnerError::Panicked)?.map_err(RunnerError::Supervise)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Stops an attempt that nobody waits for any more.
struct StopIfDropped(Option<StopHandle>);

impl Drop for StopIfDropped {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.stop(StopReason::Lost);
        }
    }
}
