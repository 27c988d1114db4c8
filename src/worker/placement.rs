//! Tells the claim which jobs this worker can run, and what becomes of those that no worker can.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{WorkerSettings, more};
use crate::domain::{Capacity, Free, Job, JobName, LimitScale, Misfit, Needs, QueueName};
use crate::queue::{Placement, Placing, WorkerInfo};
use crate::runner::{Runner, SlotRequest, Slots};

/// How many different needs are remembered as those of jobs that no worker can run. Beyond that all are forgotten, and
/// their time begins anew.
const REMEMBERED: usize = 10_000;
/// How long a worker must have been the only one to say that a binary is nowhere: others may have started with it.
const ALONE: Duration = Duration::from_secs(2);
/// How long it is taken for true that a binary is not here.
const LACKED: Duration = Duration::from_millis(500);

/// What this worker has, and what it knows of the others.
pub(super) struct WorkerPlacement {
    settings: Arc<WorkerSettings>,
    runner: Arc<Runner>,
    slots: Arc<Slots>,
    capacity: Capacity,
    known: RwLock<Known>,
    lacked: Mutex<HashMap<JobName, Instant>>,
    /// Since when no worker can run jobs with these needs, as far as this one knows.
    unplaceable: Mutex<HashMap<(QueueName, Needs), Instant>>,
}

/// What the last look showed.
#[derive(Debug, Default)]
struct Known {
    /// The binaries in the jobs directory; `None` when it can't be read, or has too many.
    binaries: Option<HashSet<JobName>>,
    /// The other workers; `None` before the first look.
    peers: Option<Vec<WorkerInfo>>,
    /// Since when this worker has been the only one, if it is.
    alone_since: Option<Instant>,
}

impl WorkerPlacement {
    pub(super) fn new(settings: Arc<WorkerSettings>, runner: Arc<Runner>, slots: Arc<Slots>) -> Self {
        let total = slots.total();
        let capacity = Capacity {
            cores: slots.total_cores(),
            memory_bytes: total.memory_bytes,
            labels: settings.labels.clone(),
            resources: total.resources.amounts(),
        };
        Self {
            settings,
            runner,
            slots,
            capacity,
            known: RwLock::default(),
            lacked: Mutex::default(),
            unplaceable: Mutex::default(),
        }
    }

    /// Notes which binaries are here.
    pub(super) fn found(&self, binaries: Option<&[JobName]>) {
        let binaries = binaries.map(|names| names.iter().cloned().collect());
        self.known.write().unwrap_or_else(PoisonError::into_inner).binaries = binaries;
    }

    /// Notes which other workers there are.
    pub(super) fn heard(&self, workers: Vec<WorkerInfo>) {
        let peers: Vec<_> = workers.into_iter().filter(|peer| peer.id != self.settings.id).collect();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // One that has had others waits for them to come back, as for any that could run a job.
        match (&known.peers, peers.is_empty()) {
            (None, true) => known.alone_since = Some(Instant::now()),
            (_, false) => known.alone_since = None,
            (Some(_), true) => {}
        }
        known.peers = Some(peers);
    }

    /// What a slot for the job holds; of memory its limit, so much more as the scale says.
    pub(super) fn request(&self, job: &Job, scale: LimitScale) -> SlotRequest {
        let needs = self.settings.needs(&job.name, Needs::of(&job.name, &job.options));
        SlotRequest {
            cores: needs.cores,
            memory_bytes: needs.memory_bytes.map_or(0, |limit| more(limit, scale.memory)),
            resources: needs.resources,
        }
    }

    /// A memory limit, held to what this worker divides among its jobs.
    pub(super) fn memory_limit(&self, limit: u64) -> u64 {
        self.capacity.memory_bytes.map_or(limit, |most| limit.min(most))
    }

    /// Whether this worker can run the job, and if not, who can.
    pub(super) fn judge_job(&self, job: &Job) -> Placing {
        let queue = job.options.queue.as_ref().unwrap_or(&self.settings.default_queue);
        self.judge(queue, &Needs::of(&job.name, &job.options))
    }

    /// Why this worker can't run the job.
    pub(super) fn why_not(&self, job: &Job) -> Option<Misfit> {
        self.misfit(&self.settings.needs(&job.name, Needs::of(&job.name, &job.options)))
    }

    /// The first reason for which jobs with these needs can't be run here, the binary last.
    fn misfit(&self, needs: &Needs) -> Option<Misfit> {
        let binary = || self.lacks(&needs.name).then(|| Misfit::Binary(needs.name.clone()));
        self.capacity.misfit(needs).or_else(binary)
    }

    fn lacks(&self, name: &JobName) -> bool {
        let is_found = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.binaries.as_ref().is_some_and(|binaries| binaries.contains(name))
        };
        if is_found {
            return false;
        }
        // It may have come since, or the directory tells nothing: one look at the file itself.
        let mut lacked = self.lacked.lock().unwrap_or_else(PoisonError::into_inner);
        if lacked.get(name).is_some_and(|at| at.elapsed() < LACKED) {
            return true;
        }
        let lacks = self.runner.lacks(name);
        if lacked.len() >= REMEMBERED {
            lacked.clear();
        }
        if lacks {
            lacked.insert(name.clone(), Instant::now());
        } else {
            lacked.remove(name);
        }
        lacks
    }

    fn unplaceable(&self) -> MutexGuard<'_, HashMap<(QueueName, Needs), Instant>> {
        self.unplaceable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of jobs that this worker can't run for this reason.
    fn judge_misfit(&self, queue: &QueueName, needs: &Needs, misfit: &Misfit) -> Placing {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // Until the first look at the others, one of them may have what this worker lacks.
        let Some(peers) = &known.peers else { return Placing::Nowhere };
        let can_run =
            |peer: &WorkerInfo| peer.serves(queue, &self.settings.default_queue) && peer.misfit(needs).is_none();
        let key = (queue.clone(), needs.clone());
        if peers.iter().any(can_run) {
            self.unplaceable().remove(&key);
            return Placing::Elsewhere;
        }
        if let Misfit::Binary(name) = misfit {
            let is_alone = known.alone_since.is_some_and(|since| since.elapsed() >= ALONE);
            if is_alone || self.runner.has_unusable(name) {
                return Placing::Refused;
            }
        }
        let mut unplaceable = self.unplaceable();
        if unplaceable.len() >= REMEMBERED {
            unplaceable.clear();
        }
        let since = *unplaceable.entry(key).or_insert_with(Instant::now);
        if since.elapsed() >= self.settings.unplaceable_after { Placing::Refused } else { Placing::Nowhere }
    }
}

impl std::fmt::Debug for WorkerPlacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPlacement").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Placement for WorkerPlacement {
    fn judge(&self, queue: &QueueName, needs: &Needs) -> Placing {
        let needs = self.settings.needs(&needs.name, needs.clone());
        match self.misfit(&needs) {
            None => Placing::Here,
            Some(misfit) => self.judge_misfit(queue, &needs, &misfit),
        }
    }

    fn free(&self) -> Free {
        self.slots.free()
    }

    fn is_awaited(&self) -> bool {
        self.slots.is_awaited()
    }
}
