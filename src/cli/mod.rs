//! The command line: parses words, calls the server, and prints.
//!
//! Data goes to stdout, everything else to stderr. Roles (`dev`, `serve`, `work`), `exec` and
//! `bench` are only parsed here; `main` runs them.

mod act;
mod binaries;
mod builds;
mod category;
mod complete;
mod completions;
mod console;
mod crash;
pub mod doctor;
mod error;
pub mod evaluate;
pub mod exec;
mod exit;
mod explain;
mod failures;
mod files;
mod follow;
mod grid;
mod group;
mod health;
mod help;
mod inputs;
mod jobspec;
mod list;
mod logs;
mod man;
pub mod new;
mod notify;
pub mod openapi;
mod queue;
mod reasons;
mod reference;
pub mod replay;
mod roles;
mod schedule;
mod selection;
mod settings;
mod show;
mod stats;
mod submit;
mod terminal;
mod text;
mod top;
mod topics;
mod ui;
pub mod upkeep;
mod values;
mod view;
mod wait;
mod worker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use futures_util::future::LocalBoxFuture;

use crate::client::{Client, DEFAULT_SERVER, Secret};
pub use complete::complete;
pub use console::{Console, Format};
pub use doctor::DoctorArgs;
pub use error::CliError;
pub use exec::ExecArgs;
pub use exit::Exit;
pub use new::NewArgs;
pub use replay::ReplayArgs;
pub use roles::{BenchArgs, BenchPart, DevArgs, ListenArgs, ServeArgs, WorkArgs, WorkerArgs};
pub use settings::{complain, log_filter, settings};
pub use terminal::ColorWhen;
pub use values::{EnvironmentSetting, parse_duration, parse_size};

/// Runs native programs as queued, supervised jobs.
#[derive(Debug, Parser)]
#[command(name = "jobber", version, max_term_width = 100, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 no server.\n\
    run, exec, wait and submit --wait: the job's own, 128+n signal n, 124 timeout, 125 jobber failed,\n\
    126 cancelled or never started, 127 no such binary; 0 only when the job has completed.\n\n\
    `jobber COMMAND --help` tells more of a command, `jobber help TOPIC` of exit-codes, configuration, job-contract.")]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub globals: Globals,
    /// The command to run, with its own arguments.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that may stand anywhere on the command line. `None` when not given.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// Configuration file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "JOBBER_CONFIG",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// Directory of the embedded queue and history
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Where the server is [default: http://127.0.0.1:3000]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "JOBBER_SERVER",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub server: Option<String>,
    /// The server's token. Prefer the variable or --token-file: command lines can be read by others
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "JOBBER_TOKEN",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub token: Option<Secret>,
    /// File that holds the server's token
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub token_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities to trust, for a server with a certificate of your own
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "JOBBER_CA",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub ca: Option<PathBuf>,
    /// How data is printed [default: table]
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        env = "JOBBER_OUTPUT",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub output: Option<Format>,
    /// When to use colours [default: auto]
    #[arg(long, global = true, value_enum, value_name = "WHEN", help_heading = "Global options")]
    pub color: Option<ColorWhen>,
    /// Tell times exactly in tables, not by how long ago they were
    #[arg(long, global = true, help_heading = "Global options")]
    pub utc: bool,
    /// Say more on stderr (twice: still more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Server, workers and embedded storage in one process: all that is needed on one machine
    Dev(DevArgs),
    /// The HTTP API server and the projector of history
    Serve(ServeArgs),
    /// A worker pool
    Work(WorkArgs),
    /// Run a binary once under the worker's supervision, without server and queue
    Exec(ExecArgs),
    /// Run an attempt of a job once more on this machine, without queue
    ///
    /// It gets what the attempt got: arguments, data, inputs, results of the jobs before it, environment, limits. Queue and
    /// history hear nothing of it.
    Replay(ReplayArgs),
    /// Begin a job in C++, shell or Python: source, build and test
    New(NewArgs),
    /// Check this host and its configuration: what is well, what is not, what to do
    Doctor(DoctorArgs),
    /// Make the statistics anew from the jobs in history
    Rebuild(upkeep::RebuildArgs),
    /// Write all of history as lines of JSON
    Export(upkeep::ExportArgs),
    /// Read what `export` wrote into a store without history
    Import(upkeep::ImportArgs),
    /// Print the description of the HTTP API: OpenAPI 3.1
    Openapi,
    /// Measure how many jobs per second this machine carries
    Bench(BenchArgs),
    /// A command that talks to a server.
    #[command(flatten)]
    Client(ClientCommand),
}

