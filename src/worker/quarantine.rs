//! Runs suspects alone. A suspect is a job that was lost with its workers again and again. If it is
//! what kills the workers, it takes no other job with it.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

/// Keeps suspects apart from all other jobs of a worker.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// A fair lock: while a suspect waits for it, no other attempt gets it.
    lock: Arc<RwLock<()>>,
    suspects: watch::Sender<usize>,
}

/// The permission for one attempt to run, until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
pub(super) enum Pass {
    /// The attempt runs beside others.
    Beside(OwnedRwLockReadGuard<()>),
    /// The attempt runs alone.
    Alone(OwnedRwLockWriteGuard<()>, Suspect),
}

/// Counts a suspect that waits or runs, until this is dropped.
#[derive(Debug)]
pub(super) struct Suspect(watch::Sender<usize>);

impl Drop for Suspect {
    fn drop(&mut self) {
        self.0.send_modify(|suspects| *suspects -= 1);
    }
}

impl Quarantine {
    pub(super) fn new() -> Self {
        Self { lock: Arc::default(), suspects: watch::Sender::new(0) }
    }

    /// Whether a suspect waits or runs. Then the worker starts no other job.
    pub(super) fn is_on(&self) -> bool {
        *self.suspects.borrow() > 0
    }

    /// Follows how many suspects wait or run.
    pub(super) fn follow(&self) -> watch::Receiver<usize> {
        self.suspects.subscribe()
    }

    /// Lets an attempt run beside others; `None` while there is a suspect.
    pub(super) fn beside(&self) -> Option<Pass> {
        if self.is_on() {
            return None;
        }
        self.lock.clone().try_read_owned().ok().map(Pass::Beside)
    }

    /// Waits until all other attempts have ended, and lets a suspect run.
    pub(super) async fn alone(&self) -> Pass {
        self.suspects.send_modify(|suspects| *suspects += 1);
        let suspect = Suspect(self.suspects.clone());
        Pass::Alone(self.lock.clone().write_owned().await, suspect)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_suspect_runs_when_all_else_has_ended_and_keeps_others_out() {
        let quarantine = Quarantine::new();
        let beside = [quarantine.beside().unwrap(), quarantine.beside().unwrap()];
        let mut alone = Box::pin(quarantine.alone());
        assert!((&mut alone).now_or_never().is_none());
        assert!(quarantine.beside().is_none(), "it would wait for ever");
        drop(beside);
        let alone = alone.await;
        assert!(quarantine.beside().is_none());
        let mut another = Box::pin(quarantine.alone());
        assert!((&mut another).now_or_never().is_none());
        drop(alone);
        assert!(quarantine.beside().is_none());
        drop(another);
        assert!(quarantine.beside().is_some());
    }
}
