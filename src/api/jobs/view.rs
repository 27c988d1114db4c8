//! One view of a job from two sources: history, which knows everything but a little late, and the queue, which knows
//! only the present. When one of them can't be asked, the other answers alone, and the view says what it lacks.

use std::time::Duration;

use crate::api::problem::ApiError;
use crate::api::state::Api;
use crate::domain::{JobBody, JobId, JobState};
use crate::queue::QueuedJob;
use crate::store::{JobRecord, StoreError};
use crate::wire::JobView;

/// What both sources know of a job at one moment.
pub(in crate::api) struct JobSnapshot {
    /// The job as the API shows it.
    pub(in crate::api) view: JobView,
    /// Whether the job has ended and history knows how, so that nothing more can come.
    pub(in crate::api) settled: bool,
    /// The id under which the queue and the event log know the job.
    pub(in crate::api) own_id: JobId,
}

impl JobSnapshot {
    /// The id at which this very job is found from now on, even if another job takes its own id.
    pub(in crate::api) fn pinned(&self) -> JobId {
        let pinned = self.own_id.come_again(self.view.submitted_at);
        // A generated id never comes again, and one that is too long can't be taken apart.
        let is_generated = uuid::Uuid::parse_str(self.own_id.as_str()).is_ok();
        let is_found = pinned.split_come_again().is_some_and(|(id, _)| id == self.own_id);
        if is_found && !is_generated { pinned } else { self.view.id.clone() }
    }
}

/// How much of a job is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Depth {
    /// Everything that is known of the job.
    Whole,
    /// The job without its arguments, data, result and parents, which may be large and which few callers show.
    Standing,
}

/// How long a snapshot waits for history when the queue knows the job, and so can answer alone.
const HISTORY_PATIENCE: Duration = Duration::from_secs(3);

impl Api {
    /// Looks at a job in both sources.
    ///
    /// # Errors
    /// 404 when neither knows it, or it was removed; 503 when the source that may know it can't be asked.
    pub(in crate::api) async fn snapshot(&self, id: &JobId) -> Result<JobSnapshot, ApiError> {
        self.snapshot_to(id, Depth::Whole).await
    }

    /// Looks at how a job stands: for callers that follow it or decide by it.
    ///
    /// # Errors
    /// The same.
    pub(in crate::api) async fn brief_snapshot(&self, id: &JobId) -> Result<JobSnapshot, ApiError> {
        self.snapshot_to(id, Depth::Standing).await
    }

    async fn queued(&self, id: &JobId, depth: Depth) -> Result<Option<QueuedJob>, ApiError> {
        let ids = std::slice::from_ref(id);
        let found = match depth {
            Depth::Whole => self.queue.find(ids).await?,
            Depth::Standing => self.queue.standing(ids).await?,
        };
        Ok(found.into_iter().next().flatten())
    }

    async fn record(&self, id: &JobId, depth: Depth) -> Result<Option<JobRecord>, StoreError> {
        match depth {
            Depth::Whole => self.history.job(id).await,
            Depth::Standing => self.history.job_without_result(id).await,
        }
    }

    async fn snapshot_to(&self, id: &JobId, depth: Depth) -> Result<JobSnapshot, ApiError> {
        // Asks the queue first: a job that it has forgotten is in history by then.
        let queued = match self.queued(id, depth).await {
            Ok(queued) => queued,
            Err(error) => return self.snapshot_from_history(id, depth, error).await,
        };
        let Some(known) = queued.clone() else {
            return match self.snapshot_from_both(id, queued, depth).await {
                Err(error) if error.status.is_server_error() => self.snapshot_from_queue(id, depth, error).await,
                snapshot => snapshot,
            };
        };
        if self.feed.is_history_away() {
            return Ok(without_history(id, id, known, "it did not answer a moment ago"));
        }
        let error = match tokio::time::timeout(HISTORY_PATIENCE, self.snapshot_from_both(id, queued, depth)).await {
            Ok(Err(error)) if error.status.is_server_error() => error.detail().to_owned(),
            Ok(snapshot) => return snapshot,
            Err(_) => format!("no answer within {} s", HISTORY_PATIENCE.as_secs()),
        };
        tracing::warn!(job = %id, error, "history can't be asked; the queue answers alone");
        self.feed.history_is_away();
        Ok(without_history(id, id, known, &error))
    }

