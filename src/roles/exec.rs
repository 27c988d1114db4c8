//! `jobber exec`: runs one attempt under the worker's own supervisor, without queue and history.

use std::sync::Arc;

use anyhow::Context;
use futures_util::future::LocalBoxFuture;

use super::runner;
use crate::config::Config;
use crate::domain::{AttemptReport, Clock, WorkerId};
use crate::runner::{Guard, OutputSink, RunOrder, RunningGauge, SlotRequest, StopSignal};

/// Runs one attempt under the configuration's rules. The configuration decides what the order leaves open.
///
/// # Errors
/// When Jobber could not do its own work: it can't make a scratch directory, or lacks the CPUs asked for.
pub fn exec(
    config: Config,
    environment: Vec<(String, String)>,
    mut order: RunOrder,
    stop: StopSignal,
    sink: Arc<dyn OutputSink>,
) -> LocalBoxFuture<'static, anyhow::Result<AttemptReport>> {
    Box::pin(async move {
        let rules = config.jobs.get(&order.job.name).unwrap_or(&config.defaults);
        order.no_retry_exit_codes.extend(rules.no_retry_exit_codes.iter().flatten());
        let options = &mut Arc::make_mut(&mut order.job).options;
        options.fill_run_options(rules);
        order.timeout = options.timeout;
        order.memory_bytes = options.memory_bytes;
        let resources = options.resources.clone().unwrap_or_default();
        let request = SlotRequest { cores: options.cores, resources, ..SlotRequest::default() };
        let id = WorkerId::generate(&runner::host_name());
        let scratch = tempfile_dir(&id);
        let config = Config { data_dir: scratch.clone(), ..config };
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&config.data_dir)?;
        fs_err::create_dir(config.data_dir.join("scratch"))?;
        let guard = Guard::start(&id, &config.data_dir.join("scratch"))
            .context("the guard, which ends the job if this process is killed, can't be started")?;
        let runner =
            runner::build_runner(&config, environment, &Clock::system(), &id, Some(&guard), RunningGauge::new())?;
        let slot = runner::build_slots(&config)?.acquire(request).await;
        let report = runner.run(slot, order, stop, sink).await;
        drop(runner);
        drop(guard);
        fs_err::remove_dir_all(scratch)?;
        Ok(report?)
    })
}

/// The path of a directory for this run alone. `exec` needs no data directory and leaves none behind.
fn tempfile_dir(id: &WorkerId) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("jobber-exec-{id}"))
}
