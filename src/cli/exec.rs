//! `jobber exec`: one attempt under the worker's supervisor, without a server and a queue.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::follow::{print_result, reason};
use super::jobspec::read_json;
use super::size::{parse_size, show_size};
use super::values::{EnvironmentSetting, parse_duration, show_duration};
use super::{CliError, Console, Exit, Format};
use crate::domain::{AttemptNumber, AttemptReport, Clock, JobName, JobOptions, NewJob, Progress, Stream};
use crate::runner::{OutputSink, RunOrder, StopHandle, StopReason, StopSignal};

/// Between SIGTERM and SIGKILL when nobody says.
const GRACE: Duration = Duration::from_secs(10);

/// `jobber exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// The binary to run
    #[arg(value_name = "NAME", value_parser = JobName::parse)]
    pub name: JobName,
    /// Its arguments
    #[arg(value_name = "ARGS", last = true)]
    pub arguments: Vec<String>,
    /// JSON for its standard input: the JSON itself, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub data: Option<String>,
    /// Stop it when it runs longer
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub grace: Option<Duration>,
    /// CPU cores that it runs on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub cores: Option<u32>,
    /// Memory limit
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Directory of the job binaries
    #[arg(long, value_name = "DIR")]
    pub jobs_dir: Option<PathBuf>,
    /// Variable for it: KEY=VALUE, or KEY to pass on (repeatable)
    #[arg(long = "env", value_name = "KEY[=VALUE]")]
    pub environment: Vec<EnvironmentSetting>,
    /// Do not pin it to CPUs
    #[arg(long)]
    pub no_pin: bool,
}

/// Why the supervisor could not do its own work.
pub type RunLocalError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the binary with `run_local`, shows what it writes as it comes, and exits with its code. SIGINT and SIGTERM stop
/// the binary in the way a cancel does.
pub async fn exec(
    args: &ExecArgs,
    clock: &Clock,
    mut console: Console,
    run_local: impl AsyncFnOnce(RunOrder, StopSignal, Arc<dyn OutputSink>) -> Result<AttemptReport, RunLocalError>,
) -> ExitCode {
    let (order, stop, signal) = match prepare(args, clock) {
        Ok(prepared) => prepared,
        Err(error) => {
            console.report(&error);
            return Exit::of_error_with_jobs(&error).into();
        }
    };
    let format = console.format;
    // Bounded: a terminal that is slower than the binary slows it down, as it would without Jobber.
    let (said, to_write) = sync_channel(256);
    let writer = {
        let stop = stop.clone();
        std::thread::Builder::new().name("exec-output".to_owned()).spawn(move || write_out(&to_write, console, &stop))
    };
    let Ok(writer) = writer else {
        return Exit::JOBBER_FAILED.into();
    };
    let sink: Arc<dyn OutputSink> = Arc::new(Pipe(said.clone()));
    let report = supervise(run_local(order, signal, sink), &stop).await;
    // Whoever still holds the sink may go on writing: nobody reads behind this.
    let _ = said.send(Said::End);
    let Ok((mut console, written)) = writer.join() else {
        return Exit::JOBBER_FAILED.into();
    };
    let exit = match (report, written) {
        (Err(source), _) => Err(CliError::local(format!("couldn't run {}", args.name), source)),
        (Ok(_), Err(error)) => Err(error),
        (Ok(report), Ok(at_line_start)) => conclude(args, &report, format, at_line_start, &mut console),
    };
    match exit {
        Ok(exit) => exit.into(),
        Err(error) => {
            console.report(&error);
            Exit::of_error_with_jobs(&error).into()
        }
    }
}

