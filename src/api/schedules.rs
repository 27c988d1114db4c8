//! Schedules: put, listed, triggered, paused and removed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::body::Json;
use super::problem::ApiError;
use super::query::Segment;
use super::state::Api;
use super::submit;
use super::traced::RequestContext;
use crate::domain::{InvalidJob, JobId, Schedule, ScheduleId, Template, Timestamp, Timing};
use crate::queue::ScheduleStanding;
use crate::wire::{FieldProblem, Listing, PutSchedule, ScheduleActed, ScheduleView, SubmitJob};

/// How many of its next times a schedule shows.
const SHOWN: usize = 5;

/// `GET /api/v1/schedules`: all schedules.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<axum::Json<Listing<ScheduleView>>, ApiError> {
    let now = api.clock.now();
    let items = api.scheduler.schedules().await?.into_iter().map(|standing| view(standing, now)).collect();
    Ok(axum::Json(Listing { items, next_cursor: None }))
}

/// `GET /api/v1/schedules/{id}`: one schedule.
pub(super) async fn show(State(api): State<Arc<Api>>, segment: Segment) -> Result<axum::Json<ScheduleView>, ApiError> {
    let id = ScheduleId::parse(&segment.0)?;
    Ok(axum::Json(view(find(&api, &id).await?, api.clock.now())))
}

/// `POST /api/v1/schedules`: adds or replaces a schedule, by default under its job's name.
pub(super) async fn create(State(api): State<Arc<Api>>, body: Json<PutSchedule>) -> Result<Response, ApiError> {
    let id = body.value.id.clone().unwrap_or_else(|| body.value.job.name.clone());
    let id = ScheduleId::custom(&id).map_err(|e| wrong("id", e.to_string()))?;
    put_in_place(&api, id, body.value).await
}

/// `PUT /api/v1/schedules/{id}`: adds or replaces the schedule with this id.
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    segment: Segment,
    body: Json<PutSchedule>,
) -> Result<Response, ApiError> {
    let id = ScheduleId::custom(&segment.0)?;
    if body.value.id.as_ref().is_some_and(|given| given != id.as_str()) {
        return Err(wrong("id", format!("must be {id}, as in the path, or absent")));
    }
    put_in_place(&api, id, body.value).await
}

async fn put_in_place(api: &Arc<Api>, id: ScheduleId, wanted: PutSchedule) -> Result<Response, ApiError> {
    let timing = timing(&wanted, api.clock.now())?;
    let job = template(api, wanted.job).await?;
    let schedule = Arc::new(Schedule { id: id.clone(), timing, job });
    let new = api.scheduler.put_schedule(schedule).await?;
    tracing::info!(schedule = %id, new, "a schedule was put in place");
    let now = view(find(api, &id).await?, api.clock.now());
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/api/v1/schedules/{id}");
    Ok((status, [(header::LOCATION, location)], axum::Json(now)).into_response())
}

fn timing(wanted: &PutSchedule, now: Timestamp) -> Result<Timing, ApiError> {
    let timing = match (&wanted.cron, wanted.every_ms) {
        (Some(expression), None) => Timing::cron(expression, wanted.tz.as_deref(), now),
        (None, Some(_)) if wanted.tz.is_some() => return Err(wrong("tz", "belongs to cron; an interval has none")),
        (None, Some(ms)) => Timing::every(Duration::from_millis(ms)),
        (Some(_), Some(_)) => return Err(wrong("every_ms", "give either cron or every_ms, not both")),
        (None, None) => return Err(wrong("cron", "say when: give cron or every_ms")),
    };
    timing.map_err(|InvalidJob { field, problem }| wrong(&field, problem))
}

/// Checks the schedule's job like a submitted job.
async fn template(api: &Arc<Api>, job: SubmitJob) -> Result<Template, ApiError> {
    if job.id.is_some() {
        return Err(wrong("job/id", "must be absent: each job of a schedule gets an id of its own"));
    }
    if !job.inputs.is_empty() {
        return Err(wrong("job/inputs", "must be absent: an input is kept for jobs, not for schedules"));
    }
    let checked = submit::check(api, vec![job], |_| "/job".to_owned()).await?.remove(0);
    Template::of(checked).map_err(|InvalidJob { field, problem }| wrong(&format!("job/{field}"), problem))
}

