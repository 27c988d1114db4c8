//! `jobber submit` and `jobber run`.

use clap::Args;
use serde::Serialize;

use super::follow::follow;
use super::jobspec::{JobFlags, read_text};
use super::view::{Column, Table, View, json_line};
use super::{CliError, Console, Exit, complete, inputs, wait};
use crate::client::Client;
use crate::domain::{ArraySpec, Clock, GroupName, JobId, JobName};
use crate::wire::{JobView, MOST_JOBS, SubmitJob, SubmitJobs, Submitted, SubmittedArray, name_of_key};

/// How many bytes of JSON one request has at most: well below the server's limit.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// `jobber submit`.
#[derive(Debug, Clone, Default, Args)]
pub struct SubmitArgs {
    /// The binary to run
    #[arg(value_name = "NAME", value_parser = JobName::parse, required_unless_present = "from_json", add = complete::names())]
    name: Option<JobName>,
    /// Its arguments
    #[arg(value_name = "ARGS", last = true)]
    arguments: Vec<String>,
    /// How it runs.
    #[command(flatten)]
    flags: JobFlags,
    /// An id of your choice: submitting it again changes nothing while the queue has the job
    #[arg(long, value_name = "ID", value_parser = JobId::custom)]
    id: Option<JobId>,
    /// Makes a repeated submission harmless: the first answer is given again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// One job for each line of this file (- for stdin); the line is its last argument
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["id", "from_json", "count"])]
    each_line: Option<String>,
    /// Jobs as the API takes them: an array of objects, or one object a line (- for stdin)
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["name", "arguments", "id", "count"])]
    from_json: Option<String>,
    /// One job for each index, such as 0-9999%50: at most 50 of them at once
    #[arg(long, value_name = "INDICES[%N]", value_parser = ArraySpec::parse, conflicts_with_all = ["each_line", "from_json", "count"])]
    array: Option<ArraySpec>,
    /// So many equal jobs
    #[arg(long, value_name = "N", conflicts_with = "id", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: Option<u32>,
    /// Wait until all have ended and exit with the highest of their codes
    #[arg(long)]
    wait: bool,
    /// Show what the job writes and exit with its code
    #[arg(short, long, conflicts_with_all = ["wait", "print_id", "array", "each_line", "from_json", "count"])]
    follow: bool,
    /// Print nothing but ids, one a line; of an array, its group
    #[arg(long)]
    print_id: bool,
}

/// `jobber run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The binary to run
    #[arg(value_name = "NAME", value_parser = JobName::parse, add = complete::names())]
    name: JobName,
    /// Its arguments
    #[arg(value_name = "ARGS", last = true)]
    arguments: Vec<String>,
    /// How it runs.
    #[command(flatten)]
    flags: JobFlags,
    /// An id of your choice: if there is such a job already, that one is followed
    #[arg(long, value_name = "ID", value_parser = JobId::custom)]
    id: Option<JobId>,
    /// Makes a repeated submission harmless: the first job is followed
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl From<RunArgs> for SubmitArgs {
    fn from(args: RunArgs) -> Self {
        let RunArgs { name, arguments, flags, id, idempotency_key } = args;
        Self { name: Some(name), arguments, flags, id, idempotency_key, follow: true, ..Self::default() }
    }
}

impl SubmitArgs {
    /// Whether the command goes on until the jobs have ended.
    pub(super) fn waits(&self) -> bool {
        self.wait || self.follow
    }

    /// The jobs that the flags ask for. `None` when they describe a single job.
    fn many(&self, one: &SubmitJob, clock: &Clock) -> Result<Option<Vec<SubmitJob>>, CliError> {
        if let Some(file) = &self.each_line {
            let lines = read_text(file)?;
            let job = |line: &str| {
                let mut job = one.clone();
                job.arguments.push(line.to_owned());
                job
            };
            return Ok(Some(lines.lines().filter(|line| !line.is_empty()).map(job).collect()));
        }
        if let Some(file) = &self.from_json {
            let jobs = parse_jobs(&read_text(file)?).map_err(|e| CliError::Usage(format!("{file}: {e}")))?;
            let filled = jobs.into_iter().map(|job| self.flags.fill(job, one.data.as_ref(), clock));
            return Ok(Some(filled.collect()));
        }
        Ok(self.count.map(|count| vec![one.clone(); usize::try_from(count).unwrap_or(usize::MAX)]))
    }
}

/// Reads an array of jobs, or one job per line.
fn parse_jobs(text: &str) -> Result<Vec<SubmitJob>, serde_json::Error> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text);
    }
    serde_json::Deserializer::from_str(text).into_iter().collect()
}

