//! The limit of a group, in a queue of BullMQ's, which knows none: a window.
//!
//! A job with a limit is *parked* first: it is added to delayed, by longer than any delay, and stands in the group's
//! line. As long as fewer jobs of the group are in the window than the limit says, the first of the line enters it, and is
//! promoted, which is BullMQ's own step. It leaves the window when it has ended or is gone; a retry keeps its place. So
//! every worker obeys, Node's too.
//!
//! ```text
//!  submit ──> line (parked) ──fewer in the window than the limit──> window ──promote──> wait ──> active ──> ended
//!                                                                    └─────<──retry, stall──<──┘
//! ```
//! One script moves jobs from the line into the window, so processes that do it at the same time let in no more than one
//! alone would. A process may die between any two steps: a job of the line that was never added is dropped from it, one of
//! the window that was not promoted is found there and promoted, and one that has ended is found, too. That a job of
//! another program's worker has ended is only found so. All of it takes a second or two.
//!
//! On a cluster the keys of a group lie where those of its queue do, so the limit is one of the group in each queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::QueueError;
use super::connect::{BullClient, BullError};
use super::{Inner, keys};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{AcceptedJob, GroupName, Job, JobId, Timestamp};

/// The wait between two looks at all groups.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A job of the line that is not in the queue after this time will not come any more.
const ADDING: Duration = Duration::from_secs(60);
/// How long a turn of one group may take, besides the usual patience.
const LONGEST_TURN: Duration = Duration::from_secs(10);
/// How many jobs of a window, and how many of a line, one look takes up.
const BATCH: u32 = 500;
/// How many groups, or jobs of one, are looked after at the same time.
const AT_ONCE: usize = 16;

/// Puts jobs into a group's line. KEYS: line, window, groups. ARGV: what the keys of jobs begin with, the group, whether the
/// jobs are in the queue already, then the score and the member of each. A job that was submitted before stays where it is.
const PARK: &str = "\
for i = 4, #ARGV, 2 do
  local id = ARGV[i + 1]:match('^%d+:(.*)$')
  local is_new = ARGV[3] == '1' or redis.call('EXISTS', ARGV[1] .. id) == 0
  if is_new and not redis.call('ZSCORE', KEYS[2], id) then
    redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1])
  end
end
if redis.call('ZCARD', KEYS[1]) > 0 then redis.call('SADD', KEYS[3], ARGV[2]) end";

/// Takes what has ended out of a window, and lets in what has room. KEYS: line, window, groups, delayed, completed, failed.
/// ARGV: what the keys of jobs begin with, the group, the present in milliseconds, the time after which a job is not added
/// any more, half of the time by which parked jobs are delayed, the most jobs to look at, whether to look at those of the
/// window, and if a job may have left: its id, and its member of the line. Answers the jobs to promote.
const TURN: &str = "\
local call = redis.call
local base, now, most = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[6])
local promote = {}
local function has_left(id)
  return call('EXISTS', base .. id) == 0 or call('ZSCORE', KEYS[5], id) or call('ZSCORE', KEYS[6], id)
end
if ARGV[8] and has_left(ARGV[8]) then
  call('ZREM', KEYS[2], ARGV[8])
  call('ZREM', KEYS[1], ARGV[9])
