//! Times the answers of the API, by method, route and status.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Histograms;
use super::bounded::{Bounded, OTHER};

/// Bounds in seconds, as HTTP's semantic conventions have them.
const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Routes with a label of their own.
const ROUTES: usize = 120;
/// Combinations of method, route and status with series of their own. Beyond, only the status is told apart.
const COMBINATIONS: usize = 120;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    http_request_method: &'static str,
    http_route: Arc<str>,
    http_response_status_code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStream {
    kind: &'static str,
}

/// What is counted of the API.
pub struct HttpMetrics {
    routes: Bounded<Arc<str>>,
    answers: Histograms<OfAnswer>,
    combinations: AtomicUsize,
    refused: Family<OfCode, Counter>,
    streams: Family<OfStream, Gauge>,
}

/// Counts a stream as open until it is dropped.
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self {
            routes: Bounded::new(ROUTES),
            answers: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            combinations: AtomicUsize::new(0),
            refused: Family::default(),
            streams: Family::default(),
        }
    }
}

impl HttpMetrics {
    pub(super) fn register(&self, root: &mut Registry) {
        let help = "From the head of a request to the head of its answer";
        root.register("http_server_request_duration_seconds", help, self.answers.clone());
    }

    pub(super) fn register_prefixed(&self, to: &mut Registry) {
        to.register(
            "requests_refused",
            "Requests that were answered with a problem, by its code",
            self.refused.clone(),
        );
        to.register("streams_open", "Streams of server-sent events that are open", self.streams.clone());
    }

    /// Notes an answer. `route` is the template that the request matched, with its verb, if it matched one.
    pub fn answered(&self, method: &str, route: Option<&str>, status: u16, took: Duration) {
        let other = || self.routes.get(OTHER, |route| route.into());
        let http_route = route.map_or_else(other, |route| self.routes.get(route, |route| route.into()));
        let of = OfAnswer { http_request_method: method_label(method), http_route, http_response_status_code: status };
        if let Some(known) = self.answers.get(&of) {
            return known.observe(took.as_secs_f64());
        }
        let is_bounded = self.combinations.fetch_add(1, Ordering::Relaxed) < COMBINATIONS;
        let others = || OfAnswer { http_request_method: "_OTHER", http_route: other(), ..of.clone() };
        let of = if is_bounded { of } else { others() };
        self.answers.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// Counts a request that was answered with a problem. Codes are those of the program, so they are few.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&OfCode { code }).inc();
    }

    /// Counts a stream of this kind as open.
    pub fn stream(&self, kind: &'static str) -> OpenStream {
        let open = self.streams.get_or_create_owned(&OfStream { kind });
        open.inc();
        OpenStream(open)
    }
}

/// The methods that HTTP knows; a client may invent others.
fn method_label(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.iter().find(|known| **known == method).copied().unwrap_or("_OTHER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_series_without_end() {
        let metrics = HttpMetrics::default();
        for n in 0..1000 {
            metrics.answered("GET", Some(&format!("/{n}")), 200, Duration::ZERO);
            metrics.answered(&format!("M{n}"), None, 200 + n % 3, Duration::ZERO);
        }
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
        let series = text.lines().filter(|line| line.contains("_count{")).count();
        assert!((COMBINATIONS..=COMBINATIONS + 3).contains(&series), "{series}");
        let open = metrics.stream("events");
        assert_eq!(metrics.streams.get_or_create(&OfStream { kind: "events" }).get(), 1);
        drop(open);
        assert_eq!(metrics.streams.get_or_create(&OfStream { kind: "events" }).get(), 0);
    }
}
