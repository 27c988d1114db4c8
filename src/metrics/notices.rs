//! Counts notices, by target. Targets are few: the configuration names them.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTarget {
    target: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    target: Arc<str>,
    result: &'static str,
}

/// What is counted of notices.
#[derive(Default)]
pub struct NoticeMetrics {
    tries: Family<OfResult, Counter>,
    waiting: Family<OfTarget, Gauge>,
    dead: Family<OfTarget, Gauge>,
    oldest: Family<OfTarget, Gauge>,
}

impl NoticeMetrics {
    pub(super) fn register(&self, to: &mut Registry) {
        let help = "Notices by what became of a try: delivered, failed; and dead, for those that were given up";
        to.register("notices", help, self.tries.clone());
        to.register("notices_waiting", "Notices that wait for their delivery", self.waiting.clone());
        to.register("notices_dead", "Notices that were given up and are kept", self.dead.clone());
        let help = "For how many seconds the first notice that waits has been waiting";
        to.register("notices_oldest_waiting_seconds", help, self.oldest.clone());
    }

    /// Counts a try by its result, or a notice that was given up (`dead`).
    pub fn count(&self, target: &str, result: &'static str) {
        self.tries.get_or_create_owned(&OfResult { target: target.into(), result }).inc();
    }

    /// Takes note of how many notices of a target wait and were given up, and for how long the first has waited.
    pub fn set(&self, target: &str, waiting: u64, dead: u64, oldest_seconds: u64) {
        let label = OfTarget { target: target.into() };
        let value = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.waiting.get_or_create_owned(&label).set(value(waiting));
        self.dead.get_or_create_owned(&label).set(value(dead));
        self.oldest.get_or_create_owned(&label).set(value(oldest_seconds));
    }
}
