//! The client of the HTTP API: a typed method for every route of `/api/v1`. No other module uses `reqwest`.

mod download;
mod error;
mod failures;
#[cfg(test)]
pub(crate) mod fake;
mod files;
mod groups;
mod inputs;
mod logs;
mod notices;
mod output;
mod schedules;
mod sse;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url};

pub use crate::domain::Secret;
use crate::domain::{JobId, QueueLimit, QueueName, WorkerId};
use crate::queue::{StateCounts, WorkerInfo};
use crate::store::JobCount;
use crate::wire::{
    ActOnJobs, Acted, ActedOnJobs, BinaryListing, CancelRequest, CleanBody, Cleaned, Explanation, JobListing,
    JobSelection, JobView, Listing, Overview, QueueView, ResolvedJobs, Session, SubmitJob, SubmitJobs, Submitted,
    SubmittedJobs,
};
pub use download::Download;
pub use error::{ClientError, ClientErrorKind};
pub use failures::StatsQuery;
pub use groups::GroupResults;
pub use logs::{LogRequest, LogStream};
pub use output::AttemptOutput;
use transport::{ANSWER, authorities, build, encode};

/// The server's address when the user gives none.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:3000";

/// A page of a list of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobQuery {
    /// Which jobs to list.
    pub selection: JobSelection,
    /// The most items on a page.
    pub limit: Option<usize>,
    /// The `next_cursor` of the page before; `None` for the first page.
    pub cursor: Option<String>,
}

/// A client of one server. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<Url>,
    token: Option<Secret>,
}

impl Client {
    /// Makes a client of the server at this address (`http://host:port`, a path in front of
    /// `/api/v1` allowed). It connects only when it is used.
    ///
    /// # Errors
    /// `Rejected` when the text is no such address, or the token can't stand in a header.
    pub fn new(server: &str, token: Option<Secret>) -> Result<Client, ClientError> {
        Self::trusting(server, token, None)
    }

