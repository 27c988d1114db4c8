//! The parts that roles are made of: API, projector, worker. Each is built here from the configuration and the ports.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::runner::{build_runner, build_slots, host_name, scratch_dir};
use crate::api::{
    Api, ApiPorts, ApiSettings, BinaryProblem, CategoryPreview, FoundBinary, Token, WorkerMetricsSettings,
};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::classifier::{Classifier, ClassifierSettings};
use crate::config::{Config, QueueUrl};
use crate::domain::{Clock, JobName, SpawnFailure, WorkerId};
use crate::events::Cursor;
use crate::failures::categories::{DEFAULT_THRESHOLD, seeds};
use crate::lifecycle::Lifecycle;
use crate::metrics::{Exposition, ExpositionSettings, Role};
use crate::notices::{Announcer, Notices};
use crate::projector::{self, ProjectorOutputs, ProjectorSettings};
use crate::queue::{Scheduler, WorkerInfo};
use crate::reconciler::Reconciler;
use crate::reconciler::bodies::BodyReconciler;
use crate::reconciler::files::FileSweep;
use crate::runner::{BinaryError, Guard, RunningGauge, binary};
use crate::sqlite::{Presence, Sqlite};
use crate::store::Retention;
use crate::tls::{Certificate, Validity};
use crate::traces::{TraceSettings, TracedQueue, Traces};
use crate::wiring::{self, ServerPorts, WorkerPorts};
use crate::worker::{FileKeeper, FileLimits, Lifetime, Policies, Worker, WorkerSettings};

/// Where the API listens, and how.
pub(super) struct ApiListener {
    tcp: TcpListener,
    certificate: Option<Arc<Certificate>>,
}

impl ApiListener {
    /// The address for clients, such as `http://127.0.0.1:3000`.
    ///
    /// # Errors
    /// When the listener has no address, which means that it does not listen.
    pub(super) fn address(&self) -> std::io::Result<String> {
        Ok(format!("{}://{}", self.scheme(), self.tcp.local_addr()?))
    }

    /// The address of the page for a browser on this machine.
    ///
    /// # Errors
    /// As [`ApiListener::address`].
    pub(super) fn page(&self) -> std::io::Result<String> {
        let at = self.tcp.local_addr()?;
        // An address that stands for all of this machine's is none that a browser can ask.
        let host = if at.ip().is_unspecified() { format!("localhost:{}", at.port()) } else { at.to_string() };
        Ok(format!("{}://{host}/ui/", self.scheme()))
    }

    fn scheme(&self) -> &'static str {
        if self.certificate.is_some() { "https" } else { "http" }
    }
}

/// Binds the API's address, and reads its certificate. Warns at every start about what is risky about it.
///
/// # Errors
/// When the address is taken, not this machine's, or open to others without a token; when the certificate can't be used.
pub(super) async fn bind(config: &Config, clock: &Clock) -> anyhow::Result<ApiListener> {
    let certificate = config.serve.tls.clone().map(Certificate::read).transpose()?.map(Arc::new);
    match certificate.as_ref().map(|certificate| certificate.validity(clock.now())) {
        Some(Validity::Expired) => tracing::error!("the certificate of serve.tls_cert has expired: clients refuse it"),
        Some(Validity::NotYet) => tracing::error!("the certificate of serve.tls_cert is not valid yet"),
        Some(Validity::EndsSoon) => tracing::warn!("the certificate of serve.tls_cert ends within two weeks"),
        Some(Validity::Valid) | None => {}
    }
    let address = config.serve.listen;
    crate::api::check_bind(address, config.serve.token.is_some(), config.serve.insecure).map_err(anyhow::Error::msg)?;
    if !address.ip().to_canonical().is_loopback() {
        if config.serve.token.is_none() {
            tracing::warn!(%address, "--insecure: everybody who reaches this address may run programs; set JOBBER_TOKEN");
        } else if certificate.is_none() {
            tracing::warn!(
                %address,
                "the token and all data are sent in the clear; set serve.tls_cert and serve.tls_key, or listen on \
                 127.0.0.1 behind a proxy that speaks TLS"
            );
        }
    } else if config.serve.insecure {
        tracing::warn!(%address, "--insecure changes nothing on a loopback address, but opens any other: remove it");
    }
    let tcp = TcpListener::bind(address).await;
    let tcp = tcp.with_context(|| format!("can't listen on {address}; choose another with --listen"))?;
    Ok(ApiListener { tcp, certificate })
}

/// Binds the address at which a worker shows its metrics; `None` when it is to show none.
///
/// # Errors
/// When the address is taken, not this machine's, or open to others without a token.
pub(super) async fn bind_metrics(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = config.worker.metrics_listen else { return Ok(None) };
    crate::api::check_bind(address, config.serve.token.is_some(), config.serve.insecure).map_err(anyhow::Error::msg)?;
    let bound = TcpListener::bind(address).await;
    bound.map(Some).with_context(|| format!("can't listen on {address}; choose another in worker.metrics_listen"))
}

