//! The life of one lease, from claim to verdict.

use std::sync::Arc;
use std::time::Duration;

use super::WorkerContext;
use super::files;
use super::inputs::{self, Fetched};
use super::lifetime::Permit;
use super::output_publisher::OutputPublisher;
use super::policies::lay_over;
use super::prefetch::Prefetch;
use super::quarantine::Pass;
use super::start::{Start, body_for_history};
use crate::domain::outcome::cancelled_because;
use crate::domain::retry::{decide, is_pointless};
use crate::domain::{
    AttemptReport, Event, EventKind, FinalState, LimitScale, Misfit, Outcome, SpawnFailure, Timestamp, TraceContext,
    Validity, Verdict,
};
use crate::failures::fingerprint;
use crate::metrics::METRICS;
use crate::queue::{Lease, LeaseLoss, Placing};
use crate::reconnect::dice;
use crate::runner::{InputDirectory, RunOrder, RunnerError, Slot, SlotRequest, StartLog, StopHandle, StopReason};
use crate::traces::AttemptTrace;

/// Where an attempt gets its slot: it holds one, or takes the next free one in its turn.
enum SlotSource {
    Slot(Slot),
    InTurn(SlotRequest),
}

/// Runs the lease's job and settles the lease; or gives it back, when it can't be run here and now.
pub(super) async fn run(context: Arc<WorkerContext>, lease: Lease, permit: Permit) {
    if lease.crashes() > context.worker.settings.crash_limit {
        return end_unstarted(&context, lease, Outcome::Lost, "lost with its worker too often in a row; not run again")
            .await;
    }
    if let Some(why) = lease.barred().map(str::to_owned) {
        return end_unstarted(&context, lease, Outcome::Cancelled, &why).await;
    }
    match context.placement.judge_job(lease.job()) {
        Placing::Here => {}
        placing @ (Placing::Elsewhere | Placing::Nowhere) => {
            let pause = context.elsewhere.pause(lease.job(), placing);
            return put_off(&context, lease, None, pause).await;
        }
        // For want of the binary the try to start it says what is wrong.
        Placing::Refused => match context.placement.why_not(lease.job()) {
            None | Some(Misfit::Binary(_)) => {}
            Some(misfit) => return end_unplaceable(&context, lease, &misfit).await,
        },
    }
    let Some(_pass) = pass(&context, &lease).await else { return give_back(&context, lease, None).await };
    let fetched = match inputs::fetch(&context, &lease).await {
        Fetched::Ready(fetched) => fetched,
        Fetched::NotNow(why) => {
            tracing::warn!(job = %lease.job().id, why, "the inputs of a job can't be had; trying again later");
            return put_off(&context, lease, None, inputs::PAUSE).await;
        }
        Fetched::Gone(why) => {
            let outcome = Outcome::SpawnError { reason: SpawnFailure::NotFound };
            return end_unstarted(&context, lease, outcome, &why).await;
        }
        Fetched::Interrupted => return give_back(&context, lease, None).await,
    };
    let scale = limit_scale(&context, &lease).await;
    let request = context.placement.request(lease.job(), scale);
    let place = match context.worker.slots.try_acquire(request.clone()) {
        Some(slot) => Some(SlotSource::Slot(slot)),
        // With leases ahead the thread that frees a slot goes on with the next job by itself.
        None if context.prefetch.is_ahead() => Some(SlotSource::InTurn(request)),
        None => wait_for_slot(&context, &lease, request).await.map(SlotSource::Slot),
    };
    let permit = Arc::new(permit);
    let start = Arc::new(Start::new(&context, &lease, permit.clone()));
    let spent = lease.attempts_finished().saturating_add(lease.crashes());
    let trace = context.worker.traces.attempt(lease.job(), lease.attempt(), spent, context.worker.clock.now());
    let report = match place {
        Some(place) => supervise(&context, &lease, place, scale, fetched, &start, trace.context()).await,
        None => None,
    };
    let withdrawal = start.withdrawal();
    drop(start);
    match report {
        // Only the try to start the job may have shown that its binary is not for this machine.
        Some(report) if matches!(report.outcome, Outcome::SpawnError { .. }) => {
            match context.placement.judge_job(lease.job()) {
                placing @ (Placing::Elsewhere | Placing::Nowhere) => {
                    let pause = context.elsewhere.pause(lease.job(), placing);
                    put_off(&context, lease, withdrawal, pause).await;
                }
                Placing::Here | Placing::Refused => {
                    permit.spend();
                    conclude(&context, lease, report, trace).await
                }
            }
        }
        Some(report) => {
            permit.spend();
            conclude(&context, lease, report, trace).await
        }
        None => give_back(&context, lease, withdrawal).await,
    }
}

