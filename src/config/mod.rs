//! Reads the configuration from its layers and checks it. Every error names the place, the key and what is allowed.

mod artifacts;
mod couchbase;
mod embedder;
pub mod env;
mod example;
mod host_rules;
mod layers;
mod notices;
mod policies;
mod settings;
mod store;
pub mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use artifacts::{ArtifactsConfig, ArtifactsUrl};
pub use couchbase::CouchbaseUrl;
pub use embedder::{EmbedderConfig, EndpointConfig};
pub use example::example;
use layers::Layers;
pub use layers::{ConfigError, Origin};
pub use store::{StoreConfig, StoreUrl};
use values::{address, at_least, boolean, key_part, one_of, path, queue_name, queue_url, within};

use crate::domain::notation::{self, number};
use crate::domain::{
    Backoff, BackoffKind, CategoryId, CategoryRule, HostRulesByName, JobName, JobOptions, Labels, QueueName,
    QueueOrder, QueueShare, ResourceUnits, RunOption, Secret, Seed,
};
use crate::notices::NoticeTarget;
use crate::redis::RedisUrl;
use crate::sqlite::Durability;
use crate::tls::CertificateFiles;

/// All settings, checked.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct Config {
    pub data_dir: PathBuf,
    pub log_level: String,
    pub log_json: bool,
    pub serve: ServeConfig,
    pub queue: QueueConfig,
    pub store: StoreConfig,
    pub durability: Durability,
    /// How long ended jobs stay in history; `None` for ever.
    pub retention: Option<Duration>,
    pub events_cap: u64,
    pub events_keep: u64,
    pub failures_threshold: Option<f32>,
    pub failures_seed: Seed,
    pub embedder: EmbedderConfig,
    pub artifacts: ArtifactsConfig,
    pub worker: WorkerConfig,
    /// Whether metrics are shown by BullMQ's names, too.
    pub bullmq_names: bool,
    /// The rules for jobs that say nothing.
    pub defaults: JobOptions,
    /// The rules for single job names, which replace `defaults`.
    pub jobs: BTreeMap<JobName, JobOptions>,
    /// What this host demands of its jobs: sandbox and crash reports.
    pub host_rules: HostRulesByName,
    /// Files and directories with secrets, to which no sandbox may lead.
    pub secret_paths: Vec<PathBuf>,
    /// The rules for failures by category.
    pub policies: BTreeMap<CategoryId, CategoryRule>,
    /// Where notices go.
    pub notify: Vec<NoticeTarget>,
}

/// The settings of the API server.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct ServeConfig {
    pub listen: SocketAddr,
    pub token: Option<Secret>,
    pub view_token: Option<Secret>,
    pub view_hides_data: bool,
    pub session_ttl: Duration,
    pub tls: Option<CertificateFiles>,
    pub insecure: bool,
    pub allowed_hosts: Vec<String>,
    pub body_limit: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_connections: usize,
    pub shutdown_grace: Duration,
    pub idempotency_ttl: Duration,
    pub check_binaries: bool,
    pub ui_dir: Option<PathBuf>,
}

/// Where the queue is.
#[derive(Debug, Clone)]
pub enum QueueUrl {
    /// In the embedded database of the data directory.
    Embedded,
    /// On a Redis or Valkey server or cluster. The URL names no Sentinels.
    Redis(RedisUrl),
}

impl QueueUrl {
    /// The name of what holds queue and event log, as metrics show it.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Embedded => "sqlite",
            Self::Redis(_) => "redis",
        }
    }
}

/// The settings of the queue.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct QueueConfig {
    pub url: QueueUrl,
    pub name: QueueName,
    pub prefix: String,
    pub tls_ca: Option<PathBuf>,
    pub lease: Duration,
    pub completed_age: Duration,
    pub completed_count: Option<u64>,
    pub failed_age: Duration,
    pub failed_count: Option<u64>,
}

