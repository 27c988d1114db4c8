//! `jobber dev`: API, projector and worker in one process.

use std::io::Write;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::domain::Clock;
use crate::lifecycle::Lifecycle;
use crate::metrics::Role;
use crate::roles::{RoleOptions, build, notices, parts, ready, service};
use crate::wiring;
use crate::worker::Lifetime;

/// How long the API goes on after the last job has drained.
const LAST_QUESTIONS: Duration = Duration::from_secs(2);

/// Runs everything until asked to stop. Returns true when everything ended in good order.
///
/// # Errors
/// When it can't start: see [`super::serve`] and [`super::work`]; or when the C++ jobs do not compile.
pub fn dev(
    config: Config,
    environment: Vec<(String, String)>,
    options: RoleOptions,
) -> LocalBoxFuture<'static, anyhow::Result<bool>> {
    Box::pin(async move {
        let (life, clock) = (Lifecycle::default(), Clock::system());
        life.listen()?;
        let listener = parts::bind(&config, &clock).await?;
        let mut sources = build::JobSources::new(options.sources, &config);
        sources.build().await?;
        let (address, page) = (listener.address()?, listener.page()?);
        let (ports, worker_ports) = wiring::open_both(&config, &clock, &life.tasks).await?;
        parts::watch_database(&config, &ports.database, &life);
        let traces = parts::start_traces(&config, &options.traces);
        let (worker, guard) =
            parts::build_worker(&config, environment.clone(), &worker_ports, &clock, Lifetime::default(), &traces)?;
        let (worker_ended, api_stop) = (CancellationToken::new(), CancellationToken::new());
        let (notices, announcer) = notices::start(&config, &environment, &ports, &clock, &life)?;
        let folded = parts::start_projector(&config, &ports, &clock, &life, worker_ended.clone(), announcer);
        let telemetry = parts::Telemetry { role: Role::Dev, traces: &traces, notices: Some(notices) };
        parts::start_api(&config, &ports, &clock, listener, &life, api_stop.clone(), &telemetry);
        let gauge = worker.gauge.clone();
        let (ready, status) = parts::signs(&worker);
        let place = address.clone();
        let status = move || format!("serving on {place}, {}", status());
        let _beating = service::report_to_manager(&options.notifier, &life, ports.liveness(), ready, status);
        drop((ports, worker_ports));
        life.tasks.spawn(sources.rebuild(life.stop.clone()));
        let mut part = life.run("worker", worker.run(life.stop.clone(), life.kill.clone()));
        ready::announce(options.ready_fd, "dev", Some(&address))?;
        if options.ready_fd.is_none() {
            greet(&page, &address, &config)?;
        }
        let (ended, drained) = tokio::select! {
            ended = &mut part => (ended, false),
            () = life.stop.cancelled() => {
                let running = gauge.running();
                (part.await, running > 0)
            }
        };
        drop(guard);
        if !life.stop.is_cancelled() {
            tracing::info!("the worker has drained; the API serves on until it is asked to stop");
            life.stop.cancelled().await;
        }
        worker_ended.cancel();
        // The API goes last. So clients that follow the last jobs learn how these ended, and have a
        // moment to ask for more. The task that is awaited here does not panic.
        let _ = folded.await;
        if drained {
            let _ = tokio::time::timeout(LAST_QUESTIONS, life.kill.cancelled()).await;
        }
        api_stop.cancel();
        let all = life.finish(config.serve.shutdown_grace).await;
        traces.finish().await;
        Ok(all && ended.is_ok())
    })
}

/// Tells a person what to do next.
fn greet(page: &str, address: &str, config: &Config) -> std::io::Result<()> {
    let name = ["dummy-job", "hello"].into_iter().find(|n| config.worker.jobs_dir.join(n).exists()).unwrap_or("NAME");
    let (jobs, data) = (config.worker.jobs_dir.display(), config.data_dir.display());
    writeln!(
        std::io::stderr(),
        "\n  Jobber is ready: {page}  (jobs: {jobs}, data: {data}; Ctrl-C stops)\n\n  \
         curl -X POST {address}/jobs -H \"Content-Type: application/json\" \\\n       \
         -d '{{\"name\":\"{name}\",\"data\":{{\"message\":\"Hello from Jobber!\"}}}}'\n"
    )
}
