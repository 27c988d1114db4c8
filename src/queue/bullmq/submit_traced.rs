//! Adds jobs that have a trace context. The crate can't write one, so these jobs are added by a script of this module's,
//! which does what BullMQ's own would do with them. To write the context after the job was added would be too late for a
//! worker that takes it at once.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::connect::{BullClient, BullError};
use super::telemetry::carrier;
use super::{Inner, format};
use crate::domain::{AcceptedJob, BackoffKind, Job};

/// Adds a job that has an id and no parent. KEYS: the job's hash, meta, id, events, wait, active, prioritized, pc,
/// delayed, marker, the note of its deduplication key. ARGV: its id, name, data, options as JSON, time of submission,
/// delay, priority, deduplication key (empty for none), that one's time to live in milliseconds (0 for none), and what
/// the key of each hash begins with. Answers the id of the job that stands for it.
const ADD: &str = "\
local call = redis.call
local id, timestamp, delay, priority = ARGV[1], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
call('INCR', KEYS[3])
local most = call('HGET', KEYS[2], 'opts.maxLenEvents')
if not most then
  most = 10000
  call('HSET', KEYS[2], 'opts.maxLenEvents', most)
end
local function tell(...) call('XADD', KEYS[4], 'MAXLEN', '~', most, '*', 'event', ...) end
if call('EXISTS', KEYS[1]) == 1 then
  tell('duplicated', 'jobId', id)
  return id