/// The submitted jobs. One job prints as an object. Many print as a list, even if the list has one item.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum SubmitView {
    One(Submitted),
    Many { group: Option<GroupName>, items: Vec<Submitted> },
}

impl SubmitView {
    fn all(&self) -> &[Submitted] {
        match self {
            SubmitView::One(submitted) => std::slice::from_ref(submitted),
            SubmitView::Many { items, .. } => items,
        }
    }

    /// Waits until all jobs have ended, and returns them.
    async fn ends(&self, client: &Client, console: &mut Console) -> Result<Vec<JobView>, CliError> {
        let addresses: Vec<_> = self.all().iter().map(Submitted::address).collect();
        let mut jobs = wait::all_ends(&addresses, client, console).await?;
        for (job, submitted) in jobs.iter_mut().zip(self.all()) {
            job.id = submitted.id.clone();
        }
        Ok(jobs)
    }

    fn array(&self) -> Option<&SubmittedArray> {
        match self {
            SubmitView::One(submitted) => submitted.array.as_ref(),
            SubmitView::Many { .. } => None,
        }
    }

    fn print(&self, only_ids: bool, console: &mut Console) -> Result<(), CliError> {
        if only_ids && let Some(array) = self.array() {
            console.data(format!("{}\n", array.group).as_bytes())
        } else if only_ids {
            let ids: String = self.all().iter().map(|submitted| format!("{}\n", submitted.id)).collect();
            console.data(ids.as_bytes())
        } else {
            console.show(self)
        }
    }
}

impl View for SubmitView {
    fn table(&self, out: &mut Table) {
        if let Some(SubmittedArray { group, count, duplicates, first_id, last_id }) = self.array() {
            out.grid(
                &[
                    Column::plain("GROUP").rank(0),
                    Column::plain("JOBS"),
                    Column::plain("DUPLICATES").rank(4),
                    Column::id("FIRST").rank(2),
                    Column::id("LAST").rank(3),
                ],
                [vec![
                    group.to_string(),
                    count.to_string(),
                    duplicates.to_string(),
                    first_id.to_string(),
                    last_id.to_string(),
                ]],
            );
            return;
        }
        let status = |s: &Submitted| if s.duplicate { "duplicate".to_owned() } else { s.status.clone() };
        out.grid(
            &[Column::id("ID"), Column::state("STATUS")],
            self.all().iter().map(|s| vec![s.id.to_string(), status(s)]),
        );
    }

    fn lines(&self) -> Vec<String> {
        self.all().iter().map(json_line).collect()
    }
}

/// Submits a job, follows it, and returns its code.
pub(super) async fn run(args: RunArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    submit(args.into(), client, console).await
}

pub(super) async fn submit(mut args: SubmitArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let clock = Clock::system();
    args.flags.find_after(client).await?;
    let open = SubmitJob {
        name: args.name.as_ref().map(|name| name.to_string()).unwrap_or_default(),
        arguments: args.arguments.clone(),
        id: args.id.as_ref().map(|id| id.to_string()),
        ..SubmitJob::default()
    };
    let mut one = args.flags.fill(open, args.flags.read_data()?.as_ref(), &clock);
    let inputs = inputs::upload(&args.flags.inputs, client, console).await?;
    one.inputs.clone_from(&inputs);
    let key = args.idempotency_key.as_deref();
    one.array = args.array.clone();
    if one.array.is_some() && one.id.is_none() && key.is_none() {
        // Known here, it can be looked after even if the answer is lost.
        let base = JobId::generate().to_string();
        console.detail(&format!("the array's jobs are {base}-0 and so on"));
        one.id = Some(base);
    }
    match args.many(&one, &clock)? {
        None => {
            let submitted = client.submit(&one, key).await?;
            if args.follow {
                let note = if submitted.duplicate { " (it was there already)" } else { "" };
                console.note(&format!("job {}{note}", submitted.id));
                return follow(&submitted, client, console).await;
            }
            finish(&args, &SubmitView::One(submitted), client, console).await
        }
        Some(jobs) if jobs.is_empty() => Err(CliError::Usage("there are no jobs in the input".to_owned())),
        Some(mut jobs) => {
            for job in jobs.iter_mut().filter(|job| job.inputs.is_empty()) {
                job.inputs.clone_from(&inputs);
            }
            let group = group_all(&mut jobs, key)?;
            if let Some(group) = &group {
                console.note(&format!("group {group}"));
            }
            let mut done = Vec::with_capacity(jobs.len());
            let sent = send(jobs, key, client, &mut done).await;
            let answer = SubmitView::Many { group, items: done };
            if let Err(error) = sent {
                // The server keeps the jobs that it has accepted, so the user must learn which.
                if !answer.all().is_empty() {
                    console.note(&format!("{} jobs were submitted before this failed:", answer.all().len()));
                    answer.print(args.print_id, console)?;
                }
                return Err(error);
            }
            finish(&args, &answer, client, console).await
        }
    }
}

