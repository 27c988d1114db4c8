//! `jobber cancel`, `retry`, `promote` and `remove`: one verb on each of the jobs named, or on those that meet
//! conditions.

use clap::Args;
use serde::Serialize;

use super::reference::{self, JobRef, Purpose, with_id};
use super::selection::SelectionArgs;
use super::view::{Column, Table, View, json_line};
use super::{CliError, Console, Exit, Format, complete};
use crate::client::Client;
use crate::domain::{Clock, JobId, JobState};
use crate::wire::failures::RetriedFailed;
use crate::wire::{ActOnJobs, Acted, ActedOnJobs, JobSelection};

/// Jobs to do something with: by their ids, or by conditions.
#[derive(Debug, Clone, Args)]
pub struct JobsArgs {
    /// The jobs: ids or beginnings of them, @last or @last-failed, several with commas or spaces
    #[arg(value_name = "ID", add = complete::jobs())]
    ids: Vec<JobRef>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Of all that meet the conditions, at most so many, last submitted first [default: 1000]
    #[arg(long, value_name = "N", conflicts_with = "ids", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: Option<u16>,
    /// All that meet the conditions, however many
    #[arg(long, conflicts_with_all = ["ids", "limit"])]
    all_matching: bool,
    /// Only say which, and which not and why
    #[arg(long)]
    dry_run: bool,
}

/// `jobber cancel`.
#[derive(Debug, Clone, Args)]
pub struct CancelArgs {
    #[command(flatten)]
    jobs: JobsArgs,
    /// Why, for their history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// `jobber retry`.
#[derive(Debug, Clone, Args)]
pub struct RetryArgs {
    #[command(flatten)]
    jobs: JobsArgs,
    /// All that have failed, as by --state failed: of a group, a name, a queue, ...
    #[arg(long, conflicts_with_all = ["ids", "state"])]
    failed: bool,
}

/// An action on many jobs, with its words for people and for routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Cancel,
    Retry,
    Promote,
    Remove,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Promote => "promote",
            Self::Remove => "remove",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::Retry => "retried",
            Self::Promote => "promoted",
            Self::Remove => "removed",
        }
    }
}

const HEAD: [Column; 2] = [Column::id("ID"), Column::text("STATUS")];

#[derive(Default, Serialize)]
struct Acts {
    items: Vec<Acted>,
}

impl View for Acts {
    fn table(&self, out: &mut Table) {
        out.grid(&HEAD, self.items.iter().map(|act| vec![act.id.to_string(), act.status.clone()]));
    }

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(json_line).collect()
    }
}

/// What became of many jobs.
struct ManyActs {
    verb: Verb,
    acted: ActedOnJobs,
}

impl Serialize for ManyActs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.verb {
            Verb::Retry => RetriedFailed::from(self.acted.clone()).serialize(serializer),
            Verb::Cancel | Verb::Promote | Verb::Remove => self.acted.serialize(serializer),
        }
    }
}

impl View for ManyActs {
    fn table(&self, out: &mut Table) {
        let would = if self.acted.dry_run { "would be " } else { "" };
        let done = self.acted.done.iter().map(|id| vec![id.to_string(), format!("{would}{}", self.verb.done())]);
        let skipped = self.acted.skipped.iter().map(|(id, why)| vec![id.to_string(), format!("skipped: {why}")]);
        out.grid(&HEAD, done.chain(skipped));
    }
}

pub(super) async fn cancel(args: CancelArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let CancelArgs { jobs, reason } = args;
    match jobs.one_by_one()? {
        Some(ids) => each(&ids, client, console, async |id| Ok(client.cancel(id, reason.as_deref()).await?)).await,
        None => many(Verb::Cancel, jobs, reason, client, console).await,
    }
}

pub(super) async fn retry(args: RetryArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let RetryArgs { mut jobs, failed } = args;
    if failed {
        jobs.selection.only(JobState::Failed);
    }
    match jobs.one_by_one()? {
        Some(ids) => each(&ids, client, console, async |id| Ok(client.retry(id).await?)).await,
        None => many(Verb::Retry, jobs, None, client, console).await,
    }
}

pub(super) async fn promote(jobs: JobsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match jobs.one_by_one()? {
        Some(ids) => each(&ids, client, console, async |id| Ok(client.promote(id).await?)).await,
        None => many(Verb::Promote, jobs, None, client, console).await,
    }
}

