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
    let Version { v } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if v != VERSION {
        return Err(EventError::new(
            EventErrorKind::Unavailable,
            format!("an event has format {v}, this jobber reads format {VERSION}; run a newer jobber"),
        ));
    }
    serde_json::from_slice(bytes).map_err(corrupt)
}
