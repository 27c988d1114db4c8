//! What a write waits for before it counts as done, and what is done where the bucket can't give it.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use couchbase::durability_level::DurabilityLevel;
use couchbase::error::{Error, ErrorKind};
use tokio::time::Instant;

use crate::domain::WriteDurability;

/// How long less than what is wanted is made do with before it is tried again.
const RECHECK: Duration = Duration::from_secs(60);

/// As the SDK has it; `None` where nothing is waited for.
pub(super) fn for_sdk(level: WriteDurability) -> Option<DurabilityLevel> {
    match level {
        WriteDurability::None => None,
        WriteDurability::Majority => Some(DurabilityLevel::MAJORITY),
        WriteDurability::MajorityAndPersistToActive => Some(DurabilityLevel::MAJORITY_AND_PERSIST_ACTIVE),
        WriteDurability::PersistToMajority => Some(DurabilityLevel::PERSIST_TO_MAJORITY),
    }
}

/// What is wanted of writes, and what they get.
#[derive(Debug)]
pub(super) struct Demand {
    wanted: WriteDurability,
    compromise: Mutex<Compromise>,
}

#[derive(Debug, Default)]
struct Compromise {
    /// What the bucket gives instead, since when.
    instead: Option<(WriteDurability, Instant)>,
    is_told: bool,
}

impl Demand {
    pub(super) fn new(wanted: WriteDurability) -> Self {
        Self { wanted, compromise: Mutex::default() }
    }

    fn compromise(&self) -> MutexGuard<'_, Compromise> {
        self.compromise.lock().expect("nobody panics with the lock in hand")
    }

    /// What the next write is to wait for.
    pub(super) fn now(&self) -> WriteDurability {
        let mut compromise = self.compromise();
        if compromise.instead.is_some_and(|(_, since)| since.elapsed() >= RECHECK) {
            compromise.instead = None;
        }
        compromise.instead.map_or(self.wanted, |(level, _)| level)
    }

    /// Whether a write was refused, and not done, because the bucket can't give what it was to wait for: then the next ones
    /// wait for less, for a while.
    pub(super) fn is_too_much(&self, asked: WriteDurability, refusal: &Error) -> bool {
        let (less, why) = match refusal.kind() {
            ErrorKind::DurabilityImpossible => {
                (WriteDurability::None, "too few of the nodes are there that are to hold each document")
            }
            ErrorKind::DurabilityLevelNotAvailable if asked > WriteDurability::Majority => {
                (WriteDurability::Majority, "the bucket is not kept on disks")
            }
            ErrorKind::DurabilityLevelNotAvailable | ErrorKind::FeatureNotAvailable(_) => {
                (WriteDurability::None, "the server knows no durable writes")
            }
            _ => return false,
        };
        if asked == WriteDurability::None {
            return false;
        }
        let mut compromise = self.compromise();
        if !std::mem::replace(&mut compromise.is_told, true) {
            tracing::warn!(
                "Couchbase can't write with store.durability = {:?} ({why}): writes wait for {:?} until it can, and a \
                 failover may lose the last of them",
                self.wanted.name(),
                less.name()
            );
        }
        compromise.instead = Some((less, Instant::now()));
        true
    }

    /// What writes lack, for people.
    pub(super) fn lack(&self) -> Option<String> {
        let instead = self.compromise().instead;
        instead.map(|(less, _)| format!("writes wait for {:?} instead of {:?}", less.name(), self.wanted.name()))
    }
}
