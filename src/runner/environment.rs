//! Makes the clean environment of a job from the worker's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cpus;
use super::order::RunOrder;
use super::slots::Slot;

/// Names of the variables that configure Jobber itself, and of those that the service manager gave to
/// Jobber alone. No job inherits them, whatever the pass-list says. A trailing `*` matches any ending.
const OWN: [&str; 11] = [
    "JOBBER_*",
    "OPENAI_API_KEY",
    "COUCHBASE_*",
    "REDIS_*",
    "NOTIFY_SOCKET",
    "WATCHDOG_*",
    "LISTEN_*",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
];

/// The resource whose units CUDA takes for the devices that a process may see.
const GPU: &str = "gpu";

/// Parts of names that say that a variable of another program holds a secret.
const SECRET: [&str; 5] = ["PASSWORD", "SECRET", "TOKEN", "CREDENTIAL", "_KEY"];

/// Whether a variable may hold a secret: it is Jobber's own, which no job inherits, or its name
/// says so. A process that runs jobs keeps no such variable where a job could read it.
pub fn is_secret_variable(name: &str) -> bool {
    OWN.iter().any(|pattern| matches(pattern, name)) || SECRET.iter().any(|part| name.contains(part))
}

/// The variables that every job of a worker gets, decided once.
#[derive(Debug)]
pub(super) struct Environment {
    shared: Vec<(String, String)>,
    preloads_sanitizer: bool,
}

impl Environment {
    /// Takes from `parent` the variables that `pass` names and that are not Jobber's own. Then adds
    /// `set`, except for names that begin with `JOBBER_`. Leaves out names and values that the
    /// system could not pass on.
    pub(super) fn new(parent: Vec<(String, String)>, pass: &[String], set: &[(String, String)]) -> Self {
        let mut shared = BTreeMap::new();
        for (name, value) in parent {
            let passed = pass.iter().any(|pattern| matches(pattern, &name));
            if passed && !OWN.iter().any(|pattern| matches(pattern, &name)) {
                shared.insert(name, value);
            }
        }
        for (name, value) in set {
            if name.starts_with("JOBBER_") {
                tracing::warn!(name, "variables that begin with JOBBER_ are Jobber's own: not set for jobs");
            } else {
                shared.insert(name.clone(), value.clone());
            }
        }
        let possible =
            |(name, value): &(String, String)| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        let shared: Vec<_> = shared.into_iter().filter(possible).collect();
        let preloads_sanitizer = shared.iter().any(|(name, value)| name == "LD_PRELOAD" && value.contains("san.so"));
        Self { shared, preloads_sanitizer }
    }

    /// Whether every job is made to load a sanitizer's runtime.
    pub(super) fn preloads_sanitizer(&self) -> bool {
        self.preloads_sanitizer
    }

    /// The variables that every job gets: name and value, sorted by name.
    pub(super) fn shared(&self) -> &[(String, String)] {
        &self.shared
    }
}

/// A variable of one attempt: name and value.
pub(super) type Variable = (Cow<'static, str>, String);

/// The variables that only this attempt gets. `pinned` tells whether the attempt is held to the CPUs of its slot.
/// `places` are paths in its scratch directory, by the variables that name them.
pub(super) fn of_attempt(
    order: &RunOrder,
    worker: &str,
    slot: &Slot,
    pinned: bool,
    places: [(&'static str, &PathBuf); 2],
) -> Vec<Variable> {
    let cores = slot.cpus().len().to_string();
    let mut own = vec![
        ("JOBBER_JOB_ID", order.job.id.to_string()),
        ("JOBBER_JOB_NAME", order.job.name.to_string()),
        ("JOBBER_ATTEMPT", order.attempt.to_string()),
        ("JOBBER_MAX_ATTEMPTS", order.job.options.attempts.to_string()),
        ("JOBBER_CORES", cores.clone()),
        ("OMP_NUM_THREADS", cores),
        ("JOBBER_WORKER", worker.to_owned()),
    ];
    own.extend(places.map(|(name, path)| (name, path.to_string_lossy().into_owned())));
    if pinned {
        own.push(("JOBBER_CPUS", cpus::join(slot.cpus())));
    }
    let options = &order.job.options;
    own.extend(options.group.iter().map(|group| ("JOBBER_GROUP", group.to_string())));
    own.extend(options.array_index.map(|index| ("JOBBER_ARRAY_INDEX", index.to_string())));
    if let Some(trace) = &order.trace {
        own.push(("TRACEPARENT", trace.traceparent()));
        if !trace.tracestate().is_empty() {
            own.push(("TRACESTATE", trace.tracestate().to_owned()));
        }
    }
    let mut variables: Vec<Variable> = own.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
    for (resource, units) in slot.units() {
        let units = units.join(",");
        if resource.as_str() == GPU {
            variables.push((Cow::Borrowed("CUDA_VISIBLE_DEVICES"), units.clone()));
        }
        variables.push((Cow::Owned(resource.variable()), units));
    }
    variables
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn only_what_is_named_passes() {
        let parent = pairs(&[("PATH", "/bin"), ("LC_ALL", "C"), ("LC_TIME", "C"), ("SECRET", "x"), ("LC", "no")]);
        let environment =
            Environment::new(parent, &["PATH".into(), "LC_*".into()], &pairs(&[("A", "1"), ("PATH", "/x")]));
        assert_eq!(environment.shared(), pairs(&[("A", "1"), ("LC_ALL", "C"), ("LC_TIME", "C"), ("PATH", "/x")]));
    }

    #[test]
    fn no_secret_of_jobbers_own_passes() {
        let secrets = pairs(&[
            ("JOBBER_TOKEN", "t"),
            ("OPENAI_API_KEY", "k"),
            ("COUCHBASE_PASSWORD", "p"),
            ("REDIS_HOST", "h"),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("WATCHDOG_USEC", "1"),
            ("OTHER", "o"),
        ]);
        let pass = ["*".into(), "JOBBER_TOKEN".into(), "OPENAI_API_KEY".into()];
        let environment = Environment::new(secrets, &pass, &pairs(&[("JOBBER_TOKEN", "t")]));
        assert_eq!(environment.shared(), pairs(&[("OTHER", "o")]));
    }

    #[test]
    fn what_the_system_can_not_pass_on_is_left_out() {
        let set = pairs(&[("", "x"), ("A=B", "x"), ("C\0", "x"), ("D", "\0"), ("E", "")]);
        assert_eq!(Environment::new(vec![], &[], &set).shared(), pairs(&[("E", "")]));
    }
}
