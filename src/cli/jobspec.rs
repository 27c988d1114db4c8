//! The flags that describe a job, and how they become one.

use std::path::Path;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::inputs::InputArg;
use super::reference::{self, Purpose};
use super::values::{parse_backoff, parse_dedup, parse_duration};
use super::{CliError, complete};
use crate::client::{Client, ClientErrorKind};
use crate::domain::{
    Backoff, Clock, Deduplication, GroupName, JobId, JobOptions, QueueName, RawJson, RunOption, Timestamp,
};
use crate::wire::SubmitJob;

/// The rules under which a job runs; what is not given is decided by the server.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct JobFlags {
    /// JSON for the job's standard input: the JSON itself, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(super) data: Option<String>,
    /// How many attempts may fail
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) attempts: Option<u32>,
    /// Wait between attempts: exp:1s or fixed:5s, with chance exp:1s:0.5
    #[arg(long, value_name = "KIND:DURATION[:JITTER]", value_parser = parse_backoff)]
    pub(super) backoff: Option<Backoff>,
    /// Not before this long from now
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "at")]
    pub(super) delay: Option<Duration>,
    /// Not before this time
    #[arg(long, value_name = "RFC3339", value_parser = Timestamp::parse)]
    pub(super) at: Option<Timestamp>,
    /// Behind all jobs without; 1 before 2
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) priority: Option<u32>,
    /// The queue in which it waits
    #[arg(long, value_name = "NAME", value_parser = QueueName::parse, add = complete::queues())]
    pub(super) queue: Option<QueueName>,
    /// The group of jobs to which it belongs: of a user, a team, an experiment
    #[arg(long, value_name = "NAME", value_parser = GroupName::parse)]
    pub(super) group: Option<GroupName>,
    /// It starts only while fewer jobs of its group run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) group_limit: Option<u32>,
    /// How each attempt runs.
    #[command(flatten)]
    pub(super) run: RunFlags,
    /// Take an equal job that is there already; the key stays taken for the time given, or until the job has ended
    #[arg(long, value_name = "KEY[:TTL]", value_parser = parse_dedup)]
    pub(super) dedup: Option<Deduplication>,
    /// Not before these jobs have completed; if one of them fails, so does this one
    #[arg(long, value_name = "ID,...", value_delimiter = ',', value_parser = JobId::parse, add = complete::jobs())]
    pub(super) after: Vec<JobId>,
    /// A file that the job finds in $JOBBER_INPUT_DIR, under its own name or this one (repeatable)
    #[arg(long = "input", value_name = "FILE[=NAME]", value_parser = InputArg::parse)]
    pub(super) inputs: Vec<InputArg>,
}

impl JobFlags {
    /// Fills in what `job` leaves open; `data` is [`JobFlags::data`], read.
    pub(super) fn fill(&self, job: SubmitJob, data: Option<&RawJson>, clock: &Clock) -> SubmitJob {
        let delay = self.delay.or_else(|| self.at.map(|at| at.since(clock.now())));
        let mut job = SubmitJob {
            data: job.data.or_else(|| data.cloned()),
            attempts: job.attempts.or(self.attempts),
            backoff: job.backoff.or_else(|| self.backoff.clone()),
            delay: job.delay.or(delay),
            priority: job.priority.or(self.priority),
            queue: job.queue.or_else(|| self.queue.clone()),
            group: job.group.or_else(|| self.group.clone()),
            group_limit: job.group_limit.or(self.group_limit),
            deduplication: job.deduplication.or_else(|| self.dedup.clone()),
            after: if job.after.is_empty() { self.after.clone() } else { job.after },
            ..job
        };
        job.fill_run_options(&self.run.0);
        job
    }

