//! Decides what a write waits for before it counts as done, and makes do with less where the bucket can't give that.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use couchbase::durability_level::DurabilityLevel;
use couchbase::error::{Error, ErrorKind};
use tokio::time::Instant;

use crate::domain::WriteDurability;

/// How long writes make do with less before the full durability is tried again.
const RECHECK: Duration = Duration::from_secs(60);

/// The SDK's level. `None` if the write waits for nothing.
pub(super) fn for_sdk(level: WriteDurability) -> Option<DurabilityLevel> {
    match level {
        WriteDurability::None => None,
        WriteDurability::Majority => Some(DurabilityLevel::MAJORITY),
        WriteDurability::MajorityAndPersistToActive => Some(DurabilityLevel::MAJORITY_AND_PERSIST_ACTIVE),
        WriteDurability::PersistToMajority => Some(DurabilityLevel::PERSIST_TO_MAJORITY),
    }
}

/// The durability that the settings want, and the one that writes get.
#[derive(Debug)]
pub(super) struct Demand {
    wanted: WriteDurability,
    compromise: Mutex<Compromise>,
}

#[derive(Debug, Default)]
struct Compromise {
    /// The level that the bucket gives instead, and since when.
    instead: Option<(WriteDurability, Instant)>,
    is_told: bool,
}

impl Demand {
    pub(super) fn new(wanted: WriteDurability) -> Self {
        Self { wanted, compromise: Mutex::default() }
    }

    fn compromise(&self) -> MutexGuard<'_, Compromise> {
        self.compromise.lock().expect("no thread panics while it holds the lock")
    }

    /// The level that the next write waits for.
    pub(super) fn now(&self) -> WriteDurability {
        let mut compromise = self.compromise();
        if compromise.instead.is_some_and(|(_, since)| since.elapsed() >= RECHECK) {
            compromise.instead = None;
        }
        compromise.instead.map_or(self.wanted, |(level, _)| level)
    }

    /// Whether the server refused a write, without doing it, because the bucket can't give the
    /// durability. Then the next writes wait for less, for a while.
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

    /// The durability that writes lack, for people.
    pub(super) fn lack(&self) -> Option<String> {
        let instead = self.compromise().instead;
        instead.map(|(less, _)| format!("writes wait for {:?} instead of {:?}", less.name(), self.wanted.name()))
    }
}
