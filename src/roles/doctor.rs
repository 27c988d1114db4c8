//! The checks of `jobber doctor` on the configuration, loaded as any role would load it, and on its host.

use futures_util::future::LocalBoxFuture;

use crate::config::{Config, Sources};
use crate::doctor::redis::RedisFacts;
use crate::doctor::{self, Finding};
use crate::domain::Clock;
use crate::wiring;

/// Checks everything but Jobber's own server. A configuration that can't be used is the only
/// finding, because all other checks depend on it.
pub fn examine<'a>(sources: &'a Sources) -> LocalBoxFuture<'a, Vec<Finding>> {
    Box::pin(async move {
        const CHECK: &str = "configuration";
        let file = sources.file_read();
        let config = match Config::load(sources) {
            Ok(config) => config,
            Err(error) => {
                return vec![Finding::failed(
                    CHECK,
                    error.to_string(),
                    "correct it; config.example.toml shows every setting with its default",
                )];
            }
        };
        let found = match file {
            Some(file) => format!("{} and the environment", file.display()),
            None => "built-in defaults and the environment; there is no jobber.toml here".to_owned(),
        };
        let mut findings = vec![Finding::ok(CHECK, found)];
        findings.extend(doctor::examine(
            &config,
            &wiring::database_file(&config),
            &Clock::system(),
            &wiring::schema_versions(),
        ));
        if let Err(error) = wiring::check_queue_names(&config) {
            findings.push(Finding::failed("queue names", error.to_string(), "name such queues in braces"));
        }
        if let Some((place, info)) = wiring::ask_redis(&config, &Clock::system()).await {
            let facts = info.map(|info| RedisFacts::read(&info.info, info.save.as_deref(), info.times));
            findings.extend(doctor::redis::judge(&place, facts.as_ref().map_err(String::as_str)));
        }
        let answer = wiring::ask_artifacts(&config).await;
        findings.push(doctor::artifacts::judge(&config, &answer));
        findings
    })
}
