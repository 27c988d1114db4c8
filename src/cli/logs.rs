//! `jobber logs`: prints the output of a job, follows it, or saves it in a file.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::reference::{JobRef, Purpose, each_of, ids, with_id};
use super::view::{Table, View};
use super::{CliError, Console, Exit, Format, complete};
use crate::client::{Client, LogRequest};
use crate::domain::{JobId, Stream, from_text};
use crate::wire::LogEvent;

/// `jobber logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// The job: its id or the beginning of it, @last or @last-failed, several with commas
    #[arg(value_name = "ID", add = complete::jobs())]
    id: JobRef,
    /// Go on until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// Only this stream
    #[arg(long, value_enum)]
    stream: Option<StreamWord>,
    /// Only the attempt with this number, counting from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Save the stream of one attempt (the last, or that of --attempt) in a file, byte for byte
    #[arg(long, value_name = "FILE", requires = "stream", conflicts_with = "follow")]
    save: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StreamWord {
    Stdout,
    Stderr,
}

impl From<StreamWord> for Stream {
    fn from(word: StreamWord) -> Stream {
        match word {
            StreamWord::Stdout => Stream::Stdout,
            StreamWord::Stderr => Stream::Stderr,
        }
    }
}

#[derive(Serialize)]
struct Log {
    items: Vec<LogEvent>,
}

impl View for Log {
    fn table(&self, _: &mut Table) {}
}

/// Output of an attempt that was saved in a file.
#[derive(Serialize)]
struct Saved {
    id: JobId,
    attempt: u32,
    file: PathBuf,
    bytes: u64,
    /// `whole`, or `tail` when the beginning is not kept any more.
    output: &'static str,
}

impl View for Saved {
    fn table(&self, out: &mut Table) {
        out.field("file", &*self.file.to_string_lossy());
        out.field("attempt", self.attempt.to_string());
        out.field("bytes", self.bytes.to_string());
        out.field("output", self.output);
    }
}

/// Prints the log as text while it comes, or as events. In `json` it prints all events at the end, in one list.
pub(super) async fn logs(args: &LogsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    if let (Some(file), Some(stream)) = (&args.save, args.stream) {
        return save(args, stream.into(), file, client, console).await;
    }
    let request = LogRequest { follow: args.follow, stream: args.stream.map(Stream::from), attempt: args.attempt };
    tokio::select! {
        exit = print(&args.id, request, client, console) => exit,
        // Ctrl-C is the way to leave a log. If no handler can be installed, the signal ends the process by itself.
        Ok(()) = tokio::signal::ctrl_c() => Ok(Exit::INTERRUPTED),
    }
}

async fn save(
    args: &LogsArgs,
    stream: Stream,
    file: &Path,
    client: &Client,
    console: &mut Console,
) -> Result<Exit, CliError> {
    let found: Result<[JobId; 1], _> = ids(std::slice::from_ref(&args.id), Purpose::Look, client).await?.try_into();
    let one = || CliError::Usage("--save takes the output of one job: name no others".to_owned());
    let [id] = found.map_err(|_| one())?;
    let attempt = match args.attempt {
        Some(attempt) => attempt,
        // Of a job that has not started, the server says that there is no attempt 1.
        None => client.job(&id, None).await?.attempts.last().map_or(1, |last| last.number.0),
    };
    let mut output = client.attempt_output(&id, attempt, stream).await?;
    let unwritten = |error| CliError::local(format!("couldn't write {}", file.display()), error);
    let mut out = fs_err::File::create(file).map_err(unwritten)?;
    let mut bytes = 0;
    loop {
        match output.bytes.next().await {
            Ok(Some(piece)) => {
                out.write_all(&piece).map_err(unwritten)?;
                bytes += piece.len() as u64;
            }
            Ok(None) => break,
            Err(error) => {
                console.note(&format!("{} lacks the end of the output", file.display()));
                return Err(error.into());
            }
        }
    }
    let extent = if output.is_whole { "whole" } else { "tail" };
    console.show(&Saved { id, attempt, file: file.to_owned(), bytes, output: extent })?;
    Ok(Exit::OK)
}

async fn print(jobs: &JobRef, request: LogRequest, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    for job in each_of(std::slice::from_ref(jobs), client).await? {
        print_one(&job, request, client, console).await?;
    }
    Ok(Exit::OK)
}

async fn print_one(job: &JobRef, request: LogRequest, client: &Client, console: &mut Console) -> Result<(), CliError> {
    let mut log = with_id(job, Purpose::Look, client, async |id| Ok(client.logs(id, request).await?)).await?;
    let mut events = Vec::new();
    while let Some(event) = log.next().await? {
        if let LogEvent::Gap { attempt, stream, bytes } = event {
            console.gap(attempt, stream, bytes);
        }
        match console.format {
            Format::Json => events.push(event),
            Format::Jsonl => console.json_line(&event)?,
            Format::Table => match event {
                LogEvent::Output { text, base64, .. } => console.data(&from_text(&text, base64.as_deref()))?,
                LogEvent::Gap { .. } => {}
                LogEvent::Progress(progress) => {
                    console.detail(&format!("progress {}% {}", progress.percent, progress.text))
                }
                LogEvent::Attempt { attempt, outcome: None } => console.detail(&format!("attempt {attempt} started")),
                LogEvent::Attempt { attempt, outcome: Some(outcome) } => {
                    console.detail(&format!("attempt {attempt} ended: {outcome}"));
                }
                LogEvent::State { state } => console.detail(&format!("the job is {state}")),
            },
        }
    }
    if console.format == Format::Json {
        console.show(&Log { items: events })?;
    }
    Ok(())
}
