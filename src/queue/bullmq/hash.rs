//! A job's hash, read once more where the crate may have read something else than what lies there.

use std::collections::HashMap;

use super::super::QueueError;
use super::{Inner, format};

/// What lies in Redis of a job, where the crate may have read something else.
pub(super) struct Hash {
    pub(super) fields: HashMap<String, String>,
    /// A field whose bytes are no text.
    pub(super) no_text: Option<&'static str>,
}

/// What lies in Redis of a job that was just taken; `None` when the crate has read it right.
pub(super) async fn look_again(inner: &Inner, stored: &bullmq::Job) -> Result<Option<Hash>, QueueError> {
    const FIELDS: [&str; 4] = ["name", "data", "opts", "timestamp"];
    if !format::is_doubtful(stored) {
        return Ok(None);
    }
    let redis = inner.link.get().await?;
    let mut get = redis::cmd("HMGET");
    get.arg(inner.keys.job(stored.id())).arg(&FIELDS);
    let values: Vec<Option<Vec<u8>>> = inner.link.call(redis.queue.connection().cmd(&mut get)).await?;
    let mut hash = Hash { fields: HashMap::new(), no_text: None };
    for (name, value) in FIELDS.into_iter().zip(values) {
        let Some(bytes) = value else { continue };
        if std::str::from_utf8(&bytes).is_err() {
            hash.no_text = Some(name);
        }
        hash.fields.insert(name.to_owned(), String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(Some(hash))
}
