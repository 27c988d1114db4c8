//! The `jobber` binary: reads the command line and starts what it names.

mod memory;
mod process;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jobber::allocations::CountingAllocator;
use jobber::cli::exec::{Ran, Run, RunLocalError};
use jobber::cli::{self, Cli, Command, Console};
use jobber::config::{self, Config, Sources};
use jobber::domain::{Clock, Job};
use jobber::notify::Notifier;
use jobber::roles::bench::{BenchOptions, Part};
use jobber::roles::{self, RoleOptions, upkeep};
use jobber::runner::{FetchInputs, RunOrder};
use jobber::traces::TraceSettings;
use jobber::{logging, runner};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    process::unblock_signals();
    // First of all: the guard lives as long as its worker, and all that is done before it would stay in its memory.
    if let Some(parent) = runner::guarded_parent(std::env::args_os()) {
        return guard(parent);
    }
    memory::keep_freed_memory();
    let environment = config::env::read();
    if let Some(code) = cli::complete(&environment) {
        return code;
    }
    let Cli { globals, command } = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if supervises(&command) {
        process::keep_others_out();
        jobber::descriptors::raise();
        process::wipe_environment(runner::is_secret_variable);
    }
    let console = Console::stdio(&globals);
    if let Command::Openapi = command {
        return cli::openapi::openapi(jobber::api::openapi(), console);
    }
    let is_evaluation = command.evaluation().is_some();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(anyhow::Error::new(error).context("the async runtime can't be started"))),
    };
    let command = match command {
        Command::Client(command) if !is_evaluation => return runtime.block_on(cli::run(command, &globals, console)),
        other => other,
    };
    let pairs: Vec<_> = environment.clone().into_iter().collect();
    let sources =
        Sources { file: globals.config.clone(), flags: cli::settings(&globals, &command, &environment), environment };
    if let Command::Doctor(_) = command {
        return runtime.block_on(async {
            let findings = roles::examine(&sources).await;
            cli::doctor::doctor(&globals, console, findings).await
        });
    }
    let config = match Config::load(&sources) {
        Ok(config) => config,
        Err(error) => return end(Err(error.into())),
    };
    if let Some(args) = command.evaluation() {
        return runtime.block_on(cli::evaluate::evaluate(args, console, async |messages| {
            if args.offline { Ok(None) } else { roles::evaluate(&config, messages).await }
        }));
    }
    if !matches!(command, Command::Exec(_) | Command::Replay(_) | Command::Bench(_) | Command::New(_))
        && let Err(error) = logging::start(
            &cli::log_filter(&globals, &config.log_level),
            config.log_json,
            logging::Target::of_stderr(&sources.environment),
        )
    {
        return end(Err(error));
    }
    for (name, meant) in config::unknown_variables(&sources.environment) {
        let hint = meant.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
        tracing::warn!("variable {name} is no setting and changes nothing{hint}");
    }
    if matches!(command, Command::Dev(_) | Command::Serve(_) | Command::Work(_)) {
        memory::give_back_freed_memory();
    }
    let notifier = Notifier::from_environment(&sources.environment, std::process::id());
    let traces = TraceSettings::from_environment(&sources.environment);
    let options = RoleOptions { notifier, traces, ..role_options(&command) };
    runtime.block_on(async {
        end(match command {
            Command::Dev(_) => roles::dev(config, pairs, options).await,
            Command::Serve(_) => roles::serve(config, pairs, options).await,
            Command::Work(_) => roles::work(config, pairs, options).await,
            Command::Bench(args) => {
                let options = bench_options(&args, &globals);
                roles::bench::bench(config, pairs, options).await.map(|()| true)
            }
            Command::Exec(args) => {
                return cli::exec::exec(&args, &Clock::system(), console, async |order, run| {
                    run_here(config, pairs, order, run, None).await
                })
                .await;
            }
            Command::Replay(args) => {
                let lacks = |job: &Job| roles::lacks(&config, job);
                return cli::replay::replay(&args, &globals, console, lacks, async |order, run, inputs| {
                    run_here(config.clone(), pairs, order, run, inputs).await
                })
                .await;
            }
            Command::New(args) => {
                return cli::new::new(&args, &config.worker.jobs_dir, console, roles::build_jobs).await;
            }
            Command::Rebuild(args) => {
                return cli::upkeep::rebuild(console, async |note| {
                    upkeep::rebuild(&config, args.check, args.turn.patience(), note).await
                })
                .await;
            }
            Command::Export(args) => {
                let (file, skip_log, patience) = (args.file.as_deref(), args.log.skip_log, args.turn.patience());
                return cli::upkeep::transfer(console, file.is_none(), async |note| {
                    upkeep::export(&config, file, skip_log, patience, note).await
                })
                .await;
            }
            Command::Import(args) => {
                let (file, skip_log, patience) = (args.file.as_deref(), args.log.skip_log, args.turn.patience());
                return cli::upkeep::transfer(console, false, async |note| {
                    upkeep::import(&config, file, skip_log, patience, note).await
                })
                .await;
            }
            Command::Doctor(_) | Command::Openapi | Command::Client(_) => Ok(true),
        })
    })
}

