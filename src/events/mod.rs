//! The ports of the event log, from which all history is folded: it gives events back in the order of their appends.
//!
//! Workers and the API hold an [`EventSink`]. The projector, and the API's streams, hold an [`EventSource`].

pub mod codec;
pub mod embedded;
pub mod redis;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::{CategoryEvent, Entry, Event, deserialize_text};

/// A place in the log: everything up to and including one event. Ordered; [`Cursor::START`] is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor {
    /// The first part of a Redis stream id; 0 in the embedded log.
    pub major: u64,
    /// The second part; the row number in the embedded log.
    pub minor: u64,
}

impl Cursor {
    /// The place before the first event.
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
        deserialize_text(deserializer, str::parse)
    }
}

/// The kinds of error between which a caller decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventErrorKind {
    /// The log can't be reached; another try may work.
    Unavailable,
    /// The log is at its cap, or the disk is full: nothing was written.
    Full,
    /// The log holds bytes that can't be read.
    Corrupt,
}

/// The reason for which the log could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EventError {
    /// The kind, by which a caller decides what to do.
    pub kind: EventErrorKind,
    /// With `Corrupt`: the place of the event that can't be read, if it is a single one.
    pub at: Option<Cursor>,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EventError {
    /// Makes an error of this kind. `message` names the thing and the fix.
    pub fn new(kind: EventErrorKind, message: impl Into<String>) -> Self {
        Self { kind, at: None, message: message.into(), source: None }
    }

    /// Adds the place of the event that can't be read.
    pub fn found_at(mut self, at: Cursor) -> Self {
        self.at = Some(at);
        self
    }

    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// How much the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpan {
    /// The place of the last event; [`Cursor::START`] when there never was one.
    pub last: Cursor,
    /// How many events the log holds.
    pub length: u64,
    /// How many events the log may hold.
    pub cap: u64,
}

/// The log, for writers.
#[async_trait]
pub trait EventSink: Send + Sync + 'static {
    /// Appends events in order, durably, all or none. Returns the place of the last.
    ///
    /// # Errors
    /// `Full` when the cap is reached: the API answers 503, a worker waits and holds its leases.
    async fn append(&self, events: &[Event]) -> Result<Cursor, EventError>;

    /// Appends a change of the categories, as [`EventSink::append`] does events of jobs.
    ///
    /// # Errors
    /// Those of [`EventSink::append`].
    async fn append_change(&self, event: &CategoryEvent) -> Result<Cursor, EventError>;
}

/// The log, for readers.
#[async_trait]
pub trait EventSource: Send + Sync + 'static {
    /// Returns up to `limit` entries after `after`, in order. Waits up to `wait` when there is none.
    ///
    /// # Errors
    /// `Corrupt`, with its place, when the first of them can't be read (those before it are returned
    /// first). `Unavailable` when a newer Jobber wrote it: this one can't go on, but a newer one can.
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

    /// How much the log holds.
    async fn span(&self) -> Result<LogSpan, EventError>;

    /// Drops events up to and including `through`, and returns how many. The caller has committed them to history.
    async fn trim(&self, through: Cursor) -> Result<u64, EventError>;

    /// The history that follows this log: `history`, unless the log named another one before. Two
    /// histories that follow one log would each trim what the other still needs.
    async fn owner(&self, history: &str) -> Result<String, EventError>;

    /// How many events [`EventSource::park`] has set aside for people to look at.
    async fn parked(&self) -> Result<u64, EventError>;

    /// Takes an event that can't be read out of the log. Keeps its bytes aside, with the reason,
    /// for people to look at. Changes nothing when the event is gone already.
    async fn park(&self, at: Cursor, reason: &str) -> Result<(), EventError>;
}
