//! Explains why a job is in its state.

use std::sync::Arc;

use axum::extract::State;

use super::problem::ApiError;
use super::query::Segment;
use super::state::Api;
use super::submit::binary_problems;
use crate::domain::{JobId, JobState, Needs, PageRequest, QueueLimit, QueueName, ResourceName, Timestamp};
use crate::queue::{RunningJob, StateCounts, WorkerInfo};
use crate::wire::{Explanation, JobView};

/// `GET /api/v1/jobs/{id}/explain`: the reasons, one sentence each.
pub(super) async fn explain(
    State(api): State<Arc<Api>>,
    segment: Segment,
) -> Result<axum::Json<Explanation>, ApiError> {
    let id = JobId::parse(&segment.0)?;
    let view = api.snapshot(&id).await?.view;
    let reasons = match view.state {
        JobState::Completed => vec!["it ended well".to_owned()],
        JobState::Failed => vec![why_failed(&view)],
        JobState::Active => vec![running(&view)],
        JobState::Delayed if !view.waits_for.is_empty() => waits_for(&api, &view).await?,
        JobState::Delayed if let Some(reason) = waits_for_group(&view, api.clock.now()) => vec![reason],
        JobState::Delayed => {
            let due = view.due_at.map_or("later".to_owned(), |at| format!("at {at}"));
            match &view.error {
                Some(error) => vec![format!("it is tried again {due}, because the last attempt failed: {error}")],
                None if view.options.delay.is_zero() => {
                    let first = format!(
                        "the worker that took it can't run it and has put it off: it comes back {due}; a queue of its own, \
                         served by workers that can, would spare it the detour"
                    );
                    [vec![first], waiting(&api, &view, false).await?].concat()
                }
                None => vec![format!("it was submitted with a delay and is due {due}")],
            }
        }
        JobState::Waiting | JobState::Prioritized => waiting(&api, &view, true).await?,
    };
    Ok(axum::Json(Explanation { id, state: view.state, reasons }))
}

/// The reasons for which a job that no worker has taken has not started.
async fn waiting(api: &Api, view: &JobView, is_ready: bool) -> Result<Vec<String>, ApiError> {
    let (workers, queues) = tokio::try_join!(api.queue.workers(), api.queue.queues())?;
    let queue = view.options.queue.clone().unwrap_or_else(|| api.settings.default_queue.clone());
    let standing = queues.iter().find(|q| q.name == queue);
    let (counts, limit) = standing.map(|q| (q.counts, q.limit)).unwrap_or_default();
    let ahead = match is_ready {
        true => Some(ahead_of(api, view, &queue, &counts).await?),
        false => None,
    };
    let default = &api.settings.default_queue;
    let (serving, others): (Vec<_>, Vec<_>) = workers.into_iter().partition(|w| w.serves(&queue, default));
    let binary = binary_problems(api, [view.name.clone()]).await.remove(&view.name);
    let served = ServedQueue { name: &queue, is_default: queue == *default, counts, limit, workers: &serving };
    Ok(why_waiting(view, &served, &others, ahead, binary.map(|p| p.detail)))
}

/// Why a job waits that is not due at any time, or was due, and has a limited group.
fn waits_for_group(view: &JobView, now: Timestamp) -> Option<String> {
    let (group, limit) = view.options.group.as_ref().zip(view.options.group_limit)?;
    let is_due = view.due_at.is_none_or(|at| at <= now);
    is_due.then(|| format!("of its group {group} no more than {limit} run at once"))
}

/// One sentence for each of the first few jobs that it waits for, and one for the rest.
async fn waits_for(api: &Api, view: &JobView) -> Result<Vec<String>, ApiError> {
    const TOLD: usize = 10;
    let first = &view.waits_for[..view.waits_for.len().min(TOLD)];
    let found = api.queue.standing(first).await?;
    let mut reasons: Vec<_> = first
        .iter()
        .zip(found)
        .map(|(id, job)| match job {
            Some(job) => format!("it waits until job {id} has completed, which is {}", job.state),
            None => format!("it waits for job {id}, which the queue does not know"),
        })
        .collect();
    let more = view.waits_for.len() - first.len();
    reasons.extend((more > 0).then(|| format!("and for {more} more")));
    Ok(reasons)
}

fn why_failed(view: &JobView) -> String {
    let outcome = view.outcome.map_or("it failed".to_owned(), |o| format!("it failed with {o}"));
    let attempts = match view.attempts.len() {
        0 => "before it ever started".to_owned(),
        1 => "in its only attempt".to_owned(),
        n => format!("in the last of {n} attempts"),
    };
    format!("{outcome} {attempts}{}", view.error.as_ref().map_or(String::new(), |e| format!(": {e}")))
}

