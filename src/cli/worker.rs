//! `jobber worker`: lists the workers, shows what runs on the cores of one, and drains one.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::reference::beginning;
use super::values::show_size;
use super::view::{Column, Table, View, json_line, or_dash, row};
use super::{CliError, Console, Exit, complete};
use crate::client::{Client, ClientError, ClientErrorKind};
use crate::domain::{JobName, ResourceName, SandboxLevel, WorkerId};
use crate::queue::{RunningJob, WorkerInfo};

/// `jobber worker`.
#[derive(Debug, Clone, Subcommand)]
pub enum WorkerCommand {
    /// List the workers that were heard of lately
    #[command(alias = "list")]
    Ls,
    /// Show a worker, and what runs on each of its cores
    Show(WorkerArgs),
    /// Ask a worker to take nothing new and end
    Drain(WorkerArgs),
}

/// `jobber worker show` and `drain`.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// The worker, as in `jobber worker ls`: its id, or the beginning of it
    #[arg(value_name = "WORKER", value_parser = WorkerId::parse, add = complete::workers())]
    id: WorkerId,
}

#[derive(Serialize)]
struct Workers {
    items: Vec<WorkerInfo>,
}

impl View for Workers {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::id("WORKER"),
                Column::plain("HOST").rank(6),
                Column::state("STATUS").rank(0),
                Column::plain("RUNNING"),
                Column::plain("SLOTS").rank(2),
                Column::plain("CORES").rank(3),
                Column::plain("STARTED").rank(7),
                Column::plain("LAST SEEN").rank(4),
                Column::plain("VERSION").rank(5),
            ],
            self.items.iter().map(|worker| {
                row![
                    worker.id.to_string(),
                    worker.host.clone(),
                    status(worker),
                    worker.running.to_string(),
                    worker.slots.to_string(),
                    worker.cores.to_string(),
                    worker.started_at,
                    worker.last_seen,
                    worker.version.clone(),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

fn status(worker: &WorkerInfo) -> String {
    match &worker.unhealthy {
        _ if worker.draining => "draining".to_owned(),
        Some(why) => format!("unhealthy: {why}"),
        None => "taking jobs".to_owned(),
    }
}

impl View for WorkerInfo {
    fn table(&self, out: &mut Table) {
        out.field("worker", self.id.as_str());
        out.field("host", format!("{} (process {})", self.host, self.pid));
        out.field("status", status(self));
        out.field("running", format!("{} of {} slots", self.running, self.slots));
        out.field("cores", self.cpus.as_ref().map_or_else(|| self.cores.to_string(), |cpus| show_cpus(cpus)));
        if let (Some(all), Some(available)) = (self.memory_bytes, self.memory_available_bytes) {
            out.field("memory", format!("{} available of {}", show_size(available), show_size(all)));
        }
        if let Some(bytes) = self.job_memory_bytes {
            out.field("for jobs", format!("{} of memory, which their limits share", show_size(bytes)));
        }
        if !self.labels.is_empty() {
            out.field("labels", self.labels.to_string());
        }
        for (name, units) in self.resources.iter() {
            out.field(
                "resource",
                format!("{name}: {}", show_units(name, units, self.jobs.as_deref().unwrap_or_default())),
            );
        }
        match self.sandbox {
            Some(SandboxLevel::Off) => out.field("sandbox", "none can be had in full: see `jobber doctor` there"),
            Some(level) => out.field("sandbox", format!("up to {level}")),
            None => {}
        }
        out.field("started", self.started_at);
        out.field("last seen", self.last_seen);
        out.field("version", &self.version);
        if let Some(names) = &self.binaries {
            show_binaries(self, names, out);
        }
        let Some(jobs) = &self.jobs else { return };
        let row = |job: &RunningJob| {
            row![
                show_cpus(&job.cpus),
                job.name.to_string(),
                job.job.to_string(),
                job.attempt.0.to_string(),
                job.started_at,
                or_dash(job.memory_bytes.map(show_size)),
            ]
        };
        let busy = |cpu: &u32| jobs.iter().any(|job| job.cpus.contains(cpu));
        let free: Vec<u32> = self.cpus.iter().flatten().copied().filter(|cpu| !busy(cpu)).collect();
        let free = (!free.is_empty()).then(|| row![show_cpus(&free), "(free)"]);
        out.grid(&RUNNING, jobs.iter().map(row).chain(free));
    }
}

const RUNNING: [Column; 6] = [
    Column::text("CORES").rank(0),
    Column::text("NAME").rank(1),
    Column::id("JOB"),
    Column::plain("ATTEMPT").rank(4),
    Column::plain("STARTED").rank(2),
    Column::plain("MEMORY").rank(3),
];

/// Writes a worker's binaries with their builds; only how many there are, if it does not announce the builds of so many.
fn show_binaries(worker: &WorkerInfo, names: &[JobName], out: &mut Table) {
    if names.len() > WorkerInfo::BUILDS {
        out.field("binaries", names.len().to_string());
        return;
    }
    let row = |name: &JobName| {
        let build = worker.builds.as_ref().and_then(|builds| builds.get(name));
        let size = build.map(|build| show_size(build.bytes));
        vec![name.to_string(), or_dash(size), or_dash(build.map(|build| build.digest.short()))]
    };
    out.grid(&["BINARY", "SIZE", "BUILD"], names.iter().map(row));
}

/// Which units of a resource are free, and which job holds each of the others: `1 of 2 free; 0: JOB`.
fn show_units(name: &ResourceName, units: &[String], jobs: &[RunningJob]) -> String {
    let holder = |unit: &String| {
        let holds = |job: &&RunningJob| job.resources.get(name).is_some_and(|held| held.contains(unit));
        Some(format!("{unit}: {}", jobs.iter().find(holds)?.job))
    };
    let held: Vec<_> = units.iter().filter_map(holder).collect();
    let free = units.len() - held.len();
    let held = held.iter().map(|held| format!("; {held}")).collect::<String>();
    format!("{free} of {} free{held}", units.len())
}

/// CPU numbers in ascending order, neighbours joined: `0-3,6`.
fn show_cpus(cpus: &[u32]) -> String {
    let spans = cpus.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(|span| match span {
        [first, .., last] => format!("{first}-{last}"),
        span => span.iter().map(u32::to_string).collect(),
    });
    spans.collect::<Vec<_>>().join(",")
}

#[derive(Serialize)]
struct Draining {
    id: WorkerId,
    status: &'static str,
}

impl View for Draining {
    fn table(&self, out: &mut Table) {
        out.grid(&[Column::id("WORKER"), Column::state("STATUS")], [vec![self.id.as_str(), self.status]]);
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
        WorkerCommand::Show(args) => {
            let mut workers = client.workers().await?;
            let id = find(&args.id, &workers)?;
            let Some(at) = workers.iter().position(|worker| worker.id == id) else {
                let message = format!("no worker {id} was heard of lately; see `jobber worker ls`");
                return Err(ClientError::new(ClientErrorKind::NotFound, message).into());
            };
            console.show(&workers.swap_remove(at))?;
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
    let known: Vec<&str> = workers.iter().map(|worker| worker.id.as_str()).collect();
    WorkerId::parse(beginning("worker", asked.as_str(), &known)?).map_err(|e| CliError::Usage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::domain::{AttemptNumber, Build, BuildDigest, Timestamp};

    fn worker(id: &str) -> WorkerInfo {
        WorkerInfo {
            host: "build".into(),
            pid: 7,
            version: "0.1.0".into(),
            started_at: Timestamp::from_millis(1_795_507_200_000),
            last_seen: Timestamp::from_millis(1_795_507_260_000),
            slots: 8,
            cores: 8,
            running: 3,
            ..WorkerInfo::bare(id)
        }
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

    #[test]
    fn the_binaries_of_a_worker_have_builds() {
        let build = Build { bytes: 48_216, digest: BuildDigest::of_build_id(&[0x8f; 20]) };
        let worker = WorkerInfo {
            binaries: Some(vec!["resize".parse().unwrap(), "thumb".parse().unwrap()]),
            builds: Some([("resize".parse().unwrap(), build)].into()),
            ..worker("build-7-1f2e3d4c")
        };
        let shown = rendered(&worker, Format::Table);
        let (_, table) = shown.split_once("\n\n").unwrap();
        insta::assert_snapshot!(table, @r"
        BINARY  SIZE      BUILD
        resize  47.1 KiB  8f8f8f8f8f8f
        thumb   -         -
        ");
        let many = (0..=WorkerInfo::BUILDS).map(|i| format!("b{i}").parse().unwrap()).collect();
        let worker = WorkerInfo { binaries: Some(many), ..worker };
        let told = format!("binaries   {}", WorkerInfo::BUILDS + 1);
        assert!(rendered(&worker, Format::Table).contains(&told));
    }

    #[test]
    fn the_cores_of_a_worker_are_a_map() {
        let job = |name: &str, cpus: &[u32], memory_bytes| RunningJob {
            resources: std::collections::BTreeMap::new(),
            job: format!("{name}-1").parse().unwrap(),
            name: name.parse().unwrap(),
            attempt: AttemptNumber(2),
            cpus: cpus.to_vec(),
            started_at: Timestamp::from_millis(1_795_507_230_000),
            memory_bytes,
        };
        let worker = WorkerInfo {
            running: 2,
            cpus: Some(vec![0, 1, 2, 3, 6, 8]),
            memory_bytes: Some(16 << 30),
            memory_available_bytes: Some(3 << 29),
            jobs: Some(vec![job("resize", &[0, 1], Some(48 << 20)), job("thumb", &[3], None)]),
            ..worker("build-7-1f2e3d4c")
        };
        insta::assert_snapshot!(rendered(&worker, Format::Table), @r"
        worker     build-7-1f2e3d4c
        host       build (process 7)
        status     taking jobs
        running    2 of 8 slots
        cores      0-3,6,8
        memory     1.5 GiB available of 16.0 GiB
        started    2026-11-24T08:00:00Z
        last seen  2026-11-24T08:01:00Z
        version    0.1.0

        CORES  NAME    JOB       ATTEMPT  STARTED               MEMORY
        0-1    resize  resize-1  2        2026-11-24T08:00:30Z  48.0 MiB
        3      thumb   thumb-1   2        2026-11-24T08:00:30Z  -
        2,6,8  (free)
        ");
    }
}
