//! Bounds the memory that large request bodies and their values take together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::ApiError;

/// The memory for large bodies and their values, in units of a KiB.
pub(super) struct BodyRoom(Arc<Semaphore>);

impl BodyRoom {
    /// The whole room, 256 MiB. A single body that needs more gets all of it.
    const ALL: usize = (256 << 20) / Self::UNIT;
    const UNIT: usize = 1024;
    /// The size of a body up to which it takes no room, in bytes. The number of connections bounds those.
    pub(super) const SMALL: usize = 64 << 10;

    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(Self::ALL)))
    }

    /// Reserves room for `bytes` bytes, if there is enough now. It is free again when the permit is dropped; `None`
    /// for a body that needs none.
    ///
    /// # Errors
    /// 503 when other bodies have the room.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if bytes <= Self::SMALL {
            return Ok(None);
        }
        let units = u32::try_from(bytes.div_ceil(Self::UNIT).min(Self::ALL)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(units).map(Some).map_err(|_| {
            ApiError::busy("too_much_at_once", "other large requests are being taken at this moment; try again")
        })
    }
}

/// Estimates how much memory this JSON takes as a tree, from its signs outside of strings.
pub(super) fn weight(json: &[u8]) -> usize {
    const OBJECT: usize = 512;
    const ARRAY: usize = 128;
    const MEMBER: usize = 96;
    let (mut weight, mut is_text, mut is_escaped) = (2 * json.len(), false, false);
    for byte in json {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => is_text = !is_text,
            (false, b'{') => weight += OBJECT,
            (false, b'[') => weight += ARRAY,
            (false, b',') => weight += MEMBER,
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn signs_in_texts_weigh_nothing() {
        assert_eq!(weight(br#""{[,\"{[,""#), 2 * 10);
        assert_eq!(weight(br#"[{"a":0},{"a":0}]"#), 2 * 17 + 128 + 2 * 512 + 96);
        assert_eq!(weight(br#"["\\",{}]"#), 2 * 9 + 128 + 96 + 512);
    }

    #[test]
    fn there_is_room_for_one_that_weighs_more_than_all() {
        let room = BodyRoom::new();
        let all = room.reserve(usize::MAX / 2).unwrap();
        assert_eq!(room.reserve(1 << 20).unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(room.reserve(1000).unwrap().is_none(), "small ones need none");
        drop(all);
        assert!(room.reserve(1 << 20).is_ok());
    }
}