/// How much more the job gets than it asks for, by the rules for how its last attempt failed.
async fn limit_scale(context: &WorkerContext, lease: &Lease) -> LimitScale {
    match &context.worker.policies {
        Some(policies) if lease.attempts_finished() > 0 => policies.limit_scale(&lease.job().id).await,
        _ => LimitScale::default(),
    }
}

/// Lets the lease's job run: beside others, or alone when it was lost with its workers so often that it may be what
/// kills them. `None` when it is to be given back.
async fn pass(context: &WorkerContext, lease: &Lease) -> Option<Pass> {
    if !context.worker.health.is_good() {
        return None;
    }
    if lease.crashes() <= context.worker.settings.crash_limit / 2 {
        return context.quarantine.beside();
    }
    tracing::warn!(job = %lease.job().id, crashes = lease.crashes(), "was lost with its workers; running it alone");
    tokio::select! {
        pass = context.quarantine.alone() => Some(pass),
        _ = lease.lost() => None,
        () = context.give_back.cancelled() => None,
    }
}

/// Takes back that an attempt was started; false when that could not be written down.
async fn withdraw(context: &WorkerContext, lease: &Lease, withdrawal: Option<Event>) -> bool {
    let Some(withdrawal) = withdrawal else { return true };
    tracing::debug!(job = %lease.job().id, attempt = lease.attempt().0, "the start of an attempt was withdrawn");
    let is_recorded = context.recorder.record(&[withdrawal]).await;
    if is_recorded {
        lease.withdraw();
    }
    is_recorded
}

/// Gives a job back that another worker can run and this one can't, and has it left alone for a while.
async fn put_off(context: &WorkerContext, lease: Lease, withdrawal: Option<Event>, pause: Duration) {
    if withdraw(context, &lease, withdrawal).await {
        lease.settle(Verdict::PutOff { after: pause }).await;
    }
}

/// Gives a job back whose process was not started, as if it had never been claimed, unless a client has cancelled it.
async fn give_back(context: &WorkerContext, lease: Lease, withdrawal: Option<Event>) {
    if !withdraw(context, &lease, withdrawal).await {
        return;
    }
    match cancelled(&lease).await {
        Some(reason) => end_unstarted(context, lease, Outcome::Cancelled, &reason).await,
        // Dropping it gives it back.
        None => drop(lease),
    }
}

/// Waits for cores; `None` when the lease was lost meanwhile, the worker ends, or patience does.
async fn wait_for_slot(context: &WorkerContext, lease: &Lease, request: SlotRequest) -> Option<Slot> {
    tokio::select! {
        slot = context.worker.slots.acquire(request) => Some(slot),
        _ = lease.lost() => None,
        () = context.give_back.cancelled() => None,
        () = out_of_patience(context) => None,
    }
}

/// Returns when a lease that was taken ahead is better given back: it has waited long for a slot, while another
/// worker's may be idle; or this worker starts nothing for now.
async fn out_of_patience(context: &WorkerContext) {
    let (mut health, mut suspects) = (context.worker.health.follow(), context.quarantine.follow());
    let waited = async {
        loop {
            tokio::time::sleep(Prefetch::PATIENCE).await;
            if context.attempts.len() > context.prefetch.leases() {
                return;
            }
        }
    };
    tokio::select! {
        () = waited => {}
        Ok(_) = health.wait_for(Option::is_some) => {}
        Ok(_) = suspects.wait_for(|suspects| *suspects > 0) => {}
    }
}

/// The reason that a caller gave for cancelling the job, if one has.
async fn cancelled(lease: &Lease) -> Option<String> {
    tokio::select! {
        biased;
        loss = lease.lost() => match loss {
            LeaseLoss::Cancelled(reason) => Some(reason),
            LeaseLoss::Expired => None,
        },
        () = std::future::ready(()) => None,
    }
}

