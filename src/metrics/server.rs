//! What a server tells of its parts: projector, classifier, embedder.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of a commit, in seconds.
const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    result: &'static str,
}

/// The series of the process's projector, classifier and embedder.
pub struct ServerMetrics {
    leader: Gauge,
    commit: Histogram,
    pending_errors: Gauge,
    embedder_requests: Family<OfRequest, Counter>,
    /// What is left of the day's budget. A family without labels, which is absent until it is set.
    embedder_budget: Family<Vec<(String, String)>, Gauge<u64, AtomicU64>>,
}

impl Default for ServerMetrics {
    fn default() -> Self {
        Self {
            leader: Gauge::default(),
            commit: Histogram::new(SECONDS),
            pending_errors: Gauge::default(),
            embedder_requests: Family::default(),
            embedder_budget: Family::default(),
        }
    }
}

impl ServerMetrics {
    pub(super) fn register(&self, to: &mut Registry) {
        to.register("projector_leader", "Whether the projector of this process leads", self.leader.clone());
        to.register("projector_commit_seconds", "From a batch of events to its commit", self.commit.clone());
        let help = "Errors that wait for the embedder to find their category";
        to.register("classifier_pending_errors", help, self.pending_errors.clone());
        to.register("embedder_requests", "Requests to the embedder's endpoint", self.embedder_requests.clone());
        let help = "Texts that may still be embedded today, at the last request";
        to.register("embedder_budget_remaining", help, self.embedder_budget.clone());
    }

    /// Takes note of whether the projector of this process leads.
    pub fn set_leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Whether the projector of this process leads.
    pub fn leads(&self) -> bool {
        self.leader.get() != 0
    }

    /// Notes a commit of the projector.
    pub fn committed(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
    }

    /// Takes note of how many errors wait for the embedder.
    pub fn set_pending_errors(&self, errors: usize) {
        self.pending_errors.set(i64::try_from(errors).unwrap_or(i64::MAX));
    }

    /// Counts a request to the embedder's endpoint by its result.
    pub fn embedded(&self, result: &'static str) {
        self.embedder_requests.get_or_create(&OfRequest { result }).inc();
    }

    /// Takes note of how many texts may still be embedded today.
    pub fn set_embedder_budget(&self, texts: u64) {
        self.embedder_budget.get_or_create(&Vec::new()).set(texts);
    }
}
