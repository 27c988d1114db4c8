//! `jobber schedule`: lists and changes schedules.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::jobspec::JobFlags;
use super::reference::beginning;
use super::submit::SubmitView;
use super::values::{parse_duration, show_duration};
use super::view::{Column, Table, View, first_line, json_line, row};
use super::{CliError, Console, Exit, complete};
use crate::client::{Client, ClientError};
use crate::domain::{Clock, JobName, ScheduleId};
use crate::wire::{PutSchedule, ScheduleActed, ScheduleView, SubmitJob};

/// `jobber schedule`.
#[derive(Debug, Clone, Subcommand)]
pub enum ScheduleCommand {
    /// Let jobs come by themselves; a schedule of the same id is replaced
    #[command(alias = "put")]
    Add(Box<AddArgs>),
    /// List schedules, the next due first
    #[command(alias = "list")]
    Ls,
    /// Show a schedule and its next times
    Show(IdArgs),
    /// Take schedules out; jobs that have come already stay
    #[command(alias = "remove")]
    Rm(IdsArgs),
    /// Submit one job of a schedule now
    Trigger(IdArgs),
    /// Let no more jobs come until it is resumed
    Pause(IdArgs),
    /// Let jobs come again, from now on
    Resume(IdArgs),
}

/// `jobber schedule add`.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// The binary to run
    #[arg(value_name = "NAME", value_parser = JobName::parse, add = complete::names())]
    name: JobName,
    /// Its arguments
    #[arg(value_name = "ARGS", last = true)]
    arguments: Vec<String>,
    /// The schedule's id [default: NAME]
    #[arg(long, value_name = "ID", value_parser = ScheduleId::custom)]
    id: Option<ScheduleId>,
    /// Cron expression: minute hour day month weekday, with seconds in front if you like
    #[arg(long, value_name = "EXPR", required_unless_present = "every", conflicts_with = "every")]
    cron: Option<String>,
    /// Time zone of the cron expression, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    tz: Option<String>,
    /// Between two jobs, the first at once
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    every: Option<Duration>,
    /// How its jobs run.
    #[command(flatten)]
    flags: JobFlags,
}

/// Takes one schedule.
#[derive(Debug, Clone, Args)]
pub struct IdArgs {
    /// The schedule: its id, or the beginning of it
    #[arg(value_name = "ID", value_parser = ScheduleId::parse, add = complete::schedules())]
    id: ScheduleId,
}

/// Takes schedules.
#[derive(Debug, Clone, Args)]
pub struct IdsArgs {
    /// The schedules: ids or beginnings of them, several with commas or spaces
    #[arg(value_name = "ID", value_parser = ScheduleId::parse, required = true, add = complete::schedules())]
    ids: Vec<ScheduleId>,
}

impl View for ScheduleView {
    fn table(&self, out: &mut Table) {
        out.field("id", self.id.as_str());
        out.field("job", self.job.name.as_str());
        out.optional("arguments", (!self.job.arguments.is_empty()).then(|| format!("{:?}", self.job.arguments)));
        out.optional("data", self.job.data.as_ref().map(|data| first_line(data.get(), 200)));
        out.field("when", when(self));
        out.field("status", status(self));
        out.optional("trouble", self.trouble.as_deref());
        out.optional("last", self.last_at);
        out.optional("last job", self.last_job.as_ref().map(|id| id.as_str()));
        if !self.next.is_empty() {
            out.grid(&["NEXT"], self.next.iter().map(|at| vec![*at]));
        }
    }
}

fn when(schedule: &ScheduleView) -> String {
    match (&schedule.cron, schedule.every_ms) {
        (Some(cron), _) => format!("{cron} ({})", schedule.tz.as_deref().unwrap_or("UTC")),
        (None, Some(ms)) => format!("every {}", show_duration(Duration::from_millis(ms))),
        (None, None) => "-".to_owned(),
    }
}

fn status(schedule: &ScheduleView) -> &'static str {
    if schedule.trouble.is_some() {
        return "stopped";
    }
    match (schedule.paused, schedule.next.is_empty()) {
        (true, _) => "paused",
        (false, true) => "over",
        (false, false) => "on",
    }
}