fn running(view: &JobView) -> String {
    let worker = view.worker.as_ref().map_or("a worker".to_owned(), |w| format!("worker {w}"));
    match (&view.cancel_requested, &view.progress) {
        (Some(reason), _) => format!("{worker} was told to stop it: {reason}"),
        (None, Some(p)) => format!("{worker} runs it, {:.0} % done{}", p.percent, suffix(&p.text)),
        (None, None) if view.attempts.iter().any(|attempt| attempt.report.is_none()) => format!("{worker} runs it"),
        (None, None) => format!("{worker} has taken it, and starts it once its cores are free"),
    }
}

fn suffix(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// How many jobs workers get before this one. `None` when they fill more than a few pages.
async fn ahead_of(api: &Api, view: &JobView, queue: &QueueName, counts: &StateCounts) -> Result<Option<u64>, ApiError> {
    const PAGES: usize = 5;
    let mut ahead = if view.state == JobState::Prioritized { counts.waiting } else { 0 };
    let mut request = PageRequest::first(PageRequest::MAX);
    for _ in 0..PAGES {
        let page = api.queue.page(Some(queue), view.state, request).await?;
        match page.items.iter().position(|q| q.job.id == view.id) {
            Some(at) => return Ok(Some(ahead + at as u64)),
            None => ahead += page.items.len() as u64,
        }
        let Some(next) = page.next else { return Ok(None) };
        request = PageRequest { cursor: Some(next), limit: PageRequest::MAX };
    }
    Ok(None)
}

/// A queue, and the workers that serve it.
struct ServedQueue<'q> {
    name: &'q QueueName,
    is_default: bool,
    counts: StateCounts,
    limit: QueueLimit,
    workers: &'q [WorkerInfo],
}

/// The reasons for which a job has not started, the most important first. `ahead` is how many come before it, if it is
/// ready at all; within it `None` for more than were counted.
fn why_waiting(
    view: &JobView,
    queue: &ServedQueue<'_>,
    others: &[WorkerInfo],
    ahead: Option<Option<u64>>,
    binary: Option<String>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let ServedQueue { name, is_default, counts, limit, workers } = queue;
    // Most installations have one queue, whose name says nothing.
    let (of, flag, argument) = match is_default {
        true => (String::new(), String::new(), String::new()),
        false => (format!(" {name}"), format!(" --queue {name}"), format!(" {name}")),
    };
    if counts.paused {
        reasons.push(format!("the queue{of} is paused; let it go on with `jobber queue resume{argument}`"));
    }
    if let Some(concurrency) = limit.concurrency.filter(|most| counts.active >= u64::from(*most)) {
        reasons.push(format!("of the queue{of} no more than {concurrency} run at once (`jobber queue limit`)"));
    }
    if let Some(rate) = limit.rate {
        let per = humantime::format_duration(rate.per);
        reasons.push(format!("of the queue{of} no more than {} start in {per} (`jobber queue limit`)", rate.jobs));
    }
    if let Some((group, most)) = view.options.group.as_ref().zip(view.options.group_limit) {
        reasons.push(format!("of its group {group} no more than {most} run at once"));
    }
    let taking: Vec<_> = workers.iter().filter(|w| w.takes_jobs()).collect();
    let most_cores = taking.iter().map(|w| w.cores).max();
    let wanted = view.options.cores.unwrap_or(1);
    let needs = Needs::of(&view.name, &view.options);
    match most_cores {
        None if workers.is_empty() && others.is_empty() => {
            reasons.push(format!("no worker is running; start one with `jobber work{flag}`"));
        }
        None if workers.is_empty() => {
            reasons.push(format!("no worker serves the queue {name}; start one with `jobber work --queue {name}`"));
        }
        None => reasons.push(match workers.iter().find_map(|w| w.unhealthy.as_ref()) {
            Some(why) => format!("no worker can start jobs now: {why}"),
            None => "every worker is draining and takes nothing new".to_owned(),
        }),
        Some(most) if most < wanted => {
            reasons.push(format!("it asks for {wanted} cores, and no worker has more than {most}"));
        }
        Some(_) if taking.iter().all(|worker| worker.misfit(&needs).is_some()) => {
            reasons.push(no_worker_fits(&taking, &needs));
        }
        Some(_) => {
            let able: Vec<_> = taking.iter().filter(|worker| worker.misfit(&needs).is_none()).collect();
            let others = taking.len() - able.len();
            if others > 0 {
                reasons.push(format!("of {} workers that serve its queue {} can run it", taking.len(), able.len()));
            }
            reasons.extend(held_resources(&able, &needs));
            let (running, slots) = able.iter().fold((0, 0), |(r, s), w| (r + w.running, s + w.slots));
            if running >= slots {
                reasons.push(format!("all {slots} slots are taken"));
            } else if wanted > 1 {
                reasons.push(format!("it waits for {wanted} cores of one worker to be free at once"));
            }
        }
    }
    reasons.extend(binary.map(|detail| format!("it will fail when it starts: {detail}")));
    let Some(ahead) = ahead else { return reasons };
    match ahead {
        Some(0) => reasons.push("it is the next one".to_owned()),
        Some(1) => reasons.push("1 job is ahead of it".to_owned()),
        Some(n) => reasons.push(format!("{n} jobs are ahead of it")),
        None => reasons.push("thousands of jobs are ahead of it, or it has just been taken".to_owned()),
    }
    reasons
}

