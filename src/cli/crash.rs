//! `jobber crash`: shows where an attempt crashed.

use clap::Args;
use serde::Serialize;

use super::reference::{JobRef, Purpose, with_id};
use super::view::{Column, Table, View};
use super::{CliError, Console, Exit, complete};
use crate::client::Client;
use crate::domain::outcome::signal_name;
use crate::domain::{Crash, Frame, JobId, JobName};

/// `jobber crash`.
#[derive(Debug, Clone, Args)]
pub struct CrashArgs {
    /// The job: its id or the beginning of it, @last or @last-failed
    #[arg(value_name = "ID", add = complete::jobs())]
    id: JobRef,
    /// The attempt, from 1 (default: the last that crashed)
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

/// A crash, and the attempt that it ended.
#[derive(Debug, Clone, Serialize)]
struct CrashView<'a> {
    job: &'a JobId,
    name: &'a JobName,
    attempt: u32,
    crash: &'a Crash,
}

impl View for CrashView<'_> {
    fn table(&self, out: &mut Table) {
        let crash = self.crash;
        out.text(crash.sentence(), "");
        out.field("job", format!("{} {}", self.name, self.job));
        out.field("attempt", self.attempt.to_string());
        let named = signal_name(crash.signal).map_or(String::new(), |name| format!(" (SIG{name})"));
        let code = crash.code.as_ref().map_or(String::new(), |code| format!(", {code}"));
        out.field("signal", format!("{}{named}{code}", crash.signal));
        out.optional("sent by", crash.sent_by.map(|process| format!("process {process}")));
        let points_at = crash.points_at.map_or(String::new(), |what| format!(": {what}"));
        out.optional("address", crash.address.as_ref().map(|address| format!("{address}{points_at}")));
        out.field("process", format!("{} {}", crash.process, crash.command));
        out.field("thread", format!("{} {}", crash.thread, crash.thread_name));
        if !crash.other_threads.is_empty() {
            let more =
                if crash.threads_omitted > 0 { format!(" and {} more", crash.threads_omitted) } else { String::new() };
            out.field("other threads", format!("{}{more}", crash.other_threads.join(", ")));
        }
        out.field("stood for", format!("{} µs", crash.took_us));
        out.optional("incomplete", crash.incomplete.as_deref());
        out.text("stack", &stack(crash, usize::MAX));
        if !crash.registers.is_empty() {
            let registers: Vec<String> =
                crash.registers.iter().map(|r| format!("{:7}{:18}", r.name, r.value)).collect();
            let lines: Vec<String> = registers.chunks(3).map(|three| three.join("  ")).collect();
            out.text("registers", &lines.join("\n"));
        }
        if !crash.modules.is_empty() {
            out.grid(
                &[Column::plain("BASE"), Column::plain("BUILD ID").rank(2), Column::text("MODULE")],
                crash.modules.iter().map(|module| {
                    let id = module.build_id.as_deref().map_or("-", |id| id.get(..12).unwrap_or(id));
                    vec![module.base.clone(), id.to_owned(), module.path.clone()]
                }),
            );
        }
        if crash.modules_omitted > 0 {
            out.text(format!("and {} more modules", crash.modules_omitted), "");
        }
    }
}

/// The stack, a line for each frame, at most so many.
pub(super) fn stack(crash: &Crash, most: usize) -> String {
    let mut lines = Vec::new();
    for (i, frame) in crash.frames.iter().enumerate() {
        if crash.omitted_before == u32::try_from(i).ok() && crash.frames_omitted > 0 {
            lines.push(format!("     ... {} frames ...", crash.frames_omitted));
        }
        if i == most {
            let left = crash.frames.len() - most + usize::try_from(crash.frames_omitted).unwrap_or(0);
            lines.push(format!("     and {left} more"));
            return lines.join("\n");
        }
        lines.push(frame_line(i, frame));
    }
    if lines.is_empty() {
        lines.push("no frame is known".to_owned());
    }
    lines.join("\n")
}

/// A `*` marks the job's own code, a `?` a frame that was guessed.
fn frame_line(number: usize, frame: &Frame) -> String {
    let mark = match (frame.guessed, frame.own) {
        (true, _) => '?',
        (false, true) => '*',
        (false, false) => ' ',
    };
    let function = frame.function.as_deref().unwrap_or("??");
    let inlined = if frame.inlined { " (inlined)" } else { "" };
    let mut line = format!("{mark}{number:>3}  {function}{inlined}");
    if let Some(file) = &frame.file {
        line += &format!(" at {file}");
        line.extend(frame.line.map(|line| format!(":{line}")));
    }
    if let Some(module) = frame.module.as_ref().filter(|_| frame.file.is_none()) {
        line += &format!(" in {module}");
        line.extend(frame.offset.as_ref().map(|offset| format!("+{offset}")));
    }
    line
}

pub(super) async fn crash(args: &CrashArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let job = with_id(&args.id, Purpose::Look, client, async |id| Ok(client.job(id, None).await?)).await?;
    let mut crashes = job
        .attempts
        .iter()
        .rev()
        .filter_map(|attempt| Some((attempt.number.0, attempt.report.as_ref()?.crash.as_deref()?)));
    match crashes.find(|(number, _)| args.attempt.is_none_or(|wanted| wanted == *number)) {
        Some((attempt, crash)) => {
            console.show(&CrashView { job: &job.id, name: &job.name, attempt, crash })?;
            Ok(Exit::OK)
        }
        None => {
            let attempt = args.attempt.map_or(String::new(), |number| format!("attempt {number} of "));
            let id = &args.id;
            Err(CliError::Missing(format!(
                "there is no crash report of {attempt}{id}; `jobber show {id}` tells how its attempts ended"
            )))
        }
    }
}
