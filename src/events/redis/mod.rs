//! The event log as one Redis stream, shared by any number of machines.
//!
//! An entry is an event, and a cursor is an entry's id. The server gives ids out in ascending order, even
//! when its clock steps back. It never gives one out twice, since a trimmed stream keeps its last one.
//!
//! An append is a script of four lines rather than MULTI. The cap is then exact for any number of
//! writers, a refusal leaves no trace, and the append costs one round trip that others share. Also,
//! the client can't be cut off in the middle of it (between MULTI and EXEC it would hold up every
//! other command on its connection). An append that the server has confirmed lasts as long as the
//! server's own persistence keeps it. An append that broke off may have been made all the same.
//! When its writer repeats it, the event is in the stream twice, which changes nothing: the second
//! of two events with the same [`crate::domain::EventKey`] has no effect.

mod tail;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::bytes::Bytes;
use fred::clients::WithOptions;
use fred::interfaces::{ClientLike, LuaInterface, StreamsInterface};
use fred::prelude::Client;
use fred::types::Value;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Cursor, EventError, EventErrorKind, EventSink, EventSource, LogSpan, codec};
use crate::domain::{CategoryEvent, Entry, Event};
use crate::metrics::Operation;
use crate::redis::{Redis, RedisError, RedisErrorKind, within};
use tail::Tail;

/// KEYS: stream. ARGV: cap, then events. Returns the last id, or nothing when the cap would be passed.
const APPEND: &str = "\
if redis.call('XLEN', KEYS[1]) + #ARGV - 1 > tonumber(ARGV[1]) then return false end
local id
for i = 2, #ARGV do id = redis.call('XADD', KEYS[1], '*', 'event', ARGV[i]) end
return id";

/// KEYS: the key that names the history which follows the log. ARGV: history. Returns the name that was set first.
const OWN: &str = "\
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])";

/// KEYS: stream, hash of parked entries. ARGV: id, reason.
const PARK: &str = "\
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if found then
  for i = 1, #found[2], 2 do redis.call('HSET', KEYS[2], ARGV[1] .. ':' .. found[2][i], found[2][i + 1]) end
  redis.call('HSET', KEYS[2], ARGV[1] .. ':reason', ARGV[2])
  redis.call('HINCRBY', KEYS[2], 'count', 1)
  redis.call('XDEL', KEYS[1], ARGV[1])
end";

/// KEYS: stream. ARGV: the place before. Returns the id of the next entry, and its size in bytes.
const SIZE: &str = "\
local found = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1)[1]
if not found then return false end
local size = 0
for i = 1, #found[2] do size = size + #found[2][i] end
return {found[1], tostring(size)}";

/// KEYS: hash of parked entries. Returns how many were put there.
const PARKED: &str = "return redis.call('HGET', KEYS[1], 'count')";
/// An append to the event log.
static WRITE: Operation = Operation::new("redis", "append");
/// A read of the event log.
static READ: Operation = Operation::new("redis", "read");
/// An entry of more bytes than this can't be an event: a job's body and its output tails are far smaller.
const LARGEST: u64 = 64 << 20;
/// The field of an entry that holds the event.
const FIELD: &[u8] = b"event";
/// How many entries one command reads. Even with the largest output tails these are only a few megabytes.
const CHUNK: usize = 100;
/// Events of this many bytes end a read before its limit: output tails make some of them large.
const READ_BYTES: usize = 8 << 20;
/// How long one append, or one chunk of a read, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a trim may take: the server frees about a million entries a second.
const TRIM_PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait of one read. A longer one is cut to it.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The log in a Redis stream. Processes with the same server and queue see the same log.
pub struct RedisLog {
    redis: Redis,
    stream: String,
    parked: String,
    owner: String,
    cap: u64,
    tail: Tail,
}

type StreamEntry = (String, HashMap<Vec<u8>, Bytes>);

