//! Log lines: to standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Starts logging for this process. `filter` is a level or a filter such as `info,jobber::queue=debug`.
///
/// # Errors
/// When the filter can't be read, or logging has been started before.
pub fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    // The Couchbase SDK tells its whole life at info, and every try of an outage as a warning. What matters of it the
    // adapter says. Whoever wants it names it: log.level = "info,couchbase_core=debug".
    let filter = EnvFilter::try_new(format!("couchbase=error,couchbase_core=error,{filter}"))
        .map_err(|e| anyhow::anyhow!("log.level {filter:?} is not allowed: {e}; try info or debug"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
    };
    started.map_err(|e| anyhow::anyhow!("logging can't be started: {e}"))
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