end
if ARGV[7] == '1' then
  for _, id in ipairs(call('ZRANGE', KEYS[2], 0, most - 1)) do
    if has_left(id) then
      call('ZREM', KEYS[2], id)
    else
      local due = call('ZSCORE', KEYS[4], id)
      if due and tonumber(due) / 4096 - now > tonumber(ARGV[5]) then promote[#promote + 1] = id end
      call('ZADD', KEYS[2], 'XX', now, id)
    end
  end
end
local inside = call('ZCARD', KEYS[2])
local line = call('ZRANGEBYSCORE', KEYS[1], '-inf', now * 4096 + 4095, 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #line, 2 do
  local limit, id = line[i]:match('^(%d+):(.*)$')
  if inside >= tonumber(limit) then break end
  if call('EXISTS', base .. id) == 1 then
    call('ZREM', KEYS[1], line[i])
    if call('ZADD', KEYS[2], now, id) == 1 then inside = inside + 1 end
    promote[#promote + 1] = id
  elseif tonumber(line[i + 1]) / 4096 + tonumber(ARGV[4]) < now then
    call('ZREM', KEYS[1], line[i])
  end
end
if inside == 0 and call('ZCARD', KEYS[1]) == 0 then call('SREM', KEYS[3], ARGV[2]) end
return promote";

/// Puts a failed job back into the line. KEYS: the job, failed, delayed, events, line, groups. ARGV: its id, its due time in
/// milliseconds, the delay until then, the score and the member of the line, the group. What BullMQ's own script does to put
/// a job back, but into delayed. Answers whether it had failed.
const PARK_FAILED: &str = "\
local call = redis.call
if call('EXISTS', KEYS[1]) == 0 or call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
call('HDEL', KEYS[1], 'finishedOn', 'processedOn', 'failedReason', 'atm')
call('HSET', KEYS[1], 'delay', ARGV[3])
call('ZADD', KEYS[3], ARGV[2] * 4096, ARGV[1])
call('ZADD', KEYS[5], ARGV[4], ARGV[5])
call('SADD', KEYS[6], ARGV[6])
local parent = call('HGET', KEYS[1], 'parentKey')
if parent and call('EXISTS', parent) == 1 then
  if call('ZREM', parent .. ':unsuccessful', KEYS[1]) == 1 or call('HDEL', parent .. ':failed', KEYS[1]) == 1 then
    call('SADD', parent .. ':dependencies', KEYS[1])
  end
end
call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', 'event', 'delayed', 'jobId', ARGV[1], 'delay', ARGV[2], 'prev', 'failed')
return 1";

/// The limit that holds for a job, and of which group.
pub(super) fn limit_of(job: &Job) -> Option<(&GroupName, u32)> {
    job.options.group.as_ref().zip(job.options.group_limit)
}

/// The same of a job's data as it is stored.
pub(super) fn limit_in(data: &Value) -> Option<(GroupName, u32)> {
    let options = data.get("jobber")?;
    let group = GroupName::parse(options.get("group")?.as_str()?).ok()?;
    Some((group, u32::try_from(options.get("group_limit")?.as_u64()?).ok()?))
}

/// Whether a job is parked as soon as it is added. One that comes after others is parked when they have ended.
fn is_parked_at_once(job: &Job) -> bool {
    limit_of(job).is_some() && job.options.after.is_empty()
}

/// A job's member of the line, which says its limit, so that the one that enters next need not be read.
fn member(id: &JobId, limit: u32) -> String {
    format!("{limit}:{id}")
}

/// The place in the line of the `n`th job of a call, which may enter at this time.
fn score(at: Timestamp, n: usize) -> f64 {
    at.as_millis() as f64 * keys::SCORE_PER_MS + n as f64
}

/// The jobs that are parked as soon as they are added, by group.
fn by_group(jobs: &[AcceptedJob]) -> BTreeMap<&GroupName, Vec<(&Job, u32)>> {
    let mut groups: BTreeMap<&GroupName, Vec<_>> = BTreeMap::new();
    for job in jobs.iter().map(|accepted| &*accepted.job).filter(|job| is_parked_at_once(job)) {
        if let Some((group, limit)) = limit_of(job) {
            groups.entry(group).or_default().push((job, limit));
        }
    }
    groups
}

/// Parks the jobs that have a limit, before they are added.
pub(super) async fn park(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<(), BullError> {
    let now = inner.clock.now();
    let mut park = redis::pipe();
    for (group, jobs) in by_group(jobs) {
        let places =
            jobs.iter().enumerate().map(|(n, (job, limit))| (score(now + job.options.delay, n), &job.id, *limit));
        add_to_line(inner, &mut park, group, false, places);
    }
    if park.is_empty() { Ok(()) } else { Ok(redis.queue.connection().pipe(&park).await?) }
}

fn add_to_line<'i>(
    inner: &Inner,
    park: &mut redis::Pipeline,
    group: &GroupName,
    are_there: bool,
    places: impl Iterator<Item = (f64, &'i JobId, u32)>,
) {
    park.cmd("EVAL").arg(PARK).arg(3).arg(inner.keys.group_line(group)).arg(inner.keys.group_window(group));
    park.arg(inner.keys.groups()).arg(inner.keys.bull("")).arg(group.as_str()).arg(u8::from(are_there));
    for (score, id, limit) in places {
        park.arg(score).arg(member(id, limit));
    }
    park.ignore();
}

/// Parks a job that is delayed already, since all jobs that it comes after have ended: it may enter after `delay`.
pub(super) async fn park_delayed(
    inner: &Inner,
    redis: &BullClient,
    job: &Job,
    delay: Duration,
) -> Result<(), BullError> {
    let Some((group, limit)) = limit_of(job) else { return Ok(()) };
    let mut park = redis::pipe();
    let at = score(inner.clock.now() + delay, 0);
    add_to_line(inner, &mut park, group, true, std::iter::once((at, &job.id, limit)));
    redis.queue.connection().pipe::<()>(&park).await?;
    take_turn(inner, redis, group, Look::AtLine).await
}

/// Puts a failed job back, into the line of its group. Answers whether it had failed.
pub(super) async fn park_failed(inner: &Inner, redis: &BullClient, job: &Job) -> Result<bool, BullError> {
    let Some((group, limit)) = limit_of(job) else { return Ok(false) };
    let (now, id) = (inner.clock.now(), job.id.as_str());
    let mut park = redis::cmd("EVAL");
    park.arg(PARK_FAILED).arg(6).arg(inner.keys.job(id)).arg(inner.keys.bull("failed"));
    park.arg(inner.keys.bull("delayed")).arg(inner.keys.bull("events")).arg(inner.keys.group_line(group));
    park.arg(inner.keys.groups()).arg(id).arg((now + keys::FAR).as_millis());
    park.arg(u64::try_from(keys::FAR.as_millis()).unwrap_or(u64::MAX));
    park.arg(score(now, 0)).arg(member(&job.id, limit)).arg(group.as_str());
    let is_parked = redis.queue.connection().cmd(&mut park).await?;
    take_turn(inner, redis, group, Look::AtLine).await?;
    Ok(is_parked)
}

/// Lets the jobs of a call enter the windows of their groups, as far as there is room.
pub(super) async fn admit(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<(), BullError> {
    let turns = by_group(jobs).into_keys().map(|group| take_turn(inner, redis, group, Look::AtLine));
    // Made before the first await, so that the future does not hold the closure.
    let turns: Vec<_> = turns.collect();
    let done: Vec<Result<(), BullError>> = stream::iter(turns).buffer_unordered(AT_ONCE).collect().await;
    done.into_iter().collect()
}

/// Whether a job waits in the line of its group, and may enter only later.
pub(super) async fn place_in_line(
    inner: &Inner,
    redis: &BullClient,
    job: &Job,
) -> Result<Option<Timestamp>, BullError> {
    let Some((group, limit)) = limit_of(job) else { return Ok(None) };
    let mut place = redis::cmd("ZSCORE");
    place.arg(inner.keys.group_line(group)).arg(member(&job.id, limit));
    let place: Option<f64> = redis.queue.connection().cmd(&mut place).await?;
    Ok(place.map(|place| Timestamp::from_millis((place / keys::SCORE_PER_MS) as i64)))
}

/// Lets a job of the line enter as soon as there is room, whatever its delay.
pub(super) async fn end_delay(inner: &Inner, redis: &BullClient, job: &Job) -> Result<(), BullError> {
    let Some((group, limit)) = limit_of(job) else { return Ok(()) };
    let mut sooner = redis::cmd("ZADD");
    sooner.arg(inner.keys.group_line(group)).arg("XX").arg(score(inner.clock.now(), 0)).arg(member(&job.id, limit));
    redis.queue.connection().cmd::<()>(&mut sooner).await?;
    take_turn(inner, redis, group, Look::AtLine).await
}

/// Looks whether a job has ended or was taken out, and lets the next of its group enter. If that fails, the next look at
/// all groups does it.
pub(super) async fn left(inner: &Inner, redis: &BullClient, group: &GroupName, limit: u32, id: &JobId) {
    let turn = take_turn(inner, redis, group, Look::AfterEnd(id, limit));
    if let Err(error) = inner.link.call_longer(LONGEST_TURN, turn).await {
        tracing::debug!(job = %id, %group, %error, "the group's next job enters later");
    }
}

/// What is looked at in a turn.
#[derive(Debug, Clone, Copy)]
enum Look<'j> {
    /// Who may enter.
    AtLine,
    /// The same, once this job of this limit has left, if it has.
    AfterEnd(&'j JobId, u32),
    /// Who of the window has ended, too.
    AtAll,
}

async fn take_turn(inner: &Inner, redis: &BullClient, group: &GroupName, look: Look<'_>) -> Result<(), BullError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut turn = redis::cmd("EVAL");
    turn.arg(TURN)
        .arg(6)
        .arg(inner.keys.group_line(group))
        .arg(inner.keys.group_window(group))
        .arg(inner.keys.groups());
    for key in ["delayed", "completed", "failed"] {
        turn.arg(inner.keys.bull(key));
    }
    turn.arg(inner.keys.bull("")).arg(group.as_str()).arg(inner.clock.now().as_millis()).arg(millis(ADDING));
    turn.arg(millis(keys::FAR / 2)).arg(BATCH).arg(u8::from(matches!(look, Look::AtAll)));
    if let Look::AfterEnd(id, limit) = look {
        turn.arg(id.as_str()).arg(member(id, limit));
    }
    let entered: Vec<String> = redis.queue.connection().cmd(&mut turn).await?;
    let promotions: Vec<_> = entered.iter().map(|id| promote(redis, id)).collect();
    let done: Vec<Result<(), BullError>> = stream::iter(promotions).buffered(AT_ONCE).collect().await;
    done.into_iter().collect()
}

/// Makes a job ready that has entered its window.
async fn promote(redis: &BullClient, id: &str) -> Result<(), BullError> {
    let Some(job) = redis.queue.get_job(id).await? else { return Ok(()) };
    match job.promote().await {
        Err(bullmq::Error::Redis(error)) => Err(error.into()),
        // Another process was first, or the job has moved on by itself.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A look that is dropped is taken again.
const LOOK: BackgroundLoop = BackgroundLoop::new("limited groups", Period::Pause(LOOK_INTERVAL))
    .debug("groups with a limit can't be looked after; trying again", "they are looked after again")
    .drop_run();

/// Looks after the groups with a limit until `stop`: one process of all does at a time.
pub(super) async fn look_after(inner: Arc<Inner>, stop: CancellationToken) {
    let Some(Some(redis)) = stop.run_until_cancelled(inner.link.wait()).await else { return };
    let mut turns = LOOK.start(&stop);
    turns.wait().await;
    let look = async || Ok(look_at_all(&inner, &redis).await.map(|()| NextRun::InTurn)?);
    while turns.run(look()).await {}
}

async fn look_at_all(inner: &Inner, redis: &BullClient) -> Result<(), QueueError> {
    let mut members = redis::cmd("SMEMBERS");
    let groups: Vec<String> = inner.link.call(redis.queue.connection().cmd(members.arg(inner.keys.groups()))).await?;
    if groups.is_empty() {
        return Ok(());
    }
    let mut mine = redis::cmd("SET");
    mine.arg(inner.keys.groups_looked_after()).arg(1).arg("NX");
    mine.arg("PX").arg(u64::try_from(LOOK_INTERVAL.as_millis() / 2).unwrap_or(u64::MAX));
    if inner.link.call(redis.queue.connection().cmd::<Option<String>>(&mut mine)).await?.is_none() {
        return Ok(());
    }
    let mut result = Ok(());
    for group in groups.iter().filter_map(|group| GroupName::parse(group).ok()) {
        // A group that can't be looked after keeps no other from being so.
        let turn = take_turn(inner, redis, &group, Look::AtAll);
        result = inner.link.call_longer(LONGEST_TURN, turn).await.and(result);
    }
    result
}
