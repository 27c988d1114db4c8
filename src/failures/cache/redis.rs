//! A cache in Redis, shared by all processes.
//!
//! All errors are one hash, by fingerprint. A value says until when it is kept, and is a few
//! hundred bytes, packed, because there is one for every kind of error that the whole fleet has
//! met. Each write strikes a few values whose time is over. The server forgets the hash when no
//! process has put anything into it for that long. A value that this version does not read counts
//! as forgotten. Older versions kept a key for each error: this version still reads it, and moves
//! it into the hash.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::bytes::Bytes;
use fred::interfaces::{KeysInterface, LuaInterface};
use fred::types::{Expiration, Value};
use futures_util::future::{join_all, try_join_all};

use super::{CacheError, ErrorCache, PublishedCategories};
use crate::domain::{Clock, Day, Fingerprint, JobId, KnownError, LimitScale};
use crate::redis::Redis;

/// The first byte of every value: how the rest is to be read. This one begins with the second in which it is over.
const FORMAT: u8 = 2;
/// The format of older versions' keys, which expire by themselves.
const FORMAT_OF_KEYS: u8 = 1;
/// Larger values are not kept: no model's vector is as long, and the server's memory is shared with the queue.
const MOST_BYTES: usize = 64 << 10;
/// How many keys are asked for or written at the same time.
const CHUNK: usize = 256;

/// KEYS: the hash. ARGV: now and the time to live in seconds, fingerprints each with its value.
const PUT: &str = "\
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[2])
local some = redis.call('HRANDFIELD', KEYS[1], 16, 'WITHVALUES')
for i = 1, #some, 2 do
  local format, over = string.byte(some[i + 1], 1), nil
  if format == 2 and #some[i + 1] >= 9 then over = struct.unpack('<I8', some[i + 1], 2) end
  if over and over <= tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], some[i]) end
end";

/// KEYS: the hash. ARGV: fingerprints.
const GET: &str = "return redis.call('HMGET', KEYS[1], unpack(ARGV))";

/// Remembers errors in Redis. Processes with the same server and queue share the errors.
pub struct RedisCache {
    redis: Redis,
    errors: String,
    /// The beginning of older versions' keys.
    prefix: String,
    published: String,
    limit_scales: String,
    embedded: String,
    ttl: Duration,
}

impl RedisCache {
    /// Opens the cache of the queue with this name. Errors are in the hash `jobber:<queue>:errors`,
    /// the published categories under `jobber:<queue>:categories`, the wider limits of jobs under
    /// `jobber:<queue>:limits:<job>`, and how many texts were embedded on a day under
    /// `jobber:<queue>:embedded:<day>`. The cache forgets an error `ttl` after it was put (at least
    /// a second). Sends nothing to the server.
    pub fn open(redis: Redis, queue: &str, ttl: Duration) -> Arc<Self> {
        let (prefix, published) = (format!("jobber:{queue}:error:"), format!("jobber:{queue}:categories"));
        let limit_scales = format!("jobber:{queue}:limits:");
        let embedded = format!("jobber:{queue}:embedded:");
        let errors = format!("jobber:{queue}:errors");
        Arc::new(Self {
            redis,
            errors,
            prefix,
            published,
            limit_scales,
            embedded,
            ttl: ttl.max(Duration::from_secs(1)),
        })
    }

    fn key(&self, fingerprint: &Fingerprint) -> String {
        format!("{}{fingerprint}", self.prefix)
    }

