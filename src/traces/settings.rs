//! Reads the standard variables of OpenTelemetry that say whether, where to and how spans are exported.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;

/// What the `OTEL_*` variables say. The SDK reads those of the resource, of the batches (`OTEL_BSP_*`) and of the
/// endpoint by itself.
#[derive(Clone, Default)]
pub struct TraceSettings(BTreeMap<String, String>);

impl fmt::Debug for TraceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers hold secrets.
        f.debug_tuple("TraceSettings").field(&self.0.keys().collect::<Vec<_>>()).finish()
    }
}

impl TraceSettings {
    /// Takes the variables of OpenTelemetry from the environment of the process. An empty one counts as unset.
    pub fn from_environment(environment: &BTreeMap<String, String>) -> Self {
        let are_ours = environment.iter().filter(|(name, value)| name.starts_with("OTEL_") && !value.trim().is_empty());
        Self(are_ours.map(|(name, value)| (name.clone(), value.trim().to_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A variable of the exporter: the one for traces, else the one for all signals.
    fn of_exporter(&self, name: &str) -> Option<&str> {
        self.get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    /// Whether spans are exported: an endpoint is set, and nothing forbids it.
    pub(super) fn is_on(&self) -> bool {
        let is_disabled = self.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let exports = self.get("OTEL_TRACES_EXPORTER").is_none_or(|names| names.split(',').any(|n| n.trim() == "otlp"));
        self.of_exporter("ENDPOINT").is_some() && !is_disabled && exports
    }

    /// Whether the collector is reached without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.of_exporter("ENDPOINT").is_some_and(|endpoint| endpoint.starts_with("http://"))
    }

    /// What is set and can't be done: a sentence for the log each.
    pub(super) fn troubles(&self) -> Vec<String> {
        let protocol = self.of_exporter("PROTOCOL").filter(|protocol| *protocol != "http/protobuf");
        let protocol = protocol.map(|protocol| format!("spans are exported by http/protobuf, not by {protocol}"));
        let sampler = self.get("OTEL_TRACES_SAMPLER").filter(|name| self.named_sampler(name).is_none());
        let sampler = sampler.map(|name| format!("OTEL_TRACES_SAMPLER {name} is not known; every trace is recorded"));
        protocol.into_iter().chain(sampler).collect()
    }

    /// Decides which spans are recorded.
    pub(super) fn sampler(&self) -> Sampler {
        self.get("OTEL_TRACES_SAMPLER")
            .and_then(|name| self.named_sampler(name))
            .unwrap_or_else(|| Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
    }

    fn named_sampler(&self, name: &str) -> Option<Sampler> {
        let ratio = || {
            let ratio = self.get("OTEL_TRACES_SAMPLER_ARG").and_then(|text| text.parse::<f64>().ok());
            Sampler::TraceIdRatioBased(ratio.filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or(1.0))
        };
        Some(match name {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => ratio(),
            "parentbased_always_on" => Sampler::ParentBased(Box::new(Sampler::AlwaysOn)),
            "parentbased_always_off" => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
            "parentbased_traceidratio" => Sampler::ParentBased(Box::new(ratio())),
            _ => return None,
        })
    }

    /// The headers of each request. Jobs must not see these variables, so that `main` has taken them from the process's
    /// environment and the SDK can't read them.
    pub(super) fn headers(&self) -> HashMap<String, String> {
        let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
        let pairs = self.of_exporter("HEADERS").unwrap_or_default().split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
    }

    /// How long a request may take.
    pub(super) fn timeout(&self) -> Duration {
        const DEFAULT: Duration = Duration::from_secs(10);
        self.of_exporter("TIMEOUT").and_then(|ms| ms.parse().ok()).map_or(DEFAULT, Duration::from_millis)
    }

    /// Whether the variables name the service.
    pub(super) fn name_service(&self) -> bool {
        let names = |pair: &str| pair.split('=').next().is_some_and(|name| name.trim() == "service.name");
        self.get("OTEL_SERVICE_NAME").is_some()
            || self.get("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|pairs| pairs.split(',').any(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> TraceSettings {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        TraceSettings::from_environment(&variables.collect())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");

    #[test]
    fn spans_are_exported_only_where_an_endpoint_is_set_and_nothing_forbids_it() {
        for (variables, is_on) in [
            (vec![], false),
            (vec![("OTEL_SERVICE_NAME", "mine")], false),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", " ")], false),
            (vec![ENDPOINT], true),
            (vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/v1/traces")], true),
            (vec![ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")], false),
            (vec![ENDPOINT, ("OTEL_SDK_DISABLED", "false")], true),
            (vec![ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], false),
            (vec![ENDPOINT, ("OTEL_TRACES_EXPORTER", "console, otlp")], true),
        ] {
            assert_eq!(settings(&variables).is_on(), is_on, "{variables:?}");
        }
    }

    #[test]
    fn the_variables_for_traces_stand_before_those_for_all_signals() {
        let settings = settings(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key = a%20b%3D , x=y=z,broken"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ]);
        let expected = [("api-key", "a b="), ("x", "y=z")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings.headers(), HashMap::from(expected));
        assert_eq!(settings.timeout(), Duration::from_millis(1500));
        assert!(!format!("{settings:?}").contains("b%3D"), "a secret is printed");
    }

    #[test]
    fn samplers_have_the_standards_names() {
        let sampler = |name: &str, argument: &str| {
            let settings = settings(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
            (format!("{:?}", settings.sampler()), settings.troubles().len())
        };
        assert_eq!(sampler("always_off", ""), ("AlwaysOff".to_owned(), 0));
        assert_eq!(sampler("traceidratio", "0.25"), ("TraceIdRatioBased(0.25)".to_owned(), 0));
        assert_eq!(sampler("traceidratio", "7"), ("TraceIdRatioBased(1.0)".to_owned(), 0));
        assert_eq!(sampler("parentbased_traceidratio", "0.5").0, "ParentBased(TraceIdRatioBased(0.5))");
        assert_eq!(sampler("xray", ""), ("ParentBased(AlwaysOn)".to_owned(), 1));
        let grpc = settings(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert!(grpc.troubles()[0].contains("not by grpc"), "{:?}", grpc.troubles());
    }

    #[test]
    fn a_service_name_may_stand_among_the_attributes() {
        assert!(!settings(&[("OTEL_RESOURCE_ATTRIBUTES", "service.version=1,x.service.name=2")]).name_service());
        assert!(settings(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=mine")]).name_service());
        assert!(settings(&[("OTEL_SERVICE_NAME", "mine")]).name_service());
    }
}
