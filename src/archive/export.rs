//! A store in, lines out.

use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{End, Header, STEP, VERSION};
use crate::domain::Timestamp;
use crate::store::{Projection, StoreError, codec};

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

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Job records.
    pub jobs: u64,
    /// Aggregates.
    pub shards: u64,
}

/// Writes all of history. The caller holds the projector's term, so that nothing moves meanwhile; `progress` is told how
/// many jobs have been written.
///
/// # Errors
/// When the store can't be read or `out` not be written. What has been written then lacks its last line.
pub async fn export(
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
    let mut end = End::default();
    let mut after = None;
    loop {
        let records = projection.scan(after.as_ref(), STEP).await?;
        let lines: Vec<_> = records.iter().map(|record| line("job", record)).collect();
        write(out, &lines).await?;
        end.jobs += lines.len() as u64;
        progress(end.jobs);
        match records.into_iter().next_back() {
            Some(last) => after = Some(last.id),
            None => break,
        }
    }
    for keys in projection.shard_keys().await?.chunks(STEP) {
        let shards = projection.load(&[], keys).await?.shards;
        let lines: Vec<_> = shards.iter().flatten().map(|shard| line("shard", &shard.document)).collect();
        write(out, &lines).await?;
        end.shards += lines.len() as u64;
    }
    write(out, &[line("end", &end)]).await?;
    out.flush().await?;
    Ok(Exported { jobs: end.jobs, shards: end.shards })
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