    /// The same, but of a server whose certificate comes from one of the authorities in `ca`, a text in PEM, in place of
    /// those that this system knows.
    ///
    /// # Errors
    /// `Rejected` also when that text holds no certificate.
    pub fn trusting(server: &str, token: Option<Secret>, ca: Option<&[u8]>) -> Result<Client, ClientError> {
        let wrong = |why: &str| {
            ClientError::new(ClientErrorKind::Rejected, format!("{server:?} is not the address of a server: {why}"))
                .with_hint(format!("write it like {DEFAULT_SERVER} (--server, JOBBER_SERVER)"))
        };
        let mut base = Url::parse(server).map_err(|e| wrong(&e.to_string()))?;
        if !["http", "https"].contains(&base.scheme()) || !base.has_host() {
            return Err(wrong("it must start with http:// or https://"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(wrong("it must not have a query"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        if token.as_ref().is_some_and(|t| t.reveal().is_empty() || !t.reveal().bytes().all(|b| b.is_ascii_graphic())) {
            return Err(ClientError::new(
                ClientErrorKind::Rejected,
                "the token is not usable: it must be visible ASCII characters without spaces",
            ));
        }
        let http = build(&base, authorities(ca)?).map_err(|e| {
            ClientError::new(ClientErrorKind::Rejected, format!("couldn't prepare a connection to {server}"))
                .caused_by(e)
        })?;
        Ok(Client { http, base: Arc::new(base), token })
    }

    /// The server's address, as people write it.
    pub fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Submits one job, or an array of them. A repeated call with the same idempotency key gives the first answer again.
    ///
    /// # Errors
    /// `Rejected` when a field is wrong, there is no such binary, or the key was used for another job.
    pub async fn submit(&self, job: &SubmitJob, idempotency_key: Option<&str>) -> Result<Submitted, ClientError> {
        /// How long an array may take: the server makes some ten thousand jobs a second.
        const ARRAY: Duration = Duration::from_secs(900);
        let request = self.keyed(self.api(Method::POST, "jobs").json(job), idempotency_key)?;
        self.answer(if job.array.is_some() { request.timeout(ARRAY) } else { request }).await
    }

    /// Submits 1 to 10,000 jobs, all or none.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub async fn submit_many(
        &self,
        jobs: &SubmitJobs,
        idempotency_key: Option<&str>,
    ) -> Result<SubmittedJobs, ClientError> {
        self.answer(self.keyed(self.api(Method::POST, "jobs:bulk").json(jobs), idempotency_key)?).await
    }

    /// A page of jobs, last submitted first.
    ///
    /// # Errors
    /// `Rejected` when the cursor is not one of this list.
    pub async fn jobs(&self, query: &JobQuery) -> Result<JobListing, ClientError> {
        let mut pairs = query.selection.to_query();
        pairs.extend(query.limit.map(|n| ("limit", n.to_string())));
        pairs.extend(query.cursor.iter().map(|c| ("cursor", c.clone())));
        self.answer(self.api(Method::GET, "jobs").query(&pairs)).await
    }

    /// Counts jobs, up to a limit of the server.
    ///
    /// # Errors
    /// As [`Client::jobs`].
    pub async fn count_jobs(&self, selection: &JobSelection) -> Result<JobCount, ClientError> {
        self.answer(self.api(Method::GET, "jobs:count").query(&selection.to_query())).await
    }

    /// Gets a job as it is now. With `wait` (at most 60 s) the server answers as soon as the job
    /// has ended, or when that time is over.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub async fn job(&self, id: &JobId, wait: Option<Duration>) -> Result<JobView, ClientError> {
        let mut request = self.api(Method::GET, &format!("jobs/{}", encode(id.as_str())));
        if let Some(wait) = wait {
            request = request.query(&[("wait", wait.as_millis().div_ceil(1000))]).timeout(wait + ANSWER);
        }
        self.answer(request).await
    }

    /// Finds the job that a person means by the beginning of an id, `@last` or `@last-failed`.
    ///
    /// # Errors
    /// `Server` when neither history nor the queue can tell.
    pub async fn resolve_job(&self, text: &str) -> Result<ResolvedJobs, ClientError> {
        self.answer(self.api(Method::GET, "jobs:resolve").query(&[("id", text)])).await
    }

    /// Gets the output of a job so far and, when following, until its end.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub async fn logs(&self, id: &JobId, request: LogRequest) -> Result<LogStream, ClientError> {
        LogStream::open(self.clone(), id, request).await
    }

    /// Explains why a job is in its state.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub async fn explain(&self, id: &JobId) -> Result<Explanation, ClientError> {
        self.answer(self.api(Method::GET, &format!("jobs/{}/explain", encode(id.as_str())))).await
    }

    /// Stops a running job, or takes a job out before it starts.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `Conflict` when it has ended.
    pub async fn cancel(&self, id: &JobId, reason: Option<&str>) -> Result<Acted, ClientError> {
        let body = CancelRequest { reason: reason.map(str::to_owned) };
        self.answer(self.verb(id, "cancel").json(&body)).await
    }

    /// Puts a failed job back, with a fresh budget of attempts.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `Conflict` when it has not failed.
    pub async fn retry(&self, id: &JobId) -> Result<Acted, ClientError> {
        self.answer(self.verb(id, "retry")).await
    }

    /// Makes a delayed job ready now.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `Conflict` when it is not delayed.
    pub async fn promote(&self, id: &JobId) -> Result<Acted, ClientError> {
        self.answer(self.verb(id, "promote")).await
    }

    /// Takes a job that is not running out of the queue, and hides it from the lists.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, `Conflict` when it is running.
    pub async fn remove(&self, id: &JobId) -> Result<Acted, ClientError> {
        self.answer(self.api(Method::DELETE, &format!("jobs/{}", encode(id.as_str())))).await
    }

    /// Asks what goes on now.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn overview(&self) -> Result<Overview, ClientError> {
        self.answer(self.api(Method::GET, "overview")).await
    }

    /// Acts on a batch of jobs. `verb` is `cancel`, `retry`, `promote` or `remove`.
    ///
    /// # Errors
    /// `Rejected` when the body chooses no jobs, `NotFound` when there is no such category or error.
    pub async fn act_on_jobs(&self, verb: &str, body: &ActOnJobs) -> Result<ActedOnJobs, ClientError> {
        self.answer(self.api(Method::POST, &format!("jobs:{verb}")).json(body)).await
    }

