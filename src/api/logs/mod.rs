//! Streams a job's output as it comes.
//!
//! While an attempt runs, its output comes from the queue, piece by piece. When it has ended, history
//! has the tail of each stream, which replaces pieces that never came through. [`transcript`] merges
//! the two, so that the client gets nothing twice, and a mark where bytes are missing. This file reads
//! from both. What it holds is bounded: it reads on only when the client has taken what was read.

mod download;
mod transcript;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::jobs::view::JobSnapshot;
use super::problem::ApiError;
use super::query::{self, Params, Segment};
use super::sse;
use super::state::Api;
use crate::domain::{JobId, JobState, Stream};
use crate::queue::{OutputChunk, QueuedJob};
pub(super) use download::{stderr, stdout};
use transcript::{Need, Read, Transcript, TranscriptEvent, Wanted};

/// The time between two looks at state and progress while there is no news.
const TICK: Duration = Duration::from_millis(250);
/// The time between two looks at history, in case news can't get through.
const RARELY: Duration = Duration::from_secs(2);
/// How long the stream waits for history to know the end of a job.
const PATIENCE: Duration = Duration::from_secs(30);
/// The id of the last event. A client that reconnects with it learns that there is no more.
const END: &str = "end";

/// `GET /api/v1/jobs/{id}/logs`: the output of a job so far and, unless `follow=false`, until its end.
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    segment: Segment,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let id = JobId::parse(&segment.0)?;
    let follow = params.flag("follow")?.unwrap_or(true);
    let stream = params.with("stream", |text| match text {
        "stdout" => Ok(Stream::Stdout),
        "stderr" => Ok(Stream::Stderr),
        _ => Err(format!("{text:?} is neither stdout nor stderr")),
    })?;
    let attempt = params.number("attempt", 1, u64::from(u32::MAX))?.and_then(|n| u32::try_from(n).ok());
    params.done()?;
    let last = query::header(&headers, "last-event-id")?;
    let snapshot = api.brief_snapshot(&id).await?;
    if last == Some(END) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (out, events) = mpsc::channel(sse::WAITING);
    let transcript = Transcript::new(Wanted { stream, attempt }, last.and_then(|id| id.parse().ok()));
    let (id, own_id) = (snapshot.pinned(), snapshot.own_id.clone());
    let settled = snapshot.settled;
    let streamer = LogStreamer { api: api.clone(), id, own_id, out, transcript, position: 0, settled };
    api.tasks.spawn(async move {
        let (stopping, out) = (streamer.api.stopping.clone(), streamer.out.clone());
        let streaming =
            async { if follow { streamer.follow(snapshot).await } else { streamer.send_so_far(snapshot).await } };
        tokio::select! {
            () = stopping.cancelled() => {}
            () = out.closed() => {}
            ended = streaming => if let Err(error) = ended {
                tracing::warn!(cause = error.cause(), "a log stream broke off");
            }
        }
    });
    Ok(sse::answer("logs", events))
}

/// Streams the output of one job to one client.
struct LogStreamer {
    api: Arc<Api>,
    /// The id at which history keeps finding this very job.
    id: JobId,
    /// The id under which the queue and the event log know the job.
    own_id: JobId,
    out: mpsc::Sender<Event>,
    transcript: Transcript,
    /// The place up to which the queue's output has been read.
    position: u64,
    /// Whether the job has ended and history knows how. Then the tails in history are enough if the queue is away.
    settled: bool,
}

impl LogStreamer {
    /// Sends the output so far, and ends.
    async fn send_so_far(mut self, snapshot: JobSnapshot) -> Result<(), ApiError> {
        /// How many reads to make at most. Otherwise a job that writes faster than its client reads
        /// would never come to an end.
        const READS: usize = 1024;
        self.send_tails(&snapshot, false).await?;
        for _ in 0..READS {
            if !self.read_on().await? {
                break;
            }
            self.transcript.absorb(&snapshot.view.attempts, Read::Some, true);
            self.send().await;
        }
        self.transcript.absorb(&snapshot.view.attempts, Read::Last, true);
        self.transcript.state(snapshot.view.state);
        self.send().await;
        Ok(())
    }

    /// Sends output until the job has ended.
    async fn follow(mut self, mut snapshot: JobSnapshot) -> Result<(), ApiError> {
        let api = self.api.clone();
        let (id, own_id) = (self.id.clone(), self.own_id.clone());
        let mut watch = api.feed.watch(&own_id).await;
        self.send_tails(&snapshot, false).await?;
        let mut looked = Instant::now();
        loop {
            if snapshot.view.state.is_final() {
                return self.finish(snapshot).await;
            }
            self.transcript.state(snapshot.view.state);
            self.transcript.progress(snapshot.view.progress.as_ref());
            self.send().await;
            let moved_to = tokio::select! {
                output = self.output() => {
                    self.add(output?);
                    None
                }
                cursor = watch.changed() => Some(cursor),
            };
            let stuck = self.transcript.flush();
            self.send().await;
            let behind = match moved_to {
                Some(cursor) => Some(cursor),
                None if stuck => Some(api.source.span().await?.last),
                None => None,
            };
            if let Some(cursor) = behind {
                api.folded(cursor, Instant::now() + PATIENCE).await;
            }
            if behind.is_some() || looked.elapsed() >= RARELY || self.moved(&mut snapshot).await? {
                snapshot = api.brief_snapshot(&id).await?;
                looked = Instant::now();
                self.send_tails(&snapshot, stuck).await?;
            }
        }
    }

