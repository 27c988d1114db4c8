//! Writes a store as lines of JSON.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{BodyLine, End, Header, STEP, VERSION};
use crate::domain::{Fingerprint, Timestamp};
use crate::stats::ShardKey;
use crate::store::{History, Projection, StoreError, codec};

/// Why an export did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lines could not be written.
    #[error("couldn't write the lines")]
    Write(#[from] std::io::Error),
}

/// How many documents an export has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// How many job records.
    pub jobs: u64,
    /// How many aggregates, one for each day and job name.
    pub shards: u64,
    /// How many errors, with their vectors.
    pub errors: u64,
}

/// Writes all of a store, which is given by both of its sides. The caller holds the projector's term,
/// so that the store does not change meanwhile. `progress` is told how many jobs have been written.
///
/// # Errors
/// When the store can't be read or `out` can't be written. The lines written so far then
/// lack their last line.
pub async fn export(
    history: &dyn History,
    projection: &dyn Projection,
    out: &mut (dyn AsyncWrite + Send + Unpin),
    now: Timestamp,
    mut progress: impl FnMut(u64),
) -> Result<Exported, ExportError> {
    let header = Header {
        version: VERSION,
        jobber: env!("CARGO_PKG_VERSION").to_owned(),
        exported_at: now,
        cursor: projection.position().await?,
    };
    write(out, &[line("jobber_history", &header)]).await?;
    if let Some(categories) = projection.load_categories().await? {
        write(out, &[line("categories", &categories.document)]).await?;
    }
    let mut end = End::default();
    let mut after = None;
    loop {
        let records = projection.scan(after.as_ref(), STEP).await?;
        let ids: Vec<_> = records.iter().filter(|r| r.has_body).map(|record| record.id.clone()).collect();
        let mut bodies: HashMap<_, _> = ids.iter().zip(history.bodies(&ids).await?).collect();
        let mut lines = Vec::with_capacity(2 * records.len());
        for record in &records {
            lines.push(line("job", record));
            if let Some(body) = bodies.remove(&record.id).flatten() {
                lines.push(line("body", &BodyLine { of: record.id.clone(), is: body }));
            }
        }
        write(out, &lines).await?;
        end.jobs += records.len() as u64;
        progress(end.jobs);
        match records.into_iter().next_back() {
            Some(last) => after = Some(last.id),
            None => break,
        }
    }
    let keys = projection.shard_keys().await?;
    end.errors = write_errors(history, projection, &keys, out).await?;
    for keys in keys.chunks(STEP) {
        let shards = projection.load(&[], keys).await?.shards;
        let lines: Vec<_> = shards.iter().flatten().map(|shard| line("shard", &shard.document)).collect();
        write(out, &lines).await?;
        end.shards += lines.len() as u64;
    }
    for names in projection.build_names().await?.chunks(STEP) {
        let found = projection.load_builds(names).await?;
        let lines: Vec<_> = found.iter().flatten().map(|builds| line("builds", &builds.document)).collect();
        write(out, &lines).await?;
        end.builds += lines.len() as u64;
    }
    write(out, &[line("end", &end)]).await?;
    out.flush().await?;
    Ok(Exported { jobs: end.jobs, shards: end.shards, errors: end.errors })
}

/// Writes the errors before the aggregates that name them, as in [`crate::store::Commit`]. Answers
/// how many there were.
async fn write_errors(
    history: &dyn History,
    projection: &dyn Projection,
    keys: &[ShardKey],
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<u64, ExportError> {
    let mut named: BTreeSet<Fingerprint> = BTreeSet::new();
    for keys in keys.chunks(STEP) {
        for shard in projection.load(&[], keys).await?.shards.into_iter().flatten() {
            named.extend(shard.document.counts.failures.keys());
            named.extend(shard.document.counts.jobs_by_errors.keys().flat_map(|set| set.as_slice()));
        }
    }
    let (named, mut written) = (named.into_iter().collect::<Vec<_>>(), 0);
    for part in named.chunks(STEP) {
        let records = history.errors(part).await?;
        let lines: Vec<_> = records.iter().flatten().map(|record| line("error", record)).collect();
        write(out, &lines).await?;
        written += lines.len() as u64;
    }
    Ok(written)
}

fn line<T: Serialize>(kind: &str, value: &T) -> Vec<u8> {
    let mut line = format!("{{\"{kind}\":").into_bytes();
    line.extend(codec::encode(value));
    line.extend(b"}\n");
    line
}

async fn write(out: &mut (dyn AsyncWrite + Send + Unpin), lines: &[Vec<u8>]) -> std::io::Result<()> {
    for line in lines {
        out.write_all(line).await?;
    }
    Ok(())
}