    /// Counts the jobs in each state.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn counts(&self) -> Result<StateCounts, ClientError> {
        self.answer(self.api(Method::GET, "queue")).await
    }

    /// Lists the queues, by name.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn queues(&self) -> Result<Vec<QueueView>, ClientError> {
        let listing: Listing<QueueView> = self.answer(self.api(Method::GET, "queues")).await?;
        Ok(listing.items)
    }

    /// Shows one queue.
    ///
    /// # Errors
    /// `Rejected` when it is not known.
    pub async fn queue(&self, name: &QueueName) -> Result<QueueView, ClientError> {
        self.answer(self.api(Method::GET, &path_of(Some(name)))).await
    }

    /// Pauses a queue, or lets it go on; `None` for all queues.
    ///
    /// # Errors
    /// When the server can't do it.
    pub async fn set_paused(&self, queue: Option<&QueueName>, paused: bool) -> Result<(), ClientError> {
        let verb = if paused { "pause" } else { "resume" };
        self.send(self.api(Method::POST, &format!("{}:{verb}", path_of(queue)))).await.map(drop)
    }

    /// Bounds how much of a queue may run, in place of what was set before.
    ///
    /// # Errors
    /// When the server can't do it.
    pub async fn limit_queue(&self, name: &QueueName, limit: &QueueLimit) -> Result<QueueView, ClientError> {
        self.answer(self.api(Method::POST, &format!("{}:limit", path_of(Some(name)))).json(limit)).await
    }

    /// Removes ended jobs from a queue, or from all; their history stays.
    ///
    /// # Errors
    /// `Rejected` when the state is not a final one.
    pub async fn clean(&self, queue: Option<&QueueName>, body: &CleanBody) -> Result<Cleaned, ClientError> {
        self.answer(self.api(Method::POST, &format!("{}:clean", path_of(queue))).json(body)).await
    }

    /// Lists the workers that have sent a heartbeat lately.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, ClientError> {
        let listing: Listing<WorkerInfo> = self.answer(self.api(Method::GET, "workers")).await?;
        Ok(listing.items)
    }

    /// Lists the binaries that jobs can name.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn binaries(&self) -> Result<BinaryListing, ClientError> {
        self.answer(self.api(Method::GET, "binaries")).await
    }

    /// Asks a worker to drain: to take nothing new and end.
    ///
    /// # Errors
    /// `NotFound` when there is no such worker.
    pub async fn drain_worker(&self, id: &WorkerId) -> Result<(), ClientError> {
        self.send(self.api(Method::POST, &format!("workers/{}:drain", encode(id.as_str())))).await.map(drop)
    }

    /// Asks what this client may do.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn session(&self) -> Result<Session, ClientError> {
        self.answer(self.api(Method::GET, "session")).await
    }

    /// Asks whether the server lives.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn health(&self) -> Result<(), ClientError> {
        self.send(self.request(Method::GET, "healthz")).await.map(drop)
    }

    /// Asks for the server's version.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn version(&self) -> Result<String, ClientError> {
        #[derive(serde::Deserialize)]
        struct Health {
            version: String,
        }
        let health: Health = self.answer(self.request(Method::GET, "healthz")).await?;
        Ok(health.version)
    }

    /// Asks whether the server can take jobs.
    ///
    /// # Errors
    /// `Server` when it lives but can't.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.send(self.request(Method::GET, "readyz")).await.map(drop)
    }

    /// Asks how many events of the log are parked, because the projector could not read them.
    /// `None` when the server does not know.
    ///
    /// # Errors
    /// `Server` when it lives but can't work.
    pub async fn parked_events(&self) -> Result<Option<u64>, ClientError> {
        #[derive(serde::Deserialize)]
        struct Ready {
            #[serde(default)]
            history: Option<Log>,
        }
        #[derive(serde::Deserialize)]
        struct Log {
            #[serde(default)]
            parked: Option<u64>,
        }
        let ready: Ready = self.answer(self.request(Method::GET, "readyz")).await?;
        Ok(ready.history.and_then(|log| log.parked))
    }

    fn verb(&self, id: &JobId, verb: &str) -> RequestBuilder {
        self.api(Method::POST, &format!("jobs/{}:{verb}", encode(id.as_str())))
    }
}

/// The path of a queue below the API's; `None` for all queues together.
fn path_of(queue: Option<&QueueName>) -> String {
    queue.map_or_else(|| "queue".to_owned(), |name| format!("queues/{}", encode(name.as_str())))
}

#[cfg(test)]
mod tests;
