//! How long a worker lives: until its queues are empty, for so many jobs, or for so long.
//!
//! A worker that may begin only so many jobs gives each lease a permit before it looks for a slot. A lease that is given
//! back unstarted gives its permit back, too. So the worker never begins more, and never fewer while there is work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// What ends a worker besides a signal and an operator; by default nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lifetime {
    /// How long the queue must have had nothing to do before a burst ends. `None` for a worker that
    /// goes on.
    pub burst: Option<Duration>,
    /// How many attempts the worker begins before it ends.
    pub max_jobs: Option<u64>,
    /// How long the worker takes jobs before it drains, from its start.
    pub max_time: Option<Duration>,
}

/// How many attempts the worker may still begin.
pub(super) struct Allowance {
    most: Option<u64>,
    counts: Mutex<Counts>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    /// Permits that were given and not given back.
    taken: u64,
    /// Attempts among them that have begun.
    begun: u64,
    /// Attempts among those that have ended.
    ended: u64,
}

impl Allowance {
    pub(super) fn new(most: Option<u64>) -> Arc<Self> {
        Arc::new(Self { most, counts: Mutex::default(), changed: Notify::new() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts());
        self.changed.notify_one();
    }

    /// The right to begin one attempt; `None` when all rights are taken.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        let Some(most) = self.most else { return Some(Permit(None)) };
        let mut counts = self.counts();
        if counts.taken >= most {
            return None;
        }
        counts.taken += 1;
        let state = Mutex::new(PermitState::Unused);
        Some(Permit(Some(LimitedPermit { allowance: self.clone(), state })))
    }

    /// Whether as many attempts have begun as may.
    pub(super) fn is_used_up(&self) -> bool {
        self.most.is_some_and(|most| self.counts().begun >= most)
    }

    /// How many leases to hold, of the `leases` that are worth it: no more than may begin, beside those that run. Slots
    /// stay busy to the end, but nothing is held ahead in vain.
    pub(super) fn bound(&self, leases: usize, slots: usize) -> usize {
        let Some(most) = self.most else { return leases };
        let counts = self.counts();
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (left, unended) = (most.saturating_sub(counts.begun), most.saturating_sub(counts.ended));
        match number(left) {
            0 => 0,
            left => leases.min(left.max(slots.min(number(unended)))),
        }
    }

    /// Returns when [`Allowance::bound`] or [`Allowance::is_used_up`] may answer differently.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The right to begin one attempt. Dropping it gives it back, unless [`Permit::spend`] was called.
pub(super) struct Permit(Option<LimitedPermit>);

struct LimitedPermit {
    allowance: Arc<Allowance>,
    state: Mutex<PermitState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PermitState {
    Unused,
    Begun,
    Spent,
}

impl LimitedPermit {
    fn replace(&self, state: PermitState) -> PermitState {
        std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), state)
    }
}

impl Permit {
    /// Notes that the attempt begins.
    pub(super) fn begin(&self) {
        if let Some(permit) = &self.0
            && permit.replace(PermitState::Begun) == PermitState::Unused
        {
            permit.allowance.change(|counts| counts.begun += 1);
        }
    }

    /// Notes that the attempt has run, and is over.
    pub(super) fn spend(&self) {
        self.begin();
        if let Some(permit) = &self.0
            && permit.replace(PermitState::Spent) == PermitState::Begun
        {
            permit.allowance.change(|counts| counts.ended += 1);
        }
    }
}

impl Drop for LimitedPermit {
    fn drop(&mut self) {
        let state = self.replace(PermitState::Spent);
        if state != PermitState::Spent {
            self.allowance.change(|counts| {
                counts.taken -= 1;
                counts.begun -= u64::from(state == PermitState::Begun);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_begin_than_may_and_what_did_not_begin_does_not_count() {
        let allowance = Allowance::new(Some(2));
        let (first, second) = (allowance.take().unwrap(), allowance.take().unwrap());
        assert!(allowance.take().is_none());
        first.begin();
        drop(second);
        let withdrawn = allowance.take().unwrap();
        withdrawn.begin();
        assert!(allowance.is_used_up());
        drop(withdrawn);
        assert!(!allowance.is_used_up(), "its start was taken back");
        first.spend();
        drop(first);
        let last = allowance.take().unwrap();
        last.spend();
        drop(last);
        assert!(allowance.is_used_up() && allowance.take().is_none());
    }

    #[test]
    fn only_what_may_begin_is_held() {
        let allowance = Allowance::new(Some(10));
        assert_eq!(allowance.bound(84, 4), 10);
        let mut permits: Vec<Permit> = (0..8).map(|_| allowance.take().unwrap()).collect();
        for permit in &permits {
            permit.begin();
        }
        for permit in permits.drain(..4) {
            permit.spend();
        }
        assert_eq!(allowance.bound(84, 4), 4, "four run, and two may follow");
        for permit in permits.drain(..3) {
            permit.spend();
        }
        assert_eq!(allowance.bound(84, 4), 3, "one runs, and two may follow");
        let last = [allowance.take().unwrap(), allowance.take().unwrap()];
        for permit in &last {
            permit.begin();
        }
        assert_eq!(allowance.bound(84, 4), 0);
        assert_eq!(Allowance::new(None).bound(84, 4), 84);
    }
}
