//! One attempt from order to report, on its own thread.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::binary::Binaries;
use super::environment::{self, Environment};
use super::gauge::RunningGauge;
use super::guard::Table;
use super::limits::Limits;
use super::order::{OutputSink, RunOrder, RunnerSettings, StopReason, StopSignal};
use super::orphans::{Marks, Orphans};
use super::pool::Workbench;
use super::report;
use super::scratch::{Scratch, WorkDir};
use super::slots::Slot;
use super::spawn::{Program, SpawnError, Spawned};
use super::supervise::{Supervisor, Terms, Vigil};
use crate::domain::{AttemptReport, Clock, Outcome, SpawnFailure, Timestamp};

/// The name of the file in its scratch directory to which a job may write why it failed.
const ERROR_FILE: &str = ".jobber-error";
/// Where a job finds what those gave back that came before it.
const RESULTS_FILE: &str = ".jobber-results.json";

/// What all attempts of a worker share.
pub(super) struct Shared {
    pub(super) settings: RunnerSettings,
    pub(super) clock: Clock,
    pub(super) environment: Environment,
    pub(super) binaries: Binaries,
    pub(super) scratch: Scratch,
    pub(super) guard: Option<Table>,
    pub(super) limits: Limits,
    pub(super) orphans: Orphans,
    pub(super) gauge: RunningGauge,
}

/// Runs it. The slot is given back as soon as nothing of the process is left.
///
/// # Errors
/// When the process could not be supervised; it has been killed then.
pub(super) fn run(
    shared: &Shared,
    bench: &mut Workbench,
    slot: Slot,
    order: &RunOrder,
    stop: &StopSignal,
    sink: &Arc<dyn OutputSink>,
) -> io::Result<AttemptReport> {
    let started_at = shared.clock.now();
    if let Some(reason) = stop.reason() {
        return Ok(never_started(reason, started_at));
    }
    let refused = |error: SpawnError| {
        let outcome = Outcome::SpawnError { reason: error.failure };
        Ok(AttemptReport::bare(outcome, started_at, shared.clock.now(), error.message))
    };
    let (directory, _cleared) = match shared.scratch.make() {
        Ok(made) => (made.path.clone(), Cleared { made: Some(made), scratch: &shared.scratch }),
        Err(error) => {
            return refused(SpawnError { failure: SpawnFailure::System, message: error.to_string(), vanished: false });
        }
    };
    let error_file = directory.join(ERROR_FILE);
    let mut variables = environment::of_attempt(
        order,
        shared.settings.worker.as_str(),
        slot.cpus(),
        shared.settings.pin,
        &error_file.to_string_lossy(),
    );
    if !order.results_before.is_empty() {
        let file = directory.join(RESULTS_FILE);
        let text = serde_json::to_vec(&order.results_before).unwrap_or_default();
        if let Err(error) = fs_err::write(&file, text) {
            return refused(SpawnError { failure: SpawnFailure::System, message: error.to_string(), vanished: false });
        }
        variables.push(("JOBBER_RESULTS_FILE", file.to_string_lossy().into_owned()));
    }
    let running = shared.gauge.enter();
    let process = match spawn(shared, bench, &slot, order, &variables, &directory) {
        Ok(process) => process,
        Err(error) => return refused(error),
    };
    if let Some(guard) = &shared.guard {
        guard.note(bench.number, Some(process.pid), order.validity.as_ref());
    }
    let cores = slot.cpus().len();
    let unique = format!("{}-{}", shared.settings.worker, process.pid);
    let mut restraint = shared.limits.restrain(process.pid, &unique, order.memory_bytes, cores);
    let marks: Vec<Vec<u8>> = variables
        .iter()
        .filter(|(name, _)| matches!(*name, "JOBBER_JOB_ID" | "JOBBER_ATTEMPT" | "JOBBER_WORKER"))
        .map(|(name, value)| format!("{name}={value}").into_bytes())
        .collect();
    let vigil = shared.guard.as_ref().zip(order.validity.as_ref());
    let terms = Terms {
        vigil: vigil.map(|(table, validity)| Vigil { table, cell: bench.number, validity }),
        timeout: order.timeout,
        grace: order.grace,
        drain: shared.settings.drain,
        output_bytes: shared.settings.output_bytes,
        stop,
        sink,
        marks: Marks { group: process.pid, variables: &marks, scratch: &directory },
        orphans: &shared.orphans,
        limits: &shared.limits,
        clock: &shared.clock,
        buffer: &mut bench.buffer,
    };
    let observed = Supervisor::new(process, &mut restraint, terms).run();
    if let Some(guard) = &shared.guard {
        guard.note(bench.number, None, None);
    }
    let cpus = if shared.settings.pin { slot.cpus().to_vec() } else { Vec::new() };
    let (peak_beside, beside_at_start) = (running.peak_beside(), running.beside_at_start());
    drop(running);
    drop(slot);
    let mut report = report::report(order, started_at, cpus, observed?, (&shared.limits, &restraint), &error_file);
    report.peak_beside = peak_beside;
    report.beside_at_start = Some(beside_at_start);
    Ok(report)
}

/// A scratch directory that is removed when the attempt is over, however it is.
struct Cleared<'a> {
    made: Option<WorkDir>,
    scratch: &'a Scratch,
}

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            self.scratch.remove(made);
        }
    }
}

fn never_started(reason: StopReason, now: Timestamp) -> AttemptReport {
    match reason {
        StopReason::Cancelled => AttemptReport::bare(Outcome::Cancelled, now, now, "cancelled before it was started"),
        StopReason::Lost | StopReason::Lapsed => {
            AttemptReport::bare(Outcome::Lost, now, now, "its worker had to give it up before it was started")
        }
    }
}

fn spawn(
    shared: &Shared,
    bench: &mut Workbench,
    slot: &Slot,
    order: &RunOrder,
    variables: &[(&'static str, String)],
    directory: &Path,
) -> Result<Spawned, SpawnError> {
    let job = &order.job;
    let mut once_more = true;
    loop {
        let path = shared.binaries.resolve(&job.name)?;
        let input = match &job.data {
            Some(data) => {
                serde_json::to_vec(data).map_err(|e| SpawnError::system("couldn't write the data as JSON", e))?
            }
            None => Vec::new(),
        };
        let spawned = bench.spawner.spawn(Program {
            path: &path,
            arguments: &job.arguments,
            environment: shared.environment.shared(),
            own_environment: variables,
            directory,
            cpus: shared.settings.pin.then(|| slot.cpus()),
            input,
            nice: shared.settings.nice,
        });
        match spawned {
            // The file was replaced since it was last looked at.
            Err(error) if error.vanished && std::mem::take(&mut once_more) => shared.binaries.forget(&job.name),
            result => return result,
        }
    }
}
