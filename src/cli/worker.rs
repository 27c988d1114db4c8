//! `jobber worker`.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::view::{Table, View, json_line, show_time};
use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::domain::WorkerId;
use crate::queue::WorkerInfo;

/// `jobber worker`.
#[derive(Debug, Clone, Subcommand)]
pub enum WorkerCommand {
    /// List the workers that were heard of lately
    #[command(alias = "list")]
    Ls,
    /// Ask a worker to take nothing new and end
    Drain(DrainArgs),
}

/// `jobber worker drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// The worker, as in `jobber worker ls`
    #[arg(value_name = "WORKER", value_parser = WorkerId::parse)]
    id: WorkerId,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Workers(Vec<WorkerInfo>);

impl View for Workers {
    fn table(&self, out: &mut Table) {
        out.grid(
            &["WORKER", "STATUS", "RUNNING", "SLOTS", "CORES", "STARTED", "LAST SEEN", "VERSION"],
            self.0.iter().map(|worker| {
                vec![
                    worker.id.to_string(),
                    if worker.draining { "draining" } else { "taking jobs" }.to_owned(),
                    worker.running.to_string(),
                    worker.slots.to_string(),
                    worker.cores.to_string(),
                    show_time(worker.started_at),
                    show_time(worker.last_seen),
                    worker.version.clone(),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.0.iter().map(json_line).collect()
    }
}

#[derive(Serialize)]
struct Draining {
    id: WorkerId,
    status: &'static str,
}

impl View for Draining {
    fn table(&self, out: &mut Table) {
        out.grid(&["WORKER", "STATUS"], [vec![self.id.to_string(), self.status.to_owned()]]);
    }
}

pub(super) async fn worker(command: &WorkerCommand, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match command {
        WorkerCommand::Ls => {
            let workers = Workers(client.workers().await?);
            let none = workers.0.is_empty();
            console.show(&workers)?;
            if none {
                console.hint("no worker was heard of lately; start one with `jobber work`");
            }
        }
        WorkerCommand::Drain(args) => {
            client.drain_worker(&args.id).await?;
            console.show(&Draining { id: args.id.clone(), status: "draining" })?;
        }
    }
    Ok(Exit::OK)
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::domain::Timestamp;

    #[test]
    fn workers_read_well() {
        let workers = Workers(vec![WorkerInfo {
            id: "build-7-1f2e3d4c".parse().unwrap(),
            host: "build".into(),
            pid: 7,
            version: "0.1.0".into(),
            started_at: Timestamp::from_millis(1_795_507_200_000),
            last_seen: Timestamp::from_millis(1_795_507_260_000),
            slots: 8,
            cores: 8,
            running: 3,
            draining: false,
        }]);
        insta::assert_snapshot!(rendered(&workers, Format::Table), @r"
        WORKER            STATUS       RUNNING  SLOTS  CORES  STARTED               LAST SEEN             VERSION
        build-7-1f2e3d4c  taking jobs  3        8      8      2026-11-24T08:00:00Z  2026-11-24T08:01:00Z  0.1.0
        ");
        insta::assert_snapshot!(rendered(&workers, Format::Jsonl), @r#"{"id":"build-7-1f2e3d4c","host":"build","pid":7,"version":"0.1.0","started_at":"2026-11-24T08:00:00.000Z","last_seen":"2026-11-24T08:01:00.000Z","slots":8,"cores":8,"running":3,"draining":false}"#);
    }
}
