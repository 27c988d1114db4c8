//! Knows the running attempts: which they are, and how many ran beside each one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::procfs;
use crate::domain::{AttemptNumber, Job, ResourceName, Timestamp};

/// Counts the attempts that run on this host: exactly for this process, and as last told
/// for the other workers.
#[derive(Debug, Clone, Default)]
pub struct RunningGauge(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Running attempts of other workers on this host, as last told.
    foreign: u32,
    next: u64,
    running: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    attempt: RunningAttempt,
    /// The id of its first process, once that was made.
    pid: Option<i32>,
    /// The most attempts that ran beside it so far.
    peak: u32,
}

/// An attempt that runs in this process's care.
#[derive(Debug, Clone)]
pub struct RunningAttempt {
    /// Its job.
    pub job: Arc<Job>,
    /// Attempt number, counting from 1.
    pub attempt: AttemptNumber,
    /// The CPUs of its slot, ascending.
    pub cpus: Vec<u32>,
    /// The units of resources of its slot.
    pub units: BTreeMap<ResourceName, Vec<String>>,
    /// When the runner began to start its process.
    pub started_at: Timestamp,
    /// The resident memory of its first process in bytes, as of the call that told; `None` before and after its life.
    pub memory_bytes: Option<u64>,
}

impl State {
    fn running(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// How many attempts run beside any one of those here.
    fn beside(&self) -> u32 {
        self.running().saturating_sub(1).saturating_add(self.foreign)
    }

    fn raise(&mut self) {
        let beside = self.beside();
        for entry in self.running.values_mut() {
            entry.peak = beside.max(entry.peak);
        }
    }
}

impl RunningGauge {
    /// A gauge at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts an attempt that starts. It runs until the answered value is dropped.
    pub fn enter(&self, attempt: RunningAttempt) -> Running {
        let mut state = self.lock();
        let key = state.next;
        state.next += 1;
        state.running.insert(key, Entry { attempt, pid: None, peak: 0 });
        state.raise();
        let at_start = state.beside();
        drop(state);
        Running { gauge: self.clone(), key, at_start }
    }

    /// How many attempts run in this process now.
    pub fn running(&self) -> u32 {
        self.lock().running()
    }

    /// The attempts that run in this process now with the memory that they have now, the first started first, at most
    /// `most`. Reads a file of `/proc` for each.
    pub fn attempts(&self, most: usize) -> Vec<RunningAttempt> {
        let mut running: Vec<_> = {
            let state = self.lock();
            state.running.iter().map(|(key, entry)| (*key, entry.pid, entry.attempt.clone())).collect()
        };
        running.sort_unstable_by_key(|(key, ..)| *key);
        running.truncate(most);
        let with_memory = |(_, pid, attempt): (_, Option<i32>, _)| {
            // A process that has ended has no memory, and its id may be another's only after it was reaped.
            let memory_bytes = pid.and_then(procfs::stat).filter(|stat| !stat.zombie).map(|stat| stat.rss);
            RunningAttempt { memory_bytes, ..attempt }
        };
        running.into_iter().map(with_memory).collect()
    }

    /// Tells how many attempts the other workers on this host run now.
    pub fn set_foreign(&self, running: u32) {
        let mut state = self.lock();
        state.foreign = running;
        state.raise();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running attempt, which the gauge counts until this value is dropped.
#[derive(Debug)]
pub struct Running {
    gauge: RunningGauge,
    key: u64,
    at_start: u32,
}

impl Running {
    /// How many attempts ran when this one started, itself not counted. Unlike the peak, it does
    /// not grow with the attempt's length.
    pub fn beside_at_start(&self) -> u32 {
        self.at_start
    }

    /// The most attempts that ran at the same time so far, this one not counted.
    pub fn peak_beside(&self) -> u32 {
        self.gauge.lock().running.get(&self.key).map_or(0, |entry| entry.peak)
    }

    /// Notes the id of the attempt's first process; `None` once that has been reaped.
    pub(super) fn set_process(&self, pid: Option<i32>) {
        if let Some(entry) = self.gauge.lock().running.get_mut(&self.key) {
            entry.pid = pid;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.lock().running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobId, JobOptions};

    fn attempt(cpu: u32) -> RunningAttempt {
        let (id, name, submitted_at) = (JobId::generate(), "j".parse().unwrap(), Timestamp::from_millis(0));
        let job = Arc::new(Job { id, name, options: JobOptions::default(), submitted_at, trace: None });
        RunningAttempt {
            job,
            attempt: AttemptNumber(1),
            cpus: vec![cpu],
            units: BTreeMap::new(),
            started_at: submitted_at,
            memory_bytes: None,
        }
    }

    #[test]
    fn the_running_attempts_are_listed_with_their_memory() {
        let gauge = RunningGauge::new();
        let all: Vec<_> = (0..4).map(|cpu| gauge.enter(attempt(cpu))).collect();
        let me = i32::try_from(std::process::id()).unwrap();
        all[0].set_process(Some(me));
        all[1].set_process(Some(me));
        all[1].set_process(None);
        let listed = gauge.attempts(3);
        let cpus: Vec<_> = listed.iter().map(|attempt| attempt.cpus[0]).collect();
        assert_eq!(cpus, [0, 1, 2], "the first started first");
        let has_memory: Vec<_> = listed.iter().map(|attempt| attempt.memory_bytes.is_some_and(|b| b > 0)).collect();
        assert_eq!(has_memory, [true, false, false]);
        drop(all);
        assert_eq!(gauge.attempts(3).len(), 0);
    }

    #[test]
    fn each_attempt_remembers_the_most_that_ran_beside_it() {
        let gauge = RunningGauge::new();
        let first = gauge.enter(attempt(0));
        assert_eq!(first.peak_beside(), 0);
        let second = gauge.enter(attempt(0));
        let third = gauge.enter(attempt(0));
        assert_eq!(gauge.running(), 3);
        drop(second);
        let late = gauge.enter(attempt(0));
        assert_eq!((first.peak_beside(), third.peak_beside(), late.peak_beside()), (2, 2, 2));
        let at_start = [&first, &third, &late].map(Running::beside_at_start);
        assert_eq!(at_start, [0, 2, 2], "what comes later does not change it");
        drop((third, late));
        gauge.set_foreign(5);
        gauge.set_foreign(0);
        assert_eq!((first.peak_beside(), gauge.enter(attempt(0)).peak_beside()), (5, 1));
    }
}
