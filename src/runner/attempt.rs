//! One attempt from order to report, on its own thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::pipe::PipeFlags;

use super::RunnerError;
use super::binary::{Binaries, Found};
use super::environment::{Environment, Variable};
use super::gauge::{RunningAttempt, RunningGauge};
use super::guard::Presence;
use super::limits::{Limits, Restraint};
use super::order::{OutputSink, RunOrder, RunnerSettings, StopReason, StopSignal};
use super::orphans::Orphans;
use super::outputs::OutputDirectory;
use super::pool::SpawnThreadState;
use super::report;
use super::sandbox::Sandboxes;
use super::sanitizer;
use super::scratch::Scratch;
use super::slots::Slot;
use super::spawn::{Cause, NotSpawned, Program, SpawnError, SpawnThread, Spawned};
use super::supervise::{LeaseDeadline, Supervisor, Terms};
use super::surroundings::Surroundings;
use super::table::SharedPidTable;
use super::tracer::Scope;
use crate::descriptors;
use crate::domain::{AttemptReport, Clock, CrashReport, Outcome, SpawnFailure, Timestamp, Validity};

/// What all attempts of a worker share.
pub(super) struct Shared {
    pub(super) settings: RunnerSettings,
    pub(super) clock: Clock,
    pub(super) environment: Environment,
    pub(super) binaries: Binaries,
    pub(super) scratch: Arc<Scratch>,
    /// The table in which the guard process finds the running attempts; `None` without a guard.
    pub(super) guard: Option<SharedPidTable>,
    /// Tells whether the guard process runs; `None` without a guard.
    pub(super) presence: Option<Presence>,
    pub(super) limits: Limits,
    pub(super) orphans: &'static Orphans,
    pub(super) gauge: RunningGauge,
    pub(super) sandboxes: Sandboxes,
}

/// Runs one attempt. Gives the slot back as soon as nothing of the process is left. Answers `None`
/// when the process was not started.
///
/// The start log writes the start down while this thread makes the attempt's surroundings, and has
/// done so before the spawn. The checks that may forbid the start come as late as possible: this
/// thread looks at the stop signal just before the spawn, and the child itself looks at the end of
/// its lease just before it executes its program.
///
/// # Errors
/// [`RunnerError::Impeded`] when this worker can't start any process now, whatever the job;
/// [`RunnerError::Supervise`] when this thread could not supervise the process, which has been killed then.
pub(super) fn run(
    shared: &Shared,
    thread: &mut SpawnThreadState,
    slot: Slot,
    order: &RunOrder,
    stop: &StopSignal,
    sink: &Arc<dyn OutputSink>,
) -> Result<Option<AttemptReport>, RunnerError> {
    // The start of an attempt that is forbidden already is not even written down.
    if is_forbidden(order, stop) || !await_guard(shared, order, stop) {
        return Ok(None);
    }
    if let Some(log) = &order.start_log {
        log.begin();
    }
    let may_start = || stop.reason().is_none() && order.start_log.as_ref().is_none_or(|log| log.is_written());
    let begun_at = shared.clock.now();
    let refused = |error: SpawnError| {
        // History must hear of the start before it hears of the end.
        if !may_start() {
            return Ok(None);
        }
        if error.cause == Cause::Worker {
            return Err(RunnerError::Impeded(error.message));
        }
        let outcome = Outcome::SpawnError { reason: error.failure };
        Ok(Some(AttemptReport::bare(outcome, begun_at, shared.clock.now(), error.message)))
    };
    let made = Surroundings::make(&shared.scratch, &shared.settings, &shared.sandboxes, &slot, order);
    let mut surroundings = match made {
        Ok(surroundings) => surroundings,
        Err(error) => return refused(error),
    };
    let running = shared.gauge.enter(RunningAttempt {
        job: order.job.clone(),
        attempt: order.attempt,
        cpus: slot.cpus().to_vec(),
        units: slot.units().clone(),
        started_at: begun_at,
        memory_bytes: None,
    });
    let cores = slot.cpus().len();
    let directory = surroundings.parts().0.path.clone();
    let tracked = shared.orphans.track(marks(surroundings.variables()), directory);
    let mut restraint = shared.limits.prepare(&unique_name(shared), tracked.number(), order.memory_bytes, cores);
    // The guard may have died since.
    if !may_start() || !await_guard(shared, order, stop) {
        return Ok(None);
    }
    let started_at = shared.clock.now();
    if let Some(guard) = &shared.guard {
        guard.expect(thread.number, tracked.number());
    }
    let (process, found) = match spawn(shared, thread, &slot, order, &mut surroundings, &mut restraint) {
        Ok(spawned) => spawned,
        Err(error) => {
            // The child may already have written its id into the table.
            if let Some(guard) = &shared.guard {
                guard.clear(thread.number);
            }
            return match error {
                NotSpawned::Late => Ok(None),
                NotSpawned::Cgroup(error) => refused(SpawnError::system("couldn't enter a cgroup", error)),
                NotSpawned::Failed(error) => refused(error),
            };
        }
    };
    tracked.spawned(process.pid);
    running.set_process(Some(process.pid.as_raw_nonzero().get()));
    if let Some(guard) = &shared.guard {
        guard.born(thread.number);
    }
    shared.limits.expose(process.pid);
    let build = shared.binaries.executed(&order.job.name, &found, process.pid);
    let guarded = shared.guard.as_ref().zip(order.validity.as_ref());
    let terms = Terms {
        lease_deadline: guarded.map(|(table, validity)| LeaseDeadline { table, cell: thread.number, validity }),
        timeout: order.timeout,
        grace: order.grace,
        drain: shared.settings.drain,
        output_bytes: shared.settings.output_bytes,
        stop,
        sink,
        tracked: &tracked,
        limits: &shared.limits,
        clock: &shared.clock,
        buffer: &mut thread.buffer,
        alarm: thread.spawner.alarm.as_ref(),
    };
    let observed = Supervisor::new(process, &mut restraint, terms).run();
    running.set_process(None);
    if let Some(guard) = &shared.guard {
        guard.clear(thread.number);
    }
    let cpus = if shared.settings.pin { slot.cpus().to_vec() } else { Vec::new() };
    let (peak_beside, beside_at_start) = (running.peak_beside(), running.beside_at_start());
    drop(running);
    drop(slot);
    let mut report = report::report(
        order,
        started_at,
        cpus,
        observed.map_err(RunnerError::Supervise)?,
        (&shared.limits, &restraint),
        surroundings.error_file(),
    );
    report.peak_beside = peak_beside;
    report.beside_at_start = Some(beside_at_start);
    report.build = build.and_then(|build| build.at_end());
    if let Some(directory) = surroundings.take_files() {
        sink.files(OutputDirectory::new(shared.scratch.clone(), directory));
    }
    Ok(Some(report))
}