    /// What history alone knows of a job, while the queue can't be asked because of `error`.
    async fn snapshot_from_history(&self, id: &JobId, depth: Depth, error: ApiError) -> Result<JobSnapshot, ApiError> {
        let Ok(Some(record)) = self.remembered(id, depth).await else { return Err(error) };
        let (body, lacks_body) = self.body_of(&record, depth).await?;
        let mut snapshot = merge(Some(record), None).ok_or_else(|| ApiError::unknown_job(id))?;
        give(&mut snapshot.view, body, lacks_body);
        snapshot.view.id = id.clone();
        snapshot.own_id = id.split_come_again().map_or_else(|| id.clone(), |(base, _)| base);
        if !snapshot.settled {
            let lack =
                format!("the queue can't be asked ({}): state, worker and progress may be of the past", error.detail());
            snapshot.view.incomplete = Some(lack);
        }
        Ok(snapshot)
    }

    /// What the queue alone knows of an earlier job of an id that came again, while history can't be asked because of
    /// `error`.
    async fn snapshot_from_queue(&self, id: &JobId, depth: Depth, error: ApiError) -> Result<JobSnapshot, ApiError> {
        let Some((base, submitted_at)) = id.split_come_again() else { return Err(error) };
        match self.queued(&base, depth).await?.filter(|queued| queued.job.submitted_at == submitted_at) {
            Some(known) => Ok(without_history(id, &base, known, error.detail())),
            None => Err(error),
        }
    }

    async fn snapshot_from_both(
        &self,
        id: &JobId,
        mut queued: Option<QueuedJob>,
        depth: Depth,
    ) -> Result<JobSnapshot, ApiError> {
        let mut record = self.record(id, depth).await?;
        let mut own_id = id.clone();
        match (&record, &queued) {
            // The id stands for another job by now: while that is in the queue, it is the one that is asked for.
            (Some(first), Some(queued)) if first.submitted_at != queued.job.submitted_at => {
                record = self.record(&id.come_again(queued.job.submitted_at), depth).await?;
            }
            (_, Some(_)) => {}
            (known, None) => {
                let is_known = known.is_some();
                let noted = known.as_ref().and_then(|record| Some((record.queued_as.clone()?, record.submitted_at)));
                if let Some((base, submitted_at)) = noted.or_else(|| id.split_come_again()) {
                    let of_that_time = |job: &QueuedJob| job.job.submitted_at == submitted_at;
                    queued = self.queued(&base, depth).await?.filter(of_that_time);
                    if !is_known {
                        record = self.record(&base, depth).await?.filter(|first| first.submitted_at == submitted_at);
                    }
                    own_id = base;
                } else if known.as_ref().is_some_and(|first| first.come_again.is_some()) {
                    record = self.remembered(id, depth).await?;
                }
            }
        }
        let (body, lacks_body) = match (&record, &mut queued) {
            (_, Some(queued)) => (queued.body.take(), false),
            (Some(record), None) => self.body_of(record, depth).await?,
            (None, None) => (None, false),
        };
        let mut snapshot = merge(record, queued).ok_or_else(|| ApiError::unknown_job(id))?;
        give(&mut snapshot.view, body, lacks_body);
        snapshot.view.id = id.clone();
        snapshot.own_id = own_id;
        Ok(snapshot)
    }

