//! Jobs that come by themselves: BullMQ's own job schedulers, so that every BullMQ tool sees and manages them.
//!
//! BullMQ puts the next job of a scheduler into the delayed ones when the one before is taken. The crate does so only
//! when that one has ended, which would let a long job hold its schedule up, and a crash in between end it. So a job
//! that is taken while it stands for its schedule's current time is put back once, unstarted: the crate then makes the
//! next one, and the job comes again at once (see [`is_put_back_for_schedule`]).
//!
//! A job that was cancelled, or ran before its time, never gets there; [`revive`] finds schedules whose time has passed
//! without a job, and lets the crate make the next one. Paused schedules are unknown to BullMQ: they are kept aside,
//! and handed back to it when they are resumed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bullmq::job_scheduler::{JobSchedulerJson, RepeatOptions};
use tokio_util::sync::CancellationToken;

use super::super::schedules::{ScheduleStanding, in_order};
use super::super::{QueueError, QueueErrorKind, Scheduler};
use super::connect::{BullClient, BullError};
use super::repeat::{self, JobTemplate};
use super::{BullQueue, Inner, format, keys};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{AcceptedJob, JobId, Schedule, ScheduleId, Template, Timestamp, Timing};

/// How often a process looks for schedules that have come to a stop.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// A schedule whose time has passed by this has come to a stop, unless its job is under way.
const OVERDUE: Duration = Duration::from_secs(3);
/// How many schedules are revived in one go.
const BATCH: usize = 100;
/// How often a job is put back for its schedule's sake: once is enough unless a crash came in between.
pub(super) const MOST_PUT_BACKS: u32 = 3;

/// Whether this job, just taken, is the one that its schedule goes on from, and is to be put back for
/// that. Notes it as the schedule's last job. Where the crate would go on at another time than Jobber,
/// or not at all, this makes the schedule's next job, and nothing is left for the crate to do.
pub(super) async fn is_put_back_for_schedule(
    inner: &Inner,
    redis: &BullClient,
    job: &bullmq::Job,
    schedule: &str,
) -> Result<bool, QueueError> {
    let mut ask = redis::pipe();
    ask.cmd("ZSCORE").arg(inner.keys.bull("repeat")).arg(schedule);
    ask.cmd("HSET").arg(inner.keys.last_scheduled()).arg(schedule).arg(job.id()).ignore();
    let (current,): (Option<f64>,) = inner.link.call(redis.queue.connection().pipe(&ask)).await?;
    if current.is_none_or(|ms| job.id() != format!("repeat:{schedule}:{ms:.0}")) {
        return Ok(false);
    }
    if repeat::goes_on_by_itself(job, inner.clock.now()) {
        return Ok(true);
    }
    let Some(stored) = inner.link.call(redis.queue.get_job_scheduler(schedule)).await? else { return Ok(false) };
    if stored.pattern.is_none() {
        return Ok(true);
    }
    if !is_over(&stored, inner.clock.now()) {
        inner.link.call(go_on(inner, redis, &stored)).await?;
    }
    Ok(false)
}

/// Whether a schedule was to end by now.
fn is_over(stored: &JobSchedulerJson, now: Timestamp) -> bool {
    stored.end_date.is_some_and(|end| i64::try_from(end).is_ok_and(|end| end <= now.as_millis()))
        || stored.limit.is_some_and(|limit| stored.iteration_count >= limit)
}

/// Makes the next job of a schedule.
async fn go_on(inner: &Inner, redis: &BullClient, stored: &JobSchedulerJson) -> Result<(), BullError> {
    let options = stored.opts.clone().and_then(|opts| serde_json::from_value(opts).ok());
    let template = JobTemplate { name: &stored.name, data: stored.data.clone(), options };
    repeat::upsert(inner, redis, &stored.key, repeat::of_stored(stored), template).await?;
    let mut count = redis::cmd("EVAL");
    count.arg(keys::ADD_IF_THERE).arg(1).arg(inner.keys.bull(&format!("repeat:{}", stored.key))).arg("ic").arg(1);
    Ok(redis.queue.connection().cmd::<()>(&mut count).await?)
}

/// A schedule that is half revived is found again by the next check.
const REVIVAL: BackgroundLoop = BackgroundLoop::new("schedules", Period::Pause(CHECK_INTERVAL))
    .debug("schedules can't be looked after; trying again", "schedules are looked after again")
    .drop_run();

