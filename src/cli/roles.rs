//! The flags of the roles. A flag that was not given stays empty, so that the layers of the
//! configuration can tell it from a default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{EnvironmentSetting, parse_duration, parse_size};
use crate::domain::QueueShare;

/// `jobber dev`.
#[derive(Debug, Clone, Default, Args)]
pub struct DevArgs {
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// How it works.
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Directory with a Makefile or a CMakeLists.txt, whose jobs are built now and when their source changes
    /// (repeatable) [default: cpp-jobs, if there is one]
    #[arg(long, value_name = "DIR")]
    pub sources: Vec<PathBuf>,
    /// Write one line of JSON to this file descriptor when ready
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<u32>,
}

/// `jobber serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Directory of job binaries: a job of which neither this directory nor a running worker has the binary is refused
    #[arg(long, value_name = "DIR")]
    pub jobs_dir: Option<PathBuf>,
    /// Write one line of JSON to this file descriptor when ready
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<u32>,
}

/// `jobber work`.
#[derive(Debug, Clone, Default, Args)]
pub struct WorkArgs {
    /// How it works.
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Write one line of JSON to this file descriptor when ready
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<u32>,
    /// End when the queue is empty
    #[arg(long)]
    pub burst: bool,
    /// End after so many attempts, when the last of them has ended
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_jobs: Option<u64>,
    /// Drain after so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_time: Option<Duration>,
}

/// Where a server listens.
#[derive(Debug, Clone, Default, Args)]
pub struct ListenArgs {
    /// Address to listen on [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Listen off loopback without a token
    #[arg(long)]
    pub insecure: bool,
}

/// How a worker works.
#[derive(Debug, Clone, Default, Args)]
pub struct WorkerArgs {
    /// Queue to serve, its weight and how many of its jobs at once (repeatable) [default: the one of jobs that name none]
    #[arg(long = "queue", value_name = "NAME[=WEIGHT][:MOST]", value_parser = QueueShare::parse)]
    pub queues: Vec<QueueShare>,
    /// By weight, or strictly the first queue that has work
    #[arg(long, value_name = "ORDER", value_parser = ["weighted", "strict"])]
    pub queue_order: Option<String>,
    /// Directory of the job binaries
    #[arg(long, value_name = "DIR")]
    pub jobs_dir: Option<PathBuf>,
    /// How many cores to divide among jobs [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub cores: Option<u32>,
    /// Which CPUs to divide, as in 0-3,8
    #[arg(long, value_name = "LIST", conflicts_with = "cores")]
    pub cpus: Option<String>,
    /// Cores for each job
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub cores_per_process: Option<u32>,
    /// Memory to divide among jobs: their limits add up to this at most
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory_total: Option<u64>,
    /// What this worker is, for jobs that require it (repeatable)
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// What else it has to give: NAME=N units, or named ones as in gpu=0+1 (repeatable)
    #[arg(long = "resource", value_name = "NAME=UNITS")]
    pub resources: Vec<String>,
    /// Stop an attempt that runs longer, unless the job says otherwise
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub grace: Option<Duration>,
    /// How long running jobs may go on when the worker is asked to end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub drain_timeout: Option<Duration>,
    /// Memory limit of each job, unless the job says otherwise
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Variable for every job: KEY=VALUE, or KEY to pass on the worker's own (repeatable)
    #[arg(long = "env", value_name = "KEY[=VALUE]")]
    pub environment: Vec<EnvironmentSetting>,
    /// Do not pin jobs to their CPUs
    #[arg(long)]
    pub no_pin: bool,
}

/// `jobber bench`.
#[derive(Debug, Clone, Default, Args)]
pub struct BenchArgs {
    /// How many jobs, or requests, a round has [default: 5000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub jobs: Option<u64>,
    /// How many jobs at a time; several with commas [default: 2,8]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: Vec<u32>,
    /// What to run; `clock`, for dispatch, is looked for beside it [default: cpp-jobs/build/hello]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// How often to measure each [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub rounds: Option<u64>,
    /// Measure only this; several with commas
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<BenchPart>,
    /// Compare with a result that `-o json` has printed, and say what moved
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
}

/// What `jobber bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchPart {
    /// The whole pipeline beside raw process spawning
    Pipeline,
    /// Submissions to the API
    Http,
    /// From submission to a job's first instruction
    Dispatch,
    /// From the event log to history
    History,
    /// Memory of idle processes
    Resident,
}
