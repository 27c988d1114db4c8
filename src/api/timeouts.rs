//! Limits how long a connection may keep its place. The HTTP library's own timer takes a connection
//! that waits between two requests for one with a slow head, so this module tells the two apart.
//!
//! ```text
//!   idle ──first byte of a head──> head ──head complete──> busy ──body of the answer gone──> idle
//! ```

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The phase of a connection, and when it began.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle(Instant),
    Head(Instant),
    Busy,
}

/// Follows the phases of one connection.
#[derive(Clone)]
pub(super) struct Watch {
    phase: Arc<Mutex<Phase>>,
    idle: Duration,
    head: Duration,
}

impl Watch {
    /// Starts with a new connection. It may stay `idle` without a request, and take `head` for the head of one.
    pub(super) fn new(idle: Duration, head: Duration) -> Self {
        Self { phase: Arc::new(Mutex::new(Phase::Idle(Instant::now()))), idle, head }
    }

    fn update(&self, change: impl FnOnce(&mut Phase)) {
        // A phase is whole at any moment, even if a thread panicked while it held the lock.
        change(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that the head of a request is complete. The request ends when the returned value is dropped.
    pub(super) fn request(&self) -> Busy {
        self.update(|phase| *phase = Phase::Busy);
        Busy(self.clone())
    }

    /// Since when the connection has waited without a whole request. `None` while the server answers
    /// one. The flag says whether a part of a head has come; it decides first when two are compared.
    pub(super) fn unanswered(&self) -> Option<(bool, Instant)> {
        match *self.phase.lock().unwrap_or_else(PoisonError::into_inner) {
            Phase::Idle(since) => Some((false, since)),
            Phase::Head(since) => Some((true, since)),
            Phase::Busy => None,
        }
    }

    /// Returns when the connection has used up its time. It looks from time to time, so it may be
    /// late by up to a second.
    pub(super) async fn expired(&self) {
        let step = (self.idle.min(self.head) / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            tokio::time::sleep(step).await;
            let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            let late = match phase {
                Phase::Idle(since) => since.elapsed() > self.idle,
                Phase::Head(since) => since.elapsed() > self.head,
                Phase::Busy => false,
            };
            if late {
                return;
            }
        }
    }
}

/// Marks that the server answers a request, until this is dropped.
pub(super) struct Busy(Watch);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.update(|phase| *phase = Phase::Idle(Instant::now()));
    }
}

/// A stream that notes the first byte of a head.
pub(super) struct Watched<S> {
    stream: S,
    watch: Watch,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, watch: Watch) -> Self {
        Self { stream, watch }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.update(|phase| {
                if let Phase::Idle(_) = phase {
                    *phase = Phase::Head(Instant::now());
                }
            });
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer. The connection counts as busy until the body has gone out.
pub(super) struct AnswerBody {
    pub(super) body: Body,
    pub(super) _busy: Busy,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
