//! Only Jobber writes to this queue, so history knows each change already. But the file can go, or come back from an
//! older copy, while history is kept elsewhere: then jobs of history are not here.

use async_trait::async_trait;
use rusqlite::OptionalExtension;

use super::super::change_feed::{ChangeFeed, QueueChanges, QueueEntry};
use super::super::{Queue, QueueError};
use super::EmbeddedQueue;
use crate::domain::{JobId, Timestamp};

#[async_trait]
impl ChangeFeed for EmbeddedQueue {
    async fn changes(&self) -> Result<QueueChanges, QueueError> {
        Ok(QueueChanges::default())
    }

    async fn acknowledge(&self, _: &str) -> Result<(), QueueError> {
        Ok(())
    }

    async fn entries(&self, ids: &[JobId]) -> Result<Vec<QueueEntry>, QueueError> {
        let found = self.find(ids).await?;
        Ok(found.into_iter().map(|job| job.map_or(QueueEntry::Gone, |job| QueueEntry::Job(Box::new(job)))).collect())
    }

    async fn are_open(&self, jobs: &[(JobId, Timestamp)]) -> Result<Vec<bool>, QueueError> {
        let jobs = jobs.to_vec();
        let open = self.inner.db.read(move |c| {
            let mut select = c.prepare_cached("SELECT state < 4 FROM queue_jobs WHERE id = ?1")?;
            jobs.iter()
                .map(|(id, _)| Ok(select.query_row([id.as_str()], |row| row.get(0)).optional()?.unwrap_or(false)))
                .collect::<rusqlite::Result<Vec<bool>>>()
        });
        Ok(open.await?)
    }
}
