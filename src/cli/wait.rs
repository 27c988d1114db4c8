//! `jobber wait`, and the waiting that `submit --wait` and `run` share with it.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::reasons::Reasons;
use super::reference::{self, JobRef, Purpose};
use super::values::{parse_duration, show_duration};
use super::view::{Column, LONGEST_CELL, Table, View, first_line, json_line, or_dash};
use super::{CliError, Console, Exit, complete};
use crate::client::{Client, ClientErrorKind, JobQuery};
use crate::domain::{GroupName, JobId, JobName, JobState, Outcome, Progress};
use crate::wire::{GroupView, JobSelection, JobView, LARGEST_PAGE};

/// `jobber wait`.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// The jobs: ids or beginnings of them, @last or @last-failed, several with commas or spaces
    #[arg(value_name = "ID", required_unless_present = "group", add = complete::jobs())]
    ids: Vec<JobRef>,
    /// All jobs of this group
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse, conflicts_with_all = ["ids", "any"])]
    group: Option<GroupName>,
    /// Give up after this long (exit code 125; the jobs go on)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Only until the first of them has ended
    #[arg(long)]
    any: bool,
}

/// The end of a job, as `jobber wait` prints it.
#[derive(Debug, Serialize)]
struct Ended {
    id: JobId,
    name: JobName,
    state: JobState,
    outcome: Option<Outcome>,
    exit_code: u8,
    result: Option<Value>,
    error: Option<String>,
}

impl From<JobView> for Ended {
    fn from(job: JobView) -> Self {
        let exit_code = Exit::of_job(job.state, job.outcome.as_ref()).code();
        let JobView { id, name, state, outcome, result, error, .. } = job;
        Self { id, name, state, outcome, exit_code, result, error }
    }
}

#[derive(Debug, Serialize)]
struct Ends {
    items: Vec<Ended>,
}