/// Shows a worker's metrics on a bound listener until the process stops.
///
/// # Errors
/// When the listener has no address.
pub(super) fn start_worker_metrics(config: &Config, listener: TcpListener, life: &Lifecycle) -> anyhow::Result<()> {
    let settings = WorkerMetricsSettings {
        exposition: exposition(config, Role::Work),
        tokens: token(config).into_iter().chain(view_token(config)).collect(),
        allowed_hosts: config.serve.allowed_hosts.clone(),
    };
    tracing::info!(address = %format!("http://{}", listener.local_addr()?), "showing metrics");
    life.run("metrics", crate::api::serve_worker_metrics(listener, settings, life.stop.clone()));
    Ok(())
}

fn token(config: &Config) -> Option<Token> {
    config.serve.token.as_ref().map(|t| t.reveal().to_owned()).map(Into::into)
}

fn view_token(config: &Config) -> Option<Token> {
    config.serve.view_token.as_ref().map(|t| t.reveal().to_owned()).map(Into::into)
}

/// The metrics of this process.
fn exposition(config: &Config, role: Role) -> Arc<Exposition> {
    let (queue, store) = (config.queue.url.backend(), config.store.url.backend());
    Arc::new(Exposition::new(ExpositionSettings {
        role,
        queue,
        store,
        data_dir: config.data_dir.clone(),
        database: wiring::database_file(config),
        default_queue: config.queue.name.to_string(),
        bullmq_names: config.bullmq_names,
        ..ExpositionSettings::default()
    }))
}

/// What makes a server seen from outside.
pub(super) struct Telemetry<'a> {
    /// The role that its metrics name.
    pub(super) role: Role,
    /// Makes its spans.
    pub(super) traces: &'a Traces,
    /// Tells of what happens.
    pub(super) notices: Option<Arc<Notices>>,
}

/// Starts the API on a bound listener. It accepts no jobs once the process stops, and serves requests until `end`.
pub(super) fn start_api(
    config: &Config,
    ports: &ServerPorts,
    clock: &Clock,
    listener: ApiListener,
    life: &Lifecycle,
    end: CancellationToken,
    telemetry: &Telemetry<'_>,
) {
    let mut settings = ApiSettings {
        traces: telemetry.traces.clone(),
        token: token(config),
        view_token: view_token(config),
        view_hides_data: config.serve.view_hides_data,
        session_ttl: config.serve.session_ttl,
        exposition: exposition(config, telemetry.role),
        events_keep: config.events_keep.min(config.events_cap / 4),
        body_limit: config.serve.body_limit,
        header_timeout: config.serve.header_timeout,
        idle_timeout: config.serve.idle_timeout,
        max_connections: config.serve.max_connections,
        allowed_hosts: config.serve.allowed_hosts.clone(),
        idempotency_ttl: config.serve.idempotency_ttl,
        default_queue: config.queue.name.clone(),
        defaults: config.defaults.clone(),
        jobs: config.jobs.clone(),
        certificate: listener.certificate,
        ui_dir: config.serve.ui_dir.clone(),
        notices: telemetry.notices.clone(),
        artifacts: Some(ports.artifacts.clone()),
        max_input_bytes: config.artifacts.max_input_bytes,
        ..ApiSettings::default()
    };
    settings.category_preview = CategoryPreview::new(ports.embedder.clone(), threshold(config));
    if config.serve.check_binaries {
        let jobs_dir = config.worker.jobs_dir.clone();
        settings.check_binary = Some(Arc::new(move |name: &JobName| check_binary(&jobs_dir, name)));
        let jobs_dir = config.worker.jobs_dir.clone();
        settings.list_binaries = Some(Arc::new(move || list_binaries(&jobs_dir)));
    }
    let ports = ApiPorts {
        queue: ports.queue.clone(),
        operator: ports.operator.clone(),
        scheduler: ports.scheduler.clone(),
        sink: ports.sink.clone(),
        source: ports.source.clone(),
        history: ports.history.clone(),
    };
    life.tasks.spawn(log_stopped_schedules(ports.scheduler.clone(), clock.clone(), life.stop.clone()));
    let api = Api::new(ports, clock.clone(), settings).draining_on(life.stop.clone());
    life.run("api", crate::api::serve(listener.tcp, api, end, config.serve.shutdown_grace));
}

