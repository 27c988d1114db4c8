//! Traces: what is known of submissions and attempts becomes spans, which go to an OpenTelemetry collector.
//!
//! ```text
//!   POST /api/v1/jobs  SERVER            <- the caller's `traceparent`
//!     └─ send {queue}  PRODUCER          -> stored with the job
//!          └─ process {queue}  CONSUMER  one per attempt -> `TRACEPARENT` of the process
//!               └─ wait  INTERNAL        from when the job was due until it was started
//! ```
//! Off unless the standard `OTEL_*` variables name a collector. Then the context of the caller, or of another producer,
//! is passed on as it came. The docs are in `docs/operations/tracing.md`.

mod attempt;
mod collector;
mod settings;
mod span;
mod submission;

pub use attempt::AttemptTrace;
pub use settings::TraceSettings;
pub use span::Span;
pub use submission::{RequestTrace, Sending};

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SpanProcessor};

use collector::Collector;

/// The queue, as spans name it.
#[derive(Debug, Clone)]
pub struct TracedQueue {
    /// Whose format its jobs have: `bullmq` or `jobber`.
    pub system: &'static str,
    /// Its name.
    pub name: String,
}

/// Makes spans, or only passes contexts on. Clones share the way to the collector.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Exporting>>);

/// What spans need from their begin to their export.
struct Exporting {
    processor: BatchSpanProcessor,
    sampler: Sampler,
    scope: InstrumentationScope,
    queue: TracedQueue,
}

impl Traces {
    /// How long the last spans may take to be exported when a process ends.
    const FAREWELL: Duration = Duration::from_secs(3);

    /// Starts the export if the settings ask for it. A setting that can't be used is told to the log, and stops nothing.
    /// `instance` is this process among all of its kind. To be called within a runtime.
    pub fn start(settings: &TraceSettings, queue: TracedQueue, instance: &str) -> Self {
        if !settings.is_on() {
            return Self::default();
        }
        for trouble in settings.troubles() {
            tracing::warn!("{trouble}");
        }
        match Exporting::start(settings, queue, instance) {
            Ok(exporting) => {
                tracing::info!("spans are exported by OTLP");
                Self(Some(Arc::new(exporting)))
            }
            Err(error) => {
                tracing::warn!(error = &*error, "the OTEL_* variables can't be used; no spans are exported");
                Self::default()
            }
        }
    }

    /// Exports the spans that have ended, within a few seconds, and ends the export.
    pub async fn finish(self) {
        let Some(exporting) = self.0 else { return };
        let flushed = tokio::task::spawn_blocking(move || exporting.processor.shutdown_with_timeout(Self::FAREWELL));
        if !matches!(flushed.await, Ok(Ok(()))) {
            tracing::debug!("the last spans were not exported in time");
        }
    }
}

impl Exporting {
    fn start(
        settings: &TraceSettings,
        queue: TracedQueue,
        instance: &str,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(settings.timeout(), settings.is_plain())?)
            .with_headers(settings.headers())
            .build()?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        resource = resource.with_attribute(KeyValue::new("service.instance.id", instance.to_owned()));
        if !settings.name_service() {
            resource = resource.with_service_name("jobber");
        }
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("jobber").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor, sampler: settings.sampler(), scope, queue })
    }
}