end
local fields = {'name', ARGV[2], 'data', ARGV[3], 'opts', ARGV[4], 'timestamp', ARGV[5], 'delay', ARGV[6], 'priority', ARGV[7]}
if ARGV[8] ~= '' then
  local function take(...)
    if ARGV[9] ~= '0' then return call('SET', KEYS[11], id, 'PX', ARGV[9], ...) end
    return call('SET', KEYS[11], id, ...)
  end
  if not take('NX') then
    local holder = call('GET', KEYS[11])
    if call('PTTL', KEYS[11]) ~= -1 or call('EXISTS', ARGV[10] .. holder) == 1 then
      tell('deduplicated', 'jobId', holder, 'deduplicationId', ARGV[8], 'deduplicatedJobId', id)
      return holder
    end
    call('DEL', ARGV[10] .. 'dn:' .. ARGV[8])
    take()
  end
  fields[#fields + 1] = 'deid'
  fields[#fields + 1] = ARGV[8]
end
call('HSET', KEYS[1], unpack(fields))
call('XADD', KEYS[4], '*', 'event', 'added', 'jobId', id, 'name', ARGV[2])
if delay > 0 then
  local due = timestamp + delay
  local first, last = due * 0x1000, due * 0x1000 + 0xfff
  local before = call('ZREVRANGEBYSCORE', KEYS[9], last, first, 'WITHSCORES', 'LIMIT', 0, 1)
  if before[2] then first = math.min(tonumber(before[2]) + 1, last) end
  call('ZADD', KEYS[9], first, id)
  tell('delayed', 'jobId', id, 'delay', due)
  local soonest = call('ZRANGE', KEYS[9], 0, 0, 'WITHSCORES')
  call('ZADD', KEYS[10], tonumber(soonest[2]) / 0x1000, '1')
  return id
end
local state = call('HMGET', KEYS[2], 'paused', 'concurrency')
local may_start = not state[1] and not (state[2] and call('LLEN', KEYS[6]) >= tonumber(state[2]))
if priority > 0 then
  call('ZADD', KEYS[7], priority * 0x100000000 + call('INCR', KEYS[8]) % 0x100000000, id)
else
  call('LPUSH', KEYS[5], id)
end
if may_start then call('ZADD', KEYS[10], 0, '0') end
tell('waiting', 'jobId', id)
return id";

/// Writes a context, ARGV\[1\] as a JSON string, into the options of a job that has none.
const NOTE: &str = "\
local opts = redis.call('HGET', KEYS[1], 'opts')
if not opts or opts:sub(1, 2) == '{}' or opts:find('\"tm\":', 1, true) then return 0 end
return redis.call('HSET', KEYS[1], 'opts', '{\"tm\":' .. ARGV[1] .. ',' .. opts:sub(2))";

/// A job's options as BullMQ writes them, with the context.
fn options(job: &Job) -> Value {
    let options = &job.options;
    let kind = match options.backoff.kind {
        BackoffKind::Fixed => "fixed",
        BackoffKind::Exponential => "exponential",
    };
    let mut written = Map::new();
    let mut set = |name: &str, value: Value| written.insert(name.to_owned(), value);
    set("attempts", json!(options.attempts));
    set("backoff", json!({"type": kind, "delay": millis(options.backoff.delay)}));
    if delay(job) > 0 {
        set("delay", json!(delay(job)));
    }
    if options.priority > 0 {
        set("priority", json!(options.priority));
    }
    if let Some(deduplication) = &options.deduplication {
        let mut de = json!({"id": deduplication.key});
        if let Some(ttl) = deduplication.ttl {
            de["ttl"] = json!(millis(ttl));
        }
        set("de", de);
    }
    set("jobId", json!(job.id));
    if let Some(trace) = &job.trace {
        set("tm", json!(carrier(trace)));
    }
    Value::Object(written)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn delay(job: &Job) -> u64 {
    format::bull_delay(job).map_or(0, |delay| millis(delay).max(1))
}

/// Adds jobs that have a context and come after no others, in one transaction. Answers the ids of the jobs that stand
/// for them.
pub(super) async fn add(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<Vec<String>, BullError> {
    let connection = redis.queue.connection();
    let script: String = connection.cmd(redis::cmd("SCRIPT").arg("LOAD").arg(ADD)).await?;
    let mut pipe = redis::pipe();
    pipe.atomic();
    for accepted in jobs {
        let job = &*accepted.job;
        let data = format::data(accepted, inner.settings.rules(&job.name));
        let deduplication = job.options.deduplication.as_ref();
        let of_key =
            deduplication.map_or_else(|| inner.keys.job(job.id.as_str()), |d| inner.keys.deduplication(&d.key));
        pipe.cmd("EVALSHA").arg(&script).arg(11).arg(inner.keys.job(job.id.as_str()));
        for key in ["meta", "id", "events", "wait", "active", "prioritized", "pc", "delayed", "marker"] {
            pipe.arg(inner.keys.bull(key));
        }
        pipe.arg(of_key).arg(job.id.as_str()).arg(job.name.as_str()).arg(data.get()).arg(options(job).to_string());
        pipe.arg(job.submitted_at.as_millis()).arg(delay(job)).arg(job.options.priority);
        pipe.arg(deduplication.map_or("", |d| d.key.as_str()));
        pipe.arg(deduplication.and_then(|d| d.ttl).map_or(0, millis)).arg(inner.keys.bull(""));
    }
    Ok(connection.pipe(&pipe).await?)
}

/// Notes the contexts of jobs that come after others, which only the crate can add. A worker that takes one of them in
/// that moment does not see it, and its attempt lacks a link.
pub(super) async fn note(inner: &Inner, redis: &BullClient, jobs: &[AcceptedJob]) -> Result<(), BullError> {
    let mut pipe = redis::pipe();
    for job in jobs.iter().map(|accepted| &accepted.job) {
        let Some(trace) = &job.trace else { continue };
        pipe.cmd("EVAL").arg(NOTE).arg(1).arg(inner.keys.job(job.id.as_str()));
        pipe.arg(json!(carrier(trace)).to_string()).ignore();
    }
    if pipe.is_empty() {
        return Ok(());
    }
    Ok(redis.queue.connection().pipe(&pipe).await?)
}

#[cfg(test)]
mod tests {
    use bullmq::JobOptions as BullOptions;

    use super::super::options::Wanted;
    use super::super::telemetry::context;
    use super::*;
    use crate::domain::{Backoff, Deduplication, JobId, JobName, JobOptions, Timestamp, TraceContext};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_options_of_a_job_with_a_context_say_what_the_crates_would() {
        let trace = TraceContext::parse(PARENT, "").unwrap();
        let mut job = Job {
            id: JobId::parse("0192-a").unwrap(),
            name: JobName::parse("resize").unwrap(),
            options: JobOptions { attempts: 4, delay: Duration::from_micros(10), priority: 7, ..JobOptions::default() },
            submitted_at: Timestamp::EPOCH,
            trace: Some(trace.as_link()),
        };
        job.options.backoff = Backoff { delay: Duration::from_millis(50), ..Backoff::default() };
        job.options.deduplication = Some(Deduplication { key: "k\"".to_owned(), ttl: Some(Duration::from_secs(1)) });
        let written = options(&job).to_string();
        let read: BullOptions = serde_json::from_str(&written).unwrap();
        assert_eq!(Wanted::of(&read), Wanted::of(&format::options(&job)));
        assert_eq!(read.job_id.as_deref(), Some("0192-a"));
        assert_eq!(context(&written), job.trace);
    }
}