impl RedisLog {
    /// Opens the log of the queue with this name, for at most `cap` events. The log is the stream
    /// `jobber:{<queue>}:events`. Parked entries lie in the hash `jobber:{<queue>}:events:parked`,
    /// and `jobber:{<queue>}:events:history` names the history that follows the log. The braces,
    /// left out when the name has some, keep the keys on one node of a cluster. `jobber:` keeps
    /// them apart from BullMQ's own `<queue>:events`. A task on `tasks` watches for news while a
    /// reader waits for them, and ends with the log.
    ///
    /// This asks nothing of the server, so a log can be opened while the server is away.
    ///
    /// # Errors
    /// When the cap is 0.
    pub fn open(redis: Redis, queue: &str, cap: u64, tasks: &TaskTracker) -> Result<Arc<Self>, EventError> {
        if cap == 0 {
            return Err(EventError::new(EventErrorKind::Full, "an event log of 0 events takes none; raise events.cap"));
        }
        let tagged = if queue.contains('{') { queue.to_owned() } else { format!("{{{queue}}}") };
        let stream = format!("jobber:{tagged}:events");
        let tail = Tail::start(redis.clone(), stream.clone(), tasks);
        let (parked, owner) = (format!("{stream}:parked"), format!("{stream}:history"));
        Ok(Arc::new(Self { redis, stream, parked, owner, cap, tail }))
    }

    async fn client(&self, patience: Duration) -> Result<WithOptions<Client>, EventError> {
        Ok(self.redis.client().await.map_err(failed)?.with_options(&within(patience)))
    }

    fn failed(&self, error: &fred::error::Error) -> EventError {
        failed(self.redis.failed(error))
    }

    /// Reads the next entries. When that fails, reads only the first of them, unless it is too
    /// large to be an event: then that is the error, with its place.
    async fn entries(&self, after: Cursor, limit: usize) -> Result<Vec<StreamEntry>, EventError> {
        let error = match self.chunks(after, limit).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let client = self.client(PATIENCE).await?;
        let next: Option<(String, u64)> =
            client.eval(SIZE, self.stream.as_str(), after.to_string()).await.map_err(|e| self.failed(&e))?;
        match next {
            Some((id, size)) if size > LARGEST => {
                Err(corrupt(format!("an entry of {size} bytes is no event")).found_at(cursor(&id)?))
            }
            Some(_) if limit > 1 => self.chunks(after, 1).await,
            _ => Err(error),
        }
    }