/// The settings of a worker.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct WorkerConfig {
    pub queues: Vec<QueueShare>,
    pub queue_order: QueueOrder,
    pub jobs_dir: PathBuf,
    pub cores: Option<u32>,
    pub cpus: Option<Vec<u32>>,
    pub cores_per_process: u32,
    pub memory: Option<u64>,
    pub labels: Labels,
    pub resources: ResourceUnits,
    pub unplaceable_after: Duration,
    pub pin: bool,
    pub nice: u8,
    pub drain_timeout: Duration,
    pub max_jobs: Option<u64>,
    pub max_time: Option<Duration>,
    pub crash_limit: u32,
    pub output_bytes: usize,
    pub spool_bytes: usize,
    pub pipe_drain: Duration,
    pub crash_patience: Duration,
    pub pass_environment: Vec<String>,
    pub set_environment: Vec<(String, String)>,
    pub metrics_listen: Option<SocketAddr>,
}

/// The sources of the layers above the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file named on the command line.
    pub file: Option<PathBuf>,
    /// The environment variables of the process.
    pub environment: BTreeMap<String, String>,
    /// The settings from the command line: their keys and values.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

impl Sources {
    /// The path of the file to read: the named one, else `JOBBER_CONFIG`, else `./jobber.toml` if it exists.
    pub fn file_read(&self) -> Option<PathBuf> {
        let named = self.file.clone().or_else(|| self.environment.get("JOBBER_CONFIG").map(PathBuf::from));
        let here = PathBuf::from("jobber.toml");
        named.or_else(|| here.exists().then_some(here))
    }
}

impl Config {
    /// Merges all layers and checks the result.
    ///
    /// The file is [`Sources::file_read`].
    ///
    /// # Errors
    /// The first problem that it finds.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Layers::defaults();
        if let Some(file) = sources.file_read() {
            layers.lay_file(&file)?;
        }
        layers.lay_environment(&sources.environment);
        layers.lay_flags(&sources.flags);
        check(&layers)
    }
}

/// Finds variables that look like settings but are none, each with the setting that the user probably
/// meant. They are no errors, because a user can't always choose the environment of a process.
pub fn unknown_variables(environment: &BTreeMap<String, String>) -> Vec<(&str, Option<&'static str>)> {
    layers::unknown_variables(environment)
}

fn check(layers: &Layers) -> Result<Config, ConfigError> {
    let defaults = options(layers, "defaults", &JobOptions::default())?;
    let mut jobs = BTreeMap::new();
    for name in &layers.job_names {
        jobs.insert(name.clone(), options(layers, &format!("jobs.{name}"), &defaults)?);
    }
    let policies = policies::policies(layers, &defaults.backoff)?;
    let worker = worker(layers)?;
    Ok(Config {
        data_dir: must(layers, "data_dir", path)?,
        log_level: must(layers, "log.level", |t| Ok(t.to_owned()))?,
        log_json: must(layers, "log.format", |t| one_of(t, &[("text", false), ("json", true)], "text or json"))?,
        serve: serve(layers)?,
        queue: QueueConfig {
            url: must(layers, "queue.url", queue_url)?,
            name: must(layers, "queue.name", queue_name)?,
            prefix: must(layers, "queue.prefix", key_part)?,
            tls_ca: layers.get("queue.tls_ca", path)?,
            lease: must(layers, "queue.lease", |t| {
                at_least(notation::duration(t)?, Duration::from_millis(500), "500ms")
            })?,
            completed_age: must(layers, "queue.completed_age", notation::duration)?,
            completed_count: layers.get("queue.completed_count", number)?,
            failed_age: must(layers, "queue.failed_age", notation::duration)?,
            failed_count: layers.get("queue.failed_count", number)?,
        },
        store: store::read(layers)?,
        durability: must(layers, store::DURABILITY, store::durability)?.0,
        retention: retention(layers)?,
        events_cap: must(layers, "events.cap", |t| at_least(number(t)?, 1000, "1000"))?,
        events_keep: must(layers, "events.keep", number)?,
        failures_threshold: layers.get("failures.threshold", policies::similarity)?,
        failures_seed: must(layers, "failures.seed", |t| {
            let known = [("library", Seed::Library), ("original", Seed::Original), ("none", Seed::None)];
            one_of(t, &known, "library, original or none")
        })?,
        embedder: embedder::embedder(layers)?,
        artifacts: artifacts::artifacts(layers)?,
        worker,
        bullmq_names: must(layers, "metrics.bullmq_names", boolean)?,
        defaults,
        jobs,
        host_rules: host_rules::host_rules(layers)?,
        secret_paths: host_rules::secret_paths(layers)?.into_iter().chain(notices::secret_paths(layers)).collect(),
        policies,
        notify: notices::targets(layers)?,
    })
}

