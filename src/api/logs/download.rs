//! Gives one stream of one attempt as a file: whole, as long as the queue has it from its first byte on, else the tail
//! that history keeps.
//!
//! The answer begins with its length and says whether it is whole, so the queue's pieces are read twice: first to see
//! what there is, then to send it. Either way no more than one reading is held in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use crate::api::problem::ApiError;
use crate::api::state::Api;
use crate::domain::{JobId, JobState, Stream};
use crate::queue::OutputChunk;
use crate::store::AttemptRecord;

/// Says whether the file is the `whole` output or its `tail`.
const EXTENT: HeaderName = HeaderName::from_static("x-jobber-output");
/// How many readings of the queue are made at most before the answer begins: a job may write faster than it is read.
const READS: usize = 1024;

/// The attempt that a path names.
pub(in crate::api) struct AttemptPath {
    id: JobId,
    attempt: u32,
}

impl<S: Send + Sync> FromRequestParts<S> for AttemptPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((id, number)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::bad_request("invalid_path", e.body_text()))?;
        let id = JobId::parse(&id)?;
        let attempt = number.parse().ok().filter(|number| *number > 0);
        let attempt = attempt.ok_or_else(|| unknown_attempt(&id, &number))?;
        Ok(Self { id, attempt })
    }
}

fn unknown_attempt(id: &JobId, number: impl std::fmt::Display) -> ApiError {
    let detail = format!("job {id} has no attempt {number}; see GET /api/v1/jobs/{id}");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_attempt", detail)
}

/// `GET /api/v1/jobs/{id}/attempts/{n}/stdout`: what the attempt has written to standard output by now, as a file.
pub(in crate::api) async fn stdout(State(api): State<Arc<Api>>, path: AttemptPath) -> Result<Response, ApiError> {
    download(api, path, Stream::Stdout).await
}

/// `GET /api/v1/jobs/{id}/attempts/{n}/stderr`: the same of standard error.
pub(in crate::api) async fn stderr(State(api): State<Arc<Api>>, path: AttemptPath) -> Result<Response, ApiError> {
    download(api, path, Stream::Stderr).await
}

async fn download(api: Arc<Api>, path: AttemptPath, stream: Stream) -> Result<Response, ApiError> {
    let AttemptPath { id, attempt } = path;
    let snapshot = api.brief_snapshot(&id).await?;
    let record = snapshot.view.attempts.iter().find(|record| record.number.0 == attempt);
    let queued = QueuedOutput::new(api, snapshot.own_id.clone(), attempt, stream);
    // History may not know yet that the attempt has started.
    if record.is_none() && !queued.has_started().await? {
        return Err(unknown_attempt(&id, attempt));
    }
    let file = match record.and_then(|record| tail_of(record, stream)) {
        Some(tail) if tail.start == 0 => OutputFile { is_whole: true, queued: None, tail: tail.bytes },
        Some(tail) => with_tail(queued, tail).await?,
        None => without_tail(queued).await?,
    };
    Ok(file.answer(&id, attempt, stream))
}

/// The end of a stream, as history keeps it.
struct KeptTail {
    /// How many bytes of the stream come before it.
    start: u64,
    bytes: Vec<u8>,
}

fn tail_of(record: &AttemptRecord, stream: Stream) -> Option<KeptTail> {
    let report = record.report.as_ref()?;
    let tail = match stream {
        Stream::Stdout => &report.stdout,
        Stream::Stderr => &report.stderr,
    };
    let bytes = tail.bytes().into_owned();
    Some(KeptTail { start: tail.total_bytes.saturating_sub(bytes.len() as u64), bytes })
}

/// The output of an attempt that has ended: the queue's pieces up to the tail and the tail, or the tail alone.
async fn with_tail(mut queued: QueuedOutput, mut tail: KeptTail) -> Result<OutputFile, ApiError> {
    match queued.survey_to(tail.start).await {
        Ok(()) => {}
        // The tail is better than nothing.
        Err(error) if error.status.is_server_error() => {
            tracing::debug!(cause = error.cause(), "the queue can't be asked for output; giving the tail");
            return Ok(OutputFile { is_whole: false, queued: None, tail: tail.bytes });
        }
        Err(error) => return Err(error),
    }
    if !queued.is_from_the_beginning() || queued.end < tail.start {
        return Ok(OutputFile { is_whole: false, queued: None, tail: tail.bytes });
    }
    let doubled = usize::try_from(queued.end - tail.start).unwrap_or(usize::MAX).min(tail.bytes.len());
    tail.bytes.drain(..doubled);
    Ok(OutputFile { is_whole: true, queued: Some(queued), tail: tail.bytes })
}

/// The output of an attempt whose end history does not know: it runs, or was lost with its worker.
async fn without_tail(mut queued: QueuedOutput) -> Result<OutputFile, ApiError> {
    queued.survey().await?;
    let is_lost = queued.end == 0 && queued.is_settled().await?;
    Ok(OutputFile { is_whole: queued.is_from_the_beginning() && !is_lost, queued: Some(queued), tail: Vec::new() })
}

/// What the queue has of one stream of one attempt: the bytes from `from` to `end`, none missing between.
struct QueuedOutput {
    api: Arc<Api>,
    /// The id under which the queue knows the job.
    own_id: JobId,
    attempt: u32,
    stream: Stream,
    from: u64,
    end: u64,
    /// Whether all pieces tell their place in the stream; those of an older Jobber, and lines of a log, do not.
    is_placed: bool,
    /// The position behind which the byte `from` is found.
    first_position: u64,
    /// Up to where the queue's output has been read.
    position: u64,
}

