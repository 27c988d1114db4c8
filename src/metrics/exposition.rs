//! Writes the metrics of a role, in the format that the scraper asks for.

use std::fmt;
use std::path::PathBuf;

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::METRICS;
use super::process::{DiskCollector, ProcessCollector};
use super::snapshot::{BullMqCollector, EndsCollector, SnapshotCollector};

/// What the process does, and so which metrics it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The API and the projector.
    Serve,
    /// A worker.
    Work,
    /// Both.
    Dev,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Serve => "serve",
            Role::Work => "work",
            Role::Dev => "dev",
        }
    }
}

/// What the process is, and what it shows.
#[derive(Debug, Clone)]
pub struct ExpositionSettings {
    /// Its role.
    pub role: Role,
    /// Jobber's version.
    pub version: String,
    /// The backend of queue and event log: `sqlite` or `redis`.
    pub queue: &'static str,
    /// The backend of history: `sqlite` or `couchbase`.
    pub store: &'static str,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The file of the embedded database.
    pub database: PathBuf,
    /// The name of the default queue.
    pub default_queue: String,
    /// Whether to show BullMQ's names of metrics, too.
    pub bullmq_names: bool,
}

impl Default for ExpositionSettings {
    fn default() -> Self {
        Self {
            role: Role::Serve,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queue: "sqlite",
            store: "sqlite",
            data_dir: PathBuf::new(),
            database: PathBuf::new(),
            default_queue: String::new(),
            bullmq_names: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: String,
    role: &'static str,
    queue: &'static str,
    store: &'static str,
}

/// The metrics of a role.
pub struct Exposition {
    registry: Registry,
    backends: [&'static str; 2],
}

impl Exposition {
    /// Registers what the role has.
    pub fn new(settings: ExpositionSettings) -> Self {
        let ExpositionSettings { role, version, queue, store, data_dir, database, default_queue, bullmq_names } =
            settings;
        let mut registry = Registry::default();
        if role != Role::Work {
            METRICS.http.register(&mut registry);
        }
        registry.register_collector(Box::new(ProcessCollector::new()));
        if bullmq_names && role != Role::Work {
            registry.register_collector(Box::new(BullMqCollector { default_queue: default_queue.clone() }));
        }
        let own = registry.sub_registry_with_prefix("jobber");
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version, role: role.name(), queue, store }).set(1);
        own.register("build_info", "What the process is; always 1", build);
        if role != Role::Work {
            METRICS.jobs.register(own);
            METRICS.failures.register(own);
            METRICS.server.register(own);
            METRICS.notices.register(own);
            METRICS.http.register_prefixed(own);
            own.register_collector(Box::new(SnapshotCollector));
            own.register_collector(Box::new(EndsCollector { default_queue }));
        }
        if role != Role::Serve {
            METRICS.worker.register(own);
        }
        METRICS.backends.register(own);
        let mut wal = database.into_os_string();
        wal.push("-wal");
        own.register_collector(Box::new(DiskCollector { data_dir, wal: wal.into() }));
        Self { registry, backends: [queue, store] }
    }

    /// The backend of queue and event log, and that of history.
    pub fn backends(&self) -> [&'static str; 2] {
        self.backends
    }

    /// All metrics as text. Asks no backend, but reads files, so it belongs on a thread that may wait.
    ///
    /// # Errors
    /// None in practice: a string takes everything.
    pub fn encode(&self, format: Format) -> Result<String, fmt::Error> {
        let mut written = String::new();
        match format {
            Format::Text => prometheus_text::encode(&mut written, &self.registry)?,
            Format::OpenMetrics => text::encode(&mut written, &self.registry)?,
        }
        Ok(written)
    }
}

/// The formats of an exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header prefers; [`Format::Text`] without one.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut best, mut quality) = (Format::Text, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut version, mut q) = ("", 1.0);
            for part in parts {
                match part.split_once('=') {
                    Some(("version", text)) => version = text.trim_matches('"'),
                    Some(("q", text)) => q = text.parse::<f64>().unwrap_or(0.0),
                    _ => {}
                }
            }
            let format = match (media.as_str(), version) {
                ("application/openmetrics-text", "" | "1.0.0" | "0.0.1") => Format::OpenMetrics,
                ("text/plain" | "text/*" | "*/*", "" | "0.0.4") => Format::Text,
                _ => continue,
            };
            if q > quality {
                (best, quality) = (format, q);
            }
        }
        best
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => prometheus_text::CONTENT_TYPE,
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_scraper_likes_best() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                          q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::negotiate(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(
            Format::negotiate(Some("text/plain;version=0.0.4, application/openmetrics-text;q=0.9")),
            Format::Text
        );
        assert_eq!(Format::negotiate(Some("application/openmetrics-text; version=2.0.0")), Format::Text);
        assert_eq!(Format::negotiate(Some("application/vnd.google.protobuf, */*")), Format::Text);
        assert_eq!(Format::negotiate(None), Format::Text);
    }
}
