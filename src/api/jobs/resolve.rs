//! Which job a person means: by the beginning of an id, or as the last one.
//!
//! History has every job, and an index by id. What it does not know yet, because it is a few milliseconds late, it is
//! waited for. When it stays behind, the queue is looked into, too, and the answer says that it may lack jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use tokio::time::Instant;

use crate::api::problem::ApiError;
use crate::api::query::Params;
use crate::api::state::Api;
use crate::domain::{JobId, JobState, PageRequest};
use crate::queue::QueuedJob;
use crate::store::{JobFilter, JobSummary};
use crate::wire::{JobBrief, LAST, LAST_FAILED, MOST_CANDIDATES, ResolvedJobs};

/// How many ids are read to find the candidates among them: removed jobs are none.
const MOST_READ: usize = 64;
/// How many of the failed jobs that were submitted last are looked through for the one that failed last.
const MOST_FAILED: usize = 1000;
/// How many jobs in each state are looked for in the queue, when history is behind.
const MOST_QUEUED: usize = 200;

/// `GET /api/v1/jobs:resolve`.
pub(in crate::api) async fn resolve(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<axum::Json<ResolvedJobs>, ApiError> {
    let asked = params.with("id", JobId::parse)?;
    params.done()?;
    let asked = asked.ok_or_else(|| {
        ApiError::bad_request("invalid_query", format!("id: give the beginning of an id, {LAST} or {LAST_FAILED}"))
    })?;
    let known = what_history_knows(&api).await;
    let behind = known != Known::All;
    let mut found = match asked.as_str() {
        _ if known == Known::Nothing => ResolvedJobs::default(),
        LAST => last(&api).await?,
        LAST_FAILED => last_failed(&api).await?,
        prefix => beginning(&api, prefix).await?,
    };
    if behind {
        let queued = queued(&api, asked.as_str()).await?;
        found.items.retain(|job| queued.iter().all(|other| other.id != job.id));
        found.items.extend(queued);
        let at = |job: &JobBrief| match asked.as_str() {
            LAST => Some(Some(job.submitted_at)),
            LAST_FAILED => Some(job.finished_at),
            _ => None,
        };
        found.items.sort_by(|a, b| at(b).cmp(&at(a)).then_with(|| a.id.cmp(&b.id)));
        if let LAST | LAST_FAILED = asked.as_str() {
            found.items.truncate(1);
        }
    }
    // The whole id means this job, however many other ids begin like it.
    if let Some(at) = found.items.iter().position(|job| job.id == asked) {
        found = ResolvedJobs { items: vec![found.items.swap_remove(at)], ..ResolvedJobs::default() };
    }
    found.more |= found.items.len() > MOST_CANDIDATES;
    found.items.truncate(MOST_CANDIDATES);
    found.behind = behind;
    Ok(axum::Json(found))
}

/// What history can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    All,
    /// Jobs of late may be missing.
    Part,
    /// It is away.
    Nothing,
}

/// Waits for a moment until history knows all that was written before this question, and says whether it does.
async fn what_history_knows(api: &Api) -> Known {
    const MOMENT: Duration = Duration::from_secs(1);
    let written = api.source.span().await.ok().map(|span| span.last);
    if let Some(written) = written {
        api.folded(written, Instant::now() + MOMENT).await;
    }
    match api.history.cursor().await {
        Ok(cursor) if written.is_some_and(|written| cursor >= written) => Known::All,
        Ok(_) => Known::Part,
        Err(_) => {
            api.feed.history_is_away();
            Known::Nothing
        }
    }
}

async fn beginning(api: &Api, prefix: &str) -> Result<ResolvedJobs, ApiError> {
    let ids = api.history.ids_from(prefix, MOST_READ).await?;
    let more = ids.len() == MOST_READ;
    let mut items = Vec::new();
    for id in ids {
        if items.len() > MOST_CANDIDATES {
            break;
        }
        let record = api.history.job_without_result(&id).await?.filter(|record| !record.removed);
        items.extend(record.map(|record| brief(record.summary())));
    }
    Ok(ResolvedJobs { items, more, behind: false })
}

async fn last(api: &Api) -> Result<ResolvedJobs, ApiError> {
    let page = api.history.jobs(&JobFilter::default(), PageRequest::first(1)).await?;
    Ok(ResolvedJobs { items: page.items.into_iter().map(brief).collect(), ..ResolvedJobs::default() })
}

async fn last_failed(api: &Api) -> Result<ResolvedJobs, ApiError> {
    let filter = JobFilter { states: vec![JobState::Failed], ..JobFilter::default() };
    let page = api.history.jobs(&filter, PageRequest::first(MOST_FAILED)).await?;
    let latest = page.items.into_iter().max_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
    Ok(ResolvedJobs { items: latest.into_iter().map(brief).collect(), ..ResolvedJobs::default() })
}

/// The jobs that are meant among those of the queue.
async fn queued(api: &Api, asked: &str) -> Result<Vec<JobBrief>, ApiError> {
    let mut found = Vec::new();
    for state in JobState::ALL {
        if asked == LAST_FAILED && state != JobState::Failed {
            continue;
        }
        let page = api.queue.page(None, state, PageRequest::first(MOST_QUEUED)).await?;
        let is_meant = |job: &QueuedJob| asked.starts_with('@') || job.job.id.as_str().starts_with(asked);
        found.extend(page.items.into_iter().filter(is_meant).map(|queued| JobBrief {
            id: queued.job.id.clone(),
            name: queued.job.name.clone(),
            state: queued.state,
            submitted_at: queued.job.submitted_at,
            finished_at: queued.finished_at,
        }));
    }
    Ok(found)
}

fn brief(job: JobSummary) -> JobBrief {
    let JobSummary { id, name, state, submitted_at, finished_at, .. } = job;
    JobBrief { id, name, state, submitted_at, finished_at }
}