    /// Sends the tails that history knows, and before them the queue's pieces of the attempts that have ended.
    async fn send_tails(&mut self, snapshot: &JobSnapshot, caught_up: bool) -> Result<(), ApiError> {
        /// The time between two looks for the last piece of an attempt. The worker writes it when
        /// it settles the lease.
        const PAUSE: Duration = Duration::from_millis(10);
        let until = Instant::now() + PATIENCE;
        let mut read = Read::Some;
        loop {
            let need = self.transcript.absorb(&snapshot.view.attempts, read, caught_up);
            self.send().await;
            match need {
                Need::Nothing | Need::History => return Ok(()),
                Need::More => read = if self.read_on().await? { Read::Some } else { Read::All },
                Need::Rest(attempt) => {
                    // Asked before the queue is read, so that the read gets everything that was there at that moment.
                    let is_last = Instant::now() >= until || self.is_settled(attempt).await?;
                    if self.read_on().await? {
                        read = Read::Some;
                    } else if is_last {
                        read = Read::Last;
                    } else {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Whether the queue has finished with this attempt.
    async fn is_settled(&self, attempt: u32) -> Result<bool, ApiError> {
        let queued = match self.queued().await {
            Err(_) if self.settled => return Ok(true),
            queued => queued?,
        };
        Ok(queued.is_none_or(|job| job.state != JobState::Active || job.attempts_started > attempt))
    }

    /// Whether the job's state in the queue differs from the one in `snapshot`. Also updates the progress in
    /// `snapshot`.
    async fn moved(&self, snapshot: &mut JobSnapshot) -> Result<bool, ApiError> {
        let Some(queued) = self.queued().await? else { return Ok(true) };
        // Another job with the same id has taken its place.
        if queued.job.submitted_at != snapshot.view.submitted_at {
            return Ok(true);
        }
        let moved = queued.state != snapshot.view.state;
        snapshot.view.progress = queued.progress;
        Ok(moved)
    }

    /// Sends the rest and the final state, once history knows all of it.
    async fn finish(mut self, mut snapshot: JobSnapshot) -> Result<(), ApiError> {
        if !snapshot.settled {
            let written = self.api.source.span().await?.last;
            self.api.folded(written, Instant::now() + PATIENCE).await;
            snapshot = self.api.brief_snapshot(&self.id).await?;
        }
        self.settled = snapshot.settled;
        self.send_tails(&snapshot, true).await?;
        // History has no tail of an attempt that was lost with its worker, so the queue's pieces are sent.
        while self.read_on().await? {
            self.transcript.absorb(&snapshot.view.attempts, Read::Some, true);
            self.send().await;
        }
        self.transcript.absorb(&snapshot.view.attempts, Read::Last, true);
        // The job may have reported its last progress since the last tick.
        if let Ok(Some(queued)) = self.queued().await {
            self.transcript.progress(queued.progress.as_ref());
        }
        self.transcript.state(snapshot.view.state);
        self.send().await;
        Ok(())
    }

    /// Finds the job in the queue.
    async fn queued(&self) -> Result<Option<QueuedJob>, ApiError> {
        Ok(self.api.queue.standing(std::slice::from_ref(&self.own_id)).await?.pop().flatten())
    }

    /// Waits for the next pieces. Returns none when a tick has passed without any.
    async fn output(&self) -> Result<(u64, Vec<OutputChunk>), ApiError> {
        let tick = Instant::now() + TICK;
        let output = self.api.queue.output(&self.own_id, self.position, TICK).await?;
        if output.1.is_empty() {
            // The queue answers at once about a job that writes no more, or that it does not know.
            tokio::time::sleep_until(tick).await;
        }
        Ok(output)
    }

    fn add(&mut self, (position, chunks): (u64, Vec<OutputChunk>)) {
        self.position = position;
        self.transcript.add(chunks);
    }

    /// Takes the queue's next pieces. Returns false when it has no more by now.
    async fn read_on(&mut self) -> Result<bool, ApiError> {
        let output = match self.api.queue.output(&self.own_id, self.position, Duration::ZERO).await {
            Err(error) if self.settled && error.is_retryable() => return Ok(false),
            output => output?,
        };
        let has_some = !output.1.is_empty();
        self.add(output);
        Ok(has_some)
    }

    /// Sends what the transcript has ready. The task that owns the stream notices when the client has gone.
    async fn send(&mut self) {
        for TranscriptEvent { event, position } in self.transcript.take_events() {
            let ended = matches!(&event, crate::wire::LogEvent::State { state } if state.is_final());
            let id = if ended { END.to_owned() } else { position.to_string() };
            let data = serde_json::to_string(&event).expect("a log event has only strings and finite numbers");
            if self.out.send(Event::default().id(id).event(transcript::name(&event)).data(data)).await.is_err() {
                return;
            }
        }
    }
}
