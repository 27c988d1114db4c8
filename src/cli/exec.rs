//! `jobber exec`: one attempt under the worker's supervisor, without a server and a queue. What `jobber replay` shares with it.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::crash::stack;
use super::follow::{print_result, reason};
use super::jobspec::{RunFlags, read_json};
use super::values::{EnvironmentSetting, show_duration, show_size};
use super::{CliError, Console, Exit, Format};
use crate::domain::{
    AcceptedJob, AttemptNumber, AttemptReport, Clock, Job, JobBody, JobName, JobOptions, NewJob, Progress, Stream,
};
use crate::runner::{OutputSink, RunOrder, StopHandle, StopReason, StopSignal};

/// The grace period when the user gives none.
const GRACE: Duration = Duration::from_secs(10);

/// How many bytes may wait to be written. At that point Jobber reads no more from the binary, which
/// then waits as it would for a pipe.
const FULL: usize = 1 << 20;

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
    /// How it runs.
    #[command(flatten)]
    pub run: RunFlags,
    /// How it runs here.
    #[command(flatten)]
    pub here: HereFlags,
}

/// The flags of a command that runs an attempt on this host.
#[derive(Debug, Clone, Default, Args)]
pub struct HereFlags {
    /// Directory of the job binaries
    #[arg(long, value_name = "DIR")]
    pub jobs_dir: Option<PathBuf>,
    /// Variable for it: KEY=VALUE, or KEY to pass on (repeatable)
    #[arg(long = "env", value_name = "KEY[=VALUE]")]
    pub environment: Vec<EnvironmentSetting>,
    /// Do not pin it to CPUs
    #[arg(long)]
    pub no_pin: bool,
    /// Run it in gdb on this terminal, without limits, sandbox and supervision
    #[arg(long)]
    pub gdb: bool,
}

/// Why the supervisor could not do its own work.
pub type RunLocalError = Box<dyn std::error::Error + Send + Sync>;

/// How an attempt is run on this host: supervised, or in a debugger.
pub enum Run {
    /// Under the supervisor: until the signal says stop, with its output to the sink.
    Supervised(StopSignal, Arc<dyn OutputSink>),
    /// In gdb, on this terminal.
    Debugged,
}

/// What became of it.
pub enum Ran {
    /// The attempt, as a worker would report it.
    Attempt(Box<AttemptReport>),
    /// gdb, and whether it has ended well.
    Debugger(bool),
}

/// Runs the binary with `run_local`, shows its output as it comes, and exits with its code. SIGINT
/// and SIGTERM stop the binary in the way a cancellation does.
pub async fn exec(
    args: &ExecArgs,
    clock: &Clock,
    console: Console,
    run_local: impl AsyncFnOnce(RunOrder, Run) -> Result<Ran, RunLocalError>,
) -> ExitCode {
    let order = match order(args, clock) {
        Ok(order) => order,
        Err(error) => return conclude(Some(console), Err(error)),
    };
    let (console, ran) = run(order, args.here.gdb, console, run_local).await;
    conclude(console, ran.map(|ended| ended.exit))
}

/// Says why Jobber could not do what it was asked, and gives the code.
pub(super) fn conclude(console: Option<Console>, exit: Result<Exit, CliError>) -> ExitCode {
    match exit {
        Ok(exit) => exit.into(),
        Err(error) => {
            if let Some(mut console) = console {
                console.report(&error);
            }
            Exit::of_error_with_jobs(&error).into()
        }
    }
}

/// An attempt that has ended here.
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// `None` when a debugger ran it, or who reads the output has gone.
    pub(super) report: Option<Box<AttemptReport>>,
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Self {
        Self { exit, report: None }
    }
}