pub(super) async fn remove(jobs: JobsArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    match jobs.one_by_one()? {
        Some(ids) => each(&ids, client, console, async |id| Ok(client.remove(id).await?)).await,
        None => many(Verb::Remove, jobs, None, client, console).await,
    }
}

impl JobsArgs {
    /// The jobs to act on in requests of their own; `None` when the server is to choose or to foresee.
    ///
    /// # Errors
    /// `Usage` when there are neither ids nor conditions, or both.
    fn one_by_one(&self) -> Result<Option<Vec<JobRef>>, CliError> {
        let has_conditions = !self.selection.conditions(Clock::system().now()).is_empty();
        let wrong = |why: &str| Err(CliError::Usage(why.to_owned()));
        match (self.ids.is_empty(), has_conditions) {
            (true, false) => wrong("say which jobs: their ids, or conditions such as --state and --name"),
            (false, true) => wrong("give ids of jobs or conditions, not both"),
            (false, false) if !self.dry_run => Ok(Some(self.ids.clone())),
            _ => Ok(None),
        }
    }
}

/// Acts batch by batch on the jobs that the server chooses, and says on stderr how far it is.
async fn many(
    verb: Verb,
    jobs: JobsArgs,
    reason: Option<String>,
    client: &Client,
    console: &mut Console,
) -> Result<Exit, CliError> {
    // Ids are all meant, however many batches that takes.
    let goes_on = jobs.all_matching || !jobs.ids.is_empty();
    let selection: JobSelection = jobs.selection.resolve(Clock::system().now(), client).await?;
    let limit = jobs.limit.map(usize::from);
    let ids = if jobs.ids.is_empty() { Vec::new() } else { reference::ids(&jobs.ids, Purpose::Act, client).await? };
    let mut body = ActOnJobs { ids, selection, limit, cursor: None, dry_run: jobs.dry_run, reason };
    let mut all = ActedOnJobs { dry_run: body.dry_run, ..ActedOnJobs::default() };
    let (mut count, mut skipped) = (0, 0);
    let failure = loop {
        let batch = match client.act_on_jobs(verb.word(), &body).await {
            Ok(batch) => batch,
            Err(error) => break Some(error),
        };
        (count, skipped) = (count + batch.done.len(), skipped + batch.skipped.len());
        all.done.extend(batch.done);
        all.skipped.extend(batch.skipped);
        (all.more, all.next_cursor) = (batch.more, batch.next_cursor);
        if !goes_on || all.next_cursor.is_none() {
            break None;
        }
        body.cursor = all.next_cursor.clone();
        let would = if body.dry_run { "would be " } else { "" };
        console.note(&format!("so far {count} {would}{}, {skipped} skipped", verb.done()));
        // In `jsonl` each batch is printed at once, so no more than a batch is held in memory.
        if console.format == Format::Jsonl {
            let acted = std::mem::replace(&mut all, ActedOnJobs { dry_run: body.dry_run, ..ActedOnJobs::default() });
            console.show(&ManyActs { verb, acted })?;
        }
    };
    let more = all.more;
    match failure {
        // What was done before must be told.
        Some(_) if count + skipped > 0 => console.show(&ManyActs { verb, acted: all })?,
        Some(_) => {}
        None => console.show(&ManyActs { verb, acted: all })?,
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    if more {
        console.hint("there are more: once more, raise --limit, or add --all-matching");
    }
    Ok(if skipped == 0 { Exit::OK } else { Exit::CONFLICT })
}

/// Tries every job, whatever becomes of the others, and exits with the highest code. Stops only
/// when there is no point in going on: the server does not answer, or the token is wrong.
async fn each(
    ids: &[JobRef],
    client: &Client,
    console: &mut Console,
    act: impl AsyncFn(&JobId) -> Result<Acted, CliError>,
) -> Result<Exit, CliError> {
    let mut done = Acts::default();
    let mut exit = Exit::OK;
    for id in reference::each_of(ids, client).await? {
        match with_id(&id, Purpose::Act, client, &act).await {
            Ok(acted) => done.items.push(acted),
            Err(error) => {
                exit = exit.max(Exit::of_error(&error));
                console.report(&error);
                if [Exit::UNREACHABLE, Exit::AUTH].contains(&Exit::of_error(&error)) {
                    break;
                }
            }
        }
    }
    if !done.items.is_empty() {
        console.show(&done)?;
    }
    Ok(exit)
}