/// Logs which schedules bring no jobs, and why, until `stop`. It logs each reason once.
async fn log_stopped_schedules(scheduler: Arc<dyn Scheduler>, clock: Clock, stop: CancellationToken) {
    const LOOK: BackgroundLoop = BackgroundLoop::new("stopped schedules", Period::Pause(Duration::from_secs(30)));
    let mut logged = BTreeMap::new();
    let mut look = async || {
        // Other parts complain of a scheduler that can't be reached.
        for standing in scheduler.schedules().await.unwrap_or_default() {
            let schedule = &standing.schedule;
            let trouble = schedule.timing.trouble(standing.next_at, clock.now()).filter(|_| !standing.paused);
            if logged.get(&schedule.id) != trouble.as_ref()
                && let Some(trouble) = &trouble
            {
                tracing::warn!(schedule = %schedule.id, trouble, "a schedule brings no jobs");
            }
            match trouble {
                Some(trouble) => logged.insert(schedule.id.clone(), trouble),
                None => logged.remove(&schedule.id),
            };
        }
        Ok(NextRun::InTurn)
    };
    let mut turns = LOOK.start(&stop);
    while turns.run(look()).await {}
}

fn check_binary(jobs_dir: &Path, name: &JobName) -> Result<(), BinaryProblem> {
    binary::check(jobs_dir, name)
        .map_err(|e| BinaryProblem { exists: e.failure != SpawnFailure::NotFound, detail: e.to_string() })
}

fn list_binaries(jobs_dir: &Path) -> Option<Vec<FoundBinary>> {
    let found = binary::list(jobs_dir, WorkerInfo::BINARIES)?;
    let with_trouble = |(name, resolved): (JobName, Result<_, BinaryError>)| FoundBinary {
        name,
        trouble: resolved.err().map(|e| e.to_string()),
    };
    Some(found.into_iter().map(with_trouble).collect())
}

/// Stops the process, as a failure, when the embedded database is removed or replaced under it, or can't
/// be written to any more. Further work would be lost, and a fresh start uses the file that is there now.
pub(super) fn watch_database(config: &Config, database: &Sqlite, life: &Lifecycle) {
    const LOOK: BackgroundLoop = BackgroundLoop::new("database", Period::Every(Duration::from_secs(1)));
    let file = wiring::database_file(config);
    let (presence, stop, kill) = (Presence::of(&file), life.stop.clone(), life.kill.clone());
    let writer_died = database.writer_died();
    life.run("database", async move {
        let mut found = Ok(());
        let mut look = async || {
            if writer_died.is_cancelled() {
                // The ends of running jobs can't be recorded. Waiting for them would only delay the next start.
                kill.cancel();
                found = Err(format!("the thread that writes to {} has died", file.display()));
            } else if !presence.is_there() {
                found = Err(format!("{} was removed or replaced while in use", file.display()));
            }
            Ok(if found.is_ok() { NextRun::InTurn } else { NextRun::Never })
        };
        let mut turns = LOOK.start(&stop);
        while turns.run_woken(writer_died.cancelled(), look()).await {}
        found
    });
}

