//! The layers of the configuration: default, file, environment, command line. Later layers win, and
//! each value knows its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::couchbase;
use super::settings::{POLICY_KEYS, SETTINGS, job_keys};
use crate::domain::JobName;

/// Why the configuration can't be used: where, which key, what is allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A value that is not allowed.
    #[error("{origin}: {key} = {value:?} is not allowed: it must be {allowed}")]
    Value {
        /// The layer that gave the value.
        origin: Origin,
        /// The key of the setting.
        key: String,
        /// The value that was given, as the error shows it.
        value: String,
        /// What is allowed, as people read it.
        allowed: String,
    },
    /// The file has a key that does not exist.
    #[error("{file}: there is no setting {key}{}", .nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    Key {
        /// The path of the file.
        file: String,
        /// The key that does not exist.
        key: String,
        /// The setting with the most similar name.
        nearest: Option<String>,
    },
    /// The file can't be read or is not TOML.
    #[error("{file}: {problem}")]
    File {
        /// The path of the file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Conflict(String),
}

/// The layer from which a value came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The defaults that are built in.
    Default,
    /// The file with this path.
    File(PathBuf),
    /// The environment variable with this name.
    Variable(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("built-in default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag => f.write_str("command line"),
        }
    }
}

/// The value of a key as it was given: one text, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    List(Vec<String>),
}

/// All layers, merged into one value for each key.
#[derive(Debug, Default)]
pub(super) struct Layers {
    values: BTreeMap<String, (Raw, Origin)>,
    /// The files that were read.
    pub(super) files: Vec<PathBuf>,
    /// Names that have a `[jobs.<name>]` section.
    pub(super) job_names: Vec<JobName>,
    /// Categories that have a `[policies.<category>]` section.
    pub(super) policy_names: Vec<String>,
    /// The sections `[[notify]]`, in order, each with the file that it is from.
    pub(super) notify: Vec<(toml::Table, Origin)>,
    /// The environment variables of the process, which those sections may name.
    pub(super) environment: BTreeMap<String, String>,
}

impl Layers {
    /// Starts with the built-in defaults.
    pub(super) fn defaults() -> Self {
        let mut layers = Self::default();
        let text: String =
            SETTINGS.iter().filter(|s| !s.default.is_empty()).map(|s| format!("{} = {}\n", s.key, s.default)).collect();
        let table: toml::Table = text.parse().expect("the table of settings holds valid TOML");
        layers.lay_table("", &table, &Origin::Default).expect("the table of settings names its own keys");
        layers
    }

