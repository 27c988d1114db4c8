//! A cache in Redis, shared by all processes.
//!
//! An error is a key with a time to live, its value a few hundred bytes: packed, because there is one for every kind of
//! error that the whole fleet has met. The server forgets the keys by itself; a value that this version does not read
//! counts as forgotten.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::bytes::Bytes;
use fred::interfaces::KeysInterface;
use fred::types::Expiration;
use futures_util::future::{join_all, try_join_all};

use crate::domain::{Day, Fingerprint, JobId, KnownError, Stretch};
use crate::failures::{CacheError, ErrorCache, PublishedCategories};
use crate::redis::Redis;

/// The first byte of every value: how the rest is to be read.
const FORMAT: u8 = 1;
/// Larger values are not kept: no model's vector is as long, and the server's memory is shared with the queue.
const MOST_BYTES: usize = 64 << 10;
/// Keys that are asked for or written at the same time.
const CHUNK: usize = 256;

/// Remembers errors in Redis. Processes with the same server and queue share what is known.
pub struct RedisCache {
    redis: Redis,
    prefix: String,
    published: String,
    stretches: String,
    embedded: String,
    ttl: Duration,
}

impl RedisCache {
    /// The cache of the queue with this name, under `jobber:<queue>:error:<fingerprint>`, and the published categories
    /// under `jobber:<queue>:categories`, what jobs get more under `jobber:<queue>:limits:<job>`, and how many texts were embedded on a day under
    /// `jobber:<queue>:embedded:<day>`. It forgets an error `ttl` after
    /// it was put (at least a second). Nothing is asked of the server here.
    pub fn open(redis: Redis, queue: &str, ttl: Duration) -> Arc<Self> {
        let (prefix, published) = (format!("jobber:{queue}:error:"), format!("jobber:{queue}:categories"));
        let stretches = format!("jobber:{queue}:limits:");
        let embedded = format!("jobber:{queue}:embedded:");
        Arc::new(Self { redis, prefix, published, stretches, embedded, ttl: ttl.max(Duration::from_secs(1)) })
    }

    fn key(&self, fingerprint: &Fingerprint) -> String {
        format!("{}{fingerprint}", self.prefix)
    }

    fn failed(&self, error: &fred::error::Error) -> CacheError {
        CacheError::unavailable(self.redis.failed(error))
    }
}

#[async_trait]
impl ErrorCache for RedisCache {
    async fn get(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<KnownError>>, CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let mut known = Vec::with_capacity(fingerprints.len());
        for chunk in fingerprints.chunks(CHUNK) {
            // One by one, but sent together: in a cluster they lie on different nodes.
            let values = chunk.iter().map(|f| client.get::<Option<Bytes>, _>(self.key(f)));
            for (fingerprint, value) in chunk.iter().zip(join_all(values).await) {
                let value = value.map_err(|e| self.failed(&e))?;
                known.push(value.and_then(|bytes| unpack(*fingerprint, &bytes)));
            }
        }
        Ok(known)
    }

    async fn put(&self, errors: &[KnownError]) -> Result<(), CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let ttl = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        for chunk in errors.chunks(CHUNK) {
            let values = chunk.iter().filter_map(|error| Some((self.key(&error.fingerprint), pack(error)?)));
            let puts = values.map(|(key, value)| {
                let value = Bytes::from(value);
                client.set::<(), _, _>(key, value, Some(Expiration::EX(ttl)), None, false)
            });
            try_join_all(puts).await.map_err(|e| self.failed(&e))?;
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

    async fn stretch(&self, job: &JobId) -> Result<Option<Stretch>, CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let value: Option<Bytes> = client.get(format!("{}{job}", self.stretches)).await.map_err(|e| self.failed(&e))?;
        Ok(value.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    async fn put_stretch(&self, job: &JobId, stretch: Stretch) -> Result<(), CacheError> {
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let value = Bytes::from(serde_json::to_vec(&stretch).map_err(CacheError::unavailable)?);
        let ttl = Expiration::EX(i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX));
        let key = format!("{}{job}", self.stretches);
        client.set(key, value, Some(ttl), None, false).await.map_err(|e| self.failed(&e))
    }

    async fn spend(&self, day: Day, texts: u64, budget: u64) -> Result<bool, CacheError> {
        // Long enough for processes whose clocks are apart.
        const KEPT: i64 = 2 * 86_400;
        let client = self.redis.client().await.map_err(CacheError::unavailable)?;
        let (key, texts) = (format!("{}{day}", self.embedded), i64::try_from(texts).unwrap_or(i64::MAX / 2));
        let spent: i64 = client.incr_by(&key, texts).await.map_err(|e| self.failed(&e))?;
        let fits = u64::try_from(spent).is_ok_and(|spent| spent <= budget);
        if !fits {
            let _: i64 = client.decr_by(&key, texts).await.map_err(|e| self.failed(&e))?;
        }
        let _: i64 = client.expire(&key, KEPT, None).await.map_err(|e| self.failed(&e))?;
        Ok(fits)
    }
}

/// Format, model, category, vector; texts with their length before them, a missing category as the longest length.
/// `None` when that would be too much to keep.
fn pack(error: &KnownError) -> Option<Vec<u8>> {
    let mut bytes = vec![FORMAT];
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

fn unpack(fingerprint: Fingerprint, bytes: &[u8]) -> Option<KnownError> {
    let bytes = bytes.strip_prefix(&[FORMAT])?;
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
            let packed = pack(&error(category)).unwrap();
            assert!(packed.len() < 40, "{}", packed.len());
            assert_eq!(unpack(error(None).fingerprint, &packed), Some(error(category)));
            for end in 0..packed.len() {
                // A vector that ends early at a number is one of another length: the one thing that can't be told.
                if !(packed.len() - end).is_multiple_of(4) {
                    assert_eq!(unpack(error(None).fingerprint, &packed[..end]), None, "cut at {end}");
                }
            }
            assert_eq!(unpack(error(None).fingerprint, &[&[FORMAT + 1], &packed[1..]].concat()), None);
        }
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        assert_eq!(pack(&KnownError { vector: vec![0.0; MOST_BYTES], ..error(None) }), None);
        assert_eq!(pack(&KnownError { model: "m".repeat(70_000), ..error(None) }), None);
    }
}