/// Tries everything that an attempt needs except a process. The error says for people what
/// lacks. To be called on a thread of its own.
pub(super) fn probe(shared: &Shared) -> Result<(), String> {
    /// So many pipes take as many descriptors as a few attempts do.
    const PIPES: usize = 8;
    descriptors::raise();
    let mut pipes = Vec::new();
    for _ in 0..PIPES {
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        pipes.push(pipe.map_err(|error| format!("couldn't make a pipe: {}", std::io::Error::from(error)))?);
    }
    drop(pipes);
    shared.scratch.probe().map_err(|error| error.to_string())?;
    shared.binaries.probe()
}

/// Runs a program that ends by itself, traced.
pub(super) fn probe_tracing(program: &Path) -> Result<(), String> {
    let body = crate::domain::JobBody::new(Vec::new(), None);
    let spawned = SpawnThread::prepare().spawn(Program {
        path: program,
        arguments: &["--version".to_owned()],
        environment: &[],
        own_environment: &[],
        directory: Path::new("/"),
        cpus: None,
        body: &body,
        nice: 0,
        limits: &[],
        cgroup: None,
        validity: None,
        note: None,
        trace: Some((Scope::Process, Duration::ZERO)),
        confinement: None,
    });
    match spawned {
        Ok(spawned) if spawned.tracer.is_some() => Ok(()),
        Ok(_) => Err("the kernel, or a filter of system calls, forbids ptrace".to_owned()),
        Err(NotSpawned::Failed(error)) => Err(error.message),
        Err(NotSpawned::Late | NotSpawned::Cgroup(_)) => Err("a process could not be started".to_owned()),
    }
}

/// Makes the report of an attempt that was never started.
pub(super) fn never_started(reason: Option<StopReason>, now: Timestamp) -> AttemptReport {
    match reason {
        Some(StopReason::Cancelled) => {
            AttemptReport::bare(Outcome::Cancelled, now, now, "cancelled before it was started")
        }
        Some(StopReason::Lost | StopReason::Lapsed) | None => {
            AttemptReport::bare(Outcome::Lost, now, now, "its worker had to give it up before it was started")
        }
    }
}

/// Begins to write down the start of an attempt that has its slot, before a thread takes the
/// attempt up. Does nothing when the attempt is forbidden already, or has to wait for a guard.
pub(super) fn begin(shared: &Shared, order: &RunOrder, stop: &StopSignal) {
    if let Some(log) = &order.start_log
        && !is_forbidden(order, stop)
        && shared.presence.as_ref().is_none_or(Presence::is_there)
    {
        log.begin();
    }
}

