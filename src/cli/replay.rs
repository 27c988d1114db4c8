//! `jobber replay`: runs an attempt of a job once more on this host, without a queue, to see what happened to it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::exec::{Ended, HereFlags, Ran, Run, RunLocalError, conclude, order_of, run};
use super::files::receive_all;
use super::reference::{JobRef, Purpose, with_id};
use super::{CliError, Console, Globals, complete, connect};
use crate::client::Client;
use crate::domain::{AttemptNumber, AttemptReport, InputFile, Job, JobBody, JobId, JobState, is_file_name};
use crate::runner::{FetchInputs, RunOrder};
use crate::store::AttemptRecord;
use crate::wire::JobView;

/// `jobber replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The job: its id or the beginning of it, @last or @last-failed
    #[arg(value_name = "ID", add = complete::jobs())]
    job: JobRef,
    /// The attempt, from 1 [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// How it runs here.
    #[command(flatten)]
    pub here: HereFlags,
}

/// Fetches the job, runs the attempt with `run_local`, and says how it ended there and here. Exits with the code of the job.
/// `lacks` says what of the job's demands this host lacks.
pub async fn replay(
    args: &ReplayArgs,
    globals: &Globals,
    mut console: Console,
    lacks: impl Fn(&Job) -> Vec<String>,
    run_local: impl AsyncFnOnce(RunOrder, Run, Option<FetchInputs<'static>>) -> Result<Ran, RunLocalError>,
) -> ExitCode {
    let prepared = async {
        let client = connect(globals)?;
        let prepared = prepare(args, &client).await?;
        Ok((client, prepared))
    };
    let (client, Prepared { order, recorded, notes }) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) => return conclude(Some(console), Err(error)),
    };
    for note in notes.into_iter().chain(lacks(&order.job)) {
        console.note(&note);
    }
    let inputs = (!order.job.options.inputs.is_empty()).then(|| fetch(client, order.job.clone()));
    let (mut console, ran) =
        run(order, args.here.gdb, console, async |order, way| run_local(order, way, inputs).await).await;
    if let (Some(console), Ok(Ended { report: Some(report), .. }), Some(recorded)) = (&mut console, &ran, &recorded) {
        compare(recorded, report, console);
    }
    conclude(console, ran.map(|ended| ended.exit))
}

/// An attempt that is to be run again.
struct Prepared {
    order: RunOrder,
    /// What is known of it; `None` when the job was never started.
    recorded: Option<AttemptRecord>,
    /// In what it differs from what was there, one sentence each.
    notes: Vec<String>,
}

async fn prepare(args: &ReplayArgs, client: &Client) -> Result<Prepared, CliError> {
    let view = with_id(&args.job, Purpose::Look, client, async |id| Ok(client.job(id, None).await?)).await?;
    if view.arguments.is_empty() && view.data.is_none() && client.session().await?.hides_data {
        let why = "this token is not shown what jobs are given (serve.view_hides_data); use that of an operator";
        return Err(CliError::Usage(why.to_owned()));
    }
    let mut notes = Vec::new();
    if let Some(incomplete) = &view.incomplete {
        notes.push(format!("the server does not know all of the job now: {incomplete}"));
    }
    let recorded = choose(&view, args.attempt)?;
    if recorded.is_none() {
        notes.push("the job was never started: this is what its first attempt would be".to_owned());
    }
    let mut options = view.options.clone();
    // A retry may have had more than the job asks for, and the other host its own default.
    let limit = recorded.and_then(|record| record.report.as_ref()?.memory_limit_bytes);
    options.memory_bytes = limit.or(options.memory_bytes);
    let job =
        Job { id: view.id.clone(), name: view.name.clone(), options, submitted_at: view.submitted_at, trace: None };
    let body = JobBody::new(view.arguments.clone(), view.data.as_ref());
    let mut order = order_of(Arc::new(job), body);
    order.attempt = recorded.map_or(AttemptNumber(1), |record| record.number);
    for parent in &view.options.after {
        match client.job(parent, None).await {
            Ok(JobView { state: JobState::Completed, result, .. }) => {
                order.results_before.extend(result.map(|result| (parent.to_string(), result)));
            }
            Ok(JobView { state, .. }) => notes.push(format!("{parent}, which comes before it, is {state}: no result")),
            Err(error) => {
                notes.push(format!("the result of {parent}, which came before it, is not to be had: {error}"))
            }
        }
    }
    Ok(Prepared { order, recorded: recorded.cloned(), notes })
}

