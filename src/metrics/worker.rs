//! What a worker tells of itself.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of a renewal, in seconds.
const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0];

/// The series of the process's worker.
pub struct WorkerMetrics {
    slots: Gauge,
    slots_busy: Gauge,
    cores: Gauge,
    cores_busy: Gauge,
    draining: Gauge,
    leases_lost: Counter,
    spawn_failures: Counter,
    renewal: Histogram,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self {
            slots: Gauge::default(),
            slots_busy: Gauge::default(),
            cores: Gauge::default(),
            cores_busy: Gauge::default(),
            draining: Gauge::default(),
            leases_lost: Counter::default(),
            spawn_failures: Counter::default(),
            renewal: Histogram::new(SECONDS),
        }
    }
}

/// How busy a worker is, at its last heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Jobs that it runs at most.
    pub slots: u32,
    /// Jobs that run now.
    pub slots_busy: u32,
    /// Cores that it divides among them.
    pub cores: u32,
    /// Cores that jobs have now.
    pub cores_busy: u32,
    /// Whether it takes nothing new.
    pub draining: bool,
}

impl WorkerMetrics {
    pub(super) fn register(&self, to: &mut Registry) {
        to.register("worker_slots", "Jobs that the worker runs at most", self.slots.clone());
        to.register("worker_slots_busy", "Jobs that the worker runs", self.slots_busy.clone());
        to.register("worker_cores", "Cores that the worker divides among jobs", self.cores.clone());
        to.register("worker_cores_busy", "Cores that jobs of the worker have", self.cores_busy.clone());
        to.register("worker_draining", "Whether the worker takes nothing new", self.draining.clone());
        to.register(
            "worker_leases_lost",
            "Attempts whose lease was lost before they had ended",
            self.leases_lost.clone(),
        );
        let help = "Attempts whose process could not be started";
        to.register("worker_spawn_failures", help, self.spawn_failures.clone());
        to.register(
            "worker_lease_renewal_seconds",
            "From the request to renew leases to its answer",
            self.renewal.clone(),
        );
    }

    /// Takes note of how busy the worker is.
    pub fn set_load(&self, load: Load) {
        self.slots.set(load.slots.into());
        self.slots_busy.set(load.slots_busy.into());
        self.cores.set(load.cores.into());
        self.cores_busy.set(load.cores_busy.into());
        self.draining.set(load.draining.into());
    }

    /// Counts an attempt whose lease was lost before it had ended.
    pub fn lost_lease(&self) {
        self.leases_lost.inc();
    }

    /// Counts an attempt whose process could not be started.
    pub fn could_not_spawn(&self) {
        self.spawn_failures.inc();
    }

    /// Notes a renewal of leases that was answered.
    pub fn renewed(&self, took: Duration) {
        self.renewal.observe(took.as_secs_f64());
    }
}
