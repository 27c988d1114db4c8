//! The way to the collector: the SDK's thread makes batches, a task of the runtime sends them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::outage::{Outage, OutageWords};
use crate::reconnect::ReconnectBackoff;

/// The collector's answer is of no use but for its status: a larger one is cut, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(5);
const WORDS: OutageWords = OutageWords::warn(
    "spans can't be exported; jobs are not affected, spans are lost meanwhile",
    "spans are exported again",
);

/// Sends what the SDK asks for, and tells the log once of each outage of the collector.
#[derive(Debug)]
pub(super) struct Collector {
    http: reqwest::Client,
    runtime: Handle,
    tasks: TaskTracker,
    outage: Arc<Mutex<Outage>>,
}

/// A collector that answers, but takes no spans.
#[derive(Debug, thiserror::Error)]
#[error("the collector answered with status {0}")]
struct Refused(reqwest::StatusCode);

impl Collector {
    /// A way to a collector, of which each request may take `timeout`; `is_plain` without TLS. To be called within a
    /// runtime. Nothing is sent here.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub(super) fn new(timeout: Duration, is_plain: bool) -> reqwest::Result<Self> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT.min(timeout))
            .timeout(timeout)
            // A redirect would carry the headers elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("jobber/", env!("CARGO_PKG_VERSION")));
        if is_plain {
            // Without this the system's certificates are loaded all the same, and their absence is an error.
            let unused = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            http = http.tls_backend_preconfigured(unused);
        }
        let http = http.build()?;
        // The waits are the SDK's.
        let waits = ReconnectBackoff::new(Duration::from_secs(1), Duration::from_secs(1));
        Ok(Self {
            http,
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            outage: Arc::new(Mutex::new(Outage::new("traces", WORDS, waits))),
        })
    }
}

async fn send(http: reqwest::Client, request: reqwest::Request) -> Result<Response<Bytes>, reqwest::Error> {
    let mut answer = http.execute(request).await?;
    let mut made = Response::new(Bytes::new());
    *made.status_mut() = answer.status();
    *made.headers_mut() = std::mem::take(answer.headers_mut());
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        body.extend_from_slice(&piece[..piece.len().min(LONGEST_ANSWER - body.len())]);
        if body.len() >= LONGEST_ANSWER {
            break;
        }
    }
    *made.body_mut() = body.into();
    Ok(made)
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let (http, outage) = (self.http.clone(), self.outage.clone());
        // The SDK's thread has no runtime.
        let sent = self.tasks.spawn_on(
            async move {
                let answer = send(http, request).await;
                let mut outage = outage.lock().unwrap_or_else(PoisonError::into_inner);
                match &answer {
                    Ok(answer) if answer.status().is_success() => outage.passed(),
                    Ok(answer) => drop(outage.failed(&Refused(answer.status()))),
                    Err(error) => drop(outage.failed(error)),
                }
                answer
            },
            &self.runtime,
        );
        Ok(sent.await??)
    }
}
