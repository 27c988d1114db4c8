//! `jobber logs`: prints the output of a job, and follows it.

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::view::{Table, View};
use super::{CliError, Console, Exit, Format};
use crate::client::{Client, LogRequest};
use crate::domain::{JobId, Stream, from_text};
use crate::wire::LogEvent;

/// `jobber logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// The job
    #[arg(value_name = "ID", value_parser = JobId::parse)]
    id: JobId,
    /// Go on until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// Only this stream
    #[arg(long, value_enum)]
    stream: Option<StreamWord>,
    /// Only the attempt with this number, counting from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
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

/// Prints the log as text while it comes, or as events. In `json` it prints all events at the end, in one list.
pub(super) async fn logs(args: &LogsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let request = LogRequest { follow: args.follow, stream: args.stream.map(Stream::from), attempt: args.attempt };
    tokio::select! {
        exit = print(&args.id, request, client, console) => exit,
        // Ctrl-C is the way to leave a log. If no handler can be installed, the signal ends the process by itself.
        Ok(()) = tokio::signal::ctrl_c() => Ok(Exit::INTERRUPTED),
    }
}

async fn print(id: &JobId, request: LogRequest, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let mut log = client.logs(id, request).await?;
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
    Ok(Exit::OK)
}
