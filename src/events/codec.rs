//! Events as bytes: JSON with a version, readable for ever (see `tests/data/events`).

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::de::Error;
use serde::{Deserialize, Serialize};

use super::{EventError, EventErrorKind};
use crate::domain::{CategoryChange, CategoryEvent, Entry, Event, EventKind, Job, JobHead, Timestamp};

/// The version that [`encode`] and [`encode_change`] write.
pub const VERSION: u32 = 1;

/// The newest version number that a later Jobber may use. Bytes with a greater one are not Jobber's.
const LATER: u32 = 9;

#[derive(Serialize)]
struct Written<'a, E> {
    v: u32,
    #[serde(flatten)]
    event: &'a E,
}

/// Any entry: which one it is shows by the keys that are there.
#[derive(Deserialize)]
#[serde(bound = "J: DeserializeOwned")]
struct Read<J> {
    at: Timestamp,
    #[serde(default)]
    job: Option<J>,
    #[serde(default)]
    kind: Option<EventKind>,
    #[serde(default)]
    category_change: Option<CategoryChange>,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Writes an event of a job.
pub fn encode(event: &Event) -> Vec<u8> {
    serde_json::to_vec(&Written { v: VERSION, event }).expect("an event has only string keys and finite numbers")
}

/// Writes a change of the categories.
pub fn encode_change(event: &CategoryEvent) -> Vec<u8> {
    serde_json::to_vec(&Written { v: VERSION, event }).expect("a change has only string keys and finite numbers")
}

/// Reads the bytes of any version of [`encode`] or [`encode_change`].
///
/// # Errors
/// `Corrupt` when the bytes are no event; `Unavailable` when they are one of a newer Jobber, which can read it.
pub fn decode(bytes: &[u8]) -> Result<Entry, EventError> {
    decode_as::<Job>(bytes)
}

/// As [`decode`], the job without arguments and data.
///
/// # Errors
/// The same.
pub fn decode_without_data(bytes: &[u8]) -> Result<Entry, EventError> {
    decode_as::<JobHead>(bytes)
}

fn decode_as<J: DeserializeOwned + Into<Job>>(bytes: &[u8]) -> Result<Entry, EventError> {
    let corrupt =
        |e: serde_json::Error| EventError::new(EventErrorKind::Corrupt, "an event can't be read").caused_by(e);
    // What `encode` writes begins with its version; looking for it elsewhere costs reading everything twice.
    if bytes.starts_with(b"{\"v\":1,") {
        return entry::<J>(bytes).map_err(corrupt);
    }
    let Version { v } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if v == 0 || v > VERSION + LATER {
        let made_up = format!("an event has format {v}, which no jobber writes");
        return Err(EventError::new(EventErrorKind::Corrupt, made_up));
    }
    if v != VERSION {
        return Err(EventError::new(
            EventErrorKind::Unavailable,
            format!("an event has format {v}, this jobber reads format {VERSION}; run a newer jobber"),
        ));
    }
    entry::<J>(bytes).map_err(corrupt)
}

fn entry<J: DeserializeOwned + Into<Job>>(bytes: &[u8]) -> Result<Entry, serde_json::Error> {
    let Read::<J> { at, job, kind, category_change } = serde_json::from_slice(bytes)?;
    match (job, kind, category_change) {
        (Some(job), Some(kind), None) => Ok(Entry::Job(Event { at, job: Arc::new(job.into()), kind })),
        (None, None, Some(change)) => Ok(Entry::Categories(CategoryEvent { at, change })),
        (None, _, None) => Err(serde_json::Error::missing_field("job")),
        (Some(_), None, None) => Err(serde_json::Error::missing_field("kind")),
        _ => Err(serde_json::Error::custom("both of a job and of the categories")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every kind of event, as the first version wrote it: these files never change and can be read for ever.
    #[test]
    fn events_of_every_version_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/events/v1");
        let mut kinds = std::collections::BTreeSet::new();
        for file in fs_err::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs_err::read(&path).unwrap();
            let entry = decode(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            // A new kind does not compile until it is named here; then its file is missing below.
            let (kind, encoded) = match &entry {
                Entry::Job(event) => match event.kind {
                    EventKind::Submitted
                    | EventKind::AttemptStarted { .. }
                    | EventKind::AttemptWithdrawn { .. }
                    | EventKind::AttemptFinished { .. }
                    | EventKind::Finished { .. }
                    | EventKind::Cancelled { .. }
                    | EventKind::Retried { .. }
                    | EventKind::Removed => (event.key().kind, encode(event)),
                },
                Entry::Categories(event) => match event.change {
                    CategoryChange::Added { .. }
                    | CategoryChange::Edited { .. }
                    | CategoryChange::Removed { .. }
                    | CategoryChange::ThresholdSet { .. } => (event.change.kind(), encode_change(event)),
                },
            };
            let (read, written): (serde_json::Value, serde_json::Value) =
                (serde_json::from_slice(&bytes).unwrap(), serde_json::from_slice(&encoded).unwrap());
            assert_eq!(read, written, "{}", path.display());
            kinds.insert(kind);
        }
        let all = [
            "attempt_finished",
            "attempt_started",
            "attempt_withdrawn",
            "cancelled",
            "category_added",
            "category_edited",
            "category_removed",
            "category_threshold_set",
            "finished",
            "removed",
            "retried",
            "submitted",
        ];
        assert_eq!(Vec::from_iter(kinds), all);
    }

    #[test]
    fn what_is_no_event_is_told_from_an_event_of_a_newer_jobber() {
        assert_eq!(decode(b"{}").unwrap_err().kind, EventErrorKind::Corrupt);
        assert_eq!(decode(br#"{"v":1,"at":"today"}"#).unwrap_err().kind, EventErrorKind::Corrupt);
        let both = br#"{"v":1,"at":"2026-11-24T08:00:00Z","kind":{"type":"removed"},"category_change":{"type":"removed","id":"a"}}"#;
        assert_eq!(decode(both).unwrap_err().kind, EventErrorKind::Corrupt);
        for made_up in [&br#"{"v":0,"what":"ever"}"#[..], br#"{"v":99}"#, br#"{"v":4294967295}"#, br#"{"v":-1}"#] {
            assert_eq!(decode(made_up).unwrap_err().kind, EventErrorKind::Corrupt);
        }
        let newer = decode(br#"{"v":2,"what":"ever"}"#).unwrap_err();
        assert_eq!(newer.kind, EventErrorKind::Unavailable);
        assert!(newer.to_string().contains("run a newer jobber"), "{newer}");
    }
}
