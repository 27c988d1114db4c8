//! Vectors from an endpoint that speaks OpenAI's protocol: OpenAI itself, Azure, Ollama, vLLM and many more.
//!
//! A caller has to wait for the endpoint, so no job's path leads here. Everything that goes over
//! the wire is bounded: texts a request, requests at the same time, tries a request, texts a day.
//! An endpoint that keeps failing is left alone for a while.

mod answer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{EmbedError, Embedder};
use crate::domain::{Clock, Day, Secret, Timestamp, retry_after};
use crate::failures::ErrorCache;
use crate::logging::chain;
use crate::metrics::METRICS;
use crate::reconnect::ReconnectBackoff;

/// Longer texts are cut, in bytes: below the 8,192 tokens that models take.
const LONGEST_TEXT: usize = 8_000;
const CONNECT: Duration = Duration::from_secs(5);
/// The longest wait of a call before it tries again; instead of a longer one it gives up for now.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Failed requests in a row after which the endpoint is left alone.
const PATIENCE: u32 = 5;
/// For how long the endpoint is left alone at first, and at most; it doubles while the endpoint goes on failing.
const FIRST_REST: Duration = Duration::from_secs(30);
const LONGEST_REST: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(86_400);

/// The endpoint, its model, and the bounds of the requests to it.
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// The base address, such as `https://api.openai.com/v1`; `/embeddings` is added before its query.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// How many numbers its vectors have; models of OpenAI's third generation are asked for this length.
    pub dimension: usize,
    /// The key, if one is needed.
    pub api_key: Option<Secret>,
    /// How many texts one request holds at most.
    pub batch: usize,
    /// How many requests run at the same time at most.
    pub concurrency: usize,
    /// How long a request may take.
    pub timeout: Duration,
    /// How many times a request is tried at most.
    pub tries: u32,
    /// The wait before the second try, doubling from there.
    pub first_wait: Duration,
}

impl OpenAiSettings {
    /// The length of the vectors of a model of OpenAI's own.
    pub fn known_dimension(model: &str) -> Option<usize> {
        match model {
            "text-embedding-3-small" | "text-embedding-ada-002" => Some(1536),
            "text-embedding-3-large" => Some(3072),
            _ => None,
        }
    }
}

/// An embedder behind an HTTP endpoint.
pub struct OpenAi {
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    settings: OpenAiSettings,
    name: String,
    running: Semaphore,
    breaker: Breaker,
    budget: Option<Budget>,
    clock: Clock,
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: Vec<&'a str>,
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
}

/// Why one try gave nothing.
enum Failure {
    /// A passing failure: another try may work.
    Passing { problem: String, after: Option<Duration> },
    /// A lasting failure: no other try would work.
    Lasting(EmbedError),
}

