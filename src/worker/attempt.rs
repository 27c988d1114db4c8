//! The life of one lease, from claim to verdict.

use std::sync::Arc;
use std::time::Duration;

use super::WorkerContext;
use super::output_publisher::OutputPublisher;
use super::policies::lay_over;
use super::prefetch::Prefetch;
use super::quarantine::Pass;
use super::start::Start;
use crate::domain::outcome::cancelled_because;
use crate::domain::retry::{decide, is_pointless};
use crate::domain::{
    AttemptReport, Event, EventKind, FinalState, LimitScale, Outcome, SpawnFailure, Timestamp, Validity, Verdict,
};
use crate::queue::{Lease, LeaseLoss};
use crate::reconnect::dice;
use crate::runner::{RunOrder, RunnerError, Slot, StartLog, StopHandle, StopReason};

/// Where an attempt gets its slot: it holds one, or takes the next free one in its turn.
enum SlotSource {
    Slot(Slot),
    InTurn,
}

/// Runs the lease's job and settles the lease. Gives the job back when this worker can't run it
/// now.
pub(super) async fn live(shop: Arc<WorkerContext>, lease: Lease) {
    if lease.crashes() > shop.worker.settings.crash_limit {
        return end_unstarted(&shop, lease, Outcome::Lost, "lost with its worker too often in a row; not run again")
            .await;
    }
    if let Some(why) = lease.barred().map(str::to_owned) {
        return end_unstarted(&shop, lease, Outcome::Cancelled, &why).await;
    }
    if let Some(pause) = shop.elsewhere.leave(&shop.worker, &lease).await {
        return put_off(&shop, lease, None, pause).await;
    }
    let Some(_pass) = pass(&shop, &lease).await else { return give_back(&shop, lease, None).await };
    let cores = shop.worker.settings.cores(lease.job());
    let place = match shop.worker.slots.try_acquire(cores) {
        Some(slot) => Some(SlotSource::Slot(slot)),
        // With leases ahead, the thread that frees a slot starts the next job by itself.
        None if shop.pace.is_ahead() => Some(SlotSource::InTurn),
        None => wait_for_slot(&shop, &lease).await.map(SlotSource::Slot),
    };
    let start = Arc::new(Start::new(&shop, &lease));
    let report = match place {
        Some(place) => supervise(&shop, &lease, place, &start).await,
        None => None,
    };
    let withdrawal = start.withdrawal();
    drop(start);
    match report {
        // Only the try to start the job may have shown that its binary is not for this machine.
        Some(report) if matches!(report.outcome, Outcome::SpawnError { .. }) => {
            match shop.elsewhere.leave(&shop.worker, &lease).await {
                Some(pause) => put_off(&shop, lease, withdrawal, pause).await,
                None => conclude(&shop, lease, report).await,
            }
        }
        Some(report) => conclude(&shop, lease, report).await,
        None => give_back(&shop, lease, withdrawal).await,
    }
}

/// Lets the lease's job run: usually beside others, but alone when the job was lost with its
/// workers so often that it may be what kills them. `None` when the worker must give it back.
async fn pass(shop: &WorkerContext, lease: &Lease) -> Option<Pass> {
    if !shop.worker.health.is_good() {
        return None;
    }
    if lease.crashes() <= shop.worker.settings.crash_limit / 2 {
        return shop.quarantine.beside();
    }
    tracing::warn!(job = %lease.job().id, crashes = lease.crashes(), "was lost with its workers; running it alone");
    tokio::select! {
        pass = shop.quarantine.alone() => Some(pass),
        _ = lease.lost() => None,
        () = shop.give_back.cancelled() => None,
    }
}

/// Records that the start of an attempt is taken back. Returns false when the event could not be
/// written.
async fn withdraw(shop: &WorkerContext, lease: &Lease, withdrawal: Option<Event>) -> bool {
    let Some(withdrawal) = withdrawal else { return true };
    tracing::debug!(job = %lease.job().id, attempt = lease.attempt().0, "the start of an attempt was withdrawn");
    let is_recorded = shop.recorder.record(&[withdrawal]).await;
    if is_recorded {
        lease.withdraw();
    }
    is_recorded
}

/// Gives a job back that another worker can run and this one can't. The queue holds it back for
/// `pause`.
async fn put_off(shop: &WorkerContext, lease: Lease, withdrawal: Option<Event>, pause: Duration) {
    if withdraw(shop, &lease, withdrawal).await {
        lease.settle(Verdict::PutOff { after: pause }).await;
    }
}

/// Gives a job back whose process was not started, as if the worker had never taken it. Ends the
/// job instead if its cancellation was requested.
async fn give_back(shop: &WorkerContext, lease: Lease, withdrawal: Option<Event>) {
    if !withdraw(shop, &lease, withdrawal).await {
        return;
    }
    match cancelled(&lease).await {
        Some(reason) => end_unstarted(shop, lease, Outcome::Cancelled, &reason).await,
        // Dropping the lease gives it back.
        None => drop(lease),
    }
}

/// Waits for cores. `None` when the lease is lost meanwhile, the worker ends, or the wait takes too
/// long.
async fn wait_for_slot(shop: &WorkerContext, lease: &Lease) -> Option<Slot> {
    let cores = shop.worker.settings.cores(lease.job());
    tokio::select! {
        slot = shop.worker.slots.acquire(cores) => Some(slot),
        _ = lease.lost() => None,
        () = shop.give_back.cancelled() => None,
        () = out_of_patience(shop) => None,
    }
}