/// Looks for schedules that have come to a stop until `stop`.
pub(super) async fn revive(inner: Arc<Inner>, stop: CancellationToken) {
    let Some(Some(redis)) = stop.run_until_cancelled(inner.link.wait()).await else { return };
    let mut last_errors = HashMap::new();
    let mut turns = REVIVAL.start(&stop);
    turns.wait().await;
    let mut revive = async || {
        let revived = inner.link.call(revive_stopped(&inner, &redis, &mut last_errors)).await;
        Ok(revived.map(|()| NextRun::InTurn)?)
    };
    while turns.run(revive()).await {}
}

/// Lets stopped schedules go on, once. `last_errors` holds the last error of each schedule that can't go on, so that it
/// is logged once.
async fn revive_stopped(
    inner: &Inner,
    redis: &BullClient,
    last_errors: &mut HashMap<String, String>,
) -> Result<(), BullError> {
    repeat::restore_all(inner, redis).await?;
    let until = (inner.clock.now() - OVERDUE).as_millis();
    let mut overdue = redis::cmd("ZRANGEBYSCORE");
    overdue.arg(inner.keys.bull("repeat")).arg("-inf").arg(until).arg("WITHSCORES").arg("LIMIT").arg(0).arg(BATCH);
    let overdue: Vec<(String, f64)> = redis.queue.connection().cmd(&mut overdue).await?;
    for (id, due) in overdue {
        use bullmq::JobState::{Completed, Failed, Unknown};
        let state = redis.queue.get_job_state(&format!("repeat:{id}:{due:.0}")).await?;
        if !matches!(state, Completed | Failed | Unknown) {
            continue;
        }
        let Some(stored) = redis.queue.get_job_scheduler(&id).await? else { continue };
        if is_over(&stored, inner.clock.now() - OVERDUE) {
            continue;
        }
        match go_on(inner, redis, &stored).await {
            Ok(()) => {
                last_errors.remove(&id);
                tracing::info!(schedule = id, "a schedule that had come to a stop goes on");
            }
            Err(BullError::Redis(error)) => return Err(error.into()),
            Err(error) => {
                let error = error.to_string();
                if last_errors.get(&id) != Some(&error) {
                    tracing::warn!(schedule = id, error, "a schedule has come to a stop");
                    last_errors.insert(id, error);
                }
            }
        }
    }
    Ok(())
}

/// A schedule as BullMQ knows it; `None` for one whose jobs can't be run here.
fn read(inner: &Inner, stored: &JobSchedulerJson, lasts: &HashMap<String, String>) -> Option<ScheduleStanding> {
    let id = ScheduleId::parse(&stored.key).ok()?;
    let timing = match (&stored.pattern, stored.every) {
        (Some(pattern), _) => {
            let zone = stored.tz.clone().unwrap_or_else(|| crate::domain::schedule::UTC.to_owned());
            Timing::Cron { expression: pattern.clone(), zone }
        }
        (None, Some(every)) => Timing::Every { every: Duration::from_millis(every) },
        (None, None) => return None,
    };
    let fields = HashMap::from([
        ("name".to_owned(), stored.name.clone()),
        ("data".to_owned(), stored.data.clone().unwrap_or_default().to_string()),
        ("opts".to_owned(), stored.opts.clone().unwrap_or_else(|| serde_json::json!({})).to_string()),
        ("timestamp".to_owned(), "0".to_owned()),
    ]);
    let AcceptedJob { job, body } =
        format::read(&format::Stored::of_hash("template", &fields), &inner.settings).ok()?;
    let (arguments, data) = body.parts();
    let job = Template { name: job.name.clone(), arguments, data, options: job.options.clone() };
    let next_at = stored.next.and_then(|ms| i64::try_from(ms).ok()).map(Timestamp::from_millis);
    Some(with_last(Schedule { id, timing, job }, false, next_at, lasts))
}

