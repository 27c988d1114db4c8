//! Nobody but Jobber writes to this queue, so nothing is done to its jobs unseen. What can happen is that the file goes,
//! or comes back from an older copy, while history is kept elsewhere: then jobs of history are not here.

use async_trait::async_trait;
use rusqlite::OptionalExtension;

use super::super::witness::{Deeds, Held, Witness};
use super::super::{Queue, QueueError};
use super::EmbeddedQueue;
use crate::domain::{JobId, Timestamp};

#[async_trait]
impl Witness for EmbeddedQueue {
    async fn deeds(&self) -> Result<Deeds, QueueError> {
        Ok(Deeds::default())
    }

    async fn remember(&self, _: &str) -> Result<(), QueueError> {
        Ok(())
    }

    async fn held(&self, ids: &[JobId]) -> Result<Vec<Held>, QueueError> {
        let found = self.find(ids).await?;
        Ok(found.into_iter().map(|job| job.map_or(Held::Gone, |job| Held::Job(Box::new(job)))).collect())
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