/// Runs an attempt on this host, in gdb if so wanted, and shows what it does.
pub(super) async fn run(
    order: RunOrder,
    in_gdb: bool,
    mut console: Console,
    run_local: impl AsyncFnOnce(RunOrder, Run) -> Result<Ran, RunLocalError>,
) -> (Option<Console>, Result<Ended, CliError>) {
    let name = order.job.name.clone();
    if !in_gdb {
        return run_shown(name, order, console, run_local).await;
    }
    // Ctrl-C is for the program in gdb.
    let _signals = Signals::listen();
    console
        .note("gdb has what the attempt gets: arguments, variables, directory, standard input. Type run to start it");
    let exit = match run_local(order, Run::Debugged).await {
        Ok(Ran::Debugger(false)) => Ok(Exit::ERROR.into()),
        Ok(_) => Ok(Exit::OK.into()),
        Err(source) => Err(CliError::local(format!("couldn't debug {name}"), source)),
    };
    (Some(console), exit)
}

/// Runs the attempt on this thread while another thread writes its output. Gives the console back,
/// unless the writing thread still has it.
async fn run_shown(
    name: JobName,
    order: RunOrder,
    console: Console,
    run_local: impl AsyncFnOnce(RunOrder, Run) -> Result<Ran, RunLocalError>,
) -> (Option<Console>, Result<Ended, CliError>) {
    let (stop, signal) = match StopHandle::new() {
        Ok(made) => made,
        Err(e) => return (Some(console), Err(CliError::local("couldn't make an event descriptor", e))),
    };
    let format = console.format;
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(e) => return (Some(console), Err(CliError::local("couldn't listen for signals", e))),
    };
    let (to_writer, events) = channel();
    let (done, mut written) = oneshot::channel();
    let pipe = Arc::new(Pipe { to_writer, pending: AtomicUsize::new(0) });
    let writer = Writer { events, pipe: pipe.clone(), stop: stop.clone(), console };
    let thread = std::thread::Builder::new().name("exec-output".to_owned()).spawn(move || {
        // This fails only when `run_shown` no longer waits for it.
        let _ = done.send(writer.write());
    });
    if let Err(e) = thread {
        return (None, Err(CliError::local("couldn't start a thread", e)));
    }
    let report = {
        let mut attempt = pin!(run_local(order, Run::Supervised(signal, pipe.clone())));
        loop {
            tokio::select! {
                report = &mut attempt => break report,
                () = signals.next() => stop.stop(StopReason::Cancelled),
            }
        }
    };
    // Another holder of the sink may keep the channel open, so the end needs a message of its own.
    let _ = pipe.to_writer.send(ExecEvent::End);
    let (mut console, outcome) = tokio::select! {
        result = &mut written => match result {
            Ok(result) => result,
            Err(e) => return (None, Err(CliError::local("couldn't write the output", e))),
        },
        // The binary has ended, but the reader of the output takes nothing. The next signal then ends this process.
        () = signals.next() => return (None, Ok(Exit::INTERRUPTED.into())),
    };
    let exit = match (report, outcome) {
        (Err(source), _) => Err(CliError::local(format!("couldn't run {name}"), source)),
        (Ok(_), Err(error)) => Err(error),
        (Ok(Ran::Debugger(_)), Ok(_)) => Ok(Exit::OK.into()),
        (Ok(Ran::Attempt(report)), Ok(at_line_start)) => {
            show(&name, &report, format, at_line_start, &mut console).map(|exit| Ended { exit, report: Some(report) })
        }
    };
    (Some(console), exit)
}

fn order(args: &ExecArgs, clock: &Clock) -> Result<RunOrder, CliError> {
    let job = NewJob {
        id: None,
        name: args.name.to_string(),
        arguments: args.arguments.clone(),
        data: args.data.as_deref().map(read_json).transpose()?,
        options: JobOptions { attempts: 1, ..args.run.0.clone() },
    };
    let AcceptedJob { job, body } = job.accept(clock.now()).map_err(|e| CliError::Usage(e.to_string()))?;
    Ok(order_of(job, body))
}