    /// Fills gaps with errors from older versions' keys, and moves these into the hash.
    async fn move_older(&self, asked: &[Fingerprint], known: &mut [Option<KnownError>]) -> Result<(), CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let gaps: Vec<_> = (0..known.len()).filter(|i| known[*i].is_none()).collect();
        let mut moved = Vec::new();
        for chunk in gaps.chunks(CHUNK) {
            // One by one, but sent together: in a cluster they lie on different nodes.
            let values = join_all(chunk.iter().map(|i| client.get::<Option<Bytes>, _>(self.key(&asked[*i])))).await;
            for (i, value) in chunk.iter().zip(values) {
                let Some(value) = value.map_err(|e| self.failed(&e))? else { continue };
                known[*i] = unpack_key(asked[*i], &value);
                moved.extend(known[*i].clone());
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        self.put(&moved).await?;
        let gone = moved.iter().map(|error| client.del::<(), _>(self.key(&error.fingerprint)));
        try_join_all(gone).await.map_err(|e| self.failed(&e))?;
        Ok(())
    }

    fn failed(&self, error: &fred::error::Error) -> CacheError {
        CacheError::unavailable(self.redis.failed(error))
    }
}

#[async_trait]
impl ErrorCache for RedisCache {
    async fn get(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<KnownError>>, CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let now = now();
        let mut known = Vec::with_capacity(fingerprints.len());
        for chunk in fingerprints.chunks(CHUNK) {
            let names: Vec<_> = chunk.iter().map(Fingerprint::to_string).collect();
            let values: Vec<Option<Bytes>> =
                client.eval(GET, self.errors.as_str(), names).await.map_err(|e| self.failed(&e))?;
            known.extend(chunk.iter().zip(values).map(|(f, value)| unpack(*f, &value?, now)));
        }
        self.move_older(fingerprints, &mut known).await?;
        Ok(known)
    }

    async fn put(&self, errors: &[KnownError]) -> Result<(), CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let (now, ttl) = (now(), self.ttl.as_secs());
        for chunk in errors.chunks(CHUNK) {
            let packed =
                chunk.iter().filter_map(|error| Some((error.fingerprint, pack(error, now.saturating_add(ttl))?)));
            let fields = packed.flat_map(|(f, value)| [Value::from(f.to_string()), Value::Bytes(value.into())]);
            let times = [now, ttl].map(|seconds| Value::from(seconds.to_string()));
            let args: Vec<_> = times.into_iter().chain(fields).collect();
            if args.len() > 2 {
                client.eval::<(), _, _, _>(PUT, self.errors.as_str(), args).await.map_err(|e| self.failed(&e))?;
            }
        }
        Ok(())
    }

    async fn published(&self) -> Result<Option<PublishedCategories>, CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let value: Option<Bytes> = client.get(&self.published).await.map_err(|e| self.failed(&e))?;
        Ok(value.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    async fn publish(&self, categories: &PublishedCategories) -> Result<(), CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let value = Bytes::from(serde_json::to_vec(categories).map_err(CacheError::unavailable)?);
        client.set(&self.published, value, None, None, false).await.map_err(|e| self.failed(&e))
    }

    async fn limit_scale(&self, job: &JobId) -> Result<Option<LimitScale>, CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let value: Option<Bytes> =
            client.get(format!("{}{job}", self.limit_scales)).await.map_err(|e| self.failed(&e))?;
        Ok(value.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    async fn put_limit_scale(&self, job: &JobId, scale: LimitScale) -> Result<(), CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let value = Bytes::from(serde_json::to_vec(&scale).map_err(CacheError::unavailable)?);
        let ttl = Expiration::EX(i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX));
        let key = format!("{}{job}", self.limit_scales);
        client.set(key, value, Some(ttl), None, false).await.map_err(|e| self.failed(&e))
    }

    async fn spend(&self, day: Day, texts: u64, budget: u64) -> Result<Option<u64>, CacheError> {
        // Long enough for processes whose clocks are apart.
        const KEPT: i64 = 2 * 86_400;
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let (key, texts) = (format!("{}{day}", self.embedded), i64::try_from(texts).unwrap_or(i64::MAX / 2));
        let spent: i64 = client.incr_by(&key, texts).await.map_err(|e| self.failed(&e))?;
        let left = u64::try_from(spent).ok().and_then(|spent| budget.checked_sub(spent));
        if left.is_none() {
            let _: i64 = client.decr_by(&key, texts).await.map_err(|e| self.failed(&e))?;
        }
        let _: i64 = client.expire(&key, KEPT, None).await.map_err(|e| self.failed(&e))?;
        Ok(left)
    }
}

