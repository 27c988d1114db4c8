//! Follows a job to its end: its output goes where it would go without Jobber.

use serde::Serialize;
use serde_json::Value;

use super::reasons::Reasons;
use super::view::first_line;
use super::wait::end_of;
use super::{CliError, Console, Exit, Format};
use crate::client::{Client, LogRequest};
use crate::domain::{AttemptReport, JobId, JobState, Outcome, Stream, from_text};
use crate::wire::{JobView, LogEvent, Submitted};

/// The last line of `jsonl`, after the events.
#[derive(Serialize)]
struct JobLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    job: &'a JobView,
}

/// Shows the output of a job that was just submitted until the job has ended, and returns its code.
/// Ctrl-C leaves it running.
pub(super) async fn follow(job: &Submitted, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let (id, address) = (&job.id, job.address());
    let watched = tokio::select! {
        job = watch(&address, client, console) => Some(job?),
        // If no handler can be installed, the signal ends the process by itself.
        Ok(()) = tokio::signal::ctrl_c() => None,
    };
    let Some((mut job, at_line_start)) = watched else {
        console.note(&format!("detached; job {id} goes on"));
        console.hint(&format!("attach again with `jobber logs -f {id}`, stop it with `jobber cancel {id}`"));
        return Ok(Exit::INTERRUPTED);
    };
    job.id = id.clone();
    match console.format {
        Format::Table => {
            let stdout = job.attempts.last().and_then(|a| a.report.as_ref()).map_or("", |r| r.stdout.text.as_str());
            print_result(job.result.as_ref(), stdout, at_line_start, console)?;
        }
        Format::Json => console.show(&job)?,
        Format::Jsonl => console.json_line(&JobLine { kind: "job", job: &job })?,
    }
    if job.state == JobState::Failed {
        let report = job.attempts.last().and_then(|attempt| attempt.report.as_ref());
        console.note(&format!("job {id} failed: {}", reason(job.outcome.as_ref(), job.error.as_deref(), report)));
    }
    Ok(Exit::of_job(job.state, job.outcome.as_ref()))
}

/// The outcome of an attempt, in one line, with the error. It leaves out an error that stood on the job's `stderr`.
pub(super) fn reason(outcome: Option<&Outcome>, error: Option<&str>, report: Option<&AttemptReport>) -> String {
    let error = error.unwrap_or("");
    let stderr = report.map_or("", |report| report.stderr.text.as_str());
    let was_shown = error.trim().lines().next().is_none_or(|line| stderr.contains(line));
    let error = first_line(error, 200);
    match outcome {
        Some(outcome @ (Outcome::Exit { .. } | Outcome::Signal { .. })) => {
            match report.and_then(|report| report.crash.as_deref()) {
                Some(crash) => format!("{outcome}: {}", crash.sentence()),
                None if was_shown || error == outcome.to_string() => outcome.to_string(),
                None => format!("{outcome}: {error}"),
            }
        }
        Some(outcome) if error.is_empty() || error == outcome.to_string() => outcome.to_string(),
        Some(outcome) => format!("{outcome}: {error}"),
        None if error.is_empty() => "nobody knows why".to_owned(),
        None => error,
    }
}

/// Prints a result that the job has not already written to its stdout, as JSON on a line of its own.
pub(super) fn print_result(
    result: Option<&Value>,
    stdout: &str,
    at_line_start: bool,
    console: &mut Console,
) -> Result<(), CliError> {
    let Some(result) = result else { return Ok(()) };
    if result.as_str().is_some_and(|text| text.is_empty() || stdout.trim().ends_with(text)) {
        return Ok(());
    }
    if !at_line_start {
        console.data(b"\n")?;
    }
    console.json_line(result)
}

/// Passes on the job's output. At the end it returns the job, and whether stdout stands at the start of a line.
async fn watch(id: &JobId, client: &Client, console: &mut Console) -> Result<(JobView, bool), CliError> {
    let mut log = client.logs(id, LogRequest { follow: true, ..LogRequest::default() }).await?;
    let mut at_line_start = true;
    let mut reasons = Reasons::of(id, client);
    while let Some(event) = reasons.shown_during(log.next(), console).await? {
        if let LogEvent::Attempt { outcome, .. } = &event {
            reasons.runs(outcome.is_none());
        }
        if console.format == Format::Jsonl {
            console.json_line(&event)?;
            if let LogEvent::Gap { attempt, stream, bytes } = event {
                console.gap(attempt, stream, bytes);
            }
            continue;
        }
        match event {
            LogEvent::Output { stream, text, base64, .. } => {
                let bytes = from_text(&text, base64.as_deref());
                // In the JSON formats, stdout is for the job as it ended.
                let to_stdout = stream == Stream::Stdout && console.format == Format::Table;
                if to_stdout {
                    at_line_start = bytes.ends_with(b"\n");
                }
                console.job_output(if to_stdout { Stream::Stdout } else { Stream::Stderr }, &bytes)?;
            }
            LogEvent::Gap { attempt, stream, bytes } => console.gap(attempt, stream, bytes),
            LogEvent::Progress(progress) => console.progress(&progress),
            LogEvent::Attempt { attempt, outcome: None } => console.detail(&format!("attempt {attempt} started")),
            LogEvent::Attempt { attempt, outcome: Some(outcome) } if outcome.is_success() => {
                console.detail(&format!("attempt {attempt} ended: {outcome}"));
            }
            LogEvent::Attempt { attempt, outcome: Some(outcome) } => {
                console.note(&format!("attempt {attempt} ended: {outcome}"));
            }
            LogEvent::State { state } => console.detail(&format!("the job is {state}")),
        }
    }
    console.clear_progress();
    Ok((end_of(id, client).await?, at_line_start))
}