    /// What history knows of what the job of a record is given, and whether that is missing though it was wanted.
    async fn body_of(&self, record: &JobRecord, depth: Depth) -> Result<(Option<JobBody>, bool), StoreError> {
        if depth == Depth::Standing {
            return Ok((None, false));
        }
        let body = self.history.bodies(std::slice::from_ref(&record.id)).await?.pop().flatten();
        let lacks = body.is_none();
        Ok((body, lacks))
    }

    /// What history knows of a job that the queue does not: of a chosen id's jobs the last, of a counted id's the
    /// first.
    pub(in crate::api) async fn remembered(&self, id: &JobId, depth: Depth) -> Result<Option<JobRecord>, StoreError> {
        let first = self.record(id, depth).await?;
        match first.as_ref().and_then(|first| first.come_again).filter(|_| !id.is_counted()) {
            Some(last) => Ok(self.record(&id.come_again(last), depth).await?.or(first)),
            None => Ok(first),
        }
    }

    /// The id under which the queue knows the job: history lists one whose id came again under another.
    pub(in crate::api) async fn in_queue(&self, id: JobId) -> Result<JobId, ApiError> {
        let record = if id.is_shortened() { self.history.job_without_result(&id).await? } else { None };
        let noted = record.and_then(|record| Some((record.queued_as?, record.submitted_at)));
        let Some((base, submitted_at)) = noted.or_else(|| id.split_come_again()) else { return Ok(id) };
        let queued = self.queue.standing(&[id.clone(), base.clone()]).await?;
        let is_base = matches!(&queued[..], [None, Some(job)] if job.job.submitted_at == submitted_at);
        Ok(if is_base { base } else { id })
    }
}

/// The view of the queue alone: `base` is the id under which it knows the job that was asked for as `id`.
fn without_history(id: &JobId, base: &JobId, mut queued: QueuedJob, error: &str) -> JobSnapshot {
    let body = queued.body.take();
    let mut snapshot = of_queued(&queued);
    give(&mut snapshot.view, body, false);
    snapshot.view.id = id.clone();
    snapshot.view.incomplete =
        Some(format!("history can't be asked ({error}): attempts, outcome and categories are missing"));
    snapshot.own_id = base.clone();
    snapshot
}

/// Adds what the job is given, or says that it is not known.
fn give(view: &mut JobView, body: Option<JobBody>, lacks_body: bool) {
    if let Some(body) = body {
        (view.arguments, view.data) = body.parts();
    } else if lacks_body {
        let lack = "what the job was given is not known: its server ended before it could write that down";
        view.incomplete = Some(lack.to_owned());
    }
}

/// Lays what the queue knows over what history knows.
pub(in crate::api) fn merge(record: Option<JobRecord>, queued: Option<QueuedJob>) -> Option<JobSnapshot> {
    match (record, queued) {
        (None, None) => None,
        (Some(record), None) if record.removed => None,
        (Some(record), None) => {
            let settled = record.state.is_final();
            Some(snapshot_of(of_record(record), settled))
        }
        (None, Some(queued)) => Some(of_queued(&queued)),
        (Some(record), Some(queued)) => Some(both(record, &queued)),
    }
}

fn both(record: JobRecord, queued: &QueuedJob) -> JobSnapshot {
    // The worker writes down the end before it tells the queue: until then the queue has the job as active. A job that
    // was put back is active in an attempt that history has not seen yet.
    let last = record.attempts.last().map_or(0, |a| a.number.0);
    let ahead = record.state.is_final() && queued.state == JobState::Active && last >= queued.attempts_started;
    let settled = ahead || (record.state.is_final() && record.state == queued.state);
    let mut view = of_record(record);
    if !ahead {
        view.state = queued.state;
        lay_over(&mut view, queued);
    }
    snapshot_of(view, settled)
}

fn snapshot_of(view: JobView, settled: bool) -> JobSnapshot {
    JobSnapshot { own_id: view.id.clone(), view, settled }
}

fn of_queued(queued: &QueuedJob) -> JobSnapshot {
    let mut view = JobView::of(&queued.job, queued.state);
    lay_over(&mut view, queued);
    snapshot_of(view, false)
}