impl Command {
    /// The arguments of `category evaluate`, the one command of this group that asks no server.
    pub fn evaluation(&self) -> Option<&evaluate::EvaluateArgs> {
        match self {
            Command::Client(ClientCommand::Category(category::CategoryCommand::Evaluate(args))) => Some(args),
            _ => None,
        }
    }
}

/// Commands that talk to a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Put one or many jobs into the queue
    Submit(Box<submit::SubmitArgs>),
    /// Submit a job, show what it writes, and exit with its code
    Run(Box<submit::RunArgs>),
    /// List jobs, last submitted first
    #[command(alias = "ls")]
    List(list::ListArgs),
    /// Show a job with all its attempts
    Show(show::ShowArgs),
    /// Show where a job crashed: stack, registers, modules
    Crash(crash::CrashArgs),
    /// Print what a job writes
    Logs(logs::LogsArgs),
    /// List and get the files that a job has left
    #[command(subcommand)]
    Files(files::FilesCommand),
    /// Wait until jobs have ended and exit with their code
    Wait(wait::WaitArgs),
    /// Stop jobs, running or not
    Cancel(act::CancelArgs),
    /// Put failed jobs back into the queue
    Retry(act::RetryArgs),
    /// Make delayed jobs ready now
    Promote(act::JobsArgs),
    /// Take jobs that are not running out of queue and lists
    #[command(alias = "rm")]
    Remove(act::JobsArgs),
    /// Say why a job stands where it stands
    Explain(explain::ExplainArgs),
    /// What attempts failed with, most frequent first
    Failures(failures::FailuresArgs),
    /// Errors that mean the same as a text
    Similar(failures::SimilarArgs),
    /// Look at the categories of errors, change them, try them out
    #[command(subcommand)]
    Category(category::CategoryCommand),
    /// What goes on: queue, rates, workers, failures, once a second
    Top(top::TopArgs),
    /// Statistics: attempts, concurrency, categories, cost, durations, throughput
    Stats(stats::StatsArgs),
    /// Look at the queues, pause them, clean them up
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Look at a group of jobs: how far it is, what its jobs gave back
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Look at the workers, drain one
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// List the binaries that jobs can name, and who can run them
    Binaries(binaries::BinariesArgs),
    /// Let jobs come by themselves: at the times of a cron expression, or every so often
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Who is told of what happens: dead letters, and tests of the targets
    #[command(subcommand)]
    Notify(notify::NotifyCommand),
    /// Open the server's page in a browser
    Ui(ui::UiArgs),
    /// Whether the server can work: exit code 0 or 1, for health checks
    Health(health::HealthArgs),
    /// Print a shell's completion script, which asks the server for ids and names
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(man::ManArgs),
    /// Print the help of a command, or a topic: exit-codes, configuration, job-contract
    Help(help::HelpArgs),
}

impl ClientCommand {
    /// Whether the exit code stands for jobs, so that a failure of Jobber itself needs a code of its own (125).
    fn speaks_for_jobs(&self) -> bool {
        match self {
            ClientCommand::Run(_) | ClientCommand::Wait(_) => true,
            ClientCommand::Submit(args) => args.waits(),
            _ => false,
        }
    }
}

/// Parses a command line. Explains a mistake on the terminal, and prints `--help` and `--version`.
///
/// # Errors
/// The code to exit with: 0 after help, 2 after a mistake.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let words: Vec<OsString> = words.into_iter().collect();
    let mut tree = tree().color(colour_of_help(&words));
    let matches = tree.try_get_matches_from_mut(&words);
    let parsed =
        matches.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut tree)));
    parsed.map_err(|e| {
        // When the terminal is gone, there is no place to print to.
        let _ = e.print();
        if e.use_stderr() { Exit::USAGE.into() } else { Exit::OK.into() }
    })
}

/// What `--color` says, for help and mistakes, which are printed before the words are understood.
fn colour_of_help(words: &[OsString]) -> clap::ColorChoice {
    let ours = words.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str());
    let next = ours.clone().skip(1).chain(std::iter::once(""));
    let mut values = ours.zip(next).filter_map(|(word, next)| match word.strip_prefix("--color") {
        Some("") => Some(next),
        Some(value) => value.strip_prefix('='),
        None => None,
    });
    match values.next() {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    }
}