    async fn chunks(&self, after: Cursor, limit: usize) -> Result<Vec<StreamEntry>, EventError> {
        let (mut found, mut bytes, mut after) = (Vec::new(), 0, format!("({after}"));
        let client = self.client(PATIENCE).await?;
        while found.len() < limit && bytes < READ_BYTES {
            let asked = CHUNK.min(limit - found.len());
            let range = client.xrange_values(&self.stream, after.as_str(), "+", Some(asked as u64));
            let chunk: Vec<StreamEntry> = READ.time(range).await.map_err(|e| self.failed(&e))?;
            let is_last = chunk.len() < asked;
            bytes += chunk.iter().flat_map(|(_, fields)| fields.values()).map(Bytes::len).sum::<usize>();
            found.extend(chunk);
            match found.last() {
                Some((last, _)) if !is_last => after = format!("({last}"),
                _ => break,
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl EventSink for RedisLog {
    async fn append(&self, events: &[Event]) -> Result<Cursor, EventError> {
        if events.is_empty() {
            return Ok(self.span().await?.last);
        }
        self.write(events.iter().map(codec::encode).collect()).await
    }

    async fn append_change(&self, event: &CategoryEvent) -> Result<Cursor, EventError> {
        self.write(vec![codec::encode_change(event)]).await
    }
}

impl RedisLog {
    /// Reads the entries after `after`, and waits for some.
    async fn entries_within(
        &self,
        after: Cursor,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<StreamEntry>, EventError> {
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let found = self.entries(after, limit).await?;
            let left = until.saturating_duration_since(Instant::now());
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            self.tail.wait_for_events(after, left).await;
        }
    }

    async fn write(&self, bodies: Vec<Vec<u8>>) -> Result<Cursor, EventError> {
        let cap = Value::from(self.cap.to_string());
        let args: Vec<Value> = std::iter::once(cap).chain(bodies.into_iter().map(|b| Value::Bytes(b.into()))).collect();
        let client = self.client(PATIENCE).await?;
        let append = client.eval(APPEND, self.stream.as_str(), args);
        let last: Option<String> = WRITE.time(append).await.map_err(|e| self.failed(&e))?;
        match last {
            Some(id) => cursor(&id),
            None => Err(EventError::new(
                EventErrorKind::Full,
                format!("the event log is at its cap of {} events; history is behind, check the projector", self.cap),
            )),
        }
    }
}

#[async_trait]
impl EventSource for RedisLog {
    async fn read(&self, after: Cursor, limit: usize, wait: Duration) -> Result<Vec<(Cursor, Entry)>, EventError> {
        readable(self.entries_within(after, limit, wait).await?, codec::decode)
    }

    async fn read_without_bodies(
        &self,
        after: Cursor,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<(Cursor, Entry)>, EventError> {
        readable(self.entries_within(after, limit, wait).await?, codec::decode_without_body)
    }

    async fn span(&self) -> Result<LogSpan, EventError> {
        let mut span = LogSpan { last: Cursor::START, length: 0, cap: self.cap };
        let info: HashMap<String, Value> =
            match self.client(PATIENCE).await?.xinfo_stream(self.stream.as_str(), false, None).await {
                Ok(info) => info,
                Err(e) if e.details().contains("no such key") => return Ok(span),
                Err(e) => return Err(self.failed(&e)),
            };
        let last = info.get("last-generated-id").and_then(Value::as_string);
        let length = info.get("length").and_then(Value::as_u64);
        let (Some(last), Some(length)) = (last, length) else {
            return Err(corrupt("the server tells nothing of the stream's end and length"));
        };
        span.last = cursor(&last)?;
        span.length = length;
        Ok(span)
    }

    async fn trim(&self, through: Cursor) -> Result<u64, EventError> {
        let first_kept = match (through.minor.checked_add(1), through.major.checked_add(1)) {
            (Some(minor), _) => Cursor { minor, ..through },
            (None, Some(major)) => Cursor { major, minor: 0 },
            (None, None) => through,
        };
        let exactly = ("MINID", "=", first_kept.to_string(), None);
        self.client(TRIM_PATIENCE).await?.xtrim(self.stream.as_str(), exactly).await.map_err(|e| self.failed(&e))
    }

    async fn owner(&self, history: &str) -> Result<String, EventError> {
        let client = self.client(PATIENCE).await?;
        client.eval(OWN, self.owner.as_str(), history).await.map_err(|e| self.failed(&e))
    }

    async fn parked(&self) -> Result<u64, EventError> {
        let client = self.client(PATIENCE).await?;
        let count: Option<u64> = client.eval(PARKED, self.parked.as_str(), ()).await.map_err(|e| self.failed(&e))?;
        Ok(count.unwrap_or(0))
    }

    async fn park(&self, at: Cursor, reason: &str) -> Result<(), EventError> {
        let keys = vec![self.stream.as_str(), self.parked.as_str()];
        self.client(PATIENCE)
            .await?
            .eval(PARK, keys, vec![at.to_string().as_str(), reason])
            .await
            .map_err(|e| self.failed(&e))
    }
}

fn failed(error: RedisError) -> EventError {
    let kind = match error.kind {
        RedisErrorKind::Unavailable | RedisErrorKind::Refused => EventErrorKind::Unavailable,
        RedisErrorKind::Full => EventErrorKind::Full,
    };
    EventError::new(kind, "the event log can't be used").caused_by(error)
}

fn corrupt(what: impl Into<String>) -> EventError {
    EventError::new(EventErrorKind::Corrupt, what)
}

fn cursor(id: &str) -> Result<Cursor, EventError> {
    id.parse().map_err(corrupt)
}

/// The events before the first that can't be read. If that is the very first, returns its error, with its place.
fn readable(
    found: Vec<StreamEntry>,
    decode: fn(&[u8]) -> Result<Entry, EventError>,
) -> Result<Vec<(Cursor, Entry)>, EventError> {
    let mut events = Vec::with_capacity(found.len());
    for (id, fields) in found {
        let at = cursor(&id)?;
        if fields.values().map(|value| value.len() as u64).sum::<u64>() > LARGEST {
            let error = corrupt("an entry of the event log is too large to be an event").found_at(at);
            return if events.is_empty() { Err(error) } else { Ok(events) };
        }
        let body = fields.get(FIELD).ok_or_else(|| corrupt("an entry of the event log holds no event"));
        match body.and_then(|body| decode(body)) {
            Ok(event) => events.push((at, event)),
            Err(e) if events.is_empty() => return Err(e.found_at(at)),
            Err(_) => break,
        }
    }
    Ok(events)
}
