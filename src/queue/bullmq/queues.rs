//! All queues in one Redis, the default one and the named ones, as one adapter. Each is a queue of BullMQ's own.
//!
//! A call about a job asks the default queue first, and the others only where that one does not know the job. Calls
//! about all queues ask them side by side.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use tokio_util::task::TaskTracker;

use super::super::{
    Cancellation, Change, ClaimOptions, Claims, CleanRequest, Idempotency, JobSource, Operator, OutputChunk, Queue,
    QueueError, QueueStanding, QueuedJob, StateCounts, Submission, WorkerInfo,
};
use super::queue_names::KnownQueues;
use super::{BullQueue, BullSettings, claim, shared_claim, submit_routed};
use crate::domain::{AcceptedJob, Clock, JobId, JobState, Page, PageRequest, QueueLimit, QueueName, WorkerId};

/// The queues in one Redis, which serve all ports of a queue together.
pub struct BullQueues {
    pub(super) known: KnownQueues,
}

/// How much of a job is read.
#[derive(Clone, Copy)]
enum Depth {
    Whole,
    Standing,
}

async fn read(queue: &BullQueue, ids: &[JobId], depth: Depth) -> Result<Vec<Option<QueuedJob>>, QueueError> {
    match depth {
        Depth::Whole => queue.find(ids).await,
        Depth::Standing => queue.standing(ids).await,
    }
}

impl BullQueues {
    /// Opens the queues, as [`BullQueue::open`] does; `settings` are those of the default one.
    ///
    /// # Errors
    /// Those of [`BullQueue::open`].
    pub async fn open(settings: BullSettings, clock: Clock, tasks: TaskTracker) -> Result<Arc<Self>, QueueError> {
        let default = BullQueue::open(settings, clock, tasks).await?;
        Ok(Arc::new(Self { known: KnownQueues::new(default) }))
    }

    /// The named queues, those too that another process has just made.
    pub(super) async fn named_now(&self) -> Result<Vec<Arc<BullQueue>>, QueueError> {
        self.known.look().await?;
        Ok(self.known.named())
    }

    async fn read(&self, ids: &[JobId], depth: Depth) -> Result<Vec<Option<QueuedJob>>, QueueError> {
        let found = read(&self.known.default, ids, depth).await?;
        let ask = |queue: Arc<BullQueue>, ids: Vec<JobId>| async move { read(&queue, &ids, depth).await };
        self.complete(ids, found, Option::is_none, ask).await
    }

    /// Puts the first answer that a named queue has in the place of each that the default one lacks.
    pub(super) async fn complete<I: Clone, T, F: Future<Output = Result<Vec<T>, QueueError>>>(
        &self,
        asked: &[I],
        mut found: Vec<T>,
        is_missing: impl Fn(&T) -> bool,
        ask: impl Fn(Arc<BullQueue>, Vec<I>) -> F,
    ) -> Result<Vec<T>, QueueError> {
        let missing: Vec<_> = (0..asked.len()).filter(|i| is_missing(&found[*i])).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let asked: Vec<_> = missing.iter().map(|i| asked[*i].clone()).collect();
        let others = self.named_now().await?.into_iter().map(|queue| ask(queue, asked.clone()));
        for answers in try_join_all(others).await? {
            for (i, answer) in missing.iter().zip(answers) {
                if is_missing(&found[*i]) {
                    found[*i] = answer;
                }
            }
        }
        Ok(found)
    }

    /// The first of these queues that knows the job.
    pub(super) async fn owner(
        &self,
        queues: Vec<Arc<BullQueue>>,
        id: &JobId,
    ) -> Result<Option<Arc<BullQueue>>, QueueError> {
        let asked = queues.iter().map(|queue| read(queue, std::slice::from_ref(id), Depth::Standing));
        let answers = try_join_all(asked).await?;
        let knows = |answer: &[Option<QueuedJob>]| answer.iter().any(Option::is_some);
        Ok(queues.into_iter().zip(answers).find(|(_, answer)| knows(answer)).map(|(queue, _)| queue))
    }