/// Returns when it is better to give back a lease that was taken ahead. Either the lease has waited
/// long for a slot, while another worker may have an idle one, or this worker starts nothing for
/// now.
async fn out_of_patience(shop: &WorkerContext) {
    let (mut health, mut suspects) = (shop.worker.health.follow(), shop.quarantine.follow());
    let waited = async {
        loop {
            tokio::time::sleep(Prefetch::PATIENCE).await;
            if shop.attempts.len() > shop.pace.leases() {
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
    shop: &WorkerContext,
    lease: &Lease,
    place: SlotSource,
    start: &Arc<Start>,
) -> Option<AttemptReport> {
    let began = shop.worker.clock.now();
    let trouble = |outcome: Outcome, error: &RunnerError| {
        tracing::error!(job = %lease.job().id, %error, "jobber could not run a job");
        AttemptReport::bare(outcome, began, shop.worker.clock.now(), format!("jobber could not run it: {error}"))
    };
    let (handle, signal) = match StopHandle::new() {
        Ok(pair) => pair,
        Err(error) => {
            shop.worker.health.note(format!("couldn't make an event descriptor: {error} (raise ulimit -n)"));
            return None;
        }
    };
    let sink = Arc::new(OutputPublisher::new(lease.publisher(), lease.attempt()));
    let stretch = match &shop.worker.policies {
        Some(policies) if lease.attempts_finished() > 0 => policies.stretch(&lease.job().id).await,
        _ => LimitScale::default(),
    };
    let order = RunOrder { start_log: Some(start.clone()), ..shop.worker.settings.order(lease, stretch) };
    let runner = &shop.worker.runner;
    let mut waits = matches!(place, SlotSource::InTurn);
    let mut attempt = match place {
        SlotSource::Slot(slot) => {
            start.begin();
            runner.start(slot, order, signal, sink)
        }
        SlotSource::InTurn => {
            let cores = shop.worker.settings.cores(lease.job());
            runner.start_in_turn(&shop.worker.slots, cores, order, signal, sink)
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
                    tracing::warn!(job = %lease.job().id, attempt = lease.attempt().0, "lost the lease; stopping the job");
                    StopReason::Lapsed
                }
            },
            () = shop.give_back.cancelled(), if !told => StopReason::Lost,
            () = out_of_patience(shop), if waits && !told => {
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
            shop.worker.health.note(why);
            return None;
        }
        Err(error @ RunnerError::Supervise(_)) => {
            shop.worker.health.note(error.to_string());
            trouble(Outcome::Lost, &error)
        }
        Err(error) => trouble(Outcome::SpawnError { reason: SpawnFailure::System }, &error),
    };
    if report.usage.is_some() {
        shop.worker.health.prove();
    }
    // Other workers may have the job by now, whatever its outcome here. A worker that was stopped
    // itself (SIGSTOP, a suspended machine) can only notice it this late.
    if report.outcome != Outcome::Lost && lease.validity().is_some_and(Validity::is_over) {
        tracing::warn!(job = %lease.job().id, attempt = lease.attempt().0, "lost the lease before the job had ended");
        report.outcome = Outcome::Lost;
        report.error = Some("lost: its worker was held up until others could take it".to_owned());
    }
    match (report.outcome, why) {
        (Outcome::Cancelled, Some(reason)) => report.error = Some(cancelled_because(&reason)),
        (Outcome::Lost, _) if shop.give_back.is_cancelled() => {
            report.error = Some("given back: the worker was asked to stop before the job had ended".to_owned());
        }
        _ => {}
    }
    Some(report)
}

/// Decides on the verdict, records it, and only then settles the lease.
async fn conclude(shop: &WorkerContext, lease: Lease, mut report: AttemptReport) {
    if let Some(usage) = &report.usage {
        shop.pace.learn(std::time::Duration::from_micros(usage.wall_us));
    }
    let verdict = verdict(shop, &lease, &mut report).await;
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
    let outcome = report.outcome;
    let worker = shop.worker.settings.id.clone();
    let mut events =
        vec![event(shop, &lease, EventKind::AttemptFinished { attempt, worker, report: Box::new(report), next_at })];
    if let Some((state, result, error)) = finished {
        events.push(event(shop, &lease, EventKind::Finished { attempt: Some(attempt), state, outcome, result, error }));
    }
    if shop.recorder.record(&events).await {
        lease.settle(verdict).await;
    }
}

/// Decides what follows on the attempt, by the job's own policy and the rule for the category of
/// its error. Notes in the report whether another attempt would be pointless.
async fn verdict(shop: &WorkerContext, lease: &Lease, report: &mut AttemptReport) -> Verdict {
    let mut policy = shop.worker.settings.policy(lease.job());
    let policies = shop.worker.policies.as_ref();
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

/// Ends a job for good without having started an attempt of this lease.
async fn end_unstarted(shop: &WorkerContext, lease: Lease, outcome: Outcome, why: &str) {
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
    if shop.recorder.record(&[event(shop, &lease, kind)]).await {
        lease.settle(Verdict::Fail { error }).await;
    }
}

fn event(shop: &WorkerContext, lease: &Lease, kind: EventKind) -> Event {
    Event { at: shop.worker.clock.now(), job: lease.job().clone(), kind }
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