impl View for Ends {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::id("ID"),
                Column::text("NAME").rank(3),
                Column::state("STATE").rank(0),
                Column::plain("OUTCOME"),
                Column::text("ERROR").rank(2),
            ],
            self.items.iter().map(|job| {
                vec![
                    job.id.to_string(),
                    job.name.to_string(),
                    job.state.to_string(),
                    or_dash(job.outcome.map(|o| o.to_string())),
                    first_line(job.error.as_deref().unwrap_or(""), LONGEST_CELL),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn wait(args: &WaitArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let waiting = async {
        match &args.group {
            Some(group) => {
                let (view, exit) = group_end(group, 1, client, console).await?;
                console.show(&view)?;
                Ok(exit)
            }
            None => {
                let ids = reference::ids(&args.ids, Purpose::Look, client).await?;
                let jobs = match args.any {
                    true => vec![first_end(&ids, client, console).await?],
                    false => all_ends(&ids, client, console).await?,
                };
                report(jobs, console)
            }
        }
    };
    let exit = match args.timeout {
        None => interruptible(waiting).await?,
        Some(limit) => match tokio::time::timeout(limit, interruptible(waiting)).await {
            Ok(exit) => exit?,
            Err(_) => {
                return Err(CliError::Unfinished(format!(
                    "the jobs have not all ended within {}; they go on",
                    show_duration(limit)
                )));
            }
        },
    };
    Ok(exit.unwrap_or(Exit::INTERRUPTED))
}

/// Waits until a group has at least `count` jobs and all of them have ended, and says meanwhile on stderr how far it is.
/// Returns it, and the highest code of its jobs.
pub(super) async fn group_end(
    group: &GroupName,
    count: u64,
    client: &Client,
    console: &mut Console,
) -> Result<(GroupView, Exit), CliError> {
    /// The time between two looks: at first, and while it lasts.
    const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
    const AWAY: Duration = Duration::from_secs(90);
    let (mut pause, mut seen_at) = (PAUSES.0, None::<Instant>);
    let view = loop {
        match client.group(group).await {
            Ok(view) => {
                seen_at = Some(Instant::now());
                if view.ended() == view.total && view.total >= count && !view.behind {
                    break view;
                }
                let text = format!("{} of {} jobs done, {} failed", view.ended(), view.total.max(count), view.failed);
                console.progress(&Progress { percent: view.progress, text });
            }
            Err(e) => {
                let was_there = seen_at.is_some_and(|at| at.elapsed() < AWAY);
                if !(was_there && e.kind == ClientErrorKind::Unreachable) {
                    return Err(e.into());
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSES.1);
    };
    let exit = if view.failed == 0 { Exit::OK } else { highest_of_group(group, client).await? };
    Ok((view, exit))
}

/// The highest code of the failed jobs of a group.
async fn highest_of_group(group: &GroupName, client: &Client) -> Result<Exit, CliError> {
    let selection =
        JobSelection { group: Some(group.clone()), state: vec![JobState::Failed], ..JobSelection::default() };
    let mut query = JobQuery { selection, limit: Some(LARGEST_PAGE.into()), cursor: None };
    let mut highest = Exit::OK;
    loop {
        let page = client.jobs(&query).await?;
        let exits = page.items.iter().map(|job| Exit::of_job(job.state, job.outcome.as_ref()));
        highest = exits.fold(highest, Exit::max);
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            return Ok(highest);
        }
    }
}

/// Prints how the jobs have ended, and returns the highest of their codes.
pub(super) fn report(jobs: Vec<JobView>, console: &mut Console) -> Result<Exit, CliError> {
    let exit = highest(&jobs);
    console.show(&Ends { items: jobs.into_iter().map(Ended::from).collect() })?;
    Ok(exit)
}

/// The highest code of these jobs.
pub(super) fn highest(jobs: &[JobView]) -> Exit {
    jobs.iter().map(|job| Exit::of_job(job.state, job.outcome.as_ref())).max().unwrap_or(Exit::OK)
}

/// Returns the value of `work`, or `None` when Ctrl-C came first.
pub(super) async fn interruptible<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<Option<T>, CliError> {
    tokio::select! {
        value = work => value.map(Some),
        // If no handler can be installed, the signal ends the process by itself.
        Ok(()) = tokio::signal::ctrl_c() => Ok(None),
    }
}

/// What happens while jobs are waited for.
enum Step {
    /// The job at this place has ended.
    Ended(usize, Box<Result<JobView, CliError>>),
    /// A job says how far it is.
    Told(Progress),
    /// There is none left.
    Over,
}

/// Waits until all jobs have ended. Says meanwhile why the first of them that has not ended has not started, and to a
/// person who watches how far they are.
pub(super) async fn all_ends(ids: &[JobId], client: &Client, console: &mut Console) -> Result<Vec<JobView>, CliError> {
    /// So many are waited for at the same time.
    const AT_ONCE: usize = 8;
    let ends = futures_util::stream::iter(ids.iter().enumerate());
    let ends = ends.map(|(place, id)| async move { (place, end_of(id, client).await) });
    let mut ends = std::pin::pin!(ends.buffer_unordered(AT_ONCE));
    let mut jobs: Vec<Option<JobView>> = ids.iter().map(|_| None).collect();
    let mut first = 0;
    let mut ended: usize = 0;
    while let Some(awaited) = ids.get(first) {
        let mut reasons = Reasons::of(awaited, client);
        while jobs.get(first).is_some_and(Option::is_none) {
            let is_watched = console.shows_progress();
            let step = async {
                tokio::select! {
                    biased;
                    end = ends.next() => match end {
                        Some((place, end)) => Step::Ended(place, Box::new(end)),
                        None => Step::Over,
                    },
                    told = progress_of(awaited, client), if is_watched && ids.len() == 1 => Step::Told(told),
                }
            };
            match reasons.shown_during(step, console).await {
                Step::Ended(place, end) => {
                    jobs[place] = Some((*end)?);
                    ended += 1;
                    if ids.len() > 1 {
                        let text = format!("{ended} of {} jobs done", ids.len());
                        console.own_progress(Some(ended as f64 / ids.len() as f64), &text);
                    }
                }
                Step::Told(progress) => console.progress(&progress),
                Step::Over => break,
            }
        }
        first += 1;
    }
    console.clear_progress();
    Ok(jobs.into_iter().flatten().collect())
}

/// Looks a moment from now how far a job says that it is, until it says something.
async fn progress_of(id: &JobId, client: &Client) -> Progress {
    const MOMENT: Duration = Duration::from_secs(1);
    loop {
        tokio::time::sleep(MOMENT).await;
        if let Some(progress) = client.job(id, None).await.ok().and_then(|job| job.progress) {
            return progress;
        }
    }
}

/// Waits for the first job that ends. Says meanwhile why the first named job has not started.
async fn first_end(ids: &[JobId], client: &Client, console: &mut Console) -> Result<JobView, CliError> {
    let mut waits: FuturesUnordered<_> = ids.iter().map(|id| end_of(id, client)).collect();
    let nothing = || CliError::Usage("no job was named".to_owned());
    let mut reasons = Reasons::of(ids.first().ok_or_else(nothing)?, client);
    reasons.shown_during(waits.next(), console).await.unwrap_or_else(|| Err(nothing()))
}

/// Waits until the job has ended. Outlasts a restart of the server, but does not wait for a server
/// that never answered.
pub(super) async fn end_of(id: &JobId, client: &Client) -> Result<JobView, CliError> {
    const POLL: Duration = Duration::from_secs(60);
    /// The least time between two requests, in case the server does not wait as asked.
    const PAUSE: Duration = Duration::from_millis(100);
    /// How long the outcome may lag behind the end, because history is written after the queue.
    const LAG: Duration = Duration::from_secs(10);
    const AWAY: Duration = Duration::from_secs(30);
    let mut seen_at: Option<Instant> = None;
    let mut final_at: Option<Instant> = None;
    loop {
        let asked_at = Instant::now();
        match client.job(id, Some(POLL)).await {
            Ok(job) => {
                seen_at = Some(Instant::now());
                if job.state.is_final() {
                    let ended_at = *final_at.get_or_insert(asked_at);
                    if job.state == JobState::Completed || job.outcome.is_some() || ended_at.elapsed() > LAG {
                        return Ok(job);
                    }
                } else {
                    final_at = None;
                }
            }
            Err(e) => {
                let was_there = seen_at.is_some_and(|at| at.elapsed() < POLL + AWAY);
                if !(was_there && e.kind == ClientErrorKind::Unreachable) {
                    return Err(e.into());
                }
            }
        }
        tokio::time::sleep_until(asked_at + PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{captured, failed_job, text};
    use super::*;
    use crate::cli::{Format, Globals};
    use crate::client::fake::{FakeServer, json};

    fn job(state: JobState, outcome: Option<Outcome>) -> JobView {
        JobView { state, outcome, attempts: vec![], ..failed_job() }
    }

    #[test]
    fn the_highest_code_counts() {
        let exit = |code| job(JobState::Failed, Some(Outcome::Exit { code }));
        assert_eq!(highest(&[exit(3), job(JobState::Completed, None), exit(2)]).code(), 3);
        assert_eq!(highest(&[exit(3), job(JobState::Failed, None)]), Exit::JOBBER_FAILED);
    }

    #[test]
    fn ends_read_well() {
        let (mut console, out, _) = captured(&Globals::default());
        let exit = report(vec![job(JobState::Failed, Some(Outcome::Timeout))], &mut console).unwrap();
        assert_eq!(exit, Exit::TIMEOUT);
        insta::assert_snapshot!(text(&out), @r"
        ID      NAME    STATE   OUTCOME  ERROR
        0192-a  resize  failed  timeout  bad pixel at 7
        ");
        let (mut console, out, _) = captured(&Globals { output: Some(Format::Jsonl), ..Globals::default() });
        report(vec![job(JobState::Failed, Some(Outcome::Timeout))], &mut console).unwrap();
        insta::assert_snapshot!(text(&out), @r#"{"id":"0192-a","name":"resize","state":"failed","outcome":{"kind":"timeout"},"exit_code":124,"result":null,"error":"bad pixel at 7\n"}"#);
    }

    #[tokio::test]
    async fn an_end_is_awaited_until_its_outcome_is_known() {
        let server = FakeServer::start(vec![
            json(200, &job(JobState::Active, None)),
            json(200, &job(JobState::Failed, None)),
            json(200, &job(JobState::Failed, Some(Outcome::Exit { code: 7 }))),
        ])
        .await;
        let ended = end_of(&failed_job().id, &server.client()).await.unwrap();
        assert_eq!(ended.outcome, Some(Outcome::Exit { code: 7 }));
        assert!(server.requests().iter().all(|r| r.starts_with("GET /api/v1/jobs/0192-a?wait=60 ")));
    }
}
