//! Tells history what a job is given whose `submitted` event was never written: the queue still knows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Interrupted;
use crate::domain::{AcceptedJob, Event, JobId};
use crate::events::EventSink;
use crate::logging::chain;
use crate::queue::Queue;
use crate::reconnect::ReconnectBackoff;
use crate::store::History;

/// Asks the queue for what history lacks.
pub struct BodyReconciler {
    /// Knows what jobs are given while it has them.
    pub queue: Arc<dyn Queue>,
    /// Says what is lacking.
    pub history: Arc<dyn History>,
    /// Takes it.
    pub sink: Arc<dyn EventSink>,
}

impl BodyReconciler {
    /// Goes through the jobs of which [`crate::projector::new_missing_bodies`] tells, until `stop`. Where something can't be
    /// reached it tries again. Drops the job in hand at the stop: its one write is whole or was not made.
    pub async fn run(self, mut missing: mpsc::Receiver<JobId>, stop: CancellationToken) {
        let work = async {
            while let Some(id) = missing.recv().await {
                let mut waits = ReconnectBackoff::new(Duration::from_millis(200), Duration::from_secs(10));
                while let Err(error) = self.append_submission(&id).await {
                    tracing::warn!(job = %id, error = chain(&error), "history lacks what a job is given; trying again");
                    tokio::time::sleep(waits.next_wait()).await;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn append_submission(&self, id: &JobId) -> Result<(), Interrupted> {
        let Some(record) = self.history.job_without_result(id).await?.filter(|record| record.lacks_body()) else {
            return Ok(());
        };
        let Some(own_id) = record.own_id() else { return Ok(()) };
        let queued = self.queue.find(std::slice::from_ref(&own_id)).await?.pop().flatten();
        let Some(queued) = queued.filter(|queued| queued.job.submitted_at == record.submitted_at) else {
            tracing::warn!(job = %id, "history does not know what a job was given, and the queue has let go of it");
            return Ok(());
        };
        if let Some(body) = queued.body {
            tracing::info!(job = %id, "the submission of a job was not written down; history is told");
            self.sink.append(&[Event::submitted(AcceptedJob { job: queued.job, body })]).await?;
        }
        Ok(())
    }
}
