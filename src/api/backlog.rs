//! Estimates what the jobs of a queue that are ready will take, by what attempts of their names have taken.
//!
//! A queue may hold millions of jobs, and no index knows their names: a sample of those that come first stands for the
//! others.

use std::collections::HashMap;

use super::problem::ApiError;
use super::state::Api;
use crate::domain::{JobState, Needs, PageRequest, QueueName};
use crate::queue::{StateCounts, WorkerInfo};
use crate::wire::Backlog;

/// How many jobs of one queue stand for all of it, when a request is about it alone.
pub(super) const SAMPLE: usize = PageRequest::MAX;
/// How many stand for each when a request is about all queues: the most, and the least however many there are.
const SAMPLES_OF_ALL: (usize, usize) = (100, 10);

/// How many jobs to look at in each of so many queues.
pub(super) fn sample_of_each(queues: usize) -> usize {
    let (most, least) = SAMPLES_OF_ALL;
    (SAMPLE / queues.max(1)).clamp(least, most)
}

/// How many of the sample are for `part` of all jobs. Neither the part nor the rest goes without, if it has any.
fn share(sample: usize, part: u64, all: u64) -> usize {
    match part {
        0 => 0,
        part if part == all => sample,
        part => ((sample as f64 * (part as f64 / all as f64)).round() as usize).clamp(1, sample - 1),
    }
}

/// The backlog of a queue that holds so many jobs and is served by these workers, by at most `sample` of the jobs.
pub(super) async fn backlog(
    api: &Api,
    queue: &QueueName,
    counts: &StateCounts,
    workers: &[&WorkerInfo],
    sample: usize,
) -> Result<Backlog, ApiError> {
    let jobs = counts.waiting + counts.prioritized;
    if jobs == 0 {
        let unplaceable_jobs = Some(0);
        return Ok(Backlog { jobs, core_seconds: Some(0.0), unknown_jobs: Some(0), unplaceable_jobs, sampled: 0 });
    }
    let Some(means) = api.attempt_means.read(&*api.history, &api.clock).await else {
        return Ok(Backlog { jobs, core_seconds: None, unknown_jobs: None, unplaceable_jobs: None, sampled: 0 });
    };
    let (mut core_seconds, mut known_jobs, mut unplaceable, mut sampled) = (0.0, 0.0, 0.0, 0);
    // Most jobs of a queue ask for the same.
    let mut known_needs: HashMap<Needs, bool> = HashMap::new();
    let of_prioritized = share(sample, counts.prioritized, jobs);
    for (state, count, most) in [
        (JobState::Waiting, counts.waiting, sample - of_prioritized),
        (JobState::Prioritized, counts.prioritized, of_prioritized),
    ] {
        if count == 0 {
            continue;
        }
        let page = api.queue.page(Some(queue), state, PageRequest::first(most)).await?;
        // Each that was looked at stands for so many.
        let weight = count as f64 / page.items.len() as f64;
        sampled += page.items.len();
        for queued in &page.items {
            if let Some(mean) = means.get(&queued.job.name) {
                core_seconds += weight * mean.core_seconds(queued.job.options.cores);
                known_jobs += weight;
            }
            let fits_none = |needs: &Needs| workers.iter().all(|worker| worker.misfit(needs).is_some());
            let needs = Needs::of(&queued.job.name, &queued.job.options);
            if *known_needs.entry(needs).or_insert_with_key(fits_none) {
                unplaceable += weight;
            }
        }
    }
    Ok(Backlog {
        jobs,
        core_seconds: Some((core_seconds * 1000.0).round() / 1000.0),
        unknown_jobs: Some(jobs.saturating_sub(known_jobs.round() as u64)),
        unplaceable_jobs: (!workers.is_empty()).then_some(unplaceable.round() as u64),
        sampled: u64::try_from(sampled).unwrap_or(u64::MAX),
    })
}