/// Gives all jobs a group that name none; `None` when each has one of its own. One of a key is the same when the
/// submission is repeated.
fn group_all(jobs: &mut [SubmitJob], key: Option<&str>) -> Result<Option<GroupName>, CliError> {
    let mut given = jobs.iter().filter_map(|job| job.group.as_ref());
    let first = given.next().cloned();
    let is_one = given.all(|group| Some(group) == first.as_ref());
    if jobs.iter().all(|job| job.group.is_some()) {
        return Ok(first.filter(|_| is_one));
    }
    let name = key.map_or_else(|| JobId::generate().to_string(), name_of_key);
    let group = GroupName::parse(&name).map_err(|e| CliError::Usage(e.to_string()))?;
    jobs.iter_mut().filter(|job| job.group.is_none()).for_each(|job| job.group = Some(group.clone()));
    Ok(Some(group))
}

/// Sends the jobs in as few requests as possible. The server accepts each request as a whole or not at all.
async fn send(
    jobs: Vec<SubmitJob>,
    key: Option<&str>,
    client: &Client,
    done: &mut Vec<Submitted>,
) -> Result<(), CliError> {
    for (i, batch) in batches(jobs).into_iter().enumerate() {
        // Each request needs a key of its own; the first gets the given one.
        let key = key.map(|key| if i == 0 { key.to_owned() } else { format!("{key}#{}", i + 1) });
        done.extend(client.submit_many(&SubmitJobs { jobs: batch }, key.as_deref()).await?.jobs);
    }
    Ok(())
}

fn batches(jobs: Vec<SubmitJob>) -> Vec<Vec<SubmitJob>> {
    let mut batches: Vec<Vec<SubmitJob>> = Vec::new();
    let mut bytes = 0;
    for job in jobs {
        let size = json_line(&job).len() + 1;
        match batches.last_mut() {
            Some(batch) if batch.len() < MOST_JOBS && bytes + size <= BATCH_BYTES => {
                bytes += size;
                batch.push(job);
            }
            _ => {
                bytes = size;
                batches.push(vec![job]);
            }
        }
    }
    batches
}

/// Prints the submitted jobs and, with `--wait`, waits for their end.
async fn finish(
    args: &SubmitArgs,
    answer: &SubmitView,
    client: &Client,
    console: &mut Console,
) -> Result<Exit, CliError> {
    if args.print_id || !args.wait {
        answer.print(args.print_id, console)?;
    }
    if !args.wait {
        return Ok(Exit::OK);
    }
    if let Some(SubmittedArray { group, count, .. }) = answer.array() {
        let waited = wait::interruptible(wait::group_end(group, *count, client, console)).await?;
        return match waited {
            Some((_, exit)) if args.print_id => Ok(exit),
            Some((view, exit)) => {
                console.show(&view)?;
                Ok(exit)
            }
            None => {
                console.note(&format!("detached; the jobs of group {group} go on"));
                Ok(Exit::INTERRUPTED)
            }
        };
    }
    match wait::interruptible(answer.ends(client, console)).await? {
        Some(jobs) if args.print_id => Ok(wait::highest(&jobs)),
        Some(jobs) => wait::report(jobs, console),
        None => {
            console.note("detached; the jobs go on");
            Ok(Exit::INTERRUPTED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_as_an_array_or_a_line_each() {
        let names = |text| parse_jobs(text).map(|jobs| jobs.into_iter().map(|j| j.name).collect::<Vec<_>>());
        assert_eq!(names(r#" [{"name": "a"}, {"name": "b"}]"#).unwrap(), ["a", "b"]);
        assert_eq!(names("{\"name\": \"a\"}\n\n{\"name\": \"b\"}\n").unwrap(), ["a", "b"]);
        assert!(names("").unwrap().is_empty());
        assert!(names(r#"{"name": "a", "colour": "red"}"#).is_err());
    }

    #[test]
    fn many_jobs_go_in_as_few_requests_as_may_be() {
        let job =
            |bytes: usize| SubmitJob { name: "a".into(), arguments: vec!["x".repeat(bytes)], ..SubmitJob::default() };
        let sizes = |jobs: Vec<SubmitJob>| batches(jobs).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![job(1); 25_000]), [10_000, 10_000, 5_000]);
        assert_eq!(sizes(vec![job(1_500_000); 5]), [2, 2, 1]);
        assert_eq!(sizes(vec![job(9_000_000), job(1)]), [1, 1]);
    }
}