/// Whether the attempt is to stop, or its lease is over.
fn is_forbidden(order: &RunOrder, stop: &StopSignal) -> bool {
    stop.reason().is_some() || order.validity.as_ref().is_some_and(Validity::is_over)
}

/// Waits until there is a guard process, which would end the attempt's process if this worker were
/// killed. Answers false when the attempt must not be started any more.
fn await_guard(shared: &Shared, order: &RunOrder, stop: &StopSignal) -> bool {
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    let Some(presence) = &shared.presence else { return true };
    while !presence.is_there() {
        if is_forbidden(order, stop) {
            return false;
        }
        let _ = poll(&mut [PollFd::new(&stop.0.event, PollFlags::IN)], Some(&LOOK));
    }
    true
}

/// The variables that no other attempt has in its environment.
fn marks(variables: &[Variable]) -> Vec<Vec<u8>> {
    variables
        .iter()
        .filter(|(name, _)| matches!(&**name, "JOBBER_JOB_ID" | "JOBBER_ATTEMPT" | "JOBBER_WORKER"))
        .map(|(name, value)| format!("{name}={value}").into_bytes())
        .collect()
}

/// A name that no other attempt on this host has.
fn unique_name(shared: &Shared) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", shared.settings.worker, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What of the attempt is traced. Nothing where tracing would change a verdict: see [`sanitizer`].
fn trace_scope(shared: &Shared, order: &RunOrder, program: &Found) -> Option<Scope> {
    let scope = match shared.settings.host_rules.of(&order.job.name).crash_report {
        CrashReport::Off => return None,
        CrashReport::Process => Scope::Process,
        CrashReport::Tree => Scope::Tree,
    };
    let forbids = match program.version {
        Some(version) => sanitizer::version_forbids_tracing(version, &program.path),
        None => sanitizer::forbids_tracing(&program.path),
    };
    (!forbids && !shared.environment.preloads_sanitizer()).then_some(scope)
}

fn spawn(
    shared: &Shared,
    thread: &mut SpawnThreadState,
    slot: &Slot,
    order: &RunOrder,
    surroundings: &mut Surroundings<'_>,
    restraint: &mut Restraint,
) -> Result<(Spawned, Found), NotSpawned> {
    let (work_dir, variables) = surroundings.parts();
    let job = &order.job;
    let arguments = order.body.arguments();
    let mut once_more = true;
    loop {
        let found = shared.binaries.find(&job.name).map_err(SpawnError::from)?;
        let own = [&*work_dir.path, &*work_dir.output_path];
        let inputs = order.inputs.as_ref().map(|inputs| inputs.path());
        let confinement = match shared
            .sandboxes
            .of(&job.name)
            .map(|sandbox| sandbox.confine(&found.path, own, inputs, &mut work_dir.rules))
        {
            Some(Ok(confinement)) => Some(confinement),
            Some(Err(message)) => {
                return Err(SpawnError { failure: SpawnFailure::System, message, cause: Cause::Job }.into());
            }
            None => None,
        };
        let spawned = thread.spawner.spawn(Program {
            path: &found.path,
            arguments: &arguments,
            environment: shared.environment.shared(),
            own_environment: variables,
            directory: &work_dir.path,
            cpus: shared.settings.pin.then(|| slot.cpus()),
            body: &order.body,
            nice: job.options.nice.unwrap_or(shared.settings.nice),
            limits: restraint.resources(),
            cgroup: restraint.cgroup(),
            validity: order.validity.as_ref(),
            note: shared.guard.as_ref().map(|table| table.place(thread.number)),
            trace: trace_scope(shared, order, &found).map(|scope| (scope, shared.settings.crash_patience)),
            confinement: confinement.as_ref(),
        });
        match spawned {
            // The file was replaced after `Binaries` had resolved its path.
            Err(NotSpawned::Failed(error)) if error.cause == Cause::Path && std::mem::take(&mut once_more) => {
                shared.binaries.forget(&job.name);
            }
            Err(NotSpawned::Cgroup(error)) if restraint.cgroup().is_some() => {
                restraint.do_without_cgroup(&error, slot.cpus().len());
            }
            Err(NotSpawned::Failed(error)) if error.cause == Cause::File => {
                shared.binaries.note_broken(&job.name);
                return Err(NotSpawned::Failed(error));
            }
            Err(error) => return Err(error),
            Ok(process) => return Ok((process, found)),
        }
    }
}