    /// The named queue that knows the job.
    async fn named_owner(&self, id: &JobId) -> Result<Option<Arc<BullQueue>>, QueueError> {
        let others = self.named_now().await?;
        self.owner(others, id).await
    }

    /// Where in which queue a list goes on.
    fn place(queues: &[Arc<BullQueue>], cursor: Option<String>) -> (usize, Option<String>) {
        // A cursor of the default queue begins with a state.
        let named = cursor.as_deref().and_then(|cursor| cursor.strip_prefix('@')?.split_once(':'));
        let Some((name, rest)) = named else { return (0, cursor) };
        let at = queues.iter().skip(1).position(|queue| queue.inner.settings.queue().as_str() >= name);
        let rest = Some(rest.to_owned()).filter(|rest| !rest.is_empty());
        (at.map_or(queues.len(), |at| at + 1), rest)
    }
}

/// Turns a cursor of a queue into one of all queues.
fn cursor_of(queues: &[Arc<BullQueue>], at: usize, cursor: &str) -> String {
    match at {
        0 => cursor.to_owned(),
        at => format!("@{}:{cursor}", queues[at].inner.settings.queue()),
    }
}

#[async_trait]
impl Queue for BullQueues {
    async fn submit(
        &self,
        jobs: Vec<AcceptedJob>,
        idempotency: Option<Idempotency>,
    ) -> Result<Vec<Submission>, QueueError> {
        submit_routed::submit(self, jobs, idempotency).await
    }

    async fn find(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
        self.read(ids, Depth::Whole).await
    }

    async fn standing(&self, ids: &[JobId]) -> Result<Vec<Option<QueuedJob>>, QueueError> {
        self.read(ids, Depth::Standing).await
    }

    async fn page(
        &self,
        queue: Option<&QueueName>,
        state: JobState,
        request: PageRequest,
    ) -> Result<Page<QueuedJob>, QueueError> {
        let mut page = Page { items: Vec::new(), next: None };
        if let Some(name) = queue {
            return match self.known.find(name).await? {
                Some(queue) => queue.page(None, state, request).await,
                None => Ok(page),
            };
        }
        let queues = self.known.all().await?;
        let (first, mut cursor) = Self::place(&queues, request.cursor);
        for (at, queue) in queues.iter().enumerate().skip(first) {
            if page.items.len() >= request.limit {
                page.next = Some(cursor_of(&queues, at, ""));
                break;
            }
            let part = PageRequest { cursor: cursor.take(), limit: request.limit - page.items.len() };
            let part = queue.page(None, state, part).await?;
            page.items.extend(part.items);
            if let Some(next) = part.next {
                page.next = Some(cursor_of(&queues, at, &next));
                break;
            }
        }
        Ok(page)
    }

    async fn counts(&self) -> Result<StateCounts, QueueError> {
        let queues = self.known.all().await?;
        let all = try_join_all(queues.iter().map(|queue| queue.counts())).await?;
        let sum = |total: StateCounts, of: StateCounts| StateCounts {
            waiting: total.waiting + of.waiting,
            delayed: total.delayed + of.delayed,
            prioritized: total.prioritized + of.prioritized,
            active: total.active + of.active,
            completed: total.completed + of.completed,
            failed: total.failed + of.failed,
            paused: total.paused && of.paused,
        };
        Ok(all.into_iter().fold(StateCounts { paused: true, ..StateCounts::default() }, sum))
    }