impl OpenAi {
    /// An embedder with these settings, and with this budget if there is one. Nothing is sent here.
    ///
    /// # Errors
    /// [`EmbedError::Refused`] when the address or the key can't be used.
    pub fn new(settings: OpenAiSettings, budget: Option<Budget>, clock: Clock) -> Result<Arc<Self>, EmbedError> {
        let refused = |problem: String| EmbedError::Refused { problem };
        let mut url = Url::parse(&settings.url).map_err(|e| refused(format!("embedder.url can't be read: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(refused("embedder.url must begin with http:// or https:// and name a host".to_owned()));
        }
        url.set_path(&format!("{}/embeddings", url.path().trim_end_matches('/')));
        let mut headers = HeaderMap::new();
        if let Some(key) = &settings.api_key {
            let sensitive = |text: &str| {
                let mut value = HeaderValue::from_str(text)
                    .map_err(|_| refused("embedder.api_key has characters that no key has".to_owned()))?;
                value.set_sensitive(true);
                Ok::<_, EmbedError>(value)
            };
            headers.insert(AUTHORIZATION, sensitive(&format!("Bearer {}", key.reveal()))?);
            // Azure's own header.
            headers.insert(HeaderName::from_static("api-key"), sensitive(key.reveal())?);
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("jobber/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(settings.timeout)
            // A redirect would carry the key elsewhere.
            .redirect(reqwest::redirect::Policy::none());
        if url.scheme() == "http" {
            // Without this the system's certificates are loaded all the same, and their absence is an error.
            let unused = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            http = http.tls_backend_preconfigured(unused);
        }
        let http = http.build().map_err(|e| refused(format!("no HTTP client can be made: {}", chain(&e))))?;
        let name = format!("{}/{}", settings.model, settings.dimension);
        let running = Semaphore::new(settings.concurrency.max(1));
        let breaker = Breaker::default();
        Ok(Arc::new(Self { http, url, headers, settings, name, running, breaker, budget, clock }))
    }

    /// Sends one request, and tries again while that may help.
    async fn request(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let _turn = self.running.acquire().await.expect("the semaphore is never closed");
        self.breaker.enter()?;
        if let Some(budget) = &self.budget {
            budget.spend(texts.len(), self.clock.now()).await?;
        }
        let mut waits = ReconnectBackoff::new(self.settings.first_wait, LONGEST_WAIT);
        let mut tries = 1;
        loop {
            let failure = match self.attempt(texts).await {
                Ok(vectors) => {
                    METRICS.server.embedded("ok");
                    self.breaker.succeeded();
                    return Ok(vectors);
                }
                Err(failure) => failure,
            };
            METRICS.server.embedded(match failure {
                Failure::Passing { .. } => "away",
                Failure::Lasting(_) => "refused",
            });
            match failure {
                Failure::Passing { after, .. }
                    if tries < self.settings.tries && after.is_none_or(|after| after <= LONGEST_WAIT) =>
                {
                    tries += 1;
                    tokio::time::sleep(after.unwrap_or_else(|| waits.next_wait())).await;
                }
                Failure::Passing { problem, after } => {
                    let rest = self.breaker.failed();
                    let after = after.max(rest);
                    return Err(EmbedError::Away { problem: format!("{problem} (tried {tries} times)"), after });
                }
                Failure::Lasting(error) => {
                    self.breaker.failed();
                    return Err(error);
                }
            }
        }
    }

    async fn attempt(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, Failure> {
        let third_generation = self.settings.model.starts_with("text-embedding-3");
        let request = Request {
            model: &self.settings.model,
            input: texts.iter().map(|text| acceptable(text)).collect(),
            encoding_format: "float",
            dimensions: third_generation.then_some(self.settings.dimension),
        };
        let passing =
            |e: reqwest::Error| Failure::Passing { problem: self.scrubbed(&chain(&e.without_url())), after: None };
        let sent = self.http.post(self.url.clone()).headers(self.headers.clone()).json(&request).send();
        let response = sent.await.map_err(passing)?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let after = after.and_then(|text| retry_after(text, self.clock.now()));
        let body = answer::read(response, texts.len(), self.settings.dimension).await.map_err(|e| match e {
            answer::Unread::Lost(error) => passing(error),
            answer::Unread::Endless => Failure::Lasting(EmbedError::Garbage { problem: "it has no end".to_owned() }),
        })?;
        if status.is_success() {
            return answer::vectors(&body, texts.len(), self.settings.dimension)
                .map_err(|problem| Failure::Lasting(EmbedError::Garbage { problem: self.scrubbed(&problem) }));
        }
        let complaint = self.scrubbed(&answer::complaint(&body));
        let problem = if complaint.is_empty() {
            format!("it answered {status}")
        } else {
            format!("it answered {status}: {complaint}")
        };
        let passes = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT)
            || status == StatusCode::TOO_EARLY;
        Err(if passes {
            Failure::Passing { problem, after }
        } else {
            let hint = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; check embedder.api_key (OPENAI_API_KEY)",
                StatusCode::NOT_FOUND => "; check embedder.url and embedder.model",
                _ => "",
            };
            Failure::Lasting(EmbedError::Refused { problem: format!("{problem}{hint}") })
        })
    }

    /// The text without the key, which some endpoints quote when they refuse it.
    fn scrubbed(&self, text: &str) -> String {
        match &self.settings.api_key {
            Some(key) if !key.reveal().is_empty() => text.replace(key.reveal(), "[secret]"),
            _ => text.to_owned(),
        }
    }
}

/// The text as endpoints take it: not empty, not too long.
fn acceptable(text: &str) -> &str {
    if text.trim().is_empty() {
        return "no message";
    }
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}

#[async_trait]
impl Embedder for OpenAi {
    fn model(&self) -> &str {
        &self.name
    }

    fn dimension(&self) -> usize {
        self.settings.dimension
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut requests = Vec::new();
        for batch in texts.chunks(self.settings.batch.max(1)) {
            requests.push(self.request(batch));
        }
        Ok(try_join_all(requests).await?.into_iter().flatten().collect())
    }
}

/// How many texts may be sent on a day (UTC). The cache counts them for all processes, so neither a restart nor another
/// process has a budget of its own.
pub struct Budget {
    cache: Arc<dyn ErrorCache>,
    texts: u64,
    /// How many texts this process has sent on a day, which counts while the cache is away.
    own: Mutex<Option<(Day, u64)>>,
}

impl Budget {
    /// Makes a budget of `texts` texts a day.
    pub fn new(cache: Arc<dyn ErrorCache>, texts: u64) -> Self {
        Self { cache, texts, own: Mutex::default() }
    }

    /// Takes so many texts out of the budget of the day of `now`.
    async fn spend(&self, texts: usize, now: Timestamp) -> Result<(), EmbedError> {
        let (today, texts) = (now.day(), texts as u64);
        let shared = self.cache.spend(today, texts, self.texts).await;
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = own.filter(|(day, _)| *day == today).map_or(0, |(_, spent)| spent).saturating_add(texts);
        let left = shared.unwrap_or_else(|_| self.texts.checked_sub(spent));
        METRICS.server.set_embedder_budget(left.unwrap_or(0));
        if left.is_none() {
            let after = DAY.saturating_sub(now.since(today.start()));
            return Err(EmbedError::Budget { budget: self.texts, after });
        }
        *own = Some((today, spent));
        Ok(())
    }
}

/// A circuit breaker, which all requests to the endpoint pass. It leaves an endpoint that keeps failing alone for a
/// while.
#[derive(Default)]
struct Breaker {
    state: Mutex<BreakerState>,
}

#[derive(Default)]
struct BreakerState {
    failures: u32,
    /// The time until which nothing is sent. When it has passed, one request may find out whether
    /// the endpoint is back. The others wait for as long again, so that a probe whose caller went
    /// away does not block them for ever.
    rests_until: Option<Instant>,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, BreakerState> {
        // Each change is whole before the next, so what a panicking thread left can be used.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whether a request may be sent now.
    fn enter(&self) -> Result<(), EmbedError> {
        let mut state = self.state();
        let Some(until) = state.rests_until else { return Ok(()) };
        let now = Instant::now();
        if now < until {
            let after = until - now;
            let problem = format!("it failed {} times in a row and is left alone for a while", state.failures);
            return Err(EmbedError::Away { problem, after: Some(after) });
        }
        state.rests_until = Some(now + FIRST_REST);
        Ok(())
    }

    /// Notes that the endpoint answered a request as it should.
    fn succeeded(&self) {
        let mut state = self.state();
        (state.failures, state.rests_until) = (0, None);
    }

    /// Notes that a request failed for good. Answers for how long the endpoint is left alone now, if it is.
    fn failed(&self) -> Option<Duration> {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let beyond = state.failures.checked_sub(PATIENCE)?;
        let rest = FIRST_REST.saturating_mul(1 << beyond.min(10)).min(LONGEST_REST);
        state.rests_until = Some(Instant::now() + rest);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_keeps_failing_is_left_alone_and_probed() {
        let breaker = Breaker::default();
        for _ in 1..PATIENCE {
            breaker.enter().unwrap();
            assert_eq!(breaker.failed(), None);
        }
        breaker.enter().unwrap();
        assert_eq!(breaker.failed(), Some(FIRST_REST));
        assert_eq!(breaker.enter().unwrap_err().retry_after(), Some(FIRST_REST));
        tokio::time::advance(FIRST_REST).await;
        breaker.enter().unwrap();
        assert!(breaker.enter().is_err(), "one probe at a time");
        assert_eq!(breaker.failed(), Some(FIRST_REST * 2));
        tokio::time::advance(FIRST_REST * 2).await;
        breaker.enter().unwrap();
        breaker.succeeded();
        breaker.enter().unwrap();
        breaker.enter().unwrap();
    }
}
