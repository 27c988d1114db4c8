//! What a shell offers at the tab key: commands and flags from the tree, ids and names from the server.
//!
//! The shell's script calls `jobber` with `COMPLETE` set. The server has a moment to answer; when it is away there is
//! nothing to offer, and nothing is said.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, EnvCompleter, Shells};

use super::grid::ago;
use super::text::{escape_line, first_line};
use super::{Exit, Globals, topics};
use crate::client::{Client, JobQuery, Secret, StatsQuery};
use crate::domain::Clock;
use crate::wire::{LAST, LAST_FAILED};

/// The variable by which a shell asks.
pub(super) const VARIABLE: &str = "COMPLETE";
/// How long the server may take.
const PATIENCE: Duration = Duration::from_millis(300);
/// How many jobs are offered when nothing of an id is known.
const RECENT: usize = 30;
/// How much of a text is shown beside a candidate, in characters.
const HELP: usize = 60;

/// The adapter of a shell that Jobber knows.
pub(super) fn adapter(shell: &str) -> Option<&'static dyn EnvCompleter> {
    const SHELLS: &Shells<'static> = &Shells::builtins();
    SHELLS.completer(shell)
}

/// Answers a shell that asks for completions. `None` when none does: any other value of the variable is for another program.
pub fn complete(environment: &BTreeMap<String, String>) -> Option<ExitCode> {
    let shell = environment.get(VARIABLE)?;
    adapter(shell)?;
    let here = std::env::current_dir().ok();
    let completed =
        CompleteEnv::with_factory(super::tree).bin("jobber").try_complete(std::env::args_os(), here.as_deref());
    match completed {
        Ok(true) => Some(Exit::OK.into()),
        Ok(false) => None,
        Err(error) => {
            // When the terminal is gone, there is no place to print to.
            let _ = write!(std::io::stderr(), "{error}");
            Some(Exit::ERROR.into())
        }
    }
}

/// Asks the server that the command line, as far as it is written, is about.
fn ask<T>(question: impl AsyncFnOnce(&Client) -> Option<T>) -> Option<T> {
    let client = super::connect(&globals(std::env::args().skip_while(|word| word != "--"))).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, question(&client)).await });
    // What still resolves a name is not waited for.
    runtime.shutdown_background();
    answer.ok().flatten()
}

/// The options that say which server is meant. The line is not whole, so it can't be parsed.
fn globals(words: impl Iterator<Item = String>) -> Globals {
    let environment = crate::config::env::read();
    let words: Vec<String> = words.collect();
    let given = |flag: &str, variable: &str| {
        let after =
            words.iter().zip(words.iter().skip(1)).find(|(word, _)| *word == flag).map(|(_, value)| value.clone());
        let joined = || words.iter().find_map(|word| Some(word.strip_prefix(flag)?.strip_prefix('=')?.to_owned()));
        after.or_else(joined).or_else(|| environment.get(variable).cloned()).filter(|value| !value.is_empty())
    };
    Globals {
        server: given("--server", "JOBBER_SERVER"),
        token: given("--token", "JOBBER_TOKEN").map(Secret::new),
        token_file: given("--token-file", "").map(Into::into),
        ca: given("--ca", "JOBBER_CA").map(Into::into),
        ..Globals::default()
    }
}

/// A value with a remark on it.
type Offer = (String, Option<String>);

/// Makes a completer of what there is to offer for the beginning of a word.
fn completer(offers: impl Fn(&str) -> Vec<Offer> + Send + Sync + 'static) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let Some(current) = current.to_str() else { return Vec::new() };
        let candidate = |(value, help): Offer| {
            let help = help.map(|text| first_line(&escape_line(&text), HELP).into());
            CompletionCandidate::new(value).help(help)
        };
        offers(current).into_iter().filter(|(value, _)| value.starts_with(current)).map(candidate).collect()
    })
}

/// Makes a completer of all that a server has.
fn from_server(question: impl AsyncFn(&Client) -> Option<Vec<Offer>> + Send + Sync + 'static) -> ArgValueCompleter {
    completer(move |_| ask(&question).unwrap_or_default())
}

