//! `jobber exec` and `jobber replay`: run one attempt under the worker's own supervisor, or in a debugger, without queue and
//! history.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::LocalBoxFuture;

use super::runner;
use crate::config::Config;
use crate::domain::{AttemptReport, Clock, Job, WorkerId};
use crate::runner::{FetchInputs, Guard, OutputSink, RunOrder, Runner, RunningGauge, Slot, SlotRequest, StopSignal};

/// What gdb wants of the terminal's environment.
const OF_THE_TERMINAL: [&str; 2] = ["TERM", "HOME"];

/// Runs one attempt under the configuration's rules. The configuration decides what the order leaves open. `inputs` writes
/// what the job finds as its inputs, if it has any.
///
/// # Errors
/// When Jobber could not do its own work: it can't make a scratch directory, lacks the CPUs asked for, or the inputs.
pub fn exec<'a>(
    config: Config,
    environment: Vec<(String, String)>,
    order: RunOrder,
    inputs: Option<FetchInputs<'a>>,
    stop: StopSignal,
    sink: Arc<dyn OutputSink>,
) -> LocalBoxFuture<'a, anyhow::Result<AttemptReport>> {
    Box::pin(async move {
        let (place, mut order) = Place::make(config, environment, order)?;
        if let Some(inputs) = inputs {
            tokio::select! {
                fetched = place.fetch(inputs, &mut order) => fetched?,
                () = stopped(&stop) => {}
            }
        }
        let slot = place.slot(&order).await?;
        Ok(place.runner.run(slot, order, stop, sink).await?)
    })
}

/// Runs the program of one attempt in gdb on this terminal, as [`exec`] would run it, but without limits, sandbox and
/// supervision. Answers how gdb ended.
///
/// # Errors
/// As [`exec`]; and when there is no gdb, or no such binary.
pub fn debug<'a>(
    config: Config,
    environment: Vec<(String, String)>,
    order: RunOrder,
    inputs: Option<FetchInputs<'a>>,
) -> LocalBoxFuture<'a, anyhow::Result<ExitStatus>> {
    Box::pin(async move {
        let terminal = environment.iter().filter(|(name, _)| OF_THE_TERMINAL.contains(&name.as_str()));
        let terminal: Vec<_> = terminal.cloned().collect();
        let (place, mut order) = Place::make(config, environment, order)?;
        if let Some(inputs) = inputs {
            place.fetch(inputs, &mut order).await?;
        }
        let slot = place.slot(&order).await?;
        Ok(tokio::task::block_in_place(|| place.runner.debug(&slot, &order, &terminal))?)
    })
}

/// What of the job's demands this host lacks, one sentence each.
pub fn lacks(config: &Config, job: &Job) -> Vec<String> {
    let wanted = job.options.resources.as_ref();
    let short = wanted.into_iter().flat_map(|wanted| wanted.iter()).filter_map(|(name, amount)| {
        let there = config.worker.resources.amount(name);
        (there < amount).then(|| format!("it asks for {name}={amount}, and this host has {there}"))
    });
    let cores = job.options.cores.and_then(|cores| {
        let there = runner::build_slots(config).ok()?.total_cores();
        (there < cores).then(|| format!("it asks for {cores} cores, and this host has {there}"))
    });
    short.chain(cores).collect()
}

/// What one attempt needs on this host, in a directory of its own: `exec` needs no data directory and leaves none behind.
struct Place {
    runner: Runner,
    _guard: Guard,
    config: Config,
    /// The last to go: the others are in it.
    _directory: OwnDirectory,
}

struct OwnDirectory(PathBuf);

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        // What can't be removed is left where the system keeps what is temporary.
        let _ = fs_err::remove_dir_all(&self.0);
    }
}

impl Place {
    /// Makes it. Fills in what the order leaves open.
    fn make(
        config: Config,
        environment: Vec<(String, String)>,
        mut order: RunOrder,
    ) -> anyhow::Result<(Self, RunOrder)> {
        let rules = config.jobs.get(&order.job.name).unwrap_or(&config.defaults);
        order.no_retry_exit_codes.extend(rules.no_retry_exit_codes.iter().flatten());
        let options = &mut Arc::make_mut(&mut order.job).options;
        options.fill_run_options(rules);
        order.timeout = options.timeout;
        order.memory_bytes = options.memory_bytes;
        let id = WorkerId::generate(&runner::host_name());
        let config = Config { data_dir: std::env::temp_dir().join(format!("jobber-exec-{id}")), ..config };
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&config.data_dir)?;
        let directory = OwnDirectory(config.data_dir.clone());
        let scratch = runner::scratch_dir(&config)?;
        fs_err::create_dir(&scratch)?;
        let guard = Guard::start(&id, &scratch)
            .context("the guard, which ends the job if this process is killed, can't be started")?;
        let runner =
            runner::build_runner(&config, environment, &Clock::system(), &id, Some(&guard), RunningGauge::new())?;
        Ok((Self { runner, _guard: guard, config, _directory: directory }, order))
    }

    async fn fetch(&self, inputs: FetchInputs<'_>, order: &mut RunOrder) -> anyhow::Result<()> {
        let directory = self.runner.make_input_directory()?;
        inputs(directory.path().to_owned()).await.map_err(anyhow::Error::from_boxed)?;
        directory.finish()?;
        order.inputs = Some(Arc::new(directory));
        Ok(())
    }

    async fn slot(&self, order: &RunOrder) -> anyhow::Result<Slot> {
        let options = &order.job.options;
        let resources = options.resources.clone().unwrap_or_default();
        let request = SlotRequest { cores: options.cores, resources, ..SlotRequest::default() };
        Ok(runner::build_slots(&self.config)?.acquire(request).await)
    }
}

/// Waits until the attempt is asked to stop. The signal is made for threads that poll, so this looks at it.
async fn stopped(stop: &StopSignal) {
    const LOOK: Duration = Duration::from_millis(50);
    while stop.reason().is_none() {
        tokio::time::sleep(LOOK).await;
    }
}
