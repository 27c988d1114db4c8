//! `jobber show`: shows a job with its attempts.

use std::time::Duration;

use clap::Args;

use super::crash::stack;
use super::reference::{JobRef, Purpose, each_of, with_id};
use super::values::{show_duration, show_size};
use super::view::{Cell, Column, LONGEST_CELL, Table, View, first_line, or_dash, row, show_time};
use super::{CliError, Console, Exit, complete};
use crate::client::Client;
use crate::domain::{AttemptReport, FileBuild, JobId, Tail};
use crate::store::AttemptRecord;
use crate::wire::JobView;

/// `jobber show`.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// The job: its id or the beginning of it, @last or @last-failed, several with commas
    #[arg(value_name = "ID", add = complete::jobs())]
    id: JobRef,
}

impl View for JobView {
    fn table(&self, out: &mut Table) {
        out.field("id", self.id.as_str());
        out.field("name", self.name.as_str());
        out.optional("arguments", (!self.arguments.is_empty()).then(|| format!("{:?}", self.arguments)));
        out.optional("data", self.data.as_ref().map(|data| first_line(data.get(), 200)));
        out.optional("group", self.options.group.as_ref().map(|group| group.as_str()));
        out.optional("array index", self.options.array_index.map(|index| index.to_string()));
        out.field("state", self.state.as_str());
        out.optional("outcome", self.outcome.map(|o| o.to_string()));
        out.field("submitted", self.submitted_at);
        out.optional("due", self.due_at);
        out.optional("waits for", (!self.waits_for.is_empty()).then(|| names(&self.waits_for)));
        out.optional("finished", self.finished_at);
        out.optional("worker", self.worker.as_ref().map(|w| w.as_str()));
        out.optional("progress", self.progress.as_ref().map(|p| format!("{:.0}% {}", p.percent, p.text)));
        out.optional("cancel asked", self.cancel_requested.as_deref());
        out.optional(
            "put back",
            (self.retries > 0).then(|| match self.retries {
                1 => "once".to_owned(),
                n => format!("{n} times"),
            }),
        );
        out.optional("result", self.result.as_ref().map(|result| first_line(&result.to_string(), 200)));
        out.optional("build", builds(&self.attempts));
        out.optional("regression", self.regression.as_ref().map(|regression| regression.says.as_str()));
        let inputs: Vec<_> = self.options.inputs.iter().map(|input| input.name.as_str()).collect();
        out.optional("inputs", (!inputs.is_empty()).then(|| inputs.join(", ")));
        let files: usize = self.attempts.iter().filter_map(|it| Some(it.report.as_ref()?.files.len())).sum();
        out.optional("files", (files > 0).then(|| format!("{files} (jobber files ls {})", self.id)));
        out.field("limits", limits(self));
        out.optional("incomplete", self.incomplete.as_deref());
        if !self.attempts.is_empty() {
            out.grid(&ATTEMPTS, self.attempts.iter().map(attempt_row));
        }
        if !self.categories.is_empty() {
            let failed = self.attempts.iter().filter_map(|attempt| Some((attempt.number, attempt.fingerprint?)));
            out.grid(
                &[Column::plain("ATTEMPT"), Column::text("CATEGORY").rank(2), Column::plain("FINGERPRINT")],
                failed.map(|(number, fingerprint)| {
                    let category = self.categories.get(&fingerprint).cloned();
                    vec![number.to_string(), or_dash(category), fingerprint.short()]
                }),
            );
        }
        if let Some(error) = self.error.as_deref().filter(|error| !error.trim().is_empty()) {
            out.text("error", error.trim_end());
        }
        let last = self.attempts.iter().rev().find_map(|attempt| attempt.report.as_ref());
        if let Some(crash) = last.and_then(|report| report.crash.as_deref()) {
            let rest = format!("\n`jobber crash {}` shows all of it", self.id);
            out.text("stack of the crash", &(stack(crash, SHOWN_FRAMES) + &rest));
        }
        if let Some(report) = last {
            tail(out, "stderr", &report.stderr, self.error.as_deref());
        }
    }
}

