//! Jobs as people name them: by a whole id, by the beginning of one, as `@last` or `@last-failed`, several with commas.
//!
//! A whole id costs no request of its own: what the command wants is asked for at once, and only when the server knows no
//! such job it is asked which job begins like that. A command never acts on one of several jobs.

use std::str::FromStr;

use super::CliError;
use super::grid::ago;
use crate::client::{Client, ClientError, ClientErrorKind};
use crate::domain::{Clock, InvalidName, JobId};
use crate::wire::{JobBrief, LAST, LAST_FAILED, ResolvedJobs};

/// A job, or several with commas, as they stand on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobRef(JobId);

impl FromStr for JobRef {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        JobId::parse(text).map(Self)
    }
}

impl From<JobId> for JobRef {
    fn from(id: JobId) -> Self {
        Self(id)
    }
}

impl std::fmt::Display for JobRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl JobRef {
    fn text(&self) -> &str {
        self.0.as_str()
    }

    fn is_word(&self) -> bool {
        [LAST, LAST_FAILED].contains(&self.text())
    }

    /// Whether it can be no beginning of another id: Jobber made it, for no array.
    fn is_whole(&self) -> bool {
        self.0.is_generated()
    }
}

/// What a command does with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Look,
    /// Changes it: then it must be certain that no other job is meant.
    Act,
}

/// Takes jobs apart that stand together with commas. An id may hold commas itself where another program has made it:
/// then the server knows it as a whole.
pub(super) async fn each_of(jobs: &[JobRef], client: &Client) -> Result<Vec<JobRef>, CliError> {
    let mut all = Vec::with_capacity(jobs.len());
    for job in jobs {
        if !job.text().contains(',') {
            all.push(job.clone());
            continue;
        }
        let known = client.resolve_job(job.text()).await?;
        if known.items.iter().any(|item| item.id == job.0) {
            all.push(job.clone());
            continue;
        }
        for part in job.text().split(',').filter(|part| !part.is_empty()) {
            all.push(part.parse().map_err(|e: InvalidName| CliError::Usage(e.to_string()))?);
        }
    }
    if all.is_empty() {
        return Err(CliError::Usage("say which jobs: there is nothing between the commas".to_owned()));
    }
    Ok(all)
}

/// Gives `act` the id of the job that is meant: the text itself if there is such a job, else the id that begins like it.
pub(super) async fn with_id<T>(
    job: &JobRef,
    purpose: Purpose,
    client: &Client,
    act: impl AsyncFn(&JobId) -> Result<T, CliError>,
) -> Result<T, CliError> {
    if job.is_word() {
        return act(&find(job, purpose, client).await?).await;
    }
    match act(&job.0).await {
        Err(CliError::Client(error)) if error.code() == Some("unknown_job") && !job.is_whole() => {
            match find(job, purpose, client).await {
                Ok(id) if id != job.0 => act(&id).await,
                // The first answer names the job, and the server may be older than this question.
                Ok(_) => Err(error.into()),
                Err(CliError::Client(_)) => Err(error.with_hint(HINT).into()),
                Err(several) => Err(several),
            }
        }
        done => done,
    }
}

/// The whole ids of jobs, for a command that names several at once or goes on for long.
///
/// # Errors
/// When one of them is not there, or may be any of several.
pub(super) async fn ids(jobs: &[JobRef], purpose: Purpose, client: &Client) -> Result<Vec<JobId>, CliError> {
    let jobs = each_of(jobs, client).await?;
    let mut ids = Vec::with_capacity(jobs.len());
    for job in &jobs {
        ids.push(match job.is_whole() {
            true => job.0.clone(),
            false => {
                with_id(job, purpose, client, async |id| Ok(client.job(id, None).await.map(|_| id.clone())?)).await?
            }
        });
    }
    Ok(ids)
}

const HINT: &str = "`jobber list` shows the ids of jobs; the beginning of one is enough, and @last and @last-failed stand \
    for the last job that was submitted, and that failed";

/// The one job that is meant.
async fn find(job: &JobRef, purpose: Purpose, client: &Client) -> Result<JobId, CliError> {
    let found = client.resolve_job(job.text()).await?;
    let missing = |message: String| ClientError::new(ClientErrorKind::NotFound, message).with_hint(HINT);
    match found.items.as_slice() {
        [] if job.text() == LAST => Err(missing("no job was submitted to this server".to_owned()).into()),
        [] if job.text() == LAST_FAILED => Err(missing("no job of this server has failed".to_owned()).into()),
        [] => Err(missing(format!("there is no job whose id begins with {}", job.text())).into()),
        [only] if !found.more => {
            let is_certain = !found.behind || only.id == job.0;
            if is_certain || purpose == Purpose::Look {
                return Ok(only.id.clone());
            }
            Err(CliError::Usage(format!(
                "history is behind at this moment, so {} may mean another job than {}: give the whole id",
                job.text(),
                only.id
            )))
        }
        _ => Err(CliError::Usage(ambiguous(job.text(), &found))),
    }
}

/// What is said of a text that begins several ids.
fn ambiguous(text: &str, found: &ResolvedJobs) -> String {
    /// So many candidates are shown.
    const SHOWN: usize = 8;
    let now = Clock::system().now();
    let line = |job: &JobBrief| {
        format!("\n  {}  {}, {}, submitted {}", job.id, job.name, job.state, ago(job.submitted_at, now))
    };
    let shown: String = found.items.iter().take(SHOWN).map(line).collect();
    let rest = found.items.len().saturating_sub(SHOWN);
    let rest = match (found.more, rest) {
        (true, _) => "\n  and more".to_owned(),
        (false, 0) => String::new(),
        (false, rest) => format!("\n  and {rest} more"),
    };
    format!("{text} may be any of several jobs; give more of the id:{shown}{rest}")
}

