//! Schedules and changes of all queues, as of one.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::super::change_feed::{ChangeFeed, QueueChanges, QueueEntry};
use super::super::schedules::{ScheduleStanding, in_order};
use super::super::{QueueError, QueueErrorKind, Scheduler};
use super::{BullQueue, BullQueues};
use crate::domain::{JobId, Schedule, ScheduleId, Timestamp};

impl BullQueues {
    /// The queue that has the schedule, with the schedule.
    async fn queue_of_schedule(
        &self,
        id: &ScheduleId,
    ) -> Result<Option<(Arc<BullQueue>, ScheduleStanding)>, QueueError> {
        let default = &self.known.default;
        if let Some(standing) = default.find_schedule(id).await? {
            return Ok(Some((default.clone(), standing)));
        }
        let others = self.named_now().await?;
        let found = try_join_all(others.iter().map(|queue| queue.find_schedule(id))).await?;
        Ok(others.into_iter().zip(found).find_map(|(queue, standing)| Some((queue, standing?))))
    }
}

#[async_trait]
impl Scheduler for BullQueues {
    /// A schedule that goes to another queue is in both for a moment: in no case in none.
    async fn put_schedule(&self, schedule: Arc<Schedule>) -> Result<bool, QueueError> {
        let target = match &schedule.job.options.queue {
            Some(name) => self.known.enter(name).await?,
            None => self.known.default.clone(),
        };
        let before = self.queue_of_schedule(&schedule.id).await?;
        let Some((other, standing)) = before.filter(|(queue, _)| !Arc::ptr_eq(queue, &target)) else {
            return target.put_schedule(schedule).await;
        };
        target.put_schedule(schedule.clone()).await?;
        if standing.paused {
            target.pause_schedule(&schedule.id, true).await?;
        }
        other.remove_schedule(&schedule.id).await?;
        Ok(false)
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStanding>, QueueError> {
        let queues = self.known.all().await?;
        let all = try_join_all(queues.iter().map(|queue| queue.schedules())).await?;
        Ok(in_order(all.into_iter().flatten().collect()))
    }

    async fn find_schedule(&self, id: &ScheduleId) -> Result<Option<ScheduleStanding>, QueueError> {
        Ok(self.queue_of_schedule(id).await?.map(|(_, standing)| standing))
    }

    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, QueueError> {
        if self.known.default.remove_schedule(id).await? {
            return Ok(true);
        }
        let others = self.named_now().await?;
        let removed = try_join_all(others.iter().map(|queue| queue.remove_schedule(id))).await?;
        Ok(removed.contains(&true))
    }

    async fn pause_schedule(&self, id: &ScheduleId, paused: bool) -> Result<bool, QueueError> {
        match self.queue_of_schedule(id).await? {
            Some((queue, _)) => queue.pause_schedule(id, paused).await,
            None => Ok(false),
        }
    }
}

/// The positions of several queues, by name. The default one alone has a plain one, as before there were others.
type Positions = BTreeMap<String, String>;

#[async_trait]
impl ChangeFeed for BullQueues {
    async fn changes(&self) -> Result<QueueChanges, QueueError> {
        let queues = self.known.all().await?;
        let mut parts = try_join_all(queues.iter().map(|queue| queue.changes())).await?;
        if let [_] = &*parts {
            return Ok(parts.remove(0));
        }
        let mut merged = QueueChanges::default();
        let mut positions = Positions::new();
        for (queue, part) in queues.iter().zip(parts) {
            merged.all.extend(part.all);
            merged.more |= part.more;
            merged.has_gaps |= part.has_gaps;
            let name = queue.inner.settings.queue().to_string();
            positions.extend(part.position.map(|position| (name, position)));
        }
        let only_default = positions.len() == 1;
        let of_default = positions.get(self.known.default.inner.settings.queue().as_str());
        merged.position = match of_default {
            Some(position) if only_default => Some(position.clone()),
            _ if positions.is_empty() => None,
            _ => Some(serde_json::to_string(&positions).map_err(corrupt)?),
        };
        Ok(merged)
    }

    async fn acknowledge(&self, position: &str) -> Result<(), QueueError> {
        if !position.starts_with('{') {
            return self.known.default.acknowledge(position).await;
        }
        let positions: Positions = serde_json::from_str(position).map_err(corrupt)?;
        let queues = self.known.all().await?;
        let acknowledged = queues.iter().filter_map(|queue| {
            let position = positions.get(queue.inner.settings.queue().as_str())?;
            Some(queue.acknowledge(position))
        });
        try_join_all(acknowledged).await?;
        Ok(())
    }

    async fn entries(&self, ids: &[JobId]) -> Result<Vec<QueueEntry>, QueueError> {
        let found = self.known.default.entries(ids).await?;
        let ask = |queue: Arc<BullQueue>, ids: Vec<JobId>| async move { queue.entries(&ids).await };
        self.complete(ids, found, |entry| *entry == QueueEntry::Gone, ask).await
    }

    async fn are_open(&self, jobs: &[(JobId, Timestamp)]) -> Result<Vec<bool>, QueueError> {
        let open = self.known.default.are_open(jobs).await?;
        let ask = |queue: Arc<BullQueue>, jobs: Vec<(JobId, Timestamp)>| async move { queue.are_open(&jobs).await };
        self.complete(jobs, open, |is_open| !is_open, ask).await
    }
}

fn corrupt(error: serde_json::Error) -> QueueError {
    QueueError::new(QueueErrorKind::Corrupt, "a position among the queues' changes can't be read").caused_by(error)
}