/// Reads the retention. It must be at least as long as the queue keeps ended jobs: when such a job
/// is put back after that, its history would begin anew.
fn retention(layers: &Layers) -> Result<Option<Duration>, ConfigError> {
    const DAY: Duration = Duration::from_secs(86_400);
    let kept = must(layers, "store.retention", |text| match text {
        "forever" => Ok(None),
        _ => notation::duration(text)
            .ok()
            .filter(|age| *age >= DAY)
            .map(Some)
            .ok_or_else(|| "forever, or a duration of at least 1d and at most ten years".to_owned()),
    })?;
    for key in ["queue.completed_age", "queue.failed_age"] {
        let queued = must(layers, key, notation::duration)?;
        if kept.is_some_and(|kept| kept < queued) {
            return Err(ConfigError::Conflict(format!(
                "store.retention is shorter than {key}: history would lose jobs that the queue still holds; raise the \
                 one or lower the other"
            )));
        }
    }
    Ok(kept)
}

/// Reads a token from the setting `key`, else from the file that `file_key` names.
fn token(layers: &Layers, key: &str, file_key: &str) -> Result<Option<Secret>, ConfigError> {
    let file = layers.get(file_key, path)?;
    let mut token = layers.get(key, |t| Ok(t.to_owned()))?;
    let from_file = token.is_none();
    if let (None, Some(file)) = (&token, file) {
        let text = fs_err::read_to_string(&file).map_err(|e| ConfigError::File {
            file: layers.origin(file_key).to_string(),
            problem: format!("{file_key}: {e}"),
        })?;
        token = Some(text.trim().to_owned());
    }
    if token.as_ref().is_some_and(|t| t.len() < 8 || !t.bytes().all(|b| b.is_ascii_graphic())) {
        let key = if from_file { file_key } else { key };
        return Err(ConfigError::Conflict(format!(
            "{}: {key}: a token must be at least 8 visible ASCII characters; try `openssl rand -hex 16`",
            layers.origin(key)
        )));
    }
    Ok(token.map(Secret::new))
}