fn names(ids: &[JobId]) -> String {
    ids.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ")
}

fn limits(job: &JobView) -> String {
    let options = &job.options;
    let mut parts = vec![format!("{} attempts", options.attempts)];
    parts.extend((options.priority > 0).then(|| format!("priority {}", options.priority)));
    parts.extend(options.timeout.map(|t| format!("timeout {}", show_duration(t))));
    parts.extend(options.cores.map(|n| format!("{n} cores")));
    parts.extend(options.memory_bytes.map(|n| format!("memory {}", show_size(n))));
    parts.extend(options.resources.as_ref().map(|resources| format!("holds {resources}")));
    parts.extend(options.require.as_ref().map(|labels| format!("requires {labels}")));
    parts.join(", ")
}

/// Which builds the attempts ran: each with its size and the time of its last change, and with the attempts if there are
/// several. `None` when none is known.
fn builds(attempts: &[AttemptRecord]) -> Option<String> {
    let ran =
        || attempts.iter().filter_map(|attempt| Some((attempt.number.0, attempt.report.as_ref()?.build.as_ref()?)));
    let mut builds: Vec<(&FileBuild, Vec<String>)> = Vec::new();
    for (number, build) in ran() {
        match builds.iter_mut().find(|(known, _)| known.digest == build.digest) {
            Some((_, numbers)) => numbers.push(number.to_string()),
            None => builds.push((build, vec![number.to_string()])),
        }
    }
    let is_one = builds.len() == 1;
    let words = builds.iter().map(|(build, numbers)| {
        let FileBuild { digest, bytes, modified_at } = build;
        let of = if is_one { String::new() } else { format!(" (attempt {})", numbers.join(", ")) };
        format!("{}, {}, of {}{of}", digest.short(), show_size(*bytes), show_time(*modified_at))
    });
    (!builds.is_empty()).then(|| words.collect::<Vec<_>>().join("; "))
}

const ATTEMPTS: [Column; 9] = [
    Column::plain("ATTEMPT").rank(0),
    Column::plain("OUTCOME").rank(0),
    Column::id("WORKER").rank(4),
    Column::plain("STARTED").rank(3),
    Column::plain("WALL").rank(2),
    Column::plain("CPU").rank(6),
    Column::plain("PEAK RSS").rank(5),
    Column::plain("BESIDE").rank(7),
    Column::text("ERROR"),
];

fn attempt_row(attempt: &AttemptRecord) -> Vec<Cell> {
    let report = attempt.report.as_ref();
    let usage = report.and_then(|r| r.usage);
    let micros = |us: u64| show_duration(Duration::from_micros(us));
    row![
        attempt.number.0.to_string(),
        report.map_or_else(|| "running".to_owned(), |r| r.outcome.to_string()),
        attempt.worker.to_string(),
        attempt.started_at,
        or_dash(usage.map(|u| micros(u.wall_us))),
        or_dash(usage.map(|u| micros(u.cpu_us()))),
        or_dash(usage.map(|u| show_size(u.peak_rss_bytes))),
        or_dash(report.map(|r| r.peak_beside.to_string())),
        first_line(report.and_then(|r| r.error.as_deref()).unwrap_or(""), LONGEST_CELL),
    ]
}

/// So many frames of a crash are shown.
const SHOWN_FRAMES: usize = 8;

/// Shows the end of a stream, unless it is empty or was just shown as the error.
fn tail(out: &mut Table, name: &str, tail: &Tail, shown: Option<&str>) {
    const LINES: usize = 20;
    let text = tail.text.trim_end();
    if text.trim().is_empty() || shown.is_some_and(|shown| shown.trim() == text.trim()) {
        return;
    }
    let lines: Vec<&str> = text.lines().collect();
    let kept = &lines[lines.len().saturating_sub(LINES)..];
    let title = if tail.truncated || kept.len() < lines.len() {
        format!("{name} (the end of {})", show_size(tail.total_bytes))
    } else {
        name.to_owned()
    };
    out.text(title, &kept.join("\n"));
}