/// Starts the projector. It ends some moments after `others`, so that it also folds what the other parts
/// write last. The returned task ends when the projector has folded that, or has run out of time for it.
pub(super) fn start_projector(
    config: &Config,
    ports: &ServerPorts,
    clock: &Clock,
    life: &Lifecycle,
    others: CancellationToken,
    announcer: Option<Announcer>,
) -> JoinHandle<()> {
    let holder = WorkerId::generate(&host_name());
    let settings = ProjectorSettings {
        retention: Retention::new(config.retention),
        // The events kept for clients that watch, and the batch after which the projector trims
        // next, must leave room for new events.
        keep: usize::try_from(config.events_keep.min(config.events_cap / 4)).unwrap_or(usize::MAX),
        categories: seeds(config.failures_seed),
        history: ports.history_name.clone(),
        ..ProjectorSettings::new(holder.as_str())
    };
    let stop = CancellationToken::new();
    let (progress, _) = tokio::sync::watch::channel(Cursor::START);
    let (error_feed, errors_seen) = projector::new_error_feed();
    let reconciler = Reconciler {
        change_feed: ports.change_feed.clone(),
        history: ports.history.clone(),
        source: ports.source.clone(),
        sink: ports.sink.clone(),
        clock: clock.clone(),
    };
    life.tasks.spawn(reconciler.run(errors_seen.lead.clone(), life.stop.clone()));
    let files = FileSweep {
        artifacts: ports.artifacts.clone(),
        history: ports.history.clone(),
        source: ports.source.clone(),
        retention: settings.retention,
        clock: clock.clone(),
    };
    life.tasks.spawn(files.run(errors_seen.lead.clone(), life.stop.clone()));
    let classifier = Classifier {
        history: ports.history.clone(),
        projection: ports.projection.clone(),
        cache: ports.cache.clone(),
        embedder: ports.embedder.clone(),
        settings: ClassifierSettings::new(threshold(config), config.embedder.batch()),
    };
    life.tasks.spawn(classifier.run(errors_seen, life.stop.clone()));
    let (missing_bodies, missing) = projector::new_missing_bodies();
    let bodies =
        BodyReconciler { queue: ports.queue.clone(), history: ports.history.clone(), sink: ports.sink.clone() };
    life.tasks.spawn(bodies.run(missing, life.stop.clone()));
    let (source, projection, clock) = (ports.source.clone(), ports.projection.clone(), clock.clone());
    let outputs = ProjectorOutputs { progress, error_feed, missing_bodies, announcer };
    life.run("projector", projector::run(source, projection, settings, clock, stop.clone(), outputs));
    let (source, history, kill) = (ports.source.clone(), ports.history.clone(), life.kill.clone());
    life.tasks.spawn(async move {
        others.cancelled().await;
        let caught_up = async {
            while let (Ok(span), Ok(cursor)) = (source.span().await, history.cursor().await) {
                if cursor >= span.last {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = caught_up => {}
            () = kill.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
        stop.cancel();
    })
}

/// How near an error must be to its nearest category: the configured threshold for all categories, or the default.
fn threshold(config: &Config) -> f32 {
    config.failures_threshold.unwrap_or(DEFAULT_THRESHOLD)
}

/// Builds a worker.
///
/// # Errors
/// When the CPUs asked for are not there, or the scratch directory can't be made.
pub(super) fn build_worker(
    config: &Config,
    environment: Vec<(String, String)>,
    ports: &WorkerPorts,
    clock: &Clock,
    lifetime: Lifetime,
    traces: &Traces,
) -> anyhow::Result<(Worker, Guard)> {
    let host = host_name();
    let id = WorkerId::generate(&host);
    let slots = build_slots(config)?;
    let guard = Guard::start(&id, &scratch_dir(config)?)
        .context("the guard, which ends jobs if this process is killed, can't be started")?;
    let gauge = RunningGauge::new();
    let runner = build_runner(config, environment, clock, &id, Some(&guard), gauge.clone())?;
    let settings = WorkerSettings {
        id,
        host,
        default_queue: config.queue.name.clone(),
        queues: config.worker.queues.clone(),
        queue_order: config.worker.queue_order,
        labels: config.worker.labels.clone(),
        unplaceable_after: config.worker.unplaceable_after,
        drain_timeout: config.worker.drain_timeout,
        crash_limit: config.worker.crash_limit,
        defaults: config.defaults.clone(),
        jobs: config.jobs.clone(),
        lifetime,
    };
    let (rules, cache, embedder) = (config.policies.clone(), ports.cache.clone(), ports.embedder.clone());
    let policies = Policies::new(rules, cache, embedder, seeds(config.failures_seed), threshold(config));
    let limits = FileLimits {
        files: config.artifacts.max_files,
        bytes: config.artifacts.max_bytes,
        patience: config.artifacts.patience,
    };
    let worker = Worker {
        source: ports.jobs.clone(),
        sink: ports.sink.clone(),
        runner: Arc::new(runner),
        slots: Arc::new(slots),
        gauge,
        clock: clock.clone(),
        claiming: Arc::default(),
        health: Arc::default(),
        policies,
        files: Some(Arc::new(FileKeeper::new(ports.artifacts.clone(), limits))),
        artifacts: Some(ports.artifacts.clone()),
        guard: guard.presence(),
        traces: traces.clone(),
        settings: Arc::new(settings),
    };
    Ok((worker, guard))
}

/// Starts the export of spans, if the settings ask for it.
pub(super) fn start_traces(config: &Config, settings: &TraceSettings) -> Traces {
    let system = match config.queue.url {
        QueueUrl::Embedded => "jobber",
        QueueUrl::Redis(_) => "bullmq",
    };
    let queue = TracedQueue { system, name: config.queue.name.to_string() };
    Traces::start(settings, queue, WorkerId::generate(&host_name()).as_str())
}

/// The signs by which other parts see a worker: when it has begun to take jobs, and how busy it is.
pub(super) fn signs(
    worker: &Worker,
) -> (impl Future<Output = ()> + Send + 'static, impl Fn() -> String + Send + Sync + 'static) {
    let claiming = worker.claiming.clone();
    let (gauge, slots, health) = (worker.gauge.clone(), worker.slots.count(), worker.health.clone());
    (
        async move {
            claiming.wait().await;
        },
        move || match health.trouble() {
            Some(why) => format!("unhealthy, takes no jobs: {why}; {} running", gauge.running()),
            None => format!("{} of {slots} slots busy", gauge.running()),
        },
    )
}
