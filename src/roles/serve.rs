//! `jobber serve`: API and projector.

use futures_util::future::LocalBoxFuture;

use crate::config::Config;
use crate::domain::Clock;
use crate::lifecycle::Lifecycle;
use crate::metrics::Role;
use crate::roles::{RoleOptions, notices, parts, ready, service};
use crate::wiring;

/// Serves until asked to stop. Returns true when everything ended in good order.
///
/// # Errors
/// When it can't start: the address is taken, or the data directory can't be used.
pub fn serve(
    config: Config,
    environment: Vec<(String, String)>,
    options: RoleOptions,
) -> LocalBoxFuture<'static, anyhow::Result<bool>> {
    Box::pin(async move {
        let (life, clock) = (Lifecycle::default(), Clock::system());
        life.listen()?;
        let listener = parts::bind(&config, &clock).await?;
        let (address, page) = (listener.address()?, listener.page()?);
        let ports = wiring::open_server(&config, &clock, &life.tasks).await?;
        parts::watch_database(&config, &ports.database, &life);
        let (notices, announcer) = notices::start(&config, &environment, &ports, &clock, &life)?;
        parts::start_projector(&config, &ports, &clock, &life, life.stop.clone(), announcer);
        let traces = parts::start_traces(&config, &options.traces);
        let telemetry = parts::Telemetry { role: Role::Serve, traces: &traces, notices: Some(notices) };
        parts::start_api(&config, &ports, &clock, listener, &life, life.stop.clone(), &telemetry);
        tracing::info!(%page, %address, "serving");
        ready::announce(options.ready_fd, "serve", Some(&address))?;
        let answers = service::queue_answers(ports.liveness(), &options.notifier);
        let status = format!("serving on {address}");
        let _beating =
            service::report_to_manager(&options.notifier, &life, ports.liveness(), answers, move || status.clone());
        drop(ports);
        life.stop.cancelled().await;
        let all = life.finish(config.serve.shutdown_grace).await;
        traces.finish().await;
        Ok(all)
    })
}
