//! `jobber work`: a worker.

use futures_util::future::LocalBoxFuture;

use crate::config::Config;
use crate::domain::Clock;
use crate::lifecycle::Lifecycle;
use crate::roles::{RoleOptions, parts, ready, service};
use crate::wiring;
use crate::worker::Lifetime;

/// Works until asked to stop, or until the lifetime that it was given is over. Returns true when
/// everything ended in good order.
///
/// # Errors
/// When it can't start: the data directory can't be used, or the machine lacks the CPUs asked for.
pub fn work(
    config: Config,
    environment: Vec<(String, String)>,
    options: RoleOptions,
) -> LocalBoxFuture<'static, anyhow::Result<bool>> {
    Box::pin(async move {
        let (life, clock) = (Lifecycle::default(), Clock::system());
        life.listen()?;
        let metrics = parts::bind_metrics(&config).await?;
        let ports = wiring::open_worker(&config, &clock, &life.tasks).await?;
        parts::watch_database(&config, &ports.database, &life);
        let traces = parts::start_traces(&config, &options.traces);
        let lifetime =
            Lifetime { burst: options.burst, max_jobs: config.worker.max_jobs, max_time: config.worker.max_time };
        let (worker, guard) = parts::build_worker(&config, environment, &ports, &clock, lifetime, &traces)?;
        let (ready, status) = parts::signs(&worker);
        let _beating = service::report_to_manager(&options.notifier, &life, ports.liveness.clone(), ready, status);
        drop(ports);
        if let Some(listener) = metrics {
            parts::start_worker_metrics(&config, listener, &life)?;
        }
        ready::announce(options.ready_fd, "work", None)?;
        let part = life.run("worker", worker.run(life.stop.clone(), life.kill.clone()));
        // The worker keeps the deadlines of its jobs by itself. It ends on `stop`, or when its lifetime is over.
        let ended = part.await;
        life.stop.cancel();
        drop(guard);
        let all = life.finish(config.serve.shutdown_grace).await;
        traces.finish().await;
        Ok(all && ended.is_ok())
    })
}