    async fn queues(&self) -> Result<Vec<QueueStanding>, QueueError> {
        self.known.look().await?;
        let queues = self.known.all().await?;
        let all = try_join_all(queues.iter().map(|queue| queue.queues())).await?;
        let mut all: Vec<_> = all.into_iter().flatten().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn output(&self, id: &JobId, after: u64, wait: Duration) -> Result<(u64, Vec<OutputChunk>), QueueError> {
        let queues = self.known.all().await?;
        if queues.len() > 1
            && let Some(queue) = self.owner(queues, id).await?
        {
            return queue.output(id, after, wait).await;
        }
        let (next, chunks) = self.known.default.output(id, after, wait).await?;
        if chunks.is_empty()
            && let Some(queue) = self.named_owner(id).await?
        {
            return queue.output(id, after, wait).await;
        }
        Ok((next, chunks))
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>, QueueError> {
        self.known.default.workers().await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        self.known.default.ping().await
    }
}

#[async_trait]
impl Operator for BullQueues {
    async fn cancel(&self, id: &JobId, reason: &str) -> Result<Cancellation, QueueError> {
        match self.known.default.cancel(id, reason).await? {
            Cancellation::NotFound => match self.named_owner(id).await? {
                Some(queue) => queue.cancel(id, reason).await,
                None => Ok(Cancellation::NotFound),
            },
            done => Ok(done),
        }
    }

    async fn retry(&self, id: &JobId) -> Result<Change, QueueError> {
        match self.known.default.retry(id).await? {
            Change::NotFound => match self.named_owner(id).await? {
                Some(queue) => queue.retry(id).await,
                None => Ok(Change::NotFound),
            },
            done => Ok(done),
        }
    }

    async fn promote(&self, id: &JobId) -> Result<Change, QueueError> {
        match self.known.default.promote(id).await? {
            Change::NotFound => match self.named_owner(id).await? {
                Some(queue) => queue.promote(id).await,
                None => Ok(Change::NotFound),
            },
            done => Ok(done),
        }
    }

    async fn remove(&self, id: &JobId) -> Result<Change, QueueError> {
        match self.known.default.remove(id).await? {
            Change::NotFound => match self.named_owner(id).await? {
                Some(queue) => queue.remove(id).await,
                None => Ok(Change::NotFound),
            },
            done => Ok(done),
        }
    }

    async fn set_paused(&self, queue: Option<&QueueName>, paused: bool) -> Result<(), QueueError> {
        if let Some(name) = queue {
            return self.known.enter(name).await?.set_paused(None, paused).await;
        }
        self.known.look().await?;
        let queues = self.known.all().await?;
        try_join_all(queues.iter().map(|queue| queue.set_paused(None, paused))).await?;
        Ok(())
    }

    async fn set_limit(&self, queue: &QueueName, limit: QueueLimit) -> Result<(), QueueError> {
        self.known.enter(queue).await?.set_limit(queue, limit).await
    }

    async fn clean(&self, request: CleanRequest) -> Result<u64, QueueError> {
        let queues = match &request.queue {
            Some(name) => self.known.find(name).await?.into_iter().collect(),
            None => self.known.all().await?,
        };
        let (mut cleaned, mut left) = (0, request.limit);
        for queue in queues {
            let removed = queue.clean(CleanRequest { limit: left, ..request.clone() }).await?;
            cleaned += removed;
            left = left.saturating_sub(usize::try_from(removed).unwrap_or(usize::MAX));
        }
        Ok(cleaned)
    }

    async fn drain_worker(&self, id: &WorkerId) -> Result<bool, QueueError> {
        self.known.default.drain_worker(id).await
    }
}

#[async_trait]
impl JobSource for BullQueues {
    async fn claim(&self, options: ClaimOptions) -> Result<Claims, QueueError> {
        let default = &self.known.default.inner;
        let queues = options.queues.iter().map(|share| self.known.open(&share.queue));
        let queues = queues.collect::<Result<Vec<_>, _>>()?;
        self.known.enter_later(options.queues.iter().map(|share| share.queue.clone()).collect());
        Ok(match (&*queues, &*options.queues) {
            ([], _) => claim::start(default, default, options, None),
            ([queue], [share]) => {
                let most = share.most;
                claim::start(&queue.inner, default, options, most)
            }
            _ => {
                let queues = queues.iter().map(|queue| queue.inner.clone()).collect();
                shared_claim::start(default, queues, options)
            }
        })
    }

    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<bool, QueueError> {
        // Names that Redis has lost are put back by the way.
        self.known.all().await?;
        self.known.default.heartbeat(worker).await
    }

    async fn farewell(&self, worker: &WorkerId) -> Result<(), QueueError> {
        self.known.default.farewell(worker).await
    }

    async fn peers(&self) -> Result<Vec<WorkerInfo>, QueueError> {
        self.known.default.peers().await
    }
}
