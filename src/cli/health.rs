//! `jobber health`: exits with 0 or 1 for a program that watches the process, such as a container's health check.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::view::{Table, View};
use super::{CliError, Console, Exit};
use crate::client::Client;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `jobber health`.
#[derive(Debug, Clone, Default, Args)]
pub struct HealthArgs {
    /// Ask only whether the server answers, not whether queue, log and store do
    #[arg(long)]
    live: bool,
    /// Ask whether the server has heard of a worker on this host
    #[arg(long, conflicts_with = "live")]
    worker: bool,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

impl View for Health {
    fn table(&self, out: &mut Table) {
        out.field("status", self.status);
    }
}

/// Asks the server. Exits with 0 when all is well, else with 1, whatever the reason: other codes
/// have other meanings to such programs.
pub(super) async fn health(args: &HealthArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let asked = match tokio::time::timeout(PATIENCE, ask(args, client)).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(CliError::Unfinished(format!("{} does not answer within {} s", client.server(), PATIENCE.as_secs())))
        }
    };
    match asked {
        Ok(status) => console.show(&Health { status }).map(|()| Exit::OK),
        Err(error) => {
            console.report(&error);
            Ok(Exit::ERROR)
        }
    }
}

async fn ask(args: &HealthArgs, client: &Client) -> Result<&'static str, CliError> {
    if args.live {
        client.health().await?;
        return Ok("alive");
    }
    if !args.worker {
        client.ready().await?;
        return Ok("ready");
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let workers = client.workers().await?;
    if workers.iter().any(|worker| worker.host == host) {
        Ok("working")
    } else {
        Err(CliError::Unfinished(format!("{} has heard of no worker on host {host} lately", client.server())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{captured, text};
    use super::*;
    use crate::cli::Globals;
    use crate::client::fake::{FakeServer, json as answer};

    async fn asked(args: HealthArgs, status: u16, body: serde_json::Value) -> (Exit, String, String) {
        let server = FakeServer::start(vec![answer(status, &body)]).await;
        let (mut console, out, err) = captured(&Globals::default());
        let client = Client::new(server.address(), None).unwrap();
        let exit = health(&args, &client, &mut console).await.unwrap();
        (exit, text(&out), text(&err))
    }

    #[tokio::test]
    async fn it_is_zero_or_one() {
        let ready = serde_json::json!({"status": "ready"});
        let (exit, out, err) = asked(HealthArgs::default(), 200, ready).await;
        assert_eq!((exit, out.contains("ready"), err.as_str()), (Exit::OK, true, ""));
        let away = serde_json::json!({"status": "unavailable"});
        let (exit, out, err) = asked(HealthArgs::default(), 503, away).await;
        assert_eq!((exit, out.as_str()), (Exit::ERROR, ""));
        assert!(err.starts_with("error: "), "{err}");
    }

    #[tokio::test]
    async fn a_worker_is_well_when_the_server_has_heard_of_it() {
        let worker = |host: &str| {
            serde_json::json!({"items": [{
                "id": "w", "host": host, "pid": 1, "version": "0", "slots": 1, "cores": 1, "running": 0,
                "draining": false, "started_at": "2026-11-24T08:00:00Z", "last_seen": "2026-11-24T08:00:00Z",
            }], "next_cursor": null})
        };
        let args = || HealthArgs { worker: true, ..HealthArgs::default() };
        let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert_eq!(asked(args(), 200, worker(&here)).await.0, Exit::OK);
        let (exit, _, err) = asked(args(), 200, worker("elsewhere!")).await;
        assert_eq!(exit, Exit::ERROR);
        assert!(err.contains("no worker on host"), "{err}");
    }
}