/// The time of the system's clock, in seconds since 1970.
fn now() -> u64 {
    Clock::system().now().as_millis().unsigned_abs() / 1000
}

/// Packs an error: the format, the second in which its time is over, model, category, vector. Texts
/// have their length before them, a missing category has the longest length. `None` when the value
/// would be too large to keep.
fn pack(error: &KnownError, over: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![FORMAT];
    bytes.extend(over.to_le_bytes());
    pack_text(&mut bytes, Some(&error.model))?;
    pack_text(&mut bytes, error.category.as_deref())?;
    bytes.extend(error.vector.iter().flat_map(|x| x.to_le_bytes()));
    (bytes.len() <= MOST_BYTES).then_some(bytes)
}

fn pack_text(bytes: &mut Vec<u8>, text: Option<&str>) -> Option<()> {
    let length = match text {
        Some(text) => u16::try_from(text.len()).ok().filter(|n| *n < u16::MAX)?,
        None => u16::MAX,
    };
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.unwrap_or_default().as_bytes());
    Some(())
}

fn unpack(fingerprint: Fingerprint, bytes: &[u8], now: u64) -> Option<KnownError> {
    let (over, bytes) = bytes.strip_prefix(&[FORMAT])?.split_first_chunk()?;
    (u64::from_le_bytes(*over) > now).then(|| unpack_rest(fingerprint, bytes)).flatten()
}

/// Reads the value of an older version's key.
fn unpack_key(fingerprint: Fingerprint, bytes: &[u8]) -> Option<KnownError> {
    unpack_rest(fingerprint, bytes.strip_prefix(&[FORMAT_OF_KEYS])?)
}

fn unpack_rest(fingerprint: Fingerprint, bytes: &[u8]) -> Option<KnownError> {
    let (model, bytes) = unpack_text(bytes)?;
    let (category, bytes) = unpack_text(bytes)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    let vector = numbers.iter().map(|n| f32::from_le_bytes(*n)).collect();
    rest.is_empty().then_some(KnownError { fingerprint, category, vector, model: model? })
}

fn unpack_text(bytes: &[u8]) -> Option<(Option<String>, &[u8])> {
    let (length, bytes) = bytes.split_first_chunk()?;
    let length = u16::from_le_bytes(*length);
    if length == u16::MAX {
        return Some((None, bytes));
    }
    let (text, bytes) = bytes.split_at_checked(length.into())?;
    Some((Some(String::from_utf8(text.to_vec()).ok()?), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(category: Option<&str>) -> KnownError {
        KnownError {
            fingerprint: Fingerprint::from_bytes([7; 32]),
            category: category.map(str::to_owned),
            vector: vec![0.25, -1.0, f32::MIN_POSITIVE],
            model: "static-é".to_owned(),
        }
    }

    #[test]
    fn what_was_packed_reads_back_and_what_is_broken_does_not() {
        for category in [None, Some(""), Some("network")] {
            let packed = pack(&error(category), 8).unwrap();
            assert!(packed.len() < 48, "{}", packed.len());
            assert_eq!(unpack(error(None).fingerprint, &packed, 7), Some(error(category)));
            assert_eq!(unpack(error(None).fingerprint, &packed, 8), None, "it is over");
            for end in 0..packed.len() {
                // A vector that ends early at a number is one of another length: the one thing that can't be told.
                if !(packed.len() - end).is_multiple_of(4) {
                    assert_eq!(unpack(error(None).fingerprint, &packed[..end], 7), None, "cut at {end}");
                }
            }
            assert_eq!(unpack(error(None).fingerprint, &[&[FORMAT + 1], &packed[1..]].concat(), 7), None);
            let older = [&[FORMAT_OF_KEYS], &packed[9..]].concat();
            assert_eq!(unpack_key(error(None).fingerprint, &older), Some(error(category)));
        }
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        assert_eq!(pack(&KnownError { vector: vec![0.0; MOST_BYTES], ..error(None) }, 1), None);
        assert_eq!(pack(&KnownError { model: "m".repeat(70_000), ..error(None) }, 1), None);
    }
}
