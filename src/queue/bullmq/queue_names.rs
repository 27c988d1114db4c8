//! The queues that this process knows: the default one, and those whose names are in a set beside it. A queue enters
//! the set with its first job by Jobber, when it is paused, or when a worker serves it. Names are not taken out.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::super::QueueError;
use super::connect::BullError;
use super::{BullQueue, Inner};
use crate::domain::QueueName;

/// How often a process looks for new names, unless one is asked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The queues that are open in this process.
pub(super) struct KnownQueues {
    pub(super) default: Arc<BullQueue>,
    open: Mutex<OpenQueues>,
}

#[derive(Default)]
struct OpenQueues {
    named: BTreeMap<QueueName, Arc<BullQueue>>,
    /// The names that were in the set at the last look, or were put there since.
    entered: HashSet<QueueName>,
    looked_at: Option<Instant>,
}

impl KnownQueues {
    pub(super) fn new(default: Arc<BullQueue>) -> Self {
        Self { default, open: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, OpenQueues> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether this is the name of the default queue.
    pub(super) fn is_default(&self, name: &QueueName) -> bool {
        *name == self.default.inner.settings.common.queue
    }

    /// The named queues that are open, by name.
    pub(super) fn named(&self) -> Vec<Arc<BullQueue>> {
        self.state().named.values().cloned().collect()
    }

    /// All queues, the default one first; new ones may be missing for a moment.
    pub(super) async fn all(&self) -> Result<Vec<Arc<BullQueue>>, QueueError> {
        let is_fresh = self.state().looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL);
        if !is_fresh {
            self.look().await?;
        }
        Ok([self.default.clone()].into_iter().chain(self.named()).collect())
    }

    /// Looks for new names, and opens their queues. Puts names back that Redis has lost.
    pub(super) async fn look(&self) -> Result<(), QueueError> {
        let inner = &self.default.inner;
        let redis = inner.link.get().await?;
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(inner.keys.queues());
        let names: Vec<String> = inner.link.call(redis.queue.connection().cmd(&mut ask)).await?;
        let names: HashSet<QueueName> = names.iter().filter_map(|name| QueueName::parse(name).ok()).collect();
        for name in &names {
            if let Err(error) = self.open(name) {
                tracing::debug!(queue = %name, %error, "a queue can't be opened");
            }
        }
        let lost: Vec<_> = {
            let mut state = self.state();
            let lost = state.named.keys().filter(|name| !names.contains(*name)).cloned().collect();
            state.entered = names;
            state.looked_at = Some(Instant::now());
            lost
        };
        if !lost.is_empty() {
            enter(inner, &lost).await?;
            self.state().entered.extend(lost);
        }
        Ok(())
    }

    /// The queue of this name as this process has it open from now on.
    pub(super) fn open(&self, name: &QueueName) -> Result<Arc<BullQueue>, QueueError> {
        if self.is_default(name) {
            return Ok(self.default.clone());
        }
        let mut state = self.state();
        if let Some(queue) = state.named.get(name) {
            return Ok(queue.clone());
        }
        let queue = self.default.open_beside(name)?;
        state.named.insert(name.clone(), queue.clone());
        Ok(queue)
    }

    /// The queue of this name, which every process knows from now on.
    pub(super) async fn enter(&self, name: &QueueName) -> Result<Arc<BullQueue>, QueueError> {
        let queue = self.open(name)?;
        let is_entered = self.is_default(name) || self.state().entered.contains(name);
        if !is_entered {
            enter(&self.default.inner, std::slice::from_ref(name)).await?;
            self.state().entered.insert(name.clone());
        }
        Ok(queue)
    }

    /// Enters queues as soon as Redis is there.
    pub(super) fn enter_later(&self, names: Vec<QueueName>) {
        let inner = self.default.inner.clone();
        let names: Vec<_> = names.into_iter().filter(|name| !self.is_default(name)).collect();
        if names.is_empty() {
            return;
        }
        inner.tasks.clone().spawn(async move {
            if inner.link.wait().await.is_some()
                && let Err(error) = enter(&inner, &names).await
            {
                // The next look puts them in.
                tracing::debug!(%error, "the served queues are not listed yet");
            }
        });
    }

    /// The queue of this name, if there is one.
    pub(super) async fn find(&self, name: &QueueName) -> Result<Option<Arc<BullQueue>>, QueueError> {
        if self.is_default(name) {
            return Ok(Some(self.default.clone()));
        }
        let known = |state: &OpenQueues| state.named.get(name).cloned();
        if let Some(queue) = known(&self.state()) {
            return Ok(Some(queue));
        }
        self.look().await?;
        Ok(known(&self.state()))
    }
}

/// Puts names into the set.
async fn enter(inner: &Inner, names: &[QueueName]) -> Result<(), QueueError> {
    let redis = inner.link.get().await?;
    let mut add = redis::cmd("SADD");
    add.arg(inner.keys.queues()).arg(names.iter().map(QueueName::as_str).collect::<Vec<_>>());
    let added = async { Ok::<_, BullError>(redis.queue.connection().cmd::<()>(&mut add).await?) };
    inner.link.call(added).await
}