fn serve(layers: &Layers) -> Result<ServeConfig, ConfigError> {
    let operator = token(layers, "serve.token", "serve.token_file")?;
    let viewer = token(layers, "serve.view_token", "serve.view_token_file")?;
    if viewer.is_some() && operator.is_none() {
        return Err(ConfigError::Conflict(
            "serve.view_token has no use without serve.token: without that every caller may do everything".to_owned(),
        ));
    }
    if viewer.is_some() && viewer == operator {
        return Err(ConfigError::Conflict(
            "serve.view_token and serve.token must differ: the second is for callers that may not act".to_owned(),
        ));
    }
    let tls = match (layers.get("serve.tls_cert", path)?, layers.get("serve.tls_key", path)?) {
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError::Conflict("serve.tls_cert needs its key: set serve.tls_key too".to_owned()));
        }
        (None, Some(_)) => {
            return Err(ConfigError::Conflict(
                "serve.tls_key needs its certificate: set serve.tls_cert too".to_owned(),
            ));
        }
    };
    Ok(ServeConfig {
        listen: must(layers, "serve.listen", address)?,
        token: operator,
        view_token: viewer,
        view_hides_data: must(layers, "serve.view_hides_data", boolean)?,
        session_ttl: must(layers, "serve.session_ttl", |t| {
            at_least(notation::duration(t)?, Duration::from_secs(1), "1s")
        })?,
        tls,
        insecure: must(layers, "serve.insecure", boolean)?,
        allowed_hosts: layers.list("serve.allowed_hosts", |t| Ok(t.to_owned()))?.unwrap_or_default(),
        body_limit: must(layers, "serve.body_limit", |t| {
            let bytes = at_least(notation::size(t)?, 1024, "1KiB")?;
            usize::try_from(bytes).map_err(|_| "smaller".to_owned())
        })?,
        header_timeout: must(layers, "serve.header_timeout", |t| {
            at_least(notation::duration(t)?, Duration::from_millis(1), "1ms")
        })?,
        idle_timeout: must(layers, "serve.idle_timeout", |t| {
            at_least(notation::duration(t)?, Duration::from_millis(1), "1ms")
        })?,
        max_connections: must(layers, "serve.max_connections", |t| at_least(number(t)?, 1, "1"))?,
        shutdown_grace: must(layers, "serve.shutdown_grace", notation::duration)?,
        idempotency_ttl: must(layers, "serve.idempotency_ttl", notation::duration)?,
        check_binaries: must(layers, "serve.check_binaries", boolean)?,
        ui_dir: layers.get("serve.ui_dir", path)?,
    })
}

fn worker(layers: &Layers) -> Result<WorkerConfig, ConfigError> {
    let cpus = match layers.list("worker.cpus", values::cpus)? {
        Some(lists) => {
            let mut all: Vec<u32> = lists.into_iter().flatten().collect();
            all.sort_unstable();
            all.dedup();
            Some(all)
        }
        None => None,
    };
    let queues = layers.list("worker.queues", QueueShare::parse)?.unwrap_or_default();
    for (i, share) in queues.iter().enumerate() {
        if queues[..i].iter().any(|other| other.queue == share.queue) {
            return Err(ConfigError::Conflict(format!(
                "worker.queues (--queue) names {} twice; name each queue once, such as {}=4",
                share.queue, share.queue
            )));
        }
    }
    Ok(WorkerConfig {
        queues,
        queue_order: must(layers, "worker.queue_order", |t| {
            let known = [("weighted", QueueOrder::Weighted), ("strict", QueueOrder::Strict)];
            one_of(t, &known, "weighted or strict")
        })?,
        jobs_dir: must(layers, "worker.jobs_dir", path)?,
        cores: layers.get("worker.cores", |t| at_least(number(t)?, 1, "1"))?,
        cpus,
        cores_per_process: must(layers, "worker.cores_per_process", |t| at_least(number(t)?, 1, "1"))?,
        memory: layers.get("worker.memory", notation::size)?,
        labels: layers.pairs("worker.labels", |items| Labels::parse(&items.join(",")))?,
        resources: layers.pairs("worker.resources", ResourceUnits::parse)?,
        unplaceable_after: must(layers, "worker.unplaceable_after", notation::duration)?,
        pin: must(layers, "worker.pin", boolean)?,
        nice: must(layers, "worker.nice", |t| within(number(t)?, 0, 19))?,
        drain_timeout: must(layers, "worker.drain_timeout", notation::duration)?,
        max_jobs: layers.get("worker.max_jobs", |t| at_least(number(t)?, 1, "1"))?,
        max_time: layers.get("worker.max_time", |t| at_least(notation::duration(t)?, Duration::from_secs(1), "1s"))?,
        crash_limit: must(layers, "worker.crash_limit", number)?,
        output_bytes: must(layers, "worker.output_bytes", |t| {
            let bytes = within(notation::size(t)?, 1024, 64 << 20).map_err(|_| "1KiB to 64MiB".to_owned())?;
            usize::try_from(bytes).map_err(|_| "smaller".to_owned())
        })?,
        spool_bytes: must(layers, "worker.spool_bytes", |t| {
            let bytes = within(notation::size(t)?, 64 << 10, 4 << 30).map_err(|_| "64KiB to 4GiB".to_owned())?;
            usize::try_from(bytes).map_err(|_| "smaller".to_owned())
        })?,
        pipe_drain: must(layers, "worker.pipe_drain", notation::duration)?,
        crash_patience: must(layers, "worker.crash_patience", |t| {
            let patience = notation::duration(t)?;
            (Duration::from_millis(1)..=Duration::from_secs(60))
                .contains(&patience)
                .then_some(patience)
                .ok_or_else(|| "1ms to 1m".to_owned())
        })?,
        pass_environment: layers.list("worker.pass_environment", |t| Ok(t.to_owned()))?.unwrap_or_default(),
        set_environment: layers
            .list("worker.set_environment", |t| {
                let pair = t.split_once('=').filter(|(name, _)| !name.is_empty());
                pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "NAME=VALUE".to_owned())
            })?
            .unwrap_or_default(),
        metrics_listen: layers.get("worker.metrics_listen", address)?,
    })
}