/// Runs the process and stops it when the lease is lost, the job is cancelled, or the worker must
/// end. `None` when that happens before the process is started.
async fn supervise(
    context: &WorkerContext,
    lease: &Lease,
    place: SlotSource,
    scale: LimitScale,
    inputs: Option<Arc<InputDirectory>>,
    start: &Arc<Start>,
    trace: Option<&TraceContext>,
) -> Option<AttemptReport> {
    let began = context.worker.clock.now();
    let trouble = |outcome: Outcome, error: &RunnerError| {
        tracing::error!(job = %lease.job().id, %error, "jobber could not run a job");
        AttemptReport::bare(outcome, began, context.worker.clock.now(), format!("jobber could not run it: {error}"))
    };
    let (handle, signal) = match StopHandle::new() {
        Ok(pair) => pair,
        Err(error) => {
            context.worker.health.note(format!("couldn't make an event descriptor: {error} (raise ulimit -n)"));
            return None;
        }
    };
    let sink = Arc::new(OutputPublisher::new(lease.publisher(), lease.attempt()));
    let mut order = RunOrder {
        start_log: Some(start.clone()),
        inputs,
        ..context.worker.settings.order(lease, scale, trace.cloned())
    };
    order.memory_bytes = order.memory_bytes.map(|limit| context.placement.memory_limit(limit));
    let runner = &context.worker.runner;
    let mut waits = matches!(place, SlotSource::InTurn(_));
    let mut attempt = match place {
        SlotSource::Slot(slot) => {
            start.begin();
            runner.start(slot, order, signal, sink.clone())
        }
        SlotSource::InTurn(request) => {
            runner.start_in_turn(&context.worker.slots, request, order, signal, sink.clone())
        }
    };
    let mut told = false;
    let mut why = None;
    let result = loop {
        // Waits for a reason to stop the attempt; a cancellation also says why.
        let reason = tokio::select! {
            biased;
            result = attempt.report() => break result,
            loss = lease.lost(), if !told => match loss {
                LeaseLoss::Cancelled(reason) => {
                    why = Some(reason);
                    StopReason::Cancelled
                }
                LeaseLoss::Expired => {
                    METRICS.worker.lost_lease();
                    tracing::warn!(job = %lease.job().id, attempt = lease.attempt().0, "lost the lease; stopping the job");
                    StopReason::Lapsed
                }
            },
            () = context.give_back.cancelled(), if !told => StopReason::Lost,
            () = out_of_patience(context), if waits && !told => {
                if attempt.withdraw() {
                    return None;
                }
                // The attempt can't be withdrawn any more: its turn has come.
                waits = false;
                continue;
            }
        };
        if waits && attempt.withdraw() {
            return None;
        }
        told = true;
        handle.stop(reason);
        start.abandon();
    };
    let mut report = match result {
        Ok(report) => report?,
        // The worker started nothing, and the job is not to blame.
        Err(RunnerError::Impeded(why)) => {
            METRICS.worker.could_not_spawn();
            context.worker.health.note(why);
            return None;
        }
        Err(error @ RunnerError::Supervise(_)) => {
            context.worker.health.note(error.to_string());
            trouble(Outcome::Lost, &error)
        }
        Err(error) => trouble(Outcome::SpawnError { reason: SpawnFailure::System }, &error),
    };
    if report.usage.is_some() {
        context.worker.health.prove();
    }
    files::keep(context, lease, sink.take_files(), &mut report).await;
    if matches!(report.outcome, Outcome::SpawnError { .. }) {
        METRICS.worker.could_not_spawn();
    }
    // Other workers may have the job by now, whatever its outcome here. A worker that was stopped
    // itself (SIGSTOP, a suspended machine) can only notice it this late.
    if report.outcome != Outcome::Lost && lease.validity().is_some_and(Validity::is_over) {
        METRICS.worker.lost_lease();
        tracing::warn!(job = %lease.job().id, attempt = lease.attempt().0, "lost the lease before the job had ended");
        report.outcome = Outcome::Lost;
        report.error = Some("lost: its worker was held up until others could take it".to_owned());
    }
    match (report.outcome, why) {
        (Outcome::Cancelled, Some(reason)) => report.error = Some(cancelled_because(&reason)),
        (Outcome::Lost, _) if context.give_back.is_cancelled() => {
            report.error = Some("given back: the worker was asked to stop before the job had ended".to_owned());
        }
        _ => {}
    }
    Some(report)
}

