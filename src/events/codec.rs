//! Events as bytes: JSON with a version, readable for ever (see `tests/data/events`).
//!
//! Version 2 writes a job's header into every event and its body beside it where the event brings it. Version 1 had all of
//! it within the job, in every event; it is read as an event that brings the body.

use std::sync::Arc;

use serde::de::{DeserializeOwned, Error, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{EventError, EventErrorKind};
use crate::domain::{CategoryChange, CategoryEvent, Entry, Event, EventKind, Job, JobBody, Timestamp};

/// The version that [`encode`] and [`encode_change`] write.
pub const VERSION: u32 = 2;

/// The newest version number that a later Jobber may use. Bytes with a greater one are not Jobber's.
const LATER: u32 = 9;

#[derive(Serialize)]
struct Written<'a, E> {
    v: u32,
    #[serde(flatten)]
    event: &'a E,
}

/// Any entry: which one it is shows by the keys that are there. `B` is [`JobBody`], or passes it over.
#[derive(Deserialize)]
#[serde(bound = "B: DeserializeOwned")]
struct Read<B> {
    at: Timestamp,
    #[serde(default)]
    job: Option<Job>,
    #[serde(default)]
    kind: Option<EventKind>,
    #[serde(default)]
    body: Option<B>,
    #[serde(default)]
    category_change: Option<CategoryChange>,
}

/// Where version 1 has the job's body.
#[derive(Deserialize)]
struct Within<'b> {
    #[serde(borrow)]
    job: &'b RawValue,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Writes an event of a job.
pub fn encode(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512 + event.body.as_ref().map_or(0, |body| body.as_str().len()));
    serde_json::to_writer(&mut bytes, &Written { v: VERSION, event })
        .expect("an event has only string keys and finite numbers");
    bytes
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
    if version(bytes)? > 1 {
        return entry::<JobBody>(bytes, Some).map_err(corrupt);
    }
    let mut entry = entry::<IgnoredAny>(bytes, |_| None).map_err(corrupt)?;
    if let Entry::Job(event) = &mut entry {
        let within: Within<'_> = serde_json::from_slice(bytes).map_err(corrupt)?;
        event.body = Some(JobBody::within_job(within.job.get().as_bytes()).map_err(corrupt)?);
    }
    Ok(entry)
}

/// As [`decode`], without the job's body: it is passed over, and takes no memory.
///
/// # Errors
/// The same.
pub fn decode_without_body(bytes: &[u8]) -> Result<Entry, EventError> {
    version(bytes)?;
    entry::<IgnoredAny>(bytes, |_| None).map_err(corrupt)
}

fn corrupt(error: serde_json::Error) -> EventError {
    EventError::new(EventErrorKind::Corrupt, "an event can't be read").caused_by(error)
}

/// The version of an event, if this Jobber reads it.
fn version(bytes: &[u8]) -> Result<u32, EventError> {
    // What `encode` writes begins with its version; looking for it elsewhere costs reading everything twice.
    for (begins, v) in [(b"{\"v\":2,", 2), (b"{\"v\":1,", 1)] {
        if bytes.starts_with(begins) {
            return Ok(v);
        }
    }
    let Version { v } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if v == 0 || v > VERSION + LATER {
        let made_up = format!("an event has format {v}, which no jobber writes");
        return Err(EventError::new(EventErrorKind::Corrupt, made_up));
    }
    if v > VERSION {
        return Err(EventError::new(
            EventErrorKind::Unavailable,
            format!("an event has format {v}, this jobber reads format {VERSION}; run a newer jobber"),
        ));
    }
    Ok(v)
}

fn entry<B: DeserializeOwned>(bytes: &[u8], keep: fn(B) -> Option<JobBody>) -> Result<Entry, serde_json::Error> {
    let Read::<B> { at, job, kind, body, category_change } = serde_json::from_slice(bytes)?;
    match (job, kind, category_change) {
        (Some(job), Some(kind), None) => {
            Ok(Entry::Job(Event { at, job: Arc::new(job), kind, body: body.and_then(keep) }))
        }
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

    /// The JSON that this version writes of an event that `v` wrote: version 1 had the body within the job.
    fn as_written_now(v: u32, mut json: serde_json::Value) -> serde_json::Value {
        if v == 1
            && let Some(job) = json.get_mut("job").and_then(serde_json::Value::as_object_mut)
        {
            let within = ["arguments", "data"].map(|name| job.remove(name).map(|value| (name.to_owned(), value)));
            json["body"] = within.into_iter().flatten().collect::<serde_json::Map<_, _>>().into();
        }
        json["v"] = VERSION.into();
        json
    }

    /// Every kind of event, as each version wrote it: these files never change and can be read for ever.
    #[test]
    fn events_of_every_version_can_be_read() {
        for v in 1..=VERSION {
            events_of_version_can_be_read(v);
        }
    }

    fn events_of_version_can_be_read(v: u32) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/events/v{v}"));
        let mut kinds = std::collections::BTreeSet::new();
        for file in fs_err::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs_err::read(&path).unwrap();
            let entry = decode(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            match (decode_without_body(&bytes).unwrap(), &entry) {
                (Entry::Job(bare), Entry::Job(event)) => assert_eq!(bare, Event { body: None, ..event.clone() }),
                (bare, entry) => assert_eq!(bare, *entry),
            }
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
            assert_eq!(as_written_now(v, read), written, "{}", path.display());
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
        let newer = decode(br#"{"v":3,"what":"ever"}"#).unwrap_err();
        assert_eq!(newer.kind, EventErrorKind::Unavailable);
        assert!(newer.to_string().contains("run a newer jobber"), "{newer}");
    }
}