#[derive(Serialize)]
struct Schedules {
    items: Vec<ScheduleView>,
}

impl View for Schedules {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[
                Column::id("SCHEDULE"),
                Column::text("JOB").rank(2),
                Column::text("WHEN"),
                Column::state("STATUS"),
                Column::plain("NEXT").rank(3),
                Column::plain("LAST").rank(4),
                Column::id("LAST JOB").rank(5),
            ],
            self.items.iter().map(|schedule| {
                row![
                    schedule.id.to_string(),
                    schedule.job.name.to_string(),
                    when(schedule),
                    status(schedule),
                    schedule.next.first().copied(),
                    schedule.last_at,
                    schedule.last_job.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                ]
            }),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

#[derive(Default, Serialize)]
struct Acts {
    items: Vec<ScheduleActed>,
}

impl View for Acts {
    fn table(&self, out: &mut Table) {
        out.grid(
            &[Column::id("SCHEDULE"), Column::state("STATUS")],
            self.items.iter().map(|a| vec![a.id.to_string(), a.status.clone()]),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

pub(super) async fn schedule(
    command: ScheduleCommand,
    client: &Client,
    console: &mut Console,
) -> Result<Exit, CliError> {
    match command {
        ScheduleCommand::Add(args) => console.show(&client.put_schedule(&wanted(*args)?).await?)?,
        ScheduleCommand::Ls => {
            let all = Schedules { items: client.schedules().await? };
            let none = all.items.is_empty();
            console.show(&all)?;
            for schedule in &all.items {
                if let Some(trouble) = &schedule.trouble {
                    console.hint(&format!("{}: {trouble}", schedule.id));
                }
            }
            if none {
                console.hint("there is no schedule; make one with `jobber schedule add`");
            }
        }
        ScheduleCommand::Show(args) => {
            console.show(&with_id(&args.id, client, async |id| client.schedule(id).await).await?)?
        }
        ScheduleCommand::Rm(args) => return remove(&args.ids, client, console).await,
        ScheduleCommand::Trigger(args) => {
            let submitted = with_id(&args.id, client, async |id| client.trigger_schedule(id).await).await?;
            console.show(&SubmitView::One(submitted))?;
        }
        ScheduleCommand::Pause(args) => {
            act(with_id(&args.id, client, async |id| client.pause_schedule(id, true).await).await?, console)?;
        }
        ScheduleCommand::Resume(args) => {
            act(with_id(&args.id, client, async |id| client.pause_schedule(id, false).await).await?, console)?;
        }
    }
    Ok(Exit::OK)
}

/// Gives `act` the id of the schedule that is meant: the text itself if there is such a one, else the id that begins like
/// it.
async fn with_id<T>(
    asked: &ScheduleId,
    client: &Client,
    act: impl AsyncFn(&ScheduleId) -> Result<T, ClientError>,
) -> Result<T, CliError> {
    match act(asked).await {
        Err(error) if error.code() == Some("unknown_schedule") => {
            let known: Vec<String> = client.schedules().await?.into_iter().map(|known| known.id.to_string()).collect();
            let meant = beginning("schedule", asked.as_str(), &known)?;
            if meant == asked.as_str() {
                return Err(error.with_hint("`jobber schedule ls` shows the ids of schedules").into());
            }
            let meant = ScheduleId::parse(meant).map_err(|e| CliError::Usage(e.to_string()))?;
            Ok(act(&meant).await?)
        }
        done => Ok(done?),
    }
}

/// Takes schedules apart that stand together with commas, unless there is one with such an id.
async fn each_of(ids: &[ScheduleId], client: &Client) -> Result<Vec<ScheduleId>, CliError> {
    if !ids.iter().any(|id| id.as_str().contains(',')) {
        return Ok(ids.to_vec());
    }
    let known: Vec<ScheduleId> = client.schedules().await?.into_iter().map(|known| known.id).collect();
    let mut all = Vec::new();
    for id in ids {
        match known.contains(id) {
            true => all.push(id.clone()),
            false => {
                for part in id.as_str().split(',').filter(|part| !part.is_empty()) {
                    all.push(ScheduleId::parse(part).map_err(|e| CliError::Usage(e.to_string()))?);
                }
            }
        }
    }
    Ok(all)
}

fn act(acted: ScheduleActed, console: &mut Console) -> Result<(), CliError> {
    console.show(&Acts { items: vec![acted] })
}

fn wanted(args: AddArgs) -> Result<PutSchedule, CliError> {
    if !args.flags.inputs.is_empty() {
        let why = "--input is for single jobs: an input is kept for as long as jobs use it, which a schedule does not";
        return Err(CliError::Usage(why.to_owned()));
    }
    let data = args.flags.read_data()?;
    let job = SubmitJob { name: args.name.to_string(), arguments: args.arguments, ..SubmitJob::default() };
    Ok(PutSchedule {
        id: args.id.map(|id| id.to_string()),
        cron: args.cron,
        tz: args.tz,
        every_ms: args.every.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX)),
        job: args.flags.fill(job, data.as_ref(), &Clock::system()),
    })
}

/// Tries every schedule, whatever becomes of the others, and exits with the highest code.
async fn remove(ids: &[ScheduleId], client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let (mut done, mut exit) = (Acts::default(), Exit::OK);
    for id in &each_of(ids, client).await? {
        match with_id(id, client, async |id| client.remove_schedule(id).await).await {
            Ok(acted) => done.items.push(acted),
            Err(error) => {
                exit = exit.max(Exit::of_error(&error));
                console.report(&error);
            }
        }
    }
    if !done.items.is_empty() {
        console.show(&done)?;
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::super::tests::rendered;
    use super::*;
    use crate::cli::Format;
    use crate::domain::{JobOptions, Template, Timestamp};

    fn view(id: &str, cron: Option<&str>) -> ScheduleView {
        let at = |ms: i64| Timestamp::from_millis(1_795_507_200_000 + ms);
        ScheduleView {
            id: id.parse().unwrap(),
            cron: cron.map(str::to_owned),
            tz: cron.map(|_| "Europe/Berlin".to_owned()),
            every_ms: cron.is_none().then_some(90_000),
            job: Template {
                name: "report".parse().unwrap(),
                arguments: vec!["--all".to_owned()],
                data: None,
                options: JobOptions::default(),
            },
            paused: false,
            next: vec![at(0), at(90_000)],
            last_at: Some(at(-90_000)),
            last_job: Some("repeat:s:1".parse().unwrap()),
            trouble: None,
        }
    }

    #[test]
    fn schedules_read_well() {
        let paused = ScheduleView { paused: true, next: vec![], ..view("often", None) };
        insta::assert_snapshot!(rendered(&Schedules { items: vec![view("nightly", Some("30 2 * * *")), paused] }, Format::Table), @r"
        SCHEDULE  JOB     WHEN                        STATUS  NEXT                  LAST                  LAST JOB
        nightly   report  30 2 * * * (Europe/Berlin)  on      2026-11-24T08:00:00Z  2026-11-24T07:58:30Z  repeat:s:1
        often     report  every 1m 30s                paused  -                     2026-11-24T07:58:30Z  repeat:s:1
        ");
        let stopped = ScheduleView { trouble: Some("a clock was wrong".to_owned()), ..view("often", None) };
        let (list, one) =
            (rendered(&Schedules { items: vec![stopped.clone()] }, Format::Table), rendered(&stopped, Format::Table));
        assert!(list.contains("stopped") && one.contains("a clock was wrong"), "{list}{one}");
        insta::assert_snapshot!(rendered(&view("often", None), Format::Table), @r#"
        id         often
        job        report
        arguments  ["--all"]
        when       every 1m 30s
        status     on
        last       2026-11-24T07:58:30Z
        last job   repeat:s:1

        NEXT
        2026-11-24T08:00:00Z
        2026-11-24T08:01:30Z
        "#);
    }
}
