//! Keeps the event log short. Trims what is committed, except for the last events, which clients may still watch.

use std::collections::VecDeque;
use std::time::Duration;

use crate::events::{Cursor, EventError, EventSource};

/// Knows places up to which the log may be trimmed. A cursor does not tell a number of events, so
/// the trimmer notes some places as they pass.
pub(super) struct Trimmer {
    /// How many events stay in the log before the committed cursor.
    keep: usize,
    /// Places that have passed, oldest first, each with the number of events since the place before.
    passed: VecDeque<(Cursor, usize)>,
    /// How many events there were since the oldest of them.
    since_oldest: usize,
}

impl Trimmer {
    pub(super) fn new(keep: usize, position: Cursor) -> Self {
        Self { keep, passed: [(position, 0)].into(), since_oldest: 0 }
    }

    /// The least number of events that a trim is worth.
    fn step(&self) -> usize {
        (self.keep / 10).max(1)
    }

    /// Notes that `count` events up to `through` have been committed.
    pub(super) fn note(&mut self, through: Cursor, count: usize) {
        let step = self.step();
        self.since_oldest += count;
        let is_extendable = self.passed.len() > 1;
        match self.passed.back_mut() {
            // One place for each tenth of `keep` is enough.
            Some((place, counted)) if is_extendable && *counted + count <= step => {
                *place = through;
                *counted += count;
            }
            _ => self.passed.push_back((through, count)),
        }
    }

    /// The place up to which to trim the log now, if that is worth it.
    pub(super) fn due(&mut self) -> Option<Cursor> {
        let mut through = None;
        while let (Some((oldest, _)), Some((_, count))) = (self.passed.front(), self.passed.get(1)) {
            if self.since_oldest < self.keep {
                break;
            }
            through = Some(*oldest);
            self.since_oldest -= count;
            self.passed.pop_front();
        }
        through
    }
}

/// Trims what an earlier projector has left: all but the last `keep` events, and nothing after `position`.
pub(super) async fn trim_leftovers(
    source: &dyn EventSource,
    keep: usize,
    position: Cursor,
    step: usize,
) -> Result<(), EventError> {
    let length = source.span().await?.length;
    let mut excess = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(keep);
    while excess > 0 {
        let oldest = source.read_without_bodies(Cursor::START, excess.min(step), Duration::ZERO).await?;
        let Some((through, _)) = oldest.iter().rev().find(|(at, _)| *at <= position) else { break };
        source.trim(*through).await?;
        excess = excess.saturating_sub(oldest.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minor: u64) -> Cursor {
        Cursor { major: 0, minor }
    }

    #[test]
    fn the_last_events_are_kept() {
        let mut trimmer = Trimmer::new(100, at(0));
        let mut trimmed = 0;
        for i in 1..=1000u64 {
            trimmer.note(at(i), 1);
            if let Some(through) = trimmer.due() {
                trimmed = through.minor;
                assert!(i - trimmed >= 100, "at {i} it trimmed through {trimmed}");
            }
        }
        assert!((880..=900).contains(&trimmed), "{trimmed}");
    }

    #[test]
    fn large_batches_are_trimmed_whole() {
        let mut trimmer = Trimmer::new(100, at(0));
        trimmer.note(at(500), 500);
        assert_eq!(trimmer.due(), Some(at(0)));
        trimmer.note(at(1000), 500);
        assert_eq!(trimmer.due(), Some(at(500)));
        assert_eq!(trimmer.due(), None);
    }
}