fn with_last(
    schedule: Schedule,
    paused: bool,
    next_at: Option<Timestamp>,
    lasts: &HashMap<String, String>,
) -> ScheduleStanding {
    let last = lasts.get(schedule.id.as_str());
    let due = last.and_then(|id| id.rsplit_once(':')?.1.parse().ok()).map(Timestamp::from_millis);
    let last_job = last.and_then(|id| JobId::parse(id).ok());
    ScheduleStanding { schedule: Arc::new(schedule), paused, next_at, last_at: due, last_job }
}

/// Gives the schedule to BullMQ.
async fn upsert(inner: &Inner, redis: &BullClient, schedule: &Schedule, offset: Option<u64>) -> Result<(), BullError> {
    let (pattern, tz, every) = match &schedule.timing {
        // The zone is always said: BullMQ's own default differs from one of its workers to another.
        Timing::Cron { expression, zone } => (Some(expression.clone()), Some(zone.clone()), None),
        Timing::Every { every } => (None, None, Some(u64::try_from(every.as_millis()).unwrap_or(u64::MAX))),
    };
    let repeat = RepeatOptions { pattern, tz, every, offset, ..RepeatOptions::default() };
    let job = schedule.job.job(JobId::generate(), inner.clock.now());
    let data = format::data(&job, inner.settings.rules(&job.job.name));
    // The crate takes a tree only.
    let data = serde_json::from_str(data.get()).map_err(bullmq::Error::from)?;
    let options = bullmq::JobOptions { job_id: None, timestamp: None, ..format::options(&job.job) };
    let template = JobTemplate { name: job.job.name.as_str(), data: Some(data), options: Some(options) };
    repeat::upsert(inner, redis, schedule.id.as_str(), repeat, template).await
}

/// Forgets a next time that a wrong clock has carried far ahead. Answers whether it did.
async fn forget_if_astray(
    inner: &Inner,
    redis: &BullClient,
    stored: &JobSchedulerJson,
    timing: &Timing,
) -> Result<bool, BullError> {
    let next = stored.next.and_then(|ms| i64::try_from(ms).ok()).map(Timestamp::from_millis);
    let is_astray = next.is_some_and(|next| timing.is_far_beyond(next, inner.clock.now()));
    if is_astray {
        redis.queue.remove_job_scheduler(&stored.key).await?;
    }
    Ok(is_astray)
}

/// The paused schedules, which are kept aside, by their ids.
async fn paused(inner: &Inner, redis: &BullClient) -> Result<HashMap<String, Schedule>, BullError> {
    let mut all = redis::cmd("HGETALL");
    all.arg(inner.keys.paused_schedules());
    let all: HashMap<String, String> = redis.queue.connection().cmd(&mut all).await?;
    Ok(all.into_iter().filter_map(|(id, text)| Some((id, serde_json::from_str(&text).ok()?))).collect())
}

async fn lasts(inner: &Inner, redis: &BullClient) -> Result<HashMap<String, String>, BullError> {
    let mut all = redis::cmd("HGETALL");
    all.arg(inner.keys.last_scheduled());
    Ok(redis.queue.connection().cmd(&mut all).await?)
}

async fn store_paused(inner: &Inner, redis: &BullClient, schedule: &Schedule) -> Result<(), BullError> {
    let text = serde_json::to_string(schedule).map_err(bullmq::Error::from)?;
    let mut keep = redis::cmd("HSET");
    keep.arg(inner.keys.paused_schedules()).arg(schedule.id.as_str()).arg(text);
    Ok(redis.queue.connection().cmd(&mut keep).await?)
}

/// Forgets the entry of a schedule in one of Jobber's hashes. Answers whether there was one.
async fn forget(redis: &BullClient, key: String, id: &ScheduleId) -> Result<bool, BullError> {
    let mut forget = redis::cmd("HDEL");
    forget.arg(key).arg(id.as_str());
    Ok(redis.queue.connection().cmd(&mut forget).await?)
}

async fn all(inner: &Inner, redis: &BullClient) -> Result<Vec<ScheduleStanding>, BullError> {
    let lasts = lasts(inner, redis).await?;
    let live = redis.queue.get_job_schedulers(0, -1, true).await?;
    let mut all: Vec<_> = live.iter().filter_map(|stored| read(inner, stored, &lasts)).collect();
    for (id, schedule) in paused(inner, redis).await? {
        // A schedule that BullMQ knows was resumed, or is just being paused.
        if !live.iter().any(|stored| stored.key == id) {
            all.push(with_last(schedule, true, None, &lasts));
        }
    }
    Ok(in_order(all))
}

