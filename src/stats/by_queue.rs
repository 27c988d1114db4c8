//! The parts of an aggregate by queue: what its jobs of each named queue add to it.
//!
//! The counts of an aggregate are of all its jobs, so a reader that asks for no queue need not know of the parts. What the
//! parts lack is of the default queue. Jobs of a queue that came too late for a part of its own are in one for all such.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Counts, StatShard};
use crate::domain::QueueName;

/// The key of the part for all queues that came too late. No queue has a colon in its name.
const LATE: &str = ":late";

/// Counts by named queue. Parts that count nothing are left out, so that equal counts are equal documents.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueParts(BTreeMap<String, Counts>);

impl QueueParts {
    /// The most queues with a part of their own in an aggregate: it stays small however many queues its jobs come from.
    pub const MOST: usize = 32;

    /// The part of one job of this queue; `is_late` for a queue without a part of its own.
    pub fn of_job(queue: &QueueName, is_late: bool, counts: Counts) -> Self {
        let key = if is_late { LATE } else { queue.as_str() };
        Self([(key.to_owned(), counts)].into())
    }

    /// Whether it has no part.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the jobs of a queue may have a part of its own. What was counted is never taken away altogether, so an
    /// event that is folded again decides alike.
    pub fn has_room(&self, queue: &QueueName) -> bool {
        self.0.contains_key(queue.as_str()) || self.0.keys().filter(|key| *key != LATE).count() < Self::MOST
    }

    pub(super) fn combine(&mut self, other: &Self, sign: i64) {
        for (key, counts) in &other.0 {
            let part = self.0.entry(key.clone()).or_default();
            part.combine(counts, sign);
            if part.is_zero() {
                self.0.remove(key);
            }
        }
    }
}

impl StatShard {
    /// The aggregate of the jobs of one queue alone; `None` for the default one.
    pub fn of_queue(mut self, queue: Option<&QueueName>) -> Self {
        let mut parts = std::mem::take(&mut self.counts.by_queue);
        match queue {
            Some(queue) => self.counts = parts.0.remove(queue.as_str()).unwrap_or_default(),
            None => parts.0.values().for_each(|part| self.counts.subtract(part)),
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Day;
    use crate::stats::ShardKey;

    fn of(queue: &str, is_late: bool, waiting: i64) -> Counts {
        let counts = Counts { waiting, ..Counts::default() };
        Counts { by_queue: QueueParts::of_job(&queue.parse().unwrap(), is_late, counts.clone()), ..counts }
    }

    #[test]
    fn an_aggregate_is_the_sum_of_its_queues() {
        let key = ShardKey { day: Day::parse("2026-11-24").unwrap(), name: "a".parse().unwrap() };
        let mut shard = StatShard::new(key);
        for counts in [of("encode", false, 3), of("render", false, 5), of("tenant-99", true, 7)] {
            shard.counts.add(&counts);
        }
        shard.counts.waiting += 11;
        let waiting = |queue: Option<&str>| {
            shard.clone().of_queue(queue.map(|queue| queue.parse().unwrap()).as_ref()).counts.waiting
        };
        assert_eq!([None, Some("encode"), Some("render"), Some("tenant-99")].map(waiting), [11, 3, 5, 0]);
        assert_eq!(shard.counts.waiting, 26);
        shard.counts.subtract(&of("encode", false, 3));
        assert_eq!(serde_json::to_value(&shard.counts.by_queue).unwrap()["encode"], serde_json::Value::Null);
    }

    #[test]
    fn queues_that_come_too_late_have_no_part_of_their_own() {
        let mut parts = QueueParts::default();
        for n in 0..QueueParts::MOST {
            let queue: QueueName = format!("q{n}").parse().unwrap();
            assert!(parts.has_room(&queue));
            parts.combine(&QueueParts::of_job(&queue, false, Counts { waiting: 1, ..Counts::default() }), 1);
        }
        assert!(!parts.has_room(&"late".parse().unwrap()) && parts.has_room(&"q0".parse().unwrap()));
    }
}
