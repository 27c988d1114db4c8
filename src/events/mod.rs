//! The ports of the event log, from which all history is folded: it gives events back in the order of their appends.
//!
//! Workers and the API hold an [`EventSink`]; the projector and those who watch hold an [`EventSource`].

pub mod codec;
pub mod embedded;
pub mod redis;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::{CategoryEvent, Entry, Event};

/// A place in the log: everything up to and including one event. Ordered; [`Cursor::START`] is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor {
    /// The first part of a Redis stream id; 0 in the embedded log.
    pub major: u64,
    /// The second part; the row number in the embedded log.
    pub minor: u64,
}

impl Cursor {
    /// Before the first event.
    pub const START: Cursor = Cursor { major: 0, minor: 0 };
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.minor)
    }
}

impl std::str::FromStr for Cursor {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('-')
            .and_then(|(a, b)| Some(Cursor { major: a.parse().ok()?, minor: b.parse().ok()? }))
            .ok_or_else(|| format!("{text:?} is not a cursor such as 0-42"))
    }
}

impl Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a caller can decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventErrorKind {
    /// The log can't be reached; another try may work.
    Unavailable,
    /// The log is at its cap, or the disk is full: nothing was written.
    Full,
    /// What is stored can't be read.
    Corrupt,
}

/// Why the log could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EventError {
    /// What a caller can decide on.
    pub kind: EventErrorKind,
    /// With `Corrupt`: the one event that can't be read, when it is one.
    pub at: Option<Cursor>,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EventError {
    /// An error of this kind; `message` names the thing and the fix.
    pub fn new(kind: EventErrorKind, message: impl Into<String>) -> Self {
        Self { kind, at: None, message: message.into(), source: None }
    }

    /// Adds which event can't be read.
    pub fn found_at(mut self, at: Cursor) -> Self {
        self.at = Some(at);
        self
    }

    /// Adds what caused it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// How much the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpan {
    /// The last event; [`Cursor::START`] when there never was one.
    pub last: Cursor,
    /// How many events it holds.
    pub length: u64,
    /// How many it may hold.
    pub cap: u64,
}

/// The writers' side.
#[async_trait]
pub trait EventSink: Send + Sync + 'static {
    /// Appends in order, durably, all or none; answers the place of the last.
    ///
    /// # Errors
    /// `Full` when the cap is reached: the API answers 503, a worker waits and holds its leases.
    async fn append(&self, events: &[Event]) -> Result<Cursor, EventError>;

    /// Appends a change of the categories, as [`EventSink::append`] does events of jobs.
    ///
    /// # Errors
    /// The same.
    async fn append_change(&self, event: &CategoryEvent) -> Result<Cursor, EventError>;
}

/// The readers' side.
#[async_trait]
pub trait EventSource: Send + Sync + 'static {
    /// Up to `limit` entries after `after`, in order; waits up to `wait` when there is none.
    ///
    /// # Errors
    /// `Corrupt`, with its place, when the first of them can't be read (those before it are answered first).
    /// `Unavailable` when a newer Jobber wrote it: this one can't go on, a newer one can.
    async fn read(&self, after: Cursor, limit: usize, wait: Duration) -> Result<Vec<(Cursor, Entry)>, EventError>;

    /// As [`EventSource::read`], without the jobs' bodies: for the many readers that only want to know what happened.
    ///
    /// # Errors
    /// The same.
    async fn read_without_bodies(
        &self,
        after: Cursor,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<(Cursor, Entry)>, EventError>;

    /// How much it holds.
    async fn span(&self) -> Result<LogSpan, EventError>;

    /// Drops events up to and including `through`; answers how many. The caller has committed them elsewhere.
    async fn trim(&self, through: Cursor) -> Result<u64, EventError>;

    /// The history that this log is folded into: `history`, unless another was named before. Two that follow one log would
    /// each trim what the other still needs.
    async fn owner(&self, history: &str) -> Result<String, EventError>;

    /// How many events were set aside by [`EventSource::park`] and are there to be looked at.
    async fn parked(&self) -> Result<u64, EventError>;

    /// Takes an event that can't be read out of the log and keeps its bytes aside, with the reason, for people to look
    /// at. Changes nothing when it is not there any more.
    async fn park(&self, at: Cursor, reason: &str) -> Result<(), EventError>;
}