fn prepare(args: &ExecArgs, clock: &Clock) -> Result<(RunOrder, StopHandle, StopSignal), CliError> {
    let job = NewJob {
        id: None,
        name: args.name.to_string(),
        arguments: args.arguments.clone(),
        data: args.data.as_deref().map(read_json).transpose()?,
        options: JobOptions {
            attempts: 1,
            timeout: args.timeout,
            grace: args.grace,
            cores: args.cores,
            memory_bytes: args.memory,
            ..JobOptions::default()
        },
    };
    let job = job.accept(clock.now()).map_err(|e| CliError::Usage(e.to_string()))?;
    let (stop, signal) = StopHandle::new().map_err(|e| CliError::local("couldn't make an event descriptor", e))?;
    let order = RunOrder {
        timeout: job.options.timeout,
        grace: job.options.grace.unwrap_or(GRACE),
        memory_bytes: job.options.memory_bytes,
        attempt: AttemptNumber(1),
        job: Arc::new(job),
    };
    Ok((order, stop, signal))
}

/// Lets the attempt run to its end, and passes signals on as a stop.
async fn supervise(
    attempt: impl Future<Output = Result<AttemptReport, RunLocalError>>,
    stop: &StopHandle,
) -> Result<AttemptReport, RunLocalError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut attempt = std::pin::pin!(attempt);
    loop {
        tokio::select! {
            report = &mut attempt => return report,
            Some(()) = interrupt.recv() => stop.stop(StopReason::Cancelled),
            Some(()) = terminate.recv() => stop.stop(StopReason::Cancelled),
        }
    }
}

fn conclude(
    args: &ExecArgs,
    report: &AttemptReport,
    format: Format,
    at_line_start: bool,
    console: &mut Console,
) -> Result<Exit, CliError> {
    match format {
        Format::Table => print_result(report.result.as_ref(), &report.stdout.text, at_line_start, console)?,
        Format::Json | Format::Jsonl => console.show(report)?,
    }
    let ending = format!("{}: {}", args.name, reason(Some(&report.outcome), report.error.as_deref()));
    if report.outcome.is_success() {
        console.detail(&ending)
    } else {
        console.say(&ending)
    }
    if let Some(usage) = report.usage {
        let time = |us| show_duration(Duration::from_micros(us));
        console.detail(&format!(
            "wall {}, cpu {} (user {}, system {}), peak rss {}",
            time(usage.wall_us),
            time(usage.cpu_us()),
            time(usage.user_us),
            time(usage.system_us),
            show_size(usage.peak_rss_bytes)
        ));
    }
    Ok(Exit::of_outcome(&report.outcome))
}

enum Said {
    Output(Stream, Vec<u8>),
    Progress(Progress),
    End,
}

struct Pipe(SyncSender<Said>);

impl OutputSink for Pipe {
    fn output(&self, stream: Stream, bytes: &[u8]) {
        // Fails only when the writer has ended: then there is nobody to tell.
        let _ = self.0.send(Said::Output(stream, bytes.to_vec()));
    }

    fn progress(&self, progress: Progress) {
        let _ = self.0.send(Said::Progress(progress));
    }
}

/// Writes until the end; answers whether stdout stands at the start of a line. When stdout is closed the binary is
/// stopped, as SIGPIPE would, and what it still says is dropped.
fn write_out(said: &Receiver<Said>, mut console: Console, stop: &StopHandle) -> (Console, Result<bool, CliError>) {
    let mut at_line_start = true;
    let mut failed = None;
    while let Ok(next) = said.recv() {
        let written = match next {
            Said::End => break,
            _ if failed.is_some() => Ok(()),
            Said::Output(Stream::Stdout, bytes) if console.format == Format::Table => {
                at_line_start = bytes.ends_with(b"\n");
                console.job_output(Stream::Stdout, &bytes)
            }
            // With JSON, stdout is for the report.
            Said::Output(_, bytes) => console.job_output(Stream::Stderr, &bytes),
            Said::Progress(progress) => {
                console.progress(&progress);
                Ok(())
            }
        };
        if let Err(error) = written {
            stop.stop(StopReason::Cancelled);
            failed = Some(error);
        }
    }
    console.clear_progress();
    match failed {
        Some(error) => (console, Err(error)),
        None => (console, Ok(at_line_start)),
    }
}