/// Says of the first few workers what they lack.
fn no_worker_fits(workers: &[&WorkerInfo], needs: &Needs) -> String {
    const TOLD: usize = 3;
    let misfit = |worker: &&WorkerInfo| Some(format!("{} {}", worker.id, worker.misfit(needs)?));
    let told: Vec<_> = workers.iter().filter_map(misfit).take(TOLD).collect();
    let more = workers.len() - told.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!(
        "no worker that serves its queue can run it: {}{more}; it waits until one can, and fails with spawn_error after \
         worker.unplaceable_after",
        told.join("; ")
    )
}

/// Says which resource that it asks for is held by others, and by which.
fn held_resources(workers: &[&&WorkerInfo], needs: &Needs) -> Option<String> {
    const TOLD: usize = 3;
    let held = |worker: &WorkerInfo, name: &ResourceName| -> Vec<(JobId, u32)> {
        let jobs = worker.jobs.iter().flatten();
        let units = |job: &RunningJob| Some((job.job.clone(), u32::try_from(job.resources.get(name)?.len()).ok()?));
        jobs.filter_map(units).collect()
    };
    needs.resources.iter().find_map(|(name, wanted)| {
        let mut holders = Vec::new();
        for worker in workers {
            let held = held(worker, name);
            let taken: u32 = held.iter().map(|(_, n)| n).sum();
            if worker.resources.amount(name).saturating_sub(taken) >= wanted {
                return None;
            }
            holders.extend(held);
        }
        let told: Vec<_> = holders.iter().take(TOLD).map(|(id, _)| id.to_string()).collect();
        let more = holders.len() - told.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!("it asks for {name}={wanted}, which {}{more} hold now", told.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::{self, job};

    fn worker(cores: u32, running: u32, draining: bool) -> WorkerInfo {
        WorkerInfo { slots: cores, cores, running, draining, ..fakes::worker() }
    }

    #[test]
    fn the_most_important_reason_comes_first() {
        let mut view = JobView::of(&job("j"), JobState::Waiting);
        view.options.cores = Some(4);
        let name = QueueName::parse("encode").unwrap();
        let of = |is_default: bool, paused: bool, workers: &[WorkerInfo], others: &[WorkerInfo]| {
            let counts = StateCounts { paused, ..StateCounts::default() };
            let queue = ServedQueue { name: &name, is_default, counts, limit: QueueLimit::default(), workers };
            why_waiting(&view, &queue, others, Some(Some(2)), None).remove(0)
        };
        let first = |paused: bool, workers: &[WorkerInfo]| of(true, paused, workers, &[]);
        assert!(first(true, &[]).contains("paused"));
        assert!(first(false, &[]).contains("no worker is running"));
        assert!(first(false, &[worker(8, 0, true)]).contains("draining"));
        assert!(first(false, &[worker(2, 0, false)]).contains("asks for 4 cores, and no worker has more than 2"));
        let elsewhere = WorkerInfo { binaries: Some(vec![]), ..worker(8, 0, false) };
        assert!(first(false, std::slice::from_ref(&elsewhere)).contains("no worker that serves its queue can run it"));
        assert!(first(false, &[elsewhere, worker(8, 0, false)]).contains("of 2 workers that serve its queue 1 can"));
        assert!(first(false, &[worker(8, 8, false)]).contains("all 8 slots"));
        assert!(first(false, &[worker(8, 6, false)]).contains("4 cores of one worker"));
        assert!(
            of(false, true, &[], &[])
                .contains("the queue encode is paused; let it go on with `jobber queue resume encode`")
        );
        assert!(of(false, false, &[], &[]).contains("start one with `jobber work --queue encode`"));
        assert!(of(false, false, &[], &[worker(8, 0, false)]).contains("no worker serves the queue encode"));
    }
}