/// The order to run the first attempt of a job here.
pub(super) fn order_of(job: Arc<Job>, body: JobBody) -> RunOrder {
    RunOrder {
        timeout: job.options.timeout,
        grace: job.options.grace.unwrap_or(GRACE),
        memory_bytes: job.options.memory_bytes,
        no_retry_exit_codes: job.options.no_retry_exit_codes.clone().unwrap_or_default(),
        validity: None,
        attempt: AttemptNumber(1),
        results_before: serde_json::Map::new(),
        start_log: None,
        inputs: None,
        trace: None,
        body,
        job,
    }
}

/// Receives SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn show(
    name: &JobName,
    report: &AttemptReport,
    format: Format,
    at_line_start: bool,
    console: &mut Console,
) -> Result<Exit, CliError> {
    match format {
        Format::Table => print_result(report.result.as_ref(), &report.stdout.text, at_line_start, console)?,
        Format::Json | Format::Jsonl => console.show(report)?,
    }
    let crash = report.crash.as_deref();
    let ending = format!("{name}: {}", reason(Some(&report.outcome), report.error.as_deref(), Some(report)));
    if report.outcome.is_success() {
        console.detail(&ending)
    } else {
        console.note(&ending)
    }
    if let Some(crash) = crash.filter(|_| format == Format::Table) {
        console.note(&stack(crash, usize::MAX));
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

enum ExecEvent {
    Output(Stream, Vec<u8>),
    Progress(Progress),
    End,
}

/// Carries events from the attempt's thread to the writing thread. The attempt's thread must not be
/// held up, because it also keeps the time limit and handles signals.
struct Pipe {
    to_writer: Sender<ExecEvent>,
    /// How many bytes wait to be written.
    pending: AtomicUsize,
}

impl OutputSink for Pipe {
    fn output(&self, stream: Stream, bytes: &[u8]) {
        self.pending.fetch_add(bytes.len(), Ordering::Relaxed);
        // This fails only when the writer has ended, and then the output has no reader.
        let _ = self.to_writer.send(ExecEvent::Output(stream, bytes.to_vec()));
    }

    fn has_room(&self) -> bool {
        self.pending.load(Ordering::Relaxed) < FULL
    }

    fn progress(&self, progress: Progress) {
        let _ = self.to_writer.send(ExecEvent::Progress(progress));
    }
}

struct Writer {
    events: Receiver<ExecEvent>,
    pipe: Arc<Pipe>,
    stop: StopHandle,
    console: Console,
}

impl Writer {
    /// Writes until the end, and returns whether stdout stands at the start of a line. When stdout
    /// is closed, it stops the binary, as SIGPIPE would, and drops all further output.
    fn write(mut self) -> (Console, Result<bool, CliError>) {
        let mut at_line_start = true;
        let mut failed = None;
        while let Ok(next) = self.events.recv() {
            match next {
                ExecEvent::End => break,
                ExecEvent::Output(stream, bytes) => {
                    if failed.is_none() {
                        // In the JSON formats, stdout is for the report.
                        let to_stdout = stream == Stream::Stdout && self.console.format == Format::Table;
                        if to_stdout {
                            at_line_start = bytes.ends_with(b"\n");
                        }
                        let stream = if to_stdout { Stream::Stdout } else { Stream::Stderr };
                        if let Err(error) = self.console.job_output(stream, &bytes) {
                            self.stop.stop(StopReason::Cancelled);
                            failed = Some(error);
                        }
                    }
                    self.pipe.pending.fetch_sub(bytes.len(), Ordering::Relaxed);
                }
                ExecEvent::Progress(progress) => self.console.progress(&progress),
            }
        }
        self.console.clear_progress();
        match failed {
            Some(error) => (self.console, Err(error)),
            None => (self.console, Ok(at_line_start)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{captured, text};
    use super::super::{Cli, Command, Globals, parse};
    use super::*;
    use crate::domain::{Outcome, SpawnFailure, Tail, Timestamp, Usage};

    fn report(outcome: Outcome) -> AttemptReport {
        let at = Timestamp::from_millis(0);
        AttemptReport {
            usage: Some(Usage { wall_us: 2_000_000, user_us: 900_000, system_us: 100_000, peak_rss_bytes: 3 << 20 }),
            ..AttemptReport::bare(outcome, at, at, "why it failed")
        }
    }

    /// Runs `jobber <words>` with a runner that writes `stdout` and gives back `report`.
    async fn run(words: &str, stdout: &[u8], report: AttemptReport) -> (ExitCode, String, String) {
        let words = ["jobber"].into_iter().chain(words.split(' ')).map(Into::into);
        let Ok(Cli { globals, command: Command::Exec(args) }) = parse(words) else { panic!() };
        let (console, out, err) = captured(&globals);
        let clock = Clock::manual(Timestamp::from_millis(0));
        let code = exec(&args, &clock, console, async |order, way| {
            let Run::Supervised(_stop, sink) = way else { panic!() };
            assert_eq!(order.job.name, args.name);
            sink.output(Stream::Stdout, stdout);
            sink.progress(Progress { percent: 50.0, text: "halfway".into() });
            Ok(Ran::Attempt(report.into()))
        })
        .await;
        (code, String::from_utf8_lossy(&out.lock().unwrap()).into_owned(), text(&err))
    }

    #[tokio::test]
    async fn output_comes_through_and_the_outcome_is_the_code() {
        let (code, out, err) = run("exec hello -q", b"hi \xff\n", report(Outcome::Signal { signal: 11 })).await;
        assert_eq!((code, out.as_str()), (ExitCode::from(139), "hi \u{fffd}\n"));
        assert_eq!(err, "");
    }

    #[tokio::test]
    async fn a_result_that_was_not_printed_is() {
        let done = AttemptReport {
            error: None,
            result: Some(json!({"sum": 3})),
            stdout: Tail::of(b"adding", 6),
            ..report(Outcome::Exit { code: 0 })
        };
        let (code, out, err) = run("exec add -v -- 1 2", b"adding", done).await;
        assert_eq!((code, out.as_str()), (ExitCode::SUCCESS, "adding\n{\"sum\":3}\n"));
        insta::assert_snapshot!(err, @r"
         50% halfway
        add: exit 0
        wall 2.0 s, cpu 1.0 s (user 900 ms, system 100 ms), peak rss 3.0 MiB
        ");
    }

    #[tokio::test]
    async fn what_never_ran_is_told_with_its_reason() {
        let missing = report(Outcome::SpawnError { reason: SpawnFailure::NotFound });
        let (code, _, err) = run("exec nothing", b"", missing).await;
        assert_eq!(code, ExitCode::from(127));
        assert!(err.ends_with("nothing: spawn_error (no such binary): why it failed\n"), "{err}");
    }

    #[tokio::test]
    async fn a_supervisor_that_fails_is_jobbers_failure() {
        let args = |words: &str| {
            let Ok(Cli { command: Command::Exec(args), .. }) = parse(words.split(' ').map(Into::into)) else {
                panic!()
            };
            args
        };
        let (console, _, err) = captured(&Globals::default());
        let clock = Clock::system();
        let code = exec(&args("jobber exec a"), &clock, console, async |_, _| Err("no thread left".into())).await;
        assert_eq!((code, text(&err).as_str()), (ExitCode::from(125), "error: couldn't run a: no thread left\n"));

        let (console, _, err) = captured(&Globals::default());
        let code =
            exec(&args("jobber exec a --data {"), &clock, console, async |_, _| unreachable!("nothing runs")).await;
        assert_eq!(code, ExitCode::from(2));
        assert!(text(&err).starts_with("error: --data is not JSON"));
    }

    #[test]
    fn the_binary_waits_for_who_reads() {
        let (to_writer, events) = channel();
        let pipe = Pipe { to_writer, pending: AtomicUsize::new(0) };
        assert!(pipe.has_room());
        pipe.output(Stream::Stdout, &vec![b'x'; FULL]);
        assert!(!pipe.has_room());
        assert_eq!(events.try_iter().count(), 1);
    }
}