/// The attempt that is meant.
fn choose(view: &JobView, wanted: Option<u32>) -> Result<Option<&AttemptRecord>, CliError> {
    let Some(wanted) = wanted else { return Ok(view.attempts.last()) };
    let found = view.attempts.iter().rev().find(|record| record.number.0 == wanted);
    found.map(Some).ok_or_else(|| {
        let there: Vec<_> = view.attempts.iter().map(|record| record.number.to_string()).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        CliError::Missing(format!("{} has no attempt {wanted}; there is {there}", view.id))
    })
}

/// Gets the inputs of the job from the server.
fn fetch(client: Client, job: Arc<Job>) -> FetchInputs<'static> {
    Box::new(move |directory| {
        Box::pin(async move {
            for input in &job.options.inputs {
                receive(&client, &job.id, input, &directory).await?;
            }
            Ok(())
        })
    })
}

async fn receive(client: &Client, id: &JobId, input: &InputFile, directory: &Path) -> Result<(), CliError> {
    let InputFile { name, sha256, .. } = input;
    let unwritten = |error| CliError::local(format!("couldn't write the input {name:?}"), error);
    if !is_file_name(name) {
        return Err(CliError::Missing(format!("the server names an input {name:?}, which is no name")));
    }
    let path = directory.join(name);
    fs_err::create_dir_all(path.parent().unwrap_or(directory)).map_err(unwritten)?;
    let mut file = fs_err::File::create_new(path).map_err(unwritten)?;
    let download = client.input(id, name).await?;
    receive_all(download, name, sha256, |piece| std::io::Write::write_all(&mut file, piece).map_err(unwritten)).await
}

/// Says how the attempt ended there, and in what it differed from this one.
fn compare(there: &AttemptRecord, here: &AttemptReport, console: &mut Console) {
    let host = if there.host.is_empty() { there.worker.as_str() } else { there.host.as_str() };
    let Some(report) = &there.report else {
        console.note(&format!("attempt {} on {host} has not ended", there.number));
        return;
    };
    let ended = if report.outcome == here.outcome { "ended in the same way" } else { "ended otherwise" };
    console.note(&format!("attempt {} on {host} {ended}: {}", there.number, report.outcome));
    if let (Some(theirs), Some(ours)) = (&report.build, &here.build)
        && theirs.digest != ours.digest
    {
        console.note(&format!("it ran another build: {} there, {} here", theirs.digest.short(), ours.digest.short()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Outcome, Timestamp};

    #[test]
    fn the_last_attempt_is_meant_unless_another_is_named() {
        let at = Timestamp::from_millis(0);
        let job = Job {
            id: JobId::parse("a").unwrap(),
            name: "hello".parse().unwrap(),
            options: Default::default(),
            submitted_at: at,
            trace: None,
        };
        let mut view = JobView::of(&job, JobState::Failed);
        assert_eq!(choose(&view, None).unwrap(), None);
        let none = choose(&view, Some(1)).unwrap_err();
        assert_eq!(none.to_string(), "a has no attempt 1; there is none");
        for number in [1, 2] {
            view.attempts.push(AttemptRecord {
                number: AttemptNumber(number),
                worker: crate::domain::WorkerId::generate("host"),
                host: String::new(),
                started_at: at,
                report: Some(AttemptReport::bare(Outcome::Exit { code: number as i32 }, at, at, "")),
                fingerprint: None,
                build: None,
            });
        }
        assert_eq!(choose(&view, None).unwrap().unwrap().number, AttemptNumber(2));
        assert_eq!(choose(&view, Some(1)).unwrap().unwrap().number, AttemptNumber(1));
        assert_eq!(choose(&view, Some(3)).unwrap_err().to_string(), "a has no attempt 3; there is 1, 2");
    }
}
