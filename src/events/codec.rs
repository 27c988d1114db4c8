//! Events as bytes: JSON with a version, readable for ever (see `tests/data/events`).

use serde::{Deserialize, Serialize};

use super::{EventError, EventErrorKind};
use crate::domain::Event;

/// The version that [`encode`] writes.
pub const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Writes an event.
pub fn encode(event: &Event) -> Vec<u8> {
    serde_json::to_vec(&Written { v: VERSION, event }).expect("an event has only string keys and finite numbers")
}

/// Reads what any version of [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are no event; `Unavailable` when they are one of a newer Jobber, which can read it.
pub fn decode(bytes: &[u8]) -> Result<Event, EventError> {
    let corrupt =
        |e: serde_json::Error| EventError::new(EventErrorKind::Corrupt, "an event can't be read").caused_by(e);
    // What `encode` writes begins with its version; looking for it elsewhere costs reading everything twice.
    if bytes.starts_with(b"{\"v\":1,") {
        return serde_json::from_slice(bytes).map_err(corrupt);
    }
    let Version { v } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if v != VERSION {
        return Err(EventError::new(
            EventErrorKind::Unavailable,
            format!("an event has format {v}, this jobber reads format {VERSION}; run a newer jobber"),
        ));
    }
    serde_json::from_slice(bytes).map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::EventKind;

    /// Every kind of event, as the first version wrote it: these files never change and can be read for ever.
    #[test]
    fn events_of_every_version_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/events/v1");
        let mut kinds = std::collections::BTreeSet::new();
        for file in fs_err::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs_err::read(&path).unwrap();
            let event = decode(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let (read, written): (serde_json::Value, serde_json::Value) =
                (serde_json::from_slice(&bytes).unwrap(), serde_json::from_slice(&encode(&event)).unwrap());
            assert_eq!(read, written, "{}", path.display());
            kinds.insert(event.key().kind);
            // A new kind does not compile until it is named here; then its file is missing below.
            match event.kind {
                EventKind::Submitted
                | EventKind::AttemptStarted { .. }
                | EventKind::AttemptFinished { .. }
                | EventKind::Finished { .. }
                | EventKind::Cancelled { .. }
                | EventKind::Retried { .. }
                | EventKind::Removed => {}
            }
        }
        let all = ["attempt_finished", "attempt_started", "cancelled", "finished", "removed", "retried", "submitted"];
        assert_eq!(Vec::from_iter(kinds), all);
    }

    #[test]
    fn what_is_no_event_is_told_from_an_event_of_a_newer_jobber() {
        assert_eq!(decode(b"{}").unwrap_err().kind, EventErrorKind::Corrupt);
        assert_eq!(decode(br#"{"v":1,"at":"today"}"#).unwrap_err().kind, EventErrorKind::Corrupt);
        let newer = decode(br#"{"v":2,"what":"ever"}"#).unwrap_err();
        assert_eq!(newer.kind, EventErrorKind::Unavailable);
        assert!(newer.to_string().contains("run a newer jobber"), "{newer}");
    }
}