fn of_record(record: JobRecord) -> JobView {
    JobView {
        id: record.id,
        name: record.name,
        arguments: Vec::new(),
        data: None,
        state: record.state,
        submitted_at: record.submitted_at,
        due_at: record.due_at.filter(|_| record.state == JobState::Delayed),
        finished_at: record.finished_at,
        outcome: record.outcome.filter(|_| record.state.is_final()),
        result: record.result,
        error: record.error,
        worker: None,
        progress: None,
        cancel_requested: record.cancel_requested,
        retries: record.retries,
        options: record.options,
        waits_for: Vec::new(),
        attempts: record.attempts,
        categories: std::collections::BTreeMap::new(),
        regression: None,
        incomplete: None,
    }
}

/// Replaces what `view` has of the past by the present in the queue.
fn lay_over(view: &mut JobView, queued: &QueuedJob) {
    view.due_at = queued.due_at.filter(|_| queued.state == JobState::Delayed);
    view.waits_for = queued.waits_for.clone();
    view.worker = queued.worker.clone();
    view.progress = queued.progress.clone().filter(|_| queued.state == JobState::Active);
    view.cancel_requested = queued.cancel_requested.clone().or(view.cancel_requested.take());
    view.error = view.error.take().or_else(|| queued.error.clone());
    if queued.state.is_final() {
        view.finished_at = view.finished_at.or(queued.finished_at);
        view.result = view.result.take().or_else(|| queued.result.clone());
    } else {
        view.finished_at = None;
        view.outcome = None;
        view.result = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::{attempt, job, queued};
    use crate::domain::Outcome;

    fn record(state: JobState, attempts: u32) -> JobRecord {
        let mut record = JobRecord::new(&job("j"));
        record.state = state;
        record.outcome = state.is_final().then_some(Outcome::Exit { code: 0 });
        record.attempts = (1..=attempts).map(attempt).collect();
        record
    }

    fn seen(record: Option<JobRecord>, queue: Option<(JobState, u32)>) -> Option<(JobState, bool)> {
        let queued = queue.map(|(state, started)| queued(&job("j"), state, started));
        merge(record, queued).map(|snapshot| (snapshot.view.state, snapshot.settled))
    }

    #[test]
    fn the_state_is_that_of_the_source_that_knows_more() {
        use JobState::*;
        assert_eq!(seen(None, None), None);
        assert_eq!(seen(None, Some((Waiting, 0))), Some((Waiting, false)), "history is late");
        assert_eq!(seen(Some(record(Completed, 1)), None), Some((Completed, true)), "the queue has forgotten");
        assert_eq!(seen(Some(record(Waiting, 0)), Some((Active, 1))), Some((Active, false)));
        assert_eq!(seen(Some(record(Completed, 1)), Some((Active, 1))), Some((Completed, true)), "not settled yet");
        assert_eq!(seen(Some(record(Failed, 1)), Some((Active, 2))), Some((Active, false)), "put back");
        assert_eq!(seen(Some(record(Failed, 1)), Some((Waiting, 1))), Some((Waiting, false)), "put back");
        assert_eq!(seen(Some(record(Active, 1)), Some((Completed, 1))), Some((Completed, false)), "history is late");
        assert_eq!(seen(Some(record(Completed, 1)), Some((Completed, 1))), Some((Completed, true)));
    }

    #[test]
    fn a_removed_job_is_gone() {
        let removed = JobRecord { removed: true, ..record(JobState::Failed, 1) };
        assert_eq!(seen(Some(removed), None), None);
    }

    #[test]
    fn what_was_the_end_is_not_shown_of_a_job_that_was_put_back() {
        let snapshot = merge(Some(record(JobState::Failed, 1)), Some(queued(&job("j"), JobState::Waiting, 1))).unwrap();
        assert_eq!(snapshot.view.outcome, None);
        assert_eq!(snapshot.view.attempts.len(), 1);
    }
}
