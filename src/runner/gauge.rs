//! Counts how many attempts ran beside each one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the attempts that run on this host: exactly for this process, and as last told
/// for the other workers.
#[derive(Debug, Clone, Default)]
pub struct RunningGauge(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Running attempts of other workers on this host, as last told.
    foreign: u32,
    next: u64,
    /// Each running attempt here, with the most that ran beside it so far.
    peaks: HashMap<u64, u32>,
}

impl State {
    fn running(&self) -> u32 {
        u32::try_from(self.peaks.len()).unwrap_or(u32::MAX)
    }

    /// How many attempts run beside any one of those here.
    fn beside(&self) -> u32 {
        self.running().saturating_sub(1).saturating_add(self.foreign)
    }

    fn raise(&mut self) {
        let beside = self.beside();
        for peak in self.peaks.values_mut() {
            *peak = beside.max(*peak);
        }
    }
}

impl RunningGauge {
    /// A gauge at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts an attempt that starts. It runs until the answered value is dropped.
    pub fn enter(&self) -> Running {
        let mut state = self.lock();
        let key = state.next;
        state.next += 1;
        state.peaks.insert(key, 0);
        state.raise();
        let at_start = state.beside();
        drop(state);
        Running { gauge: self.clone(), key, at_start }
    }

    /// How many attempts run in this process now.
    pub fn running(&self) -> u32 {
        self.lock().running()
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
        self.gauge.lock().peaks.get(&self.key).copied().unwrap_or(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.lock().peaks.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_remembers_the_most_that_ran_beside_it() {
        let gauge = RunningGauge::new();
        let first = gauge.enter();
        assert_eq!(first.peak_beside(), 0);
        let second = gauge.enter();
        let third = gauge.enter();
        assert_eq!(gauge.running(), 3);
        drop(second);
        let late = gauge.enter();
        assert_eq!((first.peak_beside(), third.peak_beside(), late.peak_beside()), (2, 2, 2));
        let at_start = [&first, &third, &late].map(Running::beside_at_start);
        assert_eq!(at_start, [0, 2, 2], "what comes later does not change it");
        drop((third, late));
        gauge.set_foreign(5);
        gauge.set_foreign(0);
        assert_eq!((first.peak_beside(), gauge.enter().peak_beside()), (5, 1));
    }
}