/// Runs a command that talks to a server. Prints errors on the console, and returns the exit code.
pub fn run<'a>(command: ClientCommand, globals: &'a Globals, mut console: Console) -> LocalBoxFuture<'a, ExitCode> {
    Box::pin(async move {
        let for_jobs = command.speaks_for_jobs();
        let exit = match dispatch(command, globals, &mut console).await {
            Ok(exit) => exit,
            Err(error) => {
                console.report(&error);
                if for_jobs { Exit::of_error_with_jobs(&error) } else { Exit::of_error(&error) }
            }
        };
        exit.into()
    })
}

async fn dispatch(command: ClientCommand, globals: &Globals, console: &mut Console) -> Result<Exit, CliError> {
    match &command {
        ClientCommand::Completions(args) => return completions::completions(args, console),
        ClientCommand::Man(args) => return man::man(args, console),
        ClientCommand::Help(args) => return help::help(args, console),
        _ => {}
    }
    let client = connect(globals)?;
    match command {
        ClientCommand::Submit(args) => submit::submit(*args, &client, console).await,
        ClientCommand::Run(args) => submit::run(*args, &client, console).await,
        ClientCommand::List(args) => list::list(args, &client, console).await,
        ClientCommand::Show(args) => show::show(&args, &client, console).await,
        ClientCommand::Crash(args) => crash::crash(&args, &client, console).await,
        ClientCommand::Logs(args) => logs::logs(&args, &client, console).await,
        ClientCommand::Files(command) => files::files(&command, &client, console).await,
        ClientCommand::Wait(args) => wait::wait(&args, &client, console).await,
        ClientCommand::Cancel(args) => act::cancel(args, &client, console).await,
        ClientCommand::Retry(args) => act::retry(args, &client, console).await,
        ClientCommand::Promote(args) => act::promote(args, &client, console).await,
        ClientCommand::Remove(args) => act::remove(args, &client, console).await,
        ClientCommand::Explain(args) => explain::explain(&args, &client, console).await,
        ClientCommand::Failures(args) => failures::failures(args, &client, console).await,
        ClientCommand::Similar(args) => failures::similar(&args, &client, console).await,
        ClientCommand::Category(command) => category::category(command, &client, console).await,
        ClientCommand::Top(args) => top::top(&args, &client, console).await,
        ClientCommand::Stats(args) => stats::stats(args, &client, console).await,
        ClientCommand::Queue(command) => queue::queue(&command, &client, console).await,
        ClientCommand::Group(command) => group::group(&command, &client, console).await,
        ClientCommand::Worker(command) => worker::worker(&command, &client, console).await,
        ClientCommand::Binaries(args) => binaries::binaries(&args, &client, console).await,
        ClientCommand::Schedule(command) => schedule::schedule(command, &client, console).await,
        ClientCommand::Notify(command) => notify::notify(&command, &client, console).await,
        ClientCommand::Ui(args) => ui::ui(&args, &client, console).await,
        ClientCommand::Health(args) => health::health(&args, &client, console).await,
        ClientCommand::Completions(_) | ClientCommand::Man(_) | ClientCommand::Help(_) => {
            unreachable!("answered above, without a server")
        }
    }
}

fn connect(globals: &Globals) -> Result<Client, CliError> {
    // An empty variable counts as unset, because shells make it easy to write that.
    let token = match (&globals.token, &globals.token_file) {
        (Some(token), _) if !token.reveal().is_empty() => Some(token.clone()),
        (_, Some(file)) => {
            let text = fs_err::read_to_string(file).map_err(|e| CliError::Usage(e.to_string()))?;
            Some(Secret::new(text.trim()))
        }
        (_, None) => None,
    };
    let server = globals.server.as_deref().filter(|server| !server.is_empty()).unwrap_or(DEFAULT_SERVER);
    let authorities = globals.ca.as_ref().filter(|file| !file.as_os_str().is_empty());
    let authorities = authorities.map(fs_err::read).transpose().map_err(|e| CliError::Usage(e.to_string()))?;
    Client::trusting(server, token, authorities.as_deref()).map_err(|e| CliError::Usage(with_hint(&e)))
}

/// The error in one line, with its first cause and what to do about it.
fn with_hint(error: &crate::client::ClientError) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    if let Some(first) = causes.last() {
        text.push_str(&format!(": {first}"));
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("; {hint}"));
    }
    text
}

/// The whole tree of commands: what is parsed, completed, and told in help and manual pages.
fn tree() -> clap::Command {
    help::arranged(Cli::command())
}

#[cfg(test)]
mod tests;