/// Ids of jobs, and the words for the last ones. Behind a comma begins another.
pub(super) fn jobs() -> ArgValueCompleter {
    completer(|current| {
        let (before, part) =
            current.rsplit_once(',').map_or(("", current), |(before, _)| current.split_at(before.len() + 1));
        let words = [(LAST, "submitted last"), (LAST_FAILED, "failed last")];
        let words = words.map(|(word, help)| (word.to_owned(), Some(help.to_owned())));
        let found = ask(async |client| jobs_of(part, client).await).unwrap_or_default();
        words.into_iter().chain(found).map(|(value, help)| (format!("{before}{value}"), help)).collect()
    })
}

async fn jobs_of(part: &str, client: &Client) -> Option<Vec<Offer>> {
    let now = Clock::system().now();
    if part.is_empty() {
        let recent = client.jobs(&JobQuery { limit: Some(RECENT), ..JobQuery::default() }).await.ok()?;
        let offer = |job: crate::store::JobSummary| {
            (job.id.to_string(), Some(format!("{}, {}, {}", job.name, job.state, ago(job.submitted_at, now))))
        };
        return Some(recent.items.into_iter().map(offer).collect());
    }
    let found = client.resolve_job(part).await.ok()?;
    let offer = |job: crate::wire::JobBrief| {
        (job.id.to_string(), Some(format!("{}, {}, {}", job.name, job.state, ago(job.submitted_at, now))))
    };
    Some(found.items.into_iter().map(offer).collect())
}

/// Names of binaries.
pub(super) fn names() -> ArgValueCompleter {
    from_server(async |client| {
        let offer = |binary: crate::wire::BinaryView| (binary.name.to_string(), binary.trouble);
        Some(client.binaries().await.ok()?.items.into_iter().map(offer).collect())
    })
}

/// Ids of categories.
pub(super) fn categories() -> ArgValueCompleter {
    from_server(async |client| {
        let listed = client.categories().await.ok()?.items.into_iter();
        Some(listed.map(|view| (view.category.id.to_string(), Some(view.category.name))).collect())
    })
}

/// Ids of schedules.
pub(super) fn schedules() -> ArgValueCompleter {
    from_server(async |client| {
        let listed = client.schedules().await.ok()?.into_iter();
        Some(listed.map(|schedule| (schedule.id.to_string(), Some(schedule.job.name.to_string()))).collect())
    })
}

/// Ids of workers.
pub(super) fn workers() -> ArgValueCompleter {
    from_server(async |client| {
        let listed = client.workers().await.ok()?.into_iter();
        Some(listed.map(|worker| (worker.id.to_string(), Some(worker.host))).collect())
    })
}

/// Names of queues.
pub(super) fn queues() -> ArgValueCompleter {
    from_server(async |client| {
        Some(client.queues().await.ok()?.into_iter().map(|queue| (queue.name.to_string(), None)).collect())
    })
}

/// Fingerprints of errors.
pub(super) fn fingerprints() -> ArgValueCompleter {
    from_server(async |client| {
        let query = StatsQuery { more: vec![("limit", "100".to_owned())], ..StatsQuery::default() };
        let listed = client.failures(&query).await.ok()?.items.into_iter();
        Some(listed.map(|group| (group.fingerprint.short(), Some(group.text))).collect())
    })
}

/// Commands and topics of help.
pub(super) fn topics() -> ArgValueCompleter {
    completer(|_| {
        let tree = super::tree();
        let commands = tree.get_subcommands();
        let commands = commands.map(|c| (c.get_name().to_owned(), c.get_about().map(ToString::to_string)));
        topics::NAMES.iter().map(|topic| ((*topic).to_owned(), None)).chain(commands).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_the_one_of_the_line_as_far_as_it_is_written() {
        let read = |line: &str| globals(line.split(' ').map(str::to_owned)).server;
        assert_eq!(read("-- jobber --server http://a:1 show").as_deref(), Some("http://a:1"));
        assert_eq!(read("-- jobber list --server=http://b:2 --na").as_deref(), Some("http://b:2"));
    }

    #[test]
    fn only_shells_ask() {
        assert!(adapter("bash").is_some() && adapter("zsh").is_some() && adapter("fish").is_some());
        assert!(adapter("1").is_none() && complete(&BTreeMap::from([(VARIABLE.to_owned(), "1".to_owned())])).is_none());
    }
}