/// Decides what follows on an attempt that has ended, and writes it down.
async fn conclude(context: &WorkerContext, lease: Lease, mut report: AttemptReport, trace: AttemptTrace) {
    if let Some(usage) = &report.usage {
        context.prefetch.learn(std::time::Duration::from_micros(usage.wall_us));
    }
    let verdict = verdict(context, &lease, &mut report).await;
    let attempt = lease.attempt();
    tracing::info!(
        job = %lease.job().id,
        name = %lease.job().name,
        attempt = attempt.0,
        outcome = %report.outcome,
        ms = u64::try_from(report.ended_at.since(report.started_at).as_millis()).unwrap_or(u64::MAX),
        verdict = word(&verdict),
        "attempt ended"
    );
    let finished = match &verdict {
        Verdict::Complete { result } => Some((FinalState::Completed, result.clone(), None)),
        Verdict::Fail { error } => Some((FinalState::Failed, None, Some(error.clone()))),
        Verdict::Retry { .. } | Verdict::Release | Verdict::PutOff { .. } => None,
    };
    let next_at: Option<Timestamp> = match &verdict {
        Verdict::Retry { after, .. } => Some(report.ended_at + *after),
        Verdict::Complete { .. } | Verdict::Fail { .. } | Verdict::Release | Verdict::PutOff { .. } => None,
    };
    let fingerprint = (trace.is_recorded() && !report.outcome.is_success()).then(|| {
        fingerprint::of(&fingerprint::canonical_text(&report.outcome, report.error.as_deref(), report.crash.as_deref()))
    });
    trace.end(&report, fingerprint);
    let outcome = report.outcome;
    let worker = context.worker.settings.id.clone();
    let mut events =
        vec![event(context, &lease, EventKind::AttemptFinished { attempt, worker, report: Box::new(report), next_at })];
    if let Some((state, result, error)) = finished {
        events.push(event(
            context,
            &lease,
            EventKind::Finished { attempt: Some(attempt), state, outcome, result, error },
        ));
    }
    end(context, lease, &events, verdict).await;
}

/// Writes down how the job's attempt has ended, and only then tells the queue; or both at once where that can be done.
async fn end(context: &WorkerContext, lease: Lease, events: &[Event], verdict: Verdict) {
    if let Err(lease) = lease.conclude(events, &verdict).await
        && context.recorder.record(events).await
    {
        lease.settle(verdict).await;
    }
}

/// What follows on the attempt, by the job's own policy and the rules for the category of what it said. Notes in the
/// report whether another attempt was pointless.
async fn verdict(context: &WorkerContext, lease: &Lease, report: &mut AttemptReport) -> Verdict {
    let mut policy = context.worker.settings.policy(lease.job());
    let policies = context.worker.policies.as_ref();
    let rule = match policies {
        Some(policies) => policies.rule(report).await,
        None => None,
    };
    if let Some(rule) = rule {
        lay_over(&mut policy, rule);
    }
    report.no_retry = Some(is_pointless(&policy, &report.outcome));
    let verdict = decide(&policy, lease.attempts_finished(), report, dice());
    if let (Verdict::Retry { .. }, Some(policies), Some(rule)) = (&verdict, policies, rule) {
        policies.give_more(&lease.job().id, rule).await;
    }
    verdict
}

/// Ends a job that no worker can run, and has not been able to for long.
async fn end_unplaceable(context: &WorkerContext, lease: Lease, misfit: &Misfit) {
    let after = humantime::format_duration(context.worker.settings.unplaceable_after);
    let why =
        format!("no worker could run it for {after} (worker.unplaceable_after): the last that was asked {misfit}");
    end_unstarted(context, lease, Outcome::SpawnError { reason: SpawnFailure::NotFound }, &why).await;
}

/// Ends a job that this lease never started.
async fn end_unstarted(context: &WorkerContext, lease: Lease, outcome: Outcome, why: &str) {
    let error = match outcome {
        Outcome::Cancelled if lease.barred().is_none() => cancelled_because(why),
        _ => why.to_owned(),
    };
    tracing::info!(job = %lease.job().id, name = %lease.job().name, %outcome, error, "ended without another attempt");
    let kind = EventKind::Finished {
        attempt: Some(lease.attempt()),
        state: FinalState::Failed,
        outcome,
        result: None,
        error: Some(error.clone()),
    };
    let event = Event { body: body_for_history(&lease), ..event(context, &lease, kind) };
    end(context, lease, &[event], Verdict::Fail { error }).await;
}

fn event(context: &WorkerContext, lease: &Lease, kind: EventKind) -> Event {
    Event::new(context.worker.clock.now(), lease.job().clone(), kind)
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Complete { .. } => "complete",
        Verdict::Fail { .. } => "fail",
        Verdict::Retry { .. } => "retry",
        Verdict::Release => "give back",
        Verdict::PutOff { .. } => "put off",
    }
}
