//! What the process counts, for Prometheus.
//!
//! The series belong to the process, as its log does: any part adds to [`METRICS`], and none waits for that. An
//! [`Exposition`] writes those of a role. `docs/operations/monitoring.md` says what each means.
//!
//! ```text
//! projector, worker, API, adapters ──count──> METRICS ──scrape──> Exposition
//! background loop of the API ──────snapshot──────┘
//! ```
//! All labels are bounded ([`bounded`]). No series has an id, an exit code or a fingerprint for a label.

mod backends;
mod bounded;
mod exposition;
mod failures;
mod http;
mod jobs;
mod notices;
mod process;
mod server;
mod snapshot;
mod worker;

use std::sync::LazyLock;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

pub use backends::{BackendMetrics, Operation};
pub use exposition::{Exposition, ExpositionSettings, Format, Role};
pub use failures::FailureMetrics;
pub use http::{HttpMetrics, OpenStream};
pub use jobs::{JobFact, JobFactKind, JobMetrics, JobResult, Source};
pub use notices::NoticeMetrics;
pub use process::{resident_memory, resident_memory_of};
pub use server::ServerMetrics;
pub use snapshot::{Lag, QueueCounts, QueueLabels, Snapshot, SnapshotCell};
pub use worker::{Load, WorkerMetrics};

/// Histograms by label. Their bounds are the same for all labels.
type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// What is counted, by the part that counts.
#[derive(Default)]
pub struct Metrics {
    /// Jobs and attempts, by the leading projector.
    pub jobs: JobMetrics,
    /// Failures by category, by the leading projector and its classifier.
    pub failures: FailureMetrics,
    /// Requests, by the API.
    pub http: HttpMetrics,
    /// Operations, by the adapters.
    pub backends: BackendMetrics,
    /// Slots and leases, by the worker.
    pub worker: WorkerMetrics,
    /// Projector, classifier and embedder, by themselves.
    pub server: ServerMetrics,
    /// Notices, by their senders.
    pub notices: NoticeMetrics,
    /// What the backends said last, by the API.
    pub snapshot: SnapshotCell,
}