/// Runs one attempt on this host as the command line wants it.
async fn run_here(
    config: Config,
    environment: Vec<(String, String)>,
    order: RunOrder,
    run: Run,
    inputs: Option<FetchInputs<'_>>,
) -> Result<Ran, RunLocalError> {
    Ok(match run {
        Run::Supervised(stop, sink) => {
            Ran::Attempt(roles::exec(config, environment, order, inputs, stop, sink).await?.into())
        }
        Run::Debugged => Ran::Debugger(roles::debug(config, environment, order, inputs).await?.success()),
    })
}

/// The whole of the guard process, whose table is its standard input.
fn guard(parent: u32) -> ExitCode {
    process::keep_others_out();
    jobber::descriptors::raise();
    process::wipe_environment(runner::is_secret_variable);
    let table = std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let guarded = table.and_then(|table| runner::run_guard(parent, table, memory::forget_startup_code));
    end(guarded.map(|()| true).map_err(Into::into))
}

/// Whether jobs run below the process, or it holds what they must not know.
fn supervises(command: &Command) -> bool {
    match command {
        Command::Dev(_) | Command::Serve(_) | Command::Work(_) | Command::Exec(_) | Command::Replay(_) => true,
        Command::New(_)
        | Command::Bench(_)
        | Command::Rebuild(_)
        | Command::Export(_)
        | Command::Import(_)
        | Command::Doctor(_)
        | Command::Openapi
        | Command::Client(_) => false,
    }
}

/// The exit code of a role: 0 when everything ended in good order, else 1 with the reason on standard error.
fn end(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn role_options(command: &Command) -> RoleOptions {
    /// How long a burst waits for more before it ends.
    const QUIET: Duration = Duration::from_millis(500);
    match command {
        Command::Dev(args) => {
            RoleOptions { ready_fd: args.ready_fd, sources: sources(&args.sources), ..RoleOptions::default() }
        }
        Command::Serve(args) => RoleOptions { ready_fd: args.ready_fd, ..RoleOptions::default() },
        Command::Work(args) => {
            RoleOptions { ready_fd: args.ready_fd, burst: args.burst.then_some(QUIET), ..RoleOptions::default() }
        }
        Command::Rebuild(_) | Command::Export(_) | Command::Import(_) => RoleOptions::default(),
        Command::Exec(_)
        | Command::Replay(_)
        | Command::New(_)
        | Command::Bench(_)
        | Command::Doctor(_)
        | Command::Openapi
        | Command::Client(_) => RoleOptions::default(),
    }
}

/// Where `dev` finds the sources of jobs: those directories that were named, else the usual one if it is there.
fn sources(named: &[PathBuf]) -> Vec<PathBuf> {
    let usual = Path::new("cpp-jobs");
    match named {
        [] if usual.join("Makefile").exists() => vec![usual.to_owned()],
        named => named.to_vec(),
    }
}

fn bench_options(args: &cli::BenchArgs, globals: &cli::Globals) -> BenchOptions {
    let concurrency = if args.concurrency.is_empty() { vec![2, 8] } else { args.concurrency.clone() };
    BenchOptions {
        jobs: args.jobs.and_then(|n| usize::try_from(n).ok()).unwrap_or(5000),
        concurrency,
        binary: args.binary.clone().unwrap_or_else(|| "cpp-jobs/build/hello".into()),
        rounds: args.rounds.and_then(|n| usize::try_from(n).ok()).unwrap_or(5),
        parts: args.only.iter().copied().map(bench_part).collect(),
        against: args.against.clone(),
        is_json: globals.output.is_some_and(|format| format != cli::Format::Table),
    }
}

fn bench_part(part: cli::BenchPart) -> Part {
    match part {
        cli::BenchPart::Pipeline => Part::Pipeline,
        cli::BenchPart::Http => Part::Http,
        cli::BenchPart::Dispatch => Part::Dispatch,
        cli::BenchPart::History => Part::History,
        cli::BenchPart::Resident => Part::Resident,
    }
}