impl QueuedOutput {
    fn new(api: Arc<Api>, own_id: JobId, attempt: u32, stream: Stream) -> Self {
        Self { api, own_id, attempt, stream, from: 0, end: 0, is_placed: true, first_position: 0, position: 0 }
    }

    fn is_from_the_beginning(&self) -> bool {
        self.from == 0 && self.is_placed
    }

    fn is_of_it(&self, chunk: &OutputChunk) -> bool {
        chunk.attempt == self.attempt && chunk.stream == self.stream
    }

    async fn standing(&self) -> Result<Option<crate::queue::QueuedJob>, ApiError> {
        Ok(self.api.queue.standing(std::slice::from_ref(&self.own_id)).await?.pop().flatten())
    }

    async fn has_started(&self) -> Result<bool, ApiError> {
        Ok(self.standing().await?.is_some_and(|job| job.attempts_started >= self.attempt))
    }

    /// Whether the queue has finished with the attempt, so that no more pieces come.
    async fn is_settled(&self) -> Result<bool, ApiError> {
        let job = self.standing().await?;
        Ok(job.is_none_or(|job| job.state != JobState::Active || job.attempts_started > self.attempt))
    }

    /// Reads on to the end of what the queue has.
    async fn survey(&mut self) -> Result<(), ApiError> {
        for _ in 0..READS {
            let (position, chunks) = self.api.queue.output(&self.own_id, self.position, Duration::ZERO).await?;
            if chunks.is_empty() {
                break;
            }
            for chunk in chunks.iter().filter(|chunk| self.is_of_it(chunk)).collect::<Vec<_>>() {
                self.note(chunk);
            }
            self.position = position;
        }
        Ok(())
    }

    fn note(&mut self, chunk: &OutputChunk) {
        self.is_placed &= chunk.at.is_some();
        let begin = chunk.at.unwrap_or(self.end);
        if begin > self.end {
            (self.from, self.end, self.first_position) = (begin, begin, self.position);
        }
        self.end = self.end.max(begin + chunk.bytes.len() as u64);
    }

    /// Reads on until all bytes before `start` are there, or can't come any more: the worker writes the last piece of
    /// an attempt when it settles the lease, some moments after history knows the end.
    async fn survey_to(&mut self, start: u64) -> Result<(), ApiError> {
        const PAUSE: Duration = Duration::from_millis(10);
        const PATIENCE: Duration = Duration::from_secs(5);
        let until = Instant::now() + PATIENCE;
        loop {
            // Asked before the queue is read, so that the reading gets all that was there at that moment.
            let is_last = Instant::now() >= until || self.is_settled().await?;
            self.survey().await?;
            if is_last || self.end >= start || !self.is_from_the_beginning() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads the bytes again, from the first to the last that the survey has found.
    fn into_stream(self) -> impl futures_util::Stream<Item = Result<Bytes, ApiError>> {
        let (position, at) = (self.first_position, self.from);
        futures_util::stream::try_unfold((self, position, at), |(output, mut position, mut at)| async move {
            while at < output.end {
                if output.api.stopping.is_cancelled() {
                    return Err(ApiError::draining());
                }
                let chunks;
                (position, chunks) = output.api.queue.output(&output.own_id, position, Duration::ZERO).await?;
                if chunks.is_empty() {
                    return Err(output.is_gone());
                }
                let mut piece = Vec::new();
                for chunk in chunks.iter().filter(|chunk| output.is_of_it(chunk)) {
                    let begin = chunk.at.unwrap_or(at);
                    let Some(known) = at.checked_sub(begin) else { return Err(output.is_gone()) };
                    let news = chunk.bytes.get(usize::try_from(known).unwrap_or(usize::MAX)..).unwrap_or_default();
                    let wanted = usize::try_from(output.end - at).unwrap_or(usize::MAX).min(news.len());
                    piece.extend_from_slice(&news[..wanted]);
                    at += wanted as u64;
                }
                if !piece.is_empty() {
                    return Ok(Some((Bytes::from(piece), (output, position, at))));
                }
            }
            Ok(None)
        })
    }

    fn is_gone(&self) -> ApiError {
        ApiError::internal(format!("output of job {} left the queue while a client downloaded it", self.own_id))
    }
}

/// The bytes of an answer.
struct OutputFile {
    is_whole: bool,
    queued: Option<QueuedOutput>,
    /// What follows on the queue's bytes.
    tail: Vec<u8>,
}

impl OutputFile {
    fn answer(self, id: &JobId, attempt: u32, stream: Stream) -> Response {
        use futures_util::StreamExt;
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let (extent, ending) = if self.is_whole { ("whole", "") } else { ("tail", "-tail") };
        let length = self.tail.len() as u64 + self.queued.as_ref().map_or(0, |queued| queued.end - queued.from);
        let tail = Bytes::from(self.tail);
        let body = match self.queued {
            Some(queued) => {
                // An error ends the connection before all bytes have come, which the client notices by the length.
                let pieces = queued.into_stream().map(|piece| {
                    piece.map_err(|error| {
                        tracing::warn!(cause = error.cause(), "a download of output broke off");
                        std::io::Error::other(error.detail().to_owned())
                    })
                });
                Body::from_stream(pieces.chain(futures_util::stream::iter([Ok(tail)])))
            }
            None => Body::from(tail),
        };
        // No character of an id needs an escape within the quotes.
        let name = format!("attachment; filename=\"{id}-{attempt}-{stream}{ending}.log\"");
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(EXTENT, HeaderValue::from_static(extent));
        if let Ok(name) = HeaderValue::from_str(&name) {
            headers.insert(header::CONTENT_DISPOSITION, name);
        }
        response
    }
}