impl View for AttemptReport {
    fn table(&self, out: &mut Table) {
        out.field("outcome", self.outcome.to_string());
    }
}

pub(super) async fn show(args: &ShowArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    for id in each_of(std::slice::from_ref(&args.id), client).await? {
        let job = with_id(&id, Purpose::Look, client, async |id| Ok(client.job(id, None).await?)).await?;
        console.show(&job)?;
    }
    Ok(Exit::OK)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{failed_job, rendered};
    use super::*;
    use crate::cli::Format;

    #[test]
    fn a_failed_job_shows_its_attempts_and_why() {
        insta::assert_snapshot!(rendered(&failed_job(), Format::Table), @r#"
        id         0192-a
        name       resize
        arguments  ["--size", "10 20"]
        data       {"file":"a.png"}
        state      failed
        outcome    signal 11 (SIGSEGV)
        submitted  2026-11-24T08:00:00Z
        finished   2026-11-24T08:00:06Z
        limits     3 attempts, timeout 1m 30s, memory 512.0 MiB

        ATTEMPT  OUTCOME              WORKER            STARTED               WALL   CPU    PEAK RSS  BESIDE  ERROR
        1        lost                 build-7-1f2e3d4c  2026-11-24T08:00:01Z  -      -      -         0       worker ended
        2        signal 11 (SIGSEGV)  build-7-1f2e3d4c  2026-11-24T08:00:02Z  1.5 s  1.3 s  5.0 MiB   2       bad pixel at 7

        error
          bad pixel at 7

        stderr
          reading input
          bad pixel at 7
        "#);
    }

    #[test]
    fn the_builds_that_ran_are_told_with_their_attempts_where_they_differ() {
        use crate::domain::{BuildDigest, Timestamp};
        let mut job = failed_job();
        let build = |n: u8| FileBuild {
            digest: BuildDigest::of_build_id(&[n; 8]),
            bytes: 2048,
            modified_at: Timestamp::from_millis(0),
        };
        let mut say = |first: Option<u8>, second: Option<u8>| {
            for (attempt, n) in job.attempts.iter_mut().zip([first, second]) {
                attempt.report.as_mut().unwrap().build = n.map(build);
            }
            builds(&job.attempts).unwrap_or_default()
        };
        assert_eq!(say(None, None), "");
        assert_eq!(say(None, Some(7)), "070707070707, 2.0 KiB, of 1970-01-01T00:00:00Z");
        let both = "070707070707, 2.0 KiB, of 1970-01-01T00:00:00Z (attempt 1); \
                    080808080808, 2.0 KiB, of 1970-01-01T00:00:00Z (attempt 2)";
        assert_eq!(say(Some(7), Some(8)), both);
    }

    #[test]
    fn json_has_everything_and_jsonl_is_one_line() {
        let job = failed_job();
        let json: JobView = serde_json::from_str(&rendered(&job, Format::Json)).unwrap();
        assert_eq!(json, job);
        assert_eq!(rendered(&job, Format::Jsonl).lines().count(), 1);
    }

    #[test]
    fn a_job_that_waits_has_no_attempts_to_show() {
        let job = JobView { attempts: vec![], error: None, outcome: None, finished_at: None, ..failed_job() };
        let job = JobView { state: crate::domain::JobState::Waiting, ..job };
        insta::assert_snapshot!(rendered(&job, Format::Table), @r#"
        id         0192-a
        name       resize
        arguments  ["--size", "10 20"]
        data       {"file":"a.png"}
        state      waiting
        submitted  2026-11-24T08:00:00Z
        limits     3 attempts, timeout 1m 30s, memory 512.0 MiB
        "#);
    }
}
