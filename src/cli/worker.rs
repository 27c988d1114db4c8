//! `jobber worker`: lists the workers, and drains one.

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
    /// The worker, as in `jobber worker ls`: its id, or the beginning of it
    #[arg(value_name = "WORKER", value_parser = WorkerId::parse)]
    id: WorkerId,
}

#[derive(Serialize)]
struct Workers {
    items: Vec<WorkerInfo>,
}

impl View for Workers {
    fn table(&self, out: &mut Table) {
        out.grid(
            &["WORKER", "HOST", "STATUS", "RUNNING", "SLOTS", "CORES", "STARTED", "LAST SEEN", "VERSION"],
            self.items.iter().map(|worker| {
                vec![
                    worker.id.to_string(),
                    worker.host.clone(),
                    match &worker.unhealthy {
                        _ if worker.draining => "draining".to_owned(),
                        Some(why) => format!("unhealthy: {why}"),
                        None => "taking jobs".to_owned(),
                    },
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
        self.items.iter().map(json_line).collect()
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
            let workers = Workers { items: client.workers().await? };
            let none = workers.items.is_empty();
            console.show(&workers)?;
            if none {
                console.hint("no worker was heard of lately; start one with `jobber work`");
            }
        }
        WorkerCommand::Drain(args) => {
            let id = find(&args.id, &client.workers().await?)?;
            client.drain_worker(&id).await?;
            console.show(&Draining { id, status: "draining" })?;
        }
    }
    Ok(Exit::OK)
}

/// The worker with this id, else the only worker whose id begins like that, else the id as given:
/// the server may know a worker that has sent no heartbeat lately.
fn find(asked: &WorkerId, workers: &[WorkerInfo]) -> Result<WorkerId, CliError> {
    let alike: Vec<_> = workers.iter().map(|w| &w.id).filter(|id| id.as_str().starts_with(asked.as_str())).collect();
    match alike.as_slice() {
        _ if alike.contains(&asked) => Ok(asked.clone()),
        [] => Ok(asked.clone()),
        [only] => Ok((*only).clone()),
        many => {
            let names: Vec<_> = many.iter().map(ToString::to_string).collect();
            Err(CliError::Usage(format!("{asked} may be any of {}; give more of its id", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::domain::Timestamp;

    fn worker(id: &str) -> WorkerInfo {
        WorkerInfo {
            id: id.parse().unwrap(),
            host: "build".into(),
            pid: 7,
            version: "0.1.0".into(),
            started_at: Timestamp::from_millis(1_795_507_200_000),
            last_seen: Timestamp::from_millis(1_795_507_260_000),
            slots: 8,
            cores: 8,
            running: 3,
            draining: false,
            unhealthy: None,
            binaries: None,
        }
    }

    #[test]
    fn a_worker_is_found_by_the_beginning_of_its_id() {
        let workers = [worker("build-7-1f"), worker("build-7"), worker("test-8-2a")];
        let find = |text: &str| find(&text.parse().unwrap(), &workers).map(|id| id.to_string());
        assert_eq!(find("test").unwrap(), "test-8-2a");
        assert_eq!(find("build-7-").unwrap(), "build-7-1f");
        assert_eq!(find("build-7").unwrap(), "build-7", "a whole id is not the beginning of another");
        assert_eq!(find("gone-1").unwrap(), "gone-1");
        let error = find("build").unwrap_err();
        assert_eq!(error.to_string(), "build may be any of build-7-1f, build-7; give more of its id");
    }

    #[test]
    fn workers_read_well() {
        let workers = Workers { items: vec![worker("build-7-1f2e3d4c")] };
        insta::assert_snapshot!(rendered(&workers, Format::Table), @r"
        WORKER            HOST   STATUS       RUNNING  SLOTS  CORES  STARTED               LAST SEEN             VERSION
        build-7-1f2e3d4c  build  taking jobs  3        8      8      2026-11-24T08:00:00Z  2026-11-24T08:01:00Z  0.1.0
        ");
        insta::assert_snapshot!(rendered(&workers, Format::Jsonl), @r#"{"id":"build-7-1f2e3d4c","host":"build","pid":7,"version":"0.1.0","started_at":"2026-11-24T08:00:00.000Z","last_seen":"2026-11-24T08:01:00.000Z","slots":8,"cores":8,"running":3,"draining":false}"#);
    }
}
