//! The inputs of jobs: contents that clients upload once, known by their digests.
//!
//! An input is there for as long as jobs use it, which its mark tells: an empty file, written anew at each use.

use std::time::Duration;

use futures_util::stream;

use super::{ArtifactError, ArtifactStore};
use crate::domain::{ContentDigest, Timestamp};

/// The first part of the keys of inputs.
pub const INPUTS: &str = "inputs";
/// The first part of the keys of their marks.
const MARKS: &str = "inputs-used";
/// How exact a mark is: a use sooner after the last one leaves it as it is.
const EXACTNESS: Duration = Duration::from_secs(3600);

/// The key of an input.
pub fn input_key(sha256: &ContentDigest) -> String {
    format!("{INPUTS}/{sha256}")
}

fn mark_key(sha256: &ContentDigest) -> String {
    format!("{MARKS}/{sha256}")
}

/// The size of an input, which counts as used from now on; `None` when it is not there.
///
/// # Errors
/// When the store is away.
pub async fn use_input(
    store: &dyn ArtifactStore,
    sha256: &ContentDigest,
    now: Timestamp,
) -> Result<Option<u64>, ArtifactError> {
    let Some((kept_at, size)) = store.look(&input_key(sha256)).await? else { return Ok(None) };
    if now.since(last_used(store, sha256, kept_at).await?) > EXACTNESS {
        store.put(&mark_key(sha256), Box::pin(stream::empty()), None).await?;
    }
    Ok(Some(size))
}

/// When an input that was kept at this time was last used.
///
/// # Errors
/// When the store is away.
pub async fn last_used(
    store: &dyn ArtifactStore,
    sha256: &ContentDigest,
    kept_at: Timestamp,
) -> Result<Timestamp, ArtifactError> {
    let mark = store.look(&mark_key(sha256)).await?;
    Ok(mark.map_or(kept_at, |(marked_at, _)| marked_at.max(kept_at)))
}

/// Removes an input and its mark.
///
/// # Errors
/// When the store is away.
pub async fn remove_input(store: &dyn ArtifactStore, sha256: &ContentDigest) -> Result<(), ArtifactError> {
    store.remove(&input_key(sha256)).await?;
    store.remove(&mark_key(sha256)).await
}