    /// Lays the values of a file over the layers so far.
    pub(super) fn lay_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let file = path.display().to_string();
        let text = fs_err::read(path)
            .map_err(|e| ConfigError::File { file: file.clone(), problem: format!("can't be read: {e}") })?;
        let text = String::from_utf8(text)
            .map_err(|_| ConfigError::File { file: file.clone(), problem: "is not UTF-8 text".to_owned() })?;
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::File { file, problem: e.to_string().trim_end().to_owned() })?;
        self.files.push(path.to_owned());
        self.lay_table("", &table, &Origin::File(path.to_owned()))
    }

    /// Lays the environment over the layers so far. An empty variable counts as unset.
    pub(super) fn lay_environment(&mut self, environment: &BTreeMap<String, String>) {
        self.environment.clone_from(environment);
        let given = |name: &str| environment.get(name).filter(|v| !v.trim().is_empty());
        for setting in SETTINGS.iter() {
            if let Some((name, value)) = setting.variables.iter().find_map(|n| Some((n, given(n)?))) {
                self.set(setting.key, Raw::Text(value.clone()), Origin::Variable((*name).to_owned()));
            }
        }
        let (host, port) = (given("REDIS_HOST"), given("REDIS_PORT"));
        if (host.is_some() || port.is_some()) && given("JOBBER_QUEUE_URL").is_none() {
            let login = given("REDIS_PASSWORD").map(|password| {
                let user = given("REDIS_USERNAME").map(String::as_str).unwrap_or_default();
                format!("{}:{}@", couchbase::encoded(user), couchbase::encoded(password))
            });
            self.lay_redis(host.map(String::as_str), port.map(String::as_str), &login.unwrap_or_default());
        }
        if let (Some(host), None) = (given("COUCHBASE_HOST"), given("JOBBER_STORE_URL")) {
            let part = |name, default: &str| given(name).map_or_else(|| default.to_owned(), Clone::clone);
            let url = couchbase::of_variables(
                host,
                &part("COUCHBASE_USERNAME", ""),
                &part("COUCHBASE_PASSWORD", ""),
                &part("COUCHBASE_BUCKET", "jobber"),
            );
            let origin = Origin::Variable("COUCHBASE_HOST (with COUCHBASE_USERNAME and COUCHBASE_PASSWORD)".to_owned());
            self.set("store.url", Raw::Text(url), origin);
        }
        // The variable of the original program holds only a port.
        if let (Some(port), None) = (given("PORT"), given("JOBBER_LISTEN")) {
            let host = match self.values.get("serve.listen") {
                Some((Raw::Text(listen), _)) => {
                    listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host).to_owned()
                }
                _ => "127.0.0.1".to_owned(),
            };
            self.set("serve.listen", Raw::Text(format!("{host}:{port}")), Origin::Variable("PORT".to_owned()));
        }
    }

    /// Builds the queue's URL from the variables of the original program, which give the host and
    /// the port one by one. `login` goes before them.
    fn lay_redis(&mut self, host: Option<&str>, port: Option<&str>, login: &str) {
        let name = match (host, port) {
            (Some(_), Some(_)) => "REDIS_HOST, REDIS_PORT",
            (Some(_), None) => "REDIS_HOST",
            (None, _) => "REDIS_PORT",
        };
        let host = host.unwrap_or("127.0.0.1");
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let url = format!("redis://{login}{host}:{}", port.unwrap_or("6379"));
        self.set("queue.url", Raw::Text(url), Origin::Variable(name.to_owned()));
    }

    /// Lays the values from the command line over the layers so far.
    pub(super) fn lay_flags(&mut self, flags: &[(&'static str, Vec<String>)]) {
        for (key, values) in flags {
            let raw = match values.as_slice() {
                [one] if !is_list(key) => Raw::Text(one.clone()),
                many => Raw::List(many.to_vec()),
            };
            self.set(key, raw, Origin::Flag);
        }
    }

    fn set(&mut self, key: &str, raw: Raw, origin: Origin) {
        self.values.insert(key.to_owned(), (raw, origin));
    }

    fn lay_table(&mut self, prefix: &str, table: &toml::Table, origin: &Origin) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let bad = |problem| Err(ConfigError::File { file: origin.to_string(), problem });
            if key == "notify" {
                let Some(sections) = sections(value) else {
                    return bad("notify is a list of sections: write [[notify]]".to_owned());
                };
                self.notify.extend(sections.into_iter().map(|section| (section, origin.clone())));
                continue;
            }
            if let toml::Value::Table(inner) = value
                && (["jobs", "policies"].contains(&prefix) || key == "policies" || is_section(&key))
            {
                if prefix == "jobs" {
                    match JobName::parse(name) {
                        Ok(name) if self.job_names.contains(&name) => {}
                        Ok(name) => self.job_names.push(name),
                        Err(error) => return bad(format!("section [jobs.{name:?}]: {error}")),
                    }
                }
                if prefix == "policies" && !self.policy_names.contains(name) {
                    self.policy_names.push(name.clone());
                }
                self.lay_table(&key, inner, origin)?;
                continue;
            }
            if let toml::Value::Table(pairs) = value
                && PAIRS.contains(&key.as_str())
            {
                self.set(
                    &key,
                    Raw::List(pairs.iter().map(|(name, value)| pair(name, value)).collect()),
                    origin.clone(),
                );
                continue;
            }
            if is_section(&key) {
                return bad(format!("{key} is a section: write [{key}], and its settings below"));
            }
            if !is_setting(&key) {
                return Err(ConfigError::Key { file: origin.to_string(), nearest: nearest(&key), key });
            }
            let raw = match value {
                toml::Value::Array(items) => Raw::List(items.iter().map(scalar).collect()),
                other => Raw::Text(scalar(other)),
            };
            self.set(&key, raw, origin.clone());
        }
        Ok(())
    }

    /// Reads one setting; `None` when it is unset.
    pub(super) fn get<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        let Some((raw, origin)) = self.values.get(key) else { return Ok(None) };
        let (value, result) = match raw {
            Raw::Text(text) => (text.clone(), read(text)),
            Raw::List(items) => (format!("[{}]", items.join(", ")), Err("one value, not a list".to_owned())),
        };
        result.map(Some).map_err(|allowed| ConfigError::Value {
            origin: origin.clone(),
            key: key.to_owned(),
            value: without_password(&value),
            allowed,
        })
    }

    /// Reads a setting that holds a list. A single text is split at its commas.
    pub(super) fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some((raw, origin)) = self.values.get(key) else { return Ok(None) };
        let items: Vec<&str> = match raw {
            Raw::Text(text) => text.split(',').map(str::trim).filter(|t| !t.is_empty()).collect(),
            Raw::List(items) => items.iter().map(String::as_str).collect(),
        };
        let error = |value: &str, allowed| ConfigError::Value {
            origin: origin.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            allowed,
        };
        items
            .into_iter()
            .map(|item| read(item).map_err(|allowed| error(item, allowed)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Reads a setting whose items say something only together. A single text is split at its commas.
    pub(super) fn pairs<T>(&self, key: &str, read: impl Fn(&[String]) -> Result<T, String>) -> Result<T, ConfigError> {
        let items = self.list(key, |item| Ok(item.to_owned()))?.unwrap_or_default();
        read(&items).map_err(|allowed| ConfigError::Value {
            origin: self.origin(key),
            key: key.to_owned(),
            value: items.join(", "),
            allowed,
        })
    }

    /// The layer from which a setting's value came.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.values.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }
}

/// Settings whose pairs may stand in a section of their own.
const PAIRS: [&str; 2] = ["worker.labels", "worker.resources"];

/// A line of such a section as one item of the setting's list.
fn pair(name: &str, value: &toml::Value) -> String {
    match value {
        toml::Value::Array(items) => {
            let units: String = items.iter().map(|item| format!("{}+", scalar(item))).collect();
            format!("{name}={units}")
        }
        other => format!("{name}={}", scalar(other)),
    }
}

/// The sections of a list of them; `None` where it is something else.
fn sections(value: &toml::Value) -> Option<Vec<toml::Table>> {
    value.as_array()?.iter().map(|section| section.as_table().cloned()).collect()
}

pub(super) fn scalar(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value for an error message: a URL without its user and password.
fn without_password(value: &str) -> String {
    match (value.split_once("://"), value.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://...@{place}"),
        _ => value.to_owned(),
    }
}

fn is_list(key: &str) -> bool {
    SETTINGS.iter().any(|s| s.key == key && s.default.starts_with('['))
}

fn is_section(key: &str) -> bool {
    key == "jobs" || SETTINGS.iter().any(|s| s.key.split_once('.').is_some_and(|(section, _)| section == key))
}

fn is_setting(key: &str) -> bool {
    let of_a_job = || {
        let mut parts = key.split('.');
        parts.next() == Some("jobs")
            && parts.next_back().is_some_and(|last| job_keys().any(|k| k == last))
            && parts.next().is_some()
    };
    let of_a_policy = || {
        let parts: Vec<_> = key.split('.').collect();
        matches!(parts[..], ["policies", _, last] if POLICY_KEYS.contains(&last))
    };
    SETTINGS.iter().any(|s| s.key == key) || of_a_job() || of_a_policy()
}

/// Finds variables that look like settings but are none, each with the setting that the user probably meant.
pub(super) fn unknown_variables(environment: &BTreeMap<String, String>) -> Vec<(&str, Option<&'static str>)> {
    /// Variables that other code reads, or that jobs get: a job may start a worker.
    const OTHERS: [&str; 14] = [
        "JOBBER_CA",
        "JOBBER_CONFIG",
        "JOBBER_SERVER",
        "JOBBER_OUTPUT",
        "JOBBER_BLESS",
        "JOBBER_JOB_ID",
        "JOBBER_JOB_NAME",
        "JOBBER_ATTEMPT",
        "JOBBER_MAX_ATTEMPTS",
        "JOBBER_WORKER",
        "JOBBER_ERROR_FILE",
        "JOBBER_RESULTS_FILE",
        "JOBBER_GROUP",
        "JOBBER_ARRAY_INDEX",
    ];
    /// Beginnings of the variables that Kubernetes sets for a service of this name, and that tests set.
    const OTHERS_BEGIN: [&str; 3] = ["JOBBER_SERVICE_", "JOBBER_PORT", "JOBBER_TEST_"];
    let known = || SETTINGS.iter().flat_map(|s| s.variables.iter().copied());
    let is_known = |name: &str| {
        known().chain(OTHERS).any(|n| n == name) || OTHERS_BEGIN.iter().any(|begin| name.starts_with(begin))
    };
    let meant = |name: &str| known().map(|n| (distance(name, n), n)).min().filter(|(d, _)| *d <= 4).map(|(_, n)| n);
    let names = environment.keys().map(String::as_str).filter(|name| name.starts_with("JOBBER_"));
    names.filter(|name| !is_known(name)).map(|name| (name, meant(name))).collect()
}

/// The setting whose name differs by the fewest letters, if those are few.
fn nearest(key: &str) -> Option<String> {
    let last = key.rsplit('.').next().unwrap_or(key);
    SETTINGS
        .iter()
        .map(|s| (distance(key, s.key).min(distance(last, s.key.rsplit('.').next().unwrap_or(s.key)) + 1), s.key))
        .min()
        .filter(|(d, _)| *d <= 3)
        .map(|(_, key)| key.to_owned())
}

/// The one of these names that differs by the fewest letters, if those are few.
pub(super) fn nearest_of(key: &str, names: impl Iterator<Item = &'static str>) -> Option<String> {
    names.map(|name| (distance(key, name), name)).min().filter(|(d, _)| *d <= 3).map(|(_, name)| name.to_owned())
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
