//! Brings the jobs of a call into the queues that they name, queue by queue.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{Idempotency, Queue, QueueError, QueueErrorKind, Submission};
use super::{BullQueue, BullQueues};
use crate::domain::{AcceptedJob, JobId, QueueName};

pub(super) async fn submit(
    queues: &BullQueues,
    jobs: Vec<AcceptedJob>,
    idempotency: Option<Idempotency>,
) -> Result<Vec<Submission>, QueueError> {
    let named = |job: &AcceptedJob| job.job.options.queue.clone().filter(|name| !queues.known.is_default(name));
    let Some(first) = jobs.first().map(named) else {
        return queues.known.default.submit(jobs, idempotency).await;
    };
    if jobs.iter().all(|job| named(job) == first) {
        return submit_to(queues, first.as_ref(), jobs, idempotency).await;
    }
    refuse_parents_of_other_queues(&jobs, named)?;
    // In the order in which the call names the queues, so that a repeat of it does the same.
    let mut parts: Vec<(Option<QueueName>, Vec<usize>)> = Vec::new();
    for (i, job) in jobs.iter().enumerate() {
        let queue = named(job);
        match parts.iter_mut().find(|(known, _)| *known == queue) {
            Some((_, part)) => part.push(i),
            None => parts.push((queue, vec![i])),
        }
    }
    let mut answers: Vec<Option<Submission>> = vec![None; jobs.len()];
    for (queue, part) in parts {
        let of_part = part.iter().map(|i| jobs[*i].clone()).collect();
        let submitted = submit_to(queues, queue.as_ref(), of_part, idempotency.clone()).await?;
        for (i, submission) in part.into_iter().zip(submitted) {
            answers[i] = Some(submission);
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// Submits jobs of one queue.
async fn submit_to(
    queues: &BullQueues,
    name: Option<&QueueName>,
    jobs: Vec<AcceptedJob>,
    idempotency: Option<Idempotency>,
) -> Result<Vec<Submission>, QueueError> {
    let queue = match name {
        Some(name) => queues.known.enter(name).await?,
        None => queues.known.default.clone(),
    };
    let parents: Vec<_> = jobs.iter().flat_map(|job| job.job.options.after.clone()).collect();
    match queue.submit(jobs, idempotency).await {
        Err(error) if error.kind == QueueErrorKind::Rejected => Err(explained(queues, &queue, &parents, error).await),
        answer => answer,
    }
}

/// Tells when a job was refused because another queue holds the one that it comes after.
async fn explained(queues: &BullQueues, queue: &Arc<BullQueue>, parents: &[JobId], error: QueueError) -> QueueError {
    for id in parents {
        let Ok(all) = queues.known.all().await else { return error };
        if let Ok(Some(owner)) = queues.owner(all, id).await
            && !Arc::ptr_eq(&owner, queue)
        {
            return QueueError::parent_elsewhere(id);
        }
    }
    error
}

/// BullMQ's jobs wait for jobs of their own queue only, as Jobber uses them.
fn refuse_parents_of_other_queues(
    jobs: &[AcceptedJob],
    named: impl Fn(&AcceptedJob) -> Option<QueueName>,
) -> Result<(), QueueError> {
    let queue_of: HashMap<&JobId, Option<QueueName>> = jobs.iter().map(|job| (&job.job.id, named(job))).collect();
    for job in jobs {
        let own = named(job);
        let is_elsewhere = |id: &&JobId| queue_of.get(id).is_some_and(|queue| *queue != own);
        if let Some(id) = job.job.options.after.iter().find(is_elsewhere) {
            return Err(QueueError::parent_elsewhere(id));
        }
    }
    Ok(())
}
