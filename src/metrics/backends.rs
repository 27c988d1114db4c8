//! Times what the process asks of its backends: SQLite, Redis, Couchbase.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::{Histograms, METRICS};

/// Bounds in seconds: a group of commits takes a millisecond, an outage as long as the callers have patience.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOperation {
    backend: &'static str,
    operation: &'static str,
}

/// What is counted of backends.
pub struct BackendMetrics {
    operations: Histograms<OfOperation>,
}

impl Default for BackendMetrics {
    fn default() -> Self {
        Self { operations: Family::new_with_constructor(|| Histogram::new(SECONDS)) }
    }
}

impl BackendMetrics {
    pub(super) fn register(&self, to: &mut Registry) {
        let help = "From the request of an operation of a backend to its answer, errors included";
        to.register("backend_operation_seconds", help, self.operations.clone());
    }
}

/// One kind of operation of a backend. A `static` of each caller, so that its series is looked up once.
pub struct Operation {
    backend: &'static str,
    operation: &'static str,
    series: OnceLock<Histogram>,
}

impl Operation {
    /// Names the backend (`sqlite`, `redis`, `couchbase`) and the operation.
    pub const fn new(backend: &'static str, operation: &'static str) -> Self {
        Self { backend, operation, series: OnceLock::new() }
    }

    /// Notes how long an operation took.
    pub fn took(&self, time: Duration) {
        let Self { backend, operation, .. } = *self;
        let series = || METRICS.backends.operations.get_or_create_owned(&OfOperation { backend, operation });
        self.series.get_or_init(series).observe(time.as_secs_f64());
    }

    /// Runs an operation and notes how long it took. One that is dropped before its end is not counted.
    pub async fn time<T>(&self, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let answer = work.await;
        self.took(began.elapsed());
        answer
    }
}