/// `DELETE /api/v1/schedules/{id}`: removes a schedule.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    segment: Segment,
) -> Result<axum::Json<ScheduleActed>, ApiError> {
    let id = ScheduleId::parse(&segment.0)?;
    if !api.scheduler.remove_schedule(&id).await? {
        return Err(unknown(&id));
    }
    tracing::info!(schedule = %id, "a schedule was taken out");
    Ok(axum::Json(ScheduleActed { id, status: "removed".to_owned() }))
}

/// `POST /api/v1/schedules/{id}:trigger`, `:pause`, `:resume`: acts on a schedule.
pub(super) async fn act(
    State(api): State<Arc<Api>>,
    segment: Segment,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (id, verb) = segment.verb()?;
    let id = ScheduleId::parse(id)?;
    let status = match verb {
        "trigger" => return trigger(&api, &id, &headers).await,
        "pause" => "paused",
        "resume" => "resumed",
        _ => {
            let detail = format!("a schedule can't be told to {verb:?}, only to trigger, pause or resume");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_verb", detail));
        }
    };
    if !api.scheduler.pause_schedule(&id, verb == "pause").await? {
        return Err(unknown(&id));
    }
    tracing::info!(schedule = %id, status, "acted on a schedule");
    Ok(axum::Json(ScheduleActed { id, status: status.to_owned() }).into_response())
}

/// Submits one job of the schedule now. The times of the schedule stay as they are.
async fn trigger(api: &Arc<Api>, id: &ScheduleId, headers: &HeaderMap) -> Result<Response, ApiError> {
    let idempotency = submit::idempotency(api, headers, "trigger", id.as_str().as_bytes())?;
    let schedule = find(api, id).await?.schedule;
    let job = schedule.job.job(JobId::generate(), api.clock.now());
    let submission = submit::submit(api, vec![job], idempotency, &RequestContext::of(headers), false).await?.remove(0);
    tracing::info!(schedule = %id, job = %submission.id, "a schedule was triggered");
    let location = format!("/api/v1/jobs/{}", submission.id);
    let answer = axum::Json(submit::submitted(submission));
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], answer).into_response())
}

async fn find(api: &Api, id: &ScheduleId) -> Result<ScheduleStanding, ApiError> {
    api.scheduler.find_schedule(id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: &ScheduleId) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "unknown_schedule", format!("there is no schedule {id}"))
}

fn wrong(field: &str, detail: impl Into<String>) -> ApiError {
    let problem = FieldProblem { pointer: format!("/{field}"), detail: detail.into() };
    ApiError::invalid_fields("invalid_schedule", vec![problem])
}

fn view(standing: ScheduleStanding, now: Timestamp) -> ScheduleView {
    let ScheduleStanding { schedule, paused, next_at, last_at, last_job } = standing;
    let timing = &schedule.timing;
    let trouble = if paused { None } else { timing.trouble(next_at, now) };
    let following = |at: &Timestamp| timing.next(Some(*at), now.max(*at));
    // If the timing can't be read, a time that has passed is the last one.
    let next_at = next_at.filter(|at| trouble.is_none() || *at > now);
    let next = std::iter::successors(next_at, following).take(SHOWN).collect();
    let (cron, tz, every_ms) = match timing.clone() {
        Timing::Cron { expression, zone } => (Some(expression), Some(zone), None),
        Timing::Every { every } => (None, None, Some(u64::try_from(every.as_millis()).unwrap_or(u64::MAX))),
    };
    ScheduleView {
        id: schedule.id.clone(),
        cron,
        tz,
        every_ms,
        job: schedule.job.clone(),
        paused,
        next,
        last_at,
        last_job,
        trouble,
    }
}