/// Explains that BullMQ refuses when the schedule's next job has run already, before its time.
fn explained(error: QueueError) -> QueueError {
    if error.kind != QueueErrorKind::Corrupt {
        return error;
    }
    let message = "the job of the schedule's next time has been made already; try again when that time has passed";
    QueueError::new(QueueErrorKind::Unavailable, message).caused_by(error)
}

#[async_trait]
impl Scheduler for BullQueue {
    async fn put_schedule(&self, schedule: Arc<Schedule>) -> Result<bool, QueueError> {
        let inner = &self.inner;
        let redis = inner.link.get().await?;
        let put = async {
            let Some(stored) = redis.queue.get_job_scheduler(schedule.id.as_str()).await? else {
                if paused(inner, &redis).await?.contains_key(schedule.id.as_str()) {
                    store_paused(inner, &redis, &schedule).await?;
                    return Ok(false);
                }
                upsert(inner, &redis, &schedule, None).await?;
                return Ok(true);
            };
            forget_if_astray(inner, &redis, &stored, &schedule.timing).await?;
            upsert(inner, &redis, &schedule, None).await?;
            Ok::<_, BullError>(false)
        };
        inner.link.call(put).await.map_err(explained)
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStanding>, QueueError> {
        let redis = self.inner.link.get().await?;
        self.inner.link.call(all(&self.inner, &redis)).await
    }

    async fn find_schedule(&self, id: &ScheduleId) -> Result<Option<ScheduleStanding>, QueueError> {
        let inner = &self.inner;
        let redis = inner.link.get().await?;
        let find = async {
            let lasts = lasts(inner, &redis).await?;
            if let Some(stored) = redis.queue.get_job_scheduler(id.as_str()).await? {
                return Ok(read(inner, &stored, &lasts));
            }
            let aside = paused(inner, &redis).await?.remove(id.as_str());
            Ok::<_, BullError>(aside.map(|schedule| with_last(schedule, true, None, &lasts)))
        };
        inner.link.call(find).await
    }

    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, QueueError> {
        let inner = &self.inner;
        let redis = inner.link.get().await?;
        let remove = async {
            let live = redis.queue.remove_job_scheduler(id.as_str()).await?;
            let aside = forget(&redis, inner.keys.paused_schedules(), id).await?;
            forget(&redis, inner.keys.last_scheduled(), id).await?;
            Ok::<_, BullError>(live || aside)
        };
        inner.link.call(remove).await
    }

    async fn pause_schedule(&self, id: &ScheduleId, pause: bool) -> Result<bool, QueueError> {
        let inner = &self.inner;
        let Some(known) = self.find_schedule(id).await? else { return Ok(false) };
        let redis = inner.link.get().await?;
        if known.paused == pause {
            if pause {
                return Ok(true);
            }
            let heal = async {
                let Some(stored) = redis.queue.get_job_scheduler(id.as_str()).await? else { return Ok(()) };
                if forget_if_astray(inner, &redis, &stored, &known.schedule.timing).await? {
                    upsert(inner, &redis, &known.schedule, None).await?;
                }
                Ok::<_, BullError>(())
            };
            inner.link.call(heal).await.map_err(explained)?;
            return Ok(true);
        }
        let change = async {
            if pause {
                // First kept aside, so that a crash in between loses nothing: the schedule then
                // goes on as if never paused.
                store_paused(inner, &redis, &known.schedule).await?;
                redis.queue.remove_job_scheduler(id.as_str()).await?;
            } else {
                upsert(inner, &redis, &known.schedule, beat(&known)).await?;
                forget(&redis, inner.keys.paused_schedules(), id).await?;
            }
            Ok::<_, BullError>(())
        };
        inner.link.call(change).await.map_err(explained)?;
        Ok(true)
    }
}

/// Where in its interval a schedule fires, so that it goes on with the beat that it had.
fn beat(known: &ScheduleStanding) -> Option<u64> {
    let Timing::Every { every } = &known.schedule.timing else { return None };
    let (last, every) = (known.last_at?.as_millis().unsigned_abs(), u64::try_from(every.as_millis()).ok()?);
    Some(last % every.max(1)).filter(|offset| *offset > 0)
}
