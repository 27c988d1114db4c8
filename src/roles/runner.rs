//! The parts by which a process runs programs: the runner, and the slots that it fills.

use std::path::PathBuf;

use crate::config::Config;
use crate::domain::{Clock, WorkerId};
use crate::runner::{CpuSet, Divided, Guard, Runner, RunnerSettings, RunningGauge, Slots, cpus as host_cpus};

/// Builds a runner: for a worker, and for `jobber exec`.
///
/// # Errors
/// When the scratch directory can't be made.
pub(super) fn build_runner(
    config: &Config,
    environment: Vec<(String, String)>,
    clock: &Clock,
    worker: &WorkerId,
    guard: Option<&Guard>,
    gauge: RunningGauge,
) -> anyhow::Result<Runner> {
    Ok(Runner::new(runner_settings(config, worker)?, environment, clock.clone(), guard, gauge)?)
}

/// The settings of a runner, as the configuration has them.
///
/// # Errors
/// When the data directory is given relative to a working directory that is gone.
pub(super) fn runner_settings(config: &Config, worker: &WorkerId) -> anyhow::Result<RunnerSettings> {
    Ok(RunnerSettings {
        jobs_dir: config.worker.jobs_dir.clone(),
        scratch_dir: scratch_dir(config)?,
        worker: worker.clone(),
        pass_environment: config.worker.pass_environment.clone(),
        set_environment: config.worker.set_environment.clone(),
        output_bytes: config.worker.output_bytes,
        nice: config.worker.nice,
        pin: config.worker.pin,
        drain: config.worker.pipe_drain,
        crash_patience: config.worker.crash_patience,
        host_rules: config.host_rules.clone(),
        hidden: config.secret_paths.clone(),
    })
}

/// Divides the cores that jobs may use into slots.
///
/// # Errors
/// When the CPUs asked for are not there.
pub(super) fn build_slots(config: &Config) -> anyhow::Result<Slots> {
    let list = config.worker.cpus.as_ref().map(|cpus| cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    let cpus = CpuSet::detect(config.worker.cores, list.as_deref())?.into_vec();
    if let Some(asked) = config.worker.cores.filter(|asked| *asked as usize > cpus.len()) {
        tracing::warn!(asked, usable = cpus.len(), "worker.cores is more than this process may use; dividing those");
    }
    Ok(Slots::dividing(Divided {
        cpus,
        nodes: host_cpus::nodes(),
        cores_per_process: config.worker.cores_per_process,
        memory_bytes: config.worker.memory,
        resources: config.worker.resources.clone(),
    }))
}

pub(super) fn scratch_dir(config: &Config) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(config.data_dir.join("scratch"))?)
}

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