/// The one of `known` that is `asked` or the only one that begins like it; `asked` itself if none does, because the
/// server may know more.
///
/// # Errors
/// `Usage` with the candidates when there are several.
pub(super) fn beginning<'a, T: AsRef<str>>(what: &str, asked: &'a str, known: &'a [T]) -> Result<&'a str, CliError> {
    let known = || known.iter().map(|id: &'a T| -> &'a str { id.as_ref() });
    if known().any(|id| id == asked) {
        return Ok(asked);
    }
    let alike: Vec<&str> = known().filter(|id| id.starts_with(asked)).collect();
    match alike.as_slice() {
        [] => Ok(asked),
        [only] => Ok(*only),
        several => Err(CliError::Usage(format!(
            "{asked} may be any of the {what}s {}; give more of its id",
            several.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::fake::{FakeServer, json as answer, problem};

    fn brief(id: &str) -> serde_json::Value {
        json!({"id": id, "name": "resize", "state": "failed", "submitted_at": "2026-11-24T08:00:00Z",
               "finished_at": null})
    }

    fn resolved(ids: &[&str], behind: bool) -> Vec<u8> {
        let items: Vec<_> = ids.iter().map(|id| brief(id)).collect();
        answer(200, &json!({"items": items, "more": false, "behind": behind}))
    }

    /// What a command is given for a text, by a server that knows `known` and gives these answers.
    async fn meant(
        text: &str,
        purpose: Purpose,
        known: &str,
        answers: Vec<Vec<u8>>,
    ) -> (Result<String, String>, usize) {
        let server = FakeServer::start(answers).await;
        let client = server.client();
        let act = async |id: &JobId| {
            if id.as_str() == known {
                return Ok(id.to_string());
            }
            // A server says so.
            Err(CliError::Client(client.job(id, None).await.unwrap_err()))
        };
        let done = with_id(&text.parse().unwrap(), purpose, &client, act).await;
        (done.map_err(|e| e.to_string()), server.requests().len())
    }

    fn unknown() -> Vec<u8> {
        problem(404, "unknown_job", "there is no job")
    }

    #[tokio::test]
    async fn a_whole_id_costs_no_question() {
        assert_eq!(meant("order-42", Purpose::Act, "order-42", vec![]).await, (Ok("order-42".to_owned()), 0));
        let generated = "01a20ba2-8b54-7171-9566-b15d432fef8b";
        let (done, requests) = meant(generated, Purpose::Act, "x", vec![unknown()]).await;
        assert_eq!((done, requests), (Err("there is no job".to_owned()), 1));
    }

    #[tokio::test]
    async fn the_beginning_of_one_id_is_enough_and_that_of_several_is_refused() {
        let (done, _) = meant("01a2", Purpose::Act, "01a2-b", vec![unknown(), resolved(&["01a2-b"], false)]).await;
        assert_eq!(done, Ok("01a2-b".to_owned()));
        let several = vec![unknown(), resolved(&["01a2-b", "01a2-c"], false)];
        let error = meant("01a2", Purpose::Act, "01a2-b", several).await.0.unwrap_err();
        assert!(error.contains("01a2-b  resize, failed") && error.contains("01a2-c"), "{error}");
        let none = meant("01a2", Purpose::Look, "x", vec![unknown(), resolved(&[], false)]).await.0;
        assert_eq!(none, Err("there is no job".to_owned()));
    }

    #[tokio::test]
    async fn nothing_is_done_to_a_job_that_may_not_be_the_one() {
        let answers = || vec![resolved(&["01a2-b"], true)];
        assert!(meant("@last", Purpose::Look, "01a2-b", answers()).await.0.is_ok());
        let error = meant("@last", Purpose::Act, "01a2-b", answers()).await.0.unwrap_err();
        assert!(error.contains("history is behind"), "{error}");
        let error = meant("@last-failed", Purpose::Act, "x", vec![resolved(&[], false)]).await.0.unwrap_err();
        assert_eq!(error, "no job of this server has failed");
    }

    #[tokio::test]
    async fn jobs_stand_together_with_commas_unless_one_has_them_in_its_id() {
        let server = FakeServer::start(vec![resolved(&["a,b"], false), resolved(&[], false)]).await;
        let refs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<JobRef>>();
        let all = each_of(&refs(&["a,b", "c,,@last", "d"]), &server.client()).await.unwrap();
        assert_eq!(all, refs(&["a,b", "c", "@last", "d"]));
    }

    #[test]
    fn of_a_list_the_only_one_that_begins_so_is_meant() {
        let known = ["build-7-1f", "build-7", "test-8-2a"];
        let find = |asked: &'static str| beginning("worker", asked, &known).map_err(|e| e.to_string());
        assert_eq!(find("test"), Ok("test-8-2a"));
        assert_eq!(find("build-7"), Ok("build-7"), "a whole id is not the beginning of another");
        assert_eq!(find("gone-1"), Ok("gone-1"));
        assert_eq!(
            find("build").unwrap_err(),
            "build may be any of the workers build-7-1f, build-7; give more of its id"
        );
    }
}