fn backoff(layers: &Layers, section: &str, base: &Backoff) -> Result<Backoff, ConfigError> {
    let key = |name: &str| format!("{section}.{name}");
    Ok(Backoff {
        kind: layers
            .get(&key("backoff"), |t| {
                one_of(
                    t,
                    &[("fixed", BackoffKind::Fixed), ("exponential", BackoffKind::Exponential)],
                    "fixed or exponential",
                )
            })?
            .unwrap_or(base.kind),
        delay: layers.get(&key("backoff_delay"), notation::duration)?.unwrap_or(base.delay),
        max: layers.get(&key("backoff_max"), notation::duration)?.or(base.max),
        jitter: layers
            .get(&key("backoff_jitter"), |t| {
                t.parse().ok().filter(|j| (0.0..=1.0).contains(j)).ok_or_else(|| "a number from 0 to 1".to_owned())
            })?
            .unwrap_or(base.jitter),
    })
}

fn options(layers: &Layers, section: &str, base: &JobOptions) -> Result<JobOptions, ConfigError> {
    let key = |name: &str| format!("{section}.{name}");
    let mut options = JobOptions {
        attempts: layers
            .get(&key("attempts"), |t| within(number(t)?, 1, JobOptions::MAX_ATTEMPTS))?
            .unwrap_or(base.attempts),
        backoff: backoff(layers, section, &base.backoff)?,
        queue: layers.get(&key("queue"), queue_name)?.or_else(|| base.queue.clone()),
        ..JobOptions::default()
    };
    for option in RunOption::ALL {
        let read = |text: &str| {
            let mut one = JobOptions::default();
            (option.set)(&mut one, text)?;
            if (option.is_allowed)(&one) { Ok(text.to_owned()) } else { Err(option.allowed.to_owned()) }
        };
        let key = key(option.key);
        let text = if option.default.starts_with('[') {
            // An empty list in [defaults] is no rule; for one name it takes the default away.
            let items = layers.list(&key, read)?.filter(|items| !items.is_empty() || section != "defaults");
            items.map(|items| items.join(","))
        } else {
            layers.get(&key, read)?
        };
        if let Some(text) = text {
            (option.set)(&mut options, &text).expect("it has just been read");
        }
    }
    options.fill_run_options(base);
    Ok(options)
}

fn must<T>(layers: &Layers, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
    Ok(layers.get(key, read)?.expect("a setting that must be there has a default"))
}

#[cfg(test)]
mod tests;