    /// Puts whole ids in place of the beginnings of ids in `--after`.
    pub(super) async fn find_after(&mut self, client: &Client) -> Result<(), CliError> {
        if !self.after.is_empty() {
            let jobs: Vec<_> = self.after.iter().cloned().map(reference::JobRef::from).collect();
            match reference::ids(&jobs, Purpose::Act, client).await {
                Ok(found) => self.after = found,
                // The server refuses the new job, and says of which one it knows nothing.
                Err(CliError::Client(error)) if error.kind == ClientErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The JSON of `--data`.
    pub(super) fn read_data(&self) -> Result<Option<RawJson>, CliError> {
        self.data.as_deref().map(read_json).transpose()
    }
}

/// The flags of the run options: one for each [`RunOption`]. Of the options that it holds no others are given.
#[derive(Debug, Clone, Default)]
pub struct RunFlags(pub(super) JobOptions);

/// Whether a flag may be given several times, as with commas.
fn takes_list(option: &RunOption) -> bool {
    option.value_name.ends_with(",...")
}

impl Args for RunFlags {
    fn augment_args(command: Command) -> Command {
        RunOption::ALL.iter().fold(command, |command, option| {
            let read = |text: &str| {
                let checked = (option.set)(&mut JobOptions::default(), text);
                checked.map(|()| text.to_owned()).map_err(|allowed| format!("{text:?} is not {allowed}"))
            };
            let flag = Arg::new(option.flag).long(option.flag).value_name(option.value_name).help(option.help);
            let action = if takes_list(option) { ArgAction::Append } else { ArgAction::Set };
            command.arg(flag.allow_negative_numbers(true).action(action).value_parser(read))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RunFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for option in RunOption::ALL {
            let Some(texts) = matches.get_many::<String>(option.flag) else { continue };
            let texts: Vec<_> = texts.map(String::as_str).collect();
            // Each is fine alone; together they may name one thing twice.
            (option.set)(&mut self.0, &texts.join(",")).map_err(|allowed| {
                let message = format!("--{} must be {allowed}", option.flag);
                clap::Error::raw(clap::error::ErrorKind::ValueValidation, message + "\n")
            })?;
        }
        Ok(())
    }
}

/// Reads JSON from where the word points to.
pub(super) fn read_json(word: &str) -> Result<RawJson, CliError> {
    let (text, origin) = match word.strip_prefix('@') {
        Some(path) => (read_text(path)?, path),
        None if word == "-" => (read_text("-")?, "stdin"),
        None => (word.to_owned(), "--data"),
    };
    RawJson::parse_readable(&text).map_err(|e| CliError::Usage(format!("{origin} is not JSON: {e}")))
}

/// Reads a file, or stdin for `-`.
pub(super) fn read_text(path: &str) -> Result<String, CliError> {
    if path == "-" {
        return std::io::read_to_string(std::io::stdin())
            .map_err(|e| CliError::Usage(format!("couldn't read stdin: {e}")));
    }
    fs_err::read_to_string(Path::new(path)).map_err(|e| CliError::Usage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_fill_in_only_what_is_open() {
        let flags = JobFlags {
            attempts: Some(5),
            priority: Some(1),
            at: Some(Timestamp::from_millis(90_000)),
            ..JobFlags::default()
        };
        let clock = Clock::manual(Timestamp::from_millis(30_000));
        let job = SubmitJob { name: "a".into(), attempts: Some(2), ..SubmitJob::default() };
        let job = flags.fill(job, Some(&RawJson::parse("true").unwrap()), &clock);
        assert_eq!(
            job,
            SubmitJob {
                name: "a".into(),
                attempts: Some(2),
                priority: Some(1),
                data: Some(RawJson::parse("true").unwrap()),
                delay: Some(Duration::from_secs(60)),
                ..SubmitJob::default()
            }
        );
    }

    #[test]
    fn data_comes_from_the_command_line_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data.json");
        fs_err::write(&file, "[1, 2]").unwrap();
        assert_eq!(read_json("{\"a\": 1}").unwrap().get(), r#"{"a":1}"#);
        assert_eq!(read_json(&format!("@{}", file.display())).unwrap().get(), "[1,2]");
        assert_eq!(
            read_json("{").unwrap_err().to_string(),
            "--data is not JSON: EOF while parsing an object at line 1 column 1"
        );
        assert!(read_json("@/no/such/file").unwrap_err().to_string().contains("/no/such/file"));
    }
}
